"""Which texts are scored by which weights, and the file of each such pair: what is whole is not scored again."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from throughline.analysis.passages import Passages
from throughline.analysis.records import BASE, Source, State
from throughline.analysis.scoring import VERSION, Scorer
from throughline.analysis.tokens import read_tokens, write_tokens
from throughline.chains.names import Aliases
from throughline.core.files import content_hash, file_sha256, read_json_lines, write_json_lines
from throughline.domains.samples import Sample, spread
from throughline.domains.views import readable
from throughline.experiment.analyses.subject import Subject
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.lora import ADAPTER_WEIGHTS, load_adapter, put_adapter
from throughline.questions.prompt import ImageThenText
from throughline.questions.sampler import InProcessSampler, SamplingRequest
from throughline.questions.wording import class_name

if TYPE_CHECKING:
    import pandas as pd

OWN_CHAINS_VERSION = 2
"""Raised when the same base would write other chains."""

SHARDS = "analysis"
"""In the subject's folder."""

Say = Callable[[str], None]
"""Takes a line about what is under way."""


def given_passages(
    samples: Sequence[Sample], chains: Mapping[str, str], limit: int, names: Aliases
) -> tuple[tuple[Passages, ...], dict[str, str]]:
    """Images with a teacher's chain, `limit` of them spread over domains and classes: class and chain of each. All
    images, with their class alone, where there is no chain. Besides, what is wrong with images that cannot be read."""
    with_chain = [sample for sample in samples if sample.id in chains] or list(samples)
    good, broken = readable(spread(with_chain, limit))
    passages = []
    for sample in good:
        texts: dict[Source, str] = {"label": class_name(sample.label, names)}
        if sample.id in chains:
            texts["teacher"] = chains[sample.id]
        passages.append(Passages(sample, texts))
    return tuple(passages), broken


def own_passages(samples: Sequence[Sample], chains: Mapping[str, str], limit: int) -> tuple[Passages, ...]:
    """Images with a chain of the model's own."""
    with_chain = spread([sample for sample in samples if sample.id in chains], limit)
    return tuple(Passages(sample, {"self": chains[sample.id]}) for sample in with_chain)


@dataclass
class Weights:
    """Loads when it is first needed: what is on disk already needs no model."""

    load: Callable[[], Mllm]
    adapted: Any = field(default=None, init=False)

    @cached_property
    def mllm(self) -> Mllm:
        """The checkpoint."""
        return self.load()

    @cached_property
    def reader(self) -> ImageReader:
        """Images on their way into it."""
        return ImageReader(self.mllm.chat)

    @contextlib.contextmanager
    def at(self, adapter: Path | None) -> Iterator[Mllm]:
        """The model with the adapter in this folder; None is the base."""
        if adapter is not None and self.adapted is None:
            self.adapted = load_adapter(self.mllm.model, adapter)
        elif adapter is not None:
            put_adapter(self.adapted, adapter)
        off = self.adapted.disable_adapter() if adapter is None and self.adapted is not None else None
        with off or contextlib.nullcontext():
            yield self.mllm


@dataclass(frozen=True)
class Scoring:
    """A subject, the weights it is looked at with, and its shards. `say` takes lines that begin with `place`."""

    subject: Subject
    weights: Weights
    say: Say
    place: str = ""

    def of(self, subject: Subject, place: str = "") -> Scoring:
        """The same of another subject, with the weights that are loaded unless that one holds them otherwise."""
        weights = self.weights if subject.loading == self.subject.loading else Weights(subject.load)
        return Scoring(subject, weights, self.say, place)

    def scorer(self, mllm: Mllm) -> Scorer:
        """These weights with the subject's questions."""
        return Scorer(mllm, self.weights.reader, self.subject.questions)

    def tokens(self, state: State, passages: Sequence[Passages], what: str) -> pd.DataFrame:
        """The passages' tokens as `state` sees them; from disk where they were scored before."""
        content = [[p.sample.image_sha256, p.sample.id, sorted(p.texts.items())] for p in passages]
        path = self.shard(f"tokens-{what}", state, content, VERSION).with_suffix(".parquet")
        if not path.is_file():
            with self.weights.at(self.subject.adapter(state)) as mllm:
                write_tokens(path, self.scorer(mllm).score(passages, self.progress(state, what)))
        return read_tokens(path)

    def lines(
        self, what: str, state: State, content: object, version: int, measure: Callable[[Mllm], Iterable[Any]]
    ) -> list[dict[str, Any]]:
        """What `measure` makes of the weights of `state`; from disk where it did before."""
        path = self.shard(what, state, content, version).with_suffix(".jsonl")
        if not path.is_file():
            with self.weights.at(self.subject.adapter(state)) as mllm:
                write_json_lines(path, measure(mllm))
        return read_json_lines(path)

    def shard(self, what: str, state: State, content: object, version: int) -> Path:
        """A file name that changes with everything its numbers depend on."""
        adapter, prompts = self.subject.adapter(state), self.subject.questions
        inputs = {
            "version": version,
            "checkpoint": self.subject.checkpoint,
            "adapter": None if adapter is None else file_sha256(adapter / ADAPTER_WEIGHTS),
            "loading": list(self.subject.loading),
            "questions": [prompts.label, prompts.reasoning],
            "content": content,
        }
        name = f"{what}-{state.name.replace(' ', '-')}-{content_hash(inputs)[:12]}"
        return self.subject.folder / SHARDS / name

    def progress(self, state: State, what: str) -> Callable[[int, int], None]:
        """Progress as a line."""
        return lambda done, total: self.say(f"{self.place}{what}, {state.name}: {done}/{total} images")


def base_chains(scoring: Scoring, samples: Sequence[Sample], seed: int) -> dict[str, str]:
    """What the base writes about each image by its id, drawn as rounds draw; what was cut off is no chain."""
    settings = scoring.subject.self_labelling.model_copy(update={"constrained": False})
    content = [[image.id, image.image_sha256] for image in samples]
    inputs = [settings.model_dump(mode="json"), seed, content]

    def write(mllm: Mllm) -> Iterator[dict[str, str]]:
        size, sampler = scoring.subject.answering.batch, InProcessSampler(mllm, scoring.weights.reader)
        prompt = ImageThenText(scoring.subject.questions.reasoning)
        request = SamplingRequest(prompt, settings, seed, ("base's own chain",))
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        for drawn in itertools.chain.from_iterable(sampler.draw(request, batches)):
            if drawn.reply.finish_reason == "stop":
                yield {"sample_id": drawn.sample.id, "text": drawn.reply.text}

    rows = scoring.lines("chains-own", BASE, inputs, OWN_CHAINS_VERSION, write)
    return {row["sample_id"]: row["text"] for row in rows if row["text"]}
