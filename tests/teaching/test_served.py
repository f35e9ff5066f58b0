"""The sampler behind an endpoint: what it sends, how many at once, what it gives back, and when it stops."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.chat_server import FaultPlan, ServerSettings, running_server
from tests.training.small import PROMPTS

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.parsing import parse_chain
from throughline.core.errors import ThroughlineError
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import ImageSet, Sample
from throughline.questions.prompt import ImageThenText
from throughline.questions.sampler import Drawn, SamplingRequest
from throughline.teaching.endpoint import Patience
from throughline.teaching.served import EndpointSampler

CLASSES = ("cat", "cup", "dog")
SETTINGS = SamplingSettings(temperature=0.7, top_p=0.9, max_new_tokens=300)
ASKED = SamplingRequest(ImageThenText(PROMPTS.reasoning), SETTINGS, 3, ("self-label round 1",))
QUICK = Patience(timeout=2.0, attempts=2, first_delay=0.01, longest_delay=0.05, reach=0.5)


def sampler(url: str, **changes: Any) -> EndpointSampler:
    return EndpointSampler(url, "mine", {}, **{"at_once": 16, "patience": QUICK, **changes})


def flat(pieces: Iterator[Any]) -> list[Drawn]:
    return [drawn for piece in pieces for drawn in piece]


@pytest.fixture(scope="module")
def batches(tiny_images: ImageSet) -> list[tuple[Sample, ...]]:
    return [tiny_images.samples[start : start + 8] for start in range(0, 40, 8)]


@pytest.fixture
def settings(tiny_images: ImageSet) -> ServerSettings:
    return ServerSettings(labels={sample.image_sha256: sample.label for sample in tiny_images.samples}, seed=1)


def test_every_image_is_asked_once_for_each_purpose(
    settings: ServerSettings, batches: list[tuple[Sample, ...]]
) -> None:
    with running_server(settings) as server:
        drawn = flat(sampler(server.url).draw(replace(ASKED, purposes=("first", "second")), batches))
        assert server.stats()["requests"] == len(drawn) == 2 * 40
    assert Counter((one.sample.id, one.candidate) for one in drawn) == Counter(
        (one.id, number) for batch in batches for one in batch for number in (0, 1)
    )
    for one in drawn:
        chain = parse_chain(one.reply.text, FIVE_STAGE, CLASSES, one.reply.finish_reason)
        assert chain.chain is not None and chain.chain.answer == one.sample.label
        assert one.reply.usage and one.reply.usage.prompt_tokens and one.reply.usage.completion_tokens


def test_what_is_sent_is_the_draw_and_nothing_that_names_the_image(
    settings: ServerSettings, batches: list[tuple[Sample, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.teaching.endpoint import Endpoints

    bodies: list[dict[str, Any]] = []
    real = Endpoints.complete

    async def noted(self: Any, body: Any, *rest: Any) -> Any:
        bodies.append(json.loads(json.dumps(body)))
        return await real(self, body, *rest)

    monkeypatch.setattr(Endpoints, "complete", noted)
    with running_server(settings) as server:
        for changed in (ASKED, ASKED, replace(ASKED, seed=4), replace(ASKED, purposes=("self-label round 2",))):
            flat(sampler(server.url).draw(changed, batches[:1]))
    seeds = []
    for start in range(0, 32, 8):
        by_image = {}
        for body in bodies[start : start + 8]:
            (turn,) = body.pop("messages")
            image, text = turn["content"]
            sent = base64.b64decode(image["image_url"]["url"].partition(",")[2])
            by_image[hashlib.sha256(sent).hexdigest()] = body.pop("seed")
            assert text["text"] == PROMPTS.reasoning
            assert body == {"model": "mine", "temperature": 0.7, "top_p": 0.9, "max_tokens": 300}
        assert by_image.keys() == {one.image_sha256 for one in batches[0]}
        seeds.append(by_image)
    first, again, other_seed, other_round = (set(by_image.values()) for by_image in seeds)
    assert seeds[0] == seeds[1] and first == again and len(first) == 8
    assert not first & other_seed and not first & other_round


def test_a_server_that_refuses_gets_fewer_at_once_and_all_are_answered(
    settings: ServerSettings, batches: list[tuple[Sample, ...]]
) -> None:
    with running_server(replace(settings, at_once=3, latency=0.02)) as server:
        assert len(flat(sampler(server.url).draw(ASKED, batches))) == 40
        assert server.stats()["answered"] == 40 and server.stats()["most_at_once"] <= 3 + 16


@pytest.mark.slow
def test_a_refused_image_is_an_answer_and_a_silent_server_is_an_error(
    settings: ServerSettings, batches: list[tuple[Sample, ...]]
) -> None:
    with running_server(replace(settings, faults=FaultPlan(refusals=0.5))) as server:
        assert len(flat(sampler(server.url).draw(ASKED, batches))) == 40
    with (
        running_server(replace(settings, faults=FaultPlan(errors_500=1.0))) as server,
        pytest.raises(ThroughlineError, match="the server gave no answer: given up after 2 attempts"),
    ):
        flat(sampler(server.url).draw(ASKED, batches))
    with (
        running_server(replace(settings, always=(400, {"error": {"message": "no images here"}}))) as server,
        pytest.raises(ThroughlineError, match="rejects every request"),
    ):
        flat(sampler(server.url).draw(ASKED, batches))


def test_a_server_that_has_ended_stops_the_draw(settings: ServerSettings, batches: list[tuple[Sample, ...]]) -> None:
    def require_alive() -> None:
        if not server.process.is_alive():
            raise ThroughlineError("the server has ended")

    with running_server(replace(settings, latency=0.05)) as server:
        got: list[Drawn] = []
        with pytest.raises(ThroughlineError, match="the server has ended"):
            for piece in sampler(server.url, at_once=4, require_alive=require_alive).draw(ASKED, batches):
                got += piece
                server.stop()
    assert 0 < len(got) < 40


def test_an_image_that_cannot_be_read_is_named(
    settings: ServerSettings, batches: list[tuple[Sample, ...]], tmp_path: Path
) -> None:
    gone = replace(batches[0][0], root=tmp_path / "gone")
    with running_server(settings) as server, pytest.raises(ThroughlineError, match="gone"):
        flat(sampler(server.url).draw(ASKED, [(gone,)]))
