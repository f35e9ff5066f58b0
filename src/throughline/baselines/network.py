"""What is trained: a linear classifier on the features of a timm backbone."""

import itertools
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from throughline.baselines.settings import PRETRAINED, RANDOM, BaselineSettings
from throughline.core.errors import ThroughlineError, extra
from throughline.core.nearest import did_you_mean
from throughline.core.seeding import seed_of


class Network(nn.Module):
    """Gives features `(images, width)` and logits `(images, classes)` of images, or of what stands for them."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(itertools.chain(self.parameters(), self.buffers())).device


class Classifier(Network):
    """The backbone, `Identity` where its features are given, then dropout and a linear layer."""

    def __init__(self, backbone: nn.Module, width: int, classes: int, settings: BaselineSettings) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(width, classes)
        self.dropout, self.freeze_batch_norm = nn.Dropout(settings.dropout), settings.freeze_batch_norm

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(images, width)` and logits `(images, classes)` of normalised images `(images, 3, side, side)`."""
        features = self.dropout(self.backbone(images))
        return features, self.head(features)

    def train(self, mode: bool = True) -> "Classifier":
        """As usual, but for batch norm where it is frozen: its layers go on as in evaluation."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def behind_stage(backbone: Any, stage: Mapping[str, Any], use: Callable[[nn.Module, Tensor], Tensor]) -> None:
    """Puts what `use` makes of a stage and its features, `(images, ..., channels)`, in the place of these, at every
    pass from now on. `stage` is of timm's `feature_info`. A pass raises a ThroughlineError for a backbone whose stages
    give anything but features with so many channels as timm says."""

    def replace(module: nn.Module, inputs: Any, output: Any) -> Tensor:
        width = getattr(output, "shape", ())
        channel = 1 if len(width) == 4 and getattr(backbone, "output_fmt", "NCHW") == "NCHW" else -1
        if len(width) < 3 or width[channel] != stage["num_chs"]:
            what = f"{stage['module']} of the backbone gives no features with {stage['num_chs']} channels"
            raise ThroughlineError(what, "baselines.backbone", "take another one, or leave mixstyle and smos out")
        return use(module, output.movedim(channel, -1)).movedim(-1, channel)

    backbone.get_submodule(stage["module"]).register_forward_hook(replace)


def require_backbone(name: str, key: str = "baselines.backbone") -> None:
    """Raises a ThroughlineError, with the config's `key` and the nearest name, for an architecture or a tag of weights
    that timm does not have; and where timm is not installed. Downloads nothing."""
    try:
        import timm
    except ImportError:
        raise ThroughlineError("feature-level methods need timm", do=extra("baselines")) from None
    architecture, where = name.partition(".")[0], f"{key}: {name}"
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models())
        do = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists all"
        raise ThroughlineError("timm has no such architecture", where, do)
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        tags = timm.list_pretrained(f"{architecture}.*")
        do = did_you_mean(name, tags, "its weights") if tags else f"write {architecture}"
        raise ThroughlineError("timm has no such weights of it", where, do) from None


def open_backbone(settings: BaselineSettings) -> Any:
    """The backbone without its classifier: pooled features. Random weights are the same at every call.

    Raises a ThroughlineError for a backbone that timm does not have and for weights that cannot be had.
    """
    require_backbone(settings.backbone)
    import timm

    name, where = settings.backbone, f"baselines.backbone: {settings.backbone}"
    torch.manual_seed(seed_of(0, "backbone"))
    options: dict[str, Any] = {"num_classes": 0, "pretrained": settings.weights != RANDOM}
    if settings.weights not in {PRETRAINED, RANDOM}:
        options["pretrained_cfg_overlay"] = {"file": str(settings.file)}
    if getattr(timm.get_pretrained_cfg(name), "fixed_input_size", False):
        options["img_size"] = settings.image_size
    try:
        return timm.create_model(name, **options)
    except (RuntimeError, OSError, ValueError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        do = "give a file or random as baselines.weights, or another backbone"
        raise ThroughlineError(f"its weights cannot be loaded ({first})", where, do) from error
