"""The settings of model work, typed and documented, free of torch so that light verbs and configs can read them.

Values the RD-MLDG paper states are marked (paper); those it leaves open name where ours come from.
"""

from __future__ import annotations

import math
import shlex
from pathlib import PurePath
from typing import Any, Literal, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Settings(BaseModel):
    """Frozen; an unknown key is an error. A list may be written `a,b`, and one of a single value as that value, so that
    it can be given on a command line."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: as_list(value) if cls._is_list(name) else value for name, value in values.items()}

    @field_validator("*")
    @classmethod
    def _once_each(cls, values: Any) -> Any:
        """Of a doubled seed or domain a mean would say that nothing varies."""
        doubled = [value for at, value in enumerate(values) if value in values[:at]] if type(values) is tuple else []
        if doubled:
            raise ValueError(f"{doubled[0]} stands twice: name it once")
        return values

    @classmethod
    def _is_list(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        return field is not None and get_origin(field.annotation) is tuple


def as_list(value: Any) -> Any:
    """`a,b` and a lone value as a list, so that `--set seeds=0` and `--set methods=cls,mtct` work; else the value."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return [value] if isinstance(value, int) else value


Quantization = Literal["none", "nf4"]
"""How the frozen weights below an adapter are held: as loaded, or the decoder's in 4 bits (QLoRA's normal float)."""


class LoraSettings(Settings):
    """Which linear layers get an adapter, and of what size."""

    rank: int = Field(default=8, ge=1)
    """Rank of both factors (paper: 8)."""
    alpha: int = Field(default=16, ge=1)
    """Scale is alpha / rank (open in the paper; OpenGVLab/InternVL fine-tunes with alpha = 2 rank)."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout before the first factor (open in the paper; OpenGVLab/InternVL's default)."""
    vision: tuple[str, ...] = ("*",)
    """Linear layers of the vision tower to adapt, by name, e.g. `q_proj`; `*` is all, empty none (paper: adapted)."""
    decoder: tuple[str, ...] = ("*",)
    """Linear layers of the decoder to adapt, by name, e.g. `o_proj`; `*` is all, empty is none (paper: adapted)."""


class ModelSettings(Settings):
    """The checkpoint that everything starts from."""

    checkpoint: str = "pocket"
    """`pocket` (ships with the package), a folder, or with `hub` a name on the Hugging Face hub."""
    tiles: int = Field(default=1, ge=1)
    """Most tiles an image is cut into (open in the paper)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in memory."""
    quantization: Quantization = "none"
    """`nf4` holds the decoder's weights in 4 bits (QLoRA), a quarter of the memory; needs `throughline[quantized]`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` is a GPU where there is one."""
    hub: bool = False
    """Allow the checkpoint's download from the Hugging Face hub."""
    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the hub, `main` by default. A run resolves it to a commit first."""
    lora: LoraSettings = LoraSettings()
    """The adapter that training fits."""


class SamplingSettings(Settings):
    """How continuations are drawn."""

    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus: the smallest set of tokens with at least this probability."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Tokens; a continuation that reaches it has finish reason `length`."""
    constrained: bool = False
    """Forbid tokens that no well-formed chain could go on with; needs `throughline[constrained]`."""


class StageSettings(Settings):
    """One stage of training: the first one, or one round of self-labelling."""

    epochs: float = Field(default=3, gt=0)
    """Passes over the stage's samples (paper: 3)."""
    batch: int = Field(default=128, ge=1)
    """Samples behind one optimiser step, over all devices and accumulation steps (paper: 128)."""
    micro_batch: int = Field(default=8, ge=1)
    """Samples in one forward pass, rounded down to a divisor of `batch`; changes memory and time, not the result."""
    auto_batch: bool = False
    """Halve the micro-batch when the device runs out of memory, instead of stopping with a hint."""
    bucket_lengths: bool = True
    """Where the checkpoint's family needs padded rows, cut a batch into micro-batches by length; changes the rounding
    only. Families whose trees share one row have nothing to pad."""
    loader_workers: int = Field(default=0, ge=0)
    """Processes that read images and build samples ahead of the step (Linux, macOS); with 0 the step waits for them.
    Their tensors come through shared memory, which a container may have to be given (`--shm-size`)."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate of AdamW (paper: 5e-4)."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Open in the paper; OpenGVLab/InternVL's fine-tuning scripts use 0.05."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps with rising learning rate (open in the paper; OpenGVLab/InternVL: 0.03)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning-rate schedule (open in the paper; OpenGVLab/InternVL: cosine)."""
    label_reduce: Literal["sum", "mean"] = "sum"
    """Over the label's tokens: `sum` is -log p(y | x) of Eq. 1; which the paper's code uses we do not know."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradient clipping (open in the paper; the default of transformers.Trainer)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    autocast: bool = False
    """Run the forward pass in bfloat16 while the weights stay as loaded."""
    save_steps: int = Field(default=200, ge=1)
    """Optimiser steps between checkpoints that a killed stage can go on from."""
    report_to: tuple[str, ...] = ()
    """Trackers of transformers.Trainer, e.g. `tensorboard`, `wandb`, `trackio`."""

    def steps(self, samples: int) -> int:
        """Optimiser steps of a stage on so many samples."""
        return math.ceil(self.epochs * math.ceil(samples / self.batch))


class WordingSettings(Settings):
    """How the two questions about an image are worded."""

    label: str | None = None
    """The label question, with `{options}` where the classes belong (unset: the paper's)."""
    instruction: str | None = None
    """What follows it in the reasoning question (unset: ours, which names the stages of the chain format)."""

    @field_validator("label")
    @classmethod
    def _with_a_place_for_classes(cls, label: str | None) -> str | None:
        if label is not None and "{options}" not in label:
            raise ValueError("the label question has no {options}: write {options} where the classes belong")
        return label


class SelfLabelling(SamplingSettings):
    """Draws of a round. With defaults of its own: naming one of its keys must not make the others greedy."""

    temperature: float = Field(default=0.7, ge=0)
    """0 is greedy."""


class SamplerSettings(Settings):
    """Who draws the chains of a round: this process, or a server of the round's merged weights."""

    serve: str | None = None
    """Command of an OpenAI-compatible server, e.g. `vllm serve {checkpoint} --port {port} --served-model-name {name}`
    or `transformers serve --port {port} {checkpoint}`; by default none, and this process draws. Faster for large
    models, and texts are then no longer the same to the bit. On one GPU leave room for the model that trains."""
    start_seconds: float = Field(default=600.0, gt=0)
    """Seconds until a server that does not answer is given up."""
    at_once: int = Field(default=64, ge=1)
    """Most requests under way; fewer while the server refuses."""

    @field_validator("serve")
    @classmethod
    def _fillable(cls, serve: str | None) -> str | None:
        if serve is None:
            return None
        try:
            words = shlex.split(serve)
        except ValueError as error:
            raise ValueError(f"the command cannot be read ({error}): mend its quotes") from None
        lacking = [name for name in ("{checkpoint}", "{port}") if not any(name in word for word in words[1:])]
        if lacking:
            raise ValueError(
                f"the command has no {' and no '.join(lacking)}: write for example "
                "'vllm serve {checkpoint} --port {port}'"
            )
        return serve

    @property
    def identity(self) -> dict[str, str]:
        """What of this changes texts: nothing in this process, else the command without the place of its program."""
        if self.serve is None:
            return {}
        program, *words = shlex.split(self.serve)
        return {"serve": shlex.join([PurePath(program).name, *words])}


class TrainingSettings(Settings):
    """Stages of training and the rounds of self-labelling."""

    stage: StageSettings = StageSettings()
    """The first stage and each round."""
    rounds: int = Field(default=3, ge=1)
    """Rounds of self-labelling (paper: N = 3)."""
    rejected: Literal["drop", "keep_last"] = "drop"
    """A sample whose own chain is rejected leaves the round (paper), or keeps its last accepted chain."""
    self_labelling: SelfLabelling = SelfLabelling()
    """How the model's own chains are drawn (open in the paper; OpenGVLab/InternVL's pipeline: 0.7 and 1.0)."""
    sampler: SamplerSettings = SamplerSettings()
    """Who draws them."""

    @model_validator(mode="after")
    def _constrained_here(self) -> TrainingSettings:
        if self.self_labelling.constrained and self.sampler.serve is not None:
            raise ValueError("a server does not know our grammar: drop self_labelling.constrained, or sampler.serve")
        return self


class AnswerSettings(Settings):
    """How a finished model is asked."""

    answers: tuple[Literal["label", "reasoning", "likelihood"], ...] = ("label", "reasoning", "likelihood")
    """Ways to an answer, side by side: which of them the paper's table uses is not known to us."""
    batch: int = Field(default=32, ge=1)
    """Images asked together. Part of a unit's hash, since batched arithmetic rounds differently."""
    label_tokens: int = Field(default=32, ge=1)
    """Most new tokens of a label answer."""
    chain_tokens: int = Field(default=512, ge=1)
    """Most new tokens of a reasoning answer; a chain that reaches it counts as truncated."""
    constrained: bool = False
    """Allow a reasoning answer only tokens that keep it in its format (needs the extra `constrained`)."""
