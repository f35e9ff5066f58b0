"""How well a model expects a teacher's chains and its own, round by round.

    perplexity = exp( mean over chains of (1/T) sum_t -log p(r_t | r_<t, x, q) )

The reduction is that of the paper's Eq. 1: over a chain's own tokens, then over chains. `distance` is our measure of
convergence: the Wasserstein distance between the distributions of token probabilities of two successive states.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import wasserstein_distance

from throughline.analysis.estimates import by_image, over_images, through
from throughline.analysis.probabilities import LOW
from throughline.analysis.records import Mismatch, Source, State
from throughline.analysis.tokens import TokenTable


def mismatch(table: TokenTable, state: State, source: Source, previous: TokenTable | None) -> Mismatch | None:
    """One state and one source; `previous` is the state before, on the same source. None where there is no chain."""
    chosen = table.of(source)
    if not len(chosen):
        return None
    per_chain = by_image(chosen.nll, chosen.sample_id)
    earlier = previous.of(source) if previous is not None else None
    return Mismatch(
        state=state,
        source=source,
        images=len(per_chain),
        perplexity=through(over_images(per_chain, np.arange(len(per_chain))), np.exp),
        low=float((chosen.probability < LOW).mean()),
        distance=None
        if earlier is None or not len(earlier)
        else float(wasserstein_distance(earlier.probability, chosen.probability)),
    )
