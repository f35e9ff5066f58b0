"""The endpoint teacher against a real HTTP server on loopback: what is sent, what is made of every kind of answer, and
how long it goes on."""

import asyncio
import base64
import io
import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tests.chains.plain_fold import read_journal
from tests.chat_server import ChatServer, FaultPlan, ServerSettings

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.outcomes import Outcome
from throughline.chains.records import Candidate
from throughline.core.errors import ThroughlineError
from throughline.core.files import file_sha256
from throughline.domains.folders import read_images
from throughline.domains.images import image_bytes
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.views import View, load_sample, view_of
from throughline.teaching.building import accepted_chains, build
from throughline.teaching.completions import read_completion
from throughline.teaching.endpoint import Endpoints, EndpointTeacher, Patience, _retry_after
from throughline.teaching.judge import Judge
from throughline.teaching.pictures import data_url
from throughline.teaching.plan import BuildPlan
from throughline.teaching.prices import Price
from throughline.teaching.prompt import teacher_prompt
from throughline.teaching.recorder import Progress
from throughline.teaching.teachers import Brief

pytestmark = pytest.mark.slow

CLASSES = ("aardvark", "bumblebee", "chinchilla")
QUICK = Patience(timeout=0.4, attempts=4, first_delay=0.01, longest_delay=0.05, reach=10)
"""For servers that are there, on a machine that may be busy."""
IMPATIENT = replace(QUICK, reach=0.5)
"""For servers that are not."""
PARAMS = {"temperature": 0.7, "max_tokens": 500, "seed": True, "image_side": 64}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("zoo")
    for number in range(48):
        domain, label = ("meadow", "cellar")[number % 2], CLASSES[number % 3]
        path = root / domain / label / f"secret-{label}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24), (number * 5, 100, 255 - number * 5)).save(path)
    return read_images(root)


def labels_of(images: ImageSet) -> dict[str, str]:
    return {sample.image_sha256: sample.label for sample in images.samples}


class Session:
    """One server, one store; `build` is a whole run of the builder against it."""

    def __init__(self, images: ImageSet, store: Path, settings: ServerSettings, **plan: Any) -> None:
        self.images, self.store = images, store
        self.settings = replace(settings, labels=settings.labels or labels_of(images), log=store / "requests.jsonl")
        self.plan = BuildPlan(images, FIVE_STAGE, **plan)
        self.stats: dict[str, float] = {}
        self.endpoints: Endpoints | None = None

    def build(self, key: str | None = None, patience: Patience = QUICK, **changes: Any) -> Progress:
        return asyncio.run(self._build(key, patience, **changes))

    async def _build(self, key: str | None, patience: Patience, judged: bool = False, **changes: Any) -> Progress:
        self.store.mkdir(parents=True, exist_ok=True)
        async with ChatServer(self.settings) as server:
            self.endpoints = Endpoints([server.url], key, patience, at_once=32)
            try:
                brief = Brief("endpoint", "seer", teacher_prompt(CLASSES, FIVE_STAGE), PARAMS)
                teacher = EndpointTeacher(replace(brief, **changes), self.endpoints, Price(prompt=1, completion=2))
                judge = Judge(self.endpoints, "critic", "What is it?", PARAMS) if judged else None
                return await build(self.plan, teacher, self.store, judge=judge)
            finally:
                self.stats = server.stats()
                await self.endpoints.close()

    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.store / "requests.jsonl").read_text().splitlines()]

    def candidates(self) -> tuple[Candidate, ...]:
        return read_journal(self.store).candidates

    def outcomes(self) -> Counter[str]:
        return Counter(
            verdict.outcome.value for verdict in read_journal(self.store).verdicts if verdict.rule == "correct"
        )


@pytest.fixture
def session(images: ImageSet, tmp_path: Path) -> Callable[..., Session]:
    def session(faults: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **plan: Any) -> Session:
        settings = ServerSettings(faults=FaultPlan(**faults or {}), **server or {})
        return Session(images, tmp_path / "store", settings, **plan)

    return session


def test_every_image_gets_a_chain_and_its_usage_and_cost(session: Callable[..., Session], images: ImageSet) -> None:
    one = session()
    progress = one.build()
    assert progress.accepted == progress.done == progress.answers == 48
    for candidate in one.candidates():
        assert (candidate.source, candidate.model, candidate.finish_reason) == ("endpoint", "seer", "stop")
        usage = candidate.usage
        assert usage and usage.prompt_tokens and usage.completion_tokens
        assert usage.cost == pytest.approx((usage.prompt_tokens + 2 * usage.completion_tokens) / 1e6)
    assert progress.cost == pytest.approx(sum(c.usage.cost or 0 for c in one.candidates() if c.usage))


def test_nothing_that_is_sent_tells_the_label(
    session: Callable[..., Session], images: ImageSet, tmp_path: Path
) -> None:
    """But for the list of all classes, the same in every request: bodies, addresses, headers and names."""
    one = session(faults={"malformed": 0.5}, candidates=3)
    one.build(key="sk-0123456789")
    requests = one.requests()
    assert len(requests) > 48
    listed = ", ".join(CLASSES)
    for request in requests:
        text = json.dumps(request)
        assert text.count(listed) == 1
        rest = text.replace(listed, "")
        assert not [label for label in CLASSES if label in rest.lower()]
        assert "secret" not in rest and "meadow" not in rest and "cellar" not in rest
    bodies = [request["body"] for request in requests]
    assert {tuple(sorted(body)) for body in bodies} == {("max_tokens", "messages", "model", "seed", "temperature")}


def test_the_api_key_reaches_no_file_and_no_error(
    session: Callable[..., Session], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = session(faults={"errors_500": 0.5})
    one.build(key="sk-very-secret")
    assert all(request["authorization"] for request in one.requests())
    assert not [path for path in one.store.rglob("*") if path.is_file() and b"very-secret" in path.read_bytes()]
    assert "very-secret" not in "".join(capsys.readouterr())
    assert "very-secret" not in repr(one.endpoints)


def test_transient_faults_are_overcome(session: Callable[..., Session], images: ImageSet) -> None:
    faults = {"refused_429": 0.1, "retry_after": 0.02, "errors_500": 0.1, "dropped_before": 0.05}
    one = session(faults=faults | {"dropped_midway": 0.05, "bad_json": 0.05, "timed_out": 0.03, "timeout_seconds": 5})
    progress = one.build(patience=replace(QUICK, attempts=12))
    assert progress.accepted == 48 and not progress.failed
    assert one.outcomes() == {"ok": 48}
    assert one.endpoints and one.endpoints.refused == one.stats["refused_429"] > 0


def test_retry_after_is_waited_for(session: Callable[..., Session]) -> None:
    one = session(faults={"refused_429": 0.2, "retry_after": 0.3})
    one.build()
    ends: dict[str, float] = {}
    waits = []
    for request in sorted(one.requests(), key=lambda request: request["arrived"]):
        if request["digest"] in ends:
            waits.append(request["arrived"] - ends[request["digest"]])
        if request["outcome"] == "refused_429":
            ends[request["digest"]] = request["ended"]
    assert waits and min(waits) >= 0.29


def test_truncated_refused_malformed_and_empty_answers_are_named(session: Callable[..., Session]) -> None:
    one = session(faults={"truncated": 0.2, "malformed": 0.2, "refusals": 0.2, "empty": 0.2}, candidates=2)
    progress = one.build()
    assert progress.done == 48 and 0 < progress.accepted < 48
    found = one.outcomes()
    assert set(found) == {"ok", "truncated", "missing_stage", "refusal", "empty"}
    assert (
        sum(found.values())
        == len(one.candidates())
        == one.stats["answered"] + sum(one.stats[name] for name in ("truncated", "malformed", "refusals", "empty"))
    )


@pytest.mark.slow
def test_a_request_that_never_goes_well_is_a_named_failure_and_asked_for_again(session: Callable[..., Session]) -> None:
    one = session(faults={"errors_500": 1.0})
    progress = one.build()
    assert progress.failed == progress.done == 48 and not progress.answers
    assert {c.text.split(":")[0] for c in one.candidates()} == {"given up after 4 attempts, the last"}
    assert one.outcomes() == {Outcome.ERROR.value: 48}
    one.settings = replace(one.settings, faults=FaultPlan())
    progress = one.build()
    assert progress.accepted == 48 and one.outcomes() == {"ok": 48}
    assert not read_journal(one.store).problems


def test_what_is_in_the_store_is_not_asked_for_again(session: Callable[..., Session], images: ImageSet) -> None:
    one = session(candidates=2)
    one.plan = replace(one.plan, images=replace(images, samples=images.samples[:20]))
    one.build()
    one.plan = replace(one.plan, images=images)
    progress = one.build(patience=replace(QUICK, timeout=7))
    assert (progress.cached, progress.answers) == (20, 28)
    assert len({request["digest"] for request in one.requests()}) == len(one.requests()) == 48


def test_candidates_of_one_image_are_requests_of_their_own(session: Callable[..., Session], images: ImageSet) -> None:
    one = session(candidates=3, enough=None)
    one.build()
    seeds = {request["body"]["seed"] for request in one.requests()}
    assert len(seeds) == len(one.requests()) == 3 * 48


def test_a_parameter_can_be_left_out(session: Callable[..., Session]) -> None:
    one = session()
    one.build(params={"max_completion_tokens": 9, "image_side": 64})
    assert {tuple(sorted(r["body"])) for r in one.requests()} == {("max_completion_tokens", "messages", "model")}


def test_an_image_that_cannot_be_read_is_named_and_costs_nothing(
    session: Callable[..., Session], images: ImageSet, tmp_path: Path
) -> None:
    broken = tmp_path / images.samples[0].id
    broken.parent.mkdir(parents=True)
    broken.write_bytes(images.samples[0].path.read_bytes()[:40])
    bad = replace(images.samples[0], root=tmp_path, image_sha256=file_sha256(broken))
    one = session()
    one.plan = replace(one.plan, images=replace(images, samples=(bad, *images.samples[1:5])))
    progress = one.build()
    assert (progress.failed, progress.accepted) == (1, 4)
    (failed,) = [c for c in one.candidates() if c.failed]
    assert failed.sample_id == bad.id and "image" in failed.text
    assert len(one.requests()) == 4


@pytest.mark.parametrize(
    ("status", "error", "complaint"),
    [
        (401, {"message": "bad key sk-very-secret"}, r"will not answer \[http://127.*HTTP 401: bad key \*\*\*"),
        (404, {"message": "no model seer"}, "HTTP 404: no model seer"),
        (400, {"message": "no parameter temperature"}, "rejects every request.*no parameter temperature"),
        (429, {"message": "pay", "code": "insufficient_quota"}, "no quota left"),
    ],
)
def test_a_server_that_will_never_answer_stops_the_build_in_one_line(
    images: ImageSet, tmp_path: Path, status: int, error: dict[str, Any], complaint: str
) -> None:
    async def play() -> None:
        async with ChatServer(ServerSettings(always=(status, {"error": error}))) as server:
            endpoints = Endpoints([server.url], "sk-very-secret", QUICK)
            teacher = EndpointTeacher(Brief("endpoint", "seer", "?", PARAMS), endpoints)
            try:
                await build(BuildPlan(images, FIVE_STAGE), teacher, tmp_path)
            finally:
                await endpoints.close()

    with pytest.raises(ThroughlineError, match=complaint):
        asyncio.run(play())


def test_images_that_are_always_rejected_do_not_stop_a_build_that_went_well(
    images: ImageSet, tmp_path: Path, session: Callable[..., Session]
) -> None:
    """Three of them, alone again at the next build: the store says that the request's form is right."""
    one = session()
    known = dict(list(labels_of(images).items())[3:])  # the server rejects images that it does not know
    one.settings = replace(one.settings, labels=known)
    for _ in range(3):
        progress = one.build()
        assert (progress.failed, progress.accepted) == (3, 45)
    assert {c.text.split(":")[0] for c in one.candidates() if c.failed} == {"HTTP 400"}


def test_a_limit_of_cost_holds_however_many_are_asked_at_once(session: Callable[..., Session]) -> None:
    """A request costs about 400 millionths here; the first is sent alone, to learn that."""
    one = session(server={"latency": 0.02}, max_cost=0.004)
    progress = one.build()
    assert progress.stopped_at_cost and 0.003 < progress.cost <= 0.004
    assert sum(c.usage.cost or 0 for c in one.candidates() if c.usage) == pytest.approx(progress.cost)
    again = one.build()
    assert again.stopped_at_cost and not again.answers


def test_retry_after_closes_an_endpoint_that_refuses_everything(images: ImageSet, tmp_path: Path) -> None:
    async def play() -> int:
        faults = FaultPlan(refused_429=1.0, retry_after=30)
        async with ChatServer(ServerSettings(faults=faults)) as server:
            endpoints = Endpoints([server.url], None, QUICK)
            teacher = EndpointTeacher(Brief("endpoint", "seer", "?", PARAMS), endpoints)
            work = asyncio.create_task(build(BuildPlan(images, FIVE_STAGE), teacher, tmp_path))
            await asyncio.sleep(1.0)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await endpoints.close()
            return int(server.stats()["requests"])

    assert asyncio.run(play()) <= 8, "the first round, and nobody after it"


def test_a_date_is_a_retry_after_too(images: ImageSet) -> None:
    def waits(text: str) -> float | None:
        return _retry_after({"retry-after": text})

    assert waits("2.5") == 2.5 and waits("inf") == waits("1e9") == 3600 and waits("soon") is None
    assert 50 < (waits(format_datetime(datetime.now(UTC) + timedelta(seconds=60))) or 0) <= 60


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": {"prompt_tokens": 12.5, "completion_tokens": "12", "cost": "$1"}},
        {"usage": {"prompt_tokens": -3, "completion_tokens": 10**400, "cost": float("nan")}},
        {"usage": [1, 2]},
        {"finish_reason": 5},
        {"finish_reason": {"why": "\ud800"}},
    ],
)
def test_odd_reports_of_a_server_harm_no_answer(images: ImageSet, tmp_path: Path, changes: dict[str, Any]) -> None:
    reason = changes.pop("finish_reason", "stop")
    body = {"choices": [{"message": {"content": "no idea"}, "finish_reason": reason}]} | changes

    async def play() -> Progress:
        async with ChatServer(ServerSettings(always=(200, body))) as server:
            endpoints = Endpoints([server.url], None, QUICK)
            teacher = EndpointTeacher(Brief("endpoint", "seer", "?", PARAMS), endpoints, Price(prompt=1, completion=1))
            try:
                return await build(BuildPlan(images, FIVE_STAGE, candidates=1), teacher, tmp_path)
            finally:
                await endpoints.close()

    assert asyncio.run(play()).answers == 48
    assert not read_journal(tmp_path).problems


def test_a_content_filter_is_a_refusal(images: ImageSet, tmp_path: Path) -> None:
    async def play() -> Progress:
        error = {"message": "The picture is not allowed.", "code": "content_policy_violation"}
        async with ChatServer(ServerSettings(always=(400, {"error": error}))) as server:
            endpoints = Endpoints([server.url], None, QUICK)
            teacher = EndpointTeacher(Brief("endpoint", "seer", "?", PARAMS), endpoints)
            try:
                return await build(BuildPlan(images, FIVE_STAGE, candidates=1), teacher, tmp_path)
            finally:
                await endpoints.close()

    progress = asyncio.run(play())
    assert progress.outcomes == {"refusal": 48} and not progress.failed


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_was_never_there_is_said_so(images: ImageSet, tmp_path: Path) -> None:
    async def play() -> None:
        endpoints = Endpoints([f"http://127.0.0.1:{free_port()}/v1"], None, IMPATIENT)
        teacher = EndpointTeacher(Brief("endpoint", "seer", "?", PARAMS), endpoints)
        try:
            await build(BuildPlan(images, FIVE_STAGE), teacher, tmp_path)
        finally:
            await endpoints.close()

    with pytest.raises(ThroughlineError, match=r"cannot connect to the teacher \(tried.*\[http://127\.0\.0\.1:"):
        asyncio.run(play())


def test_a_server_that_goes_away_is_waited_for(images: ImageSet, tmp_path: Path) -> None:
    """Nothing fails however long it takes: a lost connection is no attempt."""
    port = free_port()
    settings = ServerSettings(port=port, latency=0.02, labels=labels_of(images))

    async def serve(seconds: float | None) -> None:
        async with ChatServer(settings):
            await asyncio.sleep(seconds if seconds is not None else 60)

    async def play() -> Progress:
        endpoints = Endpoints([f"http://127.0.0.1:{port}/v1"], None, replace(IMPATIENT, attempts=20), at_once=2)
        teacher = EndpointTeacher(Brief("endpoint", "seer", teacher_prompt(CLASSES, FIVE_STAGE), PARAMS), endpoints)
        work = asyncio.create_task(build(BuildPlan(images, FIVE_STAGE), teacher, tmp_path))
        try:
            await serve(0.3)
            await asyncio.sleep(1.0)  # longer than `reach`: the server is known to exist
            assert not work.done()
            again = asyncio.create_task(serve(None))
            progress = await asyncio.wait_for(work, 20)
            again.cancel()
            return progress
        finally:
            await endpoints.close()

    progress = asyncio.run(play())
    assert progress.accepted == 48 and not progress.failed


def test_several_endpoints_share_the_work_and_the_keys(images: ImageSet, tmp_path: Path) -> None:
    settings = ServerSettings(latency=0.05, at_once=4, labels=labels_of(images))

    async def play(urls: int) -> tuple[Progress, list[float]]:
        async with ChatServer(settings) as one, ChatServer(settings) as other:
            endpoints = Endpoints([one.url, other.url][:urls], None, QUICK)
            brief = Brief("endpoint", "seer", teacher_prompt(CLASSES, FIVE_STAGE), PARAMS)
            try:
                progress = await build(BuildPlan(images, FIVE_STAGE), EndpointTeacher(brief, endpoints), tmp_path)
            finally:
                await endpoints.close()
            return progress, [one.stats()["answered"], other.stats()["answered"]]

    progress, shares = asyncio.run(play(2))
    assert progress.accepted == 48 and sum(shares) == 48 and min(shares) >= 12
    progress, shares = asyncio.run(play(1))
    assert progress.cached == 48 and sum(shares) == 0, "another replica is asked nothing again"


def test_an_endpoint_that_is_down_leaves_the_work_to_the_other(images: ImageSet, tmp_path: Path) -> None:
    async def play() -> Progress:
        async with ChatServer(ServerSettings(labels=labels_of(images))) as server:
            endpoints = Endpoints([f"http://127.0.0.1:{free_port()}/v1", server.url], None, QUICK)
            brief = Brief("endpoint", "seer", teacher_prompt(CLASSES, FIVE_STAGE), PARAMS)
            try:
                return await build(BuildPlan(images, FIVE_STAGE), EndpointTeacher(brief, endpoints), tmp_path)
            finally:
                await endpoints.close()

    assert asyncio.run(play()).accepted == 48


def test_a_password_in_the_address_is_not_shown(images: ImageSet, tmp_path: Path) -> None:
    endpoints = Endpoints([f"http://me:sesame@127.0.0.1:{free_port()}/v1?token=hush"], None, IMPATIENT)

    async def play() -> None:
        teacher = EndpointTeacher(Brief("endpoint", "seer", "?", PARAMS), endpoints)
        await build(BuildPlan(images, FIVE_STAGE), teacher, tmp_path)

    with pytest.raises(ThroughlineError) as raised:
        asyncio.run(play())
    assert not re.search("sesame|hush", str(raised.value))


def test_every_endpoint_has_its_own_share_of_requests(images: ImageSet, tmp_path: Path) -> None:
    async def play() -> list[float]:
        settings = ServerSettings(latency=0.2, labels=labels_of(images))
        async with ChatServer(settings) as one, ChatServer(settings) as other:
            endpoints = Endpoints([one.url, other.url], None, QUICK, at_once=8)
            brief = Brief("endpoint", "seer", teacher_prompt(CLASSES, FIVE_STAGE), PARAMS)
            try:
                await build(BuildPlan(images, FIVE_STAGE), EndpointTeacher(brief, endpoints), tmp_path)
            finally:
                await endpoints.close()
            return [one.stats()["most_at_once"], other.stats()["most_at_once"]]

    assert asyncio.run(play()) == [8, 8]


def test_a_judge_that_will_not_answer_stops_the_build_and_buys_no_further_candidates(
    images: ImageSet, tmp_path: Path
) -> None:
    async def play() -> int:
        refusing = ServerSettings(always=(400, {"error": {"message": "no parameter max_tokens"}}))
        async with ChatServer(ServerSettings(labels=labels_of(images))) as server, ChatServer(refusing) as deaf:
            teaching, judging = Endpoints([server.url], None, QUICK), Endpoints([deaf.url], None, QUICK)
            brief = Brief("endpoint", "seer", teacher_prompt(CLASSES, FIVE_STAGE), PARAMS)
            judge = Judge(judging, "critic", "What is it?", PARAMS)
            try:
                with pytest.raises(ThroughlineError, match="no parameter max_tokens"):
                    await build(BuildPlan(images, FIVE_STAGE), EndpointTeacher(brief, teaching), tmp_path, judge=judge)
            finally:
                await teaching.close()
                await judging.close()
            return int(server.stats()["requests"])

    assert asyncio.run(play()) <= 48


def test_verdicts_of_a_judge_are_found_whatever_shard_holds_them(session: Callable[..., Session]) -> None:
    one = session(candidates=1)
    for number in range(2):
        one.plan = replace(one.plan, shard=(number, 2))
        one.build()
    one.plan = replace(one.plan, shard=(0, 1))
    one.build(judged=True)
    asked = len(one.requests())
    assert asked == 96
    before = (one.store / "journal-0.jsonl").read_bytes()
    one.build(judged=True)
    assert len(one.requests()) == asked and (one.store / "journal-0.jsonl").read_bytes() == before


@pytest.mark.parametrize(("word", "accepted"), [("Yes.", 48), ("**yes**, it does", 48), ("No", 0), ("Yesterday", 0)])
def test_the_judges_first_word_decides(images: ImageSet, tmp_path: Path, word: str, accepted: int) -> None:
    body = {"choices": [{"message": {"content": word}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 10}}

    async def play() -> Progress:
        judging = ServerSettings(always=(200, body))
        async with ChatServer(ServerSettings(labels=labels_of(images))) as server, ChatServer(judging) as critic:
            teaching, opinion = Endpoints([server.url], None, QUICK), Endpoints([critic.url], None, QUICK)
            brief = Brief("endpoint", "seer", teacher_prompt(CLASSES, FIVE_STAGE), PARAMS)
            judge = Judge(opinion, "critic", "What is it?", PARAMS)
            plan = BuildPlan(images, FIVE_STAGE, candidates=1)
            try:
                return await build(plan, EndpointTeacher(brief, teaching), tmp_path, judge=judge)
            finally:
                await teaching.close()
                await opinion.close()

    progress = asyncio.run(play())
    assert (progress.accepted, progress.judged, progress.judge_agreed) == (accepted, 48, accepted)
    assert len(accepted_chains([tmp_path], images, FIVE_STAGE, "correct")) == accepted


def test_a_judge_has_to_agree(session: Callable[..., Session], images: ImageSet) -> None:
    """The server concludes by the image, so the critic's answer is a chain and no yes: nothing is accepted."""
    one = session(candidates=1)
    progress = one.build(judged=True)
    assert progress.done == 48 and progress.accepted == 0
    verdicts = [v for v in read_journal(one.store).verdicts if v.rule == "judge"]
    assert len(verdicts) == 48 and {(v.outcome, v.accepted) for v in verdicts} == {(Outcome.OUT_OF_LIST, False)}
    assert one.build(judged=True).answers == 0
    assert len(one.requests()) == 96, "a verdict that was paid for is not asked for again"


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {},
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [None]},
        "text",
        3,
    ],
)
def test_what_is_no_chat_completion_is_told_apart(body: Any) -> None:
    with pytest.raises(ValueError, match="no chat completion"):
        read_completion(body)


def test_an_answer_in_parts_is_one_text() -> None:
    message = {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert read_completion({"choices": [{"message": message, "finish_reason": "stop"}]}).text == "ab"


@pytest.fixture
def picture(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    def picture(name: str, size: tuple[int, int] = (40, 20), mode: str = "RGB", **options: Any) -> Path:
        path = tmp_path / name
        Image.new(mode, size, None).save(path, **options)
        return path

    yield picture


def sent(path: Path, side: int = 64, view: View | None = None) -> tuple[str, bytes]:
    sample = Sample(path.name, path.parent, "photo", ("cat",), "the same")
    head, data = data_url(view_of(sample, view) if view else sample, side).split(",")
    return head.removeprefix("data:").removesuffix(";base64"), base64.b64decode(data)


@pytest.mark.parametrize(
    ("name", "media_type"), [("a.png", "image/png"), ("a.jpg", "image/jpeg"), ("a.webp", "image/webp")]
)
def test_a_small_plain_file_goes_as_it_is(picture: Callable[..., Path], name: str, media_type: str) -> None:
    path = picture(name)
    assert sent(path) == (media_type, path.read_bytes())


def test_the_media_type_comes_from_the_bytes(picture: Callable[..., Path]) -> None:
    path = picture("looks-like.jpg", format="PNG")
    assert sent(path)[0] == "image/png"


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [("a.bmp", "RGB", {}), ("a.gif", "P", {}), ("a.png", "RGBA", {}), ("a.tif", "CMYK", {}), ("b.png", "I;16", {})],
)
def test_anything_else_becomes_a_jpeg(
    picture: Callable[..., Path], name: str, mode: str, options: dict[str, Any]
) -> None:
    media_type, data = sent(picture(name, mode=mode, **options))
    assert media_type == "image/jpeg"
    assert Image.open(io.BytesIO(data)).size == (40, 20)


def test_a_view_is_sent_as_it_is_drawn(picture: Callable[..., Path]) -> None:
    path, view = picture("a.png"), View("occlusion_noise", 0.5)
    media_type, data = sent(path, view=view)
    drawn = load_sample(view_of(Sample("a.png", path.parent, "photo", ("cat",), "the same"), view))
    assert media_type == "image/jpeg" and data == image_bytes(drawn, 92)


def test_what_is_written_inside_a_file_stays_at_home(picture: Callable[..., Path]) -> None:
    words = PngInfo()
    words.add_text("Title", "a dog, photo/dog/0001.png")
    exif = Image.Exif()
    exif[0x010E] = "a dog"  # ImageDescription
    files = [
        picture("a.png", pnginfo=words),
        picture("a.jpg", comment=b"a dog"),
        picture("b.jpg", exif=exif),
        picture("a.webp", exif=exif),
    ]
    assert all(b"dog" in path.read_bytes() for path in files)
    assert not [path for path in files if b"dog" in sent(path)[1]]


def test_a_large_image_is_scaled_to_the_side_and_stands_upright(picture: Callable[..., Path]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    _, data = sent(picture("a.jpg", size=(400, 200), exif=exif), side=100)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (50, 100) and image.getexif().get(0x0112, 1) == 1


def test_an_image_is_encoded_once_for_all_its_candidates(
    session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Sample] = []

    def encode(sample: Sample, side: int) -> str:
        encoded.append(sample)
        return data_url(sample, side)

    monkeypatch.setattr("throughline.teaching.endpoint.data_url", encode)
    one = session(candidates=2, enough=None)
    one.plan = one.plan.limited(16)  # fewer than may be under way, which are kept
    assert one.build().answers == 32
    assert sorted(sample.id for sample in encoded) == sorted(sample.id for sample in one.plan.samples)
