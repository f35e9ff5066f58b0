"""The network of a feature-level method and how it reads images, by the name of the method."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from throughline.baselines.clip import Clip, ClipClassifier, ImageEncoder, Prompts, open_clip
from throughline.baselines.clip_lora import add_factors
from throughline.baselines.coop import LearnedContext
from throughline.baselines.images import Read, image_readers
from throughline.baselines.network import Classifier, Network, open_backbone
from throughline.baselines.settings import BaselineSettings, clip_fingerprint
from throughline.core.seeding import seed_of
from throughline.training.methods import CLIP_METHODS, LINEAR_PROBE

Freeze = Callable[[Any, nn.Module, Read], Read]
"""`frozen_reader` but for its last arguments: what an encoder is known by, the encoder, and how it reads an image."""


def open_network(
    method: str, settings: BaselineSettings, names: Sequence[str], freeze: Freeze, device: str, seed: int
) -> tuple[Network, Read, Read]:
    """The untrained network for classes of these names, how it reads a training image, and how any other."""
    if method in CLIP_METHODS:
        return _on_clip(method, settings, names, freeze, device, seed)
    backbone: Any = open_backbone(settings).to(device)
    width, config = backbone.num_features, backbone.pretrained_cfg
    read, read_plain = image_readers(settings, settings.image_size, config["mean"], config["std"])
    if settings.frozen:
        about = settings.inputs("")
        about = {name: about[name] for name in ("backbone", "weights", "image_size")}
        read = read_plain = freeze(about, backbone, read_plain)
        backbone = nn.Identity()
    torch.manual_seed(seed_of(seed, "head"))
    return Classifier(backbone, width, len(names), settings).to(device), read, read_plain


def _on_clip(
    method: str, settings: BaselineSettings, names: Sequence[str], freeze: Freeze, device: str, seed: int
) -> tuple[Network, Read, Read]:
    clip = open_clip(settings.clip.checkpoint)
    encoder = ImageEncoder(clip).to(device)
    network: Network
    if method == "clip_lora":
        own = settings.clip_lora
        processor = clip.processor
        side = processor.size.get("shortest_edge") or processor.size["height"]
        read, _ = image_readers(settings, side, processor.image_mean, processor.image_std)
        torch.manual_seed(seed_of(seed, "head"))
        add_factors(clip.model, own)
        network = ClipClassifier(clip, Prompts(clip, (own.template,), names), encoder)
        return network.to(device), read if settings.augment else clip.read, clip.read
    read = freeze({"clip": clip_fingerprint(settings.clip.checkpoint)}, encoder, clip.read)
    torch.manual_seed(seed_of(seed, "head"))
    if method == LINEAR_PROBE:
        network = Classifier(nn.Identity(), clip.width, len(names), settings)
    else:
        network = ClipClassifier(clip, _prompts(method, settings, clip, names))
    return network.to(device), read, read


def _prompts(method: str, settings: BaselineSettings, clip: Clip, names: Sequence[str]) -> nn.Module:
    if method == "coop":
        return LearnedContext(clip, names, settings.coop.context)
    return Prompts(clip, settings.clip.templates, names)
