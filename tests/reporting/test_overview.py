"""The card on top of the page: which method won, and whether by chance, in the numbers of the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from throughline.core.files import read_json_lines, write_json_lines
from throughline.reporting.estimates import against_baseline, ahead_of_all, summarise
from throughline.reporting.groups import Group, groups
from throughline.reporting.overview import Overview, overview
from throughline.reporting.tables import comparison_table, page_table, results_table
from throughline.runs.reader import read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun

MakeRun = Callable[..., "FakeRun"]


def group_of(fake: FakeRun) -> Group:
    (group,) = groups(read_run(fake.folder))
    return group


def card_of(group: Group) -> Overview:
    by_answer = {answer: against_baseline(group, answer) for answer in group.answers}
    return overview(group, summarise(group, "all", group.main_answer), by_answer, ahead(group))


def ahead(group: Group) -> str | None:
    return ahead_of_all(group, group.main_answer, summarise(group, "all", group.main_answer))


def answers_like(fake: FakeRun, method: str, right: int) -> None:
    """Has a method answer rightly about the first images of a unit, as many as `right`, on every path."""
    for unit in fake.folder.glob(f"units/{method}-*"):
        rows = read_json_lines(unit / "predictions.jsonl")
        for number, row in enumerate(rows):
            wrong = "boat" if row["labels"] != ["boat"] else "cup"
            row.update(predicted=row["labels"][0] if number // 3 < right else wrong, outcome="ok")
        write_json_lines(unit / "predictions.jsonl", rows)
    lines = read_json_lines(fake.folder / "results.jsonl")
    for line in lines:
        if line["method"] == method and line["split"] == "all" and line["round"] is None:
            line.update(correct=right, accuracy=right / line["n"])
    write_json_lines(fake.folder / "results.jsonl", lines)


def test_the_verdict_is_of_the_full_method_in_the_numbers_of_the_table(fake_run: FakeRun) -> None:
    group = group_of(fake_run)
    compared = comparison_table(group, "label")
    assert compared is not None
    gap, interval, _, p, _ = next(row[1:] for row in compared.rows if row[0] == "mtct_sarr")
    low, high = interval.replace("+", "").split(" to ")
    card = card_of(group)
    verdict = card.verdicts[0]
    assert verdict.difference == f"mtct_sarr − cls: {gap} points [{low}, {high}]".replace("-", "−")
    assert (verdict.word, card.setups) == ("better", ("cls", "mtct_sarr"))
    assert verdict.chance == f"By chance? Hardly: p {p} after Holm's correction over 5 comparisons."
    assert verdict.about == "The whole method against the baseline"
    assert card.methods["cls"] == "the baseline: labels only" and card.methods["mtct_sarr"].startswith(
        "the whole method"
    )
    assert (
        card.note.startswith("Answers on the label path")
        and "seeds and images" in card.note
        and "One seed" not in card.note
    )
    assert card.facts == {
        "images": "60 held out", "held-out domains": "painting, sketch", "classes": "3", "seeds": "3",
        "checkpoint": "pocket", "guessing gives": "33.3 %",
    }  # fmt: skip


def test_a_full_method_that_is_worse_is_said_to_be_and_the_better_one_is_named(make_run: MakeRun) -> None:
    fake = make_run(methods=("cls", "mtct", "mtct_sarr"), seeds=(0,), targets=("sketch",))
    for method, right in (("cls", 15), ("mtct", 29), ("mtct_sarr", 2)):
        answers_like(fake, method, right)
    card = card_of(group_of(fake))
    assert [(v.difference.split(":")[0], v.word) for v in card.verdicts] == [
        ("mtct_sarr − cls", "worse"),
        ("mtct − cls", "better"),
    ]
    assert [v.about for v in card.verdicts] == [
        "The whole method against the baseline",
        "The highest method against the baseline",
    ]
    assert "One seed: this says nothing about another training." in card.note and "images only" in card.note


def test_the_full_method_stands_against_its_controls_too(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("throughline.reporting.overview.CONTROLS", ("mtct",))
    fake = make_run(methods=("cls", "mtct", "mtct_sarr"), seeds=(0,), targets=("sketch",))
    for method, right in (("cls", 15), ("mtct_sarr", 16), ("mtct", 29)):
        answers_like(fake, method, right)
    first, highest = card_of(group_of(fake)).verdicts
    assert first.beside[0].startswith("Against controls of as many optimiser steps: mtct −43.3 [")
    assert first.beside[0].endswith("], worse.")
    assert first.beside[1].startswith("On the other answer paths: reasoning path ")
    assert highest.about == "The highest method, a control, against the baseline"


def test_methods_that_differ_by_little_cannot_be_told_apart(make_run: MakeRun) -> None:
    fake = make_run(methods=("cls", "mtct_sarr"), seeds=(0,), targets=("sketch",))
    answers_like(fake, "cls", 15)
    answers_like(fake, "mtct_sarr", 16)
    group = group_of(fake)
    card = card_of(group)
    (verdict,) = card.verdicts
    assert verdict.word == "cannot be told apart" and verdict.chance.startswith("By chance? It may be: p ")
    assert "Holm" not in verdict.chance, "one comparison needs no correction"
    assert ahead(group) is None and card.best.startswith("No method is clearly better than all the others")


def test_without_the_full_method_the_best_other_one_is_compared(make_run: MakeRun) -> None:
    fake = make_run(methods=("zero_shot", "cls", "mtct"), seeds=(0,), targets=("sketch",))
    answers_like(fake, "mtct", 29)
    assert card_of(group_of(fake)).setups == ("cls", "mtct")


def test_one_method_or_lost_predictions_compare_nothing(make_run: MakeRun) -> None:
    fake = make_run(methods=("cls", "mtct"), seeds=(0,), targets=("sketch",))
    for path in fake.folder.glob("units/*/predictions.jsonl"):
        path.unlink()
    card = card_of(group_of(fake))
    assert card.verdicts == () and card.note.startswith("Nothing to compare")
    assert card.facts["images"] == "30 held out" and "guessing gives" not in card.facts and "classes" not in card.facts


def test_the_star_stands_where_intervals_from_all_others_allow_it(make_run: MakeRun) -> None:
    fake = make_run(methods=("zero_shot", "cls", "mtct"), targets=("sketch",), seeds=(0, 1))
    for method, right in (("zero_shot", 5), ("cls", 15), ("mtct", 29)):
        answers_like(fake, method, right)
    group = group_of(fake)
    assert ahead(group) == "mtct" and card_of(group).best.startswith(
        "★ mtct, 96.7 %, is better than every other method"
    )
    table = page_table(group, "all", "label", against_baseline(group, "label"), "mtct")
    assert [row[0] for row in table.rows] == ["zero_shot", "cls", "mtct ★", "chance", "most frequent class"]
    answers_like(fake, "cls", 28)
    assert ahead(group_of(fake)) is None


def test_one_table_has_results_and_differences_and_guessing(fake_run: FakeRun) -> None:
    group = group_of(fake_run)
    plain, compared = results_table(group, "all", "label"), comparison_table(group, "label")
    table = page_table(group, "all", "label", against_baseline(group, "label"), None)
    assert compared is not None and table.columns == (*plain.columns, "minus cls, points", "p, Holm")
    width, differences = len(plain.columns), {row[0]: row for row in compared.rows}
    for row, same in zip(table.rows, plain.rows, strict=False):
        assert row[:width] == same
        other = differences.get(row[0])
        assert row[width:] == ("–", "–") if other is None else row[-1] == other[4]
    assert [row[0] for row in table.rows[-2:]] == ["chance", "most frequent class"]
    assert {len(row) for row in table.rows} == {len(table.columns)}
    assert page_table(group, "in", "label", (), None) == results_table(group, "in", "label")


@pytest.mark.parametrize("kept", [("label", "reasoning", "likelihood"), ("reasoning", "likelihood"), ("likelihood",)])
def test_the_main_answer_path_is_the_first_that_was_asked(make_run: MakeRun, kept: tuple[str, ...]) -> None:
    fake = make_run(methods=("cls",), seeds=(0,), targets=("sketch",), size=10)
    rows = [row for row in read_json_lines(fake.folder / "results.jsonl") if row["answer"] in kept]
    write_json_lines(fake.folder / "results.jsonl", rows)
    assert group_of(fake).main_answer == kept[0]
