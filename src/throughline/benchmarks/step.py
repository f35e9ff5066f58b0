"""An MTCT training step, forward and backward, as token trees against three rivals: TRL's `SFTTrainer` with default
padding and length-grouped, and two separate sequences in plain transformers.

Same frozen weights, same LoRA in both towers, same decoded images, questions and answers, in one process; decoding and
preprocessing are nobody's time. Every rival's NLL of every sequence is compared with ours before anything is timed.
`throughline bench step` calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from throughline.benchmarks.ablations import TRAINING, chosen, training_without
from throughline.benchmarks.contenders import (
    Contender,
    Key,
    common_settings,
    token_trees,
    with_random_lora,
    with_tiles,
)
from throughline.benchmarks.machine import on_threads
from throughline.benchmarks.plain_rival import separate_sequences
from throughline.benchmarks.timing import BenchRow, compare, take_turns
from throughline.benchmarks.trl_rival import require_trl, sft_trainer
from throughline.benchmarks.workload import class_list, make_workload, tokenizer_texts
from throughline.core.errors import ThroughlineError
from throughline.mllm.geometries import GEOMETRIES, random_mllm

TOLERANCE = 1e-5
"""Largest difference of a sequence's NLL, relative where the NLL is above 1."""


@dataclass(frozen=True)
class StepSettings:
    """What is measured; times are per step of `batch` samples. `trials` and `batch` None are what lets all rows end
    within 20 minutes on two slow cores; `threads` None leaves torch's own number."""

    geometries: tuple[str, ...] = ("pocket", "bench-40m")
    classes: tuple[int, ...] = (7, 65)
    trials: int | None = None
    batch: int | None = None
    threads: int | None = None
    tiles: tuple[int, ...] = (1, 6)
    ablate: tuple[str, ...] = ()
    """Names of `ablations.TRAINING`, or `all`: rows of our own side without them, beside the rivals."""

    def trials_of(self, geometry: str, tiles: int) -> int:
        """Timed steps of each side: steps of milliseconds take more of them to a steady median."""
        return self.trials or (9 if geometry == "pocket" else 3 if tiles == 1 else 2)

    def batch_of(self, geometry: str, tiles: int) -> int:
        """Samples in a step: one where an image alone is thousands of tokens in a large model."""
        return self.batch or (4 if geometry == "pocket" or tiles == 1 else 1)


def measure_step(settings: StepSettings, told: Callable[[str], None] = lambda line: None) -> list[BenchRow]:
    """A row for every geometry, class list, number of tiles and rival. Raises ThroughlineError where TRL is not
    installed, and when two ways disagree on an NLL, before they are timed; UsageError on an unknown class list or a
    batch that the workload cannot fill."""
    lists = [class_list(size) for size in settings.classes]
    left_out = chosen(settings.ablate, TRAINING)
    require_trl()
    texts = tokenizer_texts()
    rows = []
    with on_threads(settings.threads):
        for geometry in settings.geometries:
            whole = random_mllm(GEOMETRIES[geometry], texts)
            model = with_random_lora(whole)
            for tiles in settings.tiles:
                mllm = with_tiles(whole, tiles)
                for classes in lists:
                    name = f"step {geometry}, {len(classes)} classes, {tiles} tile{'s' if tiles > 1 else ''}"
                    told(name)
                    batch = settings.batch_of(geometry, tiles)
                    work = make_workload(mllm.chat, GEOMETRIES[geometry].image_size, classes, batch)
                    rivals = (
                        sft_trainer(mllm, model, work, grouped=False),
                        sft_trainer(mllm, model, work, grouped=True),
                        separate_sequences(mllm, model, work),
                        *(training_without(thing, mllm, model, work) for thing in left_out),
                    )
                    common = common_settings(geometry, len(classes), mllm, model, work)
                    ours, trials = token_trees(mllm, model, work), settings.trials_of(geometry, tiles)
                    rows += measure_workload(name, ours, rivals, trials, common)
    return rows


def measure_workload(
    name: str, ours: Contender, rivals: Sequence[Contender], trials: int, settings: dict[str, Any]
) -> list[BenchRow]:
    """Checks every rival against ours, then times all of them in turns: a row for each rival. An ablation is a rival,
    too: `token_trees` without something, against `token_trees`."""
    expected = ours.asked()
    differences = [largest_difference(expected, rival.asked()) for rival in rivals]
    for rival, difference in zip(rivals, differences, strict=True):
        if not difference <= TOLERANCE:
            raise ThroughlineError(
                f"{ours.name} and {rival.name} differ by {difference:.1e} in NLL, {TOLERANCE:.0e} is allowed",
                name,
                "nothing was timed: report it",
            )
    sides = (ours, *rivals)
    for side in sides:
        side.model.train()  # LoRA's dropout is on, as in training
    seconds = take_turns({side.name: side.timed_step for side in sides}, trials)
    for side in sides:
        side.model.eval()
        side.model.zero_grad(set_to_none=True)
    return [
        compare(
            name,
            rival.name,
            seconds[ours.name],
            seconds[rival.name],
            predicted_ratio=rival.flops / ours.flops,
            settings={
                **settings,
                "trials": trials,
                **{f"ours_{key}": value for key, value in ours.settings.items()},
                **{f"rival_{key}": value for key, value in rival.settings.items()},
                "largest_nll_difference": difference,
            },
        )
        for rival, difference in zip(rivals, differences, strict=True)
    ]


def largest_difference(ours: dict[Key, float], rival: dict[Key, float]) -> float:
    """Over all sequences: the difference of two NLLs, divided by the NLL where that is above 1. NaN stays NaN."""
    assert ours.keys() == rival.keys(), "both sides answer for the same sequences"
    differences = [abs(ours[key] - nll) / max(1.0, abs(nll)) for key, nll in rival.items()]
    return float(np.max(differences))
