"""The records of an export: what was asked for, what came along, and everything that did not. `selection` and
`export` fill them; the dataset card and the command line show them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.chains.formats import ChainFormat
from throughline.chains.rules import RULES
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet
from throughline.teaching.printable import printable

NAMED = 10
"""How many of the things left out are named; all are counted."""


@dataclass(frozen=True)
class ExportPlan:
    """Which chains are exported, and what goes with them. ThroughlineError for an unknown rule."""

    images: ImageSet
    format: ChainFormat
    rule: str = "correct"
    every_accepted: bool = False
    """All accepted chains of an image, not only the first."""
    with_labels: bool = False
    """The label question goes into the JSONL as well."""
    licence: str | None = None
    """As the Hub names it."""
    measured: str | None = None
    """A section of the card, in Markdown."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ThroughlineError("unknown verdict rule", repr(self.rule), f"name one of {', '.join(RULES)}")


@dataclass(frozen=True)
class LeftOut:
    """Things that did not come along: how many, and the names of the first."""

    count: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, names: Iterable[str]) -> LeftOut:
        """Each name counted once; the first in sorted order are named."""
        distinct = sorted(set(names))
        return cls(len(distinct), tuple(distinct[:NAMED]))

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.names) else ""
        return f"{self.count:,}" + (
            f" ({', '.join(printable(name, 200) for name in self.names)}{more})" if self.names else ""
        )


@dataclass(frozen=True)
class Spent:
    """What answers took, in sum; the `*_reported` count the answers that say so. `cost` in US dollars."""

    answers: int = 0
    tokens_reported: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_reported: int = 0
    cost: float = 0.0

    @classmethod
    def on(cls, answers: Any) -> Spent:
        """Sums rows of a store's answers."""
        tokens = answers[["prompt_tokens", "completion_tokens"]]
        return cls(
            answers=len(answers),
            tokens_reported=int(tokens.notna().any(axis=1).sum()),
            prompt_tokens=int(tokens["prompt_tokens"].sum()),
            completion_tokens=int(tokens["completion_tokens"].sum()),
            cost_reported=int(answers["cost"].notna().sum()),
            cost=math.fsum(answers["cost"].dropna()),
        )

    def __str__(self) -> str:
        tokens, cost = "tokens not reported", "cost not reported"
        if self.tokens_reported:
            tokens = f"{self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
            tokens += f" (reported by {self.tokens_reported:,})"
        if self.cost_reported:
            cost = f"${self.cost:,.4f} (reported by {self.cost_reported:,})"
        return f"{tokens}, {cost}"


@dataclass(frozen=True)
class ExportSummary:
    """What an export holds and what it does not."""

    folder: Path
    rule: str
    images: int
    """Samples with a chain in the export."""
    asked: int
    """Samples of the image folder that the store has a request for."""
    accepted: dict[str, int]
    """Rule → asked samples of which it accepts at least one candidate, whatever a judge said."""
    spent: Spent
    """By all answers of the store."""
    failed: int
    """Requests that never got an answer."""
    duplicates: int
    """Lines of a request beyond the one that stands."""
    other_format: int
    """Answers in another chain format."""
    other_classes: int
    """Answers to another class list; they are judged by the image folder's."""
    vetoed: int
    """Answers that the rule accepts and a judge model does not."""
    missing: LeftOut
    """Samples of the store that the image folder does not have."""
    changed: LeftOut
    """Samples whose image is no longer the one that was asked about."""
    problems: LeftOut
    """Lines of the store that cannot be used."""
    chains: int = 0
    """Rows of the Parquet."""
    shards: tuple[str, ...] = ()
    """The Parquet files, relative to the folder."""
    jsonl_rows: int = 0
    """Rows of each JSONL file."""
    spent_on_exported: Spent = Spent()
    marked: LeftOut = LeftOut()
    """Samples with a chain that is in the Parquet only: see `trainer_formats.control_mark`."""

    def lines(self) -> list[str]:
        """The summary in sentences: what came along, then everything that did not."""
        shares = ", ".join(f"{rule} {share(count, self.asked)}" for rule, count in self.accepted.items())
        left = {
            "left out, as the image folder does not have them": self.missing,
            "left out, as the image is another than the one asked about": self.changed,
            "left out, in another chain format": LeftOut(self.other_format),
            "left out, as the judge did not agree": LeftOut(self.vetoed),
            "left out, lines that cannot be used": self.problems,
            "requests that never got an answer": LeftOut(self.failed),
            "lines of a request beyond the one that stands": LeftOut(self.duplicates),
            "answers to another class list, judged by this one": LeftOut(self.other_classes),
            "in the Parquet only, for control tokens in the text": self.marked,
        }
        return [
            f"{self.chains:,} chains on {self.images:,} of {self.asked:,} asked images, accepted by rule {self.rule}",
            f"asked images with an accepted chain, by rule: {shares}",
            f"all {self.spent.answers:,} answers of the store: {self.spent}",
            *(f"{what}: {those}" for what, those in left.items() if those.count),
        ]


def share(count: int, of: int) -> str:
    """A share in per cent; a dash where there is nothing to share."""
    return f"{count / of:.1%}" if of else "–"
