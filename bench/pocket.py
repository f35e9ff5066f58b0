"""Makes the pocket checkpoint: `python bench/pocket.py --out DIR` (at most 90 minutes on two cores).

Three stages, on drawn scenes in auxiliary styles only, so that every domain style is new to it:
1. see: the vision tower classifies scenes, names their parts and says where they are (the heads are thrown away);
2. speak: tower frozen, projector and decoder learn the lessons below; four classes are never the answer to a question
   about a single image;
3. join: everything together for a short while at a low rate.
The same seed gives the same data; weights differ in the last bits between machines and thread counts. All is float32:
half precision is slow on processors that emulate it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from parts_question import PARTS_QUESTION
from pocket_context import ContextLoss, Exercise
from pocket_sight import POCKET, Sight, draw_scenes, run_maker, save_pocket, see, sighted_mllm
from pocket_speech import Speech, speak
from terse import LONG_QUESTION, SURE, WHOLE, corpus, description, in_format, terse_chain
from throughline.chains.formats import FORMATS, ChainFormat
from throughline.core.seeding import generator
from throughline.drawn.concepts import CLASSES, contrast_of, family_of
from throughline.drawn.describer import describe
from throughline.drawn.scenes import Scene
from throughline.drawn.words import listed, named
from throughline.mllm.chat import EncodedImage, user_turn
from throughline.mllm.chat import Path as TokenPath
from throughline.mllm.geometries import train_tokenizer
from throughline.mllm.load import Mllm
from throughline.mllm.tree import Leaf, Tokens, Tree, merge_paths
from throughline.questions.in_context import EXAMPLE_QUESTION, example_turns, with_descriptions
from throughline.questions.probing import class_from_words
from throughline.questions.question_set import QuestionSet, make_question_set

VERSION = 2

SIGHT = Sight(seed=0, styles=("blueprint", "cutpaper", "neon"), scenes=18_000, epochs=5, batch=32, lr=1e-3)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the checkpoint; written into its folder."""

    version: int = VERSION
    sight: Sight = SIGHT
    unnamed: tuple[str, ...] = ("bowl", "coin", "raft", "wagon")
    vocabulary: int = 1_400
    speak_steps: int = 1_800
    speak_lr: float = 1.5e-3
    join_steps: int = 60
    join_lr: float = 2e-4
    scenes: int = 12
    """Scenes of a step with their questions: label, chain, parts, the conclusion behind another scene's chain."""
    long_share: float = 0.4
    words: int = 4
    """Prompts of a step without an image: the class from its parts in words."""
    episodes: int = 6
    """Conversations of a step with labelled examples."""
    examples: int = 10
    """Images of such a conversation, at most."""
    described: int = 6
    """Prompts of a step with a description of each class offered; half of them have an image, half have words."""
    renamed: float = 0.85
    """Share of these conversations and descriptions in which the names of classes are exchanged, so that only context
    tells."""


def make(recipe: Recipe, out: Path, report: Callable[[str], None] = print) -> None:
    """Trains and saves weights (bfloat16), processor, config and `recipe.json` into `out`."""
    torch.manual_seed(recipe.sight.seed)
    began = time.monotonic()
    drawn = draw_scenes(recipe.sight)
    report(f"{len(drawn.scenes)} scenes drawn ({time.monotonic() - began:.0f} s)")
    tokenizer = train_tokenizer(corpus(recipe.sight.seed, drawn.scenes), recipe.vocabulary)
    mllm, pixels = sighted_mllm(tokenizer, drawn)
    see(mllm.model, drawn, pixels, recipe.sight, report)
    report(f"sees ({time.monotonic() - began:.0f} s)")
    lessons = Lessons(mllm, [scene for _, scene in drawn.scenes], pixels, recipe)
    speech = Speech(recipe.speak_steps, recipe.speak_lr, recipe.join_steps, recipe.join_lr)
    speak(mllm, lessons.draw, speech, report, ContextLoss(mllm, lessons.exercises))
    report(f"speaks ({time.monotonic() - began:.0f} s)")
    save_pocket(mllm, out, asdict(recipe))


class Lessons:
    """What the second stage teaches, step after step, from one generator."""

    def __init__(
        self, mllm: Mllm, scenes: Sequence[Scene], pixels: Callable[[NDArray[np.int64]], Tensor], recipe: Recipe
    ) -> None:
        self.mllm, self.scenes, self.recipe = mllm, scenes, recipe
        self._pixels = pixels
        self._draw = generator(recipe.sight.seed, "pocket speak")
        self._blank = mllm.chat.encode_image(Image.new("RGB", (POCKET.image_size,) * 2), "blank")
        self._of_class = {name: [index for index, scene in enumerate(scenes) if scene.cls == name] for name in CLASSES}

    def draw(self) -> list[Tree]:
        """The trees of one step."""
        recipe = self.recipe
        return [*(self.about_scene() for _ in range(recipe.scenes)), *(self.from_words() for _ in range(recipe.words))]

    def exercises(self) -> list[Exercise]:
        """What one step teaches about context."""
        recipe = self.recipe
        longest = int(self._draw.integers(3, recipe.examples + 1))
        return [
            *(self.from_examples(longest) for _ in range(recipe.episodes)),
            *(self.from_descriptions(shown=number % 2 == 0) for number in range(recipe.described)),
        ]

    def about_scene(self) -> Tree:
        """One image: its label and a chain of the pocket's own wording if its class is named, its parts, and what
        follows from another scene's chain."""
        index = int(self._draw.integers(len(self.scenes)))
        scene, image, chat = self.scenes[index], self._image(index), self.mllm.chat
        format = list(FORMATS.values())[int(self._draw.choice(len(FORMATS), p=(0.7, 0.15, 0.15)))]
        questions = make_question_set(self._options(scene.cls), format)
        about_label, about_chain = user_turn(questions.label), user_turn(questions.reasoning)
        parts = ", ".join(scene.parts)
        leaves = [
            Leaf(chat.answered(user_turn(PARTS_QUESTION), [image], parts), "parts", 1.0, "mean"),
            self._behind_chain(image, self._another_scene(scene, questions.classes), questions),
        ]
        if scene.cls not in self.recipe.unnamed:
            chain = in_format(terse_chain(scene, self._seed()), format)
            leaves.append(Leaf(chat.answered(about_label, [image], scene.cls), "label", 1.0, "sum"))
            leaves.append(Leaf(chat.answered(about_chain, [image], chain), "chain", 1.0, "mean"))
            if self._draw.random() < self.recipe.long_share:
                text = describe(scene, seed=self.recipe.sight.seed, sample_id=str(self._seed()), settings=WHOLE)
                leaves.append(Leaf(chat.answered(user_turn(LONG_QUESTION), [image], text), "long", 1.0, "mean"))
        return merge_paths(leaves, chat.image_token_id)

    def _another_scene(self, scene: Scene, classes: Sequence[str]) -> Scene:
        """A scene of one of these classes, half the time of the contrastive one if it is offered."""
        contrast = contrast_of(scene.cls)
        near = contrast in classes and self._draw.random() < 0.5
        return self.scenes[self._scene_of(contrast if near else self._one_of(classes))]

    def _behind_chain(self, image: EncodedImage, other: Scene, questions: QuestionSet) -> Leaf:
        """The image with a chain about another scene, in either wording, the loss on the rest of it only: behind the
        stage that names the deciding part, or a later one."""
        format, seed = questions.format, self._seed()
        terse = self._draw.random() < 0.5
        if terse:
            text = in_format(terse_chain(other, seed), format)
        else:
            # What a describer with mistakes believes is not what it says last: only chains that end in the class.
            text = describe(other, seed=seed, sample_id="another", format=format, settings=SURE)
        cut = self._cut(text, other.cls, format, terse)
        path = self.mllm.chat.answered(user_turn(questions.reasoning), [image], text)
        return Leaf(starting_later(path, self.mllm, text, cut), "followed", 1.0, "mean")

    def _cut(self, text: str, cls: str, format: ChainFormat, terse: bool) -> int:
        """The character with which the loss begins: that of the answer, or of a stage between the parts and the answer.
        A blank before the answer is part of its token."""
        named_parts = "CAPTION" if terse else "REASONING"
        behind = format.stages[format.stages.index(named_parts) + 1 :] if named_parts in format.stages else ()
        answer = text.rindex(cls)
        marks = [answer - (text[answer - 1] == " "), *(text.index(f"<{name}>") for name in behind)]
        return int(self._draw.choice(marks))

    def from_words(self) -> Tree:
        """No image: the class of an object whose parts are told."""
        scene = self.scenes[int(self._draw.integers(len(self.scenes)))]
        question = class_from_words(self._told(scene), make_question_set(self._options(scene.cls)).label)
        path = self.mllm.chat.answered(user_turn(question, images=0), [], scene.cls)
        return merge_paths([Leaf(path, "words", 1.0, "sum")], self.mllm.chat.image_token_id)

    def _told(self, scene: Scene) -> str:
        """The parts of a scene in a sentence, often with the deciding part if it is missing."""
        deciding = family_of(scene.cls).deciding
        words = listed([named(part) for part in self._draw.permutation(list(scene.parts))])
        return f"{words} and no {deciding}" if deciding not in scene.parts and self._draw.random() < 0.7 else words

    def from_examples(self, images: int) -> Exercise:
        """A conversation about so many images of a few classes, the last one of a class that was shown; every label is
        trained whose class was."""
        chat = self.mllm.chat
        few = [str(name) for name in self._draw.permutation(CLASSES)[: int(self._draw.integers(2, 7))]]
        shown = [self._one_of(few) for _ in range(images - 1)]
        shown.append(self._one_of(shown))
        encoded, names = [self._image(self._scene_of(name)) for name in shown], self._names(CLASSES)
        question = EXAMPLE_QUESTION if self._draw.random() < 0.5 else make_question_set(CLASSES).label
        turns = [*example_turns([names[name] for name in shown[:-1]]), *user_turn(question)]
        path = chat.answered(turns, encoded, names[shown[-1]])
        asked = self._answers_begin(path)
        before = [[earlier for earlier in range(turn) if shown[earlier] == shown[turn]] for turn in range(images)]
        return Exercise(
            path.tokens,
            encoded,
            head=0,
            classes={place: CLASSES.index(name) for place, name in zip(asked, shown, strict=True)},
            gathers={place + 1: place for place in asked},
            matches={
                place: [asked[turn] + 1 for turn in turns] for place, turns in zip(asked, before, strict=True) if turns
            },
            answers={"examples": [place for place, turns in zip(asked, before, strict=True) if turns]},
        )

    def from_descriptions(self, shown: bool) -> Exercise:
        """The parts of each class offered, and an image, or an object in words, of one of them."""
        chat, index = self.mllm.chat, int(self._draw.integers(len(self.scenes)))
        scene, images = self.scenes[index], [self._image(index)] if shown else []
        offered = self._options(scene.cls, most=4)
        names = self._names(offered)
        described = {names[name]: description(name) for name in offered}
        label = make_question_set(list(described)).label
        question = with_descriptions(label if shown else class_from_words(self._told(scene), label), described)
        path = chat.answered(user_turn(question, images=len(images)), images, names[scene.cls])
        (asked,) = self._answers_begin(path)
        starts, ends = self._lines(path.tokens, list(described))
        lines = dict(zip(offered, ends, strict=True))
        return Exercise(
            path.tokens,
            images,
            head=1,
            classes={asked: CLASSES.index(scene.cls)} | {end: CLASSES.index(name) for name, end in lines.items()},
            gathers=dict(zip(ends, starts, strict=True)),
            matches={asked: [lines[scene.cls]]},
            answers={"described" if shown else "described in words": [asked]},
        )

    def _answers_begin(self, path: TokenPath) -> list[int]:
        """The position before each answer."""
        role = self.mllm.chat.tokenizer.convert_tokens_to_ids("assistant")
        return [int(place) + 1 for place in np.flatnonzero(path.tokens == role)]

    def _lines(self, tokens: Tokens, names: Sequence[str]) -> tuple[list[int], list[int]]:
        """The positions of the names that begin the lines of descriptions, and of the ends of these lines."""
        tokenizer = self.mllm.chat.tokenizer
        colon, end = tokenizer(":\n", add_special_tokens=False)["input_ids"]
        starts = []
        for name in names:
            (place,) = np.flatnonzero((tokens[:-1] == tokenizer.convert_tokens_to_ids(name)) & (tokens[1:] == colon))
            starts.append(int(place))
        return starts, [start + int(np.flatnonzero(tokens[start:] == end)[0]) for start in starts]

    def _names(self, classes: Sequence[str]) -> dict[str, str]:
        """What each class is called: its name, or any name of the class list, no two alike."""
        if self._draw.random() >= self.recipe.renamed:
            return {name: name for name in classes}
        return dict(zip(classes, (str(name) for name in self._draw.permutation(CLASSES)), strict=False))

    def _options(self, cls: str, most: int = len(CLASSES)) -> list[str]:
        """The class list, or half the time a part of it, with the class among it, in any order; never more than
        `most`."""
        if most == len(CLASSES) and self._draw.random() < 0.5:
            return list(CLASSES)
        others = [name for name in CLASSES if name != cls]
        count = int(self._draw.integers(2, most))
        return [str(name) for name in self._draw.permutation([*self._draw.permutation(others)[:count], cls])]

    def _scene_of(self, cls: str) -> int:
        return int(self._draw.choice(self._of_class[cls]))

    def _one_of(self, names: Sequence[str]) -> str:
        return names[int(self._draw.integers(len(names)))]

    def _seed(self) -> int:
        return int(self._draw.integers(2**31))

    def _image(self, index: int) -> EncodedImage:
        values = {"pixel_values": self._pixels(np.array([index]))}
        return EncodedImage(f"scene {index}", values, self._blank.placeholder, self._blank.placeholder_tokens)


def starting_later(path: TokenPath, mllm: Mllm, text: str, cut: int) -> TokenPath:
    """The path with its answer beginning at character `cut` of `text`, where a token begins."""
    behind = mllm.chat.tokenizer(text[cut:] + mllm.chat.end_of_turn, add_special_tokens=False)["input_ids"]
    assert path.tokens[-len(behind) :].tolist() == behind, f"a token runs across the cut before {text[cut:]!r}"
    return replace(path, answer_start=len(path.tokens) - len(behind))


if __name__ == "__main__":
    run_maker("make the pocket checkpoint", lambda out, report: make(Recipe(), out, report))
