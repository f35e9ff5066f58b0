"""One way to take a training step, as the benches of training put it against others: token trees, and two separate
sequences in plain transformers. `trl` has the third.

All of them train LoRA of one shape on the same frozen weights and answer for the same sequences: the label and the
chain of every sample. `step` checks their NLLs against each other and times them, `memory` measures what they hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from throughline.benchmarks.plain import plainly
from throughline.benchmarks.workload import Key, Workload
from throughline.mllm.attention import TreeLayout
from throughline.mllm.batch import TreeBatch
from throughline.mllm.chat import Path, join_inputs
from throughline.mllm.flops import Row, step_flops
from throughline.mllm.forward import score_trees
from throughline.mllm.lora import base_of


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """A part of a step: `run` is its forward and backward pass, `inputs` the tensors that it brings with it."""

    run: Callable[[], None]
    inputs: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Contender:
    """A way to take the step. `micro_batches` are everything behind one optimiser step and add to the gradients of
    `model`'s adapter; `nll` is of every sequence, labels summed over their tokens, chains averaged; `rows` are those
    that it really runs, in batches of these `shapes`; `details` say what else they are; `extra_flops` are those that a
    count of rows does not see."""

    name: str
    model: Any
    micro_batches: Sequence[MicroBatch]
    nll: Callable[[], dict[Key, float]]
    rows: Sequence[Row]
    shapes: Sequence[Sequence[int]]
    details: Mapping[str, Any] = field(default_factory=dict)
    extra_flops: int = 0

    @property
    def tokens(self) -> int:
        """Of all rows, padding included."""
        return sum(row.tokens for row in self.rows)

    @cached_property
    def flops(self) -> int:
        """Of a step, forward and backward."""
        return step_flops(self.model, self.rows).total + self.extra_flops

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its numbers, for a row's settings; rows as `4x412 + 4x315`, how many of how many tokens."""
        return {
            "rows": " + ".join(f"{rows}x{tokens}" for rows, tokens in self.shapes),
            "logits": sum(row.marked for row in self.rows),
            "gflops": round(self.flops / 1e9, 3),
            **self.details,
        }

    def take_step(self) -> None:
        """All micro-batches."""
        for part in self.micro_batches:
            part.run()

    def timed_step(self) -> None:
        """The step from no gradient."""
        self.model.zero_grad(set_to_none=True)
        self.take_step()

    def evaluated_nll(self) -> dict[Key, float]:
        """The NLLs without dropout and without gradient."""
        self.model.eval()
        with torch.no_grad():
            return self.nll()

    def plainly(self) -> Contender:
        """The same with peft's own LoRA layers."""
        parts = [replace(part, run=plainly(self.model, part.run)) for part in self.micro_batches]
        return replace(self, micro_batches=parts, nll=plainly(self.model, self.nll))


def token_trees(work: Workload, name: str = "token trees", built: TreeBatch | None = None) -> Contender:
    """The samples as training runs them: trees are built for every step, unless it is given them `built`. An ablation
    passes a workload whose plan does without something, and a name that says so."""
    model, samples = work.model, len(work.examples)
    batch = built or work.batch()

    def run() -> None:
        of_step = (built or work.batch()).to(base_of(model).device)
        torch.autograd.backward(score_trees(model, of_step).loss_sum() / samples)

    def nll() -> dict[Key, float]:
        keys = zip(batch.samples, batch.names, strict=True)
        return dict(zip(keys, score_trees(model, batch).branch_nll().tolist(), strict=True))

    parts = [MicroBatch(run, _tensors_of(batch))]
    return Contender(name, model, parts, nll, _rows_of_trees(batch), [batch.input_ids.shape])


@dataclass(frozen=True, eq=False)
class SeparateRows:
    """One batch of sequences of one length, unpadded: `(rows, tokens)` ids, answers from `answer_start` on. No row is
    padded, so that the kernel's own causal attention serves instead of a mask."""

    keys: tuple[Key, ...]
    input_ids: Tensor
    image_inputs: dict[str, Tensor]
    answer_start: int

    @property
    def row(self) -> Row:
        """What each of them is for the FLOP count."""
        rows, tokens = self.input_ids.shape
        return Row(tokens, len(self.image_inputs["pixel_values"]) // rows, tokens - self.answer_start)

    def nll(self, model: Any) -> Tensor:
        """`(rows,)`: each answer's NLL, summed for a label and averaged over its tokens for a chain."""
        rows, tokens = self.input_ids.shape
        kept = torch.arange(self.answer_start - 1, tokens - 1)
        logits = model(input_ids=self.input_ids, use_cache=False, logits_to_keep=kept, **self.image_inputs).logits
        targets = self.input_ids[:, self.answer_start :]
        token_nll = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view(rows, -1)
        means = torch.tensor([name == "chain" for _, name in self.keys], device=token_nll.device)
        return torch.where(means, token_nll.mean(dim=1), token_nll.sum(dim=1))


def separate_sequences(work: Workload) -> Contender:
    """Two sequences for a sample, as one writes it by hand: logits at the answers only, the model's own norms and
    peft's own LoRA layers."""
    model, groups, samples = work.model, separate_rows(work), len(work.examples)

    def run(rows: SeparateRows) -> None:
        torch.autograd.backward(rows.nll(model).sum() / samples)

    def nll() -> dict[Key, float]:
        return {key: value for rows in groups for key, value in zip(rows.keys, rows.nll(model).tolist(), strict=True)}

    parts = [MicroBatch(partial(run, rows), {"input_ids": rows.input_ids, **rows.image_inputs}) for rows in groups]
    rows = [group.row for group in groups for _ in group.keys]
    shapes = [group.input_ids.shape for group in groups]
    details = {"batches": "rows of one length, no padding", "lora": "peft's own layers"}
    return Contender("two separate sequences", model, parts, nll, rows, shapes, details).plainly()


def separate_rows(work: Workload) -> list[SeparateRows]:
    """Every sequence of the workload, those of equal length and equal answer length in one batch."""
    alike: dict[tuple[int, int], list[tuple[Key, Path]]] = defaultdict(list)
    for key, path in work.paths().items():
        alike[len(path.tokens), path.answer_start].append((key, path))
    return [_stacked(group, base_of(work.model).device) for group in alike.values()]


def _stacked(group: Sequence[tuple[Key, Path]], device: torch.device) -> SeparateRows:
    keys, paths = zip(*group, strict=True)
    ids = torch.stack([torch.from_numpy(path.tokens) for path in paths]).to(device)
    images = join_inputs([image for path in paths for image in path.images])
    return SeparateRows(keys, ids, {name: value.to(device) for name, value in images.items()}, paths[0].answer_start)


def _tensors_of(batch: TreeBatch) -> dict[str, Tensor]:
    """The tensors that a batch brings with it."""
    own = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    masks = batch.attention.masks if isinstance(batch.attention, TreeLayout) else ()
    return own | dict(batch.image_inputs) | {f"mask {i}": mask for i, mask in enumerate(masks) if mask is not None}


def _rows_of_trees(batch: TreeBatch) -> list[Row]:
    """For the FLOP count: every row of the batch with its padding, its tiles, and its distinct predicting positions."""
    rows, tokens = batch.input_ids.shape
    marked = torch.bincount(torch.unique(batch.predictors) // tokens, minlength=rows)
    tiles = len(batch.image_inputs["pixel_values"]) // rows
    pairs = None if isinstance(batch.attention, Tensor) else batch.attention.pairs()
    return [Row(tokens, tiles, int(count), pairs) for count in marked]


def settings_of_sides(work: Workload, ours: Contender, rival: Contender) -> dict[str, Any]:
    """A row's settings: the workload's, and what each side's rows are."""
    sides = {"ours": ours, "rival": rival}
    own = {f"{side}_{key}": value for side, way in sides.items() for key, value in way.settings.items()}
    return {**work.settings, **own}


def largest_difference(ours: dict[Key, float], rival: dict[Key, float]) -> float:
    """Over all sequences: the difference of two NLLs, divided by the NLL where that is above 1. NaN stays NaN."""
    assert ours.keys() == rival.keys(), "both sides answer for the same sequences"
    differences = [abs(ours[key] - nll) / max(1.0, abs(nll)) for key, nll in rival.items()]
    return float(np.max(differences))
