"""Two runs are equal when all numbers are, whatever their units are called."""

import json
from pathlib import Path

import pytest

import compare_runs


def write_run(folder: Path, name: str, *, correct: int = 3, predicted: str = "cat", **more) -> Path:
    line = {"unit": name, "dataset": "d", "targets": ["a"], "method": "cls", "seed": 0, "round": None}
    line |= {"answer": "label", "split": "all", "n": 4, "correct": correct, "seconds": len(name), **more}
    unit = folder / "units" / name
    (unit / "adapter").mkdir(parents=True)
    (unit / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (unit / "predictions.jsonl").write_text(json.dumps({"sample_id": "1.png", "predicted": predicted}) + "\n")
    (folder / "results.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def test_names_seconds_and_new_keys_are_no_difference(tmp_path, capsys):
    before = write_run(tmp_path / "before", "cls-1111")
    after = write_run(tmp_path / "after", "cls-of-another-name", factors={})
    assert compare_runs.main([str(before), str(after)]) == 0
    assert "key factors after only" in capsys.readouterr().out


def test_a_measure_that_only_one_version_writes_is_named_and_another_value_of_one_is_a_difference(tmp_path, capsys):
    before = write_run(tmp_path / "before", "u", metrics={"ece": 0.1})
    after = write_run(tmp_path / "after", "u", metrics={"ece": 0.1, "macro_f1": 0.5})
    assert compare_runs.main([str(before), str(after)]) == 0
    assert "key metrics.macro_f1 after only" in capsys.readouterr().out
    other = write_run(tmp_path / "other", "u", metrics={"ece": 0.2, "macro_f1": 0.5})
    assert compare_runs.main([str(after), str(other)]) == 1
    assert "DIFFERENT results lines: metrics.ece" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"correct": 2}, "results lines: correct"), ({"predicted": "dog"}, "predictions: predicted")],
)
def test_another_number_is_a_difference(tmp_path, capsys, changes, what):
    before, after = write_run(tmp_path / "before", "u"), write_run(tmp_path / "after", "u", **changes)
    assert compare_runs.main([str(before), str(after)]) == 1
    out = capsys.readouterr().out
    assert f"DIFFERENT {what}" in out
    assert ("flips" in out) == ("predicted" in changes)
