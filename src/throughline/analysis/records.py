"""What `analysis.json` holds: every number that a figure of the analyses shows. Written by the analyze verb, read by
the page and by whoever computes further. Free of torch.

Probabilities and shares are between 0 and 1, `points` are differences of shares times 100, entropies and NLLs are in
nats. An `Estimate` is a mean over images with its 95 % bootstrap interval over images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from throughline.core.errors import ThroughlineError

SCHEMA = 1
FILE = "analysis.json"

Source = Literal["label", "teacher", "self"]
"""Whose words were scored: the class as the whole answer, a teacher's chain, a chain of the model's own."""

Kind = Literal["class", "chain"]
"""Which of its tokens: those of the class name where the answer stands, or all."""


class Record(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Record):
    """A mean with its interval; `low` and `high` are its own value where there is one image only."""

    mean: float
    low: float
    high: float


class State(Record):
    """Weights that were looked at: `method` None for the base; `round` None for what a unit ended with."""

    method: str | None
    unit: str | None
    round: int | None

    @property
    def name(self) -> str:
        """For tables: `base`, `mtct`, `mtct_sarr round 1`."""
        if self.method is None:
            return "base"
        return self.method if self.round is None else f"{self.method} round {self.round}"


class Buckets(Record):
    """Probabilities of the tokens that stand in the text, under teacher forcing, of one state."""

    state: State
    source: Source
    kind: Kind
    images: int
    tokens: int
    low: Estimate
    """Share below 0.25."""
    high: Estimate
    """Share above 0.75."""
    mean: Estimate
    histogram: tuple[int, ...]
    """Tokens in twenty buckets of equal width from 0 to 1."""


class Moved(Record):
    """Where the same tokens were before and are after. `low_to_high` is the share of all tokens that were below 0.25
    and are above 0.75, `high_to_low` the reverse; `net` is what the share above 0.75 gained, in points."""

    before: State
    after: State
    source: Source
    kind: Kind
    tokens: int
    low_to_high: float
    high_to_low: float
    net: Estimate


class Context(Record):
    """The base's probability of the class tokens without thinking (the label question) and with the chain before them
    (the reasoning question), the same images."""

    state: State
    source: Source
    images: int
    without: float
    """Share of class tokens above 0.75 without a chain."""
    with_chain: float
    low_without: float
    low_with_chain: float
    net: Estimate
    """What the share above 0.75 gained, in points."""


class Curve(Record):
    """A method's training, by optimiser step: NLLs of its parts, and the class tokens' mean probability in each."""

    method: str
    unit: str
    steps: tuple[int, ...]
    losses: dict[str, tuple[float | None, ...]]
    class_probability: dict[str, tuple[float | None, ...]]


class TokenEntropy(Record):
    """A token of the vocabulary: how uncertain the model is where it comes next, before and after."""

    token: str
    count: int
    before: float
    after: float

    @property
    def reduction(self) -> float:
        """Before minus after, in nats."""
        return self.before - self.after


class EntropyTable(Record):
    """Mean next-token entropy under the chains of one source, and the tokens where it fell most."""

    before: State
    after: State
    source: Source
    minimum: int
    """Times a token has to come to be counted."""
    tokens: int
    mean_before: float
    mean_after: float
    top: tuple[TokenEntropy, ...]
    about_classes: int
    """How many of `top` are part of a class name."""


class Overlap(Record):
    """Tokens that are in both `top` lists of a fold: under teacher's chains and under the model's own."""

    teacher: State
    own: State
    shared: tuple[str, ...]
    of: int


class Mismatch(Record):
    """How well a state expects a source's chains."""

    state: State
    source: Source
    images: int
    perplexity: Estimate
    """exp of the mean over chains of the mean NLL over a chain's tokens (the paper's per-sequence reduction)."""
    low: float
    """Share of chain tokens below 0.25."""
    distance: float | None
    """Wasserstein distance of the token probabilities' distribution from the round before's; None for the first."""


class Variant(Record):
    """The class read behind a chain that was tampered with, or about an image that was, on held-out images."""

    state: State
    name: str
    about: Literal["stage removed", "stage swapped", "chain", "image", "whole"]
    images: int
    accuracy: Estimate
    probability: Estimate
    """Of the true class among the classes offered."""
    lost: Estimate | None = None
    """Accuracy of the whole chain minus this one's, in points, image by image; None for the whole chain itself."""


class Shaded(Record):
    """A chain with its tokens' probabilities, before and after, for the page."""

    sample_id: str
    label: str
    source: Source
    before: State
    after: State
    tokens: tuple[tuple[str, float, float], ...]
    """Text, probability before, probability after."""


class Fold(Record):
    """All that was measured of one target and seed."""

    targets: tuple[str, ...]
    seed: int
    states: tuple[State, ...]
    buckets: tuple[Buckets, ...] = ()
    moved: tuple[Moved, ...] = ()
    context: tuple[Context, ...] = ()
    curves: tuple[Curve, ...] = ()
    entropy: tuple[EntropyTable, ...] = ()
    overlap: tuple[Overlap, ...] = ()
    mismatch: tuple[Mismatch, ...] = ()
    variants: tuple[Variant, ...] = ()
    shaded: tuple[Shaded, ...] = ()

    @property
    def name(self) -> str:
        """`target, seed s`."""
        return fold_name(self.targets, self.seed)


def fold_name(targets: tuple[str, ...], seed: int) -> str:
    """What tables call a fold; one that holds nothing out is `nothing held out`."""
    return f"{'+'.join(targets) or 'nothing held out'}, seed {seed}"


class Pair(Record):
    """Two domains: the squared distance of their means, what chance alone gives, and the permutation test."""

    first: str
    second: str
    distance: float
    expected: float
    """Mean of the same distance over permutations of which image is of which domain."""
    p_value: float


class Divergence(Record):
    """Linear MMD² between domains, of images or of chains."""

    encoder: str
    of: Literal["images", "chains", "class words", "descriptive words"]
    source: Literal["teacher", "self"] | None
    samples: int
    permutations: int
    mean: float
    """Over the pairs."""
    pairs: tuple[Pair, ...]


class Setting(Record):
    """One value of what is varied: the accuracy with it, and its difference from the value named `against`."""

    value: str
    method: str
    answer: str
    units: int
    """Targets times seeds."""
    accuracy: Estimate
    against: str | None
    points: Estimate | None
    """Paired difference in points, over the same images."""
    p_value: float | None


class Sensitivity(Record):
    """How much a setting matters: rounds of one run, or the config keys in which several runs differ."""

    setting: str
    rows: tuple[Setting, ...]


class Missing(Record):
    """What could not be measured, and why; `analysis` is that which lacks it, as `--what` calls it."""

    what: str
    why: str
    analysis: str = ""


class Analysis(Record):
    """The whole file."""

    schema_version: int = SCHEMA
    dataset: str
    model: str
    drawn: bool
    limit: int
    """Images of a fold that were looked at, at most."""
    conclusions_of: tuple[str, ...] | None = None
    """Methods whose conclusions were tampered with; None: all that write chains."""
    classes: tuple[str, ...]
    folds: tuple[Fold, ...]
    divergence: tuple[Divergence, ...] = ()
    sensitivity: tuple[Sensitivity, ...] = ()
    missing: tuple[Missing, ...] = ()


def read_analysis(path: Path) -> Analysis | None:
    """The analysis in a file, None where there is none. Raises ThroughlineError for one that cannot be read."""
    if not path.is_file():
        return None
    try:
        return Analysis.model_validate_json(path.read_text())
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise ThroughlineError(
            f"the analysis cannot be read (of another version, or damaged): {first}",
            path,
            "run `throughline analyze` again",
        ) from None
