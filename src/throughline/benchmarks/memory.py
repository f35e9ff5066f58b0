"""The memory of a training step beyond what stands still, as token trees against TRL's length-grouped `SFTTrainer`.

Measured is one optimiser step's largest micro-batch, forward and backward: its inputs, and the peak of what torch
allocates while it runs. Weights, the adapter's gradients and its optimiser state are there before and after it, equal
on both sides, and are not in it. Both take the same images: ours all trees at once, TRL its labels, then its chains.

On a CPU the peak is the exact running sum of all allocations that torch's profiler records, kernels' scratch space
included; on a GPU it is `torch.cuda.max_memory_allocated`. `throughline bench memory` calls this.
"""

from __future__ import annotations

import contextlib
import gc
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from throughline.benchmarks.ablations import NODES, TRAINING, TREE_PLANS, chosen, training_without, with_plan
from throughline.benchmarks.contenders import (
    common_settings,
    row_widths,
    tree_batch,
    with_random_lora,
    with_tiles,
)
from throughline.benchmarks.machine import on_threads
from throughline.benchmarks.timing import BenchRow, compare
from throughline.benchmarks.trl_rival import LENGTH_GROUPED, require_trl, trl_step
from throughline.benchmarks.workload import Workload, class_list, make_workload, tokenizer_texts
from throughline.mllm.attention import TreeLayout
from throughline.mllm.collating import TreeBatch
from throughline.mllm.forward import score_trees
from throughline.mllm.geometries import GEOMETRIES, random_mllm
from throughline.mllm.load import Mllm

MEBIBYTE = 1 << 20
METHODS = {"cpu": "sum of the allocations in torch's profile", "cuda": "torch.cuda.max_memory_allocated"}


@dataclass(frozen=True)
class MemorySettings:
    """What is measured, with `batch` images behind an optimiser step; `threads` None leaves torch's own number."""

    geometries: tuple[str, ...] = ("bench-40m-151k",)
    classes: tuple[int, ...] = (65,)
    tiles: int = 1
    batch: int = 4
    threads: int | None = None
    device: str = "cpu"
    ablate: tuple[str, ...] = ()
    """Names of `ablations.TRAINING`, or `all`: rows of our own side without them."""


def measure_memory(settings: MemorySettings, told: Callable[[str], None] = lambda line: None) -> list[BenchRow]:
    """A row for every geometry and class list without gradient checkpointing, and one with it. Raises ThroughlineError
    where TRL is not installed; UsageError on an unknown class list or a batch that the workload cannot fill."""
    lists = [class_list(size) for size in settings.classes]
    left_out = chosen(settings.ablate, TRAINING)
    require_trl()
    texts = tokenizer_texts()
    rows = []
    with on_threads(settings.threads):
        for geometry in settings.geometries:
            mllm = with_tiles(random_mllm(GEOMETRIES[geometry], texts), settings.tiles)
            mllm.model.to(settings.device)
            model = with_random_lora(mllm)
            for classes in lists:
                work = make_workload(mllm.chat, GEOMETRIES[geometry].image_size, classes, settings.batch)
                common = common_settings(geometry, len(classes), mllm, model, work)
                for checkpointing in (False, True):
                    name = f"memory {geometry}, {len(classes)} classes"
                    name += ", gradient checkpointing" if checkpointing else ""
                    told(name)
                    rows.append(measure_workload(name, mllm, model, work, checkpointing, common))
                    rows += [ablated(rows[-1], thing, mllm, model, work, checkpointing) for thing in left_out]
    return rows


def measure_workload(
    name: str, mllm: Mllm, model: Any, work: Workload, checkpointing: bool, settings: dict[str, Any]
) -> BenchRow:
    """The peaks of both sides; each has run the same micro-batch once before it is measured."""
    samples, device = len(work.examples), settings["device"]
    batch = tree_batch(mllm, work)

    def ours() -> None:
        torch.autograd.backward(score_trees(model, batch.to(device)).loss_sum() / samples)

    with _checkpointed(model) if checkpointing else contextlib.nullcontext():
        our_peak = peak_of_step(model, ours, tensors_of(batch), device)
    rival = trl_step(mllm, model, work, grouped=True, rows=samples, gradient_checkpointing=checkpointing)
    rival_peaks = [
        peak_of_step(rival.model, partial(rival.run, index), inputs, device)
        for index, inputs in enumerate(rival.micro_batches)
    ]
    return compare(
        name,
        LENGTH_GROUPED,
        [our_peak / MEBIBYTE],
        [max(rival_peaks) / MEBIBYTE],
        predicted_ratio=None,
        settings={
            **settings,
            "gradient_checkpointing": checkpointing,
            "ours_rows": row_widths([batch.input_ids.shape]),
            "ours_logits": len(torch.unique(batch.predictors)),
            **{f"rival_{key}": value for key, value in rival.settings().items()},
            "counted": "inputs, and the peak of what torch allocates forwards and backwards",
            "not_counted": "weights, the adapter's gradients, optimiser state: equal on both sides",
            "method": METHODS[device],
        },
        unit="MiB",
        ours_over_rival=True,
    )


def ablated(row: BenchRow, thing: str, mllm: Mllm, model: Any, work: Workload, checkpointing: bool) -> BenchRow:
    """Our own step without `thing` in the place of the row's rival."""
    samples, device = len(work.examples), row.settings["device"]
    rival = training_without(thing, mllm, model, work)
    batch = tree_batch(with_plan(mllm, thing) if thing in TREE_PLANS else mllm, work)

    def step() -> None:
        with NODES[thing](model) if thing in NODES else contextlib.nullcontext():
            torch.autograd.backward(score_trees(model, batch.to(device)).loss_sum() / samples)

    with _checkpointed(model) if checkpointing else contextlib.nullcontext():
        peak = peak_of_step(model, step, tensors_of(batch), device)
    settings = {name: value for name, value in row.settings.items() if not name.startswith("rival_")}
    settings |= {f"rival_{key}": value for key, value in rival.settings.items()}
    return compare(
        row.name, rival.name, [row.ours_value], [peak / MEBIBYTE], None, settings, row.unit, ours_over_rival=True
    )


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


def tensors_of(batch: TreeBatch) -> dict[str, Tensor]:
    """The tensors that a batch brings with it."""
    own = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    masks = batch.attention.masks if isinstance(batch.attention, TreeLayout) else ()
    return own | dict(batch.image_inputs) | {f"mask {i}": mask for i, mask in enumerate(masks) if mask is not None}


@contextlib.contextmanager
def _checkpointed(model: Any) -> Iterator[None]:
    """Gradient checkpointing as training turns it on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers 5.23 has a second name for it
        model.gradient_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            model.gradient_checkpointing_disable()
