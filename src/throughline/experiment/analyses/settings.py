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
    """Analyses: probabilities, entropy, mismatch, optimisation, conclusions, divergence, sensitivity (default: all)."""
    limit: int | None = Field(default=None, ge=1)
    """Most images per fold (one target and seed) and per domain (default: as before, else 200)."""
    methods: tuple[str, ...] | None = None
    """Methods whose chains and images are changed to test the conclusion (default: all that write chains)."""
    clip: str | None = None
    """CLIP or SigLIP checkpoint for the divergence, in addition to the model's own towers."""
    images: Path | None = None
    """Where the run's images lie."""
    hub: bool = False
    """Allow a checkpoint's download from the Hugging Face hub."""
    checkpoint: str | None = None
    """Where the run's checkpoint lies."""
    device: str = "auto"
    """Where to compute; `auto` is what the run's config says."""
