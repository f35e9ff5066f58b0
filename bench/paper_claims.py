"""The paper's claims that an analysis speaks to: `claims` sets them beside what was measured, for `docs/findings.md`.

A claim is a sentence with a direction, fixed before a number is looked at.
"""

import math
from dataclasses import dataclass
from typing import Any

from throughline.analysis.beside_the_paper import Value, recorded
from throughline.metrics.intervals import Interval


@dataclass(frozen=True)
class Claim:
    """What the paper says, its number, how it is measured here, and one value for each fold.

    `above` is what the value has to exceed for the claim to hold, None where there is a number to set beside and
    nothing to decide."""

    says: str
    paper: str
    how: str
    value: Value
    unit: str = "points"
    above: float | None = 0.0
    held_out: bool = False
    """On held-out images, which differ from target to target; those that were trained on are partly the same."""


def less(first: Value, second: Value) -> Value:
    """The difference, where a fold has both."""

    def value(fold: Any) -> Interval | None:
        a, b = first(fold), second(fold)
        return None if a is None or b is None else difference_of(a, b)

    return value


def difference_of(first: Interval, second: Interval) -> Interval:
    """First minus second with the errors added as those of independent measurements: too wide where the two go
    together, too narrow where one rises as the other falls."""
    mean = first.mean - second.mean
    half = math.hypot(first.high - first.low, second.high - second.low) / 2
    return Interval(low=mean - half, high=mean + half, mean=mean)


def _percent(count: int, of: int) -> Interval | None:
    """What is no mean over images: only seeds make it uncertain."""
    return Interval(*[100 * count / of] * 3) if of else None


def _lost(name: str) -> Value:
    """Accuracy that mtct_sarr's last round loses behind a variant of its chain, in points."""
    return recorded("variants", "lost", state="mtct_sarr", name=name)


_LABELS = recorded("moved", "net", after="cls", before="base", source="label", kind="class")
_CHAINS = recorded("moved", "net", after="reasoning", before="base", source="teacher", kind="class")
_OWN_TOKENS = recorded("moved", "net", after="mtct_sarr", before="mtct", source="self", kind="chain")
_TEACHERS_TOKENS = recorded("moved", "net", after="reasoning", before="base", source="teacher", kind="chain")
_SURE_LABELS = recorded("buckets", "high", 100, state="cls", source="label", kind="class")
_SURE_BEHIND = recorded("buckets", "high", 100, state="reasoning", source="teacher", kind="class")
_SURE_BOTH = recorded("buckets", "high", 100, state="mtct", source="label", kind="class")
_UNSURE = recorded("buckets", "low", 100, state="mtct", source="teacher", kind="chain")
_BEHIND = "class tokens above 0.75 after teacher's chains, reasoning − base"
_SHARES = "share above 0.75, cls on labels − reasoning after chains"
_BESIDE = "that − teacher's chain tokens, reasoning − base; no verdict: own chains were probable before"

_SHARED = "tokens common to both lists of 15, teacher's and own chains"
_ABOUT = "share of tokens that are part of a class name, own − teacher's list"

_SHARE = recorded("overlap", lambda own: _percent(len(own.shared), own.of), teacher="mtct", own="mtct_sarr")
_OF_OWN, _OF_TEACHERS = (
    recorded("entropy", lambda own: _percent(own.about_classes, len(own.top)), source=source, after=after)
    for source, after in (("self", "mtct_sarr"), ("teacher", "mtct"))
)

_NAMED = ("base", "teacher"), ("base", "self"), ("mtct", "self"), ("mtct_sarr round 1", "self")
_TEACHERS_CHAINS, _OWN_CHAINS, _WRITTEN, _ROUND = (
    recorded("mismatch", "perplexity", state=state, source=source) for state, source in _NAMED
)
_HOW = "perplexity of accepted chains under the weights that wrote them, mtct − round 1"

_IMAGE, _CHAIN = "accuracy lost with another image, mtct_sarr", "accuracy lost with another image's chain, mtct_sarr"

CHALLENGES = (
    Claim("Labels raise class tokens above 0.75", "+43.38", "label tokens above 0.75, cls − base", _LABELS),
    Claim("Chains hardly do", "+1.88", _BEHIND, _CHAINS, above=None),
    Claim("Labels do so more than chains", "+41.50", "the difference of the two", less(_LABELS, _CHAINS)),
    Claim(
        "More class tokens are above 0.75 after labels than after chains", "92.23 − 86.33", _SHARES,
        less(_SURE_LABELS, _SURE_BEHIND),
    ),
    Claim(
        "Both together come near labels alone", "90.23 %", "label tokens above 0.75 after mtct", _SURE_BOTH, "%", None
    ),
    Claim(
        "A chain in the context raises the untrained model's confidence",
        "+43.28",
        "class tokens above 0.75, with a teacher's chain − without, base",
        recorded("context", "net"),
    ),
    Claim(
        "Some of the teacher's tokens stay below 0.25", "19.33 %", "chain tokens below 0.25 after mtct", _UNSURE, "%",
        None,
    ),
    Claim(
        "Training on own chains raises their tokens above 0.75", "+29.74",
        "tokens of own chains above 0.75, mtct_sarr − mtct, which wrote them", _OWN_TOKENS,
    ),
    Claim("… more than the teacher's chains do", "+27.86", _BESIDE, less(_OWN_TOKENS, _TEACHERS_TOKENS), above=None),
    Claim(
        "The base has a higher perplexity on teacher's chains", "–", "perplexity of teacher's − of own chains, base",
        less(_TEACHERS_CHAINS, _OWN_CHAINS), "",
    ),
    Claim("Entropy falls at different tokens for the two sources", "disjoint", _SHARED, _SHARE, "%", None),
    Claim("For own chains they name classes", "category words", _ABOUT, less(_OF_OWN, _OF_TEACHERS)),
    Claim(
        "Conclusions depend on the image", "not in the paper", _IMAGE, _lost("another image"), held_out=True
    ),
    Claim("Conclusions depend on the chain", "not in the paper", _CHAIN, _lost("another image's chain"), held_out=True),
)  # fmt: skip
ROUNDS = (Claim("The perplexity of own chains falls", "–", _HOW, less(_WRITTEN, _ROUND), ""),)
