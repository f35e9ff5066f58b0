"""What `chains stats` counts, against a plain count over `read_journal` and against stores counted by hand."""

from __future__ import annotations

import json
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.chains.plain_fold import read_journal

from throughline.chains.formats import FIVE_STAGE, FORMATS, THINK_ANSWER, Chain, ChainFormat, render_chain
from throughline.chains.journal import JournalWriter
from throughline.chains.records import (
    Candidate,
    Record,
    Usage,
    Verdict,
    candidate_key,
    classes_sha256,
    make_header,
    prompt_sha256,
)
from throughline.chains.rules import RULES
from throughline.chains.verdicts import verdict_on
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.drawn.describer import describe
from throughline.drawn.world import read_scenes, write_world
from throughline.questions.question_set import make_question_set
from throughline.teaching.statistics.records import ChainStatistics
from throughline.teaching.statistics.summary import summarise_chains
from throughline.teaching.statistics.tables import statistics_tables

CLASSES = ("cat", "cup", "dog")
IMAGES = ImageSet(
    "made",
    Path("made"),
    ("photo", "sketch"),
    CLASSES,
    tuple(
        Sample(f"{domain}/{label}/0.png", Path("x"), domain, (label,), f"bytes of {domain} {label}")
        for domain in ("photo", "sketch")
        for label in CLASSES
    ),
)


def chain(label: str, format: ChainFormat = FIVE_STAGE) -> str:
    texts = ["One two three." for _ in format.stages]
    texts[format.answer_index] = label
    return render_chain(Chain(format, tuple(texts)))


def answer(sample_id: str, number: int = 0, text: str | None = None, **fields: Any) -> Candidate:
    domain, label, _ = sample_id.split("/")
    format = FORMATS[fields.get("format", "five_stage")]
    asked = {"model": "teacher-1", "image_sha256": f"bytes of {domain} {label}", "prompt_sha256": "p"} | fields
    given = {
        "key": candidate_key(asked["image_sha256"], asked["prompt_sha256"], asked["model"], {}, 0, number),
        "sample_id": sample_id,
        "domain": domain,
        "classes_sha256": classes_sha256(CLASSES),
        "format": format.name,
        "source": "endpoint",
        "seed": 0,
        "candidate": number,
        "text": chain(label, format) if text is None else text,
        "finish_reason": "stop",
    }
    return Candidate(**(given | asked))


def verdict(of: Candidate, accepted: bool, rule: str = "correct", outcome: str = "ok") -> Verdict:
    return Verdict(key=of.key, sample_id=of.sample_id, rule=rule, outcome=outcome, accepted=accepted)


def write(path: Path, *records: Record) -> Path:
    with JournalWriter(path) as writer:
        writer.write(*records)
    return path


HEADER = make_header(CLASSES, FIVE_STAGE, make_question_set(CLASSES, FIVE_STAGE).texts)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSet, Path, Path]:
    """A drawn world, a store of four candidates an image with all verdicts, and the same store without them."""
    root = tmp_path_factory.mktemp("world")
    write_world(root, per_class=1, seed=4, styles=("photo", "sketch"))
    images, scenes = read_images(root), read_scenes(root)
    prompts = make_question_set(images.classes, FIVE_STAGE)
    asked = prompt_sha256(prompts.reasoning)
    judged, bare = root / "judged", root / "bare"
    with JournalWriter(judged / "journal-0.jsonl") as one, JournalWriter(bare / "journal-0.jsonl") as other:
        header = make_header(images.classes, FIVE_STAGE, prompts.texts)
        one.write(header)
        other.write(header)
        for place, sample in enumerate(images.samples):
            for number in range(1 + place % 4):
                candidate = Candidate(
                    key=candidate_key(sample.image_sha256, asked, "describer", {}, 0, number),
                    sample_id=sample.id,
                    image_sha256=sample.image_sha256,
                    domain=sample.domain,
                    classes_sha256=header.classes_sha256,
                    format="five_stage",
                    source="describer",
                    model="describer",
                    prompt_sha256=asked,
                    seed=0,
                    candidate=number,
                    text=describe(scenes[sample.id], seed=0, sample_id=sample.id, candidate=number),
                    finish_reason="stop",
                    usage=Usage(prompt_tokens=10, completion_tokens=place),
                )
                one.write(candidate)
                other.write(candidate)
                for rule in RULES:
                    one.write(verdict_on(candidate, rule, FIVE_STAGE, images.classes, sample.label))
    return images, judged, bare


def test_the_numbers_are_those_of_a_plain_count(world: tuple[ImageSet, Path, Path]) -> None:
    images, store, _ = world
    journal = read_journal(store)
    found = summarise_chains(store, images)
    assert (found.problems, found.duplicates, found.judged_anew, found.images_unknown) == (0, 0, False, 0)
    assert found.lines == 1 + len(journal.candidates) + len(journal.verdicts)
    assert (found.whole.candidates, found.whole.failed, found.whole.copies) == (len(journal.candidates), 0, 0)
    assert found.whole.images == len(images.samples) == found.images_given
    assert [one.rule for one in found.whole.acceptance] == list(RULES)
    for one in found.whole.acceptance:
        kept = journal.accepted(one.rule)
        assert (one.overall.candidates.judged, one.overall.candidates.accepted) == (len(journal.candidates), len(kept))
        assert one.overall.images.accepted == len({candidate.sample_id for candidate in kept})
        for kind, name_of in (
            (one.by_domain, lambda c: c.domain),
            (one.by_class, lambda c: images.by_id[c.sample_id].label),
        ):
            asked, accepted = defaultdict(list), defaultdict(list)
            for candidate in journal.candidates:
                asked[name_of(candidate)].append(candidate.sample_id)
            for candidate in kept:
                accepted[name_of(candidate)].append(candidate.sample_id)
            assert {
                name: (
                    group.candidates.judged,
                    group.candidates.accepted,
                    group.images.judged,
                    group.images.accepted,
                )
                for name, group in (kind or {}).items()
            } == {
                name: (len(ids), len(accepted[name]), len(set(ids)), len(set(accepted[name])))
                for name, ids in asked.items()
            }
        outcomes = defaultdict(int)
        for given in journal.verdicts:
            if given.rule == one.rule:
                outcomes[given.outcome.value] += 1
        assert one.outcomes == dict(outcomes)
        first = {}
        for candidate in sorted(kept, key=lambda c: c.candidate):
            first.setdefault(candidate.sample_id, candidate.candidate)
        for row in one.by_number:
            numbered = [c for c in journal.candidates if c.candidate == row.number]
            assert row.candidates.judged == len(numbered)
            assert row.candidates.accepted == len([c for c in kept if c.candidate == row.number])
            assert row.images_gained == list(first.values()).count(row.number)


def test_lengths_are_counted_in_words_without_tags(world: tuple[ImageSet, Path, Path]) -> None:
    images, store, _ = world
    found = summarise_chains(store, images).whole
    kept = read_journal(store).accepted("correct")
    words = [sum(not word.startswith("<") for word in candidate.text.split()) for candidate in kept]
    chain = found.accepted_lengths["correct"].chain
    assert chain is not None
    assert (chain.count, chain.longest) == (len(words), max(words))
    assert (chain.low, chain.median, chain.high) == tuple(np.percentile(words, (5, 50, 95)))
    stages = found.accepted_lengths["correct"].stages["five_stage"]
    captions = [len(c.text.split("<CAPTION>")[1].split("</CAPTION>")[0].split()) for c in kept]
    assert stages["CAPTION"].median == np.median(captions)
    assert stages["CAPTION"].longest == max(captions)
    assert list(stages) == list(FIVE_STAGE.stages)
    assert found.lengths.chain is not None and found.lengths.chain.count == found.candidates


def test_tokens_are_told_in_sum_per_candidate_and_per_accepted_chain(world: tuple[ImageSet, Path, Path]) -> None:
    images, store, _ = world
    found, journal = summarise_chains(store, images).whole, read_journal(store)
    tokens = sum(candidate.usage.completion_tokens for candidate in journal.candidates)  # type: ignore[union-attr,misc]
    assert found.prompt_tokens.total == 10 * len(journal.candidates)
    assert found.completion_tokens.total == tokens
    assert found.completion_tokens.per_candidate == pytest.approx(tokens / len(journal.candidates))
    for rule in RULES:
        assert found.completion_tokens.per_accepted[rule] == pytest.approx(tokens / len(journal.accepted(rule)))
    assert (found.cost.reporting, found.cost.total, found.cost.per_candidate) == (0, None, None)
    assert found.cost.per_accepted == dict.fromkeys(RULES)


def test_a_store_without_verdicts_is_judged_anew(world: tuple[ImageSet, Path, Path]) -> None:
    images, judged, bare = world
    before = (bare / "journal-0.jsonl").read_bytes()
    found = summarise_chains(bare, images)
    assert found.judged_anew
    assert found.whole == summarise_chains(judged, images).whole
    assert (bare / "journal-0.jsonl").read_bytes() == before
    blind = summarise_chains(bare)
    assert (blind.whole.acceptance, blind.judged_anew, blind.images_unknown) == ((), False, None)


def test_without_images_there_are_no_classes(world: tuple[ImageSet, Path, Path]) -> None:
    images, store, _ = world
    found = summarise_chains(store)
    assert all(one.by_class is None for one in found.whole.acceptance)
    assert not [table for table in statistics_tables(found) if table.columns[0] == "class"]
    assert [table for table in statistics_tables(summarise_chains(store, images)) if table.columns[0] == "class"]


def test_samples_that_the_folder_does_not_hold_are_counted(tmp_path: Path) -> None:
    known, strange = answer("photo/cat/0.png"), answer("photo/fox/0.png", text=chain("dog"))
    found = summarise_chains(write(tmp_path / "journal-0.jsonl", HEADER, known, strange), IMAGES)
    assert (found.images_unknown, found.images_changed, found.whole.images) == (1, 0, 2)
    (correct,) = (one for one in found.whole.acceptance if one.rule == "correct")
    assert correct.overall.candidates.judged == 1
    assert correct.by_class is not None and set(correct.by_class) == {"cat"}


def test_a_sample_whose_image_was_replaced_has_no_class(tmp_path: Path) -> None:
    other = answer("photo/cat/0.png", image_sha256="bytes of another cat")
    found = summarise_chains(write(tmp_path / "journal-0.jsonl", HEADER, other, verdict(other, True)), IMAGES)
    assert (found.images_unknown, found.images_changed) == (0, 1)
    assert found.whole.acceptance[0].by_class == {}
    assert found.whole.acceptance[0].overall.images.accepted == 1


def test_a_failure_counts_until_an_answer_stands_in_its_place(tmp_path: Path) -> None:
    lost, late = (answer(f"photo/{name}/0.png", text="HTTP 500", finish_reason="error") for name in ("cat", "dog"))
    came = answer("photo/dog/0.png", usage=Usage(cost=0.5))
    failed = [verdict(one, False, outcome="error") for one in (lost, late)]
    store = write(tmp_path / "journal-0.jsonl", HEADER, lost, failed[0], late, failed[1], came)
    found = summarise_chains(store)
    assert (found.whole.candidates, found.whole.failed, found.duplicates) == (1, 1, 1)
    assert not found.whole.acceptance, "what was said of the failure is not said of the answer"
    write(store, verdict(came, True))
    (correct,) = summarise_chains(store).whole.acceptance
    assert (correct.overall.images.judged, correct.overall.images.accepted) == (1, 1)
    assert correct.outcomes == {"ok": 1, "error": 1}


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    """A store read back to front: verdicts before their candidates, copies before what they are copies of."""
    asked = [answer(f"photo/{name}/0.png", usage=Usage(completion_tokens=7, cost=0.25)) for name in CLASSES]
    copy = asked[0].copied_for("sketch/cat/0.png", "sketch")
    verdicts = [verdict(one, one is not asked[1]) for one in (*asked, copy)]
    found = []
    for place, records in enumerate(([HEADER, *asked, copy, *verdicts], [*verdicts, copy, *asked, HEADER])):
        store = tmp_path / str(place)
        for number, record in enumerate(records):
            write(store / f"journal-{number}.jsonl", record)
        found.append(summarise_chains(store, IMAGES))
    assert found[0] == found[1]
    whole = found[0].whole
    assert (whole.candidates, whole.copies, whole.images) == (4, 1, 4)
    assert (whole.cost.total, whole.cost.reporting, whole.cost.per_candidate) == (0.75, 3, 0.25)
    assert whole.cost.per_accepted == {"correct": 0.375}, "a copy is no chain that was paid for"


def test_the_last_verdict_counts_and_one_without_its_candidate_is_told(tmp_path: Path) -> None:
    one, gone = answer("photo/cat/0.png"), answer("photo/dog/0.png")
    store = write(tmp_path / "journal-0.jsonl", one, verdict(one, True), verdict(one, False), verdict(gone, True))
    found = summarise_chains(store)
    assert found.verdicts_without_candidate == 1
    assert found.whole.acceptance[0].overall.candidates.accepted == 0
    only = summarise_chains(write(tmp_path / "only.jsonl", verdict(gone, True)))
    assert (only.whole.candidates, only.whole.acceptance, only.verdicts_without_candidate) == (0, (), 1)


def test_teachers_models_and_rounds_are_kept_apart(tmp_path: Path) -> None:
    paid = [answer("photo/cat/0.png", n, usage=Usage(completion_tokens=100, cost=0.1)) for n in range(2)]
    free = answer("photo/cat/0.png", source="local", model="base", usage=Usage(completion_tokens=10))
    later = answer("photo/cat/0.png", source="self", model="base", round=1, prompt_sha256="q", format="think_answer")
    verdicts = [verdict(paid[0], False), verdict(paid[1], True), verdict(free, True), verdict(later, False, "format")]
    store = write(tmp_path / "journal-0.jsonl", HEADER, *paid, free, later, *verdicts)
    found = summarise_chains(store, IMAGES)
    assert [(one.source, one.model, one.round) for one in found.teachers] == [
        ("endpoint", "teacher-1", 0),
        ("local", "base", 0),
        ("self", "base", 1),
    ]
    endpoint, local, itself = (one.part for one in found.teachers)
    assert (found.prompts, found.formats) == (2, ("five_stage", "think_answer"))
    assert (endpoint.candidates, local.candidates, itself.candidates, found.whole.candidates) == (2, 1, 1, 4)
    assert endpoint.cost.per_accepted == {"correct": pytest.approx(0.2)}
    assert found.whole.cost.per_accepted["correct"] == pytest.approx(0.2), "only chains of known cost are in it"
    assert (local.cost.total, local.completion_tokens.per_accepted) == (None, {"correct": 10})
    assert [row.images_gained for row in endpoint.acceptance[0].by_number] == [0, 1]
    assert [row.images_gained for row in found.whole.acceptance[1].by_number] == [1, 0]
    assert [one.rule for one in itself.acceptance] == ["format"]
    assert set(itself.lengths.stages) == {THINK_ANSWER.name}
    assert itself.lengths.stages[THINK_ANSWER.name]["think"].median == 3
    (by_teacher,) = (table for table in statistics_tables(found) if table.title == "by teacher")
    assert [row[1] for row in by_teacher.rows] == ["teacher-1", "base", "base"]


def test_a_judges_verdicts_are_paid_for_once_and_belong_to_the_price_of_a_chain(tmp_path: Path) -> None:
    asked = [answer(f"photo/{name}/0.png", usage=Usage(completion_tokens=7, cost=0.25)) for name in CLASSES]
    copy = asked[0].copied_for("sketch/cat/0.png", "sketch")
    told = [verdict(one, one is not asked[1], "judge") for one in (*asked, copy)]
    paid = [one.model_copy(update={"model": "judge-1", "usage": Usage(cost=0.5)}) for one in told]
    store = write(tmp_path / "journal-0.jsonl", HEADER, *paid, *asked, copy)
    found = summarise_chains(store)
    assert (found.whole.cost.total, found.whole.cost.judging, found.whole.prompt_tokens.judging) == (0.75, 1.5, None)
    assert found.whole.cost.per_accepted == {"judge": (0.75 + 1.5) / 2}
    free = [one.model_copy(update={"usage": None}) for one in asked]
    found = summarise_chains(write(tmp_path / "local" / "journal-0.jsonl", HEADER, *free, copy, *paid))
    assert (found.whole.cost.total, found.whole.cost.per_accepted) == (None, {"judge": 1.5 / 2})


def test_what_read_journal_reports_is_counted_alike(tmp_path: Path) -> None:
    one = answer("photo/cat/0.png")
    store = tmp_path / "journal-0.jsonl"
    write(store, HEADER, one, one, answer("photo/cat/0.png", text="another"), verdict(one, True))
    store.write_bytes(store.read_bytes() + b'no json\n{"schema": 1, "kind": "poem"}\n\xff\n' + one.line().encode()[:99])
    journal, found = read_journal(store), summarise_chains(store)
    problems = len(journal.problems) + journal.contradictions
    assert (found.problems, found.duplicates) == (problems, journal.duplicates) == (5, 2)


def test_hostile_values_are_counted_and_do_not_stop_the_count(tmp_path: Path) -> None:
    odd = [
        answer("photo/cat/0.png", 10**30),
        answer("photo/cup/0.png", -3, usage=Usage(prompt_tokens=10**400, completion_tokens=-5, cost=-1.0)),
        answer("photo/dog/0.png", 1, text="<SUMMARY> " * 100_000, domain="\x1b[31m<b>"),
        answer("photo/dog/0.png", 2, text="", source="\u202eendpoint"),
    ]
    odd.append(odd[0].model_copy(update={"format": "haiku", "sample_id": "x/y/z"}))
    store = write(tmp_path / "journal-0.jsonl", *odd, *(verdict(one, False, "judge\n\x1b[0m") for one in odd))
    found = summarise_chains(store, IMAGES)
    assert found.whole.candidates == 5 and found.unusable_usage == 3
    assert [row.number for row in found.whole.acceptance[0].by_number] == [-3, 1, 2, 10**30]
    tables = statistics_tables(found)
    assert all(cell.isprintable() for table in tables for row in (table.columns, *table.rows) for cell in row)
    assert ChainStatistics.model_validate_json(found.model_dump_json()) == found


def test_an_empty_store_is_counted_and_an_empty_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "journal-0.jsonl").write_text("")
    found = summarise_chains(tmp_path, IMAGES)
    assert (found.lines, found.whole.images, found.whole.lengths.chain, found.teachers) == (0, 0, None, ())
    assert [table.title for table in statistics_tables(found)] == ["the store"]
    (tmp_path / "journal-0.jsonl").unlink()
    with pytest.raises(ThroughlineError, match="no journal"):
        summarise_chains(tmp_path)


def test_a_newer_schema_stops_the_count_with_file_and_line(tmp_path: Path) -> None:
    line = json.loads(answer("photo/cat/0.png").line()) | {"schema": 2}
    (tmp_path / "journal-0.jsonl").write_text(HEADER.line() + "\n" + json.dumps(line) + "\n")
    with pytest.raises(ThroughlineError, match=r"newer.*journal-0\.jsonl:2"):
        summarise_chains(tmp_path)


def test_the_tables_tell_acceptance_by_number_and_outcome(tmp_path: Path) -> None:
    asked = [answer(f"photo/{name}/0.png", n) for name in CLASSES for n in range(1 + (name == "cup"))]
    verdicts = [verdict(one, one is not asked[1], outcome="ok" if one is not asked[1] else "refusal") for one in asked]
    found = summarise_chains(write(tmp_path / "journal-0.jsonl", HEADER, *asked, *verdicts), IMAGES)
    tables = {table.title: table for table in statistics_tables(found)}
    for table in tables.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert tables["accepted, by rule"].rows == (("correct", "3 of 3 (100.0 %)", "3 of 4 (75.0 %)"),)
    assert tables["accepted by candidate number, and images gained"].rows == (
        ("0", "3", "66.7 %, +2"),
        ("1", "1", "100.0 %, +1"),
    )
    assert tables["accepted of images / of candidates, by class"].rows[1] == ("cup", "1", "2", "100.0 % / 50.0 %")
    assert tables["outcomes"].rows == (("ok, accepted", "3"), ("refusal", "1"))
    assert tables["words: median (5 % to 95 %, longest)"].rows[1][0] == "SUMMARY"
    assert "by teacher" not in tables


def test_no_text_is_kept(tmp_path: Path) -> None:
    def grown_by(size: int) -> int:
        with JournalWriter(tmp_path / f"{size}.jsonl", flush_every=10_000) as writer:
            for number in range(600):
                writer.write(answer("photo/cat/0.png", number, text="word " * (size // 5)))
        tracemalloc.start()
        summarise_chains(tmp_path / f"{size}.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small, large = grown_by(50), grown_by(20_000)
    assert large - small < 2_000_000, "twelve million characters were read"
