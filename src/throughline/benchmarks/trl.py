"""TRL's `SFTTrainer` on the same samples: the trainer that a user would pick instead, at its best documented setting.

A sample is two rows of a prompt-completion dataset, label and chain. TRL's own sampler deals them out, its own collator
preprocesses and pads, `training_step` runs each micro-batch; the loss is on completions only, nothing is truncated, the
LM head is TRL's fused one, LoRA is peft's own. Packing and padding-free batches it refuses for images. What its rows
say is compared token for token and pixel for pixel with what the trees hold. `step` and `memory` call this.
"""

import contextlib
import copy
import importlib
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from throughline.benchmarks.contenders import Contender, MicroBatch
from throughline.benchmarks.workload import LORA, Key, Workload
from throughline.core.errors import ThroughlineError, extra
from throughline.mllm.chat import Path, user_turn
from throughline.mllm.flops import Row
from throughline.mllm.lora import base_of

DEFAULT_PADDING = "TRL SFTTrainer, default padding"
LENGTH_GROUPED = "TRL SFTTrainer, length-grouped"

IGNORED = -100
"""The label that marks a position without loss."""


def require_trl() -> Any:
    """The module, or a ThroughlineError that says how to get it."""
    try:
        return importlib.import_module("trl")
    except ImportError as error:
        raise ThroughlineError("TRL is not installed", do=extra("bench")) from error


def sft_trainer(work: Workload, grouped: bool, gradient_checkpointing: bool = False) -> Contender:
    """The rival on a workload, with the same frozen weights and adapter; its micro-batches are those that its own
    sampler and collator make. Raises ThroughlineError where TRL is not installed, or where a row of its batches is not,
    token for token, a sequence of the trees."""
    trl, samples, paths = require_trl(), len(work.examples), work.paths()
    # In a micro-batch of its own a row is never padded: default padding means at least two.
    at_once = samples if grouped else max(2, samples)
    with tempfile.TemporaryDirectory() as folder, quiet():
        config = trl.SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=at_once,
            gradient_accumulation_steps=len(paths) // at_once,
            # Its own grouping needs to be told lengths where images are cut into tokens only by the collator.
            train_sampling_strategy="group_by_length" if grouped else "random",
            length_column_name="length",
            remove_unused_columns=False,  # the column of lengths is one
            max_length=None,
            completion_only_loss=True,
            loss_type="nll",  # through the fused LM head
            gradient_checkpointing=gradient_checkpointing,
            bf16=False,  # everybody computes in the dtype of the weights
            use_cpu=base_of(work.model).device.type == "cpu",
            seed=0,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = trl.SFTTrainer(
            model=same_weights(work.model),
            args=config,
            train_dataset=_dataset(work, paths),
            processing_class=processor_of(work),
            peft_config=LoraConfig(
                r=LORA.rank,
                lora_alpha=LORA.alpha,
                lora_dropout=LORA.dropout,
                target_modules=list(work.model.targeted_module_names),
            ),
        )
        set_peft_model_state_dict(trainer.model, get_peft_model_state_dict(work.model))
        steps = config.gradient_accumulation_steps
        batches, items = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), steps, trainer.args.device)
        trainer.current_gradient_accumulation_steps = steps
    inputs = [{name: value.cpu() for name, value in batch.items()} for batch in batches]
    keys = _keys_of(inputs, paths)

    def run(batch: dict[str, Tensor]) -> None:
        trainer.training_step(trainer.model, dict(batch), items)

    parts = [MicroBatch(partial(run, batch), batch) for batch in inputs]
    name = LENGTH_GROUPED if grouped else DEFAULT_PADDING
    rows, nll = _rows(trainer.model, inputs), partial(_nll, trainer.model, keys, inputs)
    head = base_of(trainer.model).get_output_embeddings().weight
    details = {
        "padding": sum(row.tokens for row in rows) - sum(int(batch["attention_mask"].sum()) for batch in inputs),
        "lora": "peft's layers",
        "trl": str(trl.__version__),
    }
    shapes = [batch["input_ids"].shape for batch in inputs]
    extra_flops = 2 * sum(row.marked for row in rows) * head.numel()
    return Contender(name, trainer.model, parts, nll, rows, shapes, details, extra_flops)


def _nll(model: Any, keys: Sequence[Sequence[Key]], micro_batches: Sequence[dict[str, Tensor]]) -> dict[Key, float]:
    """Of every sequence, from the forward pass that the trainer's loss is made of."""
    scores: dict[Key, float] = {}
    for of_rows, inputs in zip(keys, micro_batches, strict=True):
        on_device = {name: value.to(model.device) for name, value in inputs.items()}
        output = model(**on_device, use_cache=False, fused_lm_head=True)
        for key, log_probs, scored in zip(of_rows, output.log_probs, output.label_mask, strict=True):
            token_nll = -log_probs[scored]
            scores[key] = float(token_nll.mean() if key[1] == "chain" else token_nll.sum())
    return scores


def _rows(model: Any, micro_batches: Sequence[dict[str, Tensor]]) -> list[Row]:
    """For the FLOP count. TRL's head keeps no logits and computes them anew backwards: at positions with a label where
    Triton runs, elsewhere at all but the last."""
    rows = []
    for inputs in micro_batches:
        count, tokens = inputs["input_ids"].shape
        tiles = len(inputs["pixel_values"]) // count
        scored = inputs["labels"][:, 1:].ne(IGNORED).sum(dim=1).tolist()
        rows += [Row(tokens, tiles, tokens - 1 if model.device.type == "cpu" else marked) for marked in scored]
    return rows


def same_weights(model: Any) -> Any:
    """The base once more, without adapter: modules of its own around the same frozen tensors."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared).unload()


def processor_of(work: Workload) -> Any:
    """The checkpoint's processor, cutting images into tiles as our chat does: TRL's collator has no option for it."""
    chat = work.mllm.chat
    processor = copy.copy(chat.processor)
    processor.images_kwargs = {"crop_to_patches": chat.tiles > 1, "max_patches": chat.tiles}
    return processor


def _dataset(work: Workload, paths: dict[Key, Path]) -> Any:
    """Rows in TRL's standard prompt-completion format. Of conversations it would render more than an answer: the line
    break that InternVL's template writes after each turn."""
    datasets, chat = importlib.import_module("datasets"), work.mllm.chat
    prompts = {
        name: chat.processor.apply_chat_template(user_turn(question), tokenize=False, add_generation_prompt=True)
        for name, question in (("label", work.questions.label), ("chain", work.questions.reasoning))
    }
    return datasets.Dataset.from_list(
        [
            {
                "prompt": prompts[name],
                "completion": getattr(work.examples[sample], name) + chat.end_of_turn,
                "images": [work.pictures[sample]],
                "length": len(path.tokens),
            }
            for (sample, name), path in paths.items()
        ]
    )


def _keys_of(micro_batches: Sequence[dict[str, Tensor]], paths: dict[Key, Path]) -> tuple[tuple[Key, ...], ...]:
    """Which sequence each row is: the one whose tokens, answer and pixels it has."""
    missing = defaultdict(list)
    for key, path in paths.items():
        labels = [IGNORED] * path.answer_start + path.tokens[path.answer_start :].tolist()
        missing[_content(path.tokens.tolist(), labels, path.images[0].inputs["pixel_values"])].append(key)

    def key_of(ids: Tensor, labels: Tensor, pixels: Tensor) -> Key:
        content = _content(ids.tolist(), labels.tolist(), pixels)
        if not missing[content]:
            what = "a row of TRL's collator is none of the sequences that the trees hold"
            where = f"{len(ids)} tokens, {int(labels.ne(IGNORED).sum())} in the loss"
            raise ThroughlineError(what, where, "nothing was measured: report it")
        return missing[content].pop()

    keys = []
    for inputs in micro_batches:
        pixels = inputs["pixel_values"].chunk(len(inputs["input_ids"]))
        rows = zip(inputs["input_ids"], inputs["labels"], inputs["attention_mask"].bool(), pixels, strict=True)
        keys.append(tuple(key_of(ids[real], labels[real], tiles) for ids, labels, real, tiles in rows))
    return tuple(keys)


def _content(ids: list[int], labels: list[int], pixels: Tensor) -> Hashable:
    return tuple(ids), tuple(labels), pixels.numpy().tobytes()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Standard output belongs to the bench, random numbers to whoever seeded them, and nothing is told to TRL's makers,
    to whom a trainer otherwise reports that it was made."""
    before = constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        with torch.random.fork_rng(), contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peft and TRL about each other's coming versions
            yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = before
