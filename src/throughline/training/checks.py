"""Whether training changed what a model says: a silent adapter mismatch would otherwise look like a bad method."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from throughline.chains.prompts import Prompts, class_name
from throughline.domains.samples import Sample
from throughline.mllm.chat import user_turn
from throughline.mllm.images import ImageReader
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm

PROBED = 4


def output_probe(
    mllm: Mllm, samples: Sequence[Sample], prompts: Prompts, classes: Sequence[str], reader: ImageReader
) -> Tensor:
    """`(PROBED, classes)` label log-likelihoods of a few samples, to be compared before and after a stage."""
    images = [reader.encode(sample) for sample in samples[:PROBED]]
    return label_log_likelihood(mllm, user_turn(prompts.label), images, [class_name(c) for c in classes])
