"""One stage of training: trees in, an adapter out, on `transformers.Trainer`.

The loss of an optimiser step is the mean over the samples of its whole effective batch (Eq. 1), however that batch is
cut into micro-batches. A stage that is killed goes on from its last checkpoint that bears its own completion mark.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from throughline.errors import ThroughlineError
from throughline.files import write_atomically
from throughline.mllm.forward import TreeBatch, score_trees
from throughline.mllm.plan import Collate
from throughline.mllm.tree import Tree
from throughline.settings import StageSettings

VERSION = 1
"""Raised when the numbers of a trained stage change."""

COMPLETE = "complete"
"""Written last into a checkpoint; without it the checkpoint may be half a checkpoint."""

LossLine = dict[str, Any]


class TreeDataset(Dataset[Tree]):
    """Trees by index, built when they are asked for."""

    def __init__(self, size: int, build: Callable[[int], Tree]) -> None:
        self.size, self.build = size, build

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tree:
        return self.build(index)


class TreeTrainer(Trainer):
    """`transformers.Trainer` with the per-sample loss of token trees."""

    parts: dict[str, list[float]]
    loss_is_scaled_for_ga = True  # compute_loss divides by the samples of the whole effective batch itself

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The micro-batches of one optimiser step and how many samples they hold over all devices."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        samples = torch.tensor(sum(batch["samples"] for batch in batches), device=device)
        return batches, self.accelerator.gather(samples).sum()

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the micro-batch's losses over the samples of the effective batch `num_items_in_batch`."""
        batch: TreeBatch = inputs["trees"].to(self.args.device)
        scores = score_trees(model, batch)
        self._note_parts(scores.branch_nll().detach(), batch)
        samples = num_items_in_batch if num_items_in_batch is not None else inputs["samples"]
        # gradients are averaged over devices afterwards
        return scores.loss_sum() * self.accelerator.num_processes / samples

    def _note_parts(self, nll: torch.Tensor, batch: TreeBatch) -> None:
        for name, value in zip(batch.names, nll.tolist(), strict=True):
            self.parts.setdefault(name, []).append(value)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the mean NLL of each kind of branch since the last line, so that checkpoints carry it too."""
        if "loss" in logs:
            logs |= {f"nll_{name}": sum(values) / len(values) for name, values in sorted(self.parts.items())}
            self.parts.clear()
        super().log(logs, *args, **kwargs)


class _Notes(TrainerCallback):
    """Marks whole checkpoints, tells progress, hands out the ends of epochs."""

    def __init__(self, told: Callable[[LossLine], None], after_epoch: Callable[[int], None] | None) -> None:
        self.told, self.after_epoch = told, after_epoch

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is not None and "loss" in logs:
            self.told({**loss_line(logs), "step": state.global_step, "steps": state.max_steps})

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.after_epoch is not None:
            self.after_epoch(round(state.epoch))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        write_atomically(Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE, "")


def loss_line(logs: dict[str, Any]) -> LossLine:
    """A line of `training.jsonl` from a line of the Trainer's log history."""
    parts = {name.removeprefix("nll_"): value for name, value in logs.items() if name.startswith("nll_")}
    return {
        "step": logs.get("step"),
        "epoch": logs["epoch"],
        "loss": logs["loss"],
        "losses": parts,
        "lr": logs["learning_rate"],
    }


def train_stage(
    model: Any,
    dataset: TreeDataset,
    collate: Collate,
    settings: StageSettings,
    *,
    seed: int,
    folder: Path,
    max_steps: int | None = None,
    log_steps: int = 5,
    after_epoch: Callable[[int], None] | None = None,
    told: Callable[[LossLine], None] = lambda line: None,
) -> tuple[int, list[LossLine]]:
    """Trains `model` (LoRA layers in place) in place; returns the number of optimiser steps and the loss lines.

    `max_steps` replaces the epochs (the matched controls). `after_epoch` is called with 1, 2, … while the weights stand
    as they are then. `folder/checkpoints` is gone when the stage is whole.
    """
    micro = min(settings.micro_batch, settings.batch)
    while True:
        try:
            arguments = training_arguments(settings, micro, seed, folder / "checkpoints", max_steps, log_steps)
            return _train(model, dataset, collate, settings, arguments, _Notes(told, after_epoch))
        except torch.OutOfMemoryError as error:
            smaller = micro // 2
            if smaller == 0 or not settings.auto_batch:
                hint = f"set micro_batch to {smaller}, or use --auto-batch" if smaller else "use gradient_checkpointing"
                raise ThroughlineError(f"out of GPU memory with micro_batch {micro}", folder, hint) from error
            logging.getLogger(__name__).warning(
                "out of GPU memory with micro_batch %d: going on with %d", micro, smaller
            )
            micro = smaller
            torch.cuda.empty_cache()


def _train(
    model: Any,
    dataset: TreeDataset,
    collate: Collate,
    settings: StageSettings,
    arguments: TrainingArguments,
    notes: TrainerCallback,
) -> tuple[int, list[LossLine]]:
    checkpoints = Path(arguments.output_dir)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def collated(trees: Sequence[Tree]) -> dict[str, Any]:
        return {"trees": collate([[tree] for tree in trees]), "samples": len(trees)}

    trainer = TreeTrainer(model=model, args=arguments, train_dataset=dataset, data_collator=collated, callbacks=[notes])
    trainer.parts = {}
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_whole_checkpoint(checkpoints))
    model.eval()
    shutil.rmtree(checkpoints, ignore_errors=True)
    lines = [loss_line(logs) for logs in trainer.state.log_history if "loss" in logs]
    return trainer.state.global_step, lines


def training_arguments(
    settings: StageSettings, micro: int, seed: int, folder: Path, max_steps: int | None, log_steps: int
) -> TrainingArguments:
    """Our settings in the words of transformers."""
    return TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=settings.epochs,
        max_steps=max_steps if max_steps is not None else -1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, settings.batch // (micro * max(1, torch.cuda.device_count()))),
        learning_rate=settings.lr,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,
        lr_scheduler_type=settings.schedule,
        max_grad_norm=settings.max_grad_norm,
        optim="adamw_torch",
        bf16=settings.autocast,
        use_cpu=not torch.cuda.is_available(),
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=1,
        logging_strategy="steps",
        logging_steps=log_steps,
        report_to=list(settings.report_to) or "none",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _whole_checkpoint(folder: Path) -> str | None:
    whole = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).is_file()]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None
