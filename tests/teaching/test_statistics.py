"""What `chains stats` counts, against a plain count over `read_journal` and against stores counted by hand."""

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
from throughline.chains.verdicts import verdicts_on
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.drawn.describer import describe
from throughline.drawn.scenes import read_scenes
from throughline.drawn.world import write_world
from throughline.questions.question_set import make_question_set
from throughline.teaching.statistics import ChainStatistics, summarise_chains
from throughline.teaching.statistics_tables import statistics_tables

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


def rows(frame: Any, **values: Any) -> list[Any]:
    """The rows of a frame of numbers with these values."""
    return [row for row in frame.itertuples() if all(getattr(row, name) == value for name, value in values.items())]


def part(found: ChainStatistics, part: int = 0) -> Any:
    [row] = rows(found.parts, part=part)
    return row


def accepted(found: ChainStatistics, rule: str = "correct", part: int = 0) -> Any:
    [row] = rows(found.acceptance, rule=rule, part=part, by="all")
    return row


def spent(found: ChainStatistics, quantity: str, part: int = 0) -> Any:
    [row] = rows(found.spending, quantity=quantity, part=part)
    return row


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
                    one.write(*verdicts_on(candidate, [rule], FIVE_STAGE, images.classes, sample.label))
    return images, judged, bare


def test_the_numbers_are_those_of_a_plain_count(world: tuple[ImageSet, Path, Path]) -> None:
    images, store, _ = world
    journal = read_journal(store)
    found = summarise_chains(store, images)
    counts = found.store
    assert (counts["problems"], counts["duplicates"], counts["judged_anew"], counts["images_unknown"]) == (
        *(0, 0),
        *(False, 0),
    )
    assert counts["lines"] == 1 + len(journal.candidates) + len(journal.verdicts)
    assert (part(found).candidates, part(found).failed, part(found).copies) == (len(journal.candidates), 0, 0)
    assert part(found).images == len(images.samples) == counts["images_given"]
    assert [row.rule for row in rows(found.acceptance, part=0, by="all")] == list(RULES)
    for rule in RULES:
        kept = journal.accepted(rule)
        overall = accepted(found, rule)
        assert (overall.candidates, overall.accepted) == (len(journal.candidates), len(kept))
        assert overall.images_accepted == len({candidate.sample_id for candidate in kept})
        for by, name_of in (
            ("domain", lambda c: c.domain),
            ("class", lambda c: images.by_id[c.sample_id].label),
        ):
            asked, right = defaultdict(list), defaultdict(list)
            for candidate in journal.candidates:
                asked[name_of(candidate)].append(candidate.sample_id)
            for candidate in kept:
                right[name_of(candidate)].append(candidate.sample_id)
            assert {
                row.name: (row.candidates, row.accepted, row.images, row.images_accepted)
                for row in rows(found.acceptance, part=0, rule=rule, by=by)
            } == {
                name: (len(ids), len(right[name]), len(set(ids)), len(set(right[name]))) for name, ids in asked.items()
            }
        outcomes = defaultdict(int)
        for given in journal.verdicts:
            if given.rule == rule:
                outcomes[given.outcome.value, given.accepted] += 1
        counted = rows(found.outcomes, part=0, rule=rule)
        assert {(row.outcome, row.accepted): row.count for row in counted} == dict(outcomes)
        first = {}
        for candidate in sorted(kept, key=lambda c: c.candidate):
            first.setdefault(candidate.sample_id, candidate.candidate)
        for row in rows(found.acceptance, part=0, rule=rule, by="number"):
            numbered = [c for c in journal.candidates if c.candidate == row.name]
            assert row.candidates == len(numbered)
            assert row.accepted == len([c for c in kept if c.candidate == row.name])
            assert row.images_gained == list(first.values()).count(row.name)


def test_lengths_are_counted_in_words_without_tags(world: tuple[ImageSet, Path, Path]) -> None:
    images, store, _ = world
    found = summarise_chains(store, images)
    kept = read_journal(store).accepted("correct")
    words = [sum(not word.startswith("<") for word in candidate.text.split()) for candidate in kept]
    chain, *stages = rows(found.words, part=0, rule="correct")
    assert (chain.format, chain.stage) == (None, None)
    assert (chain.count, chain.longest) == (len(words), max(words))
    assert (chain.low, chain.median, chain.high) == tuple(np.percentile(words, (5, 50, 95)))
    assert [(row.format, row.stage) for row in stages] == [("five_stage", stage) for stage in FIVE_STAGE.stages]
    captions = [len(c.text.split("<CAPTION>")[1].split("</CAPTION>")[0].split()) for c in kept]
    assert stages[1].median == np.median(captions)
    assert stages[1].longest == max(captions)
    assert rows(found.words, part=0, rule=None)[0].count == part(found).candidates


def test_tokens_are_told_in_sum_per_candidate_and_per_accepted_chain(world: tuple[ImageSet, Path, Path]) -> None:
    images, store, _ = world
    found, journal = summarise_chains(store, images), read_journal(store)
    tokens = sum(candidate.usage.completion_tokens for candidate in journal.candidates)  # type: ignore[union-attr,misc]
    completion, cost = spent(found, "completion_tokens"), spent(found, "cost")
    assert spent(found, "prompt_tokens").total == 10 * len(journal.candidates)
    assert completion.total == tokens
    assert completion.per_candidate == pytest.approx(tokens / len(journal.candidates))
    for rule in RULES:
        assert completion.per_accepted[rule] == pytest.approx(tokens / len(journal.accepted(rule)))
    assert (cost.reporting, cost.total, cost.per_candidate) == (0, None, None)
    assert cost.per_accepted == dict.fromkeys(RULES)


def test_a_store_without_verdicts_is_judged_anew(world: tuple[ImageSet, Path, Path]) -> None:
    images, judged, bare = world
    before = (bare / "journal-0.jsonl").read_bytes()
    found = summarise_chains(bare, images)
    assert found.store["judged_anew"]
    assert found.as_data() | {"store": 0} == summarise_chains(judged, images).as_data() | {"store": 0}
    assert (bare / "journal-0.jsonl").read_bytes() == before
    blind = summarise_chains(bare)
    assert blind.acceptance.empty and not blind.store["judged_anew"] and blind.store["images_unknown"] is None


def test_without_images_there_are_no_classes(world: tuple[ImageSet, Path, Path]) -> None:
    images, store, _ = world
    found = summarise_chains(store)
    assert not rows(found.acceptance, by="class")
    assert not [table for table in statistics_tables(found) if table.columns[0] == "class"]
    assert [table for table in statistics_tables(summarise_chains(store, images)) if table.columns[0] == "class"]


def test_samples_that_the_folder_does_not_hold_are_counted(tmp_path: Path) -> None:
    known, strange = answer("photo/cat/0.png"), answer("photo/fox/0.png", text=chain("dog"))
    found = summarise_chains(write(tmp_path / "journal-0.jsonl", HEADER, known, strange), IMAGES)
    assert (found.store["images_unknown"], found.store["images_changed"], part(found).images) == (1, 0, 2)
    assert accepted(found).candidates == 1
    assert [row.name for row in rows(found.acceptance, part=0, rule="correct", by="class")] == ["cat"]


def test_a_sample_whose_image_was_replaced_has_no_class(tmp_path: Path) -> None:
    other = answer("photo/cat/0.png", image_sha256="bytes of another cat")
    found = summarise_chains(write(tmp_path / "journal-0.jsonl", HEADER, other, verdict(other, True)), IMAGES)
    assert (found.store["images_unknown"], found.store["images_changed"]) == (0, 1)
    assert rows(found.acceptance, by="class") == []
    assert accepted(found).images_accepted == 1


def test_a_failure_counts_until_an_answer_stands_in_its_place(tmp_path: Path) -> None:
    lost, late = (answer(f"photo/{name}/0.png", text="HTTP 500", finish_reason="error") for name in ("cat", "dog"))
    came = answer("photo/dog/0.png", usage=Usage(cost=0.5))
    failed = [verdict(one, False, outcome="error") for one in (lost, late)]
    store = write(tmp_path / "journal-0.jsonl", HEADER, lost, failed[0], late, failed[1], came)
    found = summarise_chains(store)
    assert (part(found).candidates, part(found).failed, found.store["duplicates"]) == (1, 1, 1)
    assert found.acceptance.empty, "what was said of the failure is not said of the answer"
    write(store, verdict(came, True))
    found = summarise_chains(store)
    assert (accepted(found).images, accepted(found).images_accepted) == (1, 1)
    assert {row.outcome: row.count for row in rows(found.outcomes, part=0)} == {"ok": 1, "error": 1}


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
    assert found[0].as_data() == found[1].as_data()
    whole, cost = part(found[0]), spent(found[0], "cost")
    assert (whole.candidates, whole.copies, whole.images) == (4, 1, 4)
    assert (cost.total, cost.reporting, cost.per_candidate) == (0.75, 3, 0.25)
    assert cost.per_accepted == {"correct": 0.375}, "a copy is no chain that was paid for"


def test_the_last_verdict_counts_and_one_without_its_candidate_is_told(tmp_path: Path) -> None:
    one, gone = answer("photo/cat/0.png"), answer("photo/dog/0.png")
    store = write(tmp_path / "journal-0.jsonl", one, verdict(one, True), verdict(one, False), verdict(gone, True))
    found = summarise_chains(store)
    assert found.store["verdicts_without_candidate"] == 1
    assert accepted(found).accepted == 0
    only = summarise_chains(write(tmp_path / "only.jsonl", verdict(gone, True)))
    assert (part(only).candidates, len(only.acceptance), only.store["verdicts_without_candidate"]) == (0, 0, 1)


def test_teachers_models_and_rounds_are_kept_apart(tmp_path: Path) -> None:
    paid = [answer("photo/cat/0.png", n, usage=Usage(completion_tokens=100, cost=0.1)) for n in range(2)]
    free = answer("photo/cat/0.png", source="local", model="base", usage=Usage(completion_tokens=10))
    later = answer("photo/cat/0.png", source="self", model="base", round=1, prompt_sha256="q", format="think_answer")
    verdicts = [verdict(paid[0], False), verdict(paid[1], True), verdict(free, True), verdict(later, False, "format")]
    store = write(tmp_path / "journal-0.jsonl", HEADER, *paid, free, later, *verdicts)
    found = summarise_chains(store, IMAGES)
    whole, endpoint, local, itself = found.parts.itertuples()
    assert [(row.source, row.model, row.round) for row in (endpoint, local, itself)] == [
        ("endpoint", "teacher-1", 0),
        ("local", "base", 0),
        ("self", "base", 1),
    ]
    assert (found.store["prompts"], found.store["formats"]) == (2, ["five_stage", "think_answer"])
    assert (endpoint.candidates, local.candidates, itself.candidates, whole.candidates) == (2, 1, 1, 4)
    assert spent(found, "cost", 1).per_accepted == {"correct": pytest.approx(0.2)}
    assert spent(found, "cost").per_accepted["correct"] == pytest.approx(0.2), "only chains of known cost are in it"
    assert (spent(found, "cost", 2).total, spent(found, "completion_tokens", 2).per_accepted) == (None, {"correct": 10})
    numbers = [rows(found.acceptance, part=part, rule="correct", by="number") for part in (0, 1)]
    assert [row.images_gained for row in numbers[1]] == [0, 1]
    assert [row.images_gained for row in numbers[0]] == [1, 0]
    assert [row.rule for row in rows(found.acceptance, part=3, by="all")] == ["format"]
    _, *stages = rows(found.words, part=3, rule=None)
    assert {row.format for row in stages} == {THINK_ANSWER.name}
    assert [row.median for row in stages if row.stage == "think"] == [3]
    (by_teacher,) = (table for table in statistics_tables(found) if table.title == "by teacher")
    assert [row[1] for row in by_teacher.rows] == ["teacher-1", "base", "base"]


def test_a_judges_verdicts_are_paid_for_once_and_belong_to_the_price_of_a_chain(tmp_path: Path) -> None:
    asked = [answer(f"photo/{name}/0.png", usage=Usage(completion_tokens=7, cost=0.25)) for name in CLASSES]
    copy = asked[0].copied_for("sketch/cat/0.png", "sketch")
    told = [verdict(one, one is not asked[1], "judge") for one in (*asked, copy)]
    paid = [one.model_copy(update={"model": "judge-1", "usage": Usage(cost=0.5)}) for one in told]
    store = write(tmp_path / "journal-0.jsonl", HEADER, *paid, *asked, copy)
    found = summarise_chains(store)
    cost = spent(found, "cost")
    assert (cost.total, cost.judging, spent(found, "prompt_tokens").judging) == (0.75, 1.5, None)
    assert cost.per_accepted == {"judge": (0.75 + 1.5) / 2}
    free = [one.model_copy(update={"usage": None}) for one in asked]
    cost = spent(summarise_chains(write(tmp_path / "local" / "journal-0.jsonl", HEADER, *free, copy, *paid)), "cost")
    assert (cost.total, cost.per_accepted) == (None, {"judge": 1.5 / 2})


def test_what_read_journal_reports_is_counted_alike(tmp_path: Path) -> None:
    one = answer("photo/cat/0.png")
    store = tmp_path / "journal-0.jsonl"
    write(store, HEADER, one, one, answer("photo/cat/0.png", text="another"), verdict(one, True))
    store.write_bytes(store.read_bytes() + b'no json\n{"schema": 1, "kind": "poem"}\n\xff\n' + one.line().encode()[:99])
    journal, found = read_journal(store), summarise_chains(store).store
    problems = len(journal.problems) + journal.contradictions
    assert (found["problems"], found["duplicates"]) == (problems, journal.duplicates) == (5, 2)


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
    assert part(found).candidates == 5 and found.store["unusable_usage"] == 3
    assert [row.name for row in rows(found.acceptance, part=0, by="number")] == [-3, 1, 2, 10**30]
    tables = statistics_tables(found)
    assert all(cell.isprintable() for table in tables for row in (table.columns, *table.rows) for cell in row)
    assert json.loads(json.dumps(found.as_data(), allow_nan=False)) == found.as_data()


def test_an_empty_store_is_counted_and_an_empty_folder_is_none(tmp_path: Path) -> None:
    (tmp_path / "journal-0.jsonl").write_text("")
    found = summarise_chains(tmp_path, IMAGES)
    assert (found.store["lines"], part(found).images, len(found.words), len(found.parts)) == (0, 0, 0, 1)
    assert [table.title for table in statistics_tables(found)] == ["the store"]
    (tmp_path / "journal-0.jsonl").unlink()
    with pytest.raises(ThroughlineError, match="no chain journal"):
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


@pytest.mark.slow
def test_no_text_is_kept(tmp_path: Path) -> None:
    def grown_by(size: int) -> int:
        with JournalWriter(tmp_path / f"{size}.jsonl", flush_every=10_000) as writer:
            for number in range(300):
                writer.write(answer("photo/cat/0.png", number, text="word " * (size // 5)))
        tracemalloc.start()
        summarise_chains(tmp_path / f"{size}.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small, large = grown_by(50), grown_by(20_000)
    assert large - small < 1_000_000, "six million characters were read"
