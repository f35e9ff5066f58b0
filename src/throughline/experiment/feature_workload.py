"""What feature-level methods compute, counted on networks without weights: for `forecast`, what `workload` is for
language models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from throughline.baselines.network import open_backbone
from throughline.baselines.settings import RANDOM
from throughline.domains.samples import ImageSet
from throughline.experiment.config import RunConfig
from throughline.experiment.costs import Cost
from throughline.experiment.plan import FOLD
from throughline.experiment.workload import ADAPTER_BYTES, ANSWERING, TRAINING, Memory, Phase
from throughline.mllm.clip import ImageEncoder, open_clip
from throughline.questions.wording import class_name
from throughline.runs.unit import EVALUATE
from throughline.training.methods import CLIP_METHODS

FEATURES = "features of "
"""What the name of a phase begins with that a run does once, whatever units need it."""


@dataclass(frozen=True, eq=False)
class FeatureWorkload:
    """FLOPs of an image in each encoder, by its name, and of the prompts of all classes where a gradient goes through
    them; whether the encoder is trained."""

    images: ImageSet
    encoders: Mapping[str, int]
    prompts: int
    parameters: int
    trained: bool
    layers = 0
    paths = None
    notes = ("of feature-level methods encoders alone are counted, and memory without activations",)

    def phases(self, method: str, cost: Cost, kind: str = FOLD) -> tuple[Phase, ...]:
        """Those of a unit; the ones that do nothing are left out."""
        image, asked = sum(self.encoders.values()), cost.images_measured + cost.images_validated
        training = 3 * self.prompts * cost.optimiser_steps
        if self.trained:
            training += image * cost.training_samples * (4 if method == "smos" else 3)
            phases = [Phase(ANSWERING, flops=image * asked)]
        else:
            count, where = len(self.images.samples), self.images.name
            phases = [Phase(f"{FEATURES}{where} by {name}", flops=own * count) for name, own in self.encoders.items()]
        return tuple(phase for phase in (*phases, Phase(TRAINING, flops=training)) if phase.flops)

    def memory(self, method: str, kind: str = FOLD) -> Memory:
        """Weights, with gradients and moments where they are trained."""
        trained = self.trained and kind != EVALUATE
        return Memory(self.parameters * 4, trained * self.parameters * ADAPTER_BYTES, 0, 0, 0)


def count_features(config: RunConfig, images: ImageSet, method: str) -> FeatureWorkload:
    """What units of a method compute on these images. Raises as opening a checkpoint does."""
    settings, models = config.baselines.of(method), dict[str, tuple[Any, int]]()
    prompts, parameters = 0, 0
    if method in CLIP_METHODS:
        clip = open_clip(settings.clip.checkpoint, weights=False)
        models[settings.clip.checkpoint] = ImageEncoder(clip), clip.side
        template = {"coop": "x " * settings.coop.context + "{}", "clip_lora": settings.clip_lora.template}.get(method)
        if template is not None:
            tokens = clip.tokens([template.replace("{}", class_name(name, images.names)) for name in images.classes])
            # a mask would be looked into, and nothing is in it
            prompts = _flops(partial(clip.embed, {"input_ids": tokens["input_ids"]}))
    for own in settings.pool if method == "simple_plus" else () if models else (settings,):
        with torch.device("meta"):
            models[own.backbone] = open_backbone(own.model_copy(update={"weights": RANDOM})), own.image_size
    encoders = {}
    for name, (model, side) in models.items():
        encoders[name] = _flops(partial(model.eval(), torch.zeros(1, 3, side, side, device="meta")))
        parameters += sum(weights.numel() for weights in model.parameters())
    trained = method == "clip_lora" or not (method in CLIP_METHODS or settings.frozen)
    return FeatureWorkload(images, encoders, prompts, parameters, trained)


def _flops(compute: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        compute()
    return int(counter.get_total_flops())
