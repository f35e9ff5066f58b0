"""One chat completion as OpenAI's API has it: the body of a request, and what an answer says.

`endpoint` sends and reads them one by one, `batch_files` as lines of files.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from throughline.chains.records import Usage
from throughline.chains.store import MOST_USAGE
from throughline.teaching.prices import Price
from throughline.teaching.teachers import Brief, Reply

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


def read_completion(body: Any, price: Price | None = None) -> Reply:
    """The reply in a chat completion's JSON value; ValueError when it is none.

    A refusal has the finish reason "content_filter". The cost is what the provider says, else it is by the price.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        refusal, text = message.get("refusal"), message.get("content")
        if isinstance(text, list):  # some servers answer in parts
            text = "".join(part.get("text") or "" for part in text)
        reason = "content_filter" if refusal else choice.get("finish_reason")
        usage = _read_usage(body.get("usage"), price)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("no chat completion") from error
    return Reply(str(refusal or text or ""), None if reason is None else str(reason), usage)


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
