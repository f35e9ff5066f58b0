"""The two sides of `bench sample`, continuations of given lengths through `sample` and through `generate`, and what
both must agree on before they are timed: greedy tokens, and that draws follow the model's own softmax.

Random weights end no turn, so the lengths are forced, on both sides by what costs nothing: ours by limits, the rival's
by a stopping criterion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from throughline.benchmarks.plain import Inputs, encode, prefilled, render
from throughline.benchmarks.timing import machine_settings
from throughline.benchmarks.workload import class_list, drawn_pictures
from throughline.core.errors import ThroughlineError
from throughline.core.settings import SamplingSettings
from throughline.mllm.chat import Path, user_turn
from throughline.mllm.geometries import GEOMETRIES
from throughline.mllm.load import Mllm
from throughline.mllm.prefix import CACHE
from throughline.mllm.sampling import sample
from throughline.questions.question_set import make_question_set

CACHES = ("dynamic", "static")
"""What `generate` documents as `cache_implementation`, where it runs on any device."""

TIE = 1e-4
"""Two best logits nearer than this may change places between two ways of computing them."""

LEAST_P = 1e-3
"""A fair sampler fails the chi-square test with one seed in a thousand; the seeds are fixed."""

CELLS = 50
"""Of the chi-square test: 2,000 draws put 40 into each."""

SHORT_QUESTION = "What type of object is in this photo?"
"""Of the chi-square test, without an image: `generate` computes the prompt anew for every draw."""


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


# ours ---------------------------------------------------------------------------------------------------------------


def sample_ours(work: SampleWork, lengths: Sequence[int]) -> None:
    """One call of `sample` with continuations of these lengths. Raises ThroughlineError when others came of it."""
    settings = SamplingSettings(temperature=1.0, max_new_tokens=max(lengths))
    generators = [np.random.default_rng(seed) for seed in range(len(lengths))]
    never = {vocabulary(work.mllm)}
    (continuations,) = sample(work.mllm, [work.ours], settings, [generators], limits=[lengths], stop=never)
    written = tuple(len(continuation.tokens) for continuation in continuations)
    if written != tuple(lengths):
        what = f"continuations of {written} tokens where {tuple(lengths)} were to be written"
        raise ThroughlineError(what, work.geometry, "no time of it counts: report it")


# the rival ----------------------------------------------------------------------------------------------------------


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
    copies = len(lengths)
    cache, _ = prefilled(work.mllm.model, work.rival)
    cache.crop(-1)
    cache.batch_repeat_interleave(copies)
    rows = {name: work.rival[name].repeat(copies, 1) for name in ("input_ids", "attention_mask")}
    return draw_plainly(work.mllm, rows, lengths, **{CACHE: cache})


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


# what both must agree on ---------------------------------------------------------------------------------------------


def check_greedy(work: SampleWork, sequences: int, tokens: int) -> dict[str, Any]:
    """Ours, in as many rows as are timed, writes the tokens that `generate` writes, up to where its two best logits
    tie. Raises ThroughlineError; gives the number of tokens compared, for the row's settings."""
    generators = [np.random.default_rng(row) for row in range(sequences)]
    never = vocabulary(work.mllm)
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=tokens)
    (ours,) = sample(work.mllm, [work.ours], greedy, [generators], stop={never})
    options = {"output_logits": True, "return_dict_in_generate": True}
    out = work.mllm.model.generate(**work.rival, do_sample=False, max_new_tokens=tokens, eos_token_id=never, **options)
    expected = out.sequences[0, work.rival["input_ids"].shape[1] :].tolist()
    best = torch.cat(out.logits).topk(2, dim=-1).values
    ties = (best[:, 0] - best[:, 1] < TIE).nonzero()
    until = int(ties[0]) if len(ties) else len(expected)
    if any(list(continuation.tokens[:until]) != expected[:until] for continuation in ours):
        raise ThroughlineError("greedy tokens are not generate's", work.geometry, "nothing was timed: report it")
    return {"greedy_tokens_compared": until}


def check_draws(work: SampleWork, draws: int) -> dict[str, Any]:
    """First tokens of both sides follow the model's softmax. Raises ThroughlineError where a chi-square test says no;
    gives both p-values, for the row's settings."""
    mllm, processor = work.mllm, work.mllm.chat.processor
    prompt = encode(processor, render(processor, SHORT_QUESTION, images=0), [])
    with torch.no_grad():
        logits = mllm.model(**prompt, logits_to_keep=1).logits[0, -1]
    probabilities = torch.softmax(logits.double(), dim=-1).numpy()
    generators = [np.random.default_rng([0, draw]) for draw in range(draws)]
    once = SamplingSettings(temperature=1.0, max_new_tokens=1)
    question = mllm.chat.prompt(user_turn(SHORT_QUESTION, images=0), [])
    (ours,) = sample(mllm, [question], once, [generators], stop={vocabulary(mllm)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = draw_plainly(mllm, prompt, (1,) * draws, num_return_sequences=draws)
    p_values = {
        "p_first_tokens_ours": fit_of(np.array([continuation.tokens[0] for continuation in ours]), probabilities),
        "p_first_tokens_rival": fit_of(drawn[:, 0].numpy(), probabilities),
    }
    for side, p in p_values.items():
        if not p > LEAST_P:
            what = f"first tokens do not follow the softmax, {side} is {p:.1e}"
            raise ThroughlineError(what, work.geometry, "nothing was timed: report it")
    return p_values


def fit_of(tokens: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """p-value of drawn `(draws,)` tokens under `(vocabulary,)` probabilities. Tokens in the order of their probability
    are cut into cells of about equal mass, since few draws fall on any one of thousands."""
    order = np.argsort(probabilities, kind="stable")
    middle = np.cumsum(probabilities[order]) - probabilities[order] / 2
    cell = np.empty(len(probabilities), dtype=np.int64)
    cell[order] = np.minimum((middle * CELLS).astype(np.int64), CELLS - 1)
    expected = np.bincount(cell, weights=probabilities, minlength=CELLS) * len(tokens)
    observed = np.bincount(cell[tokens], minlength=CELLS)
    held = expected > 0  # one token may outweigh several cells
    return float(chisquare(observed[held], expected[held] * (observed.sum() / expected.sum())).pvalue)
