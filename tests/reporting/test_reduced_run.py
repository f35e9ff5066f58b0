from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow
import pyarrow.parquet
import pytest

from reduced_run import reduce_run, require_whole
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_json, write_json_lines
from throughline.reporting.groups import groups
from throughline.reporting.page import page_html
from throughline.reporting.tables import comparison_table, headline_table, results_table, rounds_table
from throughline.runs.reader import REDUCED_PREDICTIONS, Run, read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun


@pytest.fixture(scope="module")
def reduced(fake_run: FakeRun, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return reduce_run(fake_run.folder, tmp_path_factory.mktemp("evidence") / "demo_full")


@pytest.mark.slow
def test_a_reduced_run_gives_the_tables_of_the_whole_one_with_intervals_comparisons_and_rounds(
    fake_run: FakeRun, reduced: Run
) -> None:
    def tables(run: Run) -> list[object]:
        (group,) = groups(run)
        found: list[object] = [headline_table(group, "all"), rounds_table(group)]
        for answer in ("label", "reasoning", "likelihood"):
            found += [results_table(group, split, answer, with_cost=True) for split in ("in", "out", "all")]
            found.append(comparison_table(group, answer, "cls"))
        return found

    assert None not in tables(reduced)
    assert tables(reduced) == tables(read_run(fake_run.folder))


def test_it_is_whole_small_and_holds_no_text_of_a_model(fake_run: FakeRun, reduced: Run) -> None:
    assert reduced.faults == ()
    assert {path.name for path in reduced.folder.iterdir()} == {
        "config.yaml",
        "environment.json",
        "results.jsonl",
        "rounds.jsonl",
        "units.csv",
        REDUCED_PREDICTIONS,
    }
    rows = pyarrow.parquet.read_table(reduced.folder / REDUCED_PREDICTIONS)
    assert rows.column_names == ["unit", "sample_id", "answer", "predicted", "label", "outcome"]
    assert rows.num_rows == 2 * 6 * 3 * 30 * 3
    assert (reduced.folder / REDUCED_PREDICTIONS).stat().st_size < 10 * rows.num_rows
    assert "alert" not in "".join(path.read_text(errors="replace") for path in reduced.folder.iterdir())


def test_reducing_twice_gives_the_same_bytes(fake_run: FakeRun, reduced: Run, tmp_path: Path) -> None:
    again = reduce_run(fake_run.folder, tmp_path / "again").folder
    for path in reduced.folder.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


def test_the_environment_is_versions_and_cores_only(make_run: Callable[..., FakeRun], tmp_path: Path) -> None:
    folder = make_run(methods=("cls",), seeds=(0,), targets=("sketch",)).folder
    write_json(folder / "environment.json", {"python": "3.11.9", "cores": 2, "host": "box", "commit": "abc"})
    assert reduce_run(folder, tmp_path / "reduced").environment == {"python": "3.11.9", "cores": 2}


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_page_can_be_made_of_a_reduced_run(reduced: Run, tmp_path: Path) -> None:
    page = page_html(reduced, {}, tmp_path)
    assert "mtct_sarr" in page and "The run folder is complete." in page


def damage_unit(folder: Path) -> None:
    next((folder / "units").glob("*/done")).unlink()


def damage_results(folder: Path) -> None:
    rows = read_json_lines(folder / "results.jsonl")
    write_json_lines(folder / "results.jsonl", [{**row, "correct": row["correct"] + 1} for row in rows])


def damage_predictions(folder: Path) -> None:
    path = next((folder / "units").glob("*/predictions.jsonl"))
    write_json_lines(path, [row for row in read_json_lines(path) if row["answer"] != "label"])


def damage_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("data: {images: /somewhere/on/this/machine}\n")


@pytest.mark.parametrize(
    "damage,what",
    [
        (damage_config, "data.images is a path of this machine"),
        (damage_unit, "not done"),
        (damage_results, "right in the results"),
        (damage_predictions, "no predictions for its results on the label path"),
    ],
)
def test_a_run_that_is_not_whole_is_not_reduced(
    make_run: Callable[..., FakeRun], tmp_path: Path, damage: Callable[[Path], None], what: str
) -> None:
    folder = make_run(methods=("cls",), seeds=(0,), targets=("sketch",)).folder
    damage(folder)
    with pytest.raises(ThroughlineError, match=what):
        reduce_run(folder, tmp_path / "reduced")
    assert not (tmp_path / "reduced").exists()


def test_predictions_of_another_shape_are_one_clear_line(make_run: Callable[..., FakeRun], tmp_path: Path) -> None:
    folder = reduce_run(make_run(methods=("cls",), seeds=(0,), targets=("sketch",)).folder, tmp_path / "r").folder
    whole = pyarrow.parquet.read_table(folder / REDUCED_PREDICTIONS)
    (folder / REDUCED_PREDICTIONS).write_bytes(b"PAR1 and no more")
    with pytest.raises(ThroughlineError, match="cannot be read"):
        read_run(folder)
    pyarrow.parquet.write_table(whole.drop_columns(["label"]), folder / REDUCED_PREDICTIONS)
    with pytest.raises(ThroughlineError, match="cannot be read"):
        read_run(folder)
    pyarrow.parquet.write_table(whole.slice(5), folder / REDUCED_PREDICTIONS)
    with pytest.raises(ThroughlineError, match="right in the results"):
        require_whole(read_run(folder))
