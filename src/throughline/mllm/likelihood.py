"""The probability of each of a list of answers: all C labels as one trie behind a prompt, scored in one pass.

log p(label | prompt) is the sum of its tokens' log-probabilities, the end of the turn included, so that `cat`
and `cat tower` are complete answers and do not share mass; `evaluation` normalises over the classes it offers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from throughline.mllm.chat import Chat, EncodedPrompt, Path
from throughline.mllm.forward import score_trees
from throughline.mllm.head import marked_nll
from throughline.mllm.load import Mllm
from throughline.mllm.lora import base_of
from throughline.mllm.prefix import Branches, Prefix, encode_prefix
from throughline.mllm.tree import Leaf, Tree, common_path, merge_paths

AT_ONCE = 8192
"""Tokens behind the prefixes in one pass. With long class lists, prompts take turns, so that memory is bounded."""


def label_trie(mllm: Mllm, prompt: EncodedPrompt, labels: Sequence[str]) -> Tree:
    """The prompt with its images as the trunk, the labels' tokens as the crown; branches in the order of `labels`."""
    leaves = [Leaf(prompt.answered(mllm.chat, label), label, 0.0, "sum") for label in labels]
    return merge_paths(leaves, mllm.chat.image_token_id)


@torch.no_grad()
def label_log_likelihood(
    mllm: Mllm, prompts: Sequence[EncodedPrompt], labels: Sequence[str], prefix: Prefix | None = None
) -> Tensor:
    """`(prompts, labels)` log-probabilities of each label as the whole answer, fp32 on the CPU.

    The prompts are computed once, or taken from `prefix`, which holds their beginnings; the labels, which are the same
    for all prompts, grow on them.
    """
    crown = label_crown(mllm.chat, prompts, labels) if mllm.plan.takes_layouts else None
    with mllm.evaluating():
        if crown is None:
            batch = mllm.collate([[label_trie(mllm, prompt, labels)] for prompt in prompts]).to(mllm.device)
            return -score_trees(mllm.model, batch).branch_nll().cpu().unflatten(0, (len(prompts), len(labels)))
        paths = [prompt.path(mllm.chat) for prompt in prompts]
        prefix = prefix or encode_prefix(mllm.model, paths, common_path(paths, mllm.chat.image_token_id))
        return crown_log_likelihood(mllm, prefix, crown, prefix.rest_of(paths))


@dataclass(frozen=True, eq=False)
class Crown:
    """Labels as a trie behind any prompt.

    `tokens` `(n,)` are those that predict another one, `offsets` `(n,)` their distances from the first position behind
    the prompt, `visible` `(n, n)` which of them each attends to. The other tensors have an entry for every token of
    every label, label after label: `targets` its id, `predictors` the place that predicts it (0 is the prompt's last
    token, i the trie's i-th), `owner` the index of its label.
    """

    tokens: Tensor
    offsets: Tensor
    visible: Tensor
    targets: Tensor
    predictors: Tensor
    owner: Tensor
    labels: int


def label_crown(chat: Chat, prompts: Sequence[EncodedPrompt], labels: Sequence[str]) -> Crown | None:
    """None where no crown is the same for all prompts: a label's first token merges with a prompt's last, or prompts
    end in different tokens."""
    different = {_tail(chat, prompt): prompt for prompt in prompts}.values()
    ends, *further = [_label_ends(chat, prompt, labels) for prompt in different]
    if ends is None or any(other != ends for other in further):
        return None
    return crown_of([end[1:] for end in ends])


def crown_of(labels: Sequence[Sequence[int]]) -> Crown:
    """The trie of labels that are given as their tokens behind a prompt."""
    before = 0  # stands for the prompt's last token, whatever it is
    paths = [Path(np.array([before, *label]), np.arange(len(label) + 1)[None], (), 1) for label in labels]
    leaves = [Leaf(path, str(number), 0.0, "sum") for number, path in enumerate(paths)]
    tree = merge_paths(leaves, image_token_id=-1)
    predictors = np.concatenate([branch.predictors for branch in tree.branches])
    needed = np.unique(predictors)[1:]  # without 0, the prompt's last token; the end of a label predicts nothing
    return Crown(
        tokens=torch.from_numpy(tree.tokens[needed]),
        offsets=torch.from_numpy(tree.positions[0, needed] - 1),
        visible=torch.from_numpy(tree.visible()[needed][:, needed]),
        targets=torch.from_numpy(np.concatenate([tree.tokens[branch.scored] for branch in tree.branches])),
        predictors=torch.from_numpy(np.searchsorted(needed, predictors, side="right")),
        owner=torch.repeat_interleave(torch.tensor([len(branch.scored) for branch in tree.branches])),
        labels=len(labels),
    )


def _tail(chat: Chat, prompt: EncodedPrompt) -> tuple[int, ...]:
    """The prompt's tokens from the last special one on: how the text behind that is cut does not depend on what stands
    before it."""
    tokens = prompt.path(chat).tokens.tolist()
    last = max((place for place, token in enumerate(tokens) if token in chat.special_ids), default=0)
    return tuple(tokens[last:])


def _label_ends(chat: Chat, prompt: EncodedPrompt, labels: Sequence[str]) -> list[list[int]] | None:
    """The prompt's last token and each label's tokens behind it; None where a label begins in that token."""
    last = len(prompt.path(chat).tokens) - 1
    paths = [prompt.answered(chat, label) for label in labels]
    if any(path.answer_start != last + 1 for path in paths):
        return None
    return [path.tokens[last:].tolist() for path in paths]


@torch.no_grad()
def crown_log_likelihood(mllm: Mllm, prefix: Prefix, crown: Crown, rest: Tensor | None = None) -> Tensor:
    """`(prompts, labels)` log-probabilities of a crown's labels behind the prompts of a prefix, fp32 on the CPU; `rest`
    `(prompts, n)` is what the prompts have beyond it."""
    rest = crown.tokens.new_empty(len(prefix), 0).to(mllm.device) if rest is None else rest
    tokens = max(1, len(crown.tokens) + rest.shape[1])
    turns = torch.arange(len(prefix), device=mllm.device).split(max(1, AT_ONCE // tokens))
    parts = [_on_prefix(mllm, prefix if len(turns) == 1 else prefix.chosen(turn), rest[turn], crown) for turn in turns]
    return torch.cat(parts).cpu()


def _on_prefix(mllm: Mllm, prefix: Prefix, rest: Tensor, crown: Crown) -> Tensor:
    """`(prompts, labels)`; `rest` `(prompts, n)` is what the prompts have beyond the prefix."""
    branches, model, device = Branches(prefix), mllm.model, rest.device
    states = branches.grow(model, rest)[:, -1:] if rest.shape[1] else prefix.state[:, None]
    if len(crown.tokens):
        tokens = crown.tokens.to(device).expand(len(prefix), -1)
        grown = branches.grow(model, tokens, crown.offsets.to(device), crown.visible.to(device))
        states = torch.cat([states, grown], dim=1)
    first = torch.arange(len(prefix), device=device)[:, None] * states.shape[1]
    rows = (first + crown.predictors.to(device)).flatten()
    targets = crown.targets.to(device).repeat(len(prefix))
    nll = marked_nll(states.flatten(0, 1), base_of(model).get_output_embeddings(), rows, targets)
    sums = torch.zeros(len(prefix), crown.labels, device=device)
    return -sums.index_add(1, crown.owner.to(device), nll.view(len(prefix), -1))
