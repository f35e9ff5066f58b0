"""Chain formats: which stages a chain has, how they are tagged, and where the answer is. The describer, the
prompts and the parser all read the same three constants, so that a rendered chain always parses back."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from throughline.core.errors import ThroughlineError


@dataclass(frozen=True)
class ChainFormat:
    """The stages of a chain in order, by the names of their tags."""

    name: str
    stages: tuple[str, ...]
    answer_stage: str
    """The stage that names the class; one of `stages`."""
    answer_is_tail: bool = False
    """The answer stage carries no tags: it is the text after the last tagged stage."""

    def __post_init__(self) -> None:
        if self.answer_stage not in self.stages:
            raise ValueError(f"answer stage {self.answer_stage!r} is none of {self.stages}")
        if self.answer_is_tail and self.stages[-1] != self.answer_stage:
            raise ValueError("only the last stage can be an untagged tail")

    @property
    def tagged_stages(self) -> tuple[str, ...]:
        """The stages that are written between tags."""
        return self.stages[:-1] if self.answer_is_tail else self.stages

    @property
    def answer_index(self) -> int:
        """Where in `stages` (and in a chain's texts) the answer stands."""
        return self.stages.index(self.answer_stage)


FIVE_STAGE = ChainFormat(
    "five_stage", ("SUMMARY", "CAPTION", "REASONING", "REFLECTION", "CONCLUSION"), answer_stage="CONCLUSION"
)
"""DomainBed-Reasoning (arXiv 2602.23777); the default."""

FOUR_STAGE = ChainFormat("four_stage", ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION"), answer_stage="CONCLUSION")
"""LLaVA-CoT (arXiv 2411.10440)."""

THINK_ANSWER = ChainFormat("think_answer", ("think", "answer"), answer_stage="answer", answer_is_tail=True)
"""`<think> … </think>`, then a sentence that names the class."""

FORMATS: dict[str, ChainFormat] = {format.name: format for format in (FIVE_STAGE, FOUR_STAGE, THINK_ANSWER)}


@dataclass(frozen=True)
class Chain:
    """One chain: a text per stage, in the format's order. Texts are stripped of outer whitespace."""

    format: ChainFormat
    stages: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.stages) != len(self.format.stages):
            raise ValueError(f"{self.format.name} has {len(self.format.stages)} stages, not {len(self.stages)}")
        object.__setattr__(self, "stages", tuple(text.strip() for text in self.stages))

    def stage(self, name: str) -> str:
        """The text of the stage called `name`; ValueError when the format has none of that name."""
        return self.stages[self.format.stages.index(name)]

    @property
    def answer(self) -> str:
        """The text of the answer stage."""
        return self.stages[self.format.answer_index]


@lru_cache(maxsize=32)
def tag_pattern(format: ChainFormat) -> re.Pattern[str]:
    """Matches one tag of the format in any case; groups `closing` ("/" or "") and `stage`. Linear time.

    Whitespace inside the angle brackets is tolerated. Quantifiers are possessive, so that a megabyte of
    blanks after "<" is read once; the ASCII flag keeps letters such as "ſ" from counting as "S".
    """
    names = "|".join(re.escape(name) for name in format.tagged_stages)
    return re.compile(rf"<\s*+(?P<closing>/?+)\s*+(?P<stage>{names})\s*+>", re.IGNORECASE | re.ASCII)


def without_tags(text: str, format: str) -> str:
    """The text with blanks for the tags of the format called so; as it is where no format is."""
    return tag_pattern(FORMATS[format]).sub(" ", text) if format in FORMATS else text


def render_chain(chain: Chain) -> str:
    """The chain as text: `<STAGE> text </STAGE>`, one stage a line, an untagged answer last.

    Raises ThroughlineError for a text that would not parse back: an empty stage, or one holding a tag of its
    own format.
    """
    format, texts = chain.format, dict(zip(chain.format.stages, chain.stages, strict=True))
    for name, text in texts.items():
        if not text:
            raise ThroughlineError("an empty stage cannot be rendered", f"{format.name}: {name}", "give it a text")
        tag = tag_pattern(format).search(text)
        if tag is not None:
            raise ThroughlineError(
                f"the text of a stage has the tag {tag.group()!r}", f"{format.name}: {name}", "remove it"
            )
    return between_tags(format, texts)


def between_tags(format: ChainFormat, texts: Mapping[str, str]) -> str:
    """Texts by the name of their stage as a chain has them; stages without a text leave no tag either."""
    lines = [f"<{name}> {texts[name]} </{name}>" for name in format.tagged_stages if name in texts]
    return "\n".join([*lines, texts[format.answer_stage]] if format.answer_is_tail else lines)
