"""The Batch API as files: a played batch service answers them, out of order, with failures, and twice."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.chains.plain_fold import read_journal

from throughline.chains.formats import FIVE_STAGE, Chain, render_chain
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.drawn.world import write_world
from throughline.teaching.batch_files import BatchRead, read_batch, read_orders, write_batch
from throughline.teaching.building import accepted_chains
from throughline.teaching.plan import BuildPlan
from throughline.teaching.prices import Price
from throughline.teaching.prompt import teacher_prompt
from throughline.teaching.teachers import Brief

PARAMS = {"max_tokens": 300, "seed": True, "image_side": 64}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("world")
    write_world(root, per_class=1, seed=3, styles=("photo", "sketch"))
    return read_images(root)


@pytest.fixture
def plan(images: ImageSet) -> BuildPlan:
    return BuildPlan(images, FIVE_STAGE, candidates=3)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., list[Path]]:
    def write(plan: BuildPlan, **limits: int) -> list[Path]:
        brief = Brief("endpoint", "seer", teacher_prompt(plan.images.classes, FIVE_STAGE), PARAMS)
        return write_batch(plan, brief, tmp_path / "store", tmp_path / "files", **limits).files

    return write


def requests(files: list[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for path in files for line in path.read_text().splitlines()]


def chain(label: str) -> str:
    return render_chain(Chain(FIVE_STAGE, ("A.", "B.", "C.", "D.", label)))


def service(files: list[Path], out: Path, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """What the batch service gives back: any order, a line for each request."""
    lines = [{"id": f"r{n}", "custom_id": one["custom_id"], **answer(one)} for n, one in enumerate(requests(files))]
    random.Random(0).shuffle(lines)
    out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def says(text: str, reason: str = "stop") -> dict[str, Any]:
    body = {
        "choices": [{"message": {"content": text}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100},
    }
    return {"response": {"status_code": 200, "body": body}, "error": None}


def read(plan: BuildPlan, store: Path, *files: Path) -> BatchRead:
    return read_batch(plan.images, store, files, price_of=lambda model: Price(prompt=2, completion=10))


def test_the_requests_name_nothing_but_the_class_list(
    plan: BuildPlan, images: ImageSet, write: Callable[..., list[Path]]
) -> None:
    lines = requests(write(plan))
    assert len({line["custom_id"] for line in lines}) == len(lines) == len(images.samples)
    for line in lines:
        assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
        image, question = line["body"]["messages"][0]["content"]
        image["image_url"]["url"] = image["image_url"]["url"].partition(",")[0]
        rest = json.dumps(line).replace(", ".join(images.classes), "", 1)
        assert not [label for label in images.classes if label in rest]
        assert "sketch" not in rest
        assert question["text"].startswith("What type of object")


def test_answers_are_taken_up_and_only_the_rejected_images_are_written_again(
    plan: BuildPlan, images: ImageSet, write: Callable[..., list[Path]], tmp_path: Path
) -> None:
    first = write(plan)
    label = {sample.image_sha256: sample.label for sample in images.samples}
    by_key = {line["custom_id"]: line for line in requests(first)}
    brief = read_orders(tmp_path / "store")[0].brief
    label_of = {brief.key(sha, number): label[sha] for sha in label for number in range(3)}
    right = set(list(by_key)[::2])

    def answer(one: dict[str, Any]) -> dict[str, Any]:
        return says(chain(label_of[one["custom_id"]] if one["custom_id"] in right else "spaceship"))

    out = service(first, tmp_path / "out.jsonl", answer)
    found = read(plan, tmp_path / "store", out)
    assert (found.answers, found.failed, found.known, found.unknown) == (len(by_key), 0, 0, [])
    again = read(plan, tmp_path / "store", out)
    assert (again.answers, again.known) == (0, len(by_key)), "every answer once"
    costs = {c.usage.cost for c in read_journal(tmp_path / "store").candidates if c.usage}
    assert costs == {(1000 * 2 + 100 * 10) / 1e6 / 2}, "a batch costs half"

    second = requests(write(plan))
    assert len(second) == len(by_key) - len(right) and not {line["custom_id"] for line in second} & set(by_key)
    service(write(plan), tmp_path / "out2.jsonl", lambda one: says(chain(label_of[one["custom_id"]])))
    read(plan, tmp_path / "store", tmp_path / "out2.jsonl")
    assert set(accepted_chains([tmp_path / "store"], images, FIVE_STAGE, "correct")) == set(images.by_id)
    assert write(plan) == []


def test_answers_about_images_with_several_labels_are_refused_whole(
    plan: BuildPlan, images: ImageSet, write: Callable[..., list[Path]], tmp_path: Path
) -> None:
    out = service(write(plan), tmp_path / "out.jsonl", lambda one: says(chain("cat")))
    several = tuple(replace(sample, labels=("cat", "dog"), task="multi") for sample in images.samples)
    with pytest.raises(ThroughlineError, match="several labels, and a chain concludes in one class"):
        read_batch(replace(images, samples=several), tmp_path / "store", [out])
    assert not read_journal(tmp_path / "store").candidates


def test_failures_are_named_and_written_again(
    plan: BuildPlan, images: ImageSet, write: Callable[..., list[Path]], tmp_path: Path
) -> None:
    faults = [
        {"response": {"status_code": 500, "body": {"error": {"message": "out of order"}}}, "error": None},
        {"response": None, "error": {"code": "batch_expired", "message": "not within 24 hours"}},
        {"response": {"status_code": 200, "body": {"choices": []}}, "error": None},
    ]
    turns = iter(range(10**6))
    out = service(write(plan), tmp_path / "out.jsonl", lambda _: faults[next(turns) % 3])
    found = read(plan, tmp_path / "store", out)
    assert (found.answers, found.failed) == (0, len(images.samples))
    assert {c.text for c in read_journal(tmp_path / "store").candidates} == {
        "out of order",
        "not within 24 hours",
        "no chat completion",
    }
    assert len(requests(write(plan))) == len(images.samples)


def test_what_a_content_filter_refuses_is_not_ordered_again_and_other_failures_are(
    plan: BuildPlan, images: ImageSet, write: Callable[..., list[Path]], tmp_path: Path
) -> None:
    """In the shapes of OpenAI, Azure and vLLM; one table reads them and what comes over a connection."""
    blocked = {"error": {"code": "content_filter", "message": "The picture was blocked"}}
    inner = {"error": {"code": None, "message": "no", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}
    refusals = [
        {"response": {"status_code": 400, "body": blocked}, "error": None},
        {"response": {"status_code": 400, "body": inner}, "error": None},
        {"response": None, "error": blocked["error"]},
        {"response": {"status_code": 200, "body": {"choices": [{"message": {}, "finish_reason": "SAFETY"}]}}},
    ]
    failures = [
        {"response": {"status_code": 400}, "error": {"error": {"message": "bad picture", "code": 400}}},
        {"response": {"status_code": 200, "body": {"error": {"message": "overloaded", "code": 502}}}},
        says("half a chain", "abort"),
        {"response": {"status_code": "many", "body": ["odd"]}, "error": None},
        {"response": 3, "error": None},
    ]
    lines = iter([*refusals, *failures] * 99)
    files = write(replace(plan, candidates=1))
    found = read(plan, tmp_path / "store", service(files, tmp_path / "out.jsonl", lambda _: next(lines)))
    outcomes = [verdict.outcome for verdict in read_journal(tmp_path / "store").verdicts if verdict.rule == "correct"]
    assert set(outcomes) == {"refusal", "error"} and found.failed == outcomes.count("error") > 0
    assert len(requests(write(replace(plan, candidates=1)))) == found.failed


def test_lines_of_others_are_told_with_their_place(
    plan: BuildPlan, write: Callable[..., list[Path]], tmp_path: Path
) -> None:
    write(plan)
    out = tmp_path / "out.jsonl"
    out.write_bytes(b'{"custom_id": "f00", "response": {}}\nhalf a li\n[1]\n\xff\xfe\n')
    found = read(plan, tmp_path / "store", out)
    assert [line.rpartition(":")[0].rpartition(":")[2] for line in found.unknown] == ["1", "2", "3", "4"]
    assert "no such request" in found.unknown[0] and "no batch answer" in found.unknown[1]


def test_files_keep_their_limits(plan: BuildPlan, images: ImageSet, write: Callable[..., list[Path]]) -> None:
    by_number = write(plan, most_requests=7)
    assert [len(path.read_text().splitlines()) for path in by_number] == [7, 7, 7, 3]
    ids = [line["custom_id"] for line in requests(by_number)]
    by_size = write(plan, most_bytes=30_000)
    assert all(path.stat().st_size <= 30_000 for path in by_size) and len(by_size) > 1
    assert [line["custom_id"] for line in requests(by_size)] == ids, "the ids survive"


def test_all_candidates_can_be_handed_in_at_once(
    plan: BuildPlan, images: ImageSet, write: Callable[..., list[Path]]
) -> None:
    lines = requests(write(replace(plan, enough=None)))
    assert len({line["custom_id"] for line in lines}) == len(lines) == 3 * len(images.samples)


def test_answers_without_an_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ThroughlineError, match="use `chains batch write` first"):
        read_orders(tmp_path)
