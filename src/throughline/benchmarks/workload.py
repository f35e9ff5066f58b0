"""What the benches compute on: drawn images in a geometry's size, real class lists, the describer's chains.

Only lengths matter to a model with random weights: chains are about what the image shows, labels are of the class
list, whether or not it has what the image shows. Chains and labels come in the lengths that they have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from PIL import Image

from throughline.benchmarks.timing import machine_settings
from throughline.core.errors import UsageError
from throughline.core.settings import LoraSettings
from throughline.domains.class_lists import DOMAINBED
from throughline.drawn.concepts import CLASSES
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import Scene, sample_scene
from throughline.drawn.styles import DOMAIN_STYLES, render
from throughline.mllm.batch import TreeBatch
from throughline.mllm.chat import Chat, Path, user_turn
from throughline.mllm.geometries import GEOMETRIES, random_mllm
from throughline.mllm.load import Mllm
from throughline.mllm.lora import add_lora
from throughline.questions.question_set import QuestionSet, make_question_set
from throughline.questions.wording import class_name
from throughline.training.methods import BOTH
from throughline.training.paths import Example, PathRenderer

LORA = LoraSettings()

POOL = 300
"""Scenes that are described: enough words for a tokenizer, and images for a step."""

FAULTLESS = DescriberSettings(format_faults=0.0)
"""Faults cut chains short or repeat stages; training never sees those."""

Key = tuple[int, str]
"""A sequence: which sample, and `label` or `chain`."""


@dataclass(frozen=True, eq=False)
class Workload:
    """A model with LoRA, and the samples of one training step: the decoded `pictures`, and as `examples` the same as
    the vision tower takes them, with their labels and chains. `settings` say for a row what decides the numbers of
    every side."""

    mllm: Mllm
    model: Any
    questions: QuestionSet
    pictures: tuple[Image.Image, ...]
    examples: tuple[Example, ...]
    settings: dict[str, Any]

    def batch(self) -> TreeBatch:
        """The samples as training makes them."""
        renderer = PathRenderer(self.mllm.chat, self.questions)
        return self.mllm.collate([[BOTH.tree(renderer, example)] for example in self.examples])

    def paths(self) -> dict[Key, Path]:
        """Every sequence, labels first."""
        questions = {"label": user_turn(self.questions.label), "chain": user_turn(self.questions.reasoning)}
        return {
            (sample, name): self.mllm.chat.answered(question, example.images, getattr(example, name))
            for name, question in questions.items()
            for sample, example in enumerate(self.examples)
        }


def class_list(size: int) -> tuple[str, ...]:
    """The class list of the image set that has `size` classes. Raises UsageError where none has."""
    by_size = {len(classes): classes for classes in DOMAINBED.values()}
    if size not in by_size:
        raise UsageError(f"no class list of {size} classes", do=f"choose from {', '.join(map(str, sorted(by_size)))}")
    return by_size[size]


def random_model(geometry: str, **options: Any) -> Mllm:
    """The geometry with random weights. Its tokenizer is trained on chains and on every question, whose words become
    single tokens or few, as they are in a tokenizer of 150,000."""
    return random_mllm(GEOMETRIES[geometry], tokenizer_texts(), **options)


def tokenizer_texts() -> list[str]:
    """Chains, and every question often enough to be learnt."""
    questions = [make_question_set(classes).reasoning for classes in DOMAINBED.values()]
    return [chain for _, _, chain in described_scenes()] + questions * 20


def drawn_pictures(count: int, image_size: int) -> list[Image.Image]:
    """`count` of the pool's scenes, `image_size` pixels a side."""
    return [render(scene, style, image_size) for style, scene, _ in described_scenes()[:count]]


def chain_lengths(chat: Chat) -> list[int]:
    """Tokens of each of the pool's chains, the end of the turn included."""
    chains = [chain for _, _, chain in described_scenes()]
    return [len(chat.tokenizer(chain, add_special_tokens=False)["input_ids"]) + 1 for chain in chains]


def make_workload(
    mllm: Mllm, model: Any, geometry: str, classes: Sequence[str], batch: int, tiles: int = 1
) -> Workload:
    """The first `batch` scenes with the chains that the describer wrote, and labels spread over the class list.

    Images have the geometry's size, or the shape that is cut into `tiles` tiles of that size. Raises UsageError where
    `batch` is above the number of scenes.
    """
    require_batch(batch)
    side, (across, down) = GEOMETRIES[geometry].image_size, tile_grid(tiles)
    mllm = replace(mllm, chat=Chat(mllm.chat.processor, mllm.chat.image_token_id, tiles=tiles))
    pictures = tuple(picture.resize((across * side, down * side)) for picture in drawn_pictures(batch, side))
    images = tuple(mllm.chat.encode_image(picture, f"scene {index}") for index, picture in enumerate(pictures))
    examples = tuple(
        Example((images[index],), class_name(classes[index * len(classes) // batch]), chain)
        for index, (_, _, chain) in enumerate(described_scenes()[:batch])
    )
    settings = {
        "geometry": geometry,
        "classes": len(classes),
        "batch": batch,
        "tiles": tiles,
        "tiles_with_thumbnail": len(images[0].inputs["pixel_values"]),
        **machine_settings(model),
        "lora_rank": LORA.rank,
        "lora_alpha": LORA.alpha,
        "lora_dropout": LORA.dropout,
    }
    return Workload(mllm, model, make_question_set(tuple(classes)), pictures, examples, settings)


def training_workloads(
    geometries: Sequence[str],
    classes: Sequence[int],
    tiles: Sequence[int],
    batch_of: Callable[[str, int], int],
    device: str = "cpu",
) -> Iterator[Workload]:
    """A workload for every geometry, number of tiles and class list; those of a geometry share one model with LoRA.
    Raises UsageError for a size that no class list has, before a model is made."""
    lists = [class_list(size) for size in classes]
    for geometry in geometries:
        mllm = random_model(geometry)
        mllm.model.to(device)
        model = with_random_lora(mllm)
        for count, names in itertools.product(tiles, lists):
            yield make_workload(mllm, model, geometry, names, batch_of(geometry, count), count)


def require_batch(batch: int) -> None:
    """UsageError where a workload cannot have `batch` samples; for those who would find out late."""
    if batch > POOL:
        raise UsageError(f"a step of {batch} images", do=f"use a batch of at most {POOL}")


def tile_grid(tiles: int) -> tuple[int, int]:
    """Columns and rows of the grid of `tiles` tiles that is nearest to a square, wide rather than tall: 6 is 3 x 2."""
    down = max(rows for rows in range(1, math.isqrt(tiles) + 1) if tiles % rows == 0)
    return tiles // down, down


def with_random_lora(mllm: Mllm, lora: LoraSettings = LORA) -> Any:
    """The model with LoRA in both towers as training adds it, second factors drawn too: zeros would hide a fault."""
    model = add_lora(mllm.model, lora, seed=0)
    draw = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.copy_(torch.empty(weight.shape).normal_(std=0.02, generator=draw))
    return model.eval()


@lru_cache(maxsize=1)
def described_scenes() -> tuple[tuple[str, Scene, str], ...]:
    """`(style, scene, chain)` of the pool, always the same."""
    kinds = [(DOMAIN_STYLES[i % len(DOMAIN_STYLES)], CLASSES[i % len(CLASSES)]) for i in range(POOL)]
    scenes = [sample_scene(0, style, label, index) for index, (style, label) in enumerate(kinds)]
    return tuple(
        (style, scene, describe(scene, seed=0, sample_id=f"bench {index}", settings=FAULTLESS))
        for index, ((style, _), scene) in enumerate(zip(kinds, scenes, strict=True))
    )
