"""K continuations of one image and question, against `generate` of plain transformers.

Once with K equal lengths, once with lengths spread as those of real chains are: then ours has fewer and fewer rows,
while `generate` computes every row until the longest ends.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from throughline.benchmarks.ablations import with_plan, without
from throughline.benchmarks.plain import plainly
from throughline.benchmarks.sample_sides import (
    CACHES,
    SampleWork,
    check_draws,
    check_greedy,
    generate_on_prefix,
    generate_sequences,
    make_sample_work,
    sample_ours,
)
from throughline.benchmarks.settings import SampleSettings
from throughline.benchmarks.timing import BenchRow, OnProgress, Side, measure_sides, on_threads, take_turns
from throughline.benchmarks.workload import chain_lengths, random_model
from throughline.core.settings import SamplingSettings
from throughline.mllm.load import Mllm

PREFILLED = "generate on a prefilled cache"
"""Reported beside the rival: it takes lines of code that few write, and saves what the rival loses on the prompt."""


def measure(settings: SampleSettings, on_progress: OnProgress) -> list[BenchRow]:
    """Rows of every geometry and spread of lengths. Raises ThroughlineError when greedy tokens differ or first tokens
    do not follow the softmax, on either side, before anything is timed."""
    rows = []
    with on_threads(settings.threads):
        for geometry in settings.geometry:
            work = make_sample_work(random_model(geometry), geometry, settings.classes)
            on_progress(f"sample {geometry}: checks, then which cache serves generate better")
            checks = check_greedy(work, settings.sequences, settings.new_tokens) | check_draws(work, settings.draws)
            cache, cache_seconds = faster_cache(work, (settings.new_tokens,) * settings.sequences)
            common = {**work.settings, **checks, "cache": cache, **cache_seconds}
            for spread, lengths in spreads(work.mllm, settings).items():
                name = f"sample {geometry}, K={settings.sequences}, {spread}"
                on_progress(name)
                ours, rivals = partial(sample_ours, work, lengths), rivals_of(work, lengths, cache)
                for thing in settings.ablations():
                    ablated = replace(work, mllm=with_plan(work.mllm, thing))
                    rivals[without(thing)] = partial(sample_ours, ablated, lengths)
                rows += measure_sides(name, ours, rivals, settings.trials, {**common, "lengths": list(lengths)})
    return rows


def rivals_of(work: SampleWork, lengths: Sequence[int], cache: str) -> dict[str, Side]:
    """`generate`, with this cache of its own, and on a cache that holds the prompt."""
    sides = {
        f"generate(num_return_sequences={len(lengths)})": partial(generate_sequences, work, lengths, cache),
        PREFILLED: partial(generate_on_prefix, work, lengths),
    }
    return {name: plainly(work.mllm.model, side) for name, side in sides.items()}


def spreads(mllm: Mllm, settings: SampleSettings) -> dict[str, tuple[int, ...]]:
    """Lengths to measure, by what they are called. Geometric ones have the mean of the describer's chains, once cut at
    `new_tokens` as the equal ones are, once at what a chain is granted by default."""
    mean = float(np.mean(chain_lengths(mllm.chat)))
    granted = SamplingSettings().max_new_tokens
    return {f"{settings.new_tokens} tokens each": (settings.new_tokens,) * settings.sequences} | {
        f"geometric lengths up to {most}": geometric_lengths(settings.sequences, mean, most)
        for most in (settings.new_tokens, granted)
    }


def geometric_lengths(count: int, mean: float, most: int) -> tuple[int, ...]:
    """The middles of `count` equally likely parts of the geometric distribution with this mean, shortest first, none
    above `most`: a draw of so few might be a lucky one."""
    going_on = 1 - 1 / mean
    middles = [(i + 0.5) / count for i in range(count)]
    return tuple(min(most, math.ceil(math.log1p(-middle) / math.log(going_on))) for middle in middles)


def faster_cache(work: SampleWork, lengths: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """Which of its caches `generate` is faster with, and the seconds of each."""
    model, generate = work.mllm.model, partial(generate_sequences, work, lengths)
    sides: dict[str, Side] = {cache: plainly(model, partial(generate, cache)) for cache in CACHES}
    seconds = {cache: durations[0] for cache, durations in take_turns(sides, trials=1).items()}
    facts = {f"seconds_{cache}_cache": round(duration, 4) for cache, duration in seconds.items()}
    return min(CACHES, key=seconds.__getitem__), facts
