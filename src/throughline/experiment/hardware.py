"""What computes, and how fast: published cards, and this machine by a matrix product of a fraction of a second.

    seconds of a phase =   FLOPs / (peak x share)
                         + max(decoding FLOPs / (peak x share), bytes read / (bandwidth x share))
                         + steps x layers x seconds a layer

All constants to calibrate stand here. Those of cards are assumptions of ours until `throughline bench gpu` has
measured them; those of a CPU come of the demo (`CPU`).
"""

import re
import timeit
from dataclasses import dataclass

import torch

from throughline.experiment.config import RunConfig
from throughline.experiment.environment import usable_memory
from throughline.experiment.workload import TRAINING, Phase

GB = 10**9
THIS_MACHINE = "this machine"
FITS = 0.95
"""Of a card's memory: the rest is the driver's."""


@dataclass(frozen=True)
class Shares:
    """What of the peak is reached by training, by prompts and by decoding, of the bandwidth by decoding, and the
    seconds that a decoding step spends in each layer of the decoder whatever its size (Python, kernel launches)."""

    training: float
    prompts: float
    decoding: float
    bandwidth: float
    seconds_a_layer: float
    starting: float
    """Seconds until a worker can begin: imports, loading."""


# Assumptions of ours, measured on no card. Training: LoRA of 7-8B decoders on text reaches about 0.4 of an H100's peak
# in published tables (NeMo AutoModel: 14,110 tokens/s of Qwen2.5-7B at 4 x 7.6 GFLOP each); images and short rows less.
# A decoder layer of eager PyTorch launches a few dozen kernels.
GPU = Shares(training=0.35, prompts=0.45, decoding=0.25, bandwidth=0.6, seconds_a_layer=6e-4, starting=60.0)

# Calibrated by `python bench/cost_model.py RUN` on three demos of 181 to 187 s, two workers of one thread each, on two
# idle cores of 95 to 102 GFLOP/s in float32 products: the means of the three.
CPU = Shares(training=0.48, prompts=0.48, decoding=0.24, bandwidth=1.0, seconds_a_layer=7.5e-4, starting=8.0)


@dataclass(frozen=True)
class Hardware:
    """`flops` a second of each worker at the peak, its `bandwidth` in bytes a second (None: never the limit), `memory`
    in bytes of all `workers` together; `note` says where the numbers come from."""

    name: str
    flops: float
    bandwidth: float | None
    memory: int | None
    shares: Shares
    note: str
    workers: int = 1

    def seconds(self, phase: Phase, layers: int) -> float:
        """How long one worker takes over a phase of a model with so many decoder layers."""
        shares = self.shares
        dense = shares.training if phase.name == TRAINING else shares.prompts
        reading = phase.bytes_read / (self.bandwidth * shares.bandwidth) if self.bandwidth else 0.0
        return (
            phase.flops / (self.flops * dense)
            + max(phase.decoding_flops / (self.flops * shares.decoding), reading)
            + phase.steps * layers * shares.seconds_a_layer
        )

    def holds(self, need: int) -> bool | None:
        """Whether every worker's peak of `need` bytes fits; None where the memory is not known."""
        return None if self.memory is None else need * self.workers <= self.memory * FITS


# Dense FLOP/s in bfloat16 and in float32 (no sparsity, no TF32), bytes a second, memory: NVIDIA's data sheets, the SXM
# modules. A name begins with the word by which a driver knows the card.
DATA_SHEETS = (
    ("A100-80G", 312e12, 19.5e12, 2.039e12, 80 * GB),
    ("H100", 989e12, 67e12, 3.35e12, 80 * GB),
    ("H200", 989e12, 67e12, 4.8e12, 141 * GB),
)


def cards(config: RunConfig) -> tuple[Hardware, ...]:
    """The cards of the table under this config's arithmetic, one unit at a time."""
    halved = config.model.dtype == "bfloat16" or config.training.stage.autocast
    kind = "bf16" if halved else "float32"
    note = f"dense {kind} peak of the data sheet; shares reached are assumed, not measured"
    return tuple(
        Hardware(name, bfloat16 if halved else float32, bandwidth, memory, GPU, note)
        for name, bfloat16, float32, bandwidth, memory in DATA_SHEETS
    )


def known_card(name: str, config: RunConfig) -> Hardware | None:
    """The card of the table that a driver calls `name`, e.g. `NVIDIA H100 80GB HBM3`."""
    words = re.split(r"[\s-]+", name.upper())
    return next((card for card in cards(config) if card.name.partition("-")[0] in words), None)


def this_machine(config: RunConfig) -> Hardware | str:
    """The CPU with the config's threads and workers, measured; a card of the table where the config computes on one
    that is here; else one line that says why nothing is known."""
    if config.model.device == "cuda" and not torch.cuda.is_available():
        return "the config asks for CUDA, and no CUDA device is here"
    if config.model.device != "cpu" and torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
        card, workers = known_card(name, config), config.workers
        if card is None:
            return f"{name} is not in the table of cards"
        flops, bandwidth = card.flops / workers, card.bandwidth and card.bandwidth / workers
        return Hardware(THIS_MACHINE, flops, bandwidth, memory, card.shares, card.note, workers)
    flops = matmul_flops(1024, threads=config.threads)
    note = f"float32 products measured now, {config.threads} threads a worker; shares reached as in the demo"
    # No bandwidth: the share of decoding was measured with reading in it.
    return Hardware(THIS_MACHINE, flops, None, usable_memory(), CPU, note, config.workers)


def matmul_flops(
    side: int, dtype: torch.dtype = torch.float32, device: str = "cpu", trials: int = 9, threads: int | None = None
) -> float:
    """FLOP/s of a product of two square matrices, the best of `trials`; torch's own `threads` where none are named."""
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        left @ right
        synchronise(device)

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return 2 * side**3 / min(timeit.repeat(multiply, multiply, repeat=trials, number=1))
    finally:
        torch.set_num_threads(before)


def synchronise(device: str) -> None:
    """Waits for what a GPU has been given; nothing on a CPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
