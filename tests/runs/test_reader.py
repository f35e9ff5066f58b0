import json
from pathlib import Path

import pytest
from tests.reporting.conftest import FakeRun, write_run

from throughline.core.errors import ThroughlineError
from throughline.core.files import write_json, write_json_lines
from throughline.runs.folder import round_folders
from throughline.runs.reader import read_run, read_unit
from throughline.runs.unit import Unit


@pytest.fixture(scope="module")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    return write_run(tmp_path_factory.mktemp("fake"), size=12)


def test_a_whole_run_is_read_without_faults(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    assert run.name == "fake" and run.faults == ()
    assert len(run.units) == 2 * 6 * 3
    assert run.config["training"]["lr"] == 0.001
    folder = next(folder for folder in run.units.values() if folder.unit.method == "mtct_sarr")
    assert folder.done and folder.steps == 60 and [line.round for line in folder.rounds] == [1, 2]
    assert {line.stage for line in folder.training} == {"first", "round 1", "round 2"}
    assert len(folder.predictions()) == 12 * 3


def test_an_answer_without_a_class_is_wrong(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    said = [prediction for unit in run.units.values() for prediction in unit.predictions()]
    unparsed = [prediction for prediction in said if prediction.predicted is None]
    assert unparsed and not any(prediction.correct for prediction in unparsed)


def test_an_interrupted_run_is_read_and_says_what_it_lacks(tmp_path: Path) -> None:
    folder = write_run(tmp_path, methods=("cls", "mtct_sarr"), seeds=(0,), targets=("sketch",)).folder
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
    assert "environment.json is not a JSON object" in faults
    assert run.units[by_method["cls"].name].predictions() == ()
    assert len(run.units[by_method["mtct_sarr"].name].training) == whole


def test_a_result_whose_unit_folder_is_gone_is_a_fault(tmp_path: Path) -> None:
    folder = write_run(tmp_path, methods=("zero_shot",), seeds=(0,), targets=("sketch",)).folder
    (unit,) = (folder / "units").iterdir()
    unit.rename(folder / "elsewhere")
    assert read_run(folder).faults == (f"{unit.name}: its folder is missing",)


@pytest.mark.parametrize(
    "content,what",
    [
        (None, "this is not a run folder"),
        ("", "no results yet"),
        ("{]\n", "is not JSON"),
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


def test_a_unit_that_nothing_describes_is_a_fault_and_the_others_are_read(tmp_path: Path) -> None:
    folder = write_run(tmp_path, methods=("zero_shot",), seeds=(0,), targets=("sketch",)).folder
    (folder / "units" / "lost").mkdir()
    run = read_run(folder)
    assert run.faults == ("lost: no readable unit.json",) and len(run.units) == 1


def test_a_unit_is_read_without_its_run(tmp_path: Path) -> None:
    unit = Unit("evaluate", "drawn", ("sketch",), "zero_shot", "pocket", 0, factors={"wording": "short"})
    write_json(tmp_path / unit.name / "unit.json", unit.to_json())
    folder = read_unit(tmp_path / unit.name)
    assert folder is not None and (folder.unit, folder.unit.factors) == (unit, {"wording": "short"})
    assert not folder.done and folder.steps is None and not round_folders(folder.folder, "adapter")


def test_own_chains_are_those_that_the_model_wrote_in_the_round(tmp_path: Path) -> None:
    unit = Unit("fold", "drawn", ("sketch",), "mtct_sarr", "pocket", 0)
    write_json(tmp_path / "unit.json", unit.to_json())
    folder = read_unit(tmp_path)
    assert folder is not None and folder.own_chains(1) == {}
    (tmp_path / "round-1" / "adapter").mkdir(parents=True)
    assert [*round_folders(folder.folder, "adapter")] == [1] and folder.adapter(1) == tmp_path / "round-1" / "adapter"


def test_frames_have_a_row_for_each_line_and_a_column_for_each_factor(tmp_path: Path) -> None:
    folder = write_run(tmp_path, methods=("cls", "mtct_sarr"), seeds=(0,), targets=("sketch",), size=10).folder
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    write_json_lines(folder / "results.jsonl", [{**row, "factors": {"shots": 4}} for row in rows])
    run = read_run(folder)
    frames = run.frames
    assert frames.factors == ("shots",) and set(frames.results["shots"]) == {4}
    assert len(frames.results) == len(rows) and len(frames.predictions) == 2 * 3 * 10
    assert list(frames.results["macro_f1"]) == [row["metrics"]["macro_f1"] for row in rows]
    final = frames.results[frames.results["round"].isna() & (frames.results["split"] == "all")]
    right = frames.predictions.groupby(["unit", "answer"])["correct"].sum()
    assert all(right[row.unit, row.answer] == row.correct for row in final.itertuples())
    assert list(frames.rounds["accepted"]) == [70, 80] and frames.units.set_index("method")["steps"]["cls"] == 20
    losses = frames.training[frames.training["method"] == "cls"].pivot(index="step", columns="part", values="loss")
    assert list(losses["loss"]) == list(losses["label"])
