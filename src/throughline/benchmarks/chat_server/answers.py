"""What the chat server says: a five-stage chain that concludes a label, the faults of content, and the completion
around them in OpenAI's shape. The server calls this for every request that it answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from throughline.benchmarks.chat_server.questions import Question, tokens_of
from throughline.chains.formats import FIVE_STAGE, Chain, render_chain
from throughline.questions.wording import class_name

REFUSAL = "I'm sorry, but I can't assist with that."


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model is made to say, and the outcome that this is."""

    outcome: str
    text: str | None
    finish_reason: str = "stop"
    refusal: str | None = None


def write_answer(label: str, fault: str | None, draws: random.Random) -> Answer:
    """A chain about `label` with this fault of content, or a whole one; ThroughlineError for a label that cannot
    stand in a chain."""
    text = _five_stages(class_name(label), draws)
    lines = text.split("\n")  # one for each stage
    which = draws.randrange(len(lines))
    match fault:
        case None:
            return Answer("answered", text)
        case "truncated":
            opening, stage = lines[which].index(">") + 1, lines[which].rindex("<")
            cut = lines[which][: opening + round((stage - opening) * draws.uniform(0.25, 0.75))]
            return Answer(fault, "\n".join([*lines[:which], cut]), finish_reason="length")
        case "malformed":
            return Answer(fault, "\n".join(lines[:which] + lines[which + 1 :]))
        case "refusals":
            in_field = draws.random() < 0.5
            return Answer(fault, None if in_field else REFUSAL, refusal=REFUSAL if in_field else None)
        case _:
            return Answer(fault, "")


def _five_stages(label: str, draws: random.Random) -> str:
    # words that are no class of any benchmark and deny nothing: the answer is about the label alone
    beginning = draws.choice(("I look at what is shown", "I go through the options", "I weigh what I see"))
    way = draws.choice(("from the outline inwards", "part by part", "step by step"))
    place = draws.choice(("in the middle", "a little to the left", "a little to the right", "near the lower edge"))
    sign = draws.choice(("The outline", "The arrangement of the parts", "The overall build"))
    stages = (
        f"{beginning}, {way}, and settle on one of them.",
        f"One thing stands {place}, before surroundings of the colour #{draws.randrange(2**24):06x}.",
        f"{sign} comes first, seen {way}. It is what one expects of {label}.",
        f"Going over it once more, this is {label}.",
        label,
    )
    return render_chain(Chain(FIVE_STAGE, stages))


def completion(question: Question, answer: Answer) -> dict[str, Any]:
    """The answer as a chat completion; the same for the same request."""
    completion_tokens = tokens_of(answer.text or answer.refusal or "")
    return {
        "id": f"chatcmpl-{question.digest[:24]}",
        "object": "chat.completion",
        "created": 0,
        "model": question.model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer.text, "refusal": answer.refusal},
                "logprobs": None,
                "finish_reason": answer.finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": question.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": question.prompt_tokens + completion_tokens,
        },
    }


def error(message: str, type: str, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": type, "param": None, "code": code}}
