"""Records of a run folder: what is written is read back, whatever a later version adds."""

from dataclasses import asdict

import pytest

from throughline.runs.records import Prediction, ResultsLine, RoundLine, TrainingLine, read_record
from throughline.runs.unit import Unit

RECORDS = [
    ResultsLine("u", "drawn", "pocket", ("a", "b"), "cls", 0, None, "label", "all", 4, 3, 0.75, factors={"shots": 2}),
    Prediction("a/cup/1.png", "a", ("cup",), "likelihood", "cup", "ok", "", (0.75, 0.25)),
    Prediction("a/cup/1.png", "a", ("cup", "coin"), "label", ("cup", "coin"), "ok", "cup, coin"),
    TrainingLine("first", 0, 5, 0.5, 1.25, {"label": 1.0}, {"label": 0.5}, 1e-3),
    RoundLine(1, 10, 4, {"accepted": 4, "truncated": 6}, True, 4),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_what_is_written_is_read_back_without_the_keys_of_a_later_version(record):
    row = asdict(record) | {"of_a_later_version": 1}
    assert read_record(type(record), row) == record


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_row_that_lacks_something_is_a_value_error(record):
    row = asdict(record)
    row.pop(next(iter(row)))
    with pytest.raises(ValueError):
        read_record(type(record), row)


def test_several_labels_are_right_when_the_set_is_equal():
    def answer(*predicted):
        return Prediction("i", "d", ("edema", "effusion"), "label", predicted, "ok")

    assert answer("effusion", "edema").correct
    assert not answer("edema").correct
    assert not answer("edema", "effusion", "mass").correct
    assert not Prediction("i", "d", ("edema",), "label", None, "empty").correct


def test_a_unit_is_read_back_and_its_factors_stand_in_name_and_identity():
    unit = Unit("evaluate", "drawn", ("a b",), "zero_shot", "pocket", 0, {"wording": "short"}, {}, {"x": 1})
    other = Unit("evaluate", "drawn", ("a b",), "zero_shot", "pocket", 0, {"wording": "long"}, {}, {"x": 2})
    assert unit.slug == "a_b-zero_shot-wording=short-seed0"
    assert read_record(Unit, unit.to_json()).name == unit.name
    assert unit.identity != other.identity
