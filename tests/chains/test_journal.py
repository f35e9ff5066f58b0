"""The chain journal: nothing written is lost, nothing read is dropped in silence."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chains.plain_fold import read_journal

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.journal import JournalWriter, journal_files
from throughline.chains.records import (
    Candidate,
    Usage,
    Verdict,
    candidate_key,
    classes_sha256,
    make_header,
    prompt_sha256,
)
from throughline.chains.store import read_store
from throughline.core.errors import ThroughlineError
from throughline.questions.question_set import make_question_set

CLASSES = ("cat", "dog")
PROMPTS = make_question_set(CLASSES, FIVE_STAGE)
HEADER = make_header(CLASSES, FIVE_STAGE, PROMPTS.texts, images="photos")


def candidate(number=0, text="a chain", **fields):
    prompt = prompt_sha256(PROMPTS.reasoning)
    given = {
        "key": candidate_key("i" * 64, prompt, "teacher", {"temperature": 0.7}, 1, number),
        "sample_id": f"photo/dog/{number}.png",
        "image_sha256": "i" * 64,
        "domain": "photo",
        "classes_sha256": classes_sha256(CLASSES),
        "format": "five_stage",
        "source": "describer",
        "model": "teacher",
        "prompt_sha256": prompt,
        "params": {"temperature": 0.7},
        "seed": 1,
        "candidate": number,
        "text": text,
        "finish_reason": "stop",
        "usage": Usage(prompt_tokens=10, completion_tokens=5, cost=0.001),
        "created": "2026-01-01T00:00:00Z",
    }
    return Candidate(**(given | fields))


def verdict(of, rule="correct", outcome="ok", accepted=True):
    return Verdict(key=of.key, sample_id=of.sample_id, rule=rule, outcome=outcome, accepted=accepted)


def write(path, *records):
    with JournalWriter(path) as writer:
        for record in records:
            writer.write(record)


def test_what_was_written_is_read_back(tmp_path):
    one, two = candidate(0), candidate(1, text="line\nbreak \u2028 and “quotes”")
    write(tmp_path / "journal-0.jsonl", HEADER, one, two, verdict(one))
    journal = read_journal(tmp_path)
    assert journal.headers == (HEADER,)
    assert journal.candidates == (one, two)
    assert journal.verdicts == (verdict(one),)
    assert journal.problems == () and journal.duplicates == 0
    assert journal.accepted("correct") == (one,) and journal.accepted("format") == ()
    assert tuple(read_store(tmp_path).candidates()) == (one, two)


def test_a_line_has_exactly_the_fields_of_the_contract(tmp_path):
    write(tmp_path / "j.jsonl", HEADER, candidate(), verdict(candidate()))
    header, line, judged = [json.loads(row) for row in (tmp_path / "j.jsonl").read_text().splitlines()]
    names = (
        "key sample_id image_sha256 domain classes_sha256 format source model round prompt_sha256 params seed "
        "candidate text"
    )
    assert set(line) == {"schema", "kind", *names.split(), "finish_reason", "usage", "created"}
    assert set(line["usage"]) == {"prompt_tokens", "completion_tokens", "cost"}
    assert set(judged) == {"schema", "kind", "key", "sample_id", "rule", "outcome", "accepted", "created"}
    assert header["images"] == "photos" and header["classes"] == ["cat", "dog"]
    assert header["prompts"][line["prompt_sha256"]] == PROMPTS.reasoning
    assert header["classes_sha256"] == line["classes_sha256"]
    assert {row["schema"] for row in (header, line, judged)} == {1}


def test_equal_requests_have_equal_keys_and_others_do_not():
    request = ("image", "prompt", "model", {"temperature": 0.7, "top_p": 1.0}, 0, 0)
    same = ("image", "prompt", "model", {"top_p": 1.0, "temperature": 0.7}, 0, 0)
    assert candidate_key(*request) == candidate_key(*same)
    for place, other in enumerate(("x", "x", "x", {"temperature": 0.8, "top_p": 1.0}, 1, 1)):
        assert candidate_key(*request[:place], other, *request[place + 1 :]) != candidate_key(*request)


def test_journals_of_several_writers_merge_without_duplicates(tmp_path):
    one, two = candidate(0), candidate(1)
    write(tmp_path / "journal-0.jsonl", HEADER, one, verdict(one, accepted=False))
    write(tmp_path / "journal-1.jsonl", HEADER, one, two, verdict(one))
    journal = read_journal(journal_files(tmp_path))
    assert journal.headers == (HEADER,)
    assert journal.candidates == (one, two) and journal.duplicates == 1
    assert journal.verdicts == (verdict(one),)  # the later one of the same rule
    assert journal.problems == ()


def test_an_identical_image_gets_a_copied_line_of_its_own(tmp_path):
    one = candidate(0)
    copy = one.copied_for("painting/dog/7.png", "painting")
    write(tmp_path / "j.jsonl", one, copy)
    journal = read_journal(tmp_path / "j.jsonl")
    assert [row.sample_id for row in journal.candidates] == ["photo/dog/0.png", "painting/dog/7.png"]
    assert journal.duplicates == 0 and copy.key == one.key and copy.usage is None


def test_two_texts_for_one_key_are_reported(tmp_path):
    write(tmp_path / "j.jsonl", candidate(0), candidate(0, text="another"))
    store = read_store(tmp_path / "j.jsonl")
    assert tuple(store.candidates()) == (candidate(0),)
    assert [problem.line for problem in store.contradictions] == [2] and not store.problems


def test_unknown_fields_survive(tmp_path):
    line = json.loads(candidate().line()) | {"mood": "calm"}
    (tmp_path / "a.jsonl").write_text(json.dumps(line) + "\n")
    (read,) = read_store(tmp_path / "a.jsonl").candidates()
    assert json.loads(read.line()) == line


def test_a_newer_schema_is_refused_with_file_and_line(tmp_path):
    line = json.loads(candidate().line()) | {"schema": 2}
    (tmp_path / "a.jsonl").write_text(HEADER.line() + "\n" + json.dumps(line) + "\n")
    with pytest.raises(ThroughlineError, match=r"schema 2 is newer.*a\.jsonl:2"):
        read_store(tmp_path / "a.jsonl")


def test_line_ends_and_byte_order_mark_of_other_systems_are_tolerated(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER.line()}\r\n\r\n{candidate().line()}\r\n".encode())
    journal = read_journal(path)
    assert (journal.headers, journal.candidates, journal.problems) == ((HEADER,), (candidate(),), ())


def test_bad_lines_are_listed_with_their_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [
        b"no json",
        candidate().line().encode(),
        b"[1]",
        b'{"schema": 1, "kind": "poem"}',
        b'{"kind": "verdict"}',
        b'{"schema": 1, "kind": "verdict", "key": "k"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    journal = read_journal(path)
    assert journal.candidates == (candidate(),)
    assert [problem.line for problem in journal.problems] == [1, 3, 4, 5, 6, 7, 8]
    assert str(journal.problems[0]).startswith(f"{path}:1: ")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 400))
def test_a_torn_last_line_is_moved_aside_and_counted(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("torn") / "journal-0.jsonl"
    whole = f"{HEADER.line()}\n".encode()
    torn = candidate(0).line().encode()[:cut]
    path.write_bytes(whole + torn)
    assert len(read_journal(path).problems) == 1
    with JournalWriter(path) as writer:
        writer.write(candidate(1))
    assert path.with_name("journal-0.jsonl.torn").read_bytes() == torn + b"\n"
    journal = read_journal(path)
    assert (journal.candidates, journal.problems) == ((candidate(1),), ())


def test_a_last_line_that_lost_only_its_break_is_kept(tmp_path):
    path = tmp_path / "j.jsonl"
    path.write_text(candidate(0).line())
    with JournalWriter(path) as writer:
        writer.write(candidate(1))
    assert read_journal(path).candidates == (candidate(0), candidate(1))
    assert not path.with_name("j.jsonl.torn").exists()


def test_one_writer_for_one_file(tmp_path):
    pytest.importorskip("fcntl")
    with (
        JournalWriter(tmp_path / "j.jsonl"),
        pytest.raises(ThroughlineError, match="another process is writing this journal"),
    ):
        JournalWriter(tmp_path / "j.jsonl")
    JournalWriter(tmp_path / "j.jsonl").close()


def test_a_killed_writer_loses_no_line(tmp_path):
    path = tmp_path / "j.jsonl"
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from throughline.chains.journal import JournalWriter\nfrom throughline.chains.records import Verdict\n"
        "writer = JournalWriter(Path(sys.argv[1]), flush_every=1000)\n"
        "for n in range(50):\n"
        "    writer.write(Verdict(key=str(n), sample_id='s', rule='format', outcome='ok', accepted=True))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [row.key for row in read_journal(path).verdicts] == [str(n) for n in range(50)]


def test_a_full_disk_is_one_line_and_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "j.jsonl"
    really_write = os.write

    def write_on_a_full_disk(handle, data):
        """Takes the first hundred bytes of a line, then no more."""
        if data.startswith(b'{"candidate"'):
            return really_write(handle, data[:100])
        raise OSError(28, "No space left on device")

    with JournalWriter(path) as writer:
        writer.write(candidate(0))
        monkeypatch.setattr(os, "write", write_on_a_full_disk)
        with pytest.raises(ThroughlineError, match="No space left"):
            writer.write(candidate(1))
        monkeypatch.undo()
        writer.write(candidate(2))
    assert read_journal(path).candidates == (candidate(0), candidate(2))
    assert read_journal(path).problems == ()


def test_unwritable_and_missing_places_are_the_users_fault(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ThroughlineError, match="cannot write"):
        JournalWriter(tmp_path / "file" / "j.jsonl")
    with pytest.raises(ThroughlineError, match="cannot read the journal"):
        read_store(tmp_path / "none.jsonl")


def test_closing_twice_does_nothing(tmp_path):
    writer = JournalWriter(Path(tmp_path / "j.jsonl"))
    writer.close()
    writer.close()


def test_the_room_loads_no_torch():
    script = (
        "import sys\nfrom throughline.chains import answers, journal, parsing, rules, store\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# the store ----------------------------------------------------------------------------------------------------------


def mixed_up(draw):
    """Lines of three requests in any order: failures, answers, contradictions, copies, verdicts, judges', bad lines."""
    lines = [HEADER.line(), "no json"]
    for _ in range(draw.randint(1, 30)):
        one = candidate(draw.randrange(3), draw.choice(["a", "b"]), sample_id=draw.choice(["x", "y"]))
        if draw.random() < 0.3:
            one = one.model_copy(update={"finish_reason": "error", "usage": None})
        rule, outcome = draw.choice(["format", "correct", "mine"]), draw.choice(["ok", "refusal"])
        lines.append(draw.choice([one, verdict(one, rule, outcome, draw.random() < 0.5)]).line())
    return lines


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(draw=st.randoms(use_true_random=False))
def test_a_store_is_what_a_plain_fold_of_its_lines_is(draw, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    for shard in range(2):
        (folder / f"journal-{shard}.jsonl").write_text("\n".join(mixed_up(draw)) + "\n")
    store, plain = read_store(folder), read_journal(folder)
    standing = {(c.key, c.sample_id): c for c in store.candidates()}
    assert standing == {(c.key, c.sample_id): c for c in plain.candidates}
    assert (store.duplicates, len(store.contradictions), store.problems) == (
        plain.duplicates,
        plain.contradictions,
        list(plain.problems),
    )
    rows = dict(zip(standing, store.requests.index, strict=True))
    for rule in store.rules:
        found = store.verdicts(rule)
        for last in plain.verdicts:
            row = rows.get((last.key, last.sample_id))
            if last.rule == rule and row in found.index:
                assert (found.outcome[row], found.accepted[row]) == (last.outcome, last.accepted)


def test_a_judge_that_failed_takes_back_nothing(tmp_path):
    one, two = candidate(0), candidate(1)
    said = [(one, "ok", False, "m"), (one, "error", False, "m"), (two, "ok", True, "m"), (two, "ok", False, "other")]
    lines = [
        verdict(of, "judge", outcome, accepted).model_copy(update={"model": model})
        for of, outcome, accepted, model in said
    ]
    write(tmp_path / "journal-0.jsonl", *lines, one, two)
    store = read_store(tmp_path)
    assert [candidate.key for candidate in store.read(store.vetoed)] == [one.key, two.key]
    assert store.judgements == {
        (hash(one.key), "m"): False,
        (hash(two.key), "m"): True,
        (hash(two.key), "other"): False,
    }


def test_usage_is_summed_over_all_lines_and_absurd_values_are_in_no_sum(tmp_path):
    failed = candidate(0, finish_reason="error")
    odd = candidate(1, usage=Usage(prompt_tokens=10**400, completion_tokens=-1, cost=-0.5))
    judged = verdict(odd, "judge").model_copy(update={"model": "m", "usage": Usage(cost=0.25)})
    write(tmp_path / "journal-0.jsonl", failed, candidate(0), candidate(0), odd, judged)
    store = read_store(tmp_path)
    assert store.cost == pytest.approx(0.003 + 0.25) and store.unusable_usage == 3
    assert store.answers["cost"].tolist()[:1] == [0.001]


def test_a_store_that_changed_since_it_was_read_is_said_to(tmp_path):
    write(tmp_path / "journal-0.jsonl", candidate(0), candidate(1))
    store = read_store(tmp_path)
    write(tmp_path / "journal-0.jsonl", candidate(2))
    assert len(list(store.candidates())) == 2, "a store that only grew is no trouble"
    (tmp_path / "journal-0.jsonl").write_text(candidate(1).line() + "\n")
    with pytest.raises(ThroughlineError, match="the store changed"):
        list(store.candidates())
