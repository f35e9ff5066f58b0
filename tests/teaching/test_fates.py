"""What is made of every kind of answer that an endpoint can give: the handed-over cases, and others of their kinds."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.chains.plain_fold import read_journal
from tests.chat_server import ChatServer, ServerSettings

from throughline.chains.formats import FIVE_STAGE, THINK_ANSWER
from throughline.chains.parsing import parse_chain
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.drawn.world import write_world
from throughline.teaching.building import build
from throughline.teaching.completions import read_completion, read_content, unwrapped
from throughline.teaching.endpoint import Endpoints, EndpointTeacher, Patience
from throughline.teaching.fates import NoAnswer
from throughline.teaching.judge import Judge
from throughline.teaching.plan import BuildPlan
from throughline.teaching.prompt import teacher_prompt
from throughline.teaching.recorder import Progress
from throughline.teaching.teachers import Brief

CASES = {
    case["name"]: case
    for case in map(json.loads, Path(__file__).with_name("teacher_cases.jsonl").read_text().splitlines())
}
CHAIN = """<SUMMARY> I name the object. </SUMMARY>
<CAPTION> Something on water. </CAPTION>
<REASONING> It floats. </REASONING>
<REFLECTION> It fits. </REFLECTION>
<CONCLUSION> boat </CONCLUSION>"""
CLASSES = ("boat", "bowl")


def completion(text: Any, reason: Any = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"content": text, **message}, "finish_reason": reason}]}


def outcome(body: Any, status: int = 200) -> str:
    """The outcome of the chain that is recorded, or the fate of an answer that is none."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        reply = read_completion(read_content(content), status=status)
    except NoAnswer as error:
        return f"{error.fate}: {error}"
    return parse_chain(unwrapped(reply.text, FIVE_STAGE), FIVE_STAGE, CLASSES, reply.finish_reason).outcome


FATES = {
    "thinking_inside": "ok",
    "fenced": "ok",
    "end_token_as_text": "ok",
    "error_in_200": "passing: The machine behind us is overloaded",
    "refusal_429_in_200": "refused: Our provider reports a fault slow down",
    "one_image_flagged": "filtered: The picture was flagged by the provider's moderation",
    "gemini_block": "refusal",
    "length_in_capitals": "truncated",
    "abort": "passing: the generation ended with 'abort'",
    "too_large": "rejected: The request is too large (a smaller --image-side may help)",
    "words_in_reasoning_content": "empty",
}


@pytest.mark.parametrize("name", CASES)
def test_a_handed_over_case_has_its_fate(name: str) -> None:
    case = CASES[name]
    body = case["body"].encode() if isinstance(case["body"], str) else case["body"]
    assert outcome(body, case["status"]) == FATES[name]


@pytest.mark.parametrize(
    "text",
    [
        f"<thinking>A boat, or a bowl?</thinking>{CHAIN}",
        f"A boat, or a bowl? The template opened the thinking.\n</think>\n\n{CHAIN}",
        f"[THINK]Hm, a <SUMMARY> comes first.[/THINK]{CHAIN}",
        f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>{CHAIN}<|return|>",
        f"```\n{CHAIN}\n```",
        f"~~~xml\n{CHAIN}\n~~~\n",
        f"<think></think>```xml\n{CHAIN}\n```<|eot_id|>",
        f"{CHAIN}</s>",
        f"{CHAIN}<end_of_turn>\n",
        f"{CHAIN}<｜end▁of▁sentence｜>",
        f"<|begin_of_box|>{CHAIN}<|end_of_box|>",
        f"<|im_start|>assistant\n{CHAIN}<|im_end|><|endoftext|>",
        f"Sure! Here is my analysis of the picture:\n\n{CHAIN}",
        f"<response>\n{CHAIN}\n</response>",
        f"\ufeff{CHAIN}",
    ],
)
def test_what_stands_round_a_chain_is_taken_off(text: str) -> None:
    assert unwrapped(text, FIVE_STAGE) == CHAIN
    assert outcome(completion(text)) == "ok"


@pytest.mark.parametrize(
    "text",
    [
        f"{CHAIN}\nOn second thoughts it is a bowl.",
        f"It is a bowl. {CHAIN}",
        f"{CHAIN}\n{CHAIN}",
        "<SUMMARY> A </SUMMARY> ``` code ``` in the middle",
        "  \n" + CHAIN + "\n",
        "",
    ],
)
def test_what_may_say_something_stays(text: str) -> None:
    assert unwrapped(text, FIVE_STAGE) == text


def test_thinking_is_a_stage_of_a_format_that_has_it() -> None:
    text = "<think> It floats. </think>\nThe object is a boat."
    assert unwrapped(text, THINK_ANSWER) == text
    assert unwrapped(f"{text}<|im_end|>", THINK_ANSWER) == text


def test_a_chain_in_the_thinking_is_read_when_asked_for() -> None:
    for message in ({"reasoning_content": f"A hull. {CHAIN}"}, {"reasoning": f"A hull. {CHAIN}"}):
        text = read_completion(completion(None, **message)).text
        assert unwrapped(text, FIVE_STAGE) == "" and unwrapped(text, FIVE_STAGE, read_thinking=True) == CHAIN
    assert unwrapped(f"<think>Hm. {CHAIN}</think>", FIVE_STAGE, read_thinking=True) == CHAIN
    both = read_completion(completion(CHAIN, reasoning_content="A bowl?")).text
    assert both == CHAIN, "an answer that is there is the answer"


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("STOP", "ok"),
        (None, "ok"),
        ("eos", "ok"),
        ("LENGTH", "truncated"),
        ("model_length", "truncated"),
        ("FinishReason.MAX_TOKENS", "truncated"),
        ("SAFETY", "refusal"),
        ("PROHIBITED_CONTENT", "refusal"),
        ("contentFilter", "refusal"),
        ("refusal", "refusal"),
        ("error", "passing: the generation ended with 'error'"),
        ("Aborted", "passing: the generation ended with 'Aborted'"),
        ("insufficient_system_resource", "passing: the generation ended with 'insufficient_system_resource'"),
    ],
)
def test_a_finish_reason_has_a_fate_in_any_spelling(reason: Any, expected: str) -> None:
    assert outcome(completion(CHAIN, reason)) == expected


@pytest.mark.parametrize(
    ("status", "error", "fate"),
    [
        (402, {"message": "add money"}, "final"),
        (200, {"message": "add money", "code": 402}, "final"),
        (200, {"message": "add money", "code": "insufficient_quota"}, "final"),
        (429, {"message": "pay", "type": "insufficient_quota"}, "final"),
        (403, {"message": "Your account is suspended"}, "final"),
        (400, {"message": "Your credit balance is too low", "type": "invalid_request_error"}, "final"),
        (400, [{"error": {"message": "API key not valid", "status": "INVALID_ARGUMENT", "code": 400}}], "final"),
        (401, "no key", "final"),
        (429, {"message": "slow down"}, "refused"),
        (200, {"message": "slow down", "code": "rate_limit_exceeded"}, "refused"),
        (200, {"message": "slow down", "code": "429"}, "refused"),
        (503, {"message": "busy", "status": "UNAVAILABLE"}, "passing"),
        (529, {"type": "overloaded_error", "message": "Overloaded"}, "passing"),
        (200, "Internal error", "passing"),
        (200, {"message": "the upstream closed"}, "passing"),
        (403, {"message": "no", "metadata": {"flagged_input": "a", "reasons": ["hate"]}}, "filtered"),
        (403, {"code": "denied", "error": "Content violates usage guidelines. SAFETY_CHECK_TYPE"}, "filtered"),
        (400, {"code": "data_inspection_failed", "message": "no"}, "filtered"),
        (400, {"message": "Input data may contain inappropriate content."}, "filtered"),
        (400, {"message": "Your request was rejected as a result of our safety system."}, "filtered"),
        (422, {"message": "NSFW image"}, "filtered"),
        (200, {"message": "the input was flagged", "code": 403}, "filtered"),
        (403, "<html><h1>Sorry, you have been blocked</h1></html>", "rejected"),
        (400, {"message": "Unrecognized request argument supplied: moderation"}, "rejected"),
        (400, {"message": "no parameter safety_checker"}, "rejected"),
        (400, {"message": "too long", "code": "context_length_exceeded"}, "rejected"),
        (400, {"message": "max_tokens is too large", "code": "max_tokens"}, "rejected"),
        (422, {"detail": [{"msg": "wrong"}]}, "rejected"),
    ],
)
def test_an_error_has_a_fate_wherever_its_code_stands(status: int, error: Any, fate: str) -> None:
    whole = error if isinstance(error, list) or "error" in error else {"error": error}
    assert outcome(whole, status).partition(":")[0] == fate
    if status == 200:
        choice = {"message": {"content": CHAIN}, "finish_reason": "error", "error": error}
        assert outcome({"choices": [choice]}).partition(":")[0] == fate, "an error inside a choice"


def test_a_prompt_that_was_blocked_is_a_refusal_though_there_is_no_choice() -> None:
    assert outcome({"choices": [], "promptFeedback": {"blockReason": "SAFETY"}}).startswith("filtered")
    assert outcome({"choices": [{"index": 0, "finish_reason": "SAFETY"}]}) == "refusal"
    assert outcome({"choices": [{"message": None, "finish_reason": "content_filter: OTHER"}]}) == "refusal"
    assert outcome({"object": "error", "message": "no such model", "code": 404}).startswith("final")


def events(*chunks: Any, end: str = "data: [DONE]\n\n") -> bytes:
    return ("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end).encode()


def delta(reason: str | None = None, **values: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": values, "finish_reason": reason}]}


def test_a_server_that_streams_unasked_is_read() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}
    whole = events(delta(role="assistant"), delta(content=CHAIN[:30]), delta("stop", content=CHAIN[30:]), usage)
    for content in (whole, b": WAITING\n\n" + whole, whole.replace(b"\n", b"\r\n"), b"event: x\n" + whole):
        reply = read_completion(read_content(content))
        assert (reply.text, reply.finish_reason) == (CHAIN, "stop")
        assert reply.usage and (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 5)
    separated = 'data: {"choices": [{"delta": {"content": "a\u2028b"}}]}\n\ndata: [DONE]'.encode()
    assert read_completion(read_content(separated)).text == "a\u2028b", "no line of a stream ends there"
    assert outcome(events(delta(content=CHAIN))) == "ok", "some send no finish reason"
    assert outcome(events(delta(content=CHAIN[:50]), delta("length"))) == "truncated"
    assert outcome(events(delta(refusal="I can"), delta("stop", refusal="not"))) == "refusal"
    assert outcome(events(delta("stop", reasoning_content=CHAIN))) == "empty"


def test_a_stream_that_breaks_off_is_no_answer() -> None:
    assert outcome(events(delta(content=CHAIN), end="")).startswith("passing")
    assert outcome(events(delta(content=CHAIN), {"error": {"code": 429, "message": "slow"}})).startswith("refused")
    assert outcome(b"data: {half\n\n").startswith("passing") and outcome(b"data: 3\n\n").startswith("passing")


# over a connection ----------------------------------------------------------------------------------------------------

QUICK = Patience(timeout=5, attempts=3, first_delay=0.01, longest_delay=0.05, reach=10)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("world")
    write_world(root, per_class=1, seed=3, styles=("photo",))
    return read_images(root)


def played(images: ImageSet, store: Path, **server: Any) -> tuple[Progress, Endpoints]:
    labels = {sample.image_sha256: sample.label for sample in images.samples}

    async def play() -> tuple[Progress, Endpoints]:
        async with ChatServer(ServerSettings(labels=labels, **server)) as chat:
            endpoints = Endpoints([chat.url], None, QUICK, at_once=4)
            prompt = teacher_prompt(images.classes, FIVE_STAGE)
            brief = Brief("endpoint", "seer", prompt, {"max_tokens": 500, "seed": True, "image_side": 64})
            try:
                return await build(BuildPlan(images, FIVE_STAGE), EndpointTeacher(brief, endpoints), store), endpoints
            finally:
                await endpoints.close()

    return asyncio.run(play())


def test_a_flagged_image_is_recorded_and_does_not_stop_the_build(images: ImageSet, tmp_path: Path) -> None:
    case = CASES["one_image_flagged"]
    flagged = images.samples[0]
    always = {flagged.image_sha256: [(case["status"], case["body"])] * 99}
    progress, _ = played(images, tmp_path, first=always)
    assert progress.accepted == len(images.samples) - 1 and not progress.failed
    refused = [c for c in read_journal(tmp_path).candidates if c.sample_id == flagged.id]
    assert len(refused) == 4 and {c.finish_reason for c in refused} == {"content_filter"}
    assert "moderation" in refused[0].text
    again, _ = played(images, tmp_path, first=always)
    assert again.answers == 0, "no restart asks for it again"


def test_a_page_of_a_firewall_about_one_image_does_not_stop_the_build(images: ImageSet, tmp_path: Path) -> None:
    blocked = {images.samples[0].image_sha256: [(403, "<html><h1>You have been blocked</h1></html>")] * 99}
    for _ in range(2):
        progress, _ = played(images, tmp_path, first=blocked)
        assert (progress.failed, progress.accepted) == (1, len(images.samples) - 1)


def test_a_refusal_inside_http_200_narrows_the_concurrency_and_is_asked_again(images: ImageSet, tmp_path: Path) -> None:
    case = CASES["refusal_429_in_200"]
    progress, endpoints = played(images, tmp_path, first={images.samples[0].image_sha256: [(200, case["body"])] * 2})
    assert endpoints.refused == 2 and progress.accepted == len(images.samples) and not endpoints.retried


@pytest.mark.parametrize("name", ["error_in_200", "abort"])
def test_a_fault_inside_http_200_is_tried_again(images: ImageSet, tmp_path: Path, name: str) -> None:
    sha = images.samples[0].image_sha256
    progress, endpoints = played(images, tmp_path, first={sha: [(200, CASES[name]["body"])]})
    assert endpoints.retried == 1 and progress.accepted == len(images.samples)


def test_the_providers_words_are_shown_when_a_request_is_given_up(images: ImageSet, tmp_path: Path) -> None:
    sha = images.samples[0].image_sha256
    progress, _ = played(images, tmp_path, first={sha: [(200, CASES["error_in_200"]["body"])] * 3})
    assert progress.failed == 1
    assert [*progress.reasons] == ["given up after 3 attempts, the last: HTTP 502: The machine behind us is overloaded"]


def test_a_teacher_without_credit_stops_the_build(images: ImageSet, tmp_path: Path) -> None:
    for status, body in (
        (402, {"error": {"message": "Add credits"}}),
        (200, {"error": {"message": "Add", "code": 402}}),
    ):
        with pytest.raises(ThroughlineError, match=r"no credit left .*HTTP 402: Add"):
            played(images, tmp_path, always=(status, body))


def test_a_streamed_answer_comes_through(images: ImageSet, tmp_path: Path) -> None:
    text = CHAIN.replace("boat", images.samples[0].label.replace("_", " "))
    whole = events(delta(content=text), delta("stop")).decode()
    played(images, tmp_path, first={images.samples[0].image_sha256: [(200, whole)]})
    [candidate] = [c for c in read_journal(tmp_path).candidates if c.sample_id == images.samples[0].id]
    assert candidate.text == text


def test_a_judge_that_thinks_first_is_heard(images: ImageSet, tmp_path: Path) -> None:
    labels = {sample.image_sha256: sample.label for sample in images.samples}
    brief = Brief("endpoint", "seer", teacher_prompt(images.classes, FIVE_STAGE), {"seed": True, "image_side": 64})

    async def play() -> Progress:
        thinking = ServerSettings(always=(200, completion("<think>No? No.</think>\n**Yes**<|im_end|>")))
        async with ChatServer(ServerSettings(labels=labels)) as chat, ChatServer(thinking) as critic:
            teaching, judging = Endpoints([chat.url], None, QUICK), Endpoints([critic.url], None, QUICK)
            judge = Judge(judging, "critic", "What is it?", {"max_tokens": 9, "image_side": 64})
            try:
                plan = BuildPlan(images, FIVE_STAGE)
                return await build(plan, EndpointTeacher(brief, teaching), tmp_path, judge=judge)
            finally:
                await teaching.close()
                await judging.close()

    progress = asyncio.run(play())
    assert progress.judged == progress.judge_agreed == len(images.samples)
