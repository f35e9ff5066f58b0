"""What one training sample teaches: an objective gives a token tree, and a loss of the tree's scores.

    L(sample) = [label marked] * -log p(y | x, q_cls)  +  [chain marked] * (1/T) sum_t -log p(r_t | r_<t, x, q_reason)

Eq. 1 of RD-MLDG (arXiv 2602.23777) marks both with equal weight; Eq. 2 is the same with the model's own chain for r.
The loss of a batch is the mean of L over its samples (`trainer`). Free of torch, so that the method table can be read
without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

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
