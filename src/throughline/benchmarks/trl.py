"""TRL's `SFTTrainer` on the same samples: the trainer that a user would pick instead, at its best documented setting.

A sample is two rows of a prompt-completion dataset, label and chain. TRL's own sampler deals them out, its own collator
preprocesses and pads, `training_step` runs each micro-batch; the loss is on completions only, nothing is truncated, the
LM head is TRL's fused one, LoRA is peft's own. Packing and padding-free batches it refuses for images. What its rows
say is compared token for token and pixel for pixel with what the trees hold. `step` and `memory` call this.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from throughline.benchmarks.contenders import Contender, row_widths
from throughline.benchmarks.workload import LORA, Key, Workload
from throughline.core.errors import ThroughlineError
from throughline.mllm.chat import Path, user_turn
from throughline.mllm.flops import Row, step_flops
from throughline.mllm.lora import base_of
from throughline.mllm.rms_norm import in_own_way

DEFAULT_PADDING = "TRL SFTTrainer, default padding"
LENGTH_GROUPED = "TRL SFTTrainer, length-grouped"

IGNORED = -100
"""The label that marks a position without loss."""


@dataclass(frozen=True, eq=False)
class TrlStep:
    """A trainer, and the micro-batches of one optimiser step as its own sampler and collator made them; `keys` say
    which sequence stands in each row; `items` are the tokens that the loss is averaged over."""

    trainer: Any
    micro_batches: tuple[dict[str, Tensor], ...]
    keys: tuple[tuple[Key, ...], ...]
    items: Any

    @property
    def model(self) -> Any:
        """The rival's own model: the weights of the trees', adapter layers of its own."""
        return self.trainer.model

    def run(self, index: int) -> None:
        """Forward and backward of one micro-batch."""
        self.trainer.training_step(self.model, dict(self.micro_batches[index]), self.items)

    def nll(self) -> dict[Key, float]:
        """Of every sequence, from the forward pass that the trainer's loss is made of."""
        scores: dict[Key, float] = {}
        for keys, inputs in zip(self.keys, self.micro_batches, strict=True):
            on_device = {name: value.to(self.model.device) for name, value in inputs.items()}
            output = self.model(**on_device, use_cache=False, fused_lm_head=True)
            for key, log_probs, scored in zip(keys, output.log_probs, output.label_mask, strict=True):
                token_nll = -log_probs[scored]
                scores[key] = float(token_nll.mean() if key[1] == "chain" else token_nll.sum())
        return scores

    def rows(self) -> list[Row]:
        """For the FLOP count: every row with its padding, and the positions that TRL's head computes: those with a
        label where Triton runs, elsewhere all but the last."""
        rows = []
        for inputs in self.micro_batches:
            count, tokens = inputs["input_ids"].shape
            tiles = len(inputs["pixel_values"]) // count
            for labels in inputs["labels"][:, 1:]:
                everywhere = self.model.device.type == "cpu"
                rows.append(Row(tokens, tiles, tokens - 1 if everywhere else int(labels.ne(IGNORED).sum())))
        return rows

    def settings(self) -> dict[str, Any]:
        """What the rows are, and whose."""
        rows = self.rows()
        real = sum(int(inputs["attention_mask"].sum()) for inputs in self.micro_batches)
        return {
            "rows": row_widths([inputs["input_ids"].shape for inputs in self.micro_batches]),
            "padding": sum(row.tokens for row in rows) - real,
            "logits": sum(row.marked for row in rows),
            "lora": "peft's layers",
            "trl": str(require_trl().__version__),
        }


def require_trl() -> Any:
    """The module, or a ThroughlineError that says how to get it."""
    try:
        return importlib.import_module("trl")
    except ImportError as error:
        raise ThroughlineError("TRL, the rival, is not installed", do="pip install throughline[bench]") from error


def sft_trainer(work: Workload, grouped: bool) -> Contender:
    """The rival on a workload, with the same frozen weights and adapter. Raises ThroughlineError where TRL is
    not installed, or where a row of its batches is not, token for token, a sequence of the trees."""
    samples = len(work.examples)
    # In a micro-batch of its own a row is never padded: default padding means at least two.
    step = trl_step(work, grouped, rows=samples if grouped else max(2, samples))

    def take_step() -> None:
        for index in range(len(step.micro_batches)):
            step.run(index)

    rows = step.rows()
    flops = trl_flops(work.model, rows)
    settings = {**step.settings(), "gflops": round(flops / 1e9, 3)}
    name, tokens = LENGTH_GROUPED if grouped else DEFAULT_PADDING, sum(row.tokens for row in rows)
    return Contender(name, step.model, take_step, step.nll, tokens, flops, settings)


def trl_step(work: Workload, grouped: bool, rows: int, gradient_checkpointing: bool = False) -> TrlStep:
    """A trainer with micro-batches of `rows` rows for one optimiser step. Raises ThroughlineError as `sft_trainer`."""
    trl, model, paths = require_trl(), work.model, work.paths()
    with tempfile.TemporaryDirectory() as folder, _quiet():
        config = trl.SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=len(paths) // rows,
            # Its own grouping needs to be told lengths where images are cut into tokens only by the collator.
            train_sampling_strategy="group_by_length" if grouped else "random",
            length_column_name="length",
            remove_unused_columns=False,  # the column of lengths is one
            max_length=None,
            completion_only_loss=True,
            loss_type="nll",  # through the fused LM head
            gradient_checkpointing=gradient_checkpointing,
            bf16=False,  # everybody computes in the dtype of the weights
            use_cpu=base_of(model).device.type == "cpu",
            seed=0,
            report_to="none",
            disable_tqdm=True,
        )
        trainer = trl.SFTTrainer(
            model=_same_weights(model),
            args=config,
            train_dataset=_dataset(work, paths),
            processing_class=_processor(work),
            peft_config=_lora_config(model),
        )
        set_peft_model_state_dict(trainer.model, get_peft_model_state_dict(model))
        if gradient_checkpointing:  # as its `train` would
            trainer.model.gradient_checkpointing_enable({"use_reentrant": False})
        steps = config.gradient_accumulation_steps
        batches, items = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), steps, trainer.args.device)
        trainer.current_gradient_accumulation_steps = steps
    inputs = tuple({name: value.cpu() for name, value in batch.items()} for batch in batches)
    return TrlStep(trainer, inputs, _keys_of(inputs, paths), items)


def trl_flops(model: Any, rows: list[Row]) -> int:
    """Forward and backward over the rival's rows; its head keeps no logits and computes them anew backwards."""
    anew = 2 * sum(row.marked for row in rows) * base_of(model).get_output_embeddings().weight.numel()
    return step_flops(model, rows).total + int(anew)


def _same_weights(model: Any) -> Any:
    """The base once more, without adapter: modules and norms of its own around the same frozen tensors."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    with in_own_way(model):  # a copied module would keep what was put into its original
        return copy.deepcopy(model, shared).unload()


def _lora_config(model: Any) -> LoraConfig:
    return LoraConfig(
        r=LORA.rank,
        lora_alpha=LORA.alpha,
        lora_dropout=LORA.dropout,
        target_modules=list(model.targeted_module_names),
        bias="none",
    )


def _processor(work: Workload) -> Any:
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


def _keys_of(micro_batches: tuple[dict[str, Tensor], ...], paths: dict[Key, Path]) -> tuple[tuple[Key, ...], ...]:
    """Which sequence each row is: the one whose tokens, answer and pixels it has."""
    missing = dict(paths)

    def key_of(ids: Tensor, labels: Tensor, pixels: Tensor) -> Key:
        for key, path in missing.items():
            answered = torch.full_like(ids, IGNORED)
            answered[path.answer_start :] = ids[path.answer_start :]
            if (
                ids.tolist() == path.tokens.tolist()
                and torch.equal(labels, answered)
                and torch.equal(pixels, path.images[0].inputs["pixel_values"])
            ):
                del missing[key]
                return key
        raise ThroughlineError(
            "a row of TRL's collator is none of the sequences that the trees hold",
            f"{len(ids)} tokens, {int(labels.ne(IGNORED).sum())} in the loss",
            "nothing was measured: report it",
        )

    keys = []
    for inputs in micro_batches:
        count = len(inputs["input_ids"])
        pixels = inputs["pixel_values"].chunk(count)
        real = inputs["attention_mask"].bool()
        rows = zip(inputs["input_ids"], inputs["labels"], real, pixels, strict=True)
        keys.append(tuple(key_of(ids[kept], labels[kept], tiles) for ids, labels, kept, tiles in rows))
    return tuple(keys)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
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
