"""A judge model: a second opinion on chains that name one class, from an endpoint of its own.

It sees the images, the question and the chain, and says whether the chain holds together. It is asked about right and
wrong chains alike, so being asked says nothing of the label. Its verdicts are lines like those of any rule.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from throughline.chains.outcomes import Outcome
from throughline.chains.records import FAILED, JUDGE, Candidate, Verdict
from throughline.domains.images import ImageError
from throughline.domains.samples import Sample
from throughline.questions.prompt import Prompt
from throughline.questions.sampler import Reply
from throughline.teaching.completions import unwrapped
from throughline.teaching.endpoint import Endpoints, PromptClient
from throughline.teaching.prices import Price
from throughline.teaching.teachers import Brief, Flight

PROMPT = """Somebody was asked about this photo:

{question}

They answered:

{chain}

Does the reasoning agree with what the photo shows, and does it lead to its conclusion without contradicting itself? \
Answer with one word, yes or no."""
"""Ours: no source says how a judge was asked."""

_ANSWER = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


@dataclass
class Judge:
    """Asks `model` behind `endpoints` for a verdict. `question` is what the teacher was asked, as in its brief, and
    `params` are as a teacher's, with `image_side` in pixels."""

    endpoints: Endpoints
    model: str
    question: str | Prompt
    params: Mapping[str, Any]
    price: Price | None = None

    def __post_init__(self) -> None:
        self._client = PromptClient(self.endpoints, self.params["image_side"], kept=1, price=self.price)

    async def verdict(self, candidate: Candidate, sample: Sample, flight: Flight) -> Verdict:
        """Accepted when the judge's answer opens with yes; an answer that is neither yes nor no is no acceptance.

        ThroughlineError when the judge will answer no request like this.
        """
        brief = Brief("endpoint", self.model, _judging(self.question, candidate.text), self.params)
        key = brief.key(sample.image_sha256, 0)
        try:
            reply = await self._client.reply_to(brief.prompt_about(sample), brief, key, flight)
            flight.returned(key)
        except ImageError as error:
            reply = Reply(error.what, FAILED)
        failed, word = reply.finish_reason == FAILED, _ANSWER.match(unwrapped(reply.text))
        return Verdict(
            key=candidate.key,
            sample_id=sample.id,
            rule=JUDGE,
            outcome=Outcome.ERROR if failed else Outcome.OK if word else Outcome.OUT_OF_LIST,
            accepted=bool(word and not failed and word[1].lower() == "yes"),
            model=self.model,
            usage=reply.usage,
        )


def _judging(question: str | Prompt, chain: str) -> str | Prompt:
    """The judge's question about a chain; a prompt's own texts and images stand where a question's text would."""
    if isinstance(question, str):
        return PROMPT.replace("{question}", question).replace("{chain}", chain)
    before, after = PROMPT.replace("{chain}", chain).split("{question}")
    parts = [part for message in question.messages for part in message["content"]]
    content = [{"type": "text", "text": before}, *parts, {"type": "text", "text": after}]
    return Prompt(({"role": "user", "content": content},), question.images)
