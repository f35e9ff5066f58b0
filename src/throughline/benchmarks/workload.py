"""What the benchmarks compute on: drawn images in a geometry's size, real class lists, the describer's chains.

Only lengths matter to a model with random weights: chains are about what the image shows, labels are of the class
list, whether or not it has what the image shows. Chains and labels come in the lengths that they have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from throughline.chains.class_lists import CLASS_LISTS
from throughline.core.errors import UsageError
from throughline.drawn.concepts import CLASSES
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import Scene, sample_scene
from throughline.drawn.styles import DOMAIN_STYLES, render
from throughline.mllm.chat import Chat, EncodedImage
from throughline.questions.question_set import QuestionSet, make_question_set
from throughline.questions.wording import class_name
from throughline.training.paths import Example

POOL = 300
"""Scenes that are described: enough words for a tokenizer, and images for a step."""

FAULTLESS = DescriberSettings(format_faults=0.0)
"""Faults cut chains short or repeat stages; training never sees those."""


@dataclass(frozen=True, eq=False)
class Workload:
    """Samples of one step: the decoded `pictures`, the same as the vision tower takes them, their labels and chains."""

    prompts: QuestionSet
    pictures: tuple[Image.Image, ...]
    images: tuple[EncodedImage, ...]
    examples: tuple[Example, ...]


def class_list(size: int) -> tuple[str, ...]:
    """The class list of the image set that has `size` classes. Raises UsageError where none has."""
    by_size = {len(classes): classes for classes in CLASS_LISTS.values()}
    if size not in by_size:
        raise UsageError(f"no class list of {size} classes", do=f"choose from {', '.join(map(str, sorted(by_size)))}")
    return by_size[size]


def tokenizer_texts() -> list[str]:
    """What a geometry's tokenizer is trained on: words of chains and of every question become single tokens or few, as
    they are in a tokenizer of 150,000."""
    questions = [make_question_set(classes).reasoning for classes in CLASS_LISTS.values()]
    return [chain for _, _, chain in _described()] + questions * 20


def drawn_pictures(count: int, image_size: int) -> list[Image.Image]:
    """`count` of the pool's scenes, `image_size` pixels a side."""
    return [render(scene, style, image_size) for style, scene, _ in _described()[:count]]


def write_scenes(root: Path, count: int, image_size: int) -> dict[Path, str]:
    """`count` of the pool's scenes as JPEG files, `image_size` pixels a side, by domain: the chain of each file."""
    chains = {}
    for index, (style, scene, chain) in enumerate(_described()[:count]):
        path = root / style / CLASSES[index % len(CLASSES)] / f"{index:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        render(scene, style, image_size).save(path, quality=90)
        chains[path] = chain
    return chains


def chain_lengths(chat: Chat) -> list[int]:
    """Tokens of each of the pool's chains, the end of the turn included."""
    return [len(chat.tokenizer(chain, add_special_tokens=False)["input_ids"]) + 1 for _, _, chain in _described()]


def make_workload(chat: Chat, image_size: int, classes: tuple[str, ...], batch: int) -> Workload:
    """The first `batch` scenes with the chains that the describer wrote, and labels spread over the class list.

    Images are `image_size` pixels a side, or have the shape that `chat` cuts into as many tiles of that size as it cuts
    at most. Raises UsageError where `batch` is above the number of scenes.
    """
    require_batch(batch)
    across, down = tile_grid(chat.tiles)
    scenes = _described()[:batch]
    pictures = tuple(
        render(scene, style, image_size).resize((across * image_size, down * image_size)) for style, scene, _ in scenes
    )
    images = tuple(chat.encode_image(picture, f"scene {index}") for index, picture in enumerate(pictures))
    return Workload(
        prompts=make_question_set(classes),
        pictures=pictures,
        images=images,
        examples=tuple(
            Example((images[index],), class_name(classes[index * len(classes) // batch]), chain)
            for index, (_, _, chain) in enumerate(scenes)
        ),
    )


def require_batch(batch: int) -> None:
    """UsageError where a workload cannot have `batch` samples; for those who would find out late."""
    if batch > POOL:
        raise UsageError(f"a step of {batch} images", do=f"use a batch of at most {POOL}")


def tile_grid(tiles: int) -> tuple[int, int]:
    """Columns and rows of the grid of `tiles` tiles that is nearest to a square, wide rather than tall: 6 is 3 x 2."""
    down = max(rows for rows in range(1, math.isqrt(tiles) + 1) if tiles % rows == 0)
    return tiles // down, down


@lru_cache(maxsize=1)
def _described() -> tuple[tuple[str, Scene, str], ...]:
    """`(style, scene, chain)` of the pool, always the same."""
    found = []
    for index in range(POOL):
        style, cls = DOMAIN_STYLES[index % len(DOMAIN_STYLES)], CLASSES[index % len(CLASSES)]
        scene = sample_scene(0, style, cls, index)
        found.append((style, scene, describe(scene, seed=0, sample_id=f"bench {index}", settings=FAULTLESS)))
    return tuple(found)
