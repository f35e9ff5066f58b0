"""What has to be said before the numbers, and what guessing would give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from throughline.core.files import read_json_lines, write_json, write_json_lines
from throughline.reporting.groups import groups
from throughline.reporting.page import write_page
from throughline.reporting.tables import headline_table
from throughline.reporting.warnings import warnings
from throughline.runs.reader import read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun

pytestmark = pytest.mark.slow

MakeRun = Callable[..., "FakeRun"]
ONE_FOLD: dict[str, Any] = {"targets": ("sketch",), "seeds": (0,)}


def unit_of(folder: Path, method: str) -> Path:
    return next((folder / "units").glob(f"{method}-sketch-0-*"))


def see_images(folder: Path, method: str, images: int, with_chain: int) -> None:
    stage = unit_of(folder, method) / "stage.json"
    write_json(stage, {**json.loads(stage.read_text()), "images": images, "images_with_chain": with_chain})


def headline(folder: Path) -> dict[str, tuple[str, ...]]:
    (group,) = groups(read_run(folder))
    table = headline_table(group, "all")
    return {"": table.columns, **{row[0]: row for row in table.rows}}


def test_a_run_that_is_fair_needs_no_warning(make_run: MakeRun) -> None:
    folder = make_run(methods=("cls", "mtct"), **ONE_FOLD).folder
    for method, with_chain in (("cls", 0), ("mtct", 40)):
        see_images(folder, method, 40, with_chain)
    assert warnings(read_run(folder)) == ()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("images", "with_chain", "words"),
    [
        (4, 4, "mtct is trained on 4 images, others on 40"),
        (40, 35, "mtct has chains for only 35 of its 40 images"),
    ],
)
def test_methods_that_saw_other_images_are_told_with_both_counts(
    images: int, with_chain: int, words: str, make_run: MakeRun
) -> None:
    folder = make_run(methods=("cls", "mtct"), **ONE_FOLD).folder
    see_images(folder, "cls", 40, 0)
    see_images(folder, "mtct", images, with_chain)
    (warning,) = warnings(read_run(folder))
    assert words in warning
    table = headline(folder)
    row = dict(zip(table[""], table["mtct"], strict=True))
    assert (row["images"], row["steps"]) == (str(images), "20")
    assert words in write_page(folder).read_text()


@pytest.mark.usefixtures("undrawn")
def test_a_round_that_accepted_nothing_is_told_and_marked(make_run: MakeRun) -> None:
    folder = make_run(methods=("cls", "mtct_sarr"), **ONE_FOLD).folder
    rounds = unit_of(folder, "mtct_sarr") / "rounds.jsonl"
    first, *others = read_json_lines(rounds)
    write_json_lines(rounds, [{**first, "accepted": 0}, *others])
    assert "round 1 of mtct_sarr (sketch, seed 0) accepted none of 100 chains" in warnings(read_run(folder))
    assert "mtct_sarr †" in headline(folder)
    assert "mtct_sarr †" in write_page(folder).read_text()


def answer_always(folder: Path, method: str, predicted: str | None) -> None:
    path = unit_of(folder, method) / "predictions.jsonl"
    rows = [{**row, "predicted": predicted} for row in read_json_lines(path)]
    write_json_lines(path, rows)


def test_one_class_only_is_told_and_stands_in_the_cell(make_run: MakeRun) -> None:
    folder = make_run(methods=("cls", "mtct"), **ONE_FOLD).folder
    label = read_json_lines(unit_of(folder, "mtct") / "predictions.jsonl").__iter__().__next__()["labels"][0]
    answer_always(folder, "mtct", label)
    told = warnings(read_run(folder))
    assert f"mtct, label path: every image was answered with one class, {label}" in told
    table = headline(folder)
    assert all(cell.endswith("one class") for cell in table["mtct"][1:4])
    assert not any("one class" in cell for cell in table["cls"])


def test_answers_that_name_no_class_are_told_and_stand_in_the_cell(make_run: MakeRun) -> None:
    folder = make_run(methods=("cls", "mtct"), **ONE_FOLD).folder
    rows = [
        {**row, "unparsed": row["n"] - 1} if row["method"] == "mtct" and row["answer"] == "label" else row
        for row in read_json_lines(folder / "results.jsonl")
    ]
    write_json_lines(folder / "results.jsonl", rows)
    assert any(
        line.startswith("mtct, label path: 29 of 30 answers name no class") for line in warnings(read_run(folder))
    )
    assert headline(folder)["mtct"][1].endswith("96.7 % unparsed")


def test_the_table_ends_with_what_guessing_would_give(make_run: MakeRun) -> None:
    folder = make_run(methods=("cls",), **ONE_FOLD).folder
    labels = [row["labels"][0] for row in read_json_lines(unit_of(folder, "cls") / "predictions.jsonl")]
    table = headline(folder)
    most = max(labels.count(label) for label in labels) / len(labels)
    assert table["most frequent class"][1] == f"{100 * most:.1f}"
    assert float(table["chance"][1]) == pytest.approx(100 / len(set(labels)), abs=0.05)


def test_a_class_without_an_image_is_one_to_guess_from(make_run: MakeRun) -> None:
    """As many classes as the likelihoods are of, which were offered."""
    folder = make_run(methods=("cls",), **ONE_FOLD).folder
    path = unit_of(folder, "cls") / "predictions.jsonl"
    rows = [{**row, "labels": ["cup"], "predicted": "cup"} for row in read_json_lines(path)]
    write_json_lines(path, rows)
    assert float(headline(folder)["chance"][1]) == pytest.approx(100 / 3, abs=0.05)
    assert "<dd>3</dd>" in write_page(folder).read_text()
    write_json_lines(path, [row for row in rows if row["answer"] != "likelihood"])
    assert headline(folder)["chance"][1] == "100.0"


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([2.0] * 10 + [1.5] * 10, None),
        ([2.0 * 0.9**step for step in range(20)], "the loss still falls at the end"),
        ([2.0 * 1.1**step for step in range(20)], "the loss rises at the end of training"),
    ],
)
def test_the_curve_says_what_more_training_may_give(losses: list[float], words: str | None, make_run: MakeRun) -> None:
    folder = make_run(methods=("cls",), **ONE_FOLD).folder
    lines = [
        {"stage": "first", "round": 0, "step": 5 * (at + 1), "epoch": at / 8, "lr": 1e-3, "loss": loss, "losses": {}}
        for at, loss in enumerate(losses)
    ]
    write_json_lines(unit_of(folder, "cls") / "training.jsonl", lines)
    told = warnings(read_run(folder))
    assert told == () if words is None else any(words in line for line in told)
