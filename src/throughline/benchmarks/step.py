"""An MTCT training step, forward and backward, as token trees against two separate sequences per sample.

Same model with LoRA in both towers, same images, questions and answers, in one process. The rival is plain
transformers without padding: label rows in one batch, chain rows in another, the kernel's own causal attention instead
of a mask, logits at its answers only. `throughline bench step` calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from throughline.benchmarks.timing import BenchRow, alternate, compare
from throughline.benchmarks.workload import Workload, class_list, make_workload, tokenizer_texts
from throughline.errors import ThroughlineError
from throughline.mllm.attention import TreeLayout
from throughline.mllm.chat import Path, join_inputs, user_turn
from throughline.mllm.collating import TreeBatch
from throughline.mllm.flops import Row, shape_of, step_flops
from throughline.mllm.forward import score_trees
from throughline.mllm.geometries import GEOMETRIES, random_mllm
from throughline.mllm.load import Mllm
from throughline.mllm.lora import add_lora, base_of
from throughline.settings import LoraSettings
from throughline.training.methods import METHODS
from throughline.training.objectives import sample_tree

RIVAL = "two separate sequences"
TOLERANCE = 1e-5
"""Largest difference of a branch's NLL, relative where the NLL is above 1."""

LORA = LoraSettings()


@dataclass(frozen=True)
class StepSettings:
    """What is measured; times are per step of `batch` samples. `threads` None leaves torch's own number."""

    geometries: tuple[str, ...] = ("pocket", "bench-40m")
    classes: tuple[int, ...] = (7, 65)
    trials: int = 7
    batch: int = 4
    threads: int | None = None


@dataclass(frozen=True, eq=False)
class SeparateRows:
    """One of the rival's two batches, unpadded: `(samples, tokens)` ids, answers from `answer_start` on."""

    input_ids: Tensor
    image_inputs: dict[str, Tensor]
    answer_start: int
    mean: bool

    def nll(self, model: Any) -> Tensor:
        """`(samples,)`: each answer's NLL, summed or averaged over its tokens."""
        samples, tokens = self.input_ids.shape
        logits = model(
            input_ids=self.input_ids,
            use_cache=False,
            logits_to_keep=torch.arange(self.answer_start - 1, tokens - 1),
            **self.image_inputs,
        ).logits.float()
        targets = self.input_ids[:, self.answer_start :]
        token_nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(samples, -1)
        return token_nll.mean(dim=1) if self.mean else token_nll.sum(dim=1)


def measure_step(settings: StepSettings, told: Callable[[str], None] = lambda line: None) -> list[BenchRow]:
    """A row for every geometry and class list. Raises ThroughlineError when the two ways disagree on an NLL, before
    anything is timed; UsageError on an unknown class list or a batch that the workload cannot fill."""
    lists = [class_list(size) for size in settings.classes]
    texts = tokenizer_texts()
    rows = []
    with _threads(settings.threads):
        for name in settings.geometries:
            mllm = random_mllm(GEOMETRIES[name], texts)
            model = with_random_lora(mllm)
            for classes in lists:
                told(f"{name}, {len(classes)} classes")
                work = make_workload(mllm.chat, GEOMETRIES[name].image_size, classes, settings.batch)
                rows.append(measure_workload(name, mllm, model, work, len(classes), settings))
    return rows


def measure_workload(
    geometry: str, mllm: Mllm, model: Any, work: Workload, classes: int, settings: StepSettings
) -> BenchRow:
    """Checks both ways against each other, then times them."""
    batch, separate = tree_batch(mllm, work), separate_rows(mllm, work)
    difference = largest_difference(model, batch, separate)
    if not difference <= TOLERANCE:
        raise ThroughlineError(
            f"tree and separate sequences differ by {difference:.1e} in NLL, {TOLERANCE:.0e} is allowed",
            geometry,
            "nothing was timed: report it",
        )
    samples = len(work.examples)

    def ours() -> None:
        # Trees are built for every step, as in training; the rival's rows were made once.
        torch.autograd.backward(score_trees(model, tree_batch(mllm, work)).loss_sum() / samples)

    def rival() -> None:
        for rows in separate:
            torch.autograd.backward(rows.nll(model).sum() / samples)

    model.train()  # LoRA's dropout is on, as in training
    seconds = alternate(_from_no_gradient(model, ours), _from_no_gradient(model, rival), settings.trials)
    model.eval()
    shape = shape_of(base_of(model).config)
    ours_flops = step_flops(shape, rows_of_trees(batch), LORA.rank).total
    rival_flops = step_flops(shape, rows_of_paths(separate), LORA.rank).total
    label, chain = separate
    return compare(
        f"step {geometry}, {classes} classes",
        RIVAL,
        *seconds,
        predicted_ratio=rival_flops / ours_flops,
        settings={
            "geometry": geometry,
            "classes": classes,
            "batch": samples,
            "trials": settings.trials,
            **machine_settings(model),
            "lora_rank": LORA.rank,
            "lora_dropout": LORA.dropout,
            "tokens_trees": batch.input_ids.numel(),
            "tokens_label_path": label.input_ids.shape[1],
            "tokens_chain_path": chain.input_ids.shape[1],
            "tokens_label": label.input_ids.shape[1] - label.answer_start,
            "tokens_chain": chain.input_ids.shape[1] - chain.answer_start,
            "gflops_tree": round(ours_flops / 1e9, 3),
            "gflops_separate": round(rival_flops / 1e9, 3),
            "largest_nll_difference": difference,
        },
    )


def machine_settings(model: Any) -> dict[str, Any]:
    """What of machine and libraries decides the times."""
    return {
        "threads": torch.get_num_threads(),
        "device": base_of(model).device.type,
        "dtype": str(base_of(model).dtype).removeprefix("torch."),
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
    }


def with_random_lora(mllm: Mllm) -> Any:
    """The model with LoRA in both towers as training adds it, second factors drawn too: zeros would hide a fault."""
    model = add_lora(mllm.model, LORA, seed=0)
    draw = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(torch.empty(weight.shape).normal_(std=0.02, generator=draw))  # drawn on the CPU
    return model.eval()


def tree_batch(mllm: Mllm, work: Workload) -> TreeBatch:
    """The samples as training makes them: one tree a row."""
    marked = METHODS["mtct"].marked
    trees = [
        sample_tree(mllm.chat, work.prompts, image, example, marked)
        for image, example in zip(work.images, work.examples, strict=True)
    ]
    return mllm.collate([[tree] for tree in trees])


def separate_rows(mllm: Mllm, work: Workload) -> tuple[SeparateRows, SeparateRows]:
    """The same samples for the rival: label rows, chain rows."""
    pairs = list(zip(work.images, work.examples, strict=True))

    def paths(question: str, answers: Sequence[str | None]) -> list[Path]:
        turn = user_turn(question)
        return [mllm.chat.answered(turn, [image], answer) for (image, _), answer in zip(pairs, answers, strict=True)]

    label = paths(work.prompts.label, [example.label for _, example in pairs])
    chain = paths(work.prompts.reasoning, [example.chain for _, example in pairs])
    return _stacked(label, mean=False), _stacked(chain, mean=True)


def largest_difference(model: Any, batch: TreeBatch, separate: tuple[SeparateRows, SeparateRows]) -> float:
    """Over all branches: the difference of both ways' NLLs, divided by the NLL where that is above 1."""
    with torch.no_grad():
        found = score_trees(model, batch)
        branches = zip(batch.sample, batch.names, found.branch_nll().tolist(), strict=True)
        ours = {(sample, name): nll for sample, name, nll in branches}
        rival = {
            (sample, name): float(nll)
            for name, rows in zip(("label", "chain"), separate, strict=True)
            for sample, nll in enumerate(rows.nll(model))
        }
    assert ours.keys() == rival.keys()
    return max(abs(float(ours[key]) - nll) / max(1.0, abs(nll)) for key, nll in rival.items())


def rows_of_trees(batch: TreeBatch) -> list[Row]:
    """For the FLOP count: every row of the batch with its padding, its tiles, and its distinct predicting positions."""
    rows, tokens = batch.input_ids.shape
    marked = torch.bincount(torch.unique(batch.predictors) // tokens, minlength=rows)
    tiles = len(batch.image_inputs["pixel_values"]) // rows
    pairs = batch.attention.pairs() if isinstance(batch.attention, TreeLayout) else None
    return [Row(tokens, tiles, int(count), pairs) for count in marked]


def rows_of_paths(separate: Sequence[SeparateRows]) -> list[Row]:
    """For the FLOP count: every row of the rival's two batches."""
    rows = []
    for part in separate:
        samples, tokens = part.input_ids.shape
        tiles = len(part.image_inputs["pixel_values"]) // samples
        rows += [Row(tokens, tiles, tokens - part.answer_start)] * samples
    return rows


def _stacked(paths: Sequence[Path], mean: bool) -> SeparateRows:
    starts = {path.answer_start for path in paths}
    assert len(starts) == 1, "the workload's samples have prompts and answers of one length"
    ids = torch.stack([torch.from_numpy(path.tokens) for path in paths])
    return SeparateRows(ids, join_inputs([image for path in paths for image in path.images]), starts.pop(), mean)


def _from_no_gradient(model: Any, step: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        model.zero_grad(set_to_none=True)
        step()

    return run


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
