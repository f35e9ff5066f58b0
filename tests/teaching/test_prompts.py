"""Requests with any number of images: what is sent, and the key by which a request is known."""

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.chains.plain_fold import read_journal
from tests.chat_server import ChatServer, ServerSettings

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.records import candidate_key
from throughline.core.files import canonical_json, content_hash
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.questions.prompt import Prompt, user_prompt
from throughline.teaching.building import build
from throughline.teaching.endpoint import Endpoints, EndpointTeacher
from throughline.teaching.judge import Judge
from throughline.teaching.plan import BuildPlan
from throughline.teaching.recorder import Progress
from throughline.teaching.teachers import Brief

PARAMS = {"max_tokens": 500, "seed": True, "image_side": 64}
QUESTION = "Which one is it? options: cat, dog"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("images")
    for number in range(6):
        path = root / "photo" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(path)
    return read_images(root)


def with_examples(images: ImageSet) -> Prompt:
    """Two images with what they show, then a place for the sample's."""
    first, second = images.samples[:2]
    examples = user_prompt(first, "A cat.", second, "A dog.").messages[0]["content"]
    content = [*examples, {"type": "image"}, {"type": "text", "text": QUESTION}]
    return Prompt(({"role": "user", "content": content},), (first, second))


def brief_of(prompt: str | Prompt) -> Brief:
    return Brief("endpoint", "seer", prompt, PARAMS, 3)


def test_a_prompt_of_one_image_has_the_key_of_its_image_and_question(images: ImageSet) -> None:
    sample = images.samples[0]
    question_sha256 = hashlib.sha256(QUESTION.encode()).hexdigest()
    expected = candidate_key(sample.image_sha256, question_sha256, "seer", PARAMS, 3, 2)
    place: Prompt = Prompt(user_prompt(sample, QUESTION).messages)
    assert brief_of(QUESTION).key(sample.image_sha256, 2) == brief_of(place).key(sample.image_sha256, 2) == expected
    assert brief_of(QUESTION).prompt_about(sample) == brief_of(place).prompt_about(sample)
    other_order = Prompt(({"role": "user", "content": place.messages[0]["content"][::-1]},))
    assert brief_of(other_order).key(sample.image_sha256, 2) != expected


def test_several_images_and_none_are_known_by_the_list_of_them(images: ImageSet) -> None:
    first, second, third = (sample.image_sha256 for sample in images.samples[:3])
    for prompt, hashes in [(with_examples(images), [first, second, third]), (user_prompt(QUESTION), [])]:
        wording = hashlib.sha256(canonical_json(list(prompt.messages)).encode()).hexdigest()
        expected = candidate_key(content_hash(hashes), wording, "seer", PARAMS, 3, 0)
        assert brief_of(prompt).key(third, 0) == expected


def play(images: ImageSet, store: Path, prompt: str | Prompt) -> tuple[Progress, list[dict[str, Any]]]:
    """A build with a judge: its end, and the requests that the server got."""
    log = store / "requests.jsonl"
    store.mkdir(parents=True, exist_ok=True)

    async def run() -> Progress:
        async with ChatServer(ServerSettings(log=log)) as server:
            endpoints = Endpoints([server.url], None)
            judge = Judge(endpoints, "critic", prompt, PARAMS)
            try:
                plan = BuildPlan(images, FIVE_STAGE, candidates=1)
                return await build(plan, EndpointTeacher(brief_of(prompt), endpoints), store, judge=judge)
            finally:
                await endpoints.close()

    progress = asyncio.run(run())
    return progress, [json.loads(line) for line in log.read_text().splitlines()]


def sent_images(request: dict[str, Any]) -> list[str]:
    parts = [part for message in request["body"]["messages"] for part in message["content"]]
    return [part["image_url"]["url"].rpartition(",")[2] for part in parts if part["type"] == "image_url"]


def hashes(samples: tuple[Sample, ...]) -> list[str]:
    return [sample.image_sha256 for sample in samples]


def test_examples_travel_with_each_image_to_teacher_and_judge(images: ImageSet, tmp_path: Path) -> None:
    progress, requests = play(images, tmp_path, with_examples(images))
    assert progress.answers == progress.judged == 6
    expected = sorted([*hashes(images.samples[:2]), own] for own in hashes(images.samples))
    for model in ("seer", "critic"):
        assert sorted(sent_images(r) for r in requests if r["body"]["model"] == model) == expected
    again, more = play(images, tmp_path, with_examples(images))
    assert again.cached == 6 and len(more) == len(requests), "what is in the store is not asked for again"
    journal = read_journal(tmp_path)
    assert {c.prompt_sha256 for c in journal.candidates} == set(journal.headers[0].prompts)


def test_a_prompt_without_an_image_is_asked_and_judged_too(images: ImageSet, tmp_path: Path) -> None:
    progress, requests = play(images, tmp_path, user_prompt(QUESTION))
    assert progress.answers == progress.judged == 6
    assert [sent_images(request) for request in requests] == [[]] * 12
    assert len({request["body"]["seed"] for request in requests if request["body"]["model"] == "seer"}) == 1
