"""The linear head on real images: who is trained on and asked, on small sets whose answer is known beforehand, and its
tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import documents
import open_styles_head
import open_styles_head_block
from open_styles_head import Bootstrap, ask, summarise, training_sets
from records import APART, DOMAINBED, FEWER, MAJORITY, OTHERS, SAME, HeadRow, OpenStylesHead, this_machine
from throughline.domains.samples import ImageSet, Sample

DOMAINS, CLASSES, CONCEPTS, SEEDS = ("clay", "ink", "wood"), ("cat", "dog", "owl"), 20, (0, 1)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    """Three styles that draw the same concepts, and in one of them images that are concepts of their own."""
    samples = [
        Sample(f"{domain}/{label}/{number}.png", Path(), domain, (label,), f"{domain}{label}{number}", group=group)
        for domain in DOMAINS
        for label in CLASSES
        for number in range(CONCEPTS + 10 * (domain == "ink"))
        for group in [f"{label} {number}" if number < CONCEPTS else None]
    ]
    return ImageSet("drawn", Path(), DOMAINS, CLASSES, tuple(samples))


def features_of(images: ImageSet, names: list[str]) -> np.ndarray:
    """A direction of its own for each name, with a little noise."""
    order = sorted(set(names))
    directions = np.eye(len(order))[[order.index(name) for name in names]]
    return directions + np.random.default_rng(0).normal(scale=0.01, size=directions.shape)


@pytest.fixture(scope="module")
def of_classes(images: ImageSet) -> pd.DataFrame:
    """Answers where features say the class."""
    return asked(images, [sample.label for sample in images.samples])


@pytest.fixture(scope="module")
def of_concepts(images: ImageSet) -> pd.DataFrame:
    """Answers where features say the concept, and nothing of the class."""
    return asked(images, [sample.group or sample.id for sample in images.samples])


def asked(images: ImageSet, names: list[str]) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(open_styles_head, "ALPHAS", (0.1, 1.0))  # quicker
        return ask(images, features_of(images, names), SEEDS)


def groups(images: ImageSet, ids) -> set[str]:
    return {images.by_id[id].group or id for id in ids}


def test_concepts_are_on_one_side_and_training_sets_are_of_one_size(images: ImageSet, of_classes: pd.DataFrame) -> None:
    answers = of_classes
    for seed in SEEDS:
        sets = training_sets(images, seed)
        for target in DOMAINS:
            shown = set(answers[(answers.seed == seed) & (answers.target == target)].image)
            others = {name: [id for d in DOMAINS if d != target for id in sets[name][d]] for name in sets}
            assert not groups(images, shown) & groups(images, others[APART])
            assert groups(images, shown) & groups(images, others[SAME])
            assert not set(sets[APART][target]) & shown
            assert len(others[APART]) == len(others[FEWER]) < len(others[DOMAINBED])
            assert abs(len(others[SAME]) - len(others[APART])) <= len(CLASSES)
    assert not answers[answers.trained_on == APART].shared.any()
    same = answers.groupby(["source", "target", "seed", "trained_on"]).image.apply(frozenset).groupby(level=[1, 2])
    assert (same.nunique() == 1).all()  # every head is asked about the same images


def test_features_of_the_concept_alone_are_worth_all_without_groups_and_nothing_with_them(
    of_concepts: pd.DataFrame,
) -> None:
    cells, means = summarise(of_concepts, {"all": DOMAINS})
    rows = next(cell for cell in cells if (cell.source, cell.target) == (OTHERS, "wood")).rows
    assert rows[DOMAINBED].balanced.mean > 0.9 and rows[DOMAINBED].shared > 0.9
    assert rows[APART].balanced.mean < 0.5 and rows[APART].balanced.low < 1 / 3
    assert rows[SAME].minus_apart.low > 0.2 and rows[DOMAINBED].minus_apart.low > 0.4
    assert means[0].cells == 3 and means[0].rows[SAME].minus_apart.low > 0.2


def test_features_of_the_class_are_worth_all_in_both(of_classes: pd.DataFrame) -> None:
    cells, means = summarise(of_classes, {"all": DOMAINS})
    assert {cell.rows[name].accuracy.mean for cell in cells for name in cell.rows if name != MAJORITY} == {1.0}
    assert [mean.name for mean in means] == [OTHERS, "all → all"] and means[1].cells == 6
    for mean in means:
        assert mean.rows[SAME].minus_apart.low == mean.rows[SAME].minus_apart.high == 0
        assert mean.rows[MAJORITY].balanced.mean == pytest.approx(1 / 3)


def test_concepts_are_drawn_with_all_their_images(of_classes: pd.DataFrame) -> None:
    answers = of_classes
    cell = answers[(answers.source == OTHERS) & (answers.target == "wood") & (answers.trained_on == APART)]
    concepts = sorted(set(cell.concept))
    cell = cell.assign(right=cell.concept.isin(concepts[::2]))
    once = Bootstrap(answers).balanced(cell)
    assert once.mean == pytest.approx(np.mean([own.right.mean() for _, own in cell.groupby("label")]))
    doubled = Bootstrap(answers).balanced(cell.loc[cell.index.repeat(5)])
    assert doubled.interval == once.interval  # more images of a concept say nothing new
    assert 0.1 < once.interval.high - once.interval.low < 0.6


def test_the_tables_show_the_numbers(images: ImageSet, of_concepts: pd.DataFrame, tmp_path: Path) -> None:
    cells, means = summarise(of_concepts, {"all": DOMAINS})
    assert all(block(tmp_path) == "*Not measured yet.*" for block in open_styles_head_block.BLOCKS.values())
    record = OpenStylesHead(
        command="x", images=len(images.samples), images_sha256=images.fingerprint(), tower="a tower", features=9,
        seeds=list(SEEDS), cells=cells, means=means, environment=this_machine(),
    )  # fmt: skip
    (tmp_path / open_styles_head_block.RECORD).write_text(record.model_dump_json())
    held_out, changed, matrix = (documents.BLOCKS[name](tmp_path) for name in open_styles_head_block.BLOCKS)
    row: HeadRow = next(cell for cell in cells if (cell.source, cell.target) == (OTHERS, "ink")).rows[APART]
    value = row.balanced.scaled(100)
    assert f"{value.mean:.1f} ({value.low:.1f} to {value.high:.1f})" in held_out and "33.3 %" in held_out
    assert "| all → all (6) | " in changed and f"| {100 * means[0].rows[DOMAINBED].balanced.mean:.1f} | +" in changed
    assert matrix.count("\n| clay | ") == 1 and "NaN" not in held_out + changed + matrix
