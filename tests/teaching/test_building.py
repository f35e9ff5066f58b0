"""Building a reasoning dataset: how often a teacher is asked, what is kept, what survives a kill, and what a teacher
never gets to see."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.chains.plain_fold import read_journal

from throughline.chains.formats import FIVE_STAGE, FOUR_STAGE, Chain, ChainFormat, render_chain
from throughline.chains.records import FAILED, Usage, Verdict
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.views import View, view_of
from throughline.drawn.world import write_world
from throughline.questions.question_set import make_question_set
from throughline.questions.sampler import Reply
from throughline.teaching.building import accepted_chains, build_chains
from throughline.teaching.plan import BuildPlan
from throughline.teaching.recorder import Progress
from throughline.teaching.teachers import Brief, Describer, Request

CLASSES = ("cat", "cup", "dog")


def chain(label: str, format: ChainFormat = FIVE_STAGE) -> str:
    texts = ["A picture." for _ in format.stages]
    texts[format.answer_index] = label
    return render_chain(Chain(format, tuple(texts)))


class Teacher:
    """Is right at the `right_at`-th attempt, wrong in different ways before; notes what it was asked."""

    def __init__(
        self,
        right_at: Callable[[Sample], int],
        format: ChainFormat = FIVE_STAGE,
        dies_at: int = 0,
        seed: int = 0,
        batch: int = 1,
        at_once: int = 1,
    ) -> None:
        self.brief = Brief("test", "teacher-1", make_question_set(CLASSES, format).reasoning, {"heat": 1}, seed)
        self.right_at, self.format, self.dies_at = right_at, format, dies_at
        self.batch, self.at_once = batch, at_once
        self.asked: list[tuple[str, int]] = []

    async def write(self, requests: Sequence[Request]) -> list[Reply]:
        await asyncio.sleep(0)
        return [self.one(request.sample, request.candidate) for request in requests]

    def one(self, sample: Sample, candidate: int) -> Reply:
        if len(self.asked) + 1 == self.dies_at:
            raise KeyboardInterrupt
        self.asked.append((sample.id, candidate))
        usage = Usage(prompt_tokens=10, completion_tokens=2, cost=0.5)
        if candidate >= self.right_at(sample):
            return Reply(chain(sample.label, self.format), "stop", usage)
        said = ["No idea.", chain("spaceship", self.format), "<SUMMARY> A"][candidate % 3]
        return Reply(said, "length" if candidate % 3 == 2 else "stop", usage)


@pytest.fixture
def images() -> ImageSet:
    samples = tuple(
        Sample(f"{domain}/{label}/{i}.png", Path("x"), domain, (label,), digest(f"{domain} {label} {i}"))
        for domain in ("photo", "sketch")
        for label in CLASSES
        for i in range(2)
    )
    return ImageSet("made", Path("made"), ("photo", "sketch"), CLASSES, samples)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def first_accepted(*named: Any) -> dict[str, str]:
    return {name: texts[0] for name, texts in accepted_chains(*named).items()}


@dataclass
class Built:
    accepted: dict[str, str]
    progress: Progress


@pytest.fixture
def build(images: ImageSet, tmp_path: Path) -> Callable[..., Built]:
    def build(teacher: Teacher, candidates: int = 3, shown: ImageSet = images, **changes: Any) -> Built:
        plan = BuildPlan(shown, teacher.format, candidates=candidates, **changes)
        progress = build_chains(plan, teacher, tmp_path)
        return Built(first_accepted([tmp_path], shown, teacher.format, plan.rule), progress)

    return build


def by_class(sample: Sample) -> int:
    """The attempt that goes well: the first for cats, the second for cups, the third for dogs."""
    return CLASSES.index(sample.label)


def lines_of(journal: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, journal.read_text().splitlines()) if line["kind"] == kind]


def test_asking_stops_at_the_first_accepted_chain(build: Callable[..., Built], images: ImageSet) -> None:
    teacher = Teacher(by_class)
    built = build(teacher, candidates=5)
    assert built.accepted == {one.id: chain(one.label) for one in images.samples}
    assert Counter(sample_id for sample_id, _ in teacher.asked) == {one.id: 1 + by_class(one) for one in images.samples}


def test_answers_about_a_view_and_about_its_image_are_never_mixed(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path
) -> None:
    foggy, thick = (
        replace(images, samples=tuple(view_of(sample, View("fog", severity)) for sample in images.samples))
        for severity in (1, 5)
    )
    build(Teacher(lambda _: 0))
    blind = Teacher(lambda _: 99)  # never right
    assert build(blind, candidates=1, shown=foggy).accepted == {}
    assert sorted(blind.asked) == sorted((sample.id, 0) for sample in images.samples)
    assert len(first_accepted([tmp_path], images, FIVE_STAGE, "correct")) == len(images.samples)
    assert build(Teacher(lambda _: 0), candidates=1, shown=thick).accepted.keys() == images.by_id.keys()
    assert first_accepted([tmp_path], foggy, FIVE_STAGE, "correct") == {}


def test_asking_stops_at_as_many_accepted_chains_as_wanted(build: Callable[..., Built]) -> None:
    teacher = Teacher(by_class)
    built = build(teacher, candidates=4, enough=2)
    asked = Counter(sample_id.split("/")[1] for sample_id, _ in teacher.asked)
    assert asked == {"cat": 4 * 2, "cup": 4 * 3, "dog": 4 * 4}
    assert built.progress.accepted == built.progress.done == 12


def test_all_candidates_are_asked_for_when_nothing_is_enough(build: Callable[..., Built]) -> None:
    teacher = Teacher(by_class)
    assert build(teacher, candidates=4, enough=None).progress.accepted == 12
    assert len(teacher.asked) == 12 * 4


@pytest.mark.parametrize("most", [1, 4])
def test_no_image_is_asked_about_more_often_than_told(build: Callable[..., Built], most: int) -> None:
    teacher = Teacher(lambda sample: 99 if sample.domain == "sketch" else 0)
    built = build(teacher, candidates=most)
    assert {name.split("/")[0] for name in built.accepted} == {"photo"}
    asked = Counter(sample_id for sample_id, _ in teacher.asked)
    assert {count for name, count in asked.items() if name.startswith("sketch")} == {most}
    assert {number for _, number in teacher.asked} == set(range(most))
    assert (built.progress.images, built.progress.done, built.progress.accepted) == (12, 12, 6)


@pytest.mark.parametrize(("at_once", "batch"), [(1, 1), (5, 1), (1, 5), (2, 3)])
@pytest.mark.parametrize("dies_at", [1, 2, 9, 20])
def test_what_is_recorded_is_never_asked_for_again(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path, dies_at: int, at_once: int, batch: int
) -> None:
    shape = {"at_once": at_once, "batch": batch}
    first, second, third = Teacher(by_class, dies_at=dies_at, **shape), Teacher(by_class, **shape), Teacher(by_class)
    with pytest.raises(KeyboardInterrupt):
        build(first)
    journal = tmp_path / "journal-0.jsonl"
    recorded = {(c.sample_id, c.candidate) for c in read_journal(journal).candidates}
    built = build(second)
    if batch == 1:
        assert not recorded & set(second.asked)
    assert built.accepted == {one.id: chain(one.label) for one in images.samples}
    again = build(third)
    assert again.accepted == built.accepted and not third.asked
    assert (again.progress.cached, again.progress.answers) == (24, 0)
    found = read_journal(journal)
    assert not found.problems and not found.duplicates
    assert len(found.headers) == 1
    assert len(found.candidates) == 2 * 2 * (1 + 2 + 3) and len(found.verdicts) == 3 * len(found.candidates)
    assert {c.sample_id: c.text for c in found.accepted("correct")} == built.accepted


def test_a_batch_is_asked_in_the_company_it_had_before_the_kill(build: Callable[..., Built], tmp_path: Path) -> None:
    """What a model draws may depend, in its last bits, on what it is batched with."""
    whole = Teacher(by_class, batch=4)
    build(whole)
    journal = tmp_path / "journal-0.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: 1 + 4 * 2]))  # the header, two of the first four images
    resumed = Teacher(by_class, batch=4)
    build(resumed)
    assert resumed.asked == whole.asked
    assert not read_journal(journal).problems


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_kill_at_any_byte_costs_one_answer(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path, cut: int
) -> None:
    few = replace(images, samples=images.samples[:1])
    whole = build(Teacher(lambda _: 0), shown=few)
    journal = tmp_path / "journal-0.jsonl"
    content = journal.read_bytes()
    journal.write_bytes(content[: -min(cut, len(content) - 1)] if cut else content)
    teacher = Teacher(lambda _: 0)
    assert build(teacher, shown=few).accepted == whole.accepted
    assert len(teacher.asked) <= 1
    found = read_journal(journal)
    assert not found.problems
    assert len(found.candidates) == 1 and len(found.verdicts) == 3


def test_no_label_is_in_a_candidate_line(build: Callable[..., Built], tmp_path: Path) -> None:
    """But for the class folder in the sample's id: what is true of an image is joined when it is judged."""
    build(Teacher(lambda _: 99), candidates=2)
    candidates = lines_of(tmp_path / "journal-0.jsonl", "candidate")
    assert candidates
    for line in candidates:
        values = {key: value for key, value in line.items() if key not in {"sample_id", "image_sha256"}}
        assert not {key for key in values if "label" in key or key == "class"}
        assert not [value for value in values.values() if value in CLASSES]


@pytest.mark.parametrize("change", [{"seed": 1}, {"format": FOUR_STAGE}])
def test_a_request_that_differs_is_another_request(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path, change: dict[str, Any]
) -> None:
    build(Teacher(lambda _: 0))
    teacher = Teacher(lambda _: 0, **change)
    built = build(teacher)
    assert built.accepted == {one.id: chain(one.label, teacher.format) for one in images.samples}
    assert len(teacher.asked) == len(images.samples)
    journal = read_journal(tmp_path / "journal-0.jsonl")
    known = {asked for header in journal.headers for asked in header.prompts}
    assert {candidate.prompt_sha256 for candidate in journal.candidates} <= known


def test_added_images_and_more_candidates_ask_only_for_what_is_new(
    build: Callable[..., Built], images: ImageSet
) -> None:
    build(Teacher(by_class), candidates=2, shown=replace(images, samples=images.samples[:6]))
    teacher = Teacher(by_class)
    build(teacher, candidates=3)
    old, new = {one.id for one in images.samples[:6]}, {one.id for one in images.samples[6:]}
    assert {(name.split("/")[1], number) for name, number in teacher.asked if name in old} == {("dog", 2)}
    assert Counter(name for name, _ in teacher.asked if name in new) == {
        one.id: 1 + by_class(one) for one in images.samples[6:]
    }


def test_a_renamed_image_is_the_same_request(build: Callable[..., Built], images: ImageSet) -> None:
    build(Teacher(by_class))
    renamed = tuple(replace(one, id=f"new/{one.label}/{n}.png") for n, one in enumerate(images.samples))
    teacher = Teacher(by_class)
    built = build(teacher, shown=replace(images, domains=("new",), samples=renamed))
    assert not teacher.asked
    assert built.accepted == {one.id: chain(one.label) for one in renamed}


def test_identical_images_get_copied_lines_and_no_request(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path
) -> None:
    first = images.samples[0]
    twin = replace(first, id="sketch/cat/twin.png", domain="sketch")
    teacher = Teacher(lambda _: 1)
    built = build(teacher, shown=replace(images, samples=(first, twin)))
    assert teacher.asked == [(first.id, 0), (first.id, 1)]
    assert built.accepted == {first.id: chain("cat"), twin.id: chain("cat")}
    copies = [c for c in read_journal(tmp_path / "journal-0.jsonl").candidates if c.sample_id == twin.id]
    assert [(c.domain, c.candidate, c.usage) for c in copies] == [("sketch", 0, None), ("sketch", 1, None)]


def test_identical_images_under_two_labels_are_asked_about_until_both_are_served(
    build: Callable[..., Built], images: ImageSet
) -> None:
    first = images.samples[0]
    other = replace(first, id="sketch/dog/twin.png", domain="sketch", labels=("dog",))
    teacher = Teacher(lambda _: 0)
    built = build(teacher, candidates=3, shown=replace(images, samples=(first, other)))
    assert built.accepted == {first.id: chain("cat")}, "no chain concludes in both"
    assert len(teacher.asked) == 3 and built.progress.accepted == 0


def test_shards_share_the_images_out_and_read_each_others_journals(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path
) -> None:
    teachers = [Teacher(by_class) for _ in range(3)]
    for number, teacher in enumerate(teachers):
        build(teacher, shard=(number, 3))
    asked = [{name for name, _ in teacher.asked} for teacher in teachers]
    assert set.union(*asked) == set(images.by_id) and sum(map(len, asked)) == len(images.samples)
    assert sorted(path.name for path in tmp_path.glob("journal-*")) == [f"journal-{n}.jsonl" for n in range(3)]
    whole = Teacher(by_class)
    assert build(whole).accepted == {one.id: chain(one.label) for one in images.samples}
    assert not whole.asked, "another number of writers repeats nothing"


def test_every_shard_explains_its_own_candidates(build: Callable[..., Built], tmp_path: Path) -> None:
    for number in range(2):
        build(Teacher(by_class), shard=(number, 2))
    for number in range(2):
        journal = read_journal(tmp_path / f"journal-{number}.jsonl")
        assert {c.prompt_sha256 for c in journal.candidates} == set(journal.headers[0].prompts)
    size = sum(path.stat().st_size for path in tmp_path.glob("journal-*"))
    build(Teacher(by_class))
    build(Teacher(by_class))
    grown = sum(path.stat().st_size for path in tmp_path.glob("journal-*"))
    assert grown == size, "whoever reads on has nothing to add"


def test_labels_that_were_mended_are_what_counts(build: Callable[..., Built], images: ImageSet, tmp_path: Path) -> None:
    """The texts stay; what the rules make of them is found anew."""
    wrong = replace(images, samples=tuple(replace(one, labels=("cat",)) for one in images.samples))
    assert build(Teacher(lambda _: 0), shown=wrong).progress.accepted == 12
    teacher = Teacher(lambda sample: 1)
    built = build(teacher, candidates=2)
    assert {name.split("/")[1] for name, _ in teacher.asked} == {"cup", "dog"}
    assert {number for _, number in teacher.asked} == {1}
    assert built.accepted == {one.id: chain(one.label) for one in images.samples}
    last = {(v.key, v.sample_id): v.accepted for v in read_journal(tmp_path).verdicts if v.rule == "correct"}
    assert sum(last.values()) == 12 and len(last) == 20


def test_another_format_behind_the_same_question_is_asked_for(build: Callable[..., Built], images: ImageSet) -> None:
    build(Teacher(lambda _: 0))
    four = Teacher(lambda _: 0, format=FOUR_STAGE)
    four.brief = Teacher(lambda _: 0).brief
    assert build(four).progress.cached == 0 and len(four.asked) == 12


class Failing(Teacher):
    def one(self, sample: Sample, candidate: int) -> Reply:
        if sample.label == "cup":
            self.asked.append((sample.id, candidate))
            return Reply("HTTP 500: out of order", FAILED)
        return super().one(sample, candidate)


def test_a_failed_request_is_named_and_made_again_by_the_next_build(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path
) -> None:
    failing = Failing(by_class)
    built = build(failing)
    cups = [one.id for one in images.samples if one.label == "cup"]
    assert built.progress.failed == len(cups) == 4 and not set(cups) & set(built.accepted)
    assert Counter(name for name, _ in failing.asked if name in cups) == dict.fromkeys(cups, 1)
    failed = [c for c in read_journal(tmp_path).candidates if c.failed]
    assert {c.text for c in failed} == {"HTTP 500: out of order"}
    teacher = Teacher(by_class)
    assert build(teacher).accepted == {one.id: chain(one.label) for one in images.samples}
    assert {name for name, _ in teacher.asked} == set(cups)
    assert not read_journal(tmp_path).problems


def test_a_build_stops_at_its_cost_and_goes_on_with_more(build: Callable[..., Built], images: ImageSet) -> None:
    teacher = Teacher(by_class)
    built = build(teacher, max_cost=5.0)
    assert built.progress.stopped_at_cost
    assert len(teacher.asked) == 10 and built.progress.cost == built.progress.spent == 5.0
    again = Teacher(by_class)
    assert build(again, max_cost=5.0).progress.stopped_at_cost and not again.asked
    built = build(again, max_cost=50.0)
    assert built.accepted == {one.id: chain(one.label) for one in images.samples}
    assert (built.progress.cost, built.progress.spent) == (12.0, 7.0)


def test_images_with_several_labels_are_refused_before_anything_is_paid(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path
) -> None:
    several = tuple(replace(sample, labels=("cat", "dog"), task="multi") for sample in images.samples)
    teacher = Teacher(lambda _: 0)
    with pytest.raises(ThroughlineError, match="several labels, and a chain concludes in one class"):
        build(teacher, shown=replace(images, samples=several))
    assert not teacher.asked and not list(tmp_path.iterdir())


def test_what_others_took_counts_and_tells_no_price(build: Callable[..., Built]) -> None:
    """The limit is the store's, the mean that of the answers to this brief: twelve others took 6.0 before."""
    build(Teacher(lambda _: 0, seed=1))
    teacher = Teacher(lambda _: 0)
    built = build(teacher, max_cost=9.0)
    assert built.progress.stopped_at_cost
    assert len(teacher.asked) == 6 and (built.progress.cost, built.progress.spent) == (9.0, 3.0)
    third = Teacher(lambda _: 0, seed=2)
    assert build(third, max_cost=9.0).progress.stopped_at_cost and not third.asked


def test_a_judge_makes_an_answer_dearer(build: Callable[..., Built], tmp_path: Path) -> None:
    build(Teacher(lambda _: 0), max_cost=3.0)
    journal = tmp_path / "journal-0.jsonl"
    said = {"kind": "verdict", "rule": "judge", "outcome": "ok", "accepted": True, "model": "m", "usage": {"cost": 0.5}}
    answers = lines_of(journal, "candidate")
    lines = [{"schema": 1, **said, "key": line["key"], "sample_id": line["sample_id"]} for line in answers]
    with journal.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    teacher = Teacher(lambda _: 0)
    built = build(teacher, max_cost=7.4)
    assert len(answers) == 6 and built.progress.cost == 6.5
    assert len(teacher.asked) == 1, "6.5 and the mean of seven, 0.93, are 7.43"


def test_chains_of_another_journal_are_judged_anew(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path
) -> None:
    """Somebody else's journal: other images, other formats, candidates that another rule had kept."""
    built = build(Teacher(by_class), rule="format").accepted
    assert built["photo/dog/0.png"] == chain("spaceship"), "the rule had kept whatever was well formed"
    journal = tmp_path / "journal-0.jsonl"
    half = replace(images, samples=images.in_domain("photo"))
    found = first_accepted([journal], half, FIVE_STAGE, "format")
    assert found == {name: text for name, text in built.items() if name.startswith("photo")}
    correct = first_accepted([journal], half, FIVE_STAGE, "correct")
    assert correct == {name: text for name, text in found.items() if "/dog/" not in name}
    assert first_accepted([journal], half, FOUR_STAGE, "format") == {}


def test_the_first_accepted_candidate_of_another_journal_counts(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path
) -> None:
    build(Teacher(lambda _: 2), candidates=4, enough=None)
    journal = tmp_path / "journal-0.jsonl"
    lines = lines_of(journal, "candidate")
    for line in lines:
        line["text"] += "\n" * line["candidate"]  # tells the third from the fourth
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    found = first_accepted([other], images, FIVE_STAGE, "correct")
    assert found == {one.id: chain(one.label) + "\n\n" for one in images.samples}


def test_a_chain_that_a_judge_did_not_agree_with_is_no_accepted_one(
    build: Callable[..., Built], images: ImageSet, tmp_path: Path
) -> None:
    """The judge's last word counts, wherever it stands; a request to the judge that failed is none."""
    build(Teacher(lambda _: 1), enough=None)
    lines = lines_of(tmp_path / "journal-0.jsonl", "candidate")
    for line in lines:
        line["text"] += "\n" * line["candidate"]  # tells the second candidate from the third
    none, second, third, failed, changed = (one.id for one in images.samples[:5])
    said = {
        (none, 1): [("ok", False)],
        (none, 2): [("out_of_list", False)],
        (second, 2): [("ok", False)],
        (third, 1): [("ok", True), ("ok", False), ("error", False)],
        (failed, 1): [("error", False)],
        (changed, 1): [("ok", False), ("ok", True)],
    }
    verdicts = [
        Verdict(
            key=line["key"], sample_id=line["sample_id"], rule="judge", outcome=outcome, accepted=accepted, model="m"
        ).line()
        for line in lines
        for outcome, accepted in said.get((line["sample_id"], line["candidate"]), ())
    ]
    candidates = [json.dumps(line) for line in lines]
    expected = {one.id: chain(one.label) + "\n" for one in images.samples if one.id != none}
    expected[third] += "\n"
    other = tmp_path / "other.jsonl"
    for order in (candidates + verdicts, verdicts + candidates):
        other.write_text("\n".join(order) + "\n")
        assert first_accepted([other], images, FIVE_STAGE, "correct") == expected


def test_half_a_character_in_an_answer_harms_nothing(build: Callable[..., Built], images: ImageSet) -> None:
    class Strange(Teacher):
        def one(self, sample: Sample, candidate: int) -> Reply:
            return Reply(chain(sample.label).replace("A picture.", "A \ud800 \x00 picture."), "stop")

    built = build(Strange(by_class), shown=replace(images, samples=images.samples[:1]))
    assert [text.count("A ? \x00 picture.") for text in built.accepted.values()] == [4]


def test_every_answer_has_the_verdict_of_every_rule(build: Callable[..., Built], tmp_path: Path) -> None:
    build(Teacher(by_class))
    verdicts = read_journal(tmp_path).verdicts
    by_rule = {
        rule: Counter((v.outcome.value, v.accepted) for v in verdicts if v.rule == rule)
        for rule in ("format", "consistent", "correct")
    }
    assert by_rule["format"] == {("ok", True): 12 + 4, ("missing_stage", False): 8}
    assert by_rule["consistent"] == {("ok", True): 12, ("out_of_list", False): 4, ("missing_stage", False): 8}
    assert by_rule["correct"] == by_rule["consistent"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rule": "lenient"}, "name one of format, consistent, correct"),
        ({"candidates": 0}, "ask for 1 to 64"),
        ({"shard": (2, 2)}, "number them from 0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(images: ImageSet, change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ThroughlineError, match=complaint):
        BuildPlan(images, FIVE_STAGE, **change)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("world")
    write_world(root, per_class=1, seed=4, styles=("photo", "sketch"))
    return read_images(root)


def describer(world: ImageSet, part_mistakes: float | None = None) -> Describer:
    question = make_question_set(world.classes, FIVE_STAGE).reasoning
    return Describer(world.root, FIVE_STAGE, question, 0, part_mistakes)


def test_the_describer_is_the_teacher_of_a_drawn_world(world: ImageSet, tmp_path: Path) -> None:
    told: list[int] = []
    plan = BuildPlan(world, FIVE_STAGE)
    progress = build_chains(plan, describer(world), tmp_path / "one", on_progress=lambda now: told.append(now.done))
    accepted = first_accepted([tmp_path / "one"], world, FIVE_STAGE, "correct")
    assert len(accepted) > 0.7 * len(world.samples)
    assert progress.accepted == len(accepted) and told[-1] == len(world.samples)
    build_chains(plan, describer(world), tmp_path / "two")
    assert (tmp_path / "one/journal-0.jsonl").read_bytes() == (tmp_path / "two/journal-0.jsonl").read_bytes()
    assert {c.source for c in read_journal(tmp_path / "one").candidates} == {"describer"}


def test_a_describer_with_more_mistakes_has_fewer_chains_accepted(world: ImageSet, tmp_path: Path) -> None:
    shares = []
    for rate in (0.0, 0.5, 1.0):
        store = tmp_path / str(rate)
        build_chains(BuildPlan(world, FIVE_STAGE, candidates=1), describer(world, rate), store)
        shares.append(len(first_accepted([store], world, FIVE_STAGE, "correct")) / len(world.samples))
    assert shares[0] > 0.8 > shares[1] > 0.2 > shares[2]


def test_the_describer_knows_drawn_images_only(world: ImageSet, tmp_path: Path) -> None:
    stranger = replace(world, samples=(replace(world.samples[0], id="photo/cat/mine.png"),))
    with pytest.raises(ThroughlineError, match=r"drawn images only \[photo/cat/mine\.png\]"):
        build_chains(BuildPlan(stranger, FIVE_STAGE), describer(world), tmp_path)
