from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.reporting import conftest

from throughline.analysis.paper import dataset_of
from throughline.core.files import read_json_lines, write_json_lines
from throughline.core.table import Table
from throughline.metrics.paired import holm
from throughline.reporting.ablation import ablation_table, trains_on
from throughline.reporting.estimates import compare, summarise
from throughline.reporting.groups import Group, groups
from throughline.reporting.page import write_page
from throughline.reporting.published import published_ablation, published_methods
from throughline.reporting.tables import comparison_table
from throughline.runs.reader import Run, read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun

pytestmark = pytest.mark.slow


def table_of(run: Run) -> Table:
    (group,) = groups(run)
    table = ablation_table(group, "label", summarise(group, "all", "label"))
    assert table is not None
    return table


def test_methods_are_told_by_what_reached_their_weights() -> None:
    names = ("zero_shot", "cls", "reasoning", "sarr", "mtct_sarr", "mtct_matched")
    assert {name: trains_on(name) for name in names} == {
        "zero_shot": (False, False, False),
        "cls": (True, False, False),
        "reasoning": (False, True, False),
        "sarr": (False, True, True),
        "mtct_sarr": (True, True, True),
        "mtct_matched": (True, True, False),
    }
    assert trains_on("somebody's own") == (False, False, False)


def test_each_row_is_set_against_the_full_method(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    table = table_of(run)
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["cls"][:4] == ("yes", "no", "no", "20") and rows["mtct_sarr"][:4] == ("yes", "yes", "yes", "60")
    assert rows["zero_shot"][3] == "0" and rows["mtct_sarr"][5:] == ("", "", "", "")
    (group,) = groups(run)
    found = compare(group, "label", [("mtct_sarr", method) for method in rows])
    difference = next(one for one in found if one.baseline.name == "cls")
    assert rows["cls"][5] == f"{100 * difference.paired.interval.mean:+.1f}"
    assert rows["cls"][8] == f"{holm([one.paired.p_value for one in found])[1]:.3f}"
    low, high = (float(end) for end in rows["cls"][6].split(" to "))
    assert low <= float(rows["cls"][5]) <= high
    assert any("cls_matched and mtct_matched are not in this run" in note for note in table.notes)


def test_matched_controls_stand_beside_the_full_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(conftest.SKILL, "cls_matched", 0.75)
    monkeypatch.setitem(conftest.SKILL, "mtct_matched", 0.75)
    methods = ("cls", "mtct_sarr", "cls_matched", "mtct_matched")
    table = table_of(read_run(conftest.write_run(tmp_path, methods=methods).folder))
    assert [row[0] for row in table.rows] == list(methods)
    assert all(row[6] for row in table.rows if row[0] != "mtct_sarr")
    assert not any("not in this run" in note for note in table.notes)


def test_without_the_full_method_nothing_is_compared(make_run: Callable[..., FakeRun]) -> None:
    table = table_of(read_run(make_run(methods=("cls", "mtct"), seeds=(0,), targets=("sketch",)).folder))
    assert table.columns[-1] == "Avg" and not any("not in this run" in note for note in table.notes)


@pytest.mark.parametrize(
    "name,known",
    [("PACS", "pacs"), ("office_home", "officehome"), ("terra_incognita", "terraincognita"), ("VLCS", "vlcs"),
     ("drawn", None), ("my_pacs_copy", None)],
)  # fmt: skip
def test_a_dataset_is_the_papers_by_its_name_alone(name: str, known: str | None) -> None:
    assert dataset_of(name) == known


@pytest.mark.usefixtures("undrawn")
def test_the_papers_rows_stand_beside_ours_and_are_marked(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(methods=("zero_shot", "cls"), seeds=(0,), targets=("sketch",))
    rows = read_json_lines(fake.folder / "results.jsonl")
    write_json_lines(fake.folder / "results.jsonl", [{**row, "dataset": "terra_incognita"} for row in rows])
    run = read_run(fake.folder)
    (group,) = groups(run)
    table = published_ablation(group, {"label": summarise(group, "in", "label")})
    assert table is not None
    found = {row[0]: row[1:] for row in table.rows}
    assert found["zero_shot"][0] == "46.84" and found["mtct_sarr"] == ("70.65", "X") and found["cls"][1] != "X"
    assert table.columns[1].startswith("published") and "not measured by us" in table.notes[0]
    others = published_methods(group)
    assert others is not None and ("RD-MLDG", "InternVL3-8B", "70.65") in others.rows and len(others.rows) == 10
    page = write_page(fake.folder).read_text()
    assert "TerraIncognita: this run and the paper" in page and "GPT-4o" in page
    drawn = Group(run, "drawn", "pocket")
    assert published_ablation(drawn, {}) is None and published_methods(drawn) is None


def test_one_contrast_has_one_p_wherever_it_is_shown(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    (group,) = groups(run)
    compared = comparison_table(group, "label", "cls")
    assert compared is not None
    against_cls = {row[0]: row[1:4] for row in compared.rows}
    assert {row[0]: row[6:9] for row in table_of(run).rows}["cls"] == against_cls["mtct_sarr"]


def test_one_seed_is_not_said_to_be_several(make_run: Callable[..., FakeRun]) -> None:
    run = read_run(make_run(targets=("sketch",), seeds=(0,), size=10).folder)
    (group,) = groups(run)
    compared = comparison_table(group, "label", "cls")
    assert compared is not None
    for table in (compared, table_of(run)):
        assert any("over images only, one seed" in note for note in table.notes)
        assert not any("seeds and images" in note for note in table.notes)
