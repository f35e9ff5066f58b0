"""The two sides of `bench sample`: continuations of given lengths through `sample` and through `generate`.

Random weights end no turn, so the lengths are forced, on both sides by what costs nothing: ours by limits, the rival's
by a stopping criterion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList

from throughline.benchmarks.plain import Inputs, encode, render
from throughline.benchmarks.timing import machine_settings
from throughline.benchmarks.workload import class_list, drawn_pictures
from throughline.core.errors import ThroughlineError
from throughline.core.settings import SamplingSettings
from throughline.mllm.chat import Path, user_turn
from throughline.mllm.geometries import GEOMETRIES
from throughline.mllm.load import Mllm
from throughline.mllm.sampling import sample
from throughline.questions.question_set import make_question_set

CACHES = ("dynamic", "static")
"""What `generate` documents as `cache_implementation`, where it runs on any device."""


@dataclass(frozen=True, eq=False)
class SampleWork:
    """One prompt, ready for both sides; `settings` say what it is."""

    geometry: str
    mllm: Mllm
    ours: Path
    rival: Inputs
    settings: dict[str, Any]


def make_sample_work(mllm: Mllm, geometry: str, classes: int) -> SampleWork:
    """The reasoning question about a drawn image; pixel values are made here, of the same pixels, by each side's own
    call of the processor."""
    (picture,) = drawn_pictures(1, GEOMETRIES[geometry].image_size)
    question = make_question_set(class_list(classes)).reasoning
    ours = mllm.chat.prompt(user_turn(question), [mllm.chat.encode_image(picture, "picture")])
    rival = encode(mllm.chat.processor, render(mllm.chat.processor, question), [picture])
    settings = {
        "geometry": geometry,
        "classes": classes,
        **machine_settings(mllm.model),
        "tokens_prompt": len(ours.tokens),
        "outside_timing": "pixel values and tokens of both sides",
    }
    return SampleWork(geometry, mllm, ours, rival, settings)


def vocabulary(mllm: Mllm) -> int:
    """Rows of the embedding: the first id that is no token."""
    return int(mllm.model.config.get_text_config().vocab_size)


# ours -----------------------------------------------------------------------------------------------------------------


def sample_ours(work: SampleWork, lengths: Sequence[int]) -> None:
    """One call of `sample` with continuations of these lengths. Raises ThroughlineError when others came of it."""
    settings = SamplingSettings(temperature=1.0, max_new_tokens=max(lengths))
    generators = [np.random.default_rng(seed) for seed in range(len(lengths))]
    never = {vocabulary(work.mllm)}
    (continuations,) = sample(work.mllm, [work.ours], settings, [generators], limits=[lengths], stop=never)
    written = tuple(len(continuation.tokens) for continuation in continuations)
    if written != tuple(lengths):
        raise ThroughlineError(
            f"continuations of {written} tokens where {tuple(lengths)} were to be written",
            work.geometry,
            "no time of it counts: report it",
        )


# the rival ------------------------------------------------------------------------------------------------------------


class EndAt(StoppingCriteria):  # type: ignore[misc]  # transformers comes in as Any
    """Ends each row at its own number of new tokens."""

    def __init__(self, prompt: int, lengths: Sequence[int]) -> None:
        self._ends = torch.tensor(lengths) + prompt

    def __call__(self, input_ids: Tensor, scores: Any, **rest: Any) -> Tensor:
        """`(rows,)`: which rows have as many tokens as they get."""
        return self._ends <= input_ids.shape[1]


def generate_sequences(work: SampleWork, lengths: Sequence[int], cache: str = "dynamic") -> Tensor:
    """`(K, longest)` tokens of one call of `generate`, which encodes the image once and computes the prompt K times;
    rows that have ended are padded."""
    options = {} if cache == "dynamic" else {"cache_implementation": cache}
    return draw_plainly(work.mllm, work.rival, lengths, num_return_sequences=len(lengths), **options)


@torch.no_grad()
def generate_on_prefix(work: SampleWork, lengths: Sequence[int]) -> Tensor:
    """The same on a cache that holds the prompt: filled once, its last token taken off again for `generate` to start
    from, copied for every row."""
    ids, copies = work.rival["input_ids"], len(lengths)
    cache = DynamicCache(config=work.mllm.model.config)
    work.mllm.model(
        input_ids=ids,
        pixel_values=work.rival["pixel_values"],
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.crop(-1)
    cache.batch_repeat_interleave(copies)
    rows = {name: work.rival[name].repeat(copies, 1) for name in ("input_ids", "attention_mask")}
    return draw_plainly(work.mllm, rows, lengths, past_key_values=cache)


def draw_plainly(mllm: Mllm, prompt: Inputs, lengths: Sequence[int], **options: Any) -> Tensor:
    """`(rows, longest)` new tokens, drawn from the whole softmax. A token outside the vocabulary ends the turn, so that
    none does; rows end at their lengths."""
    start = prompt["input_ids"].shape[1]
    if len(set(lengths)) > 1:
        options["stopping_criteria"] = StoppingCriteriaList([EndAt(start, lengths)])
    out = mllm.model.generate(
        **prompt,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=max(lengths),
        eos_token_id=vocabulary(mllm),
        pad_token_id=mllm.chat.pad_id,
        **options,
    )
    return torch.as_tensor(out)[:, start:]
