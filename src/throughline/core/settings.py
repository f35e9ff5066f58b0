"""The settings of model work, typed and documented, free of torch so that light verbs and configs can read them.

Values the RD-MLDG paper states are marked (paper); those it leaves open name where ours come from.
"""

from __future__ import annotations

import math
import shlex
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


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
            raise ValueError(f"{doubled[0]} is given twice: give it once")
        return values

    @classmethod
    def _is_list(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        return field is not None and get_origin(field.annotation) is tuple


def as_list(value: Any) -> Any:
    """`a,b` and a lone value as a list, so that `--set seeds=0` and `--set methods=cls,mtct` work; else the value."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return [value] if isinstance(value, int) else list(value) if isinstance(value, tuple) else value


def _expanded(path: str | None) -> str | None:
    return str(Path(path).expanduser()) if path is not None and path.startswith("~") else path


LocalPath = Annotated[str | None, AfterValidator(_expanded)]
"""A path, with `~` for the home folder, or none."""

Quantization = Literal["none", "nf4"]
"""How the frozen weights below an adapter are held: as loaded, or the decoder's in 4 bits (QLoRA's normal float)."""


class LoraSettings(Settings):
    """Which linear layers get an adapter, and of what size."""

    rank: int = Field(default=8, ge=1)
    """Rank of both factors (paper: 8)."""
    alpha: int = Field(default=16, ge=1)
    """Scale is alpha / rank (open in the paper; OpenGVLab/InternVL fine-tunes with alpha = 2 rank)."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout before the first factor (open in the paper; default of OpenGVLab/InternVL)."""
    vision: tuple[str, ...] = ("*",)
    """Linear layers of the vision tower with an adapter, by name, e.g. `q_proj`; `*` is all, empty none (paper:
    adapted). Of a tower without linear layers, its convolutions."""
    decoder: tuple[str, ...] = ("*",)
    """Linear layers of the decoder with an adapter, by name, e.g. `o_proj`; `*` is all, empty none (paper: adapted)."""


class EndpointSettings(Settings):
    """How a model behind an OpenAI-compatible endpoint is asked."""

    key_env: str = "OPENAI_API_KEY"
    """Environment variable with the API key."""
    image_side: int = Field(default=1024, ge=1)
    """Longest side, in pixels, of the images that are sent; larger images are scaled down."""
    at_once: int = Field(default=64, ge=1)
    """Most requests at the same time for each URL; fewer while it refuses some."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Further parameters of a request, e.g. `{reasoning_effort: low}`; null leaves one out (default: temperature 0, and
    max_tokens as for checkpoints)."""


class ModelSettings(Settings):
    """The base checkpoint."""

    checkpoint: str = "pocket"
    """`pocket` (ships with the package), `smol` (put together from others; needs the extra `smol`), a folder, or
    with `hub` a name on the Hugging Face Hub. `NAME@URL` is a model behind an OpenAI-compatible endpoint, e.g.
    `gpt-4o@https://api.openai.com/v1`; it can only be asked, with label and reasoning path."""
    endpoint: EndpointSettings = EndpointSettings()
    """How a model behind an endpoint is asked."""
    tiles: int = Field(default=1, ge=1)
    """Largest number of tiles that an image is cut into (open in the paper)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights in memory."""
    quantization: Quantization = "none"
    """`nf4` keeps the decoder's weights in 4 bits (QLoRA), for a quarter of the memory; needs the
    extra `quantized`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; `auto` is a GPU if there is one."""
    hub: bool = False
    """Allow the download of the checkpoint from the Hugging Face Hub."""
    revision: str | None = None
    """Branch, tag or commit of a checkpoint on the hub; `main` by default. A run first resolves it to a commit."""
    lora: LoraSettings = LoraSettings()
    """The adapter that is trained."""


class SamplingSettings(Settings):
    """How texts are sampled."""

    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: from the smallest set of tokens with at least this probability."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Most new tokens; a text that reaches this number has finish reason `length`."""
    constrained: bool = False
    """Allow only tokens that can continue a well-formed chain; needs the extra `constrained`."""


class StageSettings(Settings):
    """One stage of training: the first one, or one round of self-labelling."""

    epochs: float = Field(default=3, gt=0)
    """Passes over the samples of the stage (paper: 3)."""
    batch: int = Field(default=128, ge=1)
    """Samples per optimiser step, over all devices and accumulation steps (paper: 128)."""
    micro_batch: int = Field(default=8, ge=1)
    """Samples per forward pass, rounded down to a divisor of `batch`; changes memory and time, not the result."""
    auto_batch: bool = False
    """Halve the micro-batch when memory runs out on the device, instead of stopping with an error."""
    bucket_lengths: bool = True
    """Group samples of similar length into micro-batches, for checkpoints that need padding; changes only rounding.
    It has no effect on checkpoint families that need no padding."""
    loader_workers: int = Field(default=0, ge=0)
    """Processes that prepare the next samples during a step (Linux, macOS); 0 prepares them between steps. They use
    shared memory, of which a container may need more (`--shm-size`)."""
    lr: float = Field(default=5e-4, gt=0)
    """Peak learning rate of AdamW (paper: 5e-4)."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay of AdamW (open in the paper; OpenGVLab/InternVL: 0.05)."""
    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Share of the steps with a rising learning rate (open in the paper; OpenGVLab/InternVL: 0.03)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning-rate schedule (open in the paper; OpenGVLab/InternVL: cosine)."""
    label_reduce: Literal["sum", "mean"] = "sum"
    """How a label's loss combines its tokens (open in the paper; `sum` is -log p(y | x) of its Eq. 1)."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient (open in the paper; default of transformers.Trainer)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    autocast: bool = False
    """Run the forward pass in bfloat16 while the weights stay as loaded."""
    save_steps: int = Field(default=200, ge=1)
    """Optimiser steps between two checkpoints from which a killed stage can resume."""
    report_to: tuple[str, ...] = ()
    """Experiment trackers of transformers.Trainer, e.g. `tensorboard`, `wandb`, `trackio`."""

    def steps(self, samples: int) -> int:
        """Optimiser steps of a stage on so many samples."""
        return math.ceil(self.epochs * math.ceil(samples / self.batch))


Texts = Annotated[
    tuple[str, ...], BeforeValidator(lambda given: [given] if isinstance(given, str) else given), Field(min_length=1)
]
"""Texts, of which a lone one may stand without a list."""


class WordingSettings(Settings):
    """How the two questions about an image are worded."""

    label: str | None = None
    """The label question, with `{options}` in the place of the classes (default: the paper's)."""
    instruction: str | None = None
    """The instruction that follows it in the reasoning question (default: ours, which names the stages of a chain)."""
    frame: str | None = None
    """What stands before the question, e.g. `You are an experienced dermatologist.`; by default nothing."""
    descriptions: dict[Annotated[str, BeforeValidator(str)], Texts] = Field(default_factory=dict)
    """Every class in words, one text or a list, as lines before the question, e.g. `cup: basin, handle`; by default
    none."""

    @field_validator("label")
    @classmethod
    def _with_a_place_for_classes(cls, label: str | None) -> str | None:
        if label is not None and "{options}" not in label:
            raise ValueError("the label question has no {options}: write {options} in the place of the classes")
        return label


class SelfLabelling(SamplingSettings):
    """How the model samples its own chains in a round. Keys that are not given keep the defaults listed here."""

    temperature: float = Field(default=0.7, ge=0)
    """0 is greedy."""


class SamplerSettings(Settings):
    """What writes the chains of a round: the training process, or a server with the merged weights of the round."""

    serve: str | None = None
    """Command of an OpenAI-compatible server, e.g. `vllm serve {checkpoint} --port {port} --served-model-name {name}`
    or `transformers serve --port {port} {checkpoint}`; by default there is none, and the training process writes the
    chains. A server is faster for large models, but its texts cannot be repeated exactly. It shares the GPU."""
    start_seconds: float = Field(default=600.0, gt=0)
    """Seconds to wait for the server to answer before giving up."""
    at_once: int = Field(default=64, ge=1)
    """Most requests at the same time; fewer while the server refuses some."""

    @field_validator("serve")
    @classmethod
    def _fillable(cls, serve: str | None) -> str | None:
        if serve is None:
            return None
        try:
            words = shlex.split(serve)
        except ValueError as error:
            raise ValueError(f"the command cannot be read ({error}): check its quotes") from None
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


class PreferenceSettings(Settings):
    """The loss of counterfactual preference: a sigmoid of how much more the preferred side of a pair has gained on the
    weights at the start of the stage than the rejected one (Eq. 9 of arXiv 2604.15705)."""

    beta: float = Field(default=0.1, gt=0)
    """Slope of the sigmoid (open in the paper; its script: 0.1)."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Assumed share of pairs whose sides are the wrong way round."""
    reduce: Literal["sum", "mean"] = "sum"
    """How an answer's log-probability combines its tokens; `mean` takes its length away (paper's script: sum)."""
    nll: float = Field(default=0.0, ge=0)
    """Weight of the preferred answer's mean NLL beside the preference (paper's script: 0.1; ours: 0)."""
    anchor: float = Field(default=0.0, ge=0)
    """Weight of a term that keeps the preferred answer from losing probability (mDPO, arXiv 2406.11839)."""
    symmetric: bool = False
    """Where the sides have different images: prefer each image's own answer to that of the other image, instead of one
    answer with two images (SymMPO, arXiv 2506.11712)."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Weight of pairs by their source, e.g. `{perception: 0.5}`; 1 for those not named."""


class TrainingSettings(Settings):
    """Training stages and rounds of self-labelling."""

    stage: StageSettings = StageSettings()
    """Settings of the first stage and of each round."""
    preference: PreferenceSettings = PreferenceSettings()
    """Stages of counterfactual preference."""
    rounds: int = Field(default=3, ge=1)
    """Rounds of self-labelling (paper: N = 3)."""
    candidates: int = Field(default=4, ge=2)
    """Chains that the model writes about each image in a round of `cfp_rounds` (ours)."""
    rejected: Literal["drop", "keep_last", "label_only"] = "drop"
    """If a sample's own chain is rejected, drop the sample from the round (paper), keep its last accepted chain, or
    train on its label alone, where labels are learnt (ours). Rounds of preference always drop it."""
    self_labelling: SelfLabelling = SelfLabelling()
    """How the model's own chains are sampled (open in the paper; the pipeline of OpenGVLab/InternVL: 0.7 and 1.0)."""
    sampler: SamplerSettings = SamplerSettings()
    """What writes them."""

    @model_validator(mode="after")
    def _constrained_here(self) -> TrainingSettings:
        if self.self_labelling.constrained and self.sampler.serve is not None:
            raise ValueError("a server cannot use our grammar: remove self_labelling.constrained or sampler.serve")
        return self


AnswerPath = Literal["label", "reasoning", "likelihood", "mean_likelihood", "contrast", "prior"]


class AnswerSettings(Settings):
    """How a trained model is tested."""

    answers: tuple[AnswerPath, ...] = ("label", "reasoning", "likelihood")
    """Answer paths; which of them the paper's table uses is open in the paper. Besides `likelihood` there are
    `mean_likelihood`, the mean over a class name's tokens instead of the sum, `contrast`, the likelihood less that
    without the image, and `prior`, the one without the image: what words alone reach."""
    batch: int = Field(default=32, ge=1)
    """Images per batch. Part of a unit's hash, because another batch size rounds differently."""
    label_tokens: int = Field(default=32, ge=1)
    """Most new tokens of a label answer."""
    chain_tokens: int = Field(default=512, ge=1)
    """Most new tokens of a chain; one that reaches this number counts as truncated."""
    constrained: bool = False
    """Allow only well-formed chains on the reasoning path; needs the extra `constrained`."""
