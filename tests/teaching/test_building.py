"""Building a reasoning dataset: how often a teacher is asked, what is kept, and what it never gets to see."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from throughline.chains.formats import FIVE_STAGE, FOUR_STAGE, Chain, ChainFormat, render_chain
from throughline.chains.journal import read_journal
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.drawn.world import write_world
from throughline.errors import ThroughlineError
from throughline.teaching.building import accepted_chains, build_chains
from throughline.teaching.teachers import Describer, Written

CLASSES = ("cat", "cup", "dog")


def chain(label: str, format: ChainFormat = FIVE_STAGE) -> str:
    texts = ["A picture." for _ in format.stages]
    texts[format.answer_index] = label
    return render_chain(Chain(format, tuple(texts)))


class Teacher:
    """Is right at the `right_at`-th attempt, wrong in different ways before; notes what it was asked."""

    source, model = "test", "teacher-1"

    def __init__(self, right_at: Callable[[Sample], int], format: ChainFormat = FIVE_STAGE, dies_at: int = 0) -> None:
        self.right_at, self.format, self.dies_at = right_at, format, dies_at
        self.asked: list[tuple[str, int]] = []

    def write(self, sample: Sample, candidate: int) -> Written:
        if len(self.asked) + 1 == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append((sample.id, candidate))
        if candidate >= self.right_at(sample):
            return Written(chain(sample.label, self.format), "stop")
        return [Written("No idea."), Written(chain("spaceship", self.format)), Written("<SUMMARY> A", "length")][
            candidate % 3
        ]


@pytest.fixture
def images() -> ImageSet:
    samples = tuple(
        Sample(f"{domain}/{label}/{i}.png", Path("x"), domain, (label,), f"bytes of {domain} {label} {i}")
        for domain in ("photo", "sketch")
        for label in CLASSES
        for i in range(2)
    )
    return ImageSet("made", Path("made"), ("photo", "sketch"), CLASSES, samples)


@pytest.fixture
def build(images: ImageSet, tmp_path: Path) -> Callable[..., dict[str, str]]:
    def build(teacher: Teacher, candidates: int = 3, shown: ImageSet = images, **changes: object) -> dict[str, str]:
        settings = {"format": teacher.format, "rule": "correct", "candidates": candidates, "seed": 0, **changes}
        return build_chains(shown, shown.root, tmp_path / "journal-0.jsonl", teacher=teacher, **settings)  # type: ignore[arg-type]

    return build


def test_asking_stops_at_the_first_accepted_chain(build: Callable[..., dict[str, str]], images: ImageSet) -> None:
    teacher = Teacher(lambda sample: CLASSES.index(sample.label))
    accepted = build(teacher, candidates=5)
    assert accepted == {one.id: chain(one.label) for one in images.samples}
    assert Counter(sample_id for sample_id, _ in teacher.asked) == {
        one.id: 1 + CLASSES.index(one.label) for one in images.samples
    }


@pytest.mark.parametrize("most", [1, 4])
def test_no_image_is_asked_about_more_often_than_told(build: Callable[..., dict[str, str]], most: int) -> None:
    teacher = Teacher(lambda sample: 99 if sample.domain == "sketch" else 0)
    accepted = build(teacher, candidates=most)
    assert {name.split("/")[0] for name in accepted} == {"photo"}
    asked = Counter(sample_id for sample_id, _ in teacher.asked)
    assert {count for name, count in asked.items() if name.startswith("sketch")} == {most}
    assert {number for _, number in teacher.asked} == set(range(most))


@pytest.mark.parametrize("dies_at", [1, 2, 9, 20])
def test_a_teacher_is_never_asked_twice_for_the_same(
    build: Callable[..., dict[str, str]], images: ImageSet, tmp_path: Path, dies_at: int
) -> None:
    def right_at(sample: Sample) -> int:
        return CLASSES.index(sample.label)

    first, second, third = Teacher(right_at, dies_at=dies_at), Teacher(right_at), Teacher(right_at)
    with pytest.raises(KeyboardInterrupt):
        build(first)
    accepted = build(second)
    assert not set(first.asked) & set(second.asked)
    assert len(first.asked) + len(second.asked) == 2 * 2 * (1 + 2 + 3)
    assert build(third) == accepted == {one.id: chain(one.label) for one in images.samples}
    assert not third.asked
    journal = read_journal(tmp_path / "journal-0.jsonl")
    assert not journal.problems
    assert len(journal.headers) == 1
    assert len(journal.verdicts) == len(journal.candidates) == 24
    assert {candidate.sample_id: candidate.text for candidate in journal.accepted("correct")} == accepted


def test_a_torn_line_is_asked_for_again(build: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    accepted = build(Teacher(lambda sample: 0))
    journal = tmp_path / "journal-0.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if b'"candidate"' in line and b'"kind":"candidate"' in line)
    journal.write_bytes(b"".join(lines[:last]) + lines[last][:50])
    teacher = Teacher(lambda sample: 0)
    assert build(teacher) == accepted
    assert len(teacher.asked) == 1


def test_no_label_is_in_a_candidate_line(build: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    """But for the class folder in the sample's id: what is true of an image is joined when it is judged."""
    build(Teacher(lambda sample: 99), candidates=2)
    lines = [json.loads(line) for line in (tmp_path / "journal-0.jsonl").read_text().splitlines()]
    candidates = [line for line in lines if line["kind"] == "candidate"]
    assert candidates
    for line in candidates:
        values = {key: value for key, value in line.items() if key not in {"sample_id", "image_sha256"}}
        assert not {key for key in values if "label" in key or key == "class"}
        assert not [value for value in values.values() if value in CLASSES]


@pytest.mark.parametrize("change", [{"seed": 1}, {"format": FOUR_STAGE}])
def test_a_request_that_differs_is_another_request(
    build: Callable[..., dict[str, str]], images: ImageSet, tmp_path: Path, change: dict[str, object]
) -> None:
    build(Teacher(lambda sample: 0))
    teacher = Teacher(lambda sample: 0, format=change.get("format", FIVE_STAGE))  # type: ignore[arg-type]
    accepted = build(teacher, **change)
    assert accepted == {one.id: chain(one.label, teacher.format) for one in images.samples}
    assert len(teacher.asked) == len(images.samples)
    journal = read_journal(tmp_path / "journal-0.jsonl")
    known = {asked for header in journal.headers for asked in header.prompts}
    assert {candidate.prompt_sha256 for candidate in journal.candidates} <= known


def test_an_identical_image_gets_a_copied_line_and_no_request(
    build: Callable[..., dict[str, str]], images: ImageSet, tmp_path: Path
) -> None:
    first = images.samples[0]
    twin = replace(first, id="sketch/cat/twin.png", domain="sketch")
    teacher = Teacher(lambda sample: 1)
    accepted = build(teacher, shown=replace(images, samples=(first, twin)))
    assert teacher.asked == [(first.id, 0), (first.id, 1)]
    assert accepted == {first.id: chain("cat"), twin.id: chain("cat")}
    copies = [c for c in read_journal(tmp_path / "journal-0.jsonl").candidates if c.sample_id == twin.id]
    assert [(c.domain, c.candidate) for c in copies] == [("sketch", 0), ("sketch", 1)]


def test_chains_of_another_journal_are_judged_anew(
    build: Callable[..., dict[str, str]], images: ImageSet, tmp_path: Path
) -> None:
    """Somebody else's journal: other images, other formats, candidates that another rule had kept."""
    built = build(Teacher(lambda sample: CLASSES.index(sample.label)), rule="format")
    assert built["photo/dog/0.png"] == chain("spaceship"), "the rule had kept whatever was well formed"
    journal = tmp_path / "journal-0.jsonl"
    half = replace(images, samples=images.in_domain("photo"))
    found = accepted_chains([journal], half, FIVE_STAGE, "format")
    assert found == {name: text for name, text in built.items() if name.startswith("photo")}
    correct = accepted_chains([journal], half, FIVE_STAGE, "correct")
    assert correct == {name: text for name, text in found.items() if "/dog/" not in name}
    assert accepted_chains([journal], half, FOUR_STAGE, "format") == {}


def test_the_first_accepted_candidate_of_another_journal_counts(
    build: Callable[..., dict[str, str]], images: ImageSet, tmp_path: Path
) -> None:
    build(Teacher(lambda sample: 2), candidates=3)
    journal = tmp_path / "journal-0.jsonl"
    backwards = journal.read_text().splitlines(keepends=True)[::-1]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(backwards))
    found = accepted_chains([other], images, FIVE_STAGE, "correct")
    assert found == {one.id: chain(one.label) for one in images.samples}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("world")
    write_world(root, per_class=1, seed=4, styles=("photo", "sketch"))
    return read_images(root)


def test_the_describer_is_the_teacher_of_a_drawn_world(world: ImageSet, tmp_path: Path) -> None:
    journal = tmp_path / "journal-0.jsonl"
    told: list[tuple[int, int]] = []
    settings = {"format": FIVE_STAGE, "rule": "correct", "candidates": 4, "seed": 0}
    accepted = build_chains(world, world.root, journal, told=lambda *now: told.append(now), **settings)  # type: ignore[arg-type]
    assert len(accepted) > 0.7 * len(world.samples)
    assert told[-1] == (len(world.samples), len(world.samples))
    assert build_chains(world, world.root, tmp_path / "again.jsonl", **settings) == accepted  # type: ignore[arg-type]
    assert accepted_chains([journal], world, FIVE_STAGE, "correct") == accepted
    assert {c.source for c in read_journal(journal).candidates} == {"describer"}


def test_the_describer_knows_drawn_images_only(world: ImageSet) -> None:
    describer = Describer(world.root, FIVE_STAGE, 0)
    stranger = replace(world.samples[0], id="photo/cat/mine.png")
    with pytest.raises(ThroughlineError, match=r"drawn images only \[photo/cat/mine\.png\]"):
        describer.write(stranger, 0)
