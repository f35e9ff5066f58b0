"""One step of a feature-level method after the other: the classifier, its optimiser, and what a method has besides."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from throughline.baselines.mixstyle import mix_behind
from throughline.baselines.mldg import mldg_gradients
from throughline.baselines.network import Network
from throughline.baselines.objectives import LOSSES, Outputs, erm
from throughline.baselines.settings import BaselineSettings
from throughline.baselines.smos import Precursor
from throughline.training.methods import Method

OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {"coop": partial(SGD, momentum=0.9), "clip_lora": AdamW}
"""By the name of the method; of all others Adam."""


class Learner:
    """Trains a classifier in place. The learning rate of methods on CLIP falls to zero along half a cosine."""

    def __init__(self, network: Network, method: Method, settings: BaselineSettings) -> None:
        self.network, self.settings, self.loss, self.falls = network, settings, method.loss, method.on_clip
        self.device = network.device
        self.precursor = Precursor(network.backbone, settings.smos).to(self.device) if self.loss == "smos" else None
        if self.loss == "mixstyle":
            mix_behind(network.backbone, settings.mixstyle)
        self._function = self.loss if callable(self.loss) else LOSSES.get(str(self.loss), erm)
        self.optimizer = self._new_optimizer()

    def step(self, images: Sequence[Tensor], labels: Sequence[Tensor], number: int) -> float:
        """Takes the step of this number, from 0, on images and labels of each domain; the loss before it."""
        images, labels = ([own.to(self.device) for own in each] for each in (images, labels))
        if self.loss == "irm" and number == self.settings.irm.anneal_steps:
            self.optimizer = self._new_optimizer()  # its moments are those of a much smaller loss
        for group in self.optimizer.param_groups if self.falls else ():
            group["lr"] = self.settings.lr * (1 + math.cos(math.pi * number / self.settings.steps)) / 2
        self.network.train()
        self.optimizer.zero_grad()
        if self.loss == "mldg":
            value = mldg_gradients(self.network, images, labels, self.settings)
        else:
            together, sizes = torch.cat(list(images)), [len(own) for own in labels]
            features, logits = self.network(together)
            outputs = Outputs(features.split(sizes), logits.split(sizes), labels)
            loss = self._function(outputs, self.settings, number)
            if self.precursor is not None:
                loss = loss + self.precursor(together, features)
            loss.backward()
            value = float(loss.detach())
        self.optimizer.step()
        return value

    @property
    def lr(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(weights.numel() for group in self.optimizer.param_groups for weights in group["params"])

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on."""
        beside = {} if self.precursor is None else self.precursor.raw_variances.state_dict()
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "beside": beside}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.precursor is not None:
            self.precursor.raw_variances.load_state_dict(state["beside"])

    def _new_optimizer(self) -> Optimizer:
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        settings, groups = self.settings, [{"params": trained}]
        if self.precursor is not None:
            variances: Any = {"params": list(self.precursor.raw_variances), "lr": settings.lr * settings.smos.lr_factor}
            groups.append(variances)
        make = OPTIMIZERS.get(str(self.loss), Adam)
        return make(groups, lr=settings.lr, weight_decay=settings.weight_decay)
