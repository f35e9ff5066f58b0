"""How far apart domains are, in images and in what chains say of them.

    MMD²(A, B) = || mean_{i in A} f(x_i) - mean_{j in B} f(x_j) ||²          (linear kernel, App. A.1 of RD-MLDG)

The paper's f is CLIP's two towers. Rows of `f` have unit length here, so that distances of two encoders can be set
side by side. Means of few samples are never equal: `expected` is what is left when domains are shuffled, and the test
asks how often shuffled domains are as far apart as the real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from throughline.analysis.records import Divergence, Pair

VERSION = 2
"""Raised when the same vectors, or their encoders, would give other numbers."""

PERMUTATIONS = 999

Of = Literal["images", "chains", "class words", "descriptive words"]


def linear_mmd2(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Of two sets of rows `(n, d)`, `(m, d)`."""
    gap = first.mean(axis=0) - second.mean(axis=0)
    return float(gap @ gap)


def unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows scaled to length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1), dtype=np.float64)


def divergence(
    rows: NDArray[np.float64],
    domains: Sequence[str],
    encoder: str,
    of: Of,
    source: Literal["teacher", "self"] | None,
    permutations: int = PERMUTATIONS,
) -> Divergence | None:
    """All pairs of domains; `rows` `(samples, d)` are scaled here, rows of zeros say nothing and are left out. None
    where fewer than two domains have samples."""
    scaled, names = unit_rows(np.asarray(rows, dtype=np.float64)), np.array(domains, dtype=object)
    said = scaled.any(axis=1)
    scaled, names = scaled[said], names[said]
    pairs = [
        _pair(scaled[names == a], scaled[names == b], str(a), str(b), permutations)
        for a, b in combinations(sorted(set(names)), 2)
    ]
    if not pairs:
        return None
    return Divergence(
        encoder=encoder,
        of=of,
        source=source,
        samples=len(scaled),
        permutations=permutations,
        mean=float(np.mean([pair.distance for pair in pairs])),
        pairs=tuple(pairs),
    )


def _pair(first: NDArray[np.float64], second: NDArray[np.float64], a: str, b: str, permutations: int) -> Pair:
    both, count = np.concatenate([first, second]), len(first)
    rng = np.random.default_rng(0)
    seen = linear_mmd2(first, second)
    shuffled = []
    for _ in range(permutations):
        order = rng.permutation(len(both))
        shuffled.append(linear_mmd2(both[order[:count]], both[order[count:]]))
    # The real assignment is one of the permutations: p is never 0 (Phipson and Smyth 2010).
    p_value = (1 + sum(value >= seen for value in shuffled)) / (1 + permutations)
    return Pair(first=a, second=b, distance=seen, expected=float(np.mean(shuffled)), p_value=p_value)
