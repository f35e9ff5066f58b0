"""Files of another's hands: what is read, what is refused where and why, and that every line is accounted for."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chains.plain_fold import read_journal

from throughline.chains.formats import FIVE_STAGE, Chain, render_chain
from throughline.chains.journal import JournalWriter
from throughline.chains.records import (
    Candidate,
    Header,
    Usage,
    Verdict,
    candidate_key,
    classes_sha256,
    make_header,
    prompt_sha256,
)
from throughline.core.errors import ThroughlineError
from throughline.questions.question_set import make_question_set
from throughline.teaching.check import CheckResult, check_chains

CLASSES = ("cat", "cup", "dog")
PROMPTS = make_question_set(CLASSES, FIVE_STAGE)
ASKED = prompt_sha256(PROMPTS.reasoning)
HEADER = make_header(CLASSES, FIVE_STAGE, PROMPTS.texts)
HOSTILE = "</script><script>alert(1)</script> & \x00\x1b[2J\x7f \u2028\u202e \U0001f600"


def chain(label: str, words: str = "A picture.") -> str:
    return render_chain(Chain(FIVE_STAGE, (words, words, words, words, label)))


def answer(number: int = 0, text: str = chain("dog"), **fields: Any) -> Candidate:
    params = {"image_sha256": "1" * 64, "prompt_sha256": ASKED, "model": "teacher-1", "params": {"top_p": 1.0}} | fields
    given = {
        "key": candidate_key(  # type: ignore[call-arg]
            *(params[name] for name in ("image_sha256", "prompt_sha256", "model", "params")), 0, number
        ),
        "sample_id": "photo/dog/0.png",
        "domain": "photo",
        "classes_sha256": classes_sha256(CLASSES),
        "format": "five_stage",
        "source": "endpoint",
        "seed": 0,
        "candidate": number,
        "text": text,
        "finish_reason": "stop",
        "usage": Usage(prompt_tokens=9, completion_tokens=5, cost=0.001),
    }
    return Candidate(**(given | params))


def verdict(of: Candidate, **fields: Any) -> Verdict:
    given = {"key": of.key, "sample_id": of.sample_id, "rule": "correct", "outcome": "ok", "accepted": True}
    return Verdict(**(given | fields))


def altered(record: Header | Candidate | Verdict, **fields: Any) -> str:
    return json.dumps(json.loads(record.line()) | fields)


GOOD = [HEADER.line(), answer(0).line(), verdict(answer(0)).line(), answer(1, chain("cat")).line()]


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., CheckResult]:
    """Writes lines as a store's only journal and checks the store; whatever is found, the counts add up."""

    def check(*lines: str | bytes, end: bytes = b"\n") -> CheckResult:
        whole = [line.encode() if isinstance(line, str) else line for line in lines]
        (tmp_path / "journal-0.jsonl").write_bytes(b"\n".join(whole) + end)
        return sound(check_chains(tmp_path), sum(bool(line.strip()) for line in whole))

    return check


def sound(result: CheckResult, lines: int) -> CheckResult:
    """What holds for every result: all lines are accounted for, and any terminal and any program can show it."""
    counts = result.counts
    assert counts["lines"] == lines
    assert lines == sum(counts[kind] for kind in ("headers", "candidates", "verdicts", "refused", "unread"))
    assert CheckResult.model_validate_json(result.model_dump_json()) == result
    for finding in (*result.problems, *result.notes):
        assert finding.what.isprintable() and len(finding.what) < 400
    assert result.ok == (not result.problems)
    return result


def kinds(result: CheckResult) -> tuple[set[str], set[str]]:
    return {one.kind for one in result.problems}, {one.kind for one in result.notes}


def places(result: CheckResult, kind: str) -> list[int | None]:
    return [one.place for one in (*result.problems, *result.notes) if one.kind == kind]


def test_a_journal_of_ours_is_fine(check: Callable[..., CheckResult]) -> None:
    result = check(*GOOD)
    assert (result.ok, result.problems, result.notes) == (True, (), ())
    assert result.counts == {
        "lines": 4,
        "headers": 1,
        "candidates": 2,
        "verdicts": 1,
        "refused": 0,
        "unread": 0,
        "images": 1,
        "answers": 2,
        "failed": 0,
        "duplicates": 0,
    }


def test_files_of_other_systems_are_read_and_said_to_be_such(check: Callable[..., CheckResult]) -> None:
    result = check(b"\xef\xbb\xbf" + GOOD[0].encode() + b"\r", b"\r", *(line.encode() + b"\r" for line in GOOD[1:]))
    assert result.ok and kinds(result)[1] == {"byte_order_mark", "line_ends"}
    assert result.found["line_ends"] == 4 and result.counts["candidates"] == 2
    joined = check(*GOOD[:3], b"\xef\xbb\xbf" + GOOD[3].encode())
    assert joined.ok and places(joined, "byte_order_mark") == [4], "two files put together"
    assert joined.counts["candidates"] == 2


def test_unknown_fields_are_kept_and_noted_once_each(check: Callable[..., CheckResult]) -> None:
    odd = [altered(answer(n, chain("dog", f"{n}.")), mood="calm", usage={"cost": 1, "cached": 2}) for n in range(5)]
    result = check(GOOD[0], *odd)
    assert result.ok
    assert [(note.kind, note.place, note.count) for note in result.notes] == [("unknown_field", 2, 5)] * 2
    assert "'mood'" in str(result.notes[0]) and "'usage.cached'" in str(result.notes[1])


def test_a_judges_verdict_has_no_unknown_field(check: Callable[..., CheckResult]) -> None:
    told = altered(verdict(answer(0), rule="judge"), model="judge-1", usage={"cost": 0.1})
    assert check(*GOOD, told).notes == ()
    assert kinds(check(*GOOD, altered(verdict(answer(0), rule="my own"))))[1] == {"unknown_rule"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("no json", "not JSON"),
        ('"text"', "not a JSON object"),
        (GOOD[1][:200], "not JSON"),
        (b"\0" * 300, "not JSON"),
        ("[" * 100_000, "not JSON"),
        (GOOD[1].encode().replace(b"picture", b"pict\xfcre", 1), "not UTF-8"),
        ('{"kind": "verdict"}', "no schema version"),
        ('{"schema": true, "kind": "verdict"}', "no schema version"),
        ('{"schema": 1, "kind": "\\u001b[31m<b>poem"}', r"unknown kind '\x1b[31m<b>poem'"),
        ('{"schema": 1, "kind": "' + "x" * 1_000_000 + '"}', "unknown kind 'xxx"),
        (altered(verdict(answer(0)), outcome="brilliant"), "verdict: outcome"),
        (altered(answer(2), text=None), "candidate: text"),
        (altered(answer(2), usage={"cost": "free"}), "candidate: usage.cost"),
        (altered(HEADER, prompts={"\x1b]0;": 3}), r"header: prompts.\x1b]0;"),
    ],
)
def test_what_is_no_record_is_refused_with_line_and_reason(
    check: Callable[..., CheckResult], line: str | bytes, reason: str
) -> None:
    result = check(*GOOD[:2], line, *GOOD[2:])
    assert result.counts["refused"] == 1 and result.counts["candidates"] == 2
    (problem,) = result.problems
    assert (problem.kind, problem.place) == ("refused_line", 3)
    assert f"journal-0.jsonl:3: refused: {reason}" in str(problem)


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ('"seed":0', '"seed":' + "9" * 5_000),
        ('"schema":1', '"schema":' + "9" * 5_000),
        ('"top_p":1.0', '"top_p":NaN'),
        ('"cost":0.001', '"cost":-Infinity'),
        ('"top_p":1.0', '"top_p":1e999'),
        ('"photo"', '"photo","mood":"\\udfff"'),
        ('"top_p":1.0', '"top_p":' + "[" * 900 + "]" * 900),
        ('"photo"', '"photo","mood":' + '{"a":' * 300 + "1" + "}" * 300),
    ],
    ids=["digits", "digits of schema", "nan", "infinity", "huge", "surrogate", "lists", "objects"],
)
def test_a_line_whose_values_cannot_be_written_again_is_refused(
    check: Callable[..., CheckResult], written: str, instead: str
) -> None:
    result = check(*GOOD, answer(2).line().replace(written, instead, 1), answer(3).line())
    assert result.counts["candidates"] == 3 and result.counts["refused"] == 1
    assert places(result, "refused_line") == [5] and "torn" not in result.problems[0].what


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (altered(answer(2), key="0" * 64), "wrong_key"),
        (altered(answer(2), params={"top_p": 0.5}), "wrong_key"),
        (answer(-1).line(), "negative_number"),
        (answer(2, round=-1).line(), "negative_number"),
        (answer(2, usage=Usage(completion_tokens=-5)).line(), "bad_usage"),
        (answer(2, usage=Usage(completion_tokens=10**400)).line(), "bad_usage"),
        (altered(answer(2), format="\x1b[31mhaiku"), "unknown_format"),
        (answer(2, prompt_sha256="f" * 64).line(), "no_header"),
        (altered(answer(2), classes_sha256="f" * 64), "no_header"),
        (verdict(answer(2)).line(), "no_candidate"),
        (altered(verdict(answer(0)), rule="format", outcome="refusal"), "contradiction"),
        (altered(answer(2), schema=0), "unknown_schema"),
        (altered(answer(1), text="Another answer."), "another_text"),
        (altered(HEADER, classes_sha256="f" * 64), "wrong_hash"),
        (altered(HEADER, prompts={"f" * 64: "What is it?"}), "wrong_hash"),
        (altered(HEADER, format="haiku"), "unknown_format"),
        (make_header((), FIVE_STAGE, PROMPTS.texts).line(), "bad_classes"),
        (make_header(("a cat", "A_Cat"), FIVE_STAGE, PROMPTS.texts).line(), "bad_classes"),
        (answer(2).line()[:-1] + ',"text":"a second text"}', "field_twice"),
    ],
)
def test_a_record_that_contradicts_itself_or_the_store_is_a_problem_with_its_line(
    check: Callable[..., CheckResult], line: str, kind: str
) -> None:
    result = check(*GOOD, line)
    assert kinds(result)[0] == {kind}
    assert places(result, kind) == [5]
    assert result.counts["refused"] == 0


def test_a_megabyte_of_text_and_hostile_characters_are_read(check: Callable[..., CheckResult]) -> None:
    big = answer(2, "<SUMMARY> " * 100_000 + HOSTILE, sample_id=HOSTILE, domain=HOSTILE)
    assert check(*GOOD, big.line(), verdict(big).line()).problems == ()
    escaped = altered(big)  # as JSON of ASCII only spells it
    assert "\\ud83d\\ude00" in escaped and check(*GOOD, escaped).problems == ()


def test_half_a_line_at_the_end_is_a_note_since_the_next_build_repairs_it(
    check: Callable[..., CheckResult], tmp_path: Path
) -> None:
    result = check(*GOOD, GOOD[1][:150], end=b"")
    assert result.ok and result.counts["refused"] == 1
    assert places(result, "torn_line") == [5]
    JournalWriter(tmp_path / "journal-0.jsonl").close()
    assert (tmp_path / "journal-0.jsonl.torn").stat().st_size == 150 + len("\n")
    again = check_chains(tmp_path)
    assert again.ok and kinds(again)[1] == {"not_a_journal"} and again.counts["refused"] == 0
    whole = check(*GOOD, end=b"")
    assert whole.ok and places(whole, "no_line_break") == [4]


def test_a_newer_schema_ends_the_check_and_says_what_is_unread(tmp_path: Path) -> None:
    newer = altered(answer(7), schema=2)
    (tmp_path / "journal-0.jsonl").write_text("\n".join([*GOOD[:2], "", newer, *GOOD[2:]]) + "\n")
    (tmp_path / "journal-1.jsonl").write_text("\n".join(GOOD))
    result = sound(check_chains(tmp_path), 9)
    (problem,) = result.problems
    assert (problem.kind, problem.place) == ("newer_schema", 4)
    assert "the check ends here" in problem.what and problem.path.endswith("journal-0.jsonl")
    assert (result.counts["refused"], result.counts["unread"]) == (1, 2 + 4)
    assert kinds(result)[1] == {"not_compared"}


def test_a_candidate_given_again_is_counted_as_read_journal_counts_it(
    check: Callable[..., CheckResult], tmp_path: Path
) -> None:
    failed = answer(2, "HTTP 500", finish_reason="error", usage=None)
    lines = [failed.line(), failed.line(), answer(2).line(), answer(2).line(), failed.line(), GOOD[1]]
    result = check(*GOOD, *lines)
    assert result.ok, "a request that failed may be answered later"
    assert result.counts["duplicates"] == read_journal(tmp_path).duplicates == 5
    assert (result.counts["answers"], result.counts["failed"]) == (3, 0)
    assert [(note.kind, note.place, note.count) for note in result.notes] == [("repeated", 8, 2)]


def test_a_copy_for_an_identical_image_is_fine_and_a_second_answer_is_noted(check: Callable[..., CheckResult]) -> None:
    copy = answer(0).copied_for("sketch/dog/9.png", "sketch")
    assert check(*GOOD, copy.line(), verdict(copy).line()).notes == ()
    other = copy.model_copy(update={"text": chain("cat")})
    result = check(*GOOD, other.line())
    assert result.ok and kinds(result)[1] == {"answers_differ"}


def test_a_replaced_image_is_noted(check: Callable[..., CheckResult]) -> None:
    result = check(*GOOD, answer(0, image_sha256="2" * 64).line())
    assert result.ok and places(result, "image_changed") == [5]


def test_verdicts_and_headers_may_stand_in_another_journal(tmp_path: Path) -> None:
    for shard, lines in enumerate((GOOD[2:3], GOOD[1:2], GOOD[3:], GOOD[:1])):
        (tmp_path / f"journal-{shard}.jsonl").write_text("\n".join(lines) + "\n")
    assert sound(check_chains(tmp_path), 4).notes == ()
    alone = sound(check_chains(tmp_path / "journal-0.jsonl"), 1)
    assert kinds(alone)[0] == {"no_candidate"}


def test_of_many_problems_the_first_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join([*GOOD, *["no json"] * 500, *(answer(-n - 1).line() for n in range(30))]) + "\n")
    result = sound(check_chains(path, limit=3), 534)
    assert result.found == {"refused_line": 500, "negative_number": 30}
    assert len(result.problems) == 6 and places(result, "refused_line") == [5, 6, 7]
    shown = result.lines()
    assert shown[0].startswith("lines 534, headers 1, candidates 32, verdicts 1, refused 500, unread 0, images 1")
    assert shown[1] == f"problem: {result.problems[0]}"
    assert shown[7:] == [
        "problem: refused_line, 497 more",
        "problem: negative_number, 27 more",
        "not sound, problems: 530",
    ]


def test_the_terminal_is_told_of_notes_and_that_all_is_sound(check: Callable[..., CheckResult]) -> None:
    assert check(*GOOD).lines()[1:] == ["sound"]
    noted = check(*GOOD, altered(answer(2), mood="calm"), altered(answer(3), mood="odd")).lines()
    assert len(noted) == 3 and noted[2] == "sound"
    assert noted[1].startswith("note: ") and noted[1].endswith(
        "journal-0.jsonl:5: unknown field 'mood' of a candidate; it is kept (the first of 2)"
    )


def test_places_that_hold_no_chains_are_said_to(tmp_path: Path) -> None:
    with pytest.raises(ThroughlineError, match="no such file"):
        check_chains(tmp_path / "none")
    assert kinds(check_chains(tmp_path))[0] == {"nothing_here"}
    (tmp_path / "notes.jsonl").write_text(GOOD[0])
    assert kinds(check_chains(tmp_path)) == ({"nothing_here"}, {"not_a_journal"})
    (tmp_path / "journal-0.jsonl").write_text("")
    empty = sound(check_chains(tmp_path), 0)
    assert kinds(empty)[0] == {"no_record"} and "empty_file" in kinds(empty)[1]
    (tmp_path / "journal-1.jsonl").write_text(GOOD[0] + "\n")
    assert check_chains(tmp_path).ok, "a writer that has just opened its journal has written nothing"
    (tmp_path / "journal-2.jsonl").mkdir()
    result = check_chains(tmp_path)
    assert kinds(result)[0] == {"unreadable_file"} and result.counts["headers"] == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"\n\n \r\n", b"\xef\xbb\xbf", b"a,b\r\n1,2\r\n", b"[1,\n2]", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40],
    ids=["nothing", "empty lines", "byte order mark", "csv", "json", "binary"],
)
def test_a_file_that_is_no_jsonl_at_all_is_refused_line_by_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "given"
    path.write_bytes(content)
    lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    result = sound(check_chains(path), len(lines))
    assert not result.ok and result.counts["refused"] == len(lines)


def test_a_file_name_that_is_no_unicode_can_be_reported(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/journal-\xff.jsonl"))
    try:
        path.write_text("no json\n")
    except OSError:
        pytest.skip("this file system has Unicode names only")
    result = sound(check_chains(tmp_path), 1)
    assert "journal-\\udcff.jsonl" in str(result.problems[0])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_damage_crashes_the_check_or_loses_a_line(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    draw, data = random.Random(seed), bytearray("\n".join(GOOD * 2).encode() + b"\n")
    for _ in range(draw.randint(1, 6)):
        start = draw.randrange(len(data))
        piece = draw.choice(
            [b"", b"\n", b"\r", b"\xff", b'"', b"}", b"{", b"\\u00e9", b"null", b"-1", b"1e5", bytes(data[:40])]
        )
        data[start : start + draw.choice([0, 0, 1, 5, 400])] = piece
    path = tmp_path_factory.mktemp("damaged") / "journal-0.jsonl"
    path.write_bytes(data)
    lines = [line for line in bytes(data).removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    result = sound(check_chains(path), len(lines))
    journal = read_journal(path)
    torn = sum(note.kind == "torn_line" for note in result.notes)
    assert result.counts["refused"] == result.found.get("refused_line", 0) + torn
    assert result.counts["refused"] == len(journal.problems)
    assert result.found.get("another_text", 0) == journal.contradictions
    assert result.counts["duplicates"] == journal.duplicates
