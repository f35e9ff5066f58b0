"""Labelled examples for prompts (in-context learning): which images of a pool, in what order, with which labels.

A choice is drawn from its seed alone. With fewer shots it is the beginning of the same choice, so that a curve over
shots adds examples and exchanges none. Called by `experiment.shots`.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from throughline.core.errors import ThroughlineError
from throughline.core.seeding import generator, seed_of
from throughline.domains.samples import ImageSet, Sample

Example = tuple[Sample, str]
Embeddings = NDArray[np.float64]
"""`(samples, width)`, one row a sample."""


def example_pool(
    images: ImageSet, targets: Collection[str], domains: str | Sequence[str], asked: Sequence[Sample]
) -> tuple[Sample, ...]:
    """The images that can be examples: of the `target`, of its `sources`, or of domains by name, without those `asked`
    about and those of their groups. Raises a ThroughlineError where none is left."""
    if isinstance(domains, str):
        domains = [name for name in images.domains if (name in targets) == (domains == "target")]
    for name in domains:
        images.require_domain(name)
    ids, groups = {sample.id for sample in asked}, {sample.group for sample in asked} - {None}
    pool = [s for s in images.samples if s.domain in domains and s.id not in ids and s.group not in groups]
    if not pool:
        what = f"no image of {', '.join(domains) or 'another domain'} is left to be an example: all are asked about"
        raise ThroughlineError(
            what, do="ask about fewer with evaluation.sample.per_class, or name evaluation.examples.domains"
        )
    return tuple(pool)


def draw_examples(
    pool: Sequence[Sample], shots: int, seed: int, shares: Mapping[str, float] | None = None, spurious: float = 0.0
) -> tuple[Sample, ...]:
    """`shots` samples of the pool: its classes in turn, or in proportion to `shares`.

    With `spurious`, the share of examples that come from a domain which goes with their class: classes are dealt to the
    pool's domains in a drawn order. The other examples are of any domain. Raises a ThroughlineError for a class of
    `shares` that is not in the pool, where a class has too few images, and for a correlation with the one domain.
    """
    classes = sorted({sample.label for sample in pool})
    if unknown := sorted(set(shares or {}) - set(classes)):
        raise ThroughlineError(f"no image of the class {unknown[0]} can be an example", do="leave it out of shares")
    weights = {label: (shares or {}).get(label, 0.0 if shares else 1.0) for label in classes}
    total = sum(weights.values())
    drawn = generator(seed, "classes").permutation(len(classes))
    turn = [classes[place] for place in drawn]  # whose turn it is among equals
    domains = sorted({sample.domain for sample in pool})
    if spurious and len(domains) < 2:
        raise ThroughlineError("a spurious correlation needs 2 domains", do="name them in evaluation.examples.domains")
    domain_of = {label: domains[place % len(domains)] for place, label in enumerate(turn)}
    left = sorted(pool, key=lambda sample: seed_of(seed, "example", sample.id))
    counts, chosen = Counter[str](), list[Sample]()
    for number in range(shots):
        label = max(turn, key=lambda label: weights[label] / total * (number + 1) - counts[label])
        tied = generator(seed, "spurious", number).random() < spurious
        own = [s for s in left if s.label == label and (not tied or s.domain == domain_of[label])]
        if not own:
            where = f" in {domain_of[label]}" if tied else ""
            what = f"{shots} examples need more images of {label}{where} than there are"
            raise ThroughlineError(what, do="ask for fewer shots, or about fewer images")
        counts[label] += 1
        chosen.append(own[0])
        left.remove(own[0])
    return tuple(chosen)


def spread_examples(pool: Sequence[Sample], embeddings: Embeddings, shots: int, seed: int) -> tuple[Sample, ...]:
    """`shots` samples that lie far from one another: the first is drawn, each further one is that whose nearest chosen
    one is the farthest (k-center by greedy choice)."""
    from sklearn.preprocessing import normalize

    unit = normalize(embeddings)
    chosen = [int(generator(seed, "spread").integers(len(pool)))]
    distance = 1 - unit @ unit[chosen[0]]
    while len(chosen) < min(shots, len(pool)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, 1 - unit @ unit[chosen[-1]])
    return tuple(pool[place] for place in chosen[:shots])


def nearest_examples(
    pool: Sequence[Sample], embeddings: Embeddings, asked: Embeddings, shots: int
) -> list[tuple[Sample, ...]]:
    """For each asked image the `shots` samples of the pool with the highest cosine similarity, the nearest last, where
    it stands beside the question."""
    from sklearn.preprocessing import normalize

    similarity = normalize(asked) @ normalize(embeddings).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :shots]
    return [tuple(pool[place] for place in row[::-1]) for row in order]


def in_order(chosen: Sequence[Sample], order: int) -> tuple[Sample, ...]:
    """The examples in a drawn order; in order 0 as they were chosen."""
    return tuple(sorted(chosen, key=lambda sample: seed_of(order, "order", sample.id))) if order else tuple(chosen)


def vote(rows: Embeddings, labels: Sequence[str], asked: NDArray[np.float64], neighbours: int) -> str:
    """The class of most of the labelled rows nearest to `asked` `(width,)` by cosine, of all where there are fewer."""
    from sklearn.neighbors import KNeighborsClassifier

    model = KNeighborsClassifier(min(neighbours, len(labels)), metric="cosine")
    return str(model.fit(rows, labels).predict([asked])[0])


def with_labels(chosen: Sequence[Sample], shuffled: bool = False) -> tuple[Example, ...]:
    """The examples with their classes. Shuffled, each has the label of another one, of another class wherever no class
    has more than half of them; every label occurs as often as before."""
    labels = [sample.label for sample in chosen]
    if shuffled and labels:
        by_label = sorted(range(len(labels)), key=lambda place: (labels[place], place))
        step = max(Counter(labels).values())
        moved = dict(zip(by_label, by_label[step:] + by_label[:step], strict=True))
        labels = [labels[moved[place]] for place in range(len(labels))]
    return tuple(zip(chosen, labels, strict=True))
