"""The vision tower of a pocket checkpoint: drawn scenes of auxiliary styles, and training to see in them.

Shared by the makers of both pockets (`pocket.py`, `first_pocket.py`). All heads of this stage are thrown away.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from throughline.core.files import write_json
from throughline.core.seeding import generator
from throughline.drawn.concepts import CLASSES, PARTS
from throughline.drawn.scenes import Scene, sample_scene
from throughline.drawn.styles import part_box, render
from throughline.mllm.geometries import GEOMETRIES
from throughline.mllm.load import Mllm, wrap_mllm

POCKET = GEOMETRIES["pocket"]


@dataclass(frozen=True)
class Sight:
    """What the tower learns from, and for how long."""

    seed: int
    styles: tuple[str, ...]
    scenes: int
    epochs: int
    batch: int
    lr: float


@dataclass(frozen=True, eq=False)
class Drawn:
    """What the tower learns from: `(style, scene)`, pixels `(scenes, 64, 64, 3)`, and for each patch the parts whose
    box it touches `(scenes, patches, parts)`."""

    scenes: list[tuple[str, Scene]]
    pixels: NDArray[np.uint8]
    where: NDArray[np.bool_]


def draw_scenes(sight: Sight) -> Drawn:
    """Styles and classes in turn."""
    chosen = []
    for index in range(sight.scenes):
        style = sight.styles[index % len(sight.styles)]
        cls = CLASSES[index // len(sight.styles) % len(CLASSES)]
        chosen.append((style, sample_scene(sight.seed, f"pocket {style}", cls, index)))
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        pieces = list(pool.map(_draw_piece, [chosen[i : i + 500] for i in range(0, len(chosen), 500)]))
    return Drawn(chosen, np.concatenate([p for p, _ in pieces]), np.concatenate([w for _, w in pieces]))


def _draw_piece(piece: list[tuple[str, Scene]]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    side = POCKET.image_size // POCKET.patch_size
    where = np.zeros((len(piece), side, side, len(PARTS)), dtype=bool)
    for row, (style, scene) in zip(where, piece, strict=True):
        for part in scene.parts:
            left, top, right, bottom = part_box(scene, part, style, POCKET.image_size)
            rows = slice(top // POCKET.patch_size, -(-bottom // POCKET.patch_size))
            row[rows, left // POCKET.patch_size : -(-right // POCKET.patch_size), PARTS.index(part)] = True
    pixels = np.stack([np.asarray(render(scene, style, POCKET.image_size)) for style, scene in piece])
    return pixels, where.reshape(len(piece), side * side, len(PARTS))


def pixels_of(mllm: Mllm, images: NDArray[np.uint8]) -> Callable[[NDArray[np.int64]], Tensor]:
    """Indices → `(n, 3, 64, 64)` as the processor would give them (images have the right size: only normalisation)."""
    processor = mllm.chat.processor.image_processor
    mean = torch.tensor(processor.image_mean)[:, None, None]
    deviation = torch.tensor(processor.image_std)[:, None, None]

    def pixels(index: NDArray[np.int64]) -> Tensor:
        return (torch.from_numpy(images[index]).permute(0, 3, 1, 2).float() / 255 - mean) / deviation

    first = mllm.chat.encode_image(Image.fromarray(images[0]), "first").inputs["pixel_values"]
    assert torch.allclose(pixels(np.array([0])), first, atol=1e-5), "the processor does more than normalise"
    return pixels


def place_patches(embeddings: Any) -> None:
    """Position embeddings start as waves over rows and columns instead of zeros, so that patches know their neighbours
    from the first step. They stay trainable."""
    side, width = POCKET.image_size // POCKET.patch_size, embeddings.position_embeddings.shape[-1]
    place = torch.arange(side).float()
    rate = math.pi / 2 ** (torch.arange(width // 4) / (width // 4) * math.log2(side))  # a wave of 2 to 2 x side patches
    waves = torch.cat([torch.sin(place[:, None] * rate), torch.cos(place[:, None] * rate)], dim=1)
    grid = torch.cat([waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)], dim=2)
    with torch.no_grad():
        embeddings.position_embeddings[0, 1:] = 0.5 * grid.reshape(side * side, width)


def see(
    model: Any,
    drawn: Drawn,
    pixels: Callable[[NDArray[np.int64]], Tensor],
    sight: Sight,
    report: Callable[[str], None],
) -> None:
    """Trains the vision tower: class and parts from its mean patch feature, the parts that lie there from each patch.

    What lies where is a target at every patch; without it the tower learns several times more slowly.
    """
    tower = model.model.vision_tower
    width = model.config.vision_config.hidden_size
    whole, local = nn.Linear(width, len(CLASSES) + len(PARTS)), nn.Linear(width, len(PARTS))
    classes = torch.tensor([CLASSES.index(scene.cls) for _, scene in drawn.scenes])
    parts = torch.from_numpy(drawn.where.any(axis=1)).float()
    tower.requires_grad_(True).train()
    order = generator(sight.seed, "pocket see")
    trained = [*tower.parameters(), *whole.parameters(), *local.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=sight.lr, weight_decay=0.05)
    steps = sight.epochs * (len(classes) // sight.batch)
    schedule = get_cosine_schedule_with_warmup(optimiser, steps // 20, steps)
    step, right = 0, 0.0
    for _ in range(sight.epochs):
        for index in np.split(order.permutation(len(classes)), range(sight.batch, len(classes), sight.batch)):
            if len(index) < sight.batch:
                continue
            features = tower(pixel_values=jitter(pixels(index), order)).last_hidden_state[:, 1:]
            scores = whole(features.mean(dim=1))
            chosen = scores[:, : len(CLASSES)]
            loss = nn.functional.cross_entropy(chosen, classes[index])
            loss = loss + nn.functional.binary_cross_entropy_with_logits(scores[:, len(CLASSES) :], parts[index])
            there = torch.from_numpy(drawn.where[index]).float()
            loss = loss + 4 * nn.functional.binary_cross_entropy_with_logits(local(features), there)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            right = 0.95 * right + 0.05 * (chosen.argmax(1) == classes[index]).float().mean().item()
            if step % 200 == 0:
                report(f"see {step}/{steps} loss {loss.item():.3f} accuracy {right:.3f}")
    tower.eval().requires_grad_(False)


def jitter(pixels: Tensor, draw: np.random.Generator) -> Tensor:
    """Each image's channels scaled and shifted, one in four turned to grey, one in eight to its negative, so that the
    tower leans on shapes more than on colours. (With more negatives little would be left to generalise to.)"""
    count = len(pixels)
    scale = torch.from_numpy(draw.uniform(0.7, 1.3, (count, 3, 1, 1))).float()
    shift = torch.from_numpy(draw.uniform(-0.3, 0.3, (count, 3, 1, 1))).float()
    grey = torch.from_numpy(draw.random((count, 1, 1, 1)) < 1 / 4)
    pixels = torch.where(grey, pixels.mean(dim=1, keepdim=True).expand_as(pixels), pixels)
    sign = torch.from_numpy(np.where(draw.random((count, 1, 1, 1)) < 1 / 8, -1.0, 1.0)).float()
    return sign * (pixels * scale + shift)


def sighted_mllm(
    tokenizer: PreTrainedTokenizerFast, drawn: Drawn
) -> tuple[Mllm, Callable[[NDArray[np.int64]], Tensor]]:
    """A pocket with new weights, and the images of the drawn scenes as its processor gives them, by index."""
    model = InternVLForConditionalGeneration(replace(POCKET, vocabulary=len(tokenizer)).config(tokenizer))
    place_patches(model.model.vision_tower.embeddings)
    mllm = wrap_mllm(model, POCKET.processor(tokenizer), "pocket", "in the making")
    return mllm, pixels_of(mllm, drawn.pixels)


def save_pocket(mllm: Mllm, out: Path, recipe: Mapping[str, Any]) -> None:
    """Weights (bfloat16), processor, config and `recipe.json`."""
    tokenizer = mllm.chat.tokenizer
    mllm.model.to(torch.bfloat16)
    mllm.model.generation_config.eos_token_id = tokenizer.eos_token_id
    mllm.model.generation_config.pad_token_id = tokenizer.pad_token_id
    mllm.model.save_pretrained(str(out))
    mllm.chat.processor.save_pretrained(str(out))
    write_json(out / "recipe.json", recipe)


def run_maker(what: str, make: Callable[[Path, Callable[[str], None]], None]) -> None:
    """The command line of a maker."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make(arguments.out, lambda line: print(line, flush=True))
