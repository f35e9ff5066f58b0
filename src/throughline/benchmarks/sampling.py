"""K continuations of one image and question, against `generate` of plain transformers.

Once with K equal lengths, once with lengths spread as those of real chains are: then ours has fewer and fewer rows,
while `generate` computes every row until the longest ends. `throughline bench sample` calls this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from throughline.benchmarks.ablations import SAMPLING, chosen, with_plan, without
from throughline.benchmarks.machine import on_threads
from throughline.benchmarks.plain import plainly
from throughline.benchmarks.sampling_checks import check_draws, check_greedy
from throughline.benchmarks.sampling_sides import (
    CACHES,
    SampleWork,
    generate_on_prefix,
    generate_sequences,
    make_sample_work,
    sample_ours,
)
from throughline.benchmarks.timing import BenchRow, Side, compare, take_turns
from throughline.benchmarks.workload import chain_lengths, tokenizer_texts
from throughline.core.settings import SamplingSettings
from throughline.mllm.geometries import GEOMETRIES, random_mllm
from throughline.mllm.load import Mllm

OURS = "ours"

PREFILLED = "generate on a prefilled cache"
"""Reported beside the rival: it takes lines of code that few write, and saves what the rival loses on the prompt."""


@dataclass(frozen=True)
class SampleSettings:
    """What is measured; times are per call, `sequences` continuations of `new_tokens`. The prompt is the reasoning
    question with a list of `classes`. `threads` None leaves torch's own number."""

    geometries: tuple[str, ...] = ("pocket", "bench-40m")
    sequences: int = 8
    new_tokens: int = 150
    classes: int = 7
    draws: int = 2_000
    trials: int = 5
    threads: int | None = None
    ablate: tuple[str, ...] = ()
    """Names of `ablations.SAMPLING`, or `all`: rows of our own side without them, beside the rivals."""


def measure_sample(settings: SampleSettings, told: Callable[[str], None] = lambda line: None) -> list[BenchRow]:
    """Rows of every geometry and spread of lengths. Raises ThroughlineError when greedy tokens differ or first tokens
    do not follow the softmax, on either side, before anything is timed."""
    left_out = chosen(settings.ablate, SAMPLING)
    texts = tokenizer_texts()
    rows = []
    with on_threads(settings.threads):
        for geometry in settings.geometries:
            work = make_sample_work(random_mllm(GEOMETRIES[geometry], texts), geometry, settings.classes)
            told(f"sample {geometry}: checks, then which cache serves generate better")
            said = check_greedy(work, settings.sequences, settings.new_tokens) | check_draws(work, settings.draws)
            cache, tried = faster_cache(work, (settings.new_tokens,) * settings.sequences)
            common = {**work.settings, **said, "cache": cache, **tried}
            for spread, lengths in spreads(work.mllm, settings).items():
                name = f"sample {geometry}, K={settings.sequences}, {spread}"
                told(name)
                rivals: dict[str, Side] = {
                    f"generate(num_return_sequences={len(lengths)})": plainly(
                        work.mllm.model, partial(generate_sequences, work, lengths, cache)
                    ),
                    PREFILLED: plainly(work.mllm.model, partial(generate_on_prefix, work, lengths)),
                    **{
                        without(thing): partial(sample_ours, replace(work, mllm=with_plan(work.mllm, thing)), lengths)
                        for thing in left_out
                    },
                }
                rows += measure_lengths(
                    name, lengths, partial(sample_ours, work, lengths), rivals, settings.trials, common
                )
    return rows


def measure_lengths(
    name: str,
    lengths: Sequence[int],
    ours: Side,
    rivals: Mapping[str, Side],
    trials: int,
    settings: dict[str, Any],
) -> list[BenchRow]:
    """Times ours and every rival in turns on continuations of these lengths: a row for each rival."""
    seconds = take_turns({OURS: ours, **rivals}, trials)
    said = {**settings, "lengths": list(lengths), "trials": trials}
    return [compare(name, rival, seconds[OURS], seconds[rival], None, said) for rival in rivals]


def spreads(mllm: Mllm, settings: SampleSettings) -> dict[str, tuple[int, ...]]:
    """Lengths to measure, by what they are called. Geometric ones have the mean of the describer's chains, once cut at
    `new_tokens` as the equal ones are, once at what a chain is granted by default."""
    mean = float(np.mean(chain_lengths(mllm.chat)))
    granted = SamplingSettings().max_new_tokens
    return {
        f"{settings.new_tokens} tokens each": (settings.new_tokens,) * settings.sequences,
        **{
            f"geometric lengths up to {most}": geometric_lengths(settings.sequences, mean, most)
            for most in (settings.new_tokens, granted)
        },
    }


def geometric_lengths(count: int, mean: float, most: int) -> tuple[int, ...]:
    """The middles of `count` equally likely parts of the geometric distribution with this mean, shortest first, none
    above `most`: a draw of so few might be a lucky one."""
    going_on = 1 - 1 / mean
    middles = [(i + 0.5) / count for i in range(count)]
    return tuple(min(most, math.ceil(math.log1p(-middle) / math.log(going_on))) for middle in middles)


def faster_cache(work: SampleWork, lengths: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """Which of its caches `generate` is faster with, and the seconds of each."""
    model = work.mllm.model
    sides: dict[str, Side] = {
        cache: plainly(model, partial(generate_sequences, work, lengths, cache)) for cache in CACHES
    }
    seconds = {cache: taken[0] for cache, taken in take_turns(sides, trials=1).items()}
    tried = {f"seconds_{cache}_cache": round(taken, 4) for cache, taken in seconds.items()}
    return min(CACHES, key=seconds.__getitem__), tried
