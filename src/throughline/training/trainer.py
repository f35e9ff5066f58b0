"""One stage of training: trees in, an adapter out, on `transformers.Trainer`.

The loss of an optimiser step is the mean over the samples of its whole effective batch (Eq. 1), however that batch is
cut into micro-batches: by length, so that rows of one forward pass have little to pad. Samples may be read and built
by processes of their own, ahead of the step. A stage that is killed goes on from its last checkpoint that bears its own
completion mark.
"""

import gc
import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, write_atomically
from throughline.core.settings import StageSettings
from throughline.mllm.batch import TreeBatch
from throughline.mllm.forward import TreeScores, score_trees
from throughline.mllm.lora import adapter_fingerprint, put_adapter
from throughline.mllm.plan import Collate
from throughline.mllm.tree import Tree
from throughline.runs.records import TrainingLine
from throughline.training.arguments import allow_open_files, training_arguments
from throughline.training.objectives import Objective
from throughline.training.paths import Example
from throughline.training.stages.context import StageContext, Trained

COMPLETE = "complete"
"""Written last into a checkpoint; without it the checkpoint may be half a checkpoint."""

CHECKPOINTS = "checkpoints"
"""In a stage's folder: what a killed stage goes on from."""

OnLog = Callable[[int, int, float], None]
"""Called with the step, the number of steps, and the loss of every logged step."""


class TreeDataset(Dataset[Tree | ThroughlineError]):
    """Trees by index, built when they are asked for; a fault in the place of a tree that a user has to mend something
    for, since torch would bring it from another process in the midst of a traceback."""

    def __init__(self, size: int, build: Callable[[int], Tree]) -> None:
        self.size, self.build = size, build

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tree | ThroughlineError:
        try:
            return self.build(index)
        except ThroughlineError as fault:
            return ThroughlineError(str(fault))  # of the plain kind: it has to survive being pickled


class TreeTrainer(Trainer):
    """`transformers.Trainer` with the per-sample loss of token trees."""

    parts: dict[str, list[float]]
    objective: Objective
    lay_out: Collate
    bucket_lengths: bool
    last_batch: TreeBatch | None = None
    samples: torch.Tensor | int = 0
    """Of the steps that were taken here, over all devices; on the device, so that no step waits for the one before."""
    loss_is_scaled_for_ga = True  # compute_loss divides by the samples of the whole effective batch itself

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The micro-batches of one optimiser step and how many samples they hold over all devices.

        As many as were fetched, so that whatever Trainer counts and a checkpoint resumes by stays as it is.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        trees = [tree for batch in batches for tree in batch["trees"]]
        for fault in (tree for tree in trees if isinstance(tree, ThroughlineError)):
            raise fault
        if self.bucket_lengths:
            batches = [{"trees": rows} for rows in cut_by_length(trees, self.args.per_device_train_batch_size)]
        samples = self.accelerator.gather(torch.tensor(len(trees), device=device)).sum()
        self.samples = self.samples + samples
        return batches, samples

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Sum of the micro-batch's losses over the samples of the effective batch `num_items_in_batch`."""
        # Here rather than in the loader: what is laid out is large (images side by side, masks), what comes from
        # another process is copied, and of a whole effective batch only one micro-batch is needed at a time.
        batch = self.lay_out([[tree] for tree in inputs["trees"]]).to(self.args.device)
        self.last_batch = batch
        with self.accelerator.autocast():  # the model's inner parts are called, past what Trainer wraps around it
            scores = score_trees(model, batch)
        self._note_parts(scores)
        samples = num_items_in_batch if num_items_in_batch is not None else len(inputs["trees"])
        loss = self.objective.loss(scores)
        self._require_finite("loss", float(loss.detach()))
        # gradients are averaged over devices afterwards
        return loss * self.accelerator.num_processes / samples

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Of every optimiser step, before it is taken."""
        norm = super()._get_grad_norm(model, grad_norm)
        self._require_finite("gradient norm", float(norm))
        return norm

    @torch.no_grad()
    def require_finite_end(self) -> None:
        """The same of the last batch under the weights that its step left."""
        if self.last_batch is not None:
            with self.accelerator.autocast():
                loss = self.objective.loss(score_trees(self.model.eval(), self.last_batch))
            self._require_finite("loss", float(loss), self.state.global_step)

    def _require_finite(self, what: str, value: float, at: int | None = None) -> None:
        """ThroughlineError instead of weights that are no numbers, which Trainer would go on with and log as 0."""
        if not math.isfinite(value):
            _forget(Path(self.args.output_dir).glob("checkpoint-*"))
            step, rate = self.state.global_step + 1 if at is None else at, self.args.learning_rate
            raise ThroughlineError(
                f"training diverged: the {what} is {value} at step {step} of {self.args.max_steps}; nothing is saved",
                f"training.stage.lr = {rate:g}",
                "lower the learning rate",
            )

    def _note_parts(self, scores: TreeScores) -> None:
        """Each branch's NLL, and the mean probability of its watched tokens."""
        batch = scores.batch
        for name, value in zip(batch.names, scores.branch_nll().tolist(), strict=True):
            self.parts.setdefault(f"nll_{name}", []).append(value)
        tokens = torch.split(scores.token_nll.detach().cpu(), batch.lengths)
        for branch, nll in zip(batch.branches, tokens, strict=True):
            start, end = branch.watched
            if end > start:
                self.parts.setdefault(f"class_{branch.name}", []).append(float((-nll[start:end]).exp().mean()))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the means of what was logged since the last line, so that checkpoints carry them too."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in sorted(self.parts.items())}
            self.parts.clear()
        super().log(logs, *args, **kwargs)


def cut_by_length(trees: Sequence[Tree], size: int) -> list[list[Tree]]:
    """Micro-batches of `size` trees, the last one of what is left: the longest first, so that memory that will not
    suffice runs out at once. Trees that fit into one micro-batch keep their order."""
    if len(trees) > size:
        trees = sorted(trees, key=len, reverse=True)
    return [list(trees[start : start + size]) for start in range(0, len(trees), size)]


class _Notes(TrainerCallback):
    """Marks whole checkpoints, reports progress, hands out the ends of epochs."""

    def __init__(self, on_log: OnLog, after_epoch: Callable[[int], None] | None) -> None:
        self.on_log_line, self.after_epoch = on_log, after_epoch

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs is not None and "loss" in logs:
            self.on_log_line(state.global_step, state.max_steps, logs["loss"])

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # Before the checkpoint is written, so that whoever goes on from it finds the loss lines and epochs up to it.
        if control.should_save:
            control.should_log = True
        ended = float(state.epoch).is_integer() or state.global_step >= state.max_steps
        if ended and self.after_epoch is not None:
            self.after_epoch(math.ceil(state.epoch))

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir)
        newest = folder / f"checkpoint-{state.global_step}"
        write_atomically(newest / COMPLETE, "")
        _forget(checkpoint for checkpoint in folder.glob("checkpoint-*") if checkpoint != newest)


def _training_line(logs: dict[str, Any], stage: str, number: int) -> TrainingLine:
    """A line of `training.jsonl` from a line of the Trainer's log history."""
    return TrainingLine(
        stage=stage,
        round=number,
        step=logs["step"],
        epoch=logs["epoch"],
        loss=logs["loss"],
        losses=_noted(logs, "nll_"),
        class_probability=_noted(logs, "class_"),
        lr=logs["learning_rate"],
    )


def _noted(logs: dict[str, Any], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in logs.items() if name.startswith(prefix)}


def train_examples(
    context: StageContext,
    model: Any,
    objective: Objective,
    examples: Sequence[Callable[[], Example]],
    *,
    folder: Path,
    number: int = 0,
    after_epoch: Callable[[int], None] | None = None,
) -> tuple[Trained, list[TrainingLine]]:
    """Trains `model` on the objective over these examples, which are built when they are needed.

    `number` is that of a round, 0 for a stage on labels and a teacher's chains. Returns what it took and the loss
    lines.
    """
    mllm, renderer, settings = context.mllm, context.renderer, context.settings.stage
    name = f"round {number}" if number else "first" if context.position == 0 else f"stage {context.position + 1}"

    def tree(index: int) -> Tree:
        return objective.tree(renderer, examples[index]())

    references = _reference_scores(context, model, tree, len(examples)) if objective.has_reference else None
    dataset = TreeDataset(
        len(examples), tree if references is None else lambda index: tree(index).with_references(references[index])
    )
    return train_stage(
        model,
        dataset,
        mllm.collate,
        settings.model_copy(update={"bucket_lengths": settings.bucket_lengths and mllm.plan.pads}),
        objective=objective,
        name=name,
        number=number,
        seed=context.stage_seed(number),
        folder=folder,
        max_steps=context.max_steps,
        after_epoch=after_epoch,
        on_log=lambda step, of, loss: context.report_progress(f"{name} stage: step {step}/{of}, loss {loss:.3f}"),
    )


@torch.no_grad()
def _reference_scores(
    context: StageContext, model: Any, tree: Callable[[int], Tree], count: int
) -> list[tuple[float, ...]]:
    """The reduced NLL of every branch of every example's tree under the weights as they are now. What lies in the
    context's folder of references is not computed again: not after a kill, nor for another unit."""
    model.eval()
    device, autocast = model.device.type, context.settings.stage.autocast  # as the loss is computed
    weights = [context.mllm.fingerprint, adapter_fingerprint(model), device, *["autocast"] * autocast]
    scores = []
    for own in map(tree, range(count)):
        kept = context.references / f"{content_hash([*weights, *own.content])}.json"
        if not kept.is_file():
            batch = context.mllm.collate([[own]]).to(model.device)
            with torch.autocast(device, torch.bfloat16, enabled=autocast):
                score = score_trees(model, batch).branch_nll()
            write_atomically(kept, json.dumps(score.tolist()))
        scores.append(tuple(json.loads(kept.read_text())))
    return scores


def train_stage(
    model: Any,
    dataset: TreeDataset,
    collate: Collate,
    settings: StageSettings,
    *,
    objective: Objective,
    seed: int,
    folder: Path,
    name: str = "first",
    number: int = 0,
    max_steps: int | None = None,
    log_steps: int = 5,
    after_epoch: Callable[[int], None] | None = None,
    on_log: OnLog = lambda step, steps, loss: None,
) -> tuple[Trained, list[TrainingLine]]:
    """Trains `model` (LoRA layers in place) in place; returns what it took and the loss lines, which bear the stage's
    name and the number of its round.

    `max_steps` replaces the epochs (the matched controls). `after_epoch` is called with 1, 2, … while the weights stand
    as they are then; the last one may be the part of an epoch. `folder/checkpoints` stays until `forget_checkpoints`.
    Raises ThroughlineError when the device's memory does not suffice.
    """
    micro = _divisor(settings.batch, settings.micro_batch)
    steps = max_steps if max_steps is not None else settings.steps(len(dataset))
    device = next(model.parameters()).device
    start = _trainable(model) if settings.auto_batch else {}
    while True:
        try:
            arguments = training_arguments(settings, micro, seed, folder / CHECKPOINTS, steps, log_steps, device)
            notes = _Notes(on_log, after_epoch)
            trained, logs = _train(model, dataset, collate, settings, arguments, objective, notes)
            return trained, [_training_line(line, name, number) for line in logs]
        except torch.OutOfMemoryError as error:
            smaller = _divisor(settings.batch, micro // 2)
            if smaller == 0 or not settings.auto_batch:
                hint = f"set micro_batch to {smaller}, or use --auto-batch" if smaller else "use gradient_checkpointing"
                raise ThroughlineError(f"out of GPU memory with micro_batch {micro}", folder, hint) from error
            logging.getLogger(__name__).warning(
                "out of GPU memory with micro_batch %d: going on with %d", micro, smaller
            )
            micro = smaller
        # Steps may have been taken already: those since the last checkpoint are taken again.
        model.load_state_dict(start, strict=False)
        gc.collect()  # only here, past the exception, has everything let go of the failed step's tensors
        torch.cuda.empty_cache()


def forget_checkpoints(folder: Path) -> None:
    """Removes a stage's checkpoints, once what it ended with is written elsewhere."""
    _forget((folder / CHECKPOINTS).glob("checkpoint-*"))
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _train(
    model: Any,
    dataset: TreeDataset,
    collate: Collate,
    settings: StageSettings,
    arguments: TrainingArguments,
    objective: Objective,
    notes: TrainerCallback,
) -> tuple[Trained, list[dict[str, Any]]]:
    checkpoints = Path(arguments.output_dir)
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if arguments.dataloader_num_workers:
        allow_open_files()
    options = {"train_dataset": dataset, "data_collator": lambda trees: {"trees": trees}, "callbacks": [notes]}
    trainer = TreeTrainer(model=model, args=arguments, **options)
    trainer.parts, trainer.objective, trainer.lay_out = {}, objective, collate
    trainer.bucket_lengths = settings.bucket_lengths
    trainer.remove_callback(PrinterCallback)
    checkpoint = _whole_checkpoint(checkpoints)
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")) if checkpoint is not None else None
    began = time.monotonic()
    parameters = sum(weights.numel() for weights in model.parameters() if weights.requires_grad)
    if checkpoint is not None and state is not None and state.global_step >= state.max_steps:
        put_adapter(model, checkpoint)  # `train` would take one step too many in the middle of an epoch
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        state = trainer.state
        trainer.require_finite_end()
    samples = int(trainer.samples)  # waits until the device has taken the last step
    seconds = time.monotonic() - began if samples else 0.0
    model.eval()
    trained = Trained(state.global_step, parameters, samples, seconds)
    return trained, [logs for logs in state.log_history if "loss" in logs]


def _whole_checkpoint(folder: Path) -> Path | None:
    whole = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).is_file()]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2])) if whole else None


def _forget(checkpoints: Iterable[Path]) -> None:
    """The mark goes first: what a kill leaves of a checkpoint must not pass for a whole one."""
    for checkpoint in list(checkpoints):
        (checkpoint / COMPLETE).unlink(missing_ok=True)
        shutil.rmtree(checkpoint, ignore_errors=True)


def _divisor(batch: int, most: int) -> int:
    """The largest divisor of `batch` that is not above `most`, so that micro-batches make up just one batch; or 0."""
    return next((size for size in range(min(batch, most), 0, -1) if batch % size == 0), 0)


def _trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}
