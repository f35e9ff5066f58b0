"""The methods as lines of a table: a name, words for tables, and the stages that each trains, one after the other.

Free of torch, so that the plan of units and the command line can read it. A method whose first stages are those of
another method goes on from that method's finished adapter: `mtct_sarr` never trains `mtct` a second time.
"""

import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.files import file_sha256
from throughline.core.nearest import did_you_mean
from throughline.runs.unit import PROBE
from throughline.training.objectives import AnswerPath, MarkedPaths, Preference
from throughline.training.stages.context import Stage
from throughline.training.stages.preference import PreferenceStage
from throughline.training.stages.rounds import Rounds
from throughline.training.stages.sft import Sft


@dataclass(frozen=True)
class Method:
    """One row of a results table. Rows stand in the order of `METHODS`, others behind them.

    `baseline` marks what others are compared with, `full` the method that is claimed to be the best, `control` a row
    that exists to explain another one.
    """

    name: str
    stages: tuple[Stage, ...]
    words: str
    """What it learns from, for tables and model cards."""
    baseline: bool = False
    full: bool = False
    control: bool = False
    kind: str | None = None
    """The kind of its units where it is no stages of training (`experiment.engine.worker`)."""
    loss: str | Callable[..., Any] | None = None
    """Of a feature-level method, which trains a classifier on a backbone in the place of stages: its name in
    `baselines`, or a function such as those of `baselines.objectives.LOSSES`."""
    source: str | None = None
    """SHA-256 of the file of a user's own method: part of a unit's hash."""

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return bool(self.stages) or (self.feature_level and self.loss != CLIP_ZERO_SHOT)

    @property
    def feature_level(self) -> bool:
        """Whether it is a classifier on the features of a backbone, or of CLIP."""
        return self.loss is not None

    @property
    def on_clip(self) -> bool:
        """Whether the classifier is on CLIP."""
        return self.loss in CLIP_METHODS

    @property
    def needs_chains(self) -> bool:
        """Whether a teacher's chains feed one of its stages."""
        return any(stage.needs_chains for stage in self.stages)

    @property
    def needs_pairs(self) -> bool:
        """Whether it learns from preference pairs."""
        return any(isinstance(stage, PreferenceStage) for stage in self.stages)

    @property
    def prefers(self) -> bool:
        """Whether one of its objectives is a preference."""
        return any(isinstance(stage.objective, Preference) for stage in self.stages)

    @property
    def self_labelled(self) -> bool:
        """Whether it learns from chains of its own, in rounds."""
        return any(isinstance(stage, Rounds) for stage in self.stages)

    @property
    def paths(self) -> tuple[AnswerPath, ...]:
        """The answer paths that its last stage marks; none where its objective is not the paper's."""
        objective = self.stages[-1].objective if self.stages else None
        return objective.paths if isinstance(objective, MarkedPaths) else ()

    @property
    def starts_from(self) -> str | None:
        """The method whose finished adapter it goes on from."""
        parent = parent_of(self)
        return parent.name if parent is not None else None

    @property
    def own_stages(self) -> tuple[Stage, ...]:
        """Those that it trains itself, behind those of the method that it goes on from."""
        parent = parent_of(self)
        return self.stages[len(parent.stages) if parent is not None else 0 :]

    @property
    def steps_like(self) -> str | None:
        """The method whose number of optimiser steps it takes."""
        return next((stage.steps_like for stage in self.stages if stage.steps_like is not None), None)


LABELS, CHAINS, BOTH = MarkedPaths(("label",)), MarkedPaths(("chain",)), MarkedPaths(("label", "chain"))

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("zero_shot", (), "nothing: the checkpoint as it is", baseline=True),
        Method("cls", (Sft(LABELS),), "labels only", baseline=True),
        Method("reasoning", (Sft(CHAINS),), "a teacher's reasoning chains only"),
        Method("mtct", (Sft(BOTH),), "labels and a teacher's reasoning chains together (MTCT)"),
        # The paper's ablation adds SARR to its reasoning-only baseline; which weights its rounds start from is not
        # known. Ours start where that baseline ends.
        Method(
            "sarr",
            (Sft(CHAINS), Rounds(CHAINS)),
            "reasoning chains, then rounds on its own accepted chains (SARR)",
        ),
        Method(
            "mtct_sarr",
            (Sft(BOTH), Rounds(BOTH)),
            "labels and reasoning chains together (MTCT), then rounds on its own accepted chains (SARR)",
            full=True,
        ),
        *(
            Method(name, (Sft(BOTH), PreferenceStage(sources)), f"as mtct, then {what}")
            for name, sources, what in (
                ("cfp_thinking", ("thinking",), "a preference for its chain over another one about the same image"),
                ("cfp_perception", ("perception",), "a preference for its image over another one with the same chain"),
                ("cfp", ("thinking", "perception"), "both preferences: counterfactual preference (CPO++)"),
                ("dpo_random", ("random_answer",), "a preference for its chain over one about another class's image"),
                ("dpo_crop", ("crop",), "a preference for its image over a small part of it"),
                ("dpo_noise", ("noise",), "a preference for its image over the same in noise"),
                ("dpo_mask", ("mask",), "a preference for its image over the same in part covered"),
            )
        ),
        Method(
            "cfp_rounds",
            (Sft(BOTH), Rounds(Preference())),
            "as mtct, then rounds of a preference for a right chain of its own over a wrong one",
        ),
        Method(
            "dpo_symmetric",
            (Sft(BOTH), PreferenceStage(("perception",), symmetric=True)),
            "as mtct, then for each of two images a preference for its own chain over that of the other",
        ),
        Method(
            "sft_more",
            (Sft(BOTH, steps_like="cfp"),),
            "labels and a teacher's chains, as many optimiser steps as cfp",
            control=True,
        ),
        # The control the paper lacks: as many optimiser steps as mtct_sarr, no self-labelled chains.
        Method(
            "cls_matched",
            (Sft(LABELS, steps_like="mtct_sarr"),),
            "labels only, as many optimiser steps as mtct_sarr",
            control=True,
        ),
        Method(
            "mtct_matched",
            (Sft(BOTH, steps_like="mtct_sarr"),),
            "labels and a teacher's chains, as many optimiser steps as mtct_sarr",
            control=True,
        ),
    )
}


MEASURES: dict[str, Method] = {"probe": Method("probe", (), "linear probes on every point of the model", kind=PROBE)}
"""Rows that stand beside the methods and train no model."""

FEATURE_LEVEL: dict[str, Method] = {
    name: Method(name, (), f"a classifier on a backbone's features: {what}", loss=name)
    for name, what in (
        ("erm", "empirical risk minimisation"),
        ("irm", "invariant risk minimisation"),
        ("mixstyle", "statistics of features mixed between images (MixStyle)"),
        ("coral", "correlation alignment of the domains"),
        ("mldg", "meta-learning of domain generalization"),
        ("swad", "dense averaging of weights"),
        ("smos", "features kept near a frozen backbone, in the place of SMOS's precursor"),
    )
}
"""Methods of `baselines` on a timm backbone."""

CLIP_ZERO_SHOT, LINEAR_PROBE = "clip_zero_shot", "clip_linear_probe"
CLIP_METHODS: dict[str, Method] = {
    name: Method(name, (), f"CLIP: {what}", loss=name)
    for name, what in (
        (CLIP_ZERO_SHOT, "nothing, prompts of the classes averaged over templates"),
        (LINEAR_PROBE, "logistic regression on image features"),
        ("coop", "vectors in the place of the prompts' words (CoOp)"),
        ("clip_lora", "low-rank changes of both encoders (CLIP-LoRA)"),
        ("clip_prompts", "features alike in prompts of several manners, a method of ours for DGCLDTP"),
        ("simple_plus", "a choice among frozen models for each sample (after SIMPLE+)"),
    )
}
"""Methods of `baselines` on a CLIP or SigLIP checkpoint."""

CLASSIFIERS = FEATURE_LEVEL | CLIP_METHODS
"""All feature-level methods."""


def method_table(names: Iterable[str]) -> dict[str, Method]:
    """The methods named, each by its name and after those it goes on from or copies steps from, which are added.

    A name is one of `METHODS`, `MEASURES` or `CLASSIFIERS`, or `file.py:NAME` for a `Method` in a file of the user's.
    Raises ThroughlineError for an unknown name and for a file without such a method.
    """
    table: dict[str, Method] = {}

    def add(method: Method) -> None:
        parent = parent_of(method)
        for needed in (parent.name if parent else None, method.steps_like):
            if needed is not None:
                add(_known(needed))
        table.setdefault(method.name, method)

    for name in names:
        add(_from_file(name) if ".py:" in name else _known(name))
    return table


def parent_of(method: Method, table: Mapping[str, Method] = METHODS) -> Method | None:
    """The method whose stages are the first ones of this method, as many of them as possible."""
    begun = [other for other in table.values() if other.stages and other.stages == method.stages[: len(other.stages)]]
    shorter = [other for other in begun if len(other.stages) < len(method.stages)]
    return max(shorter, key=lambda other: len(other.stages), default=None)


def _known(name: str) -> Method:
    known = METHODS | MEASURES | CLASSIFIERS
    if name not in known:
        raise ThroughlineError(f"no method named {name}", "methods", did_you_mean(name, known, "the methods"))
    return known[name]


def _from_file(name: str) -> Method:
    """The method `NAME` of `file.py:NAME`."""
    place, _, attribute = name.rpartition(":")
    path = Path(place).expanduser()
    if not path.is_file():
        raise ThroughlineError("no such method file", path, "name it as file.py:NAME")
    spec = importlib.util.spec_from_file_location(f"throughline_method_{path.stem}", path)
    assert spec is not None and spec.loader is not None, "a file that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ThroughlineError(f"the method file fails: {type(error).__name__}: {error}", path) from error
    method = getattr(module, attribute, None)
    if not isinstance(method, Method):
        raise ThroughlineError(f"no Method called {attribute} in this file", path, "write NAME = Method(...)")
    if method.name in METHODS | CLASSIFIERS:
        raise ThroughlineError(f"another method has the name {method.name}", path, "give it another one")
    if method.on_clip:
        what = f"the loss {method.loss} is a method on CLIP, and no loss of another"
        raise ThroughlineError(what, path, "name that method in the config")
    return replace(method, source=file_sha256(path))
