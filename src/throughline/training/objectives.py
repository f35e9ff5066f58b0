"""What one training sample teaches: an objective gives a token tree, and a loss of the tree's scores.

    L(sample) = [label marked] * -log p(y | x, q_cls)  +  [chain marked] * (1/T) sum_t -log p(r_t | r_<t, x, q_reason)

Eq. 1 of RD-MLDG (arXiv 2602.23777) marks both with equal weight; Eq. 2 is the same with the model's own chain for r.
The loss of a batch is the mean of L over its samples (`trainer`). Free of torch, so that the method table can be read
without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

from throughline.core.settings import PreferenceSettings

if TYPE_CHECKING:
    from torch import Tensor

    from throughline.mllm.forward import TreeScores
    from throughline.mllm.tree import Tree
    from throughline.training.paths import Example, PathRenderer

AnswerPath = Literal["label", "chain"]


class Objective(Protocol):
    """A pure function from an example to a tree, and from the scores of several such trees to a loss."""

    @property
    def needs_chain(self) -> bool:
        """Whether it learns from chains."""

    @property
    def learns_labels(self) -> bool:
        """Whether an example without a chain teaches something, too."""

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares with the weights that the stage starts from. Their scores then ride on the
        branches (`TreeScores.gains`)."""

    def tree(self, renderer: PathRenderer, example: Example) -> Tree:
        """The tree of one example."""

    def loss(self, scores: TreeScores) -> Tensor:
        """A scalar: the sum of the losses of the examples whose trees were scored."""


MIRRORED = "mirrored_"


@dataclass(frozen=True)
class Preference:
    """Prefers an example's chain to its rejected side: sigmoid, against the weights at the start of the stage.

        h = (log p(chosen) - log p_0(chosen)) - (log p(rejected) - log p_0(rejected))
        L = weight * (-(1 - eps) log sigmoid(beta h) - eps log sigmoid(-beta h))

    Eq. 9 of arXiv 2604.15705. A rejected side with the example's own images has another chain (thinking); one with
    other images has the example's chain with these (perception). `settings.symmetric` instead prefers, for either
    image, its own chain to that of the other (arXiv 2506.11712). `settings.anchor` adds -log sigmoid(beta gain) of the
    preferred side alone (arXiv 2406.11839), `settings.nll` its mean NLL.
    """

    settings: PreferenceSettings = field(default_factory=PreferenceSettings)
    needs_chain = True
    learns_labels = False
    has_reference = True

    def tree(self, renderer: PathRenderer, example: Example) -> Tree:
        """image + question -> chain · other chain, or two images with the same chain; ValueError for what is no
        pair."""
        other = example.rejected
        if other is None:
            raise ValueError("a preference is asked for, the example has no rejected side")
        same_images = [image.key for image in example.images] == [image.key for image in other.images]
        sides = {"chosen": (example, example), "rejected": (other, other if same_images else example)}
        if self.settings.symmetric and not same_images:
            sides = {"chosen": (example, example), "rejected": (example, other)} | {
                f"{MIRRORED}chosen": (other, other),
                f"{MIRRORED}rejected": (other, example),
            }
        if any(said.chain is None for _, said in sides.values()):
            raise ValueError("a side of a preference has no chain")
        leaves = [renderer.chain(shown, said.chain, name) for name, (shown, said) in sides.items()]
        return renderer.merge([replace(leaf, weight=example.weight, reduce=self.settings.reduce) for leaf in leaves])

    def loss(self, scores: TreeScores) -> Tensor:
        """The sum over pairs of weight · loss."""
        terms = [self._terms(scores, prefix) for prefix in ("", MIRRORED) if f"{prefix}chosen" in scores.batch.names]
        return sum(terms[1:], terms[0])

    def _terms(self, scores: TreeScores, prefix: str) -> Tensor:
        from torch.nn.functional import logsigmoid

        own, name = self.settings, f"{prefix}chosen"
        gain = scores.gains(name)
        h = own.beta * (gain - scores.gains(f"{prefix}rejected"))
        losses = -(1 - own.label_smoothing) * logsigmoid(h) - own.label_smoothing * logsigmoid(-h)
        losses = losses - own.anchor * logsigmoid(own.beta * gain)
        if own.nll:
            losses = losses + own.nll * scores.token_means(name)
        return (scores.weights(name) * losses).sum()


@dataclass(frozen=True)
class MarkedPaths:
    """The paper's objective: the NLL of the marked answers, in sum, each reduced over its own tokens."""

    paths: tuple[AnswerPath, ...]
    has_reference = False

    @property
    def needs_chain(self) -> bool:
        """Whether the chain is one of the marked paths."""
        return "chain" in self.paths

    @property
    def learns_labels(self) -> bool:
        """Whether the label is one of the marked paths."""
        return "label" in self.paths

    def tree(self, renderer: PathRenderer, example: Example) -> Tree:
        """image + question → label · instruction + chain, what `paths` asks and the example has; equal weights.

        An example with nothing to mark is a bug of the caller, ValueError.
        """
        leaves = {"label": renderer.label, "chain": renderer.chain}
        marked = [path for path in self.paths if path == "label" or example.chain is not None] or self.paths
        return renderer.merge([leaves[path](example) for path in marked])

    def loss(self, scores: TreeScores) -> Tensor:
        """Σ over branches of weight · reduced NLL."""
        return scores.loss_sum()
