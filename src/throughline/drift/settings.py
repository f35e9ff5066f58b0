"""What is measured of drift, and of which chains."""

from pathlib import Path

from pydantic import Field

from throughline.core.settings import Settings


class DriftSettings(Settings):
    """Which chains are measured, and how closely."""

    chains: Path | None = None
    """Store of chains that are forced on the model (default: the model writes chains itself)."""
    own: int = Field(default=1, ge=1)
    """Chains that the model writes about each image, where no store is given."""
    temperature: float = Field(default=0.7, ge=0)
    """Temperature of its sampling; 0 is greedy."""
    per_class: int | None = Field(default=None, ge=1)
    """Images of each class and domain to measure (default: all)."""
    every: int = Field(default=1, ge=0)
    """Tokens from one reading of the answer to the next; with 0 it is read before the first token and at the ends of
    stages only, which costs least."""
    beside: str = "blank"
    """What the true image is compared with: blank, a grey one, or a folder of `throughline drift pairs`, whose
    perception pairs have a counterfactual one."""
    seed: int = 0
    """Seed of what is drawn."""
