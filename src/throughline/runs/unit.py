"""A unit: the smallest thing of a run that is trained or evaluated.

`experiment.plan` makes units, the engine has them executed, `unit.json` is what a reader of the run folder sees. A unit
is known by the hash of its `inputs`: by content everything that can change its numbers, never a path, host, date or
number of workers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from throughline.core.files import content_hash
from throughline.runs.records import SCHEMA, Factor

DRAW = "draw"
"""The factor whose levels are the draws of a search; draw 0 is the config as it is written."""
VALIDATE = "validate"
"""The kind of a unit that is trained and only validated: it has no predictions and no results."""
EVALUATE = "evaluate"
"""The kind of a unit that only asks: the checkpoint as it is, or with the adapter of the unit that it needs."""
DESCRIBED = "(described)"
"""The domain of what is described in words instead of shown."""
PROBE = "probe"
"""The kind of a unit that fits linear probes: its answers are called `probe: ` and the point of the model."""
FEW_SHOT = "few_shot"
"""The kind of a unit that trains an adapter on labelled examples alone, and asks with it."""
FEATURE_LEVEL = "feature-level"
"""Stands for the kind of a unit of a feature-level method, whatever it is, where its executor is looked up."""
TIMM, CLIP = "timm/", "clip/"
CLASSIFIERS = (TIMM, CLIP)
"""What the model of a unit of a feature-level method begins with, before the name of its backbone or checkpoint."""
START = "start"
"""The role of the needed unit whose adapter a unit goes on from."""
FINAL = "final"
"""Stands for the target in the name of a unit that holds nothing out."""


@dataclass(frozen=True)
class Unit:
    """What is trained or evaluated: an image set with its targets, a method, a model, a seed, and further factors.

    `kind` says who executes it (`experiment.engine.worker`). `needs` are names of units that must be done first, by
    role: `start` is the unit whose adapter this one goes on from, `steps` the one whose number of optimiser steps it
    takes.
    """

    kind: str
    dataset: str
    targets: tuple[str, ...]
    method: str
    model: str
    seed: int
    factors: Mapping[str, Factor] = field(default_factory=dict, compare=False)
    needs: Mapping[str, str] = field(default_factory=dict, compare=False)
    inputs: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the inputs."""
        return content_hash(self.inputs)

    @property
    def feature_level(self) -> bool:
        """Whether its method is a classifier on the features of a backbone or of CLIP (`baselines`)."""
        return self.model.startswith(CLASSIFIERS)

    @property
    def asks(self) -> str | None:
        """The name of the unit with whose weights it only asks; None where they are its own or those of the base."""
        return self.needs.get(START) if self.kind == EVALUATE else None

    @property
    def slug(self) -> str:
        """The readable part of the name, e.g. `sketch-mtct_sarr-seed0` or `sketch-zero_shot-wording=short-seed0`."""
        targets = "+".join(map(_plain, self.targets)) or FINAL
        factors = [f"{name}={_plain(str(level))}" for name, level in sorted(self.factors.items())]
        return "-".join([targets, _plain(self.method), *factors, f"seed{self.seed}"])

    @property
    def name(self) -> str:
        """Its folder below `units/`."""
        return f"{self.slug}-{self.hash[:8]}"

    @property
    def identity(self) -> tuple[object, ...]:
        """What distinguishes it from the other units of a plan, whatever it is made from."""
        factors = tuple(sorted(self.factors.items()))
        return self.kind, self.dataset, self.model, self.targets, self.method, self.seed, factors

    def to_json(self) -> dict[str, Any]:
        """The content of `unit.json`, which `records.read_record` reads back."""
        return {"schema": SCHEMA, "unit": self.name, "trial": self.inputs.get("trial_seed", 0), **asdict(self)}


def _plain(word: str) -> str:
    return re.sub(r"[^\w.]+", "_", word)
