"""What an analysis looks at; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from throughline.errors import UsageError


@dataclass(frozen=True)
class AnalyzeSettings:
    """What is looked at. `limit` images of each fold, and of each domain in the divergence, at most; `conclusions_of`
    are the methods whose conclusions are tampered with, None for all that write chains."""

    what: tuple[str, ...]
    limit: int = 200
    clip: str | None = None
    hub: bool = False
    conclusions_of: tuple[str, ...] | None = None


ON_TOKENS = {"probabilities": ("buckets", "moved", "context", "shaded"), "entropy": ("entropy", "overlap")}
FOLD_FIELDS = {**ON_TOKENS, "mismatch": ("mismatch",), "optimisation": ("curves",), "conclusions": ("variants",)}
"""What of a fold's record each analysis fills."""

WHAT = (*FOLD_FIELDS, "divergence", "sensitivity")
"""All analyses."""


def require_known(what: Sequence[str]) -> None:
    """UsageError for an analysis that does not exist."""
    for name in what:
        if name not in WHAT:
            raise UsageError(f"no analysis is called {name!r}", do=f"choose from {', '.join(WHAT)}")
