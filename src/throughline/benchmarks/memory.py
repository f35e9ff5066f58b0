"""The memory of a training step beyond what stands still, as token trees against TRL's length-grouped `SFTTrainer`.

Measured is one optimiser step's largest micro-batch, forward and backward: its inputs, and the peak of what torch
allocates while it runs. Weights, the adapter's gradients and its optimiser state are there before and after it, equal
on both sides, and are not in it. Both take the same images: ours all trees at once, TRL its labels, then its chains.

On a CPU the peak is the exact running sum of all allocations that torch's profiler records, kernels' scratch space
included; on a GPU it is `torch.cuda.max_memory_allocated`.
"""

import contextlib
import gc
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from throughline.benchmarks.ablations import training_without
from throughline.benchmarks.contenders import Contender, settings_of_sides, token_trees
from throughline.benchmarks.settings import MemorySettings
from throughline.benchmarks.timing import BenchRow, OnProgress, compare, on_threads
from throughline.benchmarks.trl import require_trl, sft_trainer
from throughline.benchmarks.workload import Workload, training_workloads
from throughline.mllm.devices import pick_device

MEBIBYTE = 1 << 20
METHODS = {"cpu": "sum of the allocations in torch's profile", "cuda": "torch.cuda.max_memory_allocated"}


def measure(settings: MemorySettings, on_progress: OnProgress) -> list[BenchRow]:
    """A row for every geometry and class list without gradient checkpointing, and one with it. Raises ThroughlineError
    where TRL is not installed; UsageError on an unknown class list or a batch that the workload cannot fill."""
    require_trl()
    rows = []
    with on_threads(settings.threads):
        device, batch = pick_device(settings.device), settings.batch
        for work in training_workloads(settings.geometry, settings.classes, [settings.tiles], lambda *_: batch, device):
            for checkpointing in (False, True):
                name = f"memory {work.settings['geometry']}, {work.settings['classes']} classes"
                name += ", gradient checkpointing" if checkpointing else ""
                on_progress(name)
                rows += measure_workload(name, work, checkpointing, settings.ablations())
    return rows


def measure_workload(name: str, work: Workload, checkpointing: bool, left_out: tuple[str, ...] = ()) -> list[BenchRow]:
    """A row against TRL, and one against our own side without each of `left_out`, by the peaks of the largest
    micro-batches. Each side has run it once before it is measured."""
    device, ours = work.settings["device"], token_trees(work, built=work.batch())
    counted = {
        "gradient_checkpointing": checkpointing,
        "counted": "inputs, and the peak of what torch allocates forwards and backwards",
        "not_counted": "weights, the adapter's gradients, optimiser state: equal on both sides",
        "method": METHODS[device],
    }

    def mebibytes(side: Contender) -> float:
        with _checkpointed(side.model) if checkpointing else contextlib.nullcontext():
            peaks = [peak_of_step(side.model, part.run, part.inputs, device) for part in side.micro_batches]
        return max(peaks) / MEBIBYTE

    rivals = [sft_trainer(work, grouped=True, gradient_checkpointing=checkpointing)]
    rivals += [training_without(thing, work, build_once=True) for thing in left_out]
    own_peak = mebibytes(ours)
    return [
        compare(
            name,
            rival.name,
            [own_peak],
            [mebibytes(rival)],
            settings_of_sides(work, ours, rival) | counted,
            unit="MiB",
            ours_over_rival=True,
        )
        for rival in rivals
    ]


def peak_of_step(model: Any, step: Callable[[], None], inputs: Mapping[str, Tensor], device: str) -> int:
    """Bytes of a micro-batch: its inputs on the device and the peak of what is allocated beside them and beside what
    the model held before. `step` is run twice; the first time fills caches and makes the adapter's gradients."""
    model.train()
    step()
    beside = sum(value.nbytes for value in inputs.values()) if device == "cpu" else 0  # elsewhere a step brings them
    peak = beside + (cpu_peak(step) if device == "cpu" else cuda_peak(step))
    model.zero_grad(set_to_none=True)
    model.eval()
    return peak


def cpu_peak(run: Callable[[], object]) -> int:
    """The most bytes that torch's CPU allocator holds at once, of those that it gives out while `run` runs: exact, from
    the profiler's record of every single allocation and release in the calling thread."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # below that the profiler tells whenever it starts and stops
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    # The table of the profiler sums memory by operator; only the raw events are in the order of time.
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def cuda_peak(run: Callable[[], object]) -> int:
    """The most bytes that are allocated on the GPU at once while `run` runs, less those before."""
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@contextlib.contextmanager
def _checkpointed(model: Any) -> Iterator[None]:
    """Gradient checkpointing as training turns it on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5.23 has a second name for it
        model.activation_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            model.activation_checkpointing_disable()
