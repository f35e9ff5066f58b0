"""Who writes chains: one protocol, and the drawn world's describer behind it. A teacher never sees a label.

`Brief` is what all requests to a teacher have in common; with an image and a candidate's number it makes the key by
which a request is known for ever. `building` asks; `endpoint` and `local` are the teachers that can see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from throughline.chains.formats import ChainFormat
from throughline.chains.records import Candidate, Header, candidate_key, prompt_sha256
from throughline.core.errors import ThroughlineError
from throughline.core.files import canonical_json, content_hash
from throughline.domains.samples import Sample
from throughline.questions.prompt import Prompt, PromptMaker
from throughline.questions.sampler import Reply


@dataclass(frozen=True)
class Brief:
    """What a teacher gets apart from the sample: all that its answers depend on, and nothing else.

    Where it is asked, how fast and by how many at once is no part of it.
    """

    source: str
    """What kind of teacher: "describer", "endpoint" or "local"."""
    model: str
    prompt: str | Prompt
    """The question that follows the sample's image, class list included. Or a whole prompt: where it has more places of
    images than images, the last places are the sample's."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Sampling parameters and how images are sent."""
    seed: int = 0
    own: PromptMaker | None = None
    """Makes the prompts where they differ in more than the image. `prompt` is then the first of them, and a sample's
    `image_sha256` has to tell its prompt from all others."""

    @cached_property
    def _template(self) -> Prompt:
        return _image_then(self.prompt) if isinstance(self.prompt, str) else self.prompt

    @cached_property
    def _places_of_sample(self) -> int:
        kinds = [part["type"] for message in self._template.messages for part in message["content"]]
        return kinds.count("image") - len(self._template.images)

    @cached_property
    def wording(self) -> str:
        """The prompt without its images, as journal headers carry it: the question behind the one image, or else the
        messages as JSON."""
        messages, text = self._template.messages, self._template.text
        return text if messages == _image_then(text).messages else canonical_json(list(messages))

    @cached_property
    def prompt_sha256(self) -> str:
        """SHA-256 (hex) of the wording, as candidate lines carry it."""
        return prompt_sha256(self.wording)

    def prompt_about(self, sample: Sample) -> Prompt:
        """The prompt with the sample's image in it."""
        if self.own is not None:
            return self.own(sample)
        return Prompt(self._template.messages, self._template.images + (sample,) * self._places_of_sample)

    def key(self, image_sha256: str, candidate: int) -> str:
        """The key of one request about a sample with this image: equal keys are the same request, whatever the image is
        called. A prompt that has not exactly one image is known by the hash of the list of its images' hashes."""
        images = [image.image_sha256 for image in self._template.images] + [image_sha256] * self._places_of_sample
        images_sha256 = images[0] if len(images) == 1 else content_hash(images)
        return candidate_key(images_sha256, self.prompt_sha256, self.model, dict(self.params), self.seed, candidate)

    def candidate(self, header: Header, sample: Sample, number: int, reply: Reply, **more: Any) -> Candidate:
        """The journal's line for the `number`-th reply about a sample, under the header that explains it; `more` are
        fields that not every source has."""
        return Candidate(
            key=self.key(sample.image_sha256, number),
            sample_id=sample.id,
            image_sha256=sample.image_sha256,
            domain=sample.domain,
            classes_sha256=header.classes_sha256,
            format=header.format,
            source=self.source,
            model=self.model,
            prompt_sha256=self.prompt_sha256,
            params=dict(self.params),
            seed=self.seed,
            candidate=number,
            text=reply.text,
            finish_reason=reply.finish_reason,
            usage=reply.usage,
            **more,
        )


def _image_then(text: str) -> Prompt:
    """A place for an image, and a text behind it."""
    return Prompt(({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]},))


class Flight:
    """Is told which requests are under way. This one notes nothing; `in_flight` counts those lost by a kill."""

    def sent(self, key: str) -> None:
        """The request is on its way and may be paid for."""

    def returned(self, key: str) -> None:
        """It came to nothing (refused, broken) or its answer is on disk."""


@dataclass(frozen=True)
class Request:
    """A request for the `candidate`-th chain about a sample."""

    sample: Sample
    prompt: Prompt
    candidate: int
    key: str
    flight: Flight
    proven: bool = False
    """The store holds answers to this brief: its form is right."""


class Teacher(Protocol):
    """Writes chains; the same request with another number is an independent attempt of the same kind."""

    brief: Brief
    """What it gets besides the sample."""
    batch: int
    """How many requests it takes in one call."""
    at_once: int
    """How many calls may be under way at the same time."""

    async def write(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """A reply to each request, in order.

        ThroughlineError when no further request can go well: a wrong key, an unknown model, an image it cannot know.
        """
        ...


class Describer:
    """The drawn world's own teacher: it gets parts, colours and setting from `scenes.jsonl`, never the class."""

    batch = 1
    at_once = 1

    def __init__(
        self, root: Path, format: ChainFormat, prompt: str, seed: int, part_mistakes: float | None = None
    ) -> None:
        mistakes = {} if part_mistakes is None else {"part_mistakes": part_mistakes}
        self.brief = Brief("describer", "describer", prompt, mistakes, seed)
        from throughline.drawn.describer import DescriberSettings
        from throughline.drawn.scenes import read_scenes  # brings numpy, which a look at options does without

        self._format, self._settings = format, DescriberSettings(**mistakes)
        self._scenes = read_scenes(root)

    async def write(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Descriptions of the scenes behind the images."""
        from throughline.drawn.describer import describe

        replies, seed = [], self.brief.seed
        for number, name in ((request.candidate, request.sample.id) for request in requests):
            if name not in self._scenes:
                raise ThroughlineError("the describer knows drawn images only", name, "use another teacher")
            scene = self._scenes[name]
            text = describe(
                scene, seed=seed, sample_id=name, candidate=number, format=self._format, settings=self._settings
            )
            replies.append(Reply(text, "stop"))
        return replies
