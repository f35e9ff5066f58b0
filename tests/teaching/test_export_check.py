"""An export of another's hand, or one that was changed: what `chains check` finds in it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.chains.plain_fold import read_journal

from throughline.chains.formats import FIVE_STAGE, Chain, render_chain
from throughline.domains.folders import read_images
from throughline.drawn.world import write_world
from throughline.questions.question_set import make_question_set
from throughline.teaching.building import build_chains
from throughline.teaching.check import CheckResult, check_chains
from throughline.teaching.exports.export import export_chains
from throughline.teaching.exports.selection import ExportPlan
from throughline.teaching.plan import BuildPlan
from throughline.teaching.teachers import Describer

HOSTILE = "</script><script>alert(1)</script> & \x00\x1b[2J\x7f \u2028\u202e \U0001f600"


def kinds(result: CheckResult) -> set[str]:
    return {one.kind for one in result.problems}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a store of two journals; read only. The store lies beside it."""
    place = tmp_path_factory.mktemp("exported")
    write_world(place / "world", per_class=1, seed=4, styles=("photo", "sketch"))
    images = read_images(place / "world")
    teacher = Describer(place / "world", FIVE_STAGE, make_question_set(images.classes, FIVE_STAGE).reasoning, seed=0)
    for number in range(2):
        build_chains(BuildPlan(images, FIVE_STAGE, shard=(number, 2)), teacher, place / "store")
    export_chains(
        place / "store", place / "export", ExportPlan(images, FIVE_STAGE, with_labels=True), shard_bytes=30_000
    )
    return place / "export"


@pytest.fixture
def mine(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "export")


def rewritten(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """The first shard with other rows."""
    import pyarrow
    from pyarrow import parquet

    path = sorted((folder / "data").glob("*.parquet"))[0]
    table = parquet.read_table(path)
    rows = table.to_pylist()
    change(rows)
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=table.schema), path)


def test_a_store_of_ours_is_fine(exported: Path) -> None:
    store = exported.parent / "store"
    result, alone = check_chains(store), check_chains(store / "journal-0.jsonl")
    assert (result.ok, result.notes) == (alone.ok, alone.notes) == (True, ())
    assert 0 < alone.counts["candidates"] < result.counts["candidates"] == len(read_journal(store).candidates)


def test_an_export_of_ours_is_fine(exported: Path) -> None:
    from pyarrow import parquet

    shards = sorted((exported / "data").glob("*.parquet"))
    rows = sum(parquet.read_metadata(path).num_rows for path in shards)
    result = check_chains(exported)
    assert (result.ok, result.problems, result.notes) == (True, (), ())
    assert result.counts == {"rows": rows, "read": rows, "refused": 0, "unread": 0, "samples": rows}
    one = check_chains(shards[0])
    assert one.ok and 0 < one.counts["rows"] < rows


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"image": {"bytes": b"another image", "path": "x.png"}}, "wrong_hash"),
        ({"image": {"bytes": None, "path": "x.png"}}, "no_image"),
        ({"image": None}, "null"),
        ({"label": None}, "null"),
        ({"label": 10_000}, "bad_label"),
        ({"format": "haiku"}, "unknown_format"),
        ({"chain": "I think it is a cup."}, "no_chain"),
        ({"chain": render_chain(Chain(FIVE_STAGE, (*["A picture."] * 4, HOSTILE))), "concluded": None}, "not_accepted"),
        ({"prompt": "Another question?"}, "wrong_hash"),
        ({"prompt_sha256": None, "prompt": None}, "null"),
    ],
)
def test_a_row_that_is_not_what_it_says_is_a_problem_with_its_number(
    mine: Path, change: dict[str, Any], kind: str
) -> None:
    rewritten(mine, lambda rows: rows[2].update(change))
    result = check_chains(mine)
    found = [problem for problem in result.problems if problem.kind == kind]
    assert [problem.place for problem in found] == [3]
    assert kinds(result) <= {kind, "not_concluded"}
    assert all(problem.what.isprintable() for problem in result.problems)
    assert CheckResult.model_validate_json(result.model_dump_json()) == result


def test_the_rule_of_the_export_says_what_a_conclusion_must_be(mine: Path) -> None:
    def swap(rows: list[dict[str, Any]]) -> None:
        rows[0]["label"] = (rows[0]["label"] + 1) % 12

    rewritten(mine, swap)
    assert kinds(check_chains(mine)) == {"not_accepted"}
    marker = json.loads((mine / "throughline-export.json").read_text())
    (mine / "throughline-export.json").write_text(json.dumps(marker | {"rule": "consistent"}))
    assert check_chains(mine).ok, "a consistent chain may conclude another class"
    (mine / "throughline-export.json").unlink()
    result = check_chains(mine)
    assert result.ok and [note.kind for note in result.notes] == ["no_marker"]


def test_a_marker_of_another_hand_may_hold_anything(mine: Path) -> None:
    path = mine / "throughline-export.json"
    path.write_text(json.dumps({"rule": ["correct"], "files": [3, "x" * 5_000, "\0", "\ud800"], "classes": {}}))
    result = check_chains(mine)
    assert kinds(result) == {"missing_file", "foreign_file", "wrong_count"} and result.found["missing_file"] == 3
    assert all(problem.what.isprintable() for problem in result.problems)
    path.write_text("[" * 100_000)
    assert "unreadable_file" in kinds(check_chains(mine))


def test_rows_and_files_that_are_missing_or_too_many_are_problems(mine: Path) -> None:
    rewritten(mine, lambda rows: rows.append(rows[0]))
    assert kinds(check_chains(mine)) == {"row_twice", "wrong_count"}
    shards = sorted((mine / "data").glob("*.parquet"))
    shards[0].rename(mine / "data" / "mine.parquet")
    assert kinds(check_chains(mine)) == {"row_twice", "wrong_count", "missing_file", "foreign_file"}
    for path in (mine / "data").iterdir():
        path.unlink()
    assert {"no_record", "missing_file"} <= kinds(check_chains(mine))


def test_the_files_for_trainers_are_checked_too(mine: Path) -> None:
    path = mine / "jsonl" / "trl.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"half a line\n", *lines[4:]]))
    image = json.loads(lines[0])["images"][0]
    (mine / "jsonl" / image).unlink()
    found = check_chains(mine)
    assert kinds(found) == {"refused_line", "wrong_count", "missing_file"}
    (refused,) = [problem for problem in found.problems if problem.kind == "refused_line"]
    assert refused.place == 3 and refused.path.endswith("trl.jsonl")
    assert found.found["missing_file"] == 3, "each trainer's file names it"


def test_a_parquet_file_of_another_hand_is_told_what_it_lacks(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "rows.parquet"
    texts = pyarrow.array([b"a", b"\xff\xfe", b"c"], pyarrow.binary()).cast(pyarrow.string(), safe=False)
    parquet.write_table(pyarrow.table({"sample_id": texts, "chain": [1, 2, 3], "image": ["a.png"] * 3}), path)
    result = check_chains(tmp_path)
    assert result.found["missing_column"] == 5 and result.found["no_image"] == 2
    assert (result.counts["rows"], result.counts["read"], result.counts["refused"]) == (3, 2, 1)
    assert [problem.place for problem in result.problems if problem.kind == "refused_row"] == [2]


@pytest.mark.parametrize("cut", [0.0, 0.3, 0.99])
def test_a_parquet_file_that_is_cut_or_damaged_is_said_to_be(mine: Path, cut: float) -> None:
    path = sorted((mine / "data").glob("*.parquet"))[0]
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    assert "unreadable_file" in kinds(check_chains(mine))
    damaged = bytearray(content)
    damaged[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
    path.write_bytes(damaged)
    counts = check_chains(path).counts
    assert counts["rows"] == counts["read"] + counts["refused"] + counts["unread"] > 0
