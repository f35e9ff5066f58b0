"""Makes the first pocket checkpoint, that of the first laboratory: `python bench/first_pocket.py --out DIR`.

It is kept in `bench/checkpoints/first_pocket` and no longer ships; `bench/pocket.py` makes the one that does. Three
stages, on drawn scenes in auxiliary styles only, so that every domain style is new to it:
1. see: the vision tower classifies scenes, names their parts and says where they are (the heads are thrown away);
2. speak: tower frozen, projector and decoder learn the label question, terse chains of their own wording, and, on
   another question, the describer's language; four classes they see and hear of, but never hear as an answer;
3. join: everything together for a short while at a low rate.
The same seed gives the same data; weights differ in the last bits between machines and thread counts.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from pocket_sight import POCKET, Sight, draw_scenes, run_maker, save_pocket, see, sighted_mllm
from pocket_speech import Speech, speak
from terse import LONG_QUESTION, WHOLE, corpus, in_format, terse_chain
from throughline.chains.formats import FORMATS
from throughline.core.seeding import generator
from throughline.drawn.concepts import CLASSES
from throughline.drawn.describer import describe
from throughline.drawn.scenes import Scene
from throughline.mllm.chat import EncodedImage, user_turn
from throughline.mllm.geometries import train_tokenizer
from throughline.mllm.load import Mllm
from throughline.mllm.tree import Leaf, Tree, merge_paths
from throughline.questions.question_set import make_question_set

LONG_SHARE = 0.4


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
    sight = Sight(recipe.seed, recipe.styles, recipe.scenes, recipe.see_epochs, recipe.see_batch, recipe.see_lr)
    drawn = draw_scenes(sight)
    told(f"{len(drawn.scenes)} scenes drawn ({time.monotonic() - began:.0f} s)")
    mllm, pixels = sighted_mllm(train_tokenizer(corpus(recipe.seed, drawn.scenes), recipe.vocabulary), drawn)
    see(mllm.model, drawn, pixels, sight, told)
    told(f"sees ({time.monotonic() - began:.0f} s)")
    speech = Speech(recipe.speak_steps, recipe.speak_lr, recipe.join_steps, recipe.join_lr, half=True)
    speak(mllm, lessons(mllm, drawn.scenes, pixels, recipe), speech, told)
    told(f"speaks ({time.monotonic() - began:.0f} s)")
    save_pocket(mllm, out, asdict(recipe))


def lessons(
    mllm: Mllm, scenes: Sequence[tuple[str, Scene]], pixels: Callable[[NDArray[np.int64]], Tensor], recipe: Recipe
) -> Callable[[], list[Tree]]:
    """Makes the trees of a step: label question and terse chains."""
    blank = mllm.chat.encode_image(Image.new("RGB", (POCKET.image_size, POCKET.image_size)), "blank")
    # A real base sees more than it can name in the words of somebody's class list: that is what `cls` has to teach.
    named = [i for i, (_, scene) in enumerate(scenes) if scene.cls not in recipe.unnamed]
    order = generator(recipe.seed, "pocket speak")

    def draw() -> list[Tree]:
        index = order.choice(named, recipe.speak_batch, replace=False)
        return [spoken_tree(mllm, scenes[i][1], pixels(np.array([i])), blank, order, recipe.seed) for i in index]

    return draw


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
        text = describe(scene, seed=seed, sample_id=str(int(draw.integers(2**31))), settings=WHOLE)
        leaves.append(Leaf(chat.answered(user_turn(LONG_QUESTION), [image], text), "long", 1.0, "mean"))
    return merge_paths(leaves, chat.image_token_id)


if __name__ == "__main__":
    run_maker("make the first pocket checkpoint", lambda out, report: make(Recipe(), out, report))
