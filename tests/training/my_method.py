"""A method of a user's own: labels, then a preference for the right label over the next class in the list."""

from dataclasses import dataclass

import torch.nn.functional as F

from throughline.training.methods import LABELS, Method
from throughline.training.stages.sft import Sft


@dataclass(frozen=True)
class LabelPreference:
    """-log sigmoid(beta * (gain of the right label - gain of another one)); a gain is log p minus the reference's."""

    beta: float = 1.0
    needs_chain = False
    learns_labels = True
    has_reference = True  # compare with the weights that the stage starts from

    def tree(self, renderer, example):
        """Both labels behind one prompt."""
        names = renderer.questions.class_names
        other = names[(names.index(example.label) + 1) % len(names)]
        chosen, rejected = renderer.label(example, name="chosen"), renderer.label(example, other, name="rejected")
        return renderer.merge([chosen, rejected])

    def loss(self, scores):
        """Summed over the examples of the micro-batch."""
        return -F.logsigmoid(self.beta * (scores.gains("chosen") - scores.gains("rejected"))).sum()


PREFERENCE = Method("preference", (Sft(LABELS), Sft(LabelPreference())), "labels, then a preference for the right one")
