"""MTCT training of InternVL3-8B's exact geometry on a CUDA GPU, as token trees and as separate sequences.

Random weights drawn on the device in bfloat16, nothing downloaded. First bfloat16 is held against float32 on two layers
of the same widths; then both ways take turns, forward and backward, on the same samples. Layout and transfer to the
card are in nobody's time here; in training they are the training process's. Utilisation is model FLOPs over the card's
own matrix product, measured in the same process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from throughline.benchmarks.contenders import (
    Contender,
    largest_difference,
    separate_rows,
    separate_sequences,
    settings_of_sides,
    token_trees,
)
from throughline.benchmarks.settings import GpuSettings
from throughline.benchmarks.step import time_steps
from throughline.benchmarks.timing import BenchRow, OnProgress, compare, on_threads, require_close
from throughline.benchmarks.workload import (
    class_list,
    make_workload,
    random_model,
    require_batch,
    tokenizer_texts,
    with_random_lora,
)
from throughline.core.errors import ThroughlineError
from throughline.domains.splits import HOLDOUT_FRACTION
from throughline.experiment.hardware import matmul_flops, synchronise
from throughline.mllm.forward import score_trees
from throughline.mllm.geometries import GEOMETRIES, random_mllm, shallow

LOGIT_BOUND = 0.02
"""Of the logits' norm: a bfloat16 has eight binary digits, so a product is off by up to 0.4 %, and layers add up."""
NLL_BOUND = 0.05
"""Nats a token, over a branch."""
CHECKED_LAYERS = 2

TERRA_INCOGNITA = {"location_100": 4879, "location_38": 9767, "location_43": 4020, "location_46": 6122}
"""Images by location as DomainBed published them: 24,788."""
CLASSES, EPOCHS, ROUNDS = 10, 3, 3
"""TerraIncognita's classes; the paper's epochs a stage and rounds of self-labelling."""


@dataclass(frozen=True)
class Side:
    """One way to train, measured: seconds of each step, what a step computes, and the peak of memory in bytes."""

    seconds: tuple[float, ...]
    samples: int
    tokens: int
    flops: int
    memory: int | None


def measure(settings: GpuSettings, on_progress: OnProgress) -> list[BenchRow]:
    """Rows of step time, rates, utilisation, memory, hours of TerraIncognita.

    Raises ThroughlineError where there is no GPU, where bfloat16 is further from float32 than the bounds, and when the
    memory does not suffice; UsageError for more samples than there are.
    """
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ThroughlineError("no CUDA device here", None, "run it on a machine with an NVIDIA GPU")
    require_batch(settings.batch)
    try:
        with on_threads(settings.threads):
            on_progress(f"bfloat16 against float32, {CHECKED_LAYERS} layers of {settings.geometry}")
            precision = checked_precision(settings.geometry, settings.device)
            on_progress("the ceiling of matrix products")
            ceiling = matmul_ceiling(settings.device)
            return _measure_steps(settings, precision, ceiling, on_progress)
    except torch.OutOfMemoryError as error:
        what, do = f"out of GPU memory with {settings.batch} samples in a step", "use a smaller --batch"
        raise ThroughlineError(what, settings.geometry, f"{do}, or --gradient-checkpointing") from error


def checked_precision(geometry: str, device: str) -> tuple[float, float]:
    """How far bfloat16 is from float32 on a few layers, with weights that both hold exactly: logits by norm, branches
    in nats a token. ThroughlineError beyond the bounds."""
    small = shallow(GEOMETRIES[geometry], CHECKED_LAYERS)
    mllm = random_mllm(small, tokenizer_texts(), device=device, dtype="bfloat16")
    work = make_workload(mllm, mllm.model, geometry, class_list(CLASSES), 2)
    batch, rows = work.batch().to(device), separate_rows(work)[0]
    lengths = [1 if branch.reduce == "mean" else len(branch.scored) for branch in batch.branches]

    @torch.no_grad()
    def score() -> tuple[torch.Tensor, torch.Tensor]:
        logits = mllm.model(input_ids=rows.input_ids, use_cache=False, **rows.image_inputs).logits
        nll = score_trees(mllm.model, batch).branch_nll().double()
        return logits.double(), nll / torch.tensor(lengths, device=device)

    logits, nll = score()
    mllm.model.float()  # upwards only: rotary frequencies are float32 beside bfloat16 weights too
    exact_logits, exact_nll = score()
    logit_difference = float((logits - exact_logits).norm() / exact_logits.norm())
    nll_difference = float((nll - exact_nll).abs().max())
    require_close(small.name, logit_difference, LOGIT_BOUND, "bfloat16 is from float32 in logits, as a share,")
    require_close(small.name, nll_difference, NLL_BOUND, "bfloat16 is from float32 in nats a token")
    return logit_difference, nll_difference


def matmul_ceiling(device: str) -> float:
    """FLOP/s of a square bfloat16 product, the best of 20."""
    return matmul_flops(8192 if device.startswith("cuda") else 512, torch.bfloat16, device, trials=20)


def fold_samples(images: Mapping[str, int] = TERRA_INCOGNITA) -> float:
    """Training images of a leave-one-domain-out fold, the mean over what is held out: DomainBed's `in` parts."""
    inside = {name: count - int(count * HOLDOUT_FRACTION) for name, count in images.items()}
    return sum(inside.values()) * (len(inside) - 1) / len(inside)


def _measure_steps(
    settings: GpuSettings, precision: tuple[float, float], ceiling: float, on_progress: OnProgress
) -> list[BenchRow]:
    geometry, device = settings.geometry, settings.device
    on_progress(f"drawing the weights of {geometry}")
    mllm = random_model(geometry, device=device, dtype="bfloat16")
    model = with_random_lora(mllm)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    work = make_workload(mllm, model, geometry, class_list(CLASSES), settings.batch)
    on_progress(f"steps of {settings.batch} samples")
    trees, separate = token_trees(work, built=work.batch().to(device)), separate_sequences(work)
    difference = largest_difference(trees.evaluated_nll(), separate.evaluated_nll())
    model.train()
    memory = [_peak(way, device) for way in (trees, separate)]
    seconds = time_steps([trees, separate], settings.trials, finish=partial(synchronise, device))
    ours, rival = (
        Side(tuple(seconds[way.name]), settings.batch, way.tokens, way.flops, peak)
        for way, peak in zip((trees, separate), memory, strict=True)
    )
    facts = {
        **settings.model_dump(),
        **settings_of_sides(work, trees, separate),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        **dict(zip(("bf16_logit_difference", "bf16_nll_difference"), precision, strict=True)),
        "largest_nll_difference": difference,
        "ceiling_tflops": float(f"{ceiling / 1e12:.4g}"),
        "fold_samples": fold_samples(),
        "epochs": EPOCHS,
    }
    return rows_of_sides(f"gpu {geometry}", ours, rival, ceiling, facts)


def rows_of_sides(name: str, ours: Side, rival: Side, ceiling: float, settings: dict[str, Any]) -> list[BenchRow]:
    """What the two sides' steps come to, ratios as `BenchRow` has them. Tokens a second are those of the own rows, of
    which the tree has fewer for the same samples.

    Hours are of training alone, sampling and answering not counted: the first stage, and it with the rounds.
    """
    fold_hours = fold_samples() * EPOCHS / 3600

    def row(what: str, unit: str, of: Callable[[Side, float], float], rate: bool = True) -> BenchRow:
        mine, theirs = ([of(side, second) for second in side.seconds] for side in (ours, rival))
        predicted = None if rate else rival.flops / ours.flops
        return compare(f"{name}: {what}", "two separate sequences", mine, theirs, settings, predicted, unit, rate)

    share = "share of the measured ceiling"
    rows = [
        row("step", "seconds", lambda side, second: second, rate=False),
        row("samples", "samples/s", lambda side, second: side.samples / second),
        row("tokens", "tokens/s", lambda side, second: side.tokens / second),
        row("utilisation", share, lambda side, second: side.flops / second / ceiling),
    ]
    if ours.memory is not None and rival.memory is not None:
        rows.append(row("peak memory", "GB", lambda side, second: (side.memory or 0) / 1e9))
    for what, stages in (("MTCT", 1), (f"MTCT and {ROUNDS} rounds", 1 + ROUNDS)):
        hours = partial(lambda stages, side, second: second / side.samples * fold_hours * stages, stages)
        rows.append(row(f"a fold of TerraIncognita, {what}, training", "hours", hours, rate=False))
    return rows


def _peak(side: Contender, device: str) -> int | None:
    """Bytes allocated at the peak of a step, weights included; None off CUDA, where nobody counts them."""
    if not device.startswith("cuda"):
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    side.timed_step()
    synchronise(device)
    return int(torch.cuda.max_memory_allocated(device))
