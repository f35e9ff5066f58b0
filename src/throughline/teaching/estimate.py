"""What a build will take before it is begun: requests, tokens and US dollars, from fewest to most.

Where the store holds answers of the same request, their means are used; else rules of thumb that say so.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from throughline.domains.samples import Sample
from throughline.teaching.ledger import Ledger
from throughline.teaching.plan import BuildPlan
from throughline.teaching.prices import Price
from throughline.teaching.teachers import Brief

CHARACTERS_A_TOKEN = 4.0
"""English prose, roughly, in every vocabulary."""
CHAIN_TOKENS = 300
"""A five-stage chain, roughly; ours."""
_LOOKED_AT = 200  # images whose size is read for a first estimate


@dataclass(frozen=True)
class Estimate:
    """The rest of a build. Pairs are (fewest, most): the first candidate is enough everywhere, or all are asked for."""

    images: int
    """Distinct images that still want candidates."""
    requests: tuple[int, int]
    expected_requests: int | None
    """By the share accepted so far; None where nothing is known."""
    prompt_tokens: float
    """A request."""
    completion_tokens: float
    """An answer."""
    price: Price | None
    measured: int
    """Answers in the store behind the means; 0 is a rule of thumb."""

    def cost(self, requests: int) -> float | None:
        """US dollars for so many requests; None without a price."""
        if self.price is None:
            return None
        return self.price.of(requests * self.prompt_tokens, requests * self.completion_tokens)


def estimate(plan: BuildPlan, brief: Brief, store: Path, price: Price | None) -> Estimate:
    """Reads the store, writes nothing, asks nobody."""
    ledger = Ledger(plan, brief)
    ledger.read(store)
    fewest: list[int] = []
    most: list[int] = []
    for lead in ledger.leads:
        lacking = len(ledger.lacking(lead))
        if lacking and not ledger.enough(lead, plan.candidates):
            missing = lacking if plan.enough is None else plan.enough - ledger.accepted_before(lead, plan.candidates)
            fewest.append(min(lacking, missing))
            most.append(lacking)
    prompt_tokens, completion_tokens = map(float, ledger.paid.drop(columns="cost").fillna(0).mean())
    if not prompt_tokens > 0:  # NaN for no answers
        text = len(brief.wording) / CHARACTERS_A_TOKEN
        prompt_tokens = text + _mean_image_tokens(plan.samples, brief.params.get("image_side", 0))
        completion_tokens = float(CHAIN_TOKENS)
    expected, requests = _expected(ledger, len(most), sum(most)), (sum(fewest), sum(most))
    return Estimate(len(most), requests, expected, prompt_tokens, completion_tokens, price, len(ledger.paid))


def _expected(ledger: Ledger, images: int, most: int) -> int | None:
    """Requests if every further candidate is accepted as often as the recorded ones were."""
    plan = ledger.plan
    if plan.enough is None:
        return most
    if not ledger.candidates:
        return None
    share = ledger.accepted / ledger.candidates
    # the expected number of draws until the first success, none beyond the plan's: a geometric sum
    draws = plan.candidates if share == 0 else (1 - (1 - share) ** plan.candidates) / share
    return min(most, round(images * draws * plan.enough))


def _mean_image_tokens(samples: Sequence[Sample], side: int) -> float:
    """Over the first images that can be opened, as OpenAI's documentation counts for GPT-4o: 85, and 170 for each
    512-pixel tile of the image, its shorter side brought down to 768."""
    tokens: list[int] = []
    for sample in samples:
        with suppress(OSError), Image.open(sample.path) as image:
            width, height = image.size
            scale = min(1.0, side / max(width, height)) if side else 1.0
            scale *= min(1.0, 768 / (scale * min(width, height)))
            tokens.append(85 + 170 * math.ceil(width * scale / 512) * math.ceil(height * scale / 512))
        if len(tokens) == _LOOKED_AT:
            break
    return sum(tokens) / len(tokens) if tokens else 0.0
