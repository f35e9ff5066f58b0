"""What an analysis looks at; free of torch."""

from pathlib import Path

from pydantic import Field

from throughline.analysis.document import WHAT
from throughline.core.settings import Settings

USUAL_LIMIT = 200


class AnalyzeSettings(Settings):
    """What is looked at, and where it lies if not where the run's config says. The first four are options of the
    verb."""

    what: tuple[str, ...] = WHAT
    """Probabilities, entropy, mismatch, optimisation, conclusions, divergence, sensitivity (default: all)."""
    limit: int | None = Field(default=None, ge=1)
    """Images of a fold, and of a domain, that are looked at, at most (default: as before, else 200)."""
    methods: tuple[str, ...] | None = None
    """Methods whose conclusions are tampered with (default: all that write chains)."""
    clip: str | None = None
    """A CLIP checkpoint for the divergence, beside the model's own towers."""
    images: Path | None = None
    """Where the run's images lie."""
    hub: bool = False
    """Allow a checkpoint's download from the Hugging Face hub."""
    checkpoint: str | None = None
    """Where the run's checkpoint lies."""
    device: str = "auto"
    """Where to compute; `auto` is what the run's config says."""
