"""An MTCT training step, forward and backward, as token trees against three rivals: TRL's `SFTTrainer` with default
padding and length-grouped, and two separate sequences in plain transformers.

Same frozen weights, same LoRA in both towers, same decoded images, questions and answers, in one process; decoding and
preprocessing are nobody's time. Every rival's NLL of every sequence is compared with ours before anything is timed.
"""

from collections.abc import Callable, Sequence

from throughline.benchmarks.ablations import training_without
from throughline.benchmarks.contenders import (
    Contender,
    largest_difference,
    separate_sequences,
    settings_of_sides,
    token_trees,
)
from throughline.benchmarks.settings import StepSettings
from throughline.benchmarks.timing import BenchRow, OnProgress, compare, on_threads, require_close, take_turns
from throughline.benchmarks.trl import require_trl, sft_trainer
from throughline.benchmarks.workload import Key, Workload, training_workloads

TOLERANCE = 1e-5
"""Largest difference of a sequence's NLL, relative where the NLL is above 1."""


def measure(settings: StepSettings, on_progress: OnProgress) -> list[BenchRow]:
    """A row for every geometry, class list, number of tiles and rival. Raises ThroughlineError where TRL is not
    installed, and when two ways disagree on an NLL, before they are timed; UsageError on an unknown class list or a
    batch that the workload cannot fill."""
    require_trl()
    rows = []
    with on_threads(settings.threads):
        for work in training_workloads(settings.geometry, settings.classes, settings.tiles, settings.batch_of):
            geometry, tiles = work.settings["geometry"], work.settings["tiles"]
            name = f"step {geometry}, {work.settings['classes']} classes, {tiles} tile{'s' if tiles > 1 else ''}"
            on_progress(name)
            rivals = [
                sft_trainer(work, grouped=False),
                sft_trainer(work, grouped=True),
                separate_sequences(work),
                *(training_without(thing, work) for thing in settings.ablations()),
            ]
            rows += measure_workload(name, work, token_trees(work), rivals, settings.trials_of(geometry, tiles))
    return rows


def measure_workload(
    name: str, work: Workload, ours: Contender, rivals: Sequence[Contender], trials: int
) -> list[BenchRow]:
    """Checks every rival against ours, then times all of them in turns: a row for each rival. An ablation is a rival,
    too: `token_trees` without something, against `token_trees`."""
    expected = ours.evaluated_nll()
    differences = {rival.name: _checked_difference(name, expected, rival) for rival in rivals}
    seconds = time_steps([ours, *rivals], trials)
    rows = []
    for rival in rivals:
        checked = {"trials": trials, "largest_nll_difference": differences[rival.name]}
        settings, predicted = settings_of_sides(work, ours, rival) | checked, rival.flops / ours.flops
        rows.append(compare(name, rival.name, seconds[ours.name], seconds[rival.name], settings, predicted))
    return rows


def _checked_difference(name: str, expected: dict[Key, float], rival: Contender) -> float:
    """The largest difference of two NLLs. ThroughlineError where it is not within the tolerance."""
    difference = largest_difference(expected, rival.evaluated_nll())
    return require_close(name, difference, TOLERANCE, f"the NLLs of token trees and {rival.name} differ")


def time_steps(
    sides: Sequence[Contender], trials: int, finish: Callable[[], None] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each side's steps, in turns, with LoRA's dropout on as in training. `finish` waits for a device."""

    def step_of(side: Contender) -> Callable[[], None]:
        def step() -> None:
            side.timed_step()
            finish()

        return step

    for side in sides:
        side.model.train()
    seconds = take_turns({side.name: step_of(side) for side in sides}, trials)
    for side in sides:
        side.model.eval()
        side.model.zero_grad(set_to_none=True)
    return seconds
