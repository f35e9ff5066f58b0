"""How a pocket learns to use what stands in its prompt: labelled examples, and descriptions of classes.

A decoder of four layers does not find by its answers alone that it has to look back: within hours it learns which names
stand there, not which of them to take. So where to look is a target, as what lies where is one for the vision tower:
- class: a linear head (thrown away) reads the class that a position is about from the input of the third layer;
- gather: one attention head of the third layer looks from a label to the position that predicted it, or from the end of
  a description to its name;
- match: one attention head of the fourth layer looks from where an answer begins to what is about the same class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.nn.utils.rnn import pad_sequence
from transformers.models.qwen2.modeling_qwen2 import apply_rotary_pos_emb

from throughline.drawn.concepts import CLASSES
from throughline.mllm.chat import EncodedImage
from throughline.mllm.load import Mllm
from throughline.mllm.tree import Tokens

GATHER, MATCH = 2, 3
"""The layers whose attention has targets."""


@dataclass(frozen=True, eq=False)
class Exercise:
    """A prompt with its answers, and where to look in it. Positions are indices into `tokens`.

    head: the attention head that looks, in both layers; classes: position to index of the class that it is about;
    gathers: position to the position before it that the third layer has to look at; matches: position to those that the
    fourth layer has to look at; answers: kind of question to the positions whose next token is trained.
    """

    tokens: Tokens
    images: Sequence[EncodedImage]
    head: int
    classes: dict[int, int]
    gathers: dict[int, int]
    matches: dict[int, list[int]]
    answers: dict[str, list[int]]


class ContextLoss(nn.Module):
    """The loss on the exercises of a step; `measures` are its parts, a mean in nats each."""

    def __init__(self, mllm: Mllm, draw: Callable[[], Sequence[Exercise]]) -> None:
        super().__init__()
        self._mllm, self._draw = mllm, draw
        self.read = nn.Linear(mllm.model.config.text_config.hidden_size, len(CLASSES))
        self.measures: dict[str, float] = {}
        self._inputs: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = {}
        for layer in (GATHER, MATCH):
            attention = mllm.model.model.language_model.layers[layer].self_attn
            attention.register_forward_pre_hook(self._remember(layer), with_kwargs=True)

    def _remember(self, layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: tuple[()], arguments: dict[str, Any]) -> None:
            self._inputs[layer] = arguments["hidden_states"], arguments["position_embeddings"]

        return hook

    def forward(self) -> Tensor:
        """Draws exercises; one plain forward pass for those with images, one for those without."""
        exercises = self._draw()
        parts: dict[str, list[Tensor]] = {}
        for shown in (True, False):
            together = [exercise for exercise in exercises if bool(exercise.images) is shown]
            if together:
                self._score(together, parts)
        self.measures = {name: torch.cat(values).mean().item() for name, values in parts.items()}
        return torch.stack([torch.cat(values).mean() for values in parts.values()]).sum()

    def _score(self, exercises: Sequence[Exercise], parts: dict[str, list[Tensor]]) -> None:
        model, tokens = self._mllm.model, [torch.from_numpy(exercise.tokens) for exercise in exercises]
        ids = pad_sequence(tokens, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True)
        pixels = [image.inputs["pixel_values"] for exercise in exercises for image in exercise.images]
        states = model.model(
            input_ids=ids, attention_mask=mask, pixel_values=torch.cat(pixels) if pixels else None, use_cache=False
        ).last_hidden_state
        normalised = self._inputs[GATHER][0]
        for row, exercise in enumerate(exercises):
            for kind, places in exercise.answers.items():
                at = torch.tensor(places)
                parts.setdefault(kind, []).append(
                    cross_entropy(model.lm_head(states[row, at]), ids[row, at + 1], reduction="none")
                )
            at, classes = torch.tensor(list(exercise.classes)), torch.tensor(list(exercise.classes.values()))
            parts.setdefault("class", []).append(
                cross_entropy(self.read(normalised[row, at]), classes, reduction="none")
            )
            for name, layer, targets in (
                ("gather", GATHER, {place: [seen] for place, seen in exercise.gathers.items()}),
                ("match", MATCH, exercise.matches),
            ):
                attention = self._attention(layer, exercise.head, row, torch.tensor(list(targets)))
                looked = [
                    weights[torch.tensor(seen)].logsumexp(0)
                    for weights, seen in zip(attention, targets.values(), strict=True)
                ]
                parts.setdefault(name, []).append(-torch.stack(looked))

    def _attention(self, layer: int, head: int, row: int, at: Tensor) -> Tensor:
        """`(positions, tokens)`: log attention weights of one head from the positions `at`."""
        inputs, (cos, sin) = self._inputs[layer]
        module = self._mllm.model.model.language_model.layers[layer].self_attn
        width = slice(head * module.head_dim, (head + 1) * module.head_dim)
        queries, keys = (
            linear(inputs[row : row + 1], projection.weight[width], projection.bias[width])[:, None]
            for projection in (module.q_proj, module.k_proj)
        )
        rows = slice(row, row + 1) if len(cos) > 1 else slice(None)
        queries, keys = apply_rotary_pos_emb(queries, keys, cos[rows], sin[rows])
        scores = queries[0, 0, at] @ keys[0, 0].T * module.scaling
        later = torch.arange(scores.shape[1]) > at[:, None]
        return torch.as_tensor(scores.masked_fill(later, -torch.inf).log_softmax(dim=1))
