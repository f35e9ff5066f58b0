"""One chat completion as OpenAI's API has it: the request's body from brief and image, and what an answer says.

`endpoint` sends and reads them one by one, `batch_files` as lines of files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from throughline.chains.records import Usage
from throughline.domains.samples import Sample
from throughline.questions.prompt import user_prompt
from throughline.teaching.prices import Price
from throughline.teaching.teachers import Brief

OUR_PARAMS = {"image_side", "format"}
"""Parameters of a brief that are no parameters of the request."""
_LARGEST_COUNT = 1e15


@dataclass(frozen=True)
class Completion:
    """An answer as the endpoint gave it; `finish_reason` is "error" when none came for good."""

    text: str
    finish_reason: str | None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    """US dollars, where the provider says so itself."""
    rejected: bool = False
    """The endpoint will not answer this very request (HTTP 400 and the like)."""


def chat_body(brief: Brief, messages: Sequence[Mapping[str, Any]], image_sha256: str, candidate: int) -> dict[str, Any]:
    """The body of one chat completion: messages with their images as URLs (`Prompt.with_urls`) and the parameters.

    The parameters `image_side` and `format` are ours and not sent; `seed: true` is a number of each request's own.
    """
    params = {name: value for name, value in brief.params.items() if name not in OUR_PARAMS}
    if params.get("seed") is True:
        params["seed"] = int(brief.key(image_sha256, candidate)[:8], 16) & 0x7FFFFFFF
    return {"model": brief.model, "messages": list(messages), **params}


def image_body(brief: Brief, sample: Sample, image_url: str, candidate: int) -> dict[str, Any]:
    """The body of a completion that asks the brief's question about one sample's image."""
    messages = user_prompt(sample, brief.prompt).with_urls([image_url])
    return chat_body(brief, messages, sample.image_sha256, candidate)


def read_completion(body: Any) -> Completion:
    """A chat completion's JSON value; ValueError when it is none. A refusal has finish reason "content_filter"."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
        refusal, text = message.get("refusal"), message.get("content")
        if isinstance(text, list):  # some servers answer in parts
            text = "".join(part.get("text") or "" for part in text)
        reason = "content_filter" if refusal else choice.get("finish_reason")
        return Completion(
            str(refusal or text or ""),
            None if reason is None else str(reason),
            _count(usage.get("prompt_tokens")),
            _count(usage.get("completion_tokens")),
            _number(usage.get("cost")),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("no chat completion") from error


def _number(value: Any) -> float | None:
    """A count or a cost as a server reports it; None for what cannot be one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LARGEST_COUNT:
        return None
    return value


def _count(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else round(number)


def usage_of(said: Completion, price: Price | None) -> Usage:
    """Tokens as reported; the cost as the provider says it, else by the price where there is one."""
    prompt, completion, cost = said.prompt_tokens, said.completion_tokens, said.cost
    if cost is None and price is not None and prompt is not None and completion is not None:
        cost = price.of(prompt, completion)
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cost=cost)
