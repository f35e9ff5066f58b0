"""Feature maps for training the projector of `smol` (`smol_projector.py`): pseudo-maps of ImageNet's classes, made from
the tower's own weights without a photograph, and real maps of emoji that open_styles does not have.

The tower's last layer is f = min(relu(norm(A h)), 6), h of 49 positions and 320 channels. Pseudo-maps are drawn in h:
smooth Gaussian noise, or the map of an emoji made fainter, moved along the covariance until the tower's classifier sees
the class with a drawn certainty. The covariance starts from emoji's correlations and gets the variances that the
tower's batch norms keep of ImageNet.
"""

import io
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from throughline.domains.fetching.sources import Package, obtain
from throughline.domains.fetching.unpacking import unpack
from throughline.domains.open_styles.drawing import draw
from throughline.domains.open_styles.pictures import RULES, find_family, read_concepts

FAMILIES = ("noto", "fluent_3d", "twemoji", "openmoji")
KEPT_GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
SIDE, STEPS = 7, 12
"""Rows and columns of a map; steps at most towards a class."""


class FeatureMaps:
    """Draws maps that the tower's classifier takes for a class, and turns h into features f."""

    def __init__(self, tower: Any, real: Tensor) -> None:
        """`tower` is timm's EfficientNet-Lite with its classifier, `real` `(images, 49, 320)` maps h of pictures."""
        norm, self.mix = tower.bn2, tower.conv_head.weight.detach()[:, :, 0, 0]
        self.scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
        self.shift = (norm.bias - norm.running_mean * self.scale).detach()
        self.classifier, self.bias = tower.classifier.weight.detach(), tower.classifier.bias.detach()
        self.real = real
        spread = tower.blocks[-1][-1].bn3.weight.detach().abs()
        self.root = _fitted_root(real, spread, self.mix, norm.running_var)
        self.covariance = self.root @ self.root.T
        place = torch.stack(torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij"), -1).view(-1, 2)
        # as measured on emoji and two photographs: neighbours .87, two apart .6 to .7, any two positions .3
        self.nearness = 0.3 + 0.7 * torch.exp(-torch.cdist(place, place).pow(2) / 2.2**2)
        self.place = place
        white = _maps_of(tower, torch.ones(1, 3, 224, 224))
        grey = _maps_of(tower, torch.zeros(1, 3, 224, 224))
        self.blank = torch.cat([white, white, grey])

    def features(self, maps: Tensor) -> Tensor:
        """h `(n, 49, 320)` → f `(n, 49, 1280)`, what the projector sees."""
        return self._before(maps).clamp(0, 6)

    def logits(self, maps: Tensor) -> Tensor:
        """The classifier's, `(n, 1000)`."""
        logits: Tensor = self.features(maps).mean(1) @ self.classifier.T + self.bias
        return logits

    def of_classes(self, classes: Sequence[int], draw: torch.Generator, places: Tensor | None = None) -> Tensor:
        """A map h `(n, places, 320)` of each class, at some or all of the 49 positions, moved until it is seen with a
        probability of .4 to .92 or `STEPS` are taken."""
        places = torch.arange(SIDE**2) if places is None else places
        maps, strength = self._start(len(classes), draw, places)
        nearness = self.nearness[places][:, places]
        certain = torch.rand(len(classes), generator=draw) * 3 - 0.5
        chosen = torch.as_tensor(classes)
        rows = self.classifier[chosen][:, None] / len(places) * self.scale
        for _ in range(STEPS):
            before = self._before(maps)
            logits = before.clamp(0, 6).mean(1) @ self.classifier.T + self.bias
            own = logits.gather(1, chosen[:, None])
            lacking = certain - (own - logits.scatter(1, chosen[:, None], -1e9).logsumexp(1, keepdim=True))[:, 0]
            if not (lacking > 0).any():
                break
            # the logit's gradient in h, with a soft edge where the relu has none, along the covariance
            gradient = (torch.sigmoid(before / 0.7) * (before < 6) * rows) @ self.mix
            way = strength * (nearness @ (strength * gradient @ self.covariance))
            gain = (gradient * way).flatten(1).sum(1).clamp(min=1e-6)
            step = (0.7 * lacking).clamp(0.5, 4) * (lacking > 0)
            maps = maps + way * (step / gain)[:, None, None]
        return maps

    def _start(self, count: int, draw: torch.Generator, places: Tensor) -> tuple[Tensor, Tensor]:
        """Maps h of nothing in particular, and how strong each position is: an ellipse is, or where the emoji is."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(*shape, generator=draw)

        width = self.root.shape[0]
        centre, radius = uniform(1.5, 4.5, count, 1, 2), uniform(1.2, 3.8, count, 1, 2)
        inside = torch.sigmoid(4 - 4 * ((self.place[places] - centre) / radius).pow(2).sum(-1).sqrt())[..., None]
        strength = 0.5 + 0.9 * inside
        strength = strength / strength.pow(2).mean(1, keepdim=True).sqrt()
        noise = torch.randn(count, len(places), width, generator=draw)
        # heavy tails (Student's t, 4 degrees of freedom), as real maps have them
        tails = torch.randn(count, 1, width, 4, generator=draw).pow(2).mean(-1).rsqrt().clamp(max=3)
        smooth = torch.linalg.cholesky(self.nearness[places][:, places] + 1e-3 * torch.eye(len(places)))
        drawn = uniform(0.3, 0.65, count, 1, 1) * strength * ((smooth @ (noise * tails)) @ self.root.T)
        blank = self.blank[torch.randint(len(self.blank), (count,), generator=draw)][:, places]
        on_blank = (uniform(0, 1, count, 1, 1) < 0.5).float() * (1 - inside)
        drawn = drawn * (1 - on_blank) + blank * on_blank
        first, second = (self.real[torch.randint(len(self.real), (count,), generator=draw)] for _ in range(2))
        share = uniform(0, 0.5, count, 1, 1)
        taken = uniform(0.3, 0.8, count, 1, 1) * ((1 - share) * first + share * second)[:, places]
        there = taken.norm(dim=-1, keepdim=True)
        there = (there / there.mean(1, keepdim=True)).clamp(0.3, 2)
        from_real = uniform(0, 1, count, 1, 1) < 0.3
        return torch.where(from_real, taken, drawn), torch.where(from_real, there, strength)

    def _before(self, maps: Tensor) -> Tensor:
        before: Tensor = maps @ (self.mix.T * self.scale) + self.shift
        return before


def _fitted_root(real: Tensor, spread: Tensor, mix: Tensor, variances: Tensor) -> Tensor:
    """A root of a covariance of h, starting from the pictures' correlations, half shrunk to none: its own variances and
    those of A h are brought to what the tower's batch norms keep."""
    covariance = torch.cov(real.flatten(0, 1).T)
    deviation = covariance.diag().sqrt()
    correlation = 0.5 * covariance / deviation.outer(deviation) + 0.5 * torch.eye(len(spread))
    with torch.enable_grad():
        root = torch.linalg.cholesky(correlation * spread.outer(spread)).requires_grad_(True)
        optimiser = torch.optim.Adam([root], lr=0.02)
        for _ in range(300):
            off = (mix @ root).pow(2).sum(1).log() - variances.log()
            own = root.pow(2).sum(1).log() - 2 * spread.log()
            optimiser.zero_grad()
            (off.pow(2).mean() + own.pow(2).mean()).backward()
            optimiser.step()
    fitted: Tensor = root.detach()
    return fitted


@torch.no_grad()
def _maps_of(tower: Any, pixels: Tensor) -> Tensor:
    """h `(n, 49, 320)` of images `(n, 3, 224, 224)`."""
    found = list[Tensor]()
    hook = tower.blocks.register_forward_hook(lambda module, given, output: found.append(output.detach()))
    try:
        for part in torch.split(pixels, 16):
            tower.forward_features(part)
    finally:
        hook.remove()
    return torch.cat(found).flatten(2).transpose(1, 2)


def read_emoji() -> tuple[list[tuple[str, str]], np.ndarray]:
    """Name and subgroup of every emoji that is no class of open_styles, and its picture `(224, 224, 3)`, in several
    families."""
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("unicode", *FAMILIES):
            about = RULES["archives"][name]
            package = Package(name, about["sha256"], about["bytes"], tuple(about["sources"]))
            unpack(obtain(package), Path(scratch, name), re.compile(about["files"]).search)
        text = next(Path(scratch, "unicode").rglob("emoji-test.txt")).read_text("utf-8")
        kept = "".join(
            part
            for part in re.split(r"^(?=# group: )", text, flags=re.M)
            if part.startswith(tuple(f"# group: {g}" for g in KEPT_GROUPS))
        )
        subgroups = re.findall(r"^# subgroup: (.+)$", kept, re.M)
        concepts = read_concepts(kept, {name: name for name in subgroups if name not in RULES["subgroups"]})
        named, pictures = list[tuple[str, str]](), list[np.ndarray]()
        for family in FAMILIES:
            for code, picture in sorted(find_family(Path(scratch, family), concepts).items()):
                named.append(concepts[code])
                png = draw(picture | {"scene": False})
                pictures.append(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))
    return named, np.stack(pictures)


def picture_maps(tower: Any, pictures: np.ndarray) -> Tensor:
    """h of pictures, `(n, 49, 320)`."""
    return _maps_of(tower, torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1)
