"""The one forward pass over token trees.

    positions  those of each root-to-leaf path in a sequence of its own
    attention  earlier tokens of the own node and all tokens of the ancestors, nothing else
    loss       sum over branches of weight x reduce(token NLL)

`training`, `likelihood` and `analysis` call `score_trees` and do not see how a batch was laid out (`batch`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from throughline.mllm.attention import layout_arguments
from throughline.mllm.batch import TreeBatch
from throughline.mllm.head import marked_measures, marked_nll, measures_of, nll_of
from throughline.mllm.lora import base_of

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class TreeScores:
    """NLL of every scored token, branch after branch, `(scored tokens,)`, and the sums that objectives need."""

    token_nll: Tensor
    batch: TreeBatch

    def per_branch(self) -> Iterator[tuple[int, str, Tensor]]:
        """`(sample index, branch name, token NLL of its answer)` for every branch."""
        pieces = torch.split(self.token_nll, self.batch.lengths)
        yield from zip(self.batch.samples, self.batch.names, pieces, strict=True)

    def branch_nll(self) -> Tensor:
        """`(branches,)`: the reduced NLL of every branch, without weights."""
        lengths, device = self.batch.lengths, self.token_nll.device
        means = [branch.reduce == "mean" for branch in self.batch.branches]
        index = torch.repeat_interleave(torch.arange(len(lengths), device=device), torch.tensor(lengths, device=device))
        sums = torch.zeros(len(lengths), device=device).index_add(0, index, self.token_nll)
        counts = [length if mean else 1 for length, mean in zip(lengths, means, strict=True)]
        return sums / torch.tensor(counts, device=device).clamp(min=1)

    def gains(self, name: str) -> Tensor:
        """`(trees,)`: how much lower the reduced NLL of the branch called `name` is than its reference, in the order of
        the trees that have one. For objectives that compare a tree's branches."""
        chosen = [index for index, branch in enumerate(self.batch.branches) if branch.name == name]
        references = [self.batch.branches[index].reference for index in chosen]
        return torch.tensor(references, device=self.token_nll.device) - self.branch_nll()[chosen]

    def token_means(self, name: str) -> Tensor:
        """`(trees,)`: the mean NLL of a token of the branches called `name`, in the order of the trees."""
        return torch.stack([nll.mean() for _, branch, nll in self.per_branch() if branch == name])

    def weights(self, name: str) -> Tensor:
        """`(trees,)`: the weights of the branches called `name`, in the order of the trees."""
        weights = [branch.weight for branch in self.batch.branches if branch.name == name]
        return torch.tensor(weights, device=self.token_nll.device)

    def loss_sum(self) -> Tensor:
        """The sum over branches of weight x reduced NLL: divide by the number of samples for Eq. 1."""
        weights = [branch.weight for branch in self.batch.branches]
        return (self.branch_nll() * torch.tensor(weights, device=self.token_nll.device)).sum()


def score_trees(model: Any, batch: TreeBatch) -> TreeScores:
    """One forward pass; logits at the predicting positions only, a bounded number at a time. Gradients flow where the
    model's parameters ask."""
    return TreeScores(_at_marks(model, batch, marked_nll, nll_of), batch)


@torch.no_grad()
def measure_trees(model: Any, batch: TreeBatch) -> tuple[TreeScores, Tensor]:
    """The scores without gradient, and beside every token's NLL the entropy, in nats, of the distribution that it was
    drawn from: `(scored tokens,)`."""
    nll, entropy = _at_marks(model, batch, marked_measures, measures_of)
    return TreeScores(nll, batch), entropy


def _at_marks(model: Any, batch: TreeBatch, of_states: Callable[..., T], of_logits: Callable[..., T]) -> T:
    """A function of `head` at the scored tokens: of hidden states and the head, or of logits where the model's own call
    has to give these."""
    marked, rows = torch.unique(batch.predictors, return_inverse=True)
    targets = batch.input_ids.view(-1)[batch.scored]
    head = _frozen_head(model, batch)
    if head is None:
        return of_logits(_all_logits(model, batch, marked), rows, targets)
    states = base_of(model).model(**_model_arguments(model, batch)).last_hidden_state
    return of_states(states.flatten(0, 1)[marked], head, rows, targets)


def _frozen_head(model: Any, batch: TreeBatch) -> Any:
    """The linear head to be taken by itself; None where logits have to come from the model's own call: it is wrapped
    (by `DistributedDataParallel`, which must see the call), the head is trained, or the plan says so."""
    base = base_of(model)
    if batch.whole_logits or not hasattr(base, "get_output_embeddings"):
        return None
    head = base.get_output_embeddings()
    return None if any(parameter.requires_grad for parameter in head.parameters()) else head


def _all_logits(model: Any, batch: TreeBatch, marked: Tensor) -> Tensor:
    """`(marked, vocabulary)`, float32."""
    keep = torch.zeros(batch.input_ids.shape, dtype=torch.bool, device=batch.input_ids.device)
    keep.view(-1)[marked] = True
    return torch.as_tensor(model(**_model_arguments(model, batch), logits_to_keep=keep).logits).float()


def _model_arguments(model: Any, batch: TreeBatch) -> dict[str, Any]:
    tokens = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, **_image_arguments(model, batch)}
    if not isinstance(batch.attention, Tensor):
        return tokens | layout_arguments(batch.attention, batch.input_ids)
    return tokens | {"attention_mask": _as_model_mask(batch.attention, model.dtype), "use_cache": False}


def _as_model_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """4-D boolean → additive in the model's dtype, which every attention implementation of transformers takes."""
    if mask.ndim == 2:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def _image_arguments(model: Any, batch: TreeBatch) -> dict[str, Any]:
    if batch.reused is None or not batch.image_inputs:
        return dict(batch.image_inputs)
    encoded = model.get_image_features(**batch.image_inputs, return_dict=True)
    features = encoded.pooler_output
    if isinstance(features, Tensor):  # (tiles, tokens, hidden)
        encoded.pooler_output = features[list(batch.reused.tiles)]
    else:  # one (tokens, hidden) an image
        encoded.pooler_output = [features[i] for i in batch.reused.images]
    return {"mm_encoder_outputs": {"image": encoded}}
