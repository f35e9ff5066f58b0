"""The numbers of a chain store, as records: what `throughline chains stats --json` prints. `statistics` fills them,
`statistics_tables` shows them.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Numbers(BaseModel):
    model_config = ConfigDict(frozen=True)


class Share(_Numbers):
    """How many of those that a rule has judged it accepted."""

    judged: int
    accepted: int
    share: float | None
    """accepted / judged, 0 to 1; None when nothing was judged."""


class Group(_Numbers):
    """A rule's acceptance by image (at least one of its candidates is accepted) and by candidate."""

    images: Share
    candidates: Share


class NumberShare(_Numbers):
    """The n-th candidates of all images: what asking that often brought."""

    number: int
    """From 0, as in the journal."""
    candidates: Share
    images_gained: int
    """Images that have an accepted candidate of this number and none of a lower one."""


class Acceptance(_Numbers):
    """What one rule made of the answers. Failed requests are in `outcomes` (error) and nowhere else."""

    rule: str
    overall: Group
    by_domain: dict[str, Group]
    by_class: dict[str, Group] | None
    """None without images; samples that the image folder does not hold are left out."""
    by_number: tuple[NumberShare, ...]
    outcomes: dict[str, int]


class Quantiles(_Numbers):
    """Lengths in words; quantiles are interpolated linearly between the two nearest lengths."""

    count: int
    median: float
    low: float
    """The 5 % quantile."""
    high: float
    """The 95 % quantile."""
    longest: int


class Lengths(_Numbers):
    """Words of answers, tags not counted."""

    chain: Quantiles | None
    """Of whole answers, well formed or not; None when there are none."""
    stages: dict[str, dict[str, Quantiles]]
    """By format and stage, of well-formed chains."""


class Spending(_Numbers):
    """One quantity that a source may report: tokens, or US dollars. None where nothing is reported."""

    reporting: int
    """How many candidates report it; only they are in the numbers that follow. A copy reports nothing."""
    total: int | float | None
    per_candidate: float | None
    judging: int | float | None
    """What the verdicts of a judge model took besides."""
    per_accepted: dict[str, float | None]
    """By rule: total and judging, rejected candidates included, per accepted candidate."""


class Part(_Numbers):
    """The numbers of the whole store, or of one teacher's share of it."""

    images: int
    """Sample ids with at least one candidate line."""
    candidates: int
    """Answers, copies included."""
    copies: int
    """Answers that were not asked for, since another sample has the same image and the same request."""
    failed: int
    """Requests that have got no answer so far."""
    acceptance: tuple[Acceptance, ...]
    """One for each rule that has verdicts."""
    lengths: Lengths
    accepted_lengths: dict[str, Lengths]
    """By rule, of what it accepted."""
    prompt_tokens: Spending
    completion_tokens: Spending
    cost: Spending
    """In US dollars."""


class TeacherPart(_Numbers):
    """What one teacher wrote in one round."""

    source: str
    model: str
    round: int
    part: Part


class ChainStatistics(_Numbers):
    """Everything that `throughline chains stats` shows."""

    lines: int
    """Lines that hold anything, of all journals."""
    duplicates: int
    """Candidate lines beyond the one that stands for their (key, sample_id)."""
    problems: int
    """Lines that could not be used, and second answers to one request that differ from the first."""
    unusable_usage: int
    """Reported tokens or costs that can be none (negative, absurd); they are in no sum."""
    verdicts_without_candidate: int
    formats: tuple[str, ...]
    prompts: int
    """How many different questions were asked."""
    judged_anew: bool
    """The store has no verdicts: those counted here were made for this count and are written nowhere."""
    images_given: int | None
    """Images of the folder that classes were joined from; None without one."""
    images_unknown: int | None
    """Sample ids of the store that the folder does not hold."""
    images_changed: int | None
    """Sample ids that the folder holds with other image bytes than were asked about; they have no class here."""
    whole: Part
    teachers: tuple[TeacherPart, ...]
