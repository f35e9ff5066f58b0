"""The settings of feature-level methods, free of torch. Unless said otherwise, defaults are those of
facebookresearch/DomainBed (domainbed/hparams_registry.py and scripts/train.py) at b93c22a, but for two that a later
version of it changed without notice: the original ResNet-50, and frozen batch norm.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from throughline.core.errors import ThroughlineError
from throughline.core.files import file_sha256
from throughline.core.settings import Settings
from throughline.mllm.checkpoints import checkpoint_name, fingerprint_checkpoint, resolve_revision
from throughline.runs.unit import CLIP, TIMM
from throughline.training.methods import CLASSIFIERS, CLIP_METHODS, CLIP_ZERO_SHOT, LINEAR_PROBE

PRETRAINED, RANDOM = "pretrained", "random"
WITHOUT_EFFECT = {"loader_workers", "weights"}
"""Not part of a unit's inputs: `loader_workers` changes no number, and weights are known by content (`encoder`), not by
path."""

INSIDE = {"mixstyle", "smos"}
"""Methods that act on what is inside the backbone."""

OF_STEPS = {"steps", "checkpoint_every", "batch_per_domain"}
"""Of what all methods have in common, this alone concerns those on CLIP that are trained step by step."""


def _with_place(template: str) -> str:
    if template.count("{}") != 1:
        raise ValueError(f"{template!r} has not one {{}} for the class: write for example a photo of a {{}}.")
    return template


Template = Annotated[str, AfterValidator(_with_place)]
"""A prompt with `{}` for the class."""


class IrmSettings(Settings):
    """Invariant risk minimisation (`irm`)."""

    weight: float = Field(default=100.0, ge=0)
    """Weight of the penalty after the first steps, in which it is 1."""
    anneal_steps: int = Field(default=500, ge=0)
    """Number of these first steps; the optimiser then starts anew."""


class CoralSettings(Settings):
    """Correlation alignment (`coral`)."""

    weight: float = Field(default=1.0, ge=0)
    """Weight of the penalty (DomainBed: `mmd_gamma`)."""


class MldgSettings(Settings):
    """Meta-learning of domain generalization (`mldg`)."""

    beta: float = Field(default=1.0, ge=0)
    """Weight of the loss on the domains for testing."""
    meta_test: int = Field(default=2, ge=1)
    """Number of source domains that a step takes for testing, at most all but one."""


class MixStyleSettings(Settings):
    """MixStyle (`mixstyle`); defaults of KaiyangZhou/mixstyle-release."""

    probability: float = Field(default=0.5, ge=0, le=1)
    """Share of the passes in which features are mixed."""
    alpha: float = Field(default=0.1, gt=0)
    """Parameter of the beta distribution of an image's share of its own statistics."""
    stages: int = Field(default=2, ge=1)
    """Number of stages (of a transformer: blocks) of the backbone, from its first, behind which features are mixed."""


class SwadSettings(Settings):
    """Averaging of weights over a valley of the validation loss (`swad`); defaults of khanrc/swad."""

    converge: int = Field(default=3, ge=1)
    """The valley begins at the first checkpoint whose loss is the lowest of so many from it on."""
    tolerance: int = Field(default=6, ge=1)
    """Checkpoints in a row with too high a loss where it ends."""
    tolerance_ratio: float = Field(default=0.3, ge=0)
    """How far too high is above the mean loss where it begins, as a share of that (for VLCS they take 0.2)."""


class SmosSettings(Settings):
    """SMOS (`smos`), with the backbone before training in the place of its precursor; defaults of fpsluozi/SMD-SMOS,
    which trains with `lr` 3e-5."""

    weight: float = Field(default=0.15, ge=0)
    """Weight of what keeps the features near those of the precursor (`ld_KL`)."""
    lr_factor: float = Field(default=10.0, gt=0)
    """Learning rate of the variances as a multiple of `lr`. The loss term with the variances is divided by the same
    number."""


class ClipSettings(Settings):
    """What the methods on CLIP have in common."""

    checkpoint: str = "openai/clip-vit-base-patch16"
    """A CLIP or SigLIP checkpoint: a folder, `pocket_clip`, or a name on the hub, from where it is fetched unless it is
    in the cache. Weights have to be safetensors."""
    templates: tuple[Template, ...] = Field(
        default=tuple(f"a {kind} of a {{}}." for kind in ("photo", "picture", "drawing", "painting", "detail")),
        min_length=1,
    )
    """Prompts of `clip_zero_shot`, with `{}` for the class; a class is the mean of their embeddings, each of length 1.
    The default is ours: methods are published with others, data set by data set."""


class LinearProbeSettings(Settings):
    """Logistic regression on image features (`clip_linear_probe`)."""

    c: float = Field(default=0.316, gt=0)
    """Inverse strength of the penalty (that of the example in openai/CLIP)."""
    iterations: int = Field(default=1000, ge=1)
    """Iterations of L-BFGS, at most."""


class CoopSettings(Settings):
    """CoOp, learned context (`coop`, arXiv 2109.01134): stochastic gradient descent with momentum 0.9, a cosine
    schedule."""

    context: int = Field(default=16, ge=1)
    """Learned vectors before the class, which stands at the end; all classes have the same."""
    lr: float = Field(default=2e-3, gt=0)
    """Learning rate of the first step, in the place of `baselines.lr`."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay, in the place of `baselines.weight_decay`."""


class ClipLoraSettings(Settings):
    """CLIP-LoRA (`clip_lora`, arXiv 2405.18541): low-rank changes of queries, keys and values in all layers of both
    encoders; AdamW, a cosine schedule. Defaults of MaxZanella/CLIP-LoRA."""

    rank: int = Field(default=2, ge=1)
    """Rank of both factors."""
    alpha: int = Field(default=1, ge=1)
    """Scale: the change is multiplied by alpha over the root of the rank, as the published code does."""
    dropout: float = Field(default=0.25, ge=0, lt=1)
    """Dropout before the factors, in training."""
    template: Template = "a photo of a {}."
    """The prompt, with `{}` for the class."""
    lr: float = Field(default=2e-4, gt=0)
    """Learning rate of the first step, in the place of `baselines.lr`."""
    weight_decay: float = Field(default=1e-2, ge=0)
    """Weight decay, in the place of `baselines.weight_decay`."""


class ClipPromptsSettings(Settings):
    """Diverse text prompts (`clip_prompts`), a method of ours in the place of DGCLDTP, whose details are not known;
    Adam, a cosine schedule."""

    templates: tuple[Template, ...] = Field(
        default=tuple(
            f"a {manner} of a {{}}."
            for manner in (
                *("photo", "painting", "cartoon", "pencil sketch", "clip art", "diagram", "toy"),
                *("photo at night", "blurred photo", "bright photo"),
            )
        ),
        min_length=2,
    )
    """Prompts in different manners, with `{}` for the class."""
    consistency: float = Field(default=1.0, ge=0)
    """Weight of the divergence between answers about an image and about the same in another manner."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the first step, in the place of `baselines.lr`."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay, in the place of `baselines.weight_decay`."""


class SimplePlusSettings(Settings):
    """A pool of frozen models (`simple_plus`, after SIMPLE+); Adam, a cosine schedule."""

    pool: tuple[str, ...] = ("resnet50.tv_in1k", "vit_base_patch16_224.augreg_in21k_ft_in1k", "convnext_base.fb_in22k")
    """Models besides the CLIP checkpoint: architectures of timm with the tags of their weights. `baselines.image_size`
    holds for them, and `baselines.weights` where it is `random`."""
    hidden: int = Field(default=256, ge=1)
    """Width of the matching network."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of the first step, in the place of `baselines.lr`."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Weight decay, in the place of `baselines.weight_decay`."""


class BaselineSettings(Settings):
    """Feature-level methods: how a classifier on a backbone, or on CLIP, is trained."""

    backbone: str = "resnet50.tv_in1k"
    """An architecture of timm with the tag of its weights, e.g. `vit_base_patch16_224.augreg_in21k_ft_in1k` or
    `resnet10t`."""
    weights: str = PRETRAINED
    """`pretrained` takes the weights of the tag from timm, which downloads them unless they are in its cache. `random`
    draws them. Else a file, `.safetensors` or `.pth`, with the weights of this architecture."""
    image_size: int = Field(default=224, ge=32)
    """Side in pixels to which images are scaled."""
    frozen: bool = False
    """Train only the linear classifier. The features of all images are then computed once for all methods, targets and
    seeds of a run, without augmentation."""
    steps: int = Field(default=5001, ge=1)
    """Optimiser steps."""
    checkpoint_every: int = Field(default=300, ge=1)
    """Steps between two checkpoints, which are validated on the `out` splits of the source domains and from which a
    killed unit resumes (DomainBed: 300, for DomainNet 1000). The last step is one, too."""
    batch_per_domain: int = Field(default=32, ge=2)
    """Images of each source domain in a step."""
    lr: float = Field(default=5e-5, gt=0)
    """Learning rate of Adam."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of Adam."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the features, in training."""
    freeze_batch_norm: bool = True
    """Keep the means and variances of batch norm as they are in the weights."""
    augment: bool = True
    """Augment training images as DomainBed does: crops of 70 to 100 %, mirrored or not, other colours, some grey."""
    loader_workers: int = Field(default=0, ge=0)
    """Processes that read the next images during a step; changes no number."""
    irm: IrmSettings = IrmSettings()
    """Of `irm` alone."""
    coral: CoralSettings = CoralSettings()
    """Of `coral` alone."""
    mldg: MldgSettings = MldgSettings()
    """Of `mldg` alone."""
    mixstyle: MixStyleSettings = MixStyleSettings()
    """Of `mixstyle` alone."""
    swad: SwadSettings = SwadSettings()
    """Of `swad` alone."""
    smos: SmosSettings = SmosSettings()
    """Of `smos` alone."""
    clip: ClipSettings = ClipSettings()
    """Of all methods on CLIP, for which `backbone`, `frozen`, `freeze_batch_norm`, `dropout`, `lr` and `weight_decay`
    have no effect; `weights` and `image_size` have one on `simple_plus` alone, `augment` on `clip_lora` alone."""
    clip_linear_probe: LinearProbeSettings = LinearProbeSettings()
    """Of `clip_linear_probe` alone."""
    coop: CoopSettings = CoopSettings()
    """Of `coop` alone."""
    clip_lora: ClipLoraSettings = ClipLoraSettings()
    """Of `clip_lora` alone."""
    clip_prompts: ClipPromptsSettings = ClipPromptsSettings()
    """Of `clip_prompts` alone."""
    simple_plus: SimplePlusSettings = SimplePlusSettings()
    """Of `simple_plus` alone."""

    def model_of(self, method: str) -> str:
        """What results call a method's backbone or checkpoint."""
        return CLIP + checkpoint_name(self.clip.checkpoint) if method in CLIP_METHODS else TIMM + self.backbone

    def of(self, method: str) -> BaselineSettings:
        """With the learning rate and weight decay that a method has of its own, and no step for one that takes none."""
        group = getattr(self, method, None)
        own = {name: getattr(group, name) for name in ("lr", "weight_decay") if hasattr(group, name)}
        return self.model_copy(update=own | ({"steps": 0} if method == LINEAR_PROBE else {}))

    def inputs(self, method: str) -> dict[str, Any]:
        """All that changes the numbers of a method: what is common to all, its own group, and the content of the
        weights. ThroughlineError where these are no file, and for a method that has no effect on a frozen backbone."""
        if self.frozen and method in INSIDE:
            what = f"{method} changes how the backbone is trained, and it is frozen"
            raise ThroughlineError(what, "baselines.frozen", f"leave {method} out, or set it to false")
        groups = {name for name in type(self).model_fields if isinstance(getattr(self, name), Settings)}
        others = (groups if method in CLASSIFIERS else {"clip", *CLIP_METHODS}) - {method}  # a user's loss may read any
        if method in CLIP_METHODS:
            common = {CLIP_ZERO_SHOT: set(), LINEAR_PROBE: set(), "clip_lora": OF_STEPS | {"augment"}}
            values = self.model_dump(mode="json", include={method, *common.get(method, OF_STEPS)})
            values |= {"templates": self.clip.templates} if method == CLIP_ZERO_SHOT else {}
            values |= {"pool": [own.encoder for own in self.pool]} if method == "simple_plus" else {}
            return values | {"checkpoint": clip_fingerprint(self.clip.checkpoint)}
        return self.model_dump(mode="json", exclude=WITHOUT_EFFECT | others) | self.encoder

    @property
    def encoder(self) -> dict[str, Any]:
        """What a frozen backbone is known by."""
        weights = self.weights if self.weights in {PRETRAINED, RANDOM} else file_sha256(self.file)
        return {"backbone": self.backbone, "weights": weights, "image_size": self.image_size}

    @property
    def pool(self) -> list[BaselineSettings]:
        """These settings for each model of the pool of `simple_plus`."""
        weights = RANDOM if self.weights == RANDOM else PRETRAINED
        return [self.model_copy(update={"backbone": name, "weights": weights}) for name in self.simple_plus.pool]

    @property
    def file(self) -> Path:
        """The file of the weights. ThroughlineError where there is none."""
        path = Path(self.weights).expanduser()
        if not path.is_file():
            do = f"give {PRETRAINED}, {RANDOM} or a file"
            raise ThroughlineError("no such file of weights", f"baselines.weights: {self.weights}", do)
        return path


@cache
def clip_fingerprint(checkpoint: str) -> str:
    """Hash of a CLIP checkpoint's content, or of its commit on the hub."""
    return fingerprint_checkpoint(checkpoint, resolve_revision(checkpoint, hub=True))
