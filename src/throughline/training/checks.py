"""Whether training changed what a model says: a silent adapter mismatch would otherwise look like a bad method."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from throughline.domains.samples import Sample
from throughline.mllm.images import ImageReader
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm
from throughline.questions.prompt import user_prompt
from throughline.questions.question_set import QuestionSet

PROBED = 4


def output_probe(mllm: Mllm, samples: Sequence[Sample], questions: QuestionSet, reader: ImageReader) -> Tensor:
    """`(PROBED, classes)` label log-likelihoods of a few samples, to be compared before and after a stage."""
    asked = [user_prompt(sample, questions.label).encode(reader) for sample in samples[:PROBED]]
    return label_log_likelihood(mllm, asked, questions.class_names)
