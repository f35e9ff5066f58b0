from __future__ import annotations

import argparse
import re
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.reporting.analysis_fixture import write_full_analysis
from tests.reporting.conftest import write_run
from tests.reporting.test_page import Reader

from throughline.cli import report
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.files import write_atomically
from throughline.drawn import DRAWN_NOTE
from throughline.reporting.side_by_side import columns_of, difference_tables, joint_tables, names_of
from throughline.runs.reader import read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same images and seeds; the second lacks a method and has another learning rate."""
    root = tmp_path_factory.mktemp("two")
    first = write_run(root / "a", seeds=(0, 1), size=20)
    second = write_run(root / "b", seeds=(0, 1), size=20, methods=("cls", "mtct"))
    write_atomically(second.folder / "config.yaml", "preset: demo\ntraining:\n  lr: 0.002\n")
    write_full_analysis(read_run(first.folder))
    return first.folder, second.folder


def test_runs_are_named_by_folder_and_by_more_where_that_is_not_enough() -> None:
    assert names_of([Path("x/one"), Path("y/two")]) == ("one", "two")
    assert names_of([Path("x/a/fake"), Path("x/b/fake")]) == ("a/fake", "b/fake")
    assert names_of([Path("x"), Path("x")]) == ("x (1)", "x (2)")


def test_tables_have_a_column_for_each_run(two: tuple[Path, Path]) -> None:
    columns = columns_of([read_run(folder) for folder in two])
    label = joint_tables(columns, answer="label")[0]
    assert label.columns == ("method", "a/runs/fake", "b/runs/fake")
    rows = {row[0]: row[1:] for row in label.rows}
    assert rows["cls"][0] == rows["cls"][1] != "X" and rows["mtct_sarr"][1] == "X"
    (difference,) = difference_tables(columns, "label")
    assert {row[0]: row[1] for row in difference.rows}["cls"] == "+0.0 (+0.0 to +0.0), p 1.000"
    assert {row[0]: row[1] for row in difference.rows}["sarr"] == "X"
    assert all(DRAWN_NOTE in table.notes for table in (label, difference))
    (of_classes,) = joint_tables(columns, answer="label", measure="macro_f1")
    assert of_classes.title == "label path · split all · Macro-F1" and of_classes.rows != label.rows


def test_runs_of_other_images_are_not_compared(two: tuple[Path, Path], fake_run: FakeRun) -> None:
    columns = columns_of([read_run(two[0]), read_run(fake_run.folder)])
    assert difference_tables(columns) == ()


@pytest.mark.slow
def test_the_verb_prints_and_writes_one_page(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.run(parse(*two, "--answer", "label", "--format", "markdown")) == 0
    printed = capsys.readouterr()
    assert "| method | a/runs/fake | b/runs/fake |" in printed.out and "reasoning path" not in printed.out
    path = two[0] / "report" / "side-by-side.html"
    assert printed.err == f"report: {path}\n"
    page = unescape(path.read_text())
    reader = Reader(page)
    assert reader.faults == [] and reader.open == [] and not any(tag == "img" for tag, _ in reader.tags)
    assert [attributes for tag, attributes in reader.tags if tag == "script"] == [{}]  # the page's own
    ids = [attributes["id"] for _, attributes in reader.tags if attributes.get("id")]
    assert len(ids) == len(set(ids)) and 'aria-label="label path: Accuracy of each method' in page
    assert 'aria-label="Perplexity of teacher' in page and "figures/" not in page
    assert "training.lr" in page and "0.002" in page and DRAWN_NOTE in page
    assert "Compared with the paper's numbers" in page and "Not measured in this run" in page
    assert str(tmp_path.parent) not in page and not re.search(r"https?://", page.replace("http://www.w3.org", ""))
    assert report.run(parse(*two, "--out", tmp_path / "out")) == 0
    assert (tmp_path / "out" / "side-by-side.html").read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_out_puts_the_page_of_one_run_elsewhere(two: tuple[Path, Path], tmp_path: Path) -> None:
    assert report.run(parse(two[1], "--out", tmp_path / "out")) == 0
    assert (tmp_path / "out" / "index.html").is_file() and (tmp_path / "out" / "figures" / "accuracy.csv").is_file()
    assert not (two[1] / "report" / "index.html").exists()


def test_what_makes_no_sense_for_several_is_said(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--baseline can be used with one run only"):
        report.run(parse(*two, "--baseline", "cls"))
    with pytest.raises(ThroughlineError, match="no such run folder"):
        report.run(parse(two[0], tmp_path / "nowhere"))
