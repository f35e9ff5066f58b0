"""The three kinds of line in a chain journal, as typed records: what was asked for and how (header), what came back
(candidate), what a rule made of it (verdict). `journal` writes and reads them, `store` folds them; teachers,
self-labelling and dataset building make them. A candidate carries no label: labels are joined from the image folder
when verdicts are made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from throughline.chains.formats import ChainFormat
from throughline.chains.outcomes import Outcome
from throughline.core.files import canonical_json, content_hash

FAILED = "error"
"""The finish reason of a request that never got an answer; the candidate's text says why."""
JUDGE = "judge"
"""The rule of verdicts that a judge model gave."""

SCHEMA = 1
"""Raised when a line of today could no longer be read by yesterday's reader in yesterday's meaning."""


def _is_none(value: object) -> bool:
    return value is None


class _Record(BaseModel):
    # Unknown fields are kept: a journal of a later minor version survives being copied by this one.
    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    created: str | None = None
    """ISO 8601 in UTC, handed in by whoever owns the clock; None where results must not depend on the date."""

    def line(self) -> str:
        """This record as one line of JSON, without the line break."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))


class Header(_Record):
    """The class list, format and prompts behind the hashes that candidates carry, and where the images are."""

    kind: Literal["header"] = "header"
    classes: tuple[str, ...]
    classes_sha256: str
    format: str
    """A key of `formats.FORMATS`."""
    prompts: dict[str, str]
    """SHA-256 → the question's text; holds every `prompt_sha256` of the journal's candidates."""
    images: str | None = None
    """The image folder as the user named it; readers may be told another one."""


class Usage(BaseModel):
    """What one candidate took, as its source reports it; None for what it does not report."""

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = Field(default=None, allow_inf_nan=False)
    """In US dollars."""


class Candidate(_Record):
    """One generated text for one image."""

    kind: Literal["candidate"] = "candidate"
    key: str
    """`candidate_key` of the request: the same request is never made twice."""
    sample_id: str
    image_sha256: str
    domain: str
    classes_sha256: str
    format: str
    source: str
    """What kind of generator: "describer", "endpoint", "local" or "self"."""
    model: str
    round: int = 0
    """Of self-labelling; 0 for a teacher."""
    prompt_sha256: str
    params: dict[str, Any] = Field(default_factory=dict)
    """Sampling parameters (temperature, top_p, …)."""
    seed: int | None = None
    candidate: int = 0
    """Which of the image's candidates, from 0."""
    text: str
    finish_reason: str | None = None
    usage: Usage | None = None

    @property
    def failed(self) -> bool:
        """No answer came back: nothing was paid for, and the request may be made again."""
        return self.finish_reason == FAILED

    def copied_for(self, sample_id: str, domain: str) -> Candidate:
        """This candidate for a second sample with the same image bytes: no new request, so no usage."""
        return self.model_copy(update={"sample_id": sample_id, "domain": domain, "usage": None})


class Verdict(_Record):
    """What one rule made of one candidate. `accepted` can be false with outcome ok: see `rules`."""

    kind: Literal["verdict"] = "verdict"
    key: str
    sample_id: str
    rule: str
    outcome: Outcome
    accepted: bool
    basis: str | None = Field(default=None, exclude_if=_is_none)
    """Of one of our rules: what it was judged under, see `verdicts.basis_of`."""
    model: str | None = Field(default=None, exclude_if=_is_none)
    """Of a judge: the model that gave it."""
    usage: Usage | None = Field(default=None, exclude_if=_is_none)
    """Of a judge: what it took; None for a copy."""

    @property
    def result(self) -> str:
        """`accepted`, `rejected_class` for a well-formed chain that concludes in another class, or else the fault."""
        return "accepted" if self.accepted else "rejected_class" if self.outcome == Outcome.OK else self.outcome


Record = Header | Candidate | Verdict

KINDS: dict[str, type[Record]] = {"header": Header, "candidate": Candidate, "verdict": Verdict}


def classes_sha256(classes: Sequence[str]) -> str:
    """SHA-256 (hex) of a class list, order included."""
    return content_hash(list(classes))


def prompt_sha256(prompt: str) -> str:
    """SHA-256 (hex) of one question's UTF-8 text, as candidate lines carry it."""
    return hashlib.sha256(prompt.encode()).hexdigest()


def make_header(
    classes: Sequence[str],
    format: ChainFormat,
    prompts: Sequence[str],
    images: str | None = None,
    created: str | None = None,
) -> Header:
    """The header line for a class list and the texts of its questions."""
    return Header(
        classes=tuple(classes),
        classes_sha256=classes_sha256(classes),
        format=format.name,
        prompts={prompt_sha256(prompt): prompt for prompt in prompts},
        images=images,
        created=created,
    )


def candidate_key(
    image_sha256: str,
    prompt_sha256: str,
    model: str,
    params: dict[str, Any],
    seed: int | None,
    candidate: int,
) -> str:
    """SHA-256 (hex) of everything that the generated text depends on: equal keys are the same request."""
    return content_hash([image_sha256, prompt_sha256, model, params, seed, candidate])
