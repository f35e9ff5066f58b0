"""Two separate sequences for a sample, in plain transformers without padding: what one writes by hand.

Rows of one length share a batch, so that none is padded and the kernel's own causal attention serves instead of a mask;
logits at the answers only. The model is the one that the trees train, with its own norms and peft's own LoRA layers. A
rival of `step`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from throughline.benchmarks.contenders import Contender, Key, paths_of, row_widths
from throughline.benchmarks.plain import plainly
from throughline.benchmarks.workload import Workload
from throughline.mllm.chat import Path, join_inputs
from throughline.mllm.flops import Row, step_flops
from throughline.mllm.load import Mllm

NAME = "two separate sequences"


@dataclass(frozen=True, eq=False)
class SeparateRows:
    """One batch of sequences of one length, unpadded: `(rows, tokens)` ids, answers from `answer_start` on."""

    keys: tuple[Key, ...]
    input_ids: Tensor
    image_inputs: dict[str, Tensor]
    answer_start: int

    def nll(self, model: Any) -> Tensor:
        """`(rows,)`: each answer's NLL, summed for a label and averaged over its tokens for a chain."""
        rows, tokens = self.input_ids.shape
        logits = model(
            input_ids=self.input_ids,
            use_cache=False,
            logits_to_keep=torch.arange(self.answer_start - 1, tokens - 1),
            **self.image_inputs,
        ).logits.float()
        targets = self.input_ids[:, self.answer_start :]
        token_nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(rows, -1)
        means = torch.tensor([name == "chain" for _, name in self.keys], device=token_nll.device)
        return torch.where(means, token_nll.mean(dim=1), token_nll.sum(dim=1))


def separate_sequences(mllm: Mllm, model: Any, work: Workload) -> Contender:
    """The rival on a workload."""
    groups, samples = separate_rows(mllm, work), len(work.examples)

    def take_step() -> None:
        for rows in groups:
            torch.autograd.backward(rows.nll(model).sum() / samples)

    def nll() -> dict[Key, float]:
        return {key: value for rows in groups for key, value in zip(rows.keys, rows.nll(model).tolist(), strict=True)}

    counted = rows_of_paths(groups)
    flops = step_flops(model, counted).total
    settings = {
        "rows": row_widths([rows.input_ids.shape for rows in groups]),
        "logits": sum(row.marked for row in counted),
        "gflops": round(flops / 1e9, 3),
        "batches": "rows of one length, no padding",
        "lora": "peft's own layers",
    }
    return Contender(NAME, model, plainly(model, take_step), plainly(model, nll), flops, settings)


def separate_rows(mllm: Mllm, work: Workload) -> list[SeparateRows]:
    """Every sequence of the workload, those of equal length and equal answer length in one batch."""
    alike: dict[tuple[int, int], list[tuple[Key, Path]]] = defaultdict(list)
    for key, path in paths_of(mllm, work).items():
        alike[len(path.tokens), path.answer_start].append((key, path))
    return [_stacked(group) for group in alike.values()]


def rows_of_paths(groups: Sequence[SeparateRows]) -> list[Row]:
    """For the FLOP count: every row of the rival's batches."""
    rows = []
    for group in groups:
        count, tokens = group.input_ids.shape
        tiles = len(group.image_inputs["pixel_values"]) // count
        rows += [Row(tokens, tiles, tokens - group.answer_start)] * count
    return rows


def _stacked(group: Sequence[tuple[Key, Path]]) -> SeparateRows:
    keys, paths = zip(*group, strict=True)
    ids = torch.stack([torch.from_numpy(path.tokens) for path in paths])
    return SeparateRows(
        keys, ids, join_inputs([image for path in paths for image in path.images]), paths[0].answer_start
    )
