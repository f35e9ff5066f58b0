"""The server that teachers are measured and tested against, as real clients see it over loopback."""

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.chat_server import (
    CONTENT_FAULTS,
    OUTCOMES,
    TRANSPORT_FAULTS,
    ChatServer,
    FaultPlan,
    RunningServer,
    ServerSettings,
    running_server,
)

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.chains.rules import judge
from throughline.questions.question_set import make_question_set

CLASSES = ("alarm_clock", "cup", "dog")
PROMPT = make_question_set(CLASSES).reasoning
KEY = "sk-nobody-may-read-this"


def image_of(number: int) -> bytes:
    return b"image bytes " + number.to_bytes(4, "big") * 50


def sha256_of(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()


def question(seed: int = 0, image: bytes | None = None, **more: Any) -> dict[str, Any]:
    data = base64.b64encode(image_of(0) if image is None else image).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "text", "text": PROMPT},
    ]
    return {"model": "teacher-1", "messages": [{"role": "user", "content": parts}], "seed": seed, **more}


Work = Callable[[ChatServer, openai.AsyncOpenAI], Awaitable[None]]


def served(**settings: Any) -> Callable[[Work], Callable[[], None]]:
    """Runs `work(server, client)` with a server of these settings and a client that repeats nothing by itself."""

    def with_server(work: Work) -> Callable[[], None]:
        async def run() -> None:
            async with (
                ChatServer(ServerSettings(**settings)) as server,
                openai.AsyncOpenAI(base_url=server.url, api_key=KEY, max_retries=0, timeout=20) as client,
            ):
                await work(server, client)

        return lambda: asyncio.run(run())

    return with_server


async def ask(client: openai.AsyncOpenAI, *args: Any, **more: Any) -> Any:
    return await client.chat.completions.create(**question(*args, **more))


def whole(stats: dict[str, int]) -> bool:
    """Whether every request is accounted for exactly once."""
    return stats["requests"] == stats["now"] + sum(stats[name] for name in OUTCOMES if name != "over_capacity")


def request_bytes(body: dict[str, Any], headers: bytes = b"Connection: close\r\n") -> bytes:
    data = json.dumps(body).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (headers, len(data)) + data


async def bytes_back(server: ChatServer, sent: bytes) -> bytes:
    """All that comes back until the connection is closed: what an `openai` client would hide or mend is seen here."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(sent)
    received = await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return received


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """A process without faults, for tests that count nothing but their own."""
    with running_server(ServerSettings()) as running:
        yield running


# Capacity


@served(latency=0.6, at_once=4, retry_after=0.5)
async def test_what_exceeds_the_capacity_is_refused_at_once(server: ChatServer, client: openai.AsyncOpenAI) -> None:
    began = time.monotonic()
    asking = [asyncio.create_task(ask(client, seed)) for seed in range(10)]
    while server.stats()["requests"] < 10:
        await asyncio.sleep(0.01)
    stats = server.stats()
    assert (stats["now"], stats["refused_429"], stats["over_capacity"], stats["distinct"]) == (4, 6, 6, 10)
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert time.monotonic() - began >= 0.6
    refused = [answer for answer in answers if isinstance(answer, openai.RateLimitError)]
    assert {(error.code, error.response.headers["retry-after"]) for error in refused} == {
        ("rate_limit_exceeded", "0.5")
    }
    assert len([answer for answer in answers if not isinstance(answer, Exception)]) == 4
    stats = server.stats()
    assert (stats["most_at_once"], stats["now"], len(refused)) == (4, 0, 6)
    assert whole(stats)


@served(latency=30, at_once=1)
async def test_a_client_that_leaves_makes_room(server: ChatServer, client: openai.AsyncOpenAI) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request_bytes(question()))
    while not server.stats()["now"]:
        await asyncio.sleep(0.01)
    writer.close()
    while server.stats()["now"]:
        await asyncio.sleep(0.01)
    stats = server.stats()
    assert (stats["left"], stats["answered"], whole(stats)) == (1, 0, True)


# Answers


@served()
async def test_an_answer_is_a_whole_chain_about_the_first_option(
    server: ChatServer, client: openai.AsyncOpenAI
) -> None:
    answers = [await ask(client, seed) for seed in range(30)]
    for answer in answers:
        choice = answer.choices[0]
        assert (answer.model, choice.finish_reason, choice.message.refusal) == ("teacher-1", "stop", None)
        parsed = parse_chain(choice.message.content, FIVE_STAGE, CLASSES, choice.finish_reason)
        assert judge("correct", parsed, CLASSES, "alarm_clock").accepted, choice.message.content
        usage = answer.usage
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert len(choice.message.content) / 6 < usage.completion_tokens < len(choice.message.content) / 2
    texts = [answer.choices[0].message.content for answer in answers]
    assert len(set(texts)) > 25, "candidates differ"
    assert (await ask(client, 7)).model_dump() == answers[7].model_dump(), "the same request, the same answer"


@served(labels={sha256_of(image_of(1)): "dog", sha256_of(image_of(2)): "cup"})
async def test_labels_are_found_by_the_image(server: ChatServer, client: openai.AsyncOpenAI) -> None:
    for number, label in ((1, "dog"), (2, "cup"), (1, "dog")):
        text = (await ask(client, 0, image_of(number))).choices[0].message.content
        assert parse_chain(text, FIVE_STAGE, CLASSES).label == label
    with pytest.raises(openai.BadRequestError, match=sha256_of(image_of(3))):
        await ask(client, 0, image_of(3))
    assert server.stats()["bad_requests"] == 1


@served(always=(401, {"error": {"message": "bad key"}}))
async def test_a_fixed_reply_goes_to_every_chat(server: ChatServer, client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.AuthenticationError, match="bad key"):
        await ask(client)
    assert server.stats()["requests"] == 0


def test_a_body_that_is_no_chat_request_is_told_so(server: RunningServer) -> None:
    bodies = [b"", b"[]", b"\xff\xfe", b"[" * 100_000, json.dumps(question(stream=True)).encode()]
    before = server.stats()["bad_requests"]
    for body in bodies:
        status, answer = posted(server, body)
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert server.stats()["bad_requests"] == before + len(bodies)


def posted(server: RunningServer, body: bytes) -> tuple[int, Any]:
    with contextlib.closing(http.client.HTTPConnection(server.host, server.port, timeout=20)) as connection:
        connection.request("POST", "/v1/chat/completions", body)
        answer = connection.getresponse()
        return answer.status, json.load(answer)


# Faults


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("refused_429", openai.RateLimitError),
        ("errors_500", openai.InternalServerError),
        ("dropped_before", openai.APIConnectionError),
        ("dropped_midway", openai.APIConnectionError),
        ("timed_out", openai.APITimeoutError),
        ("bad_json", json.JSONDecodeError),
    ],
)
def test_a_client_meets_each_fault_of_transport(fault: str, error: type[Exception]) -> None:
    @served(latency=0.01, faults=FaultPlan(**{fault: 1.0, "retry_after": 3}))
    async def work(server: ChatServer, client: openai.AsyncOpenAI) -> None:
        with pytest.raises(error) as met:
            await client.with_options(timeout=0.5).chat.completions.create(**question())
        if isinstance(met.value, openai.RateLimitError):
            assert met.value.response.headers["retry-after"] == "3"
        while server.stats()["now"]:
            await asyncio.sleep(0.01)
        stats = server.stats()
        assert (stats[fault], stats["requests"], stats["answered"], stats["left"]) == (1, 1, 0, 0)
        assert whole(stats)

    work()


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("truncated", Outcome.TRUNCATED),
        ("malformed", Outcome.MISSING_STAGE),
        ("refusals", Outcome.REFUSAL),
        ("empty", Outcome.EMPTY),
    ],
)
def test_a_client_meets_each_fault_of_content(fault: str, outcome: Outcome) -> None:
    @served(faults=FaultPlan(**{fault: 1.0}))
    async def work(server: ChatServer, client: openai.AsyncOpenAI) -> None:
        choices = [(await ask(client, seed)).choices[0] for seed in range(24)]
        assert {choice.finish_reason for choice in choices} == {"length" if fault == "truncated" else "stop"}
        in_field = [choice for choice in choices if choice.message.refusal is not None]
        assert all(choice.message.content is None for choice in in_field)
        assert (6 <= len(in_field) <= 18) if fault == "refusals" else not in_field
        for choice in choices:
            text = choice.message.refusal or choice.message.content
            # the text alone shows the fault, whatever the finish reason says
            assert parse_chain(text, FIVE_STAGE, CLASSES).outcome == outcome, text
        stats = server.stats()
        assert (stats[fault], stats["answered"]) == (24, 0)
        assert whole(stats)

    work()


PLAN = FaultPlan(
    **{"refused_429": 0.1, "errors_500": 0.08, "dropped_before": 0.04, "dropped_midway": 0.04, "bad_json": 0.04},
    **{"timed_out": 0.02, "timeout_seconds": 0.01},
    **{"truncated": 0.06, "malformed": 0.06, "refusals": 0.04, "empty": 0.04, "retry_after": 9},
)


async def four_attempts(server: ChatServer, number: int) -> list[bytes]:
    """All the bytes that come back for one request, each time; a refusal for want of room is no attempt."""
    got: list[bytes] = []
    while len(got) < 4:
        received = await bytes_back(server, request_bytes(question(number)))
        if b" 429 " in received and b"Retry-After" not in received:
            await asyncio.sleep(0.002)
        else:
            got.append(received)
    return got


@pytest.mark.slow
def test_faults_depend_on_the_request_and_its_attempt_alone() -> None:
    """Not on order, concurrency, capacity or the clock; and they come in the shares of the plan."""

    async def run(count: int, workers: int, **settings: Any) -> tuple[list[list[bytes]], dict[str, int]]:
        free = asyncio.Semaphore(workers)

        async def work(number: int) -> list[bytes]:
            async with free:
                return await four_attempts(faulty, number)

        async with ChatServer(ServerSettings(faults=PLAN, **settings)) as faulty:
            return await asyncio.gather(*map(work, range(count))), faulty.stats()

    first, stats = asyncio.run(run(250, 1))
    assert (stats["requests"], stats["distinct"], whole(stats)) == (1000, 250, True)
    planned = {name: getattr(PLAN, name) for name in (*TRANSPORT_FAULTS, *CONTENT_FAULTS)}
    through = 1 - sum(planned[name] for name in TRANSPORT_FAULTS)
    for name, share in planned.items():
        # a content fault is drawn once a body, and seen in the attempts that come through
        expected, draws = (share, 1000) if name in TRANSPORT_FAULTS else (share * through, 250)
        assert abs(stats[name] / 1000 - expected) <= 4 * (expected / draws) ** 0.5, name

    received = [attempt.partition(b"\r\n\r\n") for attempts in first for attempt in attempts]
    assert received.count((b"", b"", b"")) == stats["dropped_before"] + stats["timed_out"]
    sizes = [
        (int(head.rpartition(b"Content-Length: ")[2].split(b"\r\n")[0]), len(body))
        for head, _, body in received
        if head
    ]
    assert sum(0 < size < told for told, size in sizes) == stats["dropped_midway"]
    for attempts in first:
        answers = {attempt for attempt in attempts if b" 200 " in attempt and attempt.endswith(b"}")}
        assert len(answers) <= 1, "what a request is answered never changes"
    mended = [attempts for attempts in first if b" 200 " not in attempts[0]]
    assert any(b" 200 " in attempt for attempts in mended for attempt in attempts[1:])

    crowded, other = asyncio.run(run(250, 8, at_once=3, latency=0.002))
    assert crowded == first
    assert other["over_capacity"] > 0
    assert (other["most_at_once"], whole(other)) == (3, True)
    assert asyncio.run(run(40, 1, seed=1))[0] != first[:40]


# HTTP


@served()
async def test_a_client_that_breaks_off_harms_nobody(server: ChatServer, client: openai.AsyncOpenAI) -> None:
    for sent in (b"", b"POST /v1/chat", request_bytes(question())[:-100]):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(sent)
        writer.transport.abort()
    assert (await ask(client)).choices[0].finish_reason == "stop"
    stats = server.stats()
    assert (stats["requests"], stats["answered"]) == (1, 1)


@served()
async def test_bytes_that_are_no_request_are_refused(server: ChatServer, client: openai.AsyncOpenAI) -> None:
    for head in (
        b"hello",
        b"POST / HTTP/1.1\r\nContent-Length: many",
    ):
        received = await bytes_back(server, head + b"\r\n\r\n{}")
        assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")


# Counters, log, process


def test_the_log_tells_all_but_keys_images_and_answers(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    labels = {sha256_of(image_of(number)): "zeppelin" for number in range(2)}

    @served(labels=labels, log=log)
    async def work(server: ChatServer, client: openai.AsyncOpenAI) -> None:
        for number in range(2):
            await ask(client, number, image_of(number), metadata={"note": "dog/17.png"})
            assert len(log.read_text().splitlines()) == number + 1, "a line is there when its request has ended"
        with pytest.raises(openai.NotFoundError):
            await client.models.list()
        await bytes_back(server, request_bytes({"no": "chat", "half": "\ud800"}))

    work()
    content = log.read_text()
    assert KEY not in content
    assert "zeppelin" not in content
    lines = [json.loads(line) for line in content.splitlines()]
    assert [(line["path"].rsplit("/", 1)[1], line["outcome"]) for line in lines] == [
        ("completions", "answered"),
        ("completions", "answered"),
        ("models", "404"),
        ("completions", "bad_requests"),
    ]
    assert [line["authorization"] for line in lines] == [True, True, True, False]
    for number, line in enumerate(lines[:2]):
        image, text = line["body"]["messages"][0]["content"]
        assert image["image_url"]["url"] == f"data:image/png;sha256,{sha256_of(image_of(number))}"
        assert text["text"] == PROMPT
        assert line["body"]["metadata"]["note"] == "dog/17.png"
        assert line["headers"]["user-agent"].startswith("AsyncOpenAI")
        assert 0 <= line["arrived"] <= line["ended"]
    assert len({line["digest"] for line in lines[:2]}) == 2
    assert lines[3]["body"] == {"no": "chat", "half": "\ud800"}


def test_settings_travel_to_the_process(tmp_path: Path) -> None:
    labels = {sha256_of(image_of(0)): "dog"}
    log = tmp_path / "log.jsonl"
    settings = ServerSettings(latency=0.01, at_once=1, faults=FaultPlan(malformed=1.0), labels=labels, log=log)
    with running_server(settings) as server:
        assert posted(server, json.dumps(question()).encode())[0] == 200
        assert posted(server, json.dumps(question(image=image_of(1))).encode())[0] == 400
        stats = server.stats()
        assert (stats["malformed"], stats["distinct"]) == (1, 2)
    assert [json.loads(line)["outcome"] for line in log.read_text().splitlines()] == ["malformed", "bad_requests"]


def test_the_process_leaves_when_its_input_ends() -> None:
    """As it does when whoever started it dies; whatever it waits for, and without a word."""
    with running_server(ServerSettings(latency=30)) as server:
        waiting = http.client.HTTPConnection(server.host, server.port, timeout=20)
        waiting.request("POST", "/v1/chat/completions", json.dumps(question()).encode())
        assert server.stop() == 0
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            waiting.getresponse()
        waiting.close()
