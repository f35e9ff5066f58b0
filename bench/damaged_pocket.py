"""Damaged copies of the pocket: what is damaged, how strongly, and which cause of errors it is. Called by `damage`."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.linalg import polar
from scipy.stats import ortho_group

from throughline.core.seeding import generator, seed_of
from throughline.drawn.concepts import CLASSES
from throughline.mllm.checkpoints import POCKET, checkpoint_folder

Damage = Literal["tower", "noise", "rotation", "words", "task", "harmless"]
UNNAMED = ("bowl", "coin", "raft", "wagon")
NAMED = tuple(name for name in CLASSES if name not in UNNAMED)
CAUSE: dict[Damage, str | None] = {
    "tower": "visual",
    "noise": "mapping",
    "rotation": "mapping",
    "words": "semantic",
    "task": "semantic",
    "harmless": None,
}
"""The cause of the errors that each damage adds.

tower, noise   noise on every matrix of the vision tower, or of the projector, in standard deviations of the matrix
rotation       what the projector gives is turned: 0 not at all, 1 any which way
words          so many class names are exchanged among one another, in what the decoder reads and says
task           so many class names are exchanged in the table of the images; the checkpoint is as it was
harmless       noise on every matrix, too weak to matter
"""


@dataclass(frozen=True)
class Case:
    """A damaged copy: what was done to it, with what seed."""

    damages: tuple[tuple[Damage, float], ...]
    seed: int

    @property
    def name(self) -> str:
        """`tower-0.5-seed11`."""
        return "-".join([*(f"{damage}-{strength:g}" for damage, strength in self.damages), f"seed{self.seed}"])

    @property
    def causes(self) -> tuple[str, ...]:
        """The truth: none, one or two of CAUSES."""
        return tuple(cause for damage, _ in self.damages if (cause := CAUSE[damage]) is not None)


def write_checkpoint(case: Case, folder: Path) -> None:
    """A copy of the pocket with its weights damaged, in float32."""
    from safetensors.torch import load_file, save_file

    pocket = checkpoint_folder(POCKET)
    assert pocket is not None
    shutil.copytree(pocket, folder, dirs_exist_ok=True)
    weights = {name: weight.float() for name, weight in load_file(pocket / "model.safetensors").items()}
    for damage, strength in case.damages:
        if damage == "rotation":
            rotate_projector(weights, strength, case.seed)
        elif damage == "words":
            exchange_words(weights, folder, exchanged(int(strength), case.seed))
        elif damage != "task":
            within = {"tower": "vision_tower.", "noise": "multi_modal_projector.", "harmless": ""}[damage]
            add_noise(weights, within, strength, case.seed)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def add_noise(weights: dict[str, Any], within: str, strength: float, seed: int) -> None:
    """Gaussian noise on the matrices whose names begin so, in standard deviations of each; embeddings of places are no
    matrices."""
    import torch

    for name in sorted(weights):
        weight = weights[name]
        if name.startswith(within) and weight.ndim > 1 and "position" not in name and "token" not in name:
            draw = torch.Generator().manual_seed(seed_of(seed, "noise", name))
            weights[name] = weight + strength * weight.std() * torch.randn(weight.shape, generator=draw)


def rotate_projector(weights: dict[str, Any], strength: float, seed: int) -> None:
    """Its last layer, behind the orthogonal matrix that is nearest to a blend of none and a drawn one."""
    import torch

    layer = "multi_modal_projector.linear_2"
    width = len(weights[f"{layer}.bias"])
    drawn = ortho_group.rvs(width, random_state=seed)
    turn = torch.from_numpy(polar((1 - strength) * np.eye(width) + strength * drawn)[0]).float()
    for name in ("weight", "bias"):
        weights[f"{layer}.{name}"] = turn @ weights[f"{layer}.{name}"]


def exchange_words(weights: dict[str, Any], tokenizer: Path, meant: dict[str, str]) -> None:
    """The rows of class names among one another: input and output embedding are one matrix, so that the decoder reads
    and says a name where it means another class."""
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained(str(tokenizer))
    rows = weights["language_model.model.embed_tokens.weight"]
    before = rows.clone()
    for word, other in meant.items():
        for form in ("{}", " {}"):
            (place,), (source,) = (
                read(form.format(name), add_special_tokens=False).input_ids for name in (word, other)
            )
            rows[place] = before[source]


def exchanged(count: int, seed: int) -> dict[str, str]:
    """So many class names, drawn, each with the class that it stands for: the next of them."""
    drawn = [NAMED[place] for place in generator(seed, "exchanged").permutation(len(NAMED))[:count]]
    return dict(zip(drawn, [*drawn[1:], drawn[0]], strict=True))
