"""A linear head on the frozen tower of `smol`: trained on styles of open_styles and asked about another one, with
concepts kept apart and without. Called by `evidence.py open-styles-head`; `open_styles_head_block.py` has its tables.

What is asked is the same in every comparison: a target's images of half B of the concepts, by `data.split_rule:
concepts`. What is trained on differs (`training_sets`). Regularisation is chosen by cross-validation that keeps the
concepts of the training images whole, in the same way whatever these are.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from records import APART, DOMAINBED, FEWER, MAJORITY, OTHERS, SAME, HeadCell, HeadMean, HeadRow, HeadScore
from throughline.domains.open_styles.pictures import RULES
from throughline.domains.samples import ImageSet
from throughline.domains.splits import split_domains
from throughline.metrics.intervals import Interval, bootstrap_generator, percentile_interval
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm

SEEDS = (0, 1, 2)
ALPHAS = tuple(10.0**power for power in range(-1, 7))
FOLDS = 3
DRAWS = 2000

Floats = NDArray[np.float64]


def kinds_of(domains: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The domains of open_styles by what draws them: families of emoji share their concepts, photographs and clip art
    have some of these."""
    return {
        "emoji": tuple(name for name in domains if name in RULES["families"]),
        "photo": ("photo",),
        "clipart": ("clipart",),
    }


def pooled_features(mllm: Mllm, images: ImageSet, report: Callable[[int], None]) -> Floats:
    """`(images, channels)`: the mean over all places of the tower's last feature map, of each image as `mllm` sees
    it."""
    reader, pooled = ImageReader(mllm.chat), []
    with mllm.evaluating(), torch.inference_mode():
        for sample in images.samples:
            maps = mllm.model.model.vision_tower(reader.encode(sample).inputs["pixel_values"]).last_hidden_state
            pooled.append(maps.mean(dim=(2, 3))[0].double().numpy())
            report(len(pooled))
    return np.stack(pooled)


def training_sets(images: ImageSet, seed: int) -> dict[str, dict[str, tuple[str, ...]]]:
    """By name of the set and by domain the ids to train on, always of a split's "in" part.

    `APART`: half A of the concepts. `SAME`: half B, the one that is asked about. `DOMAINBED`: DomainBed's split.
    `FEWER`: of that one as many images of each domain and class as `APART` has. `MAJORITY`: as `APART`.
    """
    rules = {
        APART: split_domains(images, seed, "concepts"),
        SAME: split_domains(images, seed, "concepts", images.domains),
        DOMAINBED: split_domains(images, seed, "domainbed"),
    }
    sets = {name: {domain: split.inside for domain, split in splits.items()} for name, splits in rules.items()}
    fewer = {domain: _as_many(images, own, sets[APART][domain]) for domain, own in sets[DOMAINBED].items()}
    return {**sets, FEWER: fewer, MAJORITY: sets[APART]}


def _as_many(images: ImageSet, given: Sequence[str], like: Sequence[str]) -> tuple[str, ...]:
    """The first of `given`, which are shuffled, with as many of each class as `like` has."""
    room, chosen = Counter(images.by_id[id].label for id in like), []
    for id in given:
        label = images.by_id[id].label
        if room[label]:
            room[label] -= 1
            chosen.append(id)
    return tuple(chosen)


def ask(
    images: ImageSet, features: Floats, seeds: Sequence[int] = SEEDS, report: Callable[[str], None] = lambda _: None
) -> pd.DataFrame:
    """A row for each image that a head is asked about: `trained_on, source, target, seed, image, concept, label,
    right`, `trained` (number of training images), `shared` (is its concept among theirs?). `features` are those of
    `images.samples`, in their order."""
    table = pd.DataFrame(
        {
            "image": [sample.id for sample in images.samples],
            "concept": [sample.group or sample.id for sample in images.samples],
            "label": [sample.label for sample in images.samples],
        }
    )
    row_of = {id: row for row, id in enumerate(table.image)}
    answers = []
    for seed in seeds:
        halves = split_domains(images, seed, "concepts", images.domains)
        asked = {target: [row_of[id] for id in (*half.inside, *half.out)] for target, half in halves.items()}
        for name, parts in training_sets(images, seed).items():
            for source, sources, targets in _directions(images.domains, alone=name in {APART, MAJORITY}):
                report(f"seed {seed}, {name}: {source} → {', '.join(targets)}")
                rows = [row_of[id] for domain in sources for id in parts[domain]]
                own = table.iloc[rows]
                head = fit_head(features[rows], own.label, own.concept, constant=name == MAJORITY)
                for target in targets:
                    cell = table.iloc[asked[target]].assign(trained_on=name, source=source, target=target, seed=seed)
                    cell["right"] = head.predict(features[asked[target]]) == cell.label
                    answers.append(cell.assign(trained=len(rows), shared=cell.concept.isin(own.concept)))
    return pd.concat(answers, ignore_index=True)


def _directions(domains: Sequence[str], alone: bool) -> Iterator[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """From one domain to every other, and to itself where the images asked about are not trained on (`alone`); from
    all others to each. A name, the sources, the targets."""
    for domain in domains:
        others = tuple(name for name in domains if name != domain)
        yield domain, (domain,), tuple(domains) if alone else others
        yield OTHERS, others, (domain,)


def fit_head(features: Floats, labels: pd.Series, concepts: pd.Series, constant: bool = False) -> RidgeClassifier:
    """Ridge regression on the classes, each weighted alike, regularised as concepts left out in turn say; or, if
    `constant`, the commonest class whatever is shown."""
    if constant:
        return DummyClassifier(strategy="most_frequent").fit(features, labels)
    heads = [RidgeClassifier(alpha=alpha, class_weight="balanced") for alpha in ALPHAS]
    folds = GroupKFold(FOLDS, shuffle=True, random_state=0)
    scores = [
        balanced_accuracy_score(labels, cross_val_predict(head, features, labels, groups=concepts, cv=folds))
        for head in heads
    ]
    return heads[int(np.argmax(scores))].fit(features, labels)


# what the answers are worth -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """A share, and the same for every draw of the bootstrap."""

    mean: float
    draws: Floats

    def __sub__(self, other: "Score") -> "Score":
        return Score(self.mean - other.mean, self.draws - other.draws)

    @property
    def interval(self) -> Interval:
        """Over concepts and seeds."""
        return percentile_interval(self.draws, self.mean)

    @staticmethod
    def average(scores: Sequence["Score"]) -> "Score":
        """Of several cells, in the same draws."""
        return Score(
            float(np.mean([score.mean for score in scores])), np.mean([score.draws for score in scores], axis=0)
        )


class Bootstrap:
    """Draws concepts with all their images, and seeds, with replacement. One draw serves all cells and training sets,
    since the same concepts stand behind them; the heads are not trained anew."""

    def __init__(self, answers: pd.DataFrame) -> None:
        rng = bootstrap_generator()
        self.concepts, self.seeds = (np.unique(answers[name]) for name in ("concept", "seed"))
        self.concept_draws, self.seed_draws = (
            rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
            for names in (self.concepts, self.seeds)
        )

    def accuracy(self, cell: pd.DataFrame) -> Score:
        """The share of right answers."""
        concepts, seeds = np.searchsorted(self.concepts, cell.concept), np.searchsorted(self.seeds, cell.seed)
        counts = np.zeros((2, len(self.concepts), len(self.seeds)))
        np.add.at(counts, (0, concepts, seeds), cell.right)
        np.add.at(counts, (1, concepts, seeds), 1)
        right, asked = ((self.concept_draws @ count * self.seed_draws).sum(axis=1) for count in counts)
        with np.errstate(invalid="ignore"):  # a draw may have none of a small class
            return Score(float(cell.right.mean()), right / asked)

    def balanced(self, cell: pd.DataFrame) -> Score:
        """The mean over classes of the share of right answers; in a draw over those that it has."""
        classes = [self.accuracy(own) for _, own in cell.groupby("label")]
        draws = np.nanmean([score.draws for score in classes], axis=0)
        return Score(float(np.mean([score.mean for score in classes])), draws)


def summarise(answers: pd.DataFrame, kinds: Mapping[str, Sequence[str]]) -> tuple[list[HeadCell], list[HeadMean]]:
    """Every pair of source and target; and means over targets with all others as sources, and over the pairs of
    different domains of two `kinds`."""
    bootstrap, cells, scores = Bootstrap(answers), list[HeadCell](), dict[tuple[str, str], dict[str, Score]]()
    for (source, target), pair in answers.groupby(["source", "target"]):
        sets = dict(iter(pair.groupby("trained_on")))
        balanced = scores[source, target] = {name: bootstrap.balanced(own) for name, own in sets.items()}
        compared = _compared(balanced)
        rows = {
            name: HeadRow(
                trained=float(own.groupby("seed").trained.first().mean()),
                shared=float(own.shared.mean()),
                accuracy=bootstrap.accuracy(own).interval,
                **dict(compared[name]),
            )
            for name, own in sets.items()
        }
        asked = float(sets[APART].groupby("seed").size().mean())
        cells.append(HeadCell(source=source, target=target, asked=asked, rows=rows))
    pairs = {OTHERS: [pair for pair in scores if pair[0] == OTHERS]}
    for kind, sources in kinds.items():
        for other, targets in kinds.items():
            if different := [(a, b) for a in sources for b in targets if a != b]:
                pairs[f"{kind} → {other}"] = different
    means = []
    for name, own in pairs.items():
        average = {key: Score.average([scores[pair][key] for pair in own]) for key in scores[own[0]]}
        means.append(HeadMean(name=name, cells=len(own), rows=_compared(average)))
    return cells, means


def _compared(balanced: Mapping[str, Score]) -> dict[str, HeadScore]:
    """Each training set's balanced accuracy, and its difference from that of concepts kept apart."""
    minus = {name: (score - balanced[APART]).interval for name, score in balanced.items() if name != APART}
    return {name: HeadScore(balanced=score.interval, minus_apart=minus.get(name)) for name, score in balanced.items()}
