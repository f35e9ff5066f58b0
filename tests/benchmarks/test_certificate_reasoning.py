"""The conditions on a base's reasoning: measured on answers that are known, and shown with their bars."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import certificate_block
import certificate_reasoning
from certificate_reasoning import Base, ReasoningBars, another, checks, difference, f1, interval
from certificate_reasoning import chains as measure_chains
from records import Certificate
from terse import SURE, description, in_words
from throughline.domains.folders import read_images
from throughline.drawn.concepts import CLASSES, contrast_of
from throughline.drawn.scenes import read_scenes
from throughline.drawn.world import write_world
from throughline.runs.records import Prediction

REASONING: dict[str, dict[str, Any]] = {
    "chains": {"without": 0.40, "behind_true": 0.80, "followed": 0.9},
    "own_chains": {"by_fold": {"photo": 0.4, "sketch": 0.6}, "otherwise": 0.7},
    "parts": {"above_chance": [0.4, 0.3, 0.5], "auxiliary_above_held_out": [0.2, 0.1, 0.3]},
    "examples": {"gain": [0.05, 0.01, 0.09]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    root = tmp_path_factory.mktemp("world") / "drawn"
    write_world(root, per_class=1, seed=3, styles=("photo", "sketch"))
    images = read_images(root, name="drawn")
    return Base(None, images, images.samples, read_scenes(root), images.samples, read_scenes(root))  # type: ignore[arg-type]


@pytest.mark.parametrize(("follows", "behind_true", "followed"), [(True, 0.945, 1.0), (False, 0.0825, 0.0)])
def test_a_chain_is_followed_where_its_class_is_concluded(
    base: Base, follows: bool, behind_true: float, followed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base that concludes what the chain argues for, and one that knows nothing but the first class."""

    def behind_chains(self: Base, samples: Any, chains: list[str]) -> np.ndarray:
        rows = np.full((len(chains), len(CLASSES)), 0.005)
        for row, text in zip(rows, chains, strict=True):
            argued = next(name for name in CLASSES if f"{name}" in text.split("<CONCLUSION>")[1])
            row[CLASSES.index(argued) if follows else 0] = 1 - 0.055
        return rows

    def ask(self: Base, samples: Any, *questions: Any) -> list[Prediction]:
        even = tuple([1 / len(CLASSES)] * len(CLASSES))
        return [Prediction(s.id, s.domain, s.labels, "likelihood", CLASSES[0], "ok", "", even) for s in samples]

    monkeypatch.setattr(Base, "behind_chains", behind_chains)
    monkeypatch.setattr(Base, "ask", ask)
    found = measure_chains(base, seed=0)
    assert found["without"] == pytest.approx(1 / 12)
    assert found["behind_true"] == pytest.approx(behind_true, abs=0.002)
    assert found["followed"] == pytest.approx(followed, abs=0.1)


def test_the_other_scene_has_another_class_and_the_same_style(base: Base) -> None:
    for own in base.samples:
        other = another(base.samples, own, 0, "another scene")
        assert other.domain == own.domain
        assert other.label != own.label


def test_classes_of_a_family_differ_in_words_by_the_deciding_part() -> None:
    assert (in_words("cup"), in_words("bowl")) == ("a basin and a handle", "a basin and no handle")
    assert all(description(cls) != description(contrast_of(cls)) for cls in CLASSES)


def test_the_score_of_named_parts_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    names = np.array(list("abcdefgh"))
    for _ in range(20):
        said, true = rng.random((2, len(names))) < 0.5
        if said.any() or true.any():
            assert f1(frozenset(names[said]), frozenset(names[true])) == pytest.approx(f1_score(true, said))


def test_intervals_hold_their_means() -> None:
    values, others = np.random.default_rng(1).normal(1, 1, 200), np.random.default_rng(2).normal(0, 1, 100)
    mean, low, high = interval(values, 0)
    assert mean == pytest.approx(values.mean())
    assert low < mean < high
    gap, lowest, highest = difference(values, others, 0)
    assert gap == pytest.approx(values.mean() - others.mean())
    assert 0 < lowest < gap < highest
    assert difference(np.zeros(9), np.zeros(9), 0) == (0.0, 0.0, 0.0), "a base that names no part"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("true_chain_helps", {"chains": {"behind_true": 0.69}}),
        ("another_chain_is_followed", {"chains": {"followed": 0.79}}),
        ("own_chain_decides", {"own_chains": {"otherwise": 0.59}}),
        ("own_chains_need_rejection", {"own_chains": {"by_fold": {"photo": 0.4, "sketch": 0.76}}}),
        ("parts_better_than_chance", {"parts": {"above_chance": [0.1, -0.01, 0.2]}}),
        ("parts_worse_than_auxiliary", {"parts": {"auxiliary_above_held_out": [0.1, -0.01, 0.2]}}),
        ("examples_are_used", {"examples": {"gain": [0.1, -0.01, 0.2]}}),
    ],
)
def test_each_condition_fails_alone(name: str, change: dict[str, dict[str, Any]]) -> None:
    assert all(checks(REASONING, ReasoningBars()).values())
    changed = {part: {**values, **change.get(part, {})} for part, values in REASONING.items()}
    assert [key for key, met in checks(changed, ReasoningBars()).items() if not met] == [name]


def test_the_documents_show_every_condition_with_its_bar(tmp_path: Path) -> None:
    from dataclasses import asdict

    rows = certificate_block._reasoning_rows(REASONING, asdict(ReasoningBars()))
    assert set(rows) == set(checks(REASONING, ReasoningBars()))
    assert rows["true_chain_helps"][1:] == ("at least 30 points", "+40.0 points")
    assert rows["examples_are_used"][2] == "+5.0 points, +1.0 to +9.0"
    assert Certificate.model_fields["reasoning"].default is None, "the first laboratory has none"


def test_stages_without_the_conclusion() -> None:
    from throughline.drawn.describer import describe
    from throughline.drawn.scenes import sample_scene

    text = describe(sample_scene(0, "photo", "cup", 0), seed=0, sample_id="x", settings=SURE)
    stages = certificate_reasoning.stages_of(text)
    assert set(stages) == {"SUMMARY", "CAPTION", "REASONING", "REFLECTION"}
    assert certificate_reasoning.stages_of(text[: len(text) // 2]) == {}
