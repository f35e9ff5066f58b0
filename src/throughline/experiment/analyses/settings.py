"""What an analysis looks at; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from throughline.analysis.document import WHAT, Analysis
from throughline.core.errors import UsageError

USUAL_LIMIT = 200


@dataclass(frozen=True)
class AnalyzeSettings:
    """What is looked at. `limit` images of each fold, and of each domain in the divergence, at most: None is what an
    earlier call took, else `USUAL_LIMIT`. `conclusions_of` are the methods whose conclusions are tampered with, None
    for all that write chains."""

    what: tuple[str, ...] = WHAT
    limit: int | None = None
    clip: str | None = None
    hub: bool = False
    conclusions_of: tuple[str, ...] | None = None
    images: Path | None = None
    """Where the run's images lie, if not where its config says."""
    checkpoint: str | None = None
    """The same for its checkpoint."""
    device: str = "auto"
    """Where to compute: `auto` is what the run's config says."""

    @property
    def images_at_most(self) -> int:
        """The limit."""
        return self.limit or USUAL_LIMIT

    def with_limit_of(self, before: Analysis | None) -> AnalyzeSettings:
        """These with a limit: what was measured of other images could not stand beside what is measured now."""
        earlier = before.limit if before is not None else USUAL_LIMIT
        return replace(self, limit=self.limit or earlier)


def require_known(what: Sequence[str]) -> None:
    """UsageError for an analysis that does not exist."""
    for name in what:
        if name not in WHAT:
            raise UsageError(f"no analysis is called {name!r}", do=f"choose from {', '.join(WHAT)}")
