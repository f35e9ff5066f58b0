"""Makes the pocket checkpoint: `python bench/pocket.py --out DIR` (under an hour on two cores).

Three stages, on drawn scenes in auxiliary styles only, so that every domain style is new to it:
1. see: the vision tower classifies scenes, names their parts and says where they are (the heads are thrown away);
2. speak: tower frozen, projector and decoder learn the label question, terse chains of their own wording, and, on
   another question, the describer's language; four classes they see and hear of, but never hear as an answer;
3. join: everything together for a short while at a low rate.
The same seed gives the same data; weights differ in the last bits between machines and thread counts.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration, get_cosine_schedule_with_warmup

from terse import terse_chain
from throughline.chains.formats import FIVE_STAGE, FORMATS, Chain, ChainFormat, render_chain
from throughline.chains.parsing import parse_chain
from throughline.core.files import write_json
from throughline.core.seeding import generator
from throughline.drawn.concepts import CLASSES, PARTS
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import Scene, sample_scene
from throughline.drawn.styles import part_box, render
from throughline.mllm.chat import EncodedImage, user_turn
from throughline.mllm.forward import TreeScores, score_trees
from throughline.mllm.geometries import GEOMETRIES, train_tokenizer
from throughline.mllm.load import Mllm, wrap_mllm
from throughline.mllm.tree import Leaf, Tree, merge_paths
from throughline.questions.question_set import make_question_set

POCKET = GEOMETRIES["pocket"]

LONG_QUESTION = "Explain at length what this photo shows."
LONG_SHARE = 0.4
"""A real base model can write like its teacher when it is asked to; the reasoning question it answers in its own way.
So the pocket base learns the describer's language on another question, on auxiliary styles."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the checkpoint; written into its folder."""

    seed: int = 0
    styles: tuple[str, ...] = ("blueprint", "cutpaper", "neon")
    scenes: int = 18_000
    unnamed: tuple[str, ...] = ("bowl", "coin", "raft", "wagon")
    vocabulary: int = 1_400
    see_epochs: int = 5
    see_batch: int = 32
    see_lr: float = 1e-3
    speak_steps: int = 700
    speak_batch: int = 16
    speak_lr: float = 1.5e-3
    join_steps: int = 60
    join_lr: float = 2e-4


def make(recipe: Recipe, out: Path, told: Callable[[str], None] = print) -> None:
    """Trains and saves weights (bfloat16), processor, config and `recipe.json` into `out`."""
    torch.manual_seed(recipe.seed)
    began = time.monotonic()
    drawn = draw_scenes(recipe)
    scenes = drawn.scenes
    told(f"{len(scenes)} scenes drawn ({time.monotonic() - began:.0f} s)")
    tokenizer = train_tokenizer(corpus(recipe, scenes), recipe.vocabulary)
    model = InternVLForConditionalGeneration(replace(POCKET, vocabulary=len(tokenizer)).config(tokenizer))
    place_patches(model.model.vision_tower.embeddings)
    mllm = wrap_mllm(model, POCKET.processor(tokenizer), "pocket", "in the making")
    pixels = pixels_of(mllm, drawn.pixels)
    see(model, drawn, pixels, recipe, told)
    told(f"sees ({time.monotonic() - began:.0f} s)")
    speak(mllm, scenes, pixels, recipe, told)
    told(f"speaks ({time.monotonic() - began:.0f} s)")
    model.to(torch.bfloat16)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(str(out))
    mllm.chat.processor.save_pretrained(str(out))
    write_json(out / "recipe.json", asdict(recipe))


@dataclass(frozen=True, eq=False)
class Drawn:
    """What the tower learns from: `(style, scene)`, pixels `(scenes, 64, 64, 3)`, and for each patch the parts whose
    box it touches `(scenes, patches, parts)`."""

    scenes: list[tuple[str, Scene]]
    pixels: NDArray[np.uint8]
    where: NDArray[np.bool_]


def draw_scenes(recipe: Recipe) -> Drawn:
    """Styles and classes in turn."""
    chosen = []
    for index in range(recipe.scenes):
        style = recipe.styles[index % len(recipe.styles)]
        cls = CLASSES[index // len(recipe.styles) % len(CLASSES)]
        chosen.append((style, sample_scene(recipe.seed, f"pocket {style}", cls, index)))
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


def corpus(recipe: Recipe, scenes: Sequence[tuple[str, Scene]]) -> list[str]:
    """What the tokenizer is trained on: questions, the base's own chains, and the describer's words."""
    texts = []
    for index, (_, scene) in enumerate(scenes[:4000]):
        texts.append(terse_chain(scene, recipe.seed))
        texts.append(describe(scene, seed=recipe.seed, sample_id=f"corpus {index}"))
    prompts = [make_question_set(CLASSES, format) for format in FORMATS.values()]
    return texts + [p.reasoning for p in prompts for _ in range(200)]


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
    recipe: Recipe,
    told: Callable[[str], None],
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
    order = generator(recipe.seed, "pocket see")
    trained = [*tower.parameters(), *whole.parameters(), *local.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=recipe.see_lr, weight_decay=0.05)
    steps = recipe.see_epochs * (len(classes) // recipe.see_batch)
    schedule = get_cosine_schedule_with_warmup(optimiser, steps // 20, steps)
    step, right = 0, 0.0
    for _ in range(recipe.see_epochs):
        for index in np.split(order.permutation(len(classes)), range(recipe.see_batch, len(classes), recipe.see_batch)):
            if len(index) < recipe.see_batch:
                continue
            features = tower(pixel_values=jitter(pixels(index), order)).last_hidden_state[:, 1:]
            scores = whole(features.mean(dim=1))
            chosen = scores[:, : len(CLASSES)]
            loss = nn.functional.cross_entropy(chosen, classes[index])
            loss = loss + nn.functional.binary_cross_entropy_with_logits(scores[:, len(CLASSES) :], parts[index])
            there = torch.from_numpy(drawn.where[index]).float()
            loss = loss + 4 * nn.functional.binary_cross_entropy_with_logits(local(features), there)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            step += 1
            right = 0.95 * right + 0.05 * (chosen.argmax(1) == classes[index]).float().mean().item()
            if step % 200 == 0:
                told(f"see {step}/{steps} loss {loss.item():.3f} accuracy {right:.3f}")
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


def speak(
    mllm: Mllm,
    scenes: Sequence[tuple[str, Scene]],
    pixels: Callable[[NDArray[np.int64]], Tensor],
    recipe: Recipe,
    told: Callable[[str], None],
) -> None:
    """Label question and terse chains as token trees; first with the tower frozen, then everything together."""
    model = mllm.model
    blank = mllm.chat.encode_image(Image.new("RGB", (POCKET.image_size, POCKET.image_size)), "blank")
    # A real base sees more than it can name in the words of somebody's class list: that is what `cls` has to teach.
    named = [i for i, (_, scene) in enumerate(scenes) if scene.cls not in recipe.unnamed]
    order = generator(recipe.seed, "pocket speak")
    model.model.language_model.requires_grad_(True)
    model.model.multi_modal_projector.requires_grad_(True)
    for name, steps, lr in (
        ("speak", recipe.speak_steps, recipe.speak_lr),
        ("join", recipe.join_steps, recipe.join_lr),
    ):
        if name == "join":
            model.model.vision_tower.requires_grad_(True)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)
        schedule = get_cosine_schedule_with_warmup(optimiser, max(1, steps // 20), steps)
        model.train()
        for step in range(1, steps + 1):
            index = order.choice(named, recipe.speak_batch, replace=False)
            trees = [spoken_tree(mllm, scenes[i][1], pixels(np.array([i])), blank, order, recipe.seed) for i in index]
            with torch.autocast("cpu", torch.bfloat16):
                scores = score_trees(model, mllm.collate([[tree] for tree in trees]))
                loss = scores.loss_sum() / len(trees)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            if step % 50 == 0:
                told(f"{name} {step}/{steps} {_means(scores)}")
    model.eval().requires_grad_(False)


def _means(scores: TreeScores) -> str:
    nll: dict[str, list[float]] = {}
    for value, kind in zip(scores.branch_nll().tolist(), scores.batch.names, strict=True):
        nll.setdefault(kind, []).append(value)
    return " ".join(f"{kind} {sum(values) / len(values):.3f}" for kind, values in nll.items())


def spoken_tree(
    mllm: Mllm, scene: Scene, pixels: Tensor, blank: EncodedImage, draw: np.random.Generator, seed: int
) -> Tree:
    """image + question → label · instruction + terse chain; half the time on a part of the class list."""
    options = list(CLASSES)
    if draw.random() < 0.5:
        others = [c for c in CLASSES if c != scene.cls]
        options = [*draw.choice(others, int(draw.integers(3, len(others) + 1)), replace=False), scene.cls]
        options = [str(option) for option in draw.permutation(options)]
    format = list(FORMATS.values())[int(draw.choice(len(FORMATS), p=(0.7, 0.15, 0.15)))]
    prompts = make_question_set(options, format)
    image = EncodedImage("scene", {"pixel_values": pixels}, blank.placeholder, blank.placeholder_tokens)
    chat = mllm.chat
    chain = in_format(terse_chain(scene, int(draw.integers(2**31)) + seed), format)
    leaves = [
        Leaf(chat.answered(user_turn(prompts.label), [image], scene.cls), "label", 1.0, "sum"),
        Leaf(chat.answered(user_turn(prompts.reasoning), [image], chain), "chain", 1.0, "mean"),
    ]
    if draw.random() < LONG_SHARE:
        whole = DescriberSettings(format_faults=0.0)
        text = describe(scene, seed=seed, sample_id=str(int(draw.integers(2**31))), settings=whole)
        leaves.append(Leaf(chat.answered(user_turn(LONG_QUESTION), [image], text), "long", 1.0, "mean"))
    return merge_paths(leaves, chat.image_token_id)


def in_format(text: str, format: ChainFormat) -> str:
    """A five-stage chain told in another format: the stages it lacks are left out, `think` takes all before the end."""
    if format is FIVE_STAGE:
        return text
    chain = parse_chain(text, FIVE_STAGE, CLASSES).chain
    assert chain is not None
    if "think" in format.stages:
        return render_chain(Chain(format, (" ".join(chain.stages[:-1]), chain.answer)))
    return render_chain(Chain(format, tuple(chain.stage(name) for name in format.stages)))


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description="make the pocket checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    make(Recipe(), arguments.out, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
