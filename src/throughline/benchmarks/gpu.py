"""MTCT training of InternVL3-8B's exact geometry on a CUDA GPU, as token trees and as separate sequences.

Random weights drawn on the device in bfloat16, nothing downloaded. First bfloat16 is held against float32 on two layers
of the same widths; then both ways take turns, forward and backward, on the same samples. Layout and transfer to the
card are in nobody's time here; in training they are the training process's. Utilisation is model FLOPs over the card's
own matrix product, measured in the same process. `throughline bench gpu` calls this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from throughline.benchmarks.contenders import LORA, row_widths, rows_of_trees, tree_batch, with_random_lora
from throughline.benchmarks.machine import machine_settings
from throughline.benchmarks.plain_rival import NAME as RIVAL
from throughline.benchmarks.plain_rival import SeparateRows, rows_of_paths, separate_rows
from throughline.benchmarks.step import largest_difference
from throughline.benchmarks.timing import BenchRow, compare, take_turns
from throughline.benchmarks.workload import class_list, make_workload, require_batch, tokenizer_texts
from throughline.core.errors import ThroughlineError, UsageError
from throughline.domains.splits import HOLDOUT_FRACTION
from throughline.mllm.collating import TreeBatch
from throughline.mllm.flops import step_flops
from throughline.mllm.forward import score_trees
from throughline.mllm.geometries import GEOMETRIES, Geometry, random_mllm, shallow

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
class GpuSettings:
    """What is measured, and where; a step is one micro-batch of `batch` samples."""

    geometry: str = "internvl3-8b"
    device: str = "cuda"
    batch: int = 8
    trials: int = 10
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Precision:
    """How far bfloat16 is from float32 on the same weights: logits by norm, branches in nats a token."""

    logit_difference: float
    nll_difference: float


@dataclass(frozen=True)
class Side:
    """One way to train, measured: seconds of each step, what a step computes, and the peak of memory in bytes."""

    seconds: tuple[float, ...]
    samples: int
    tokens: int
    flops: int
    memory: int | None

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return float(np.median(self.seconds))


def measure_gpu(settings: GpuSettings, told: Callable[[str], None] = lambda line: None) -> list[BenchRow]:
    """Rows of step time, rates, utilisation, memory, hours of TerraIncognita.

    Raises ThroughlineError where there is no GPU, where bfloat16 is further from float32 than the bounds, and when the
    memory does not suffice; UsageError for an unknown geometry and for more samples than there are.
    """
    _require_device(settings.device)
    if settings.geometry not in GEOMETRIES:
        raise UsageError(f"no geometry named {settings.geometry}", do=f"choose from {', '.join(GEOMETRIES)}")
    require_batch(settings.batch)
    geometry, texts = GEOMETRIES[settings.geometry], tokenizer_texts()
    try:
        told(f"bfloat16 against float32, {CHECKED_LAYERS} layers of {geometry.name}")
        precision = checked_precision(geometry, texts, settings.device)
        told("the ceiling of matrix products")
        ceiling = matmul_ceiling(settings.device)
        return _measured(settings, geometry, texts, precision, ceiling, told)
    except torch.OutOfMemoryError as error:
        raise ThroughlineError(
            f"out of GPU memory with {settings.batch} samples in a step",
            geometry.name,
            "use a smaller --batch, or --gradient-checkpointing",
        ) from error


def checked_precision(geometry: Geometry, texts: Sequence[str], device: str) -> Precision:
    """Both types on a few layers, with weights that both hold exactly. ThroughlineError beyond the bounds."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    small = shallow(geometry, CHECKED_LAYERS)
    mllm = random_mllm(small, texts, device=device, dtype="bfloat16")
    work = make_workload(mllm.chat, geometry.image_size, class_list(CLASSES), 2)
    batch = tree_batch(mllm, work).to(device)
    some = _on(separate_rows(mllm, work)[0], device)
    for dtype in ("bfloat16", "float32"):
        # Upwards only: rotary frequencies are float32 beside bfloat16 weights too.
        model = mllm.model if dtype == "bfloat16" else mllm.model.float()
        with torch.no_grad():
            logits = model(
                input_ids=some.input_ids,
                use_cache=False,
                **some.image_inputs,
            ).logits.double()
            scores = score_trees(model, batch)
            tokens = torch.tensor(
                [1 if mean else n for n, mean in zip(batch.lengths, batch.means, strict=True)], device=device
            )
            found[dtype] = logits, scores.branch_nll().double() / tokens
    (logits, nll), (exact_logits, exact_nll) = found.values()
    precision = Precision(
        float((logits - exact_logits).norm() / exact_logits.norm()), float((nll - exact_nll).abs().max())
    )
    if not (precision.logit_difference <= LOGIT_BOUND and precision.nll_difference <= NLL_BOUND):
        raise ThroughlineError(
            f"bfloat16 is {precision.logit_difference:.2%} from float32 in logits and {precision.nll_difference:.3f} "
            f"nats a token; {LOGIT_BOUND:.0%} and {NLL_BOUND} are allowed",
            small.name,
            "nothing was timed: report it",
        )
    return precision


def matmul_ceiling(device: str, trials: int = 20) -> float:
    """FLOP/s of a square bfloat16 product, the best of `trials`."""
    side = 8192 if device.startswith("cuda") else 512
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(trials):
        _synchronise(device)
        began = time.perf_counter()
        torch.mm(a, b)
        _synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def fold_samples(images: Mapping[str, int] = TERRA_INCOGNITA) -> float:
    """Training images of a leave-one-domain-out fold, the mean over what is held out: DomainBed's `in` parts."""
    inside = {name: count - int(count * HOLDOUT_FRACTION) for name, count in images.items()}
    return sum(inside.values()) * (len(inside) - 1) / len(inside)


def _measured(
    settings: GpuSettings,
    geometry: Geometry,
    texts: Sequence[str],
    precision: Precision,
    ceiling: float,
    told: Callable[[str], None],
) -> list[BenchRow]:
    device = settings.device
    told(f"drawing the weights of {geometry.name}")
    mllm = random_mllm(geometry, texts, device=device, dtype="bfloat16")
    model = with_random_lora(mllm)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    work = make_workload(mllm.chat, geometry.image_size, class_list(CLASSES), settings.batch)
    separate = [_on(rows, device) for rows in separate_rows(mllm, work)]
    told(f"steps of {settings.batch} samples")
    batch = tree_batch(mllm, work).to(device)
    difference = _difference(model, batch, separate)
    ours, rival = _steps(model, batch, separate, settings.batch)
    model.train()
    memories = [_peak(step, device) for step in (ours, rival)]
    timed = take_turns({"tree": _timed(ours, device), RIVAL: _timed(rival, device)}, settings.trials)
    model.eval()
    tree = Side(
        tuple(timed["tree"]),
        settings.batch,
        batch.input_ids.numel(),
        step_flops(model, rows_of_trees(batch)).total,
        memories[0],
    )
    paths = Side(
        tuple(timed[RIVAL]),
        settings.batch,
        sum(rows.input_ids.numel() for rows in separate),
        step_flops(model, rows_of_paths(separate)).total,
        memories[1],
    )
    common = {
        **asdict(settings),
        **machine_settings(model),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "classes": CLASSES,
        "lora_rank": LORA.rank,
        "lora_dropout": LORA.dropout,
        "bf16_logit_difference": precision.logit_difference,
        "bf16_nll_difference": precision.nll_difference,
        "largest_nll_difference": difference,
        "ceiling_tflops": round(ceiling / 1e12, 3),
        "ours_rows": row_widths([batch.input_ids.shape]),
        "rival_rows": row_widths(rows.input_ids.shape for rows in separate),
        "gflops_tree": round(tree.flops / 1e9, 3),
        "gflops_separate": round(paths.flops / 1e9, 3),
        "fold_samples": fold_samples(),
        "epochs": EPOCHS,
    }
    return rows_of_sides(f"gpu {geometry.name}", tree, paths, ceiling, common)


def rows_of_sides(name: str, tree: Side, paths: Side, ceiling: float, settings: dict[str, Any]) -> list[BenchRow]:
    """What the two sides' steps come to, ratios as `BenchRow` has them. Tokens a second are those of the own rows, of
    which the tree has fewer for the same samples.

    Hours are of training alone, sampling and answering not counted: the first stage, and it with the rounds.
    """
    predicted = paths.flops / tree.flops
    step = compare(f"{name}: step", RIVAL, list(tree.seconds), list(paths.seconds), predicted, settings)
    found = [step]

    def rate(what: str, unit: str, of: Callable[[Side, float], float]) -> None:
        ours, rival = ([of(side, second) for second in side.seconds] for side in (tree, paths))
        found.append(compare(f"{name}: {what}", RIVAL, ours, rival, None, settings, unit, ours_over_rival=True))

    rate("samples", "samples/s", lambda side, second: side.samples / second)
    rate("tokens", "tokens/s", lambda side, second: side.tokens / second)
    rate("utilisation", "share of the measured ceiling", lambda side, second: side.flops / second / ceiling)
    if tree.memory is not None and paths.memory is not None:
        rate("peak memory", "GB", lambda side, second: (side.memory or 0) / 1e9)
    for what, stages in (("MTCT", 1), (f"MTCT and {ROUNDS} rounds", 1 + ROUNDS)):
        ours, rival = (
            [second / side.samples * fold_samples() * EPOCHS * stages / 3600 for second in side.seconds]
            for side in (tree, paths)
        )
        label = f"{name}: a fold of TerraIncognita, {what}, training"
        found.append(compare(label, RIVAL, ours, rival, predicted, settings, "hours"))
    return found


@torch.no_grad()
def _difference(model: Any, batch: TreeBatch, separate: Sequence[SeparateRows]) -> float:
    """Between the two sides' NLLs, as `step` has it."""
    keys = zip(batch.sample, batch.names, strict=True)
    ours = dict(zip(keys, score_trees(model, batch).branch_nll().tolist(), strict=True))
    theirs = {key: nll for rows in separate for key, nll in zip(rows.keys, rows.nll(model).tolist(), strict=True)}
    return largest_difference(ours, theirs)


def _steps(
    model: Any, batch: TreeBatch, separate: Sequence[SeparateRows], samples: int
) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step of each side, forward and backward, from no gradients."""

    def ours() -> None:
        model.zero_grad(set_to_none=True)
        torch.autograd.backward(score_trees(model, batch).loss_sum() / samples)

    def rival() -> None:
        model.zero_grad(set_to_none=True)
        for rows in separate:
            torch.autograd.backward(rows.nll(model).sum() / samples)

    return ours, rival


def _timed(step: Callable[[], None], device: str) -> Callable[[], None]:
    """The step, waited for."""

    def run() -> None:
        step()
        _synchronise(device)

    return run


def _peak(step: Callable[[], None], device: str) -> int | None:
    """Bytes allocated at the peak of a step, weights included; None off CUDA, where nobody counts them."""
    if not device.startswith("cuda"):
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    _synchronise(device)
    return int(torch.cuda.max_memory_allocated(device))


def _on(rows: SeparateRows, device: str) -> SeparateRows:
    inputs = {name: value.to(device) for name, value in rows.image_inputs.items()}
    return replace(rows, input_ids=rows.input_ids.to(device), image_inputs=inputs)


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _require_device(device: str) -> None:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ThroughlineError("no CUDA device here", None, "run it on a machine with an NVIDIA GPU")
