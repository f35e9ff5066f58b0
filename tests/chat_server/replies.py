"""What a chat request asks, and what the server replies: a five-stage chain that concludes a label, or a fault."""

import base64
import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from throughline.chains.formats import FIVE_STAGE, Chain, render_chain
from throughline.questions.wording import class_name

REFUSAL = "I'm sorry, but I can't assist with that."
_OPTIONS = re.compile(r"options:\s*([^,\n]*)", re.IGNORECASE)
_IMAGE = re.compile(r"(data:image/[\w.+-]+);base64,(.*)", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """A chat request. `body` is its JSON with the images' data replaced by their SHA-256; None where it is not JSON."""

    digest: str
    """SHA-256 (hex) of all bytes of the request's body."""
    body: Any
    images: tuple[str, ...]
    prompt: str

    @property
    def first_option(self) -> str:
        """Of the prompt's list of options; "something" without one."""
        options = _OPTIONS.search(self.prompt)
        return (options[1].strip() if options else "") or "something"

    @property
    def is_chat(self) -> bool:
        """Whether the body has messages and asks for no stream."""
        body = self.body
        return isinstance(body, dict) and isinstance(body.get("messages"), list) and not body.get("stream")


def read_question(data: bytes) -> Question:
    """The question in the body of a request, whatever it is."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    images: list[str] = []
    texts: list[str] = []
    for part in _parts(body):
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif isinstance(part.get("image_url"), dict) and (match := _IMAGE.fullmatch(part["image_url"].get("url", ""))):
            images.append(hashlib.sha256(base64.b64decode(match[2])).hexdigest())
            part["image_url"]["url"] = f"{match[1]};sha256,{images[-1]}"
    return Question(hashlib.sha256(data).hexdigest(), body, tuple(images), "\n".join(texts))


def _parts(body: Any) -> Iterator[dict[str, Any]]:
    messages = body.get("messages") if isinstance(body, dict) else None
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in [{"text": content}] if isinstance(content, str) else content or ():
            if isinstance(part, dict):
                yield part


def completion_about(
    question: Question, label: str, fault: str | None, draws: random.Random, says: Callable[[str], str] | None = None
) -> dict[str, Any]:
    """A chat completion with a chain about `label`, or with what `says` makes of the prompt, whole or with this fault
    of content; always the same for the same request and draws."""
    chain = says(question.prompt) if says is not None else _chain_about(class_name(label), draws)
    refusal, finish_reason = None, "stop"
    text: str | None = chain
    lines = chain.split("\n")  # one for each stage
    which = draws.randrange(len(lines))
    if fault == "truncated":
        opening, closing = lines[which].index(">") + 1, lines[which].rindex("<")
        cut = lines[which][: opening + round((closing - opening) * draws.uniform(0.25, 0.75))]
        text, finish_reason = "\n".join([*lines[:which], cut]), "length"
    elif fault == "malformed":
        text = "\n".join(lines[:which] + lines[which + 1 :])
    elif fault == "refusals":
        text, refusal = (None, REFUSAL) if draws.random() < 0.5 else (REFUSAL, None)
    elif fault == "empty":
        text = ""
    prompt_tokens = _tokens_of(question.prompt) + 85 * len(question.images)  # OpenAI's flat part of an image
    completion_tokens = _tokens_of(text or refusal or "")
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return {
        "id": f"chatcmpl-{question.digest[:24]}",
        "object": "chat.completion",
        "created": 0,
        "model": str(question.body.get("model")),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def error(message: str, type: str, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": type, "param": None, "code": code}}


def _chain_about(label: str, draws: random.Random) -> str:
    # words that are no class of any benchmark and deny nothing: the answer is about the label alone
    way = draws.choice(("from the outline inwards", "part by part", "step by step"))
    place = draws.choice(("in the middle", "a little to the left", "a little to the right", "near the lower edge"))
    stages = (
        f"I look at what is shown, {way}, and settle on one of the options.",
        f"One thing stands {place}, before surroundings of the colour #{draws.randrange(2**24):06x}.",
        f"The outline comes first, seen {way}. It is what one expects of {label}.",
        f"Going over it once more, this is {label}.",
        label,
    )
    return render_chain(Chain(FIVE_STAGE, stages))


def _tokens_of(text: str) -> int:
    """About how many tokens English text has: one for four characters."""
    return -(-len(text) // 4)
