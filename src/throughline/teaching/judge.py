"""A judge model: a second opinion on chains that name one class, from an endpoint of its own.

It sees the image, the question and the chain, and says whether the chain holds together. It is asked about right and
wrong chains alike, so being asked says nothing of the label. Its verdicts are lines like those of any rule.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from throughline.chains.outcomes import Outcome
from throughline.chains.records import FAILED, JUDGE, Candidate, Verdict
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample
from throughline.teaching.completions import Completion, image_body, usage_of
from throughline.teaching.endpoint import Endpoints, FormCheck
from throughline.teaching.pictures import PictureBook
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
    """Asks `model` behind `endpoints` for a verdict. `params` as a teacher's; `image_side` in pixels."""

    endpoints: Endpoints
    model: str
    question: str
    params: Mapping[str, Any]
    price: Price | None = None
    _pictures: PictureBook = field(init=False, repr=False)
    _form: FormCheck = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._pictures = PictureBook(self.params["image_side"], kept=1)
        self._form = FormCheck()

    async def verdict(self, candidate: Candidate, sample: Sample, flight: Flight) -> Verdict:
        """Accepted when the judge's answer opens with yes; an answer that is neither yes nor no is no acceptance.

        ThroughlineError when the judge will answer no request like this.
        """
        prompt = PROMPT.replace("{question}", self.question).replace("{chain}", candidate.text)
        brief = Brief("endpoint", self.model, prompt, self.params)
        key = brief.key(sample.image_sha256, 0)
        try:
            url = await asyncio.to_thread(self._pictures.data_url, sample.path)
        except ThroughlineError as error:
            said = Completion(error.what, FAILED)
        else:
            said = await self.endpoints.complete(image_body(brief, sample, url, 0), key, flight)
            flight.returned(key)
            self._form.note(said)
        failed, word = said.finish_reason == FAILED, _ANSWER.match(said.text)
        return Verdict(
            key=candidate.key,
            sample_id=sample.id,
            rule=JUDGE,
            outcome=Outcome.ERROR if failed else Outcome.OK if word else Outcome.OUT_OF_LIST,
            accepted=bool(word and not failed and word[1].lower() == "yes"),
            model=self.model,
            usage=None if failed else usage_of(said, self.price),
        )
