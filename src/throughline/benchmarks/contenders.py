"""One way to take a training step, as the benches of training put it against others: token trees, here, and the rivals
of `plain_rival` and `trl_rival`.

All of them train LoRA of one shape on the same frozen weights and answer for the same sequences: the label and the
chain of every sample. `step` checks their NLLs against each other and times them, `memory` measures what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from throughline.benchmarks.machine import machine_settings
from throughline.benchmarks.workload import Workload
from throughline.core.settings import LoraSettings
from throughline.mllm.chat import Chat, Path, user_turn
from throughline.mllm.collating import TreeBatch
from throughline.mllm.flops import Row, step_flops
from throughline.mllm.forward import score_trees
from throughline.mllm.load import Mllm
from throughline.mllm.lora import add_lora
from throughline.training.methods import BOTH
from throughline.training.paths import PathRenderer

LORA = LoraSettings()

Key = tuple[int, str]
"""A sequence: which sample, and `label` or `chain`."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A way to take the step. `take_step` runs forward and backward of everything behind one optimiser step and adds
    to the gradients of `model`'s adapter; `nll` is of every sequence, labels summed over their tokens, chains averaged;
    `flops` are counted for the rows that it really runs; `settings` say what these are."""

    name: str
    model: Any
    take_step: Callable[[], None]
    nll: Callable[[], dict[Key, float]]
    flops: int
    settings: dict[str, Any]

    def timed_step(self) -> None:
        """The step from no gradient."""
        self.model.zero_grad(set_to_none=True)
        self.take_step()

    def asked(self) -> dict[Key, float]:
        """The NLLs without dropout and without gradient."""
        self.model.eval()
        with torch.no_grad():
            return self.nll()


def token_trees(mllm: Mllm, model: Any, work: Workload, name: str = "token trees") -> Contender:
    """The samples as training runs them. An ablation passes an `mllm` whose `collate`, or a `model` whose layers, do
    without something, and a name that says so."""
    batch, samples = tree_batch(mllm, work), len(work.examples)

    def take_step() -> None:
        # Trees are built for every step, as in training; the rivals' rows were made once.
        torch.autograd.backward(score_trees(model, tree_batch(mllm, work)).loss_sum() / samples)

    def nll() -> dict[Key, float]:
        keys = zip(batch.sample, batch.names, strict=True)
        return dict(zip(keys, score_trees(model, batch).branch_nll().tolist(), strict=True))

    rows = rows_of_trees(batch)
    flops = step_flops(model, rows).total
    settings = {
        "rows": row_widths([batch.input_ids.shape]),
        "logits": sum(row.marked for row in rows),
        "gflops": round(flops / 1e9, 3),
    }
    return Contender(name, model, take_step, nll, flops, settings)


def tree_batch(mllm: Mllm, work: Workload) -> TreeBatch:
    """The samples as training makes them."""
    renderer = PathRenderer(mllm.chat, work.prompts)
    return mllm.collate([[BOTH.tree(renderer, example)] for example in work.examples])


def rows_of_trees(batch: TreeBatch) -> list[Row]:
    """For the FLOP count: every row of the batch with its padding, its tiles, and its distinct predicting positions."""
    rows, tokens = batch.input_ids.shape
    marked = torch.bincount(torch.unique(batch.predictors) // tokens, minlength=rows)
    tiles = len(batch.image_inputs["pixel_values"]) // rows
    pairs = None if isinstance(batch.attention, torch.Tensor) else batch.attention.pairs()
    return [Row(tokens, tiles, int(count), pairs) for count in marked]


def paths_of(mllm: Mllm, work: Workload) -> dict[Key, Path]:
    """Every sequence of the workload, labels first."""
    questions = {"label": user_turn(work.prompts.label), "chain": user_turn(work.prompts.reasoning)}
    return {
        (sample, name): mllm.chat.answered(question, [image], getattr(example, name))
        for name, question in questions.items()
        for sample, (image, example) in enumerate(zip(work.images, work.examples, strict=True))
    }


def row_widths(shapes: Iterable[Sequence[int]]) -> str:
    """How many rows of how many tokens a step's batches hold, by their shapes, e.g. `4x412 + 4x315`."""
    return " + ".join(f"{rows}x{tokens}" for rows, tokens in shapes)


def with_random_lora(mllm: Mllm, lora: LoraSettings = LORA) -> Any:
    """The model with LoRA in both towers as training adds it, second factors drawn too: zeros would hide a fault."""
    model = add_lora(mllm.model, lora, seed=0)
    draw = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(torch.empty(weight.shape).normal_(std=0.02, generator=draw))
    return model.eval()


def with_tiles(mllm: Mllm, tiles: int) -> Mllm:
    """The same model with a chat that cuts an image into at most so many tiles."""
    return replace(mllm, chat=Chat(mllm.chat.processor, mllm.chat.image_token_id, tiles=tiles))


def common_settings(geometry: str, classes: int, mllm: Mllm, model: Any, work: Workload) -> dict[str, Any]:
    """What of workload, model, machine and libraries decides the numbers of every side."""
    return {
        "geometry": geometry,
        "classes": classes,
        "batch": len(work.examples),
        "tiles": mllm.chat.tiles,
        "tiles_with_thumbnail": len(work.images[0].inputs["pixel_values"]),
        **machine_settings(model),
        "lora_rank": LORA.rank,
        "lora_alpha": LORA.alpha,
        "lora_dropout": LORA.dropout,
    }
