"""Which draw of a search each selection rule chooses: a function of a run's records alone.

The rules are those of facebookresearch/DomainBed, domainbed/model_selection.py. Each chooses, for one target and seed,
the draw with the highest share of its own, and reports the accuracy of that draw on the target's `in` split:

    training_domain       IIDAccuracySelectionMethod: mean over the source domains of the accuracy on their `out` splits
    leave_one_domain_out  LeaveOneOutSelectionMethod: mean over the source domains of the accuracy on the `in` split of
                          that domain when it is held out together with the target
    oracle                OracleSelectionMethod: accuracy on the target's `out` split, of the last checkpoint
    last                  no choice: draw 0, the config as it is written

All shares are of the first answer path of the config. Of equal draws the one with the lower number is chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from throughline.runs.records import Factor
from throughline.runs.unit import DRAW, VALIDATE, Unit

if TYPE_CHECKING:
    from throughline.runs.reader import Run

TRAINING_DOMAIN, LEAVE_ONE_DOMAIN_OUT, ORACLE, LAST = "training_domain", "leave_one_domain_out", "oracle", "last"


@dataclass(frozen=True)
class Draw:
    """A finished unit of a search, its name and further factors, and the share that each rule looks at; None where it
    was not measured."""

    number: int
    unit: Unit
    name: str
    others: Mapping[str, Factor]
    shares: Mapping[str, float | None]


def find_draws(run: Run) -> list[list[Draw]]:
    """The finished draws that the run's config has, those of one method, target, seed and combination of the other
    factors together: one of them is to be chosen."""
    levels, answer = run.config["factors"][DRAW], first_answer(run)
    out = {r.unit: r.accuracy for r in run.results if (r.round, r.split, r.answer) == (None, "out", answer)}
    searched = [folder for folder in run.units.values() if folder.unit.factors.get(DRAW) in levels]
    validated = {folder.unit.identity: folder.validated() for folder in searched if folder.done}
    pairs = {(folder.unit.dataset, folder.unit.targets) for folder in searched if len(folder.unit.targets) > 1}
    draws: dict[object, list[Draw]] = {}
    for folder in (folder for folder in searched if folder.done and len(folder.unit.targets) == 1):
        unit, others = folder.unit, dict(folder.unit.factors)
        number, (target,) = int(others.pop(DRAW)), unit.targets
        held_out = [
            validated.get(replace(unit, kind=VALIDATE, targets=pair).identity, {}).get(source)
            for dataset, pair in pairs
            for source in pair
            if dataset == unit.dataset and target in pair and source != target
        ]
        shares = {TRAINING_DOMAIN: _mean(validated[unit.identity].values()), LEAVE_ONE_DOMAIN_OUT: _mean(held_out)}
        shares |= {ORACLE: out.get(folder.name), LAST: None if number else 1.0}
        same = draws.setdefault(replace(unit, factors=others).identity, [])
        same.append(Draw(number, unit, folder.name, others, shares))
    return list(draws.values())


def choose(draws: Sequence[Draw], rule: str) -> Draw | None:
    """The draw that a rule chooses among those that it knows the share of; None without any."""
    ranked = [(share, -draw.number, draw) for draw in draws if (share := draw.shares[rule]) is not None]
    return max(ranked)[2] if ranked else None


def first_answer(run: Run) -> str:
    """The answer path that draws are compared on."""
    return str(run.config["evaluation"]["answering"]["answers"][0])


def _mean(shares: Iterable[float | None]) -> float | None:
    """None where one is missing, or all are."""
    known = list(shares)
    return None if not known or None in known else fmean(share for share in known if share is not None)
