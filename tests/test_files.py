"""What every room does with files."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from throughline.core.errors import ThroughlineError
from throughline.core.files import in_threads, read_json_lines, write_json_lines


def test_threads_give_results_in_order_and_take_only_some_items_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5000):
            taken.append(number)
            yield number

    found = in_threads(lambda number: 2 * number, items())
    assert next(found) == 0
    assert len(taken) <= 1000
    assert list(found) == [2 * number for number in range(1, 5000)]


def test_a_fault_in_a_thread_is_raised_where_its_result_is_taken() -> None:
    found = in_threads(lambda number: 1 // (number - 2), range(5))
    assert [next(found), next(found)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_a_row_may_hold_any_end_of_line_but_a_line_feed(tmp_path: Path) -> None:
    rows = [{"text": "one\u2028two\u0085three\x0bfour\rfive\nsix"}, {"text": ""}]
    write_json_lines(tmp_path / "rows.jsonl", rows)
    assert read_json_lines(tmp_path / "rows.jsonl") == rows
    write_json_lines(tmp_path / "rows.jsonl", [])
    assert read_json_lines(tmp_path / "rows.jsonl") == []


@pytest.mark.parametrize(
    ("line", "why"),
    [(b'{"text": "caf\xe9"}', "can't decode byte 0xe9"), (b"{1", "Expecting property name"), (b"1", "")],
)
def test_a_line_that_is_no_json_object_is_told_with_its_number(tmp_path: Path, line: bytes, why: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"{}\n" + line + b"\n{}\n")
    with pytest.raises(ThroughlineError, match=rf"line 2 is not .*{why}.*rows\.jsonl"):
        read_json_lines(tmp_path / "rows.jsonl")
