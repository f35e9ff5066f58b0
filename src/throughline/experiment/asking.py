"""How a finished model is asked, typed: about which images, behind which examples. Free of torch.

A factor that only sets keys of these trains nothing: `plan` has a method trained once for all of its levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, read_json_lines
from throughline.core.settings import AnswerSettings, LocalPath, Settings, as_list
from throughline.domains.samples import Sample, balanced, composed
from throughline.domains.views import View, remade, view_of


def _named(value: Any) -> Any:
    """A domain called 15 is the name "15": YAML reads it as a number. Names are composed, as those of folders."""
    listed = as_list(value)
    if not isinstance(listed, list):
        return listed
    return [composed(str(item)) if type(item) in {int, float, str} else item for item in listed]


Words = Annotated[tuple[str, ...], BeforeValidator(_named), Field(min_length=1)]


class SampleConfig(Settings):
    """Some images of each target: the same ones for every method, model and seed."""

    per_class: int = Field(ge=1)
    """Images of each class and domain, all where there are fewer."""
    seed: int = Field(default=0, ge=0)
    """Seed of the choice."""


class ViewConfig(Settings):
    """The images asked about with their pixels changed: corrupted, distorted or partly covered."""

    kind: str
    """As `throughline data corrupt` names them, e.g. fog."""
    severity: float
    """1 to 5, whole; of occlusions, `crop` and `diffusion_noise` the share of the image that is taken away, 0 to 1."""
    seed: int = Field(default=0, ge=0)
    """Seed of what is random in it."""

    @model_validator(mode="after")
    def _there_is_one(self) -> ViewConfig:
        try:
            View(self.kind, self.severity, self.seed)
        except ThroughlineError as error:
            raise ValueError(f"{error.what}: {error.do}") from None
        return self


class ExamplesConfig(Settings):
    """Labelled examples that stand before the question (in-context learning). No image is one that is asked about, or
    of the group of one."""

    shots: int = Field(ge=0)
    """Number of examples. With fewer shots and the same seed they are the beginning of the same choice."""
    domains: Literal["target", "sources"] | Words = "target"
    """Where examples come from: the target domain, of which `sample` leaves images to choose from; all others; or
    domains by name."""
    choice: Literal["random", "spread", "nearest"] = "random"
    """`random` takes the classes in turn. `spread` takes images that are unlike one another, and `nearest` for each
    question those most like the image asked about, both by the projected features of the model's own vision tower."""
    shares: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Label shift: classes with their shares of the examples, e.g. `{cup: 3, bowl: 1}`; by default all alike."""
    spurious: float = Field(default=0.0, ge=0, le=1)
    """Spurious correlation: share of the examples whose domain goes with their class."""
    labels: Literal["true", "shuffled"] = "true"
    """`shuffled` is a control: each example has the label of another one."""
    pictures: bool | Literal["blank"] = True
    """False is a control: examples without their images. So is `blank`: grey images of the same size."""
    layout: Literal["interleaved", "ordinal"] = "interleaved"
    """`interleaved`: a turn of the user and one of the assistant for each example. `ordinal`: all images in one turn,
    then `Image 1 is: cup.`"""
    seed: int = Field(default=0, ge=0)
    """Seed of the choice."""
    order: int = Field(default=0, ge=0)
    """Seed of the order; 0 leaves the order of the choice."""
    vote: int | None = Field(default=None, ge=1)
    """A control that asks no model: the class of most of so many examples, those nearest to the image by the projected
    features of the model's own vision tower."""
    epochs: float | None = Field(default=None, gt=0)
    """A control that shows no examples: an adapter is trained on their labels (`cls`) for so many epochs, and asked."""

    @model_validator(mode="after")
    def _drawn(self) -> ExamplesConfig:
        if self.choice != "random" and (self.shares or self.spurious or self.epochs):
            raise ValueError(f"shares, spurious and epochs draw at random: leave them out, or choice {self.choice}")
        if self.shares and not sum(self.shares.values()):
            raise ValueError("shares are all 0: give one class at least a part")
        return self


class EvaluationConfig(Settings):
    """How finished units are tested; always on the target's `in`, `out` and `all` splits."""

    answering: AnswerSettings = AnswerSettings()
    """How the model is asked."""
    sample: SampleConfig | None = None
    """Images to ask about; all by default."""
    view: ViewConfig | None = None
    """A view of the images asked about; by default they are shown as they are. Examples and training images are."""
    made: LocalPath = None
    """A folder of images that were made from those asked about, by the same paths, and are shown in their place."""
    misled: Literal["hint", "another_image"] | None = None
    """Controls: a hint at a wrong class before the question, or the image of another class in the place of the own."""
    begun: LocalPath = None
    """A JSONL file of `sample_id` and `text`: what the answer to the reasoning question begins with, whatever the model
    would say. It goes on from there, and what is read is the whole."""
    described: bool = False
    """Ask about `questions.descriptions`, each in the place of an image, instead of images: does the model know what
    the words mean?"""
    options: Literal["fixed", "shuffled"] = "fixed"
    """Order of the classes in the question: that of the class list, or one for each image, drawn from the unit's seed
    and the image's id."""
    examples: ExamplesConfig | None = None
    """Labelled examples before the question; none by default."""
    selection: Literal["last", "validation"] = "last"
    """Use the last checkpoint, or the one that is best on the `out` splits of the source domains (open in the
    paper)."""

    @property
    def shows_more(self) -> bool:
        """Whether a question shows more than an image: examples, a chain that is begun, or words in its place."""
        return self.described or self.begun is not None or bool(self.examples and self.examples.shots)

    @property
    def few_shot_epochs(self) -> float | None:
        """Epochs of an adapter that the examples train instead of being shown; None where they are shown."""
        return self.examples.epochs if self.examples is not None and self.examples.shots else None

    @property
    def shots(self) -> int:
        """Labelled examples that stand before each question: none where they vote, or train an adapter."""
        shown = self.examples
        return 0 if shown is None or self.described or shown.vote or shown.epochs else shown.shots

    @model_validator(mode="after")
    def _free_to_begin(self) -> EvaluationConfig:
        if self.begun is not None and self.answering.constrained:
            raise ValueError("a chain that is begun cannot be constrained: leave answering.constrained out")
        return self

    @property
    def needs_weights(self) -> bool:
        """Whether an endpoint cannot be asked so: examples may need more of a model than its answers, and it begins its
        answers itself."""
        shown = self.examples
        return self.begun is not None or (
            shown is not None and (shown.choice != "random" or bool(shown.vote or shown.epochs))
        )

    def chosen(self, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        """Those of a target's samples that are asked about."""
        return tuple(samples) if self.sample is None else balanced(samples, self.sample.per_class, self.sample.seed)

    def asked(self, samples: Sequence[Sample]) -> tuple[Sample, ...]:
        """Those of a target's samples that are asked about, as they are shown."""
        asked = self.chosen(samples)
        if self.made is not None:
            asked = tuple(remade(sample, Path(self.made)) for sample in asked)
        if self.view is None:
            return asked
        view = View(self.view.kind, self.view.severity, self.view.seed)
        return tuple(view_of(sample, view) for sample in asked)

    def beginnings(self) -> dict[str, str]:
        """What answers begin with, by sample id; ThroughlineError for a file that cannot be read as such."""
        if self.begun is None:
            return {}
        try:
            return {row["sample_id"]: row["text"] for row in read_json_lines(Path(self.begun))}
        except (OSError, KeyError) as error:
            what = f"no file of beginnings ({error})"
            raise ThroughlineError(what, self.begun, "write lines of sample_id and text") from None

    def given(self, samples: Sequence[Sample]) -> dict[str, str]:
        """Hashes of what files give about a target's samples, by the key that names the files."""
        asked, texts = self.asked(samples), self.beginnings()
        made = {"made": content_hash([sample.image_sha256 for sample in asked])} if self.made is not None else {}
        return made | ({"begun": content_hash([texts.get(sample.id) for sample in asked])} if texts else {})
