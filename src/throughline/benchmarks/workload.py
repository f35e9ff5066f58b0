"""What the benchmarks compute on: drawn images in a geometry's size, real class lists, the describer's chains.

Only lengths matter to a model with random weights: chains are about what the image shows, labels are of the class
list, whether or not it has what the image shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from PIL import Image

from throughline.chains.class_lists import CLASS_LISTS
from throughline.chains.prompts import Prompts, class_name, make_prompts
from throughline.drawn.concepts import CLASSES
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import Scene, sample_scene
from throughline.drawn.styles import DOMAIN_STYLES, render
from throughline.errors import UsageError
from throughline.mllm.chat import Chat, EncodedImage
from throughline.training.objectives import Example

POOL = 300
"""Scenes whose chains are written to choose from: enough for tens of one length."""

FAULTLESS = DescriberSettings(format_faults=0.0)
"""Faults cut chains short or repeat stages; training never sees those."""

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Workload:
    """Samples whose labels all have one length in tokens, and whose chains all have one, so that no row is padded."""

    prompts: Prompts
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
    questions = [make_prompts(classes).reasoning for classes in CLASS_LISTS.values()]
    return [chain for _, _, chain in _described()] + questions * 20


def drawn_pictures(count: int, image_size: int) -> list[Image.Image]:
    """`count` of the pool's scenes, `image_size` pixels a side."""
    return [render(scene, style, image_size) for style, scene, _ in _described()[:count]]


def chain_lengths(chat: Chat) -> list[int]:
    """Tokens of each of the pool's chains, the end of the turn included."""
    return [len(chat.tokenizer(chain, add_special_tokens=False)["input_ids"]) + 1 for _, _, chain in _described()]


def make_workload(chat: Chat, image_size: int, classes: tuple[str, ...], batch: int) -> Workload:
    """`batch` samples, images `image_size` pixels a side; chains as near to the describer's median length as `batch`
    chains of one length are to be had."""

    def tokens(text: str) -> int:
        return len(chat.tokenizer(text, add_special_tokens=False)["input_ids"])

    described = _described()
    chosen = _of_one_length(described, [tokens(chain) for _, _, chain in described], batch)[:batch]
    labels = [class_name(name) for name in classes]
    labels = _of_one_length(labels, list(map(tokens, labels)), 1)
    images = tuple(
        chat.encode_image(render(scene, style, image_size), f"scene {index}")
        for index, (style, scene, _) in enumerate(chosen)
    )
    examples = tuple(Example(labels[i % len(labels)], chain) for i, (_, _, chain) in enumerate(chosen))
    return Workload(make_prompts(classes), images, examples)


@lru_cache(maxsize=1)
def _described() -> tuple[tuple[str, Scene, str], ...]:
    """`(style, scene, chain)` of the pool, always the same."""
    found = []
    for index in range(POOL):
        style, cls = DOMAIN_STYLES[index % len(DOMAIN_STYLES)], CLASSES[index % len(CLASSES)]
        scene = sample_scene(0, style, cls, index)
        found.append((style, scene, describe(scene, seed=0, sample_id=f"bench {index}", settings=FAULTLESS)))
    return tuple(found)


def _of_one_length(items: Sequence[Item], lengths: Sequence[int], count: int) -> list[Item]:
    """The items of the length nearest to the median that at least `count` items have."""
    groups: dict[int, list[Item]] = defaultdict(list)
    for item, length in zip(items, lengths, strict=True):
        groups[length].append(item)
    enough = [length for length, group in groups.items() if len(group) >= count]
    if not enough:
        largest = max(map(len, groups.values()))
        raise UsageError(f"no {count} chains of one length", do=f"use a batch of at most {largest}")
    middle = float(np.median(lengths))
    return groups[min(enough, key=lambda length: (abs(length - middle), length))]
