"""Whether training changed what a model says: a silent adapter mismatch would otherwise look like a bad method."""

from torch import Tensor

from throughline.mllm.likelihood import label_log_likelihood
from throughline.questions.prompt import user_prompt
from throughline.training.stages.context import StageContext

PROBED = 4
"""Samples that are asked."""


def probe_output(context: StageContext) -> Tensor:
    """`(PROBED, classes)` label log-likelihoods of the stage's first samples, to compare before and after it."""
    questions, samples = context.questions, context.samples[:PROBED]
    prompts = [user_prompt(sample, questions.label).encode(context.reader) for sample in samples]
    return label_log_likelihood(context.mllm, prompts, questions.class_names)
