"""One chat completion as OpenAI's API has it: the body of a request, and what an answer says.

`endpoint` sends and reads them one by one, `batch_files` as lines of files.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from throughline.chains.formats import ChainFormat, tag_pattern
from throughline.chains.records import Usage
from throughline.chains.store import MOST_USAGE
from throughline.questions.sampler import Reply
from throughline.teaching.fates import NoAnswer, fate_of, no_answer
from throughline.teaching.prices import Price
from throughline.teaching.teachers import Brief

OUR_PARAMS = {"image_side", "format"}
"""Parameters of a brief that are no parameters of the request."""


def chat_body(brief: Brief, messages: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    """The body of one chat completion: messages with their images as URLs (`Prompt.with_urls`) and the parameters.

    The parameters `image_side` and `format` are ours and not sent; `seed: true` becomes a number that each request has
    for itself, from its key.
    """
    params = {name: value for name, value in brief.params.items() if name not in OUR_PARAMS}
    if params.get("seed") is True:
        params["seed"] = int(key[:8], 16) & 0x7FFFFFFF
    return {"model": brief.model, "messages": list(messages), **params}


def read_content(content: bytes) -> Any:
    """The JSON value in the content of an HTTP answer; the text where it is none. Of server-sent events (some servers
    stream unasked) the completion that its chunks make."""
    text = content.decode("utf-8-sig", errors="replace").strip()
    try:
        if re.match(r"(data|event|id|retry|):", text):
            return _joined([line[5:].strip() for line in re.split(r"\r?\n", text) if line.startswith("data:")])
        return json.loads(text)
    except (ValueError, RecursionError, AttributeError, TypeError):
        return text


def _joined(events: Sequence[str]) -> Any:
    """The completion in the data of server-sent events; one that just ends is broken off."""
    deltas, last, usage = [], {"finish_reason": None if "[DONE]" in events else "abort"}, None
    for chunk in (json.loads(event) for event in events if event != "[DONE]"):
        if chunk.get("error"):
            return chunk
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            deltas.append(choice.get("delta") or choice.get("message") or {})
            last |= {name: choice[name] for name in ("finish_reason", "error") if choice.get(name)}
    names = ("content", "refusal", "reasoning_content", "reasoning")
    message = {name: "".join(delta.get(name) or "" for delta in deltas) for name in names}
    return {"choices": [{"message": message, **last}], "usage": usage}


def read_completion(body: Any, price: Price | None = None, status: int = 200) -> Reply:
    """The reply in the body of an answer (a JSON value, or the text of what is none) with this HTTP status.

    A refusal has the finish reason "content_filter", an answer cut off "length". An answer of nothing but thinking is
    given as `<think> … </think>`. The cost is what the provider says, else it is by the price. NoAnswer for an error,
    also one inside HTTP 200, for a generation that failed, and for what is no chat completion.
    """
    try:
        choice = body["choices"][0]
        error = body.get("error") or choice.get("error")
        reason = choice.get("finish_reason") or choice.get("native_finish_reason")
        message = {} if error or (fate_of(reason) and not choice.get("message")) else choice["message"]
        refusal, text = message.get("refusal"), message.get("content")
        if isinstance(text, list):  # some servers answer in parts
            text = "".join(part.get("text") or "" for part in text)
        thinking = message.get("reasoning_content") or message.get("reasoning")  # vLLM and DeepSeek, OpenRouter
        usage = _read_usage(body.get("usage"), price)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise no_answer(body, status) from None
    if error or status >= 400:
        raise no_answer({"error": error or body}, status)
    fate = "filtered" if refusal else fate_of(reason)
    if fate not in (None, "truncated", "filtered"):
        raise NoAnswer("passing", f"the generation ended with {reason!r}", status)
    reason = {"truncated": "length", "filtered": "content_filter"}.get(fate or "", reason)
    text = str(refusal or text or (f"<think> {thinking} </think>" if thinking else ""))
    return Reply(text, None if reason is None else str(reason), usage)


_THINKING = re.compile(
    r"(?is)\A.*(</(seed:)?(think(ing)?|thought)>|\[/THINK\]|◁/think▷|<\|channel\|>final<\|message\|>)"
)
_TOKEN = r"<[|｜][^<>\n]{1,40}[|｜]>|</?s>|<(bos|eos|pad|(start|end)_of_\w{1,20})>|\[/?INST\]|```|~~~"
_LEAD_IN = r"(assistant|model|(here|sure|certainly|of course|okay|below)\b[^\n<>]{0,120}[.:!])\s*\n"
_WRAPPER = re.compile(rf"(?i)\A(\ufeff|(```|~~~)\w*\s|{_TOKEN}|<\?xml[^<>]*>|{_LEAD_IN})|({_TOKEN})\Z")
_TAGGED = re.compile(r"(?is)\A<(\w+)>(.*)</\1>\Z")
_MOST_LAYERS = 64


def unwrapped(text: str, format: ChainFormat | None = None, read_thinking: bool = False) -> str:
    """A teacher's text without what stands round a chain: thinking before it, a code fence, tokens of the chat template
    as text, a line such as "Here is my answer:", a tag round all of it. Anything else that stands there stays.

    With `read_thinking` a text of nothing but thinking is read from its first stage on.
    """
    inner, stages = text.strip(), format.stages if format else ()
    if "think" not in stages:
        answer = _THINKING.sub("", inner).strip()
        if read_thinking and not answer and format and (tag := tag_pattern(format).search(inner)):
            answer = re.sub(r"</\w+>\Z", "", inner[tag.start() :])
        inner = answer
    layers, outer = 0, ""
    while inner != outer and (layers := layers + 1) < _MOST_LAYERS:
        outer, inner = inner, _WRAPPER.sub("", inner).strip()
        tagged = _TAGGED.match(inner)
        if tagged and tagged[1].casefold() not in map(str.casefold, stages):
            inner = tagged[2].strip()
    return text if inner == text.strip() else inner


def _read_usage(reported: Any, price: Price | None) -> Usage:
    """Tokens and cost as a server reports them; None for what cannot be one."""
    values = reported if isinstance(reported, dict) else {}
    prompt, completion, cost = (_number(values.get(name)) for name in ("prompt_tokens", "completion_tokens", "cost"))
    prompt, completion = (None if count is None else round(count) for count in (prompt, completion))
    if cost is None and price is not None and prompt is not None and completion is not None:
        cost = price.of(prompt, completion)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cost=cost)


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MOST_USAGE
    return value if usable else None
