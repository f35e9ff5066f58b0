"""The network of a feature-level method and how it reads images, by the name of the method."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from throughline.baselines.clip import ClipClassifier, Prompts
from throughline.baselines.clip_lora import add_factors
from throughline.baselines.coop import LearnedContext
from throughline.baselines.diverse_prompts import DiversePrompts
from throughline.baselines.images import Read, image_readers
from throughline.baselines.network import Classifier, Network, open_backbone
from throughline.baselines.settings import BaselineSettings, clip_fingerprint
from throughline.baselines.simple_plus import MatchedPool
from throughline.core.seeding import seed_of
from throughline.domains.samples import Sample
from throughline.mllm.clip import ImageEncoder, open_clip
from throughline.training.methods import CLIP_METHODS, LINEAR_PROBE

Freeze = Callable[[Any, nn.Module, Read], Read]
"""`frozen_reader` but for its last arguments: what an encoder is known by, the encoder, and how it reads an image."""


def open_network(
    method: str, settings: BaselineSettings, names: Sequence[str], freeze: Freeze, device: str, seed: int
) -> tuple[Network, Read, Read]:
    """The untrained network for classes of these names, how it reads a training image, and how any other."""
    if method in CLIP_METHODS:
        network, read, read_plain = _on_clip(method, settings, names, freeze, device, seed)
        return network.to(device), read, read_plain
    backbone, read, read_plain = _open_backbone(settings, device)
    width = backbone.num_features
    if settings.frozen:
        read = read_plain = freeze(settings.encoder, backbone, read_plain)
        backbone = nn.Identity()
    torch.manual_seed(seed_of(seed, "head"))
    return Classifier(backbone, width, len(names), settings).to(device), read, read_plain


def _open_backbone(settings: BaselineSettings, device: str) -> tuple[Any, Read, Read]:
    backbone = open_backbone(settings).to(device)
    config = backbone.pretrained_cfg
    return backbone, *image_readers(settings, settings.image_size, config["mean"], config["std"])


def _on_clip(
    method: str, settings: BaselineSettings, names: Sequence[str], freeze: Freeze, device: str, seed: int
) -> tuple[Network, Read, Read]:
    clip = open_clip(settings.clip.checkpoint)
    encoder = ImageEncoder(clip).to(device)
    if method == "clip_lora":
        torch.manual_seed(seed_of(seed, "head"))
        add_factors(clip.model, settings.clip_lora)
        prompts = Prompts(clip, (settings.clip_lora.template,), names)
        read, _ = image_readers(settings, clip.side, clip.processor.image_mean, clip.processor.image_std)
        return ClipClassifier(clip, prompts, encoder), read if settings.augment else clip.read, clip.read
    read, widths = freeze({"clip": clip_fingerprint(settings.clip.checkpoint)}, encoder, clip.read), [clip.width]
    if method == "simple_plus":
        opened = [(own, *_open_backbone(own, device)) for own in settings.pool]
        widths += [backbone.num_features for _, backbone, *_ in opened]
        reads = [read, *(freeze(own.encoder, backbone, plain) for own, backbone, _, plain in opened)]
        read = partial(_one_behind_another, reads)
    torch.manual_seed(seed_of(seed, "head"))
    network: Network
    if method == "simple_plus":
        network = MatchedPool(widths, len(names), settings.simple_plus.hidden)
    elif method == LINEAR_PROBE:
        network = Classifier(nn.Identity(), clip.width, len(names), settings)
    elif method == "clip_prompts":
        network = DiversePrompts(clip, settings.clip_prompts.templates, names)
    elif method == "coop":
        network = ClipClassifier(clip, LearnedContext(clip, names, settings.coop.context))
    else:
        network = ClipClassifier(clip, Prompts(clip, settings.clip.templates, names))
    return network, read, read


def _one_behind_another(reads: Sequence[Read], sample: Sample) -> Tensor:
    return torch.cat([read(sample) for read in reads])
