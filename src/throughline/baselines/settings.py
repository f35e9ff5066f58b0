"""The settings of feature-level methods, free of torch. Unless said otherwise, defaults are those of
facebookresearch/DomainBed (domainbed/hparams_registry.py and scripts/train.py) at b93c22a, but for two that a later
version of it changed without notice: the original ResNet-50, and frozen batch norm.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from throughline.core.errors import ThroughlineError
from throughline.core.files import file_sha256
from throughline.core.settings import Settings
from throughline.runs.unit import TIMM

PRETRAINED, RANDOM = "pretrained", "random"
WITHOUT_EFFECT = {"loader_workers", "weights"}
"""These change time and place, and no number; of the weights it is their content that does."""

INSIDE = {"mixstyle", "smos"}
"""Methods that act on what is inside the backbone."""


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
    """Checkpoints of which the first has the lowest loss where the valley begins."""
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
    """The learning rate of the variances is so many times `lr`; what they are in is divided by it."""


class BaselineSettings(Settings):
    """Feature-level methods: how a classifier on a backbone is trained."""

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

    @property
    def model(self) -> str:
        """What results call the backbone."""
        return TIMM + self.backbone

    def inputs(self, method: str) -> dict[str, Any]:
        """All that changes the numbers of a method: what is common to all, its own group, and the content of the
        weights. ThroughlineError where these are no file, and for a method that has no effect on a frozen backbone."""
        if self.frozen and method in INSIDE:
            what = f"{method} changes how the backbone is trained, and it is frozen"
            raise ThroughlineError(what, "baselines.frozen", f"leave {method} out, or set it to false")
        others = {name for name in type(self).model_fields if isinstance(getattr(self, name), Settings)} - {method}
        values = self.model_dump(mode="json", exclude=WITHOUT_EFFECT | others)
        return values | {"weights": self.weights if self.weights in {PRETRAINED, RANDOM} else file_sha256(self.file)}

    @property
    def file(self) -> Path:
        """The file of the weights. ThroughlineError where there is none."""
        path = Path(self.weights).expanduser()
        if not path.is_file():
            do = f"give {PRETRAINED}, {RANDOM} or a file"
            raise ThroughlineError("no such file of weights", f"baselines.weights: {self.weights}", do)
        return path
