"""Chains that stay in their format: before each draw, the tokens with which no well-formed chain can go on are
forbidden. llguidance keeps one matcher a sequence, which computes these tokens; `sampling` calls it at every step.

A finished text then has all stages, in order, none empty and nothing around them. The text of a stage is free, except
for the sign `<`. A chain may still be cut off by the limit on its tokens, which the grammar does not know.
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
from throughline.core.errors import ThroughlineError, extra
from throughline.core.settings import SamplingSettings
from throughline.mllm.chat import Chat

if TYPE_CHECKING:
    from llguidance import LLMatcher

BLANKS = r"[ \t\r\n]{0,4}"
"""Between tags, as `render_chain` and most models break lines. Bounded, so that a model cannot write nothing else."""

STAGE_TEXT = r"[^<]*[^<\s\x1c-\x1f][^<]*"
"""No tag, and at least one character that Python's `strip` does not remove."""


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
            raise ThroughlineError("constrained chains need the package llguidance", None, extra("constrained"))
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
        """Matchers of `count` empty sequences."""
        return Matchers([self._first.deep_copy() for _ in range(count)], self.tokens)


class Matchers:
    """How far each sequence of a batch has come in the grammar. `tokens` is the size of the tokenizer's vocabulary."""

    def __init__(self, matchers: Sequence[LLMatcher], tokens: int) -> None:
        self._matchers, self._tokens = matchers, tokens

    def mask(self, logits: Tensor, rows: Sequence[int]) -> None:
        """Sets the logits of forbidden tokens to -inf, in place.

        `logits` is `(len(rows), vocabulary)`, for the sequences numbered `rows`. A model's vocabulary may be larger
        than its tokenizer's: tokens without a text are forbidden too.
        """
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        words = allocate_token_bitmask(len(rows), self._tokens)  # (rows, tokens / 32), a bit for each token
        for place, row in enumerate(rows):
            fill_next_token_bitmask(self._matchers[row], words, place)
            _require_sound(self._matchers[row])
        # Spread on the device, so that an eighth of the bytes travels there.
        bits = 2 ** torch.arange(8, dtype=torch.uint8, device=logits.device)
        allowed = (torch.from_numpy(words.view(np.uint8)).to(logits.device)[..., None] & bits).flatten(1)
        width = min(self._tokens, logits.shape[1])
        logits[:, :width].masked_fill_(allowed[:, :width] == 0, -torch.inf)
        logits[:, width:] = -torch.inf

    def accept(self, row: int, token: int) -> None:
        """Appends `token` to sequence `row`: one that `mask` allowed, or the end of the turn where it did."""
        self._matchers[row].consume_token(token)
        _require_sound(self._matchers[row])


def constraint_of(settings: SamplingSettings, chat: Chat, chain_format: ChainFormat) -> StageConstraint | None:
    """The constraint to pass to `sampling.sample` under these settings."""
    return StageConstraint(chat, chain_format) if settings.constrained else None


def _require_sound(matcher: LLMatcher) -> None:
    """llguidance raises no errors: a failed matcher stays failed, and its mask would end the turn."""
    if matcher.is_error():
        raise RuntimeError(f"llguidance: {matcher.get_error()}")
