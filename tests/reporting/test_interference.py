"""The table of interference, against counts over the same answers."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.reporting.asked import DOMAINS, write_asked

from throughline.core.files import read_json_lines, write_json_lines
from throughline.reporting.groups import groups
from throughline.reporting.interference import interference_tables
from throughline.runs.reader import read_run

RATES = {("smol", level): rate for level, rate in (("clean", 0.9), ("another image", 0.3), ("true chain", 0.8))}
RATES["smol", "true chain in synonyms"] = 0.6
BESIDE = {"another image": "clean", "true chain": "clean", "true chain in synonyms": "true chain"}


def number(cell: str) -> float:
    return float(cell.split(maxsplit=1)[0])


def test_what_is_lost_and_flipped_is_counted_on_the_same_images(tmp_path: Path) -> None:
    right = write_asked(tmp_path, RATES, factor="interference", answers=("label",))
    ((table,),) = (interference_tables(group) for group in groups(read_run(tmp_path)))
    assert table.columns == ("method", "interference", "accuracy", "lost", "flipped")
    rows = {row[1]: row[2:] for row in table.rows}
    assert rows["clean"][1:] == ("–", "–")
    for level, before in BESIDE.items():
        now, then = (np.stack([right["smol", name, domain] for domain in DOMAINS]) for name in (level, before))
        accuracy, lost, flipped = map(number, rows[level])
        assert accuracy == pytest.approx(100 * now.mean(), abs=0.051)
        assert lost == pytest.approx(100 * (then.mean() - now.mean()), abs=0.051)
        assert flipped == pytest.approx(100 * (now != then).mean(), abs=0.051)  # a wrong answer is the same one


def test_probabilities_of_classes_drift_from_those_of_the_undisturbed_answer(tmp_path: Path) -> None:
    write_asked(tmp_path, RATES, factor="interference", answers=("likelihood",))
    told: dict[str, dict[str, np.ndarray]] = {}
    for path in tmp_path.glob("units/*/predictions.jsonl"):
        level = json.loads((path.parent / "unit.json").read_text())["factors"]["interference"]
        own = {row["sample_id"]: np.array(row["probabilities"]) for row in read_json_lines(path)}
        told[level] = told.get(level, {}) | own
    ((table,),) = (interference_tables(group) for group in groups(read_run(tmp_path)))
    rows = {row[1]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["clean"]["drift"] == "–"
    for level, before in BESIDE.items():
        moved = []
        for name, p in told[level].items():
            q = told[before][name]
            m = (p + q) / 2
            moved.append(sum((own * np.log2(own / m)).sum() / 2 for own in (p, q)))
        assert number(rows[level]["drift"]) == pytest.approx(100 * np.mean(moved), abs=0.051)


def test_an_image_without_probabilities_is_left_out_of_the_drift_alone(tmp_path: Path) -> None:
    write_asked(tmp_path, RATES, factor="interference", answers=("likelihood",))
    of_level = {
        json.loads(path.read_text())["factors"]["interference"]: path for path in tmp_path.glob("units/*/unit.json")
    }
    path = of_level["another image"].with_name("predictions.jsonl")
    first, *others = read_json_lines(path)
    write_json_lines(path, [{**first, "probabilities": None}, *others])
    ((table,),) = (interference_tables(group) for group in groups(read_run(tmp_path)))
    rows = {row[1]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert number(rows["another image"]["drift"]) > 0 and number(rows["true chain"]["drift"]) > 0


def test_a_chain_is_coherent_with_the_class_that_it_concludes_in(tmp_path: Path) -> None:
    said = {"cup": "it has a handle.", "bowl": "it has a handle.", "boat": "it has a sail and a hull."}
    write_asked(tmp_path, RATES, factor="interference", answers=("reasoning",), dataset="drawn-test")
    count = 0
    for path in tmp_path.glob("units/*clean*/predictions.jsonl"):
        rows = read_json_lines(path)
        count += sum(row["predicted"] != "bowl" for row in rows)  # a bowl has no handle
        write_json_lines(path, [{**row, "text": said[row["predicted"]]} for row in rows])
    ((table,),) = (interference_tables(group) for group in groups(read_run(tmp_path)))
    assert table.columns[-1] == "coherent" and any("drawn" in note for note in table.notes)
    assert number(next(row for row in table.rows if row[1] == "clean")[-1]) == pytest.approx(
        100 * count / 80, abs=0.051
    )


def test_other_runs_have_no_such_table(tmp_path: Path) -> None:
    write_asked(tmp_path, {("smol", "clean"): 0.9, ("smol", "fog-5"): 0.4}, answers=("label",))
    assert all(not interference_tables(group) for group in groups(read_run(tmp_path)))
