"""Every random draw of ours comes from a generator named by run seed, purpose and item, never from a shared
one: the order of work and the number of workers then cannot change a result."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # who only names a seed need not wait for it
    import numpy as np


def seed_of(seed: int, purpose: str, *names: object) -> int:
    """A 63-bit seed from `(seed, purpose, *names)`; stable across machines and Python versions."""
    text = "\x1f".join([str(seed), purpose, *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, purpose: str, *names: object) -> np.random.Generator:
    """A numpy generator of its own for one purpose and one item, e.g. `generator(0, "scene", "sketch/cup/003")`."""
    import numpy as np

    return np.random.Generator(np.random.PCG64(seed_of(seed, purpose, *names)))
