from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from throughline.core.errors import ThroughlineError
from throughline.reporting.runs import read_run

if TYPE_CHECKING:
    from conftest import FakeRun


def test_a_whole_run_is_read_without_faults(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    assert run.name == "fake" and run.faults == ()
    assert len(run.units) == 2 * 6 * 3
    assert run.config["training"]["lr"] == 0.001
    unit = next(unit for unit in run.units.values() if unit.description["method"] == "mtct_sarr")
    assert unit.done and [line.round for line in unit.rounds] == [1, 2]
    assert {point.stage for point in unit.training} == {"first", "round 1", "round 2"}
    assert len(unit.predictions()) == 30 * 3


def test_an_answer_without_a_class_is_wrong(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    said = [prediction for unit in run.units.values() for prediction in unit.predictions()]
    unparsed = [prediction for prediction in said if prediction.predicted is None]
    assert unparsed and not any(prediction.correct for prediction in unparsed)


def test_an_interrupted_run_is_read_and_says_what_it_lacks(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("cls", "mtct_sarr"), seeds=(0,), targets=("sketch",)).folder
    by_method = {json.loads((u / "unit.json").read_text())["method"]: u for u in (folder / "units").iterdir()}
    (by_method["cls"] / "done").unlink()
    (by_method["cls"] / "predictions.jsonl").unlink()
    log = by_method["mtct_sarr"] / "training.jsonl"
    whole = len(log.read_text().splitlines())
    log.write_text(log.read_text() + '{"stage":"sarr","ro')  # killed while writing
    (folder / "environment.json").write_text("{")
    run = read_run(folder)
    faults = "\n".join(run.faults)
    assert "not done" in faults and "no predictions.jsonl" in faults
    assert "training.jsonl: 1 unreadable lines left out" in faults
    assert "environment.json is no JSON object" in faults
    assert len(run.units[by_method["mtct_sarr"].name].training) == whole


def test_a_result_whose_unit_folder_is_gone_is_a_fault(make_run: Callable[..., FakeRun]) -> None:
    folder = make_run(methods=("zero_shot",), seeds=(0,), targets=("sketch",)).folder
    (unit,) = (folder / "units").iterdir()
    unit.rename(folder / "elsewhere")
    assert read_run(folder).faults == (f"{unit.name}: its folder is missing",)


@pytest.mark.parametrize(
    "content,what",
    [
        (None, "this is no run folder"),
        ("", "no results yet"),
        ("{]\n", "no JSON"),
        ('{"unit": 1}\n', "lacks"),
    ],
)
def test_a_folder_without_usable_results_is_one_clear_line(tmp_path: Path, content: str | None, what: str) -> None:
    if content is not None:
        (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(ThroughlineError, match=what) as caught:
        read_run(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ThroughlineError, match="no such run folder"):
        read_run(tmp_path / "nowhere")
