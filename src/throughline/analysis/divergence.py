"""How far apart domains are, in images and in what chains say of them.

    MMD²(A, B) = || mean_{i in A} f(x_i) - mean_{j in B} f(x_j) ||²          (linear kernel, App. A.1 of RD-MLDG)

The paper's f is CLIP's two towers. Rows of `f` have unit length here, so that distances of two encoders can be set
side by side. Means of few samples are never equal: `expected` is what is left when domains are shuffled, and the test
asks how often shuffled domains are as far apart as the real ones.
"""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from throughline.analysis.paper import PAPER
from throughline.analysis.records import WHOSE, Record
from throughline.analysis.section import Scope, Section
from throughline.core.plot import Panel, Plot, Series
from throughline.core.table import Table, tabulate

VERSION = 2
"""Raised when the same vectors, or their encoders, would give other numbers."""

PERMUTATIONS = 999

Of = Literal["images", "chains", "class words", "descriptive words"]


class Pair(Record):
    """Two domains: the squared distance of their means, what chance alone gives, and the permutation test."""

    first: str
    second: str
    distance: float
    expected: float
    """Mean of the same distance over permutations of which image is of which domain."""
    p_value: float


class Divergence(Record):
    """Linear MMD² between domains, of images or of chains."""

    encoder: str
    of: Of
    source: Literal["teacher", "self"] | None
    samples: int
    permutations: int
    mean: float
    """Over the pairs."""
    pairs: tuple[Pair, ...]


def linear_mmd2(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Of two sets of rows `(n, d)`, `(m, d)`."""
    gap = first.mean(axis=0) - second.mean(axis=0)
    return float(gap @ gap)


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
    from sklearn.preprocessing import normalize

    scaled, names = normalize(np.asarray(rows, dtype=np.float64)), np.array(domains, dtype=object)
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


def section(measured: Sequence[Divergence], scope: Scope) -> Section:
    """The distances as a table and pair by pair."""
    return Section(
        "domains",
        "How far apart the domains are",
        "Distance between domains for images, for chains, for words that name classes and for all other words.",
        (divergence_table(measured, scope),),
        (divergence_figure(measured),),
    )


def divergence_table(measured: Sequence[Divergence], scope: Scope) -> Table:
    """Mean distance between domains of each kind, what chance gives, and how many pairs are further apart."""
    return tabulate(
        "Distance between domains, linear MMD²",
        [kind for kind in measured if kind.pairs],
        {
            "of": lambda kind: kind.of if kind.source is None else f"{kind.of}, {WHOSE[kind.source]}",
            "encoder": lambda kind: kind.encoder,
            "samples": lambda kind: str(kind.samples),
            "mean over pairs": lambda kind: f"{kind.mean:.3f}",
            "expected by chance": lambda kind: f"{fmean(pair.expected for pair in kind.pairs):.3f}",
            "pairs with p below 0.05": lambda kind: (
                f"{sum(pair.p_value < 0.05 for pair in kind.pairs)} of {len(kind.pairs)}"
            ),
        },
        scope.notes(
            "Vectors are scaled to unit length. By chance: the same distance with domains shuffled over the samples. "
            "Rows measured on different pairs of domains are not comparable; p is not corrected.",
            f"Published: {PAPER}, CLIP's towers, mean over pairs: images 0.239, GPT-4o's chains 0.099.",
        ),
    )


def divergence_figure(measured: Sequence[Divergence]) -> Plot:
    """A panel for each kind and encoder: a bar for each pair of domains, a mark where chance alone would put it, p at
    its end."""
    kinds = [kind for kind in measured if kind.pairs]
    several = len({kind.encoder for kind in kinds}) > 1
    rows = [
        (kind.encoder, kind.of, kind.source, pair.first, pair.second, pair.distance, pair.expected, pair.p_value)
        for kind in kinds
        for pair in kind.pairs
    ]
    return Plot(
        "divergence",
        "Distance between domains by pair, with the distance expected by chance and the p of the permutation test",
        tuple(_panel(kind, several) for kind in kinds),
        ("encoder", "of", "source", "first", "second", "distance", "expected", "p"),
        tuple(rows),
        height=0.9 + 0.26 * max((len(kind.pairs) for kind in kinds), default=0),
        across=2,
    )


def summary(measured: Sequence[Divergence]) -> list[str]:
    """A line for each kind."""
    return [
        f"distance between domains in {kind.of}, {kind.encoder}: {kind.mean:.3f}, mean over pairs" for kind in measured
    ]


def _panel(kind: Divergence, several: bool) -> Panel:
    places = list(range(len(kind.pairs)))
    distances = [pair.distance for pair in kind.pairs]
    expected = [pair.expected for pair in kind.pairs]
    return Panel(
        (
            Series("distance", distances, places, kind="dots", colour=0),
            Series("expected by chance", expected, places, kind="ticks", colour=1),
        ),
        kind.of + (f", {kind.encoder}" if several else ""),
        x_limits=(0, 1.3 * max([*distances, *expected, 1e-9])),
        y_ticks=[(place, f"{pair.first} – {pair.second}") for place, pair in enumerate(kind.pairs)],
        downwards=True,
        texts=[
            (max(pair.distance, pair.expected), place, f"p {pair.p_value:.3f}") for place, pair in enumerate(kind.pairs)
        ],
    )
