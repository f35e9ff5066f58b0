"""Chains that cannot leave their format: before each draw, the tokens that no well-formed chain could go on with are
forbidden. llguidance keeps one matcher a sequence and says which tokens those are; `sampling` asks it at every step.

A finished text then has all stages, in order, none empty and nothing around them. What stands in a stage is free, but
for the sign `<`. A chain may still be cut off by the limit of its tokens, which is no business of the grammar.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from throughline.chains.formats import ChainFormat
from throughline.core.errors import ThroughlineError
from throughline.core.settings import SamplingSettings
from throughline.mllm.chat import Chat

if TYPE_CHECKING:
    from llguidance import LLMatcher

BLANKS = r"[ \t\r\n]{0,4}"
"""Between tags, as `render_chain` and most models break lines; bounded, or a model could go on with nothing else."""

STAGE_TEXT = r"[^<]*[^<\s\x1c-\x1f][^<]*"
"""No tag, and something that Python's `strip` leaves standing."""


def format_regex(chain_format: ChainFormat) -> str:
    """What a well-formed chain looks like: tags letter for letter, each stage with a text."""
    stages = [f"<{name}>{STAGE_TEXT}</{name}>" for name in map(re.escape, chain_format.tagged_stages)]
    tail = [STAGE_TEXT] if chain_format.answer_is_tail else []
    return BLANKS + BLANKS.join(stages + tail) + ("" if tail else BLANKS)


class StageConstraint:
    """The grammar of one format in the tokens of one checkpoint; made once, `start`ed for every batch.

    Raises ThroughlineError where llguidance is missing, or the checkpoint has no fast tokenizer.
    """

    def __init__(self, chat: Chat, chain_format: ChainFormat) -> None:
        if importlib.util.find_spec("llguidance") is None:
            raise ThroughlineError(
                "constrained chains need the package llguidance", None, "pip install throughline[constrained]"
            )
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        try:
            vocabulary = from_tokenizer(chat.tokenizer, eos_token=chat.end_of_turn_id)
        except ValueError as error:
            raise ThroughlineError(
                f"constrained chains need a fast tokenizer ({error})", chain_format.name, "leave `constrained` off"
            ) from error
        self.tokens: int = vocabulary.vocab_size
        self._first = LLMatcher(vocabulary, LLMatcher.grammar_from_regex(format_regex(chain_format)))
        _require_sound(self._first)

    def start(self, count: int) -> Matchers:
        """Matchers of `count` sequences, none of which has said anything yet."""
        return Matchers([self._first.deep_copy() for _ in range(count)], self.tokens)


class Matchers:
    """How far each sequence of a batch has come in the grammar. `tokens` is the size of the tokenizer's vocabulary."""

    def __init__(self, matchers: Sequence[LLMatcher], tokens: int) -> None:
        self._matchers, self._tokens = matchers, tokens

    def mask(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Sets the logits of forbidden tokens to -inf, in place.

        `logits` is `(len(rows), vocabulary)`, for the sequences numbered `rows`. A model's vocabulary may be larger
        than its tokenizer's: what no text stands for is forbidden too.
        """
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        words = allocate_token_bitmask(len(rows), self._tokens)  # (rows, tokens / 32), a bit for each token
        for place, row in enumerate(rows):
            fill_next_token_bitmask(self._matchers[row], words, place)
            _require_sound(self._matchers[row])
        # Spread on the device, so that an eighth of the bytes travels there.
        bits = 2 ** torch.arange(8, dtype=torch.uint8, device=logits.device)
        allowed = (torch.from_numpy(words.view(np.uint8)).to(logits.device)[..., None] & bits).flatten(1)
        known = min(self._tokens, logits.shape[1])
        logits[:, :known].masked_fill_(allowed[:, :known] == 0, -torch.inf)
        logits[:, known:] = -torch.inf

    def accept(self, row: int, token: int) -> None:
        """Sequence `row` goes on with `token`, one that `mask` has left to it; the end of the turn is one too."""
        self._matchers[row].consume_token(token)
        _require_sound(self._matchers[row])


def constraint_of(settings: SamplingSettings, chat: Chat, chain_format: ChainFormat) -> StageConstraint | None:
    """What `sampling.sample` is to be given under these settings."""
    return StageConstraint(chat, chain_format) if settings.constrained else None


def _require_sound(matcher: LLMatcher) -> None:
    """llguidance raises nothing: a matcher at fault stays there, and its mask would end the turn."""
    if matcher.is_error():
        raise RuntimeError(f"llguidance: {matcher.get_error()}")
