"""A search over settings: which draws are tried, what is measured of each, and by which rules one is chosen. Free of
torch.

`config` turns the draws into the levels of a factor called `draw`, so that each is a unit; `runs.draws` says what the
rules choose, `reporting.selection` shows it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from throughline.baselines.draws import domainbed_draw
from throughline.core.seeding import generator
from throughline.core.settings import Settings
from throughline.runs.draws import TRAINING_DOMAIN

Rule = Literal["training_domain", "leave_one_domain_out", "oracle", "last"]
RULES: tuple[Rule, ...] = ("training_domain", "oracle", "last")
"""The rules that need no further unit."""


class SearchConfig(Settings):
    """A search over settings. Each draw is one choice of values, and draw 0 is the config as it is written."""

    over: dict[str, list[Any] | dict[str, int | float]] | Literal["domainbed"]
    """For each dotted key a list of values, e.g. `training.stage.lr: [3.0e-4, 1.0e-3]`, or a range for random draws,
    e.g. `training.stage.lr: {low: 1.0e-4, high: 1.0e-2, log: true}`. Between whole numbers, whole numbers are drawn. Or
    `domainbed`: the hyper-parameters of feature-level methods, as DomainBed draws them for `data.trial_seed`."""
    draws: int | None = Field(default=None, ge=1)
    """Number of random draws besides draw 0; by default all combinations of the lists are tried."""
    seed: int = Field(default=0, ge=0)
    """Seed of the random draws."""
    measure: Literal["target", "validation"] = "target"
    """With `validation`, only the `out` splits of the source domains are measured and no image of a target is asked
    about, so that a budget can be chosen without a look at the results."""
    rules: tuple[Rule, ...] = Field(
        default_factory=lambda given: RULES if given["measure"] == "target" else RULES[:1], min_length=1
    )
    """How a draw is chosen for each method, target and seed; by default by `training_domain`, `oracle` and `last`, with
    `measure: validation` only by the first. `training_domain`: best on the `out` splits of the source domains.
    `leave_one_domain_out`: best on source domains that are held out too, which trains a further unit for each pair of
    domains. `oracle`: best on the `out` split of the target. `last`: draw 0, no choice."""

    @model_validator(mode="after")
    def _drawable(self) -> SearchConfig:
        if self.over == "domainbed" and self.draws is None:
            raise ValueError("over is domainbed, which is drawn at random: set draws (DomainBed: 19)")
        if not self.over:
            raise ValueError("over names no key: write for example training.stage.lr: [3.0e-4, 1.0e-3]")
        for key, space in self.over.items() if self.over != "domainbed" else ():
            if space == []:
                raise ValueError(f"over.{key} is an empty list: name its values")
            if isinstance(space, dict) and not _is_range(space):
                raise ValueError(f"over.{key} is no range: write for example {{low: 1.0e-4, high: 1.0e-2, log: true}}")
            if isinstance(space, dict) and self.draws is None:
                raise ValueError(f"over.{key} is a range, which a grid cannot have: set draws, or list its values")
        for rule in self.rules if self.measure == "validation" else ():
            if rule != TRAINING_DOMAIN:
                raise ValueError(f"the rule {rule} needs the target, and only validation is measured: leave it out")
        return self

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that draws set."""
        return tuple(self.over) if self.over != "domainbed" else tuple(domainbed_draw(0, 0))

    def levels(self, trial_seed: int = 0) -> dict[str, dict[str, Any]]:
        """The keys that each draw sets, by its number. Each key has generators of its own, so that another key changes
        no value."""
        if self.over == "domainbed":
            return {"0": {}} | {str(n): domainbed_draw(n, trial_seed) for n in range(1, (self.draws or 0) + 1)}
        rngs = ([generator(self.seed, "search", n, key) for key in self.over] for n in range(1, (self.draws or 0) + 1))
        drawn = (map(_drawn, self.over.values(), own) for own in rngs)
        points: Iterable[Iterable[Any]] = itertools.product(*self.over.values()) if self.draws is None else drawn
        return {"0": {}} | {str(n): dict(zip(self.over, point, strict=True)) for n, point in enumerate(points, start=1)}


def _is_range(space: dict[str, int | float]) -> bool:
    low, high = space.get("low", math.inf), space.get("high", -math.inf)
    return space.keys() <= {"low", "high", "log"} and low < high and (low > 0 or not space.get("log"))


def _drawn(space: list[Any] | dict[str, int | float], rng: np.random.Generator) -> Any:
    if isinstance(space, list):
        return space[rng.integers(len(space))]
    low, high = space["low"], space["high"]
    whole = isinstance(low, int) and isinstance(high, int)
    scaled, unscaled = (math.log, math.exp) if space.get("log") else (float, float)
    value = unscaled(rng.uniform(scaled(low), scaled(high + whole)))
    return min(max(int(value) if whole else value, low), high)
