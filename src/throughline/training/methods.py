"""The methods as lines of a table: what each trains, and which other method's work it goes on from.

Free of torch, so that the plan of units and the command line can read it; `objectives` turns a line into a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AnswerPath = Literal["label", "chain"]


@dataclass(frozen=True)
class Method:
    """One row of the paper's ablation. `starts_from` is the method whose finished adapter this one goes on from."""

    name: str
    marked: tuple[AnswerPath, ...]
    self_labelled: bool = False
    starts_from: str | None = None
    steps_like: str | None = None

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return bool(self.marked)

    @property
    def needs_chains(self) -> bool:
        """Whether a teacher's chains feed this method's own first stage."""
        return "chain" in self.marked and not self.self_labelled


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("zero_shot", ()),
        Method("cls", ("label",)),
        Method("reasoning", ("chain",)),
        Method("mtct", ("label", "chain")),
        # The paper's ablation adds SARR to its reasoning-only baseline; which weights its rounds start from is not
        # known. Ours start where that baseline ends.
        Method("sarr", ("chain",), self_labelled=True, starts_from="reasoning"),
        Method("mtct_sarr", ("label", "chain"), self_labelled=True, starts_from="mtct"),
        # The control the paper lacks: as many optimiser steps as mtct_sarr, no self-labelled chains.
        Method("cls_matched", ("label",), steps_like="mtct_sarr"),
        Method("mtct_matched", ("label", "chain"), steps_like="mtct_sarr"),
    )
}
