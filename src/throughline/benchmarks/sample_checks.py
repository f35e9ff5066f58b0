"""What both sides of `bench sample` must agree on before they are timed: greedy tokens, and that draws follow the
model's own softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chisquare

from throughline.benchmarks.plain import encode, render
from throughline.benchmarks.sample_sides import SampleWork, draw_plainly, vocabulary
from throughline.core.errors import ThroughlineError
from throughline.core.settings import SamplingSettings
from throughline.mllm.chat import user_turn
from throughline.mllm.sampling import sample

TIE = 1e-4
"""Two best logits nearer than this may change places between two ways of computing them."""

LEAST_P = 1e-3
"""A fair sampler fails the chi-square test with one seed in a thousand; the seeds are fixed."""

CELLS = 50
"""Of the chi-square test: 2,000 draws put 40 into each."""

SHORT_QUESTION = "What type of object is in this photo?"
"""Of the chi-square test, without an image: `generate` computes the prompt anew for every draw."""


def check_greedy(work: SampleWork, sequences: int, tokens: int) -> dict[str, Any]:
    """Ours, in as many rows as are timed, writes the tokens that `generate` writes, up to where its two best logits
    tie. Raises ThroughlineError; gives the number of tokens compared, for the row's settings."""
    generators = [np.random.default_rng(row) for row in range(sequences)]
    never = vocabulary(work.mllm)
    greedy = SamplingSettings(temperature=0.0, max_new_tokens=tokens)
    (ours,) = sample(work.mllm, [work.ours], greedy, [generators], stop={never})
    out = work.mllm.model.generate(
        **work.rival,
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=never,
        output_logits=True,
        return_dict_in_generate=True,
    )
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
            raise ThroughlineError(
                f"first tokens do not follow the softmax, {side} is {p:.1e}",
                work.geometry,
                "nothing was timed: report it",
            )
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
