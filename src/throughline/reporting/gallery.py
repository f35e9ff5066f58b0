"""The gallery of held-out images: which images, with what every method said about them on each answer path.
Text of a model is untrusted and stays text. Called by `page`."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from throughline.errors import ThroughlineError
from throughline.reporting.runs import Prediction, ResultLine, Run
from throughline.reporting.summaries import ANSWER_ORDER, METHOD_ORDER, Group, in_order
from throughline.seeding import generator

THUMBNAIL_PIXELS = 160
# A chain longer than this (a model that never stops) would swell the page for nothing.
LONGEST_TEXT = 4000
# Whose answers decide what is shown, the first that ran: the full method, then what it is made of.
DECIDING = ("mtct_sarr", "sarr", "mtct", "reasoning", "cls", "zero_shot")


@dataclass(frozen=True)
class Part:
    """A piece of an answer's text: a stage with its name, or text outside of any stage (name None)."""

    stage: str | None
    text: str


@dataclass(frozen=True)
class Said:
    """One answer path's answer."""

    answer: str
    predicted: str | None
    outcome: str
    correct: bool
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Entry:
    """What one method said about one image."""

    method: str
    seed: int
    said: tuple[Said, ...]

    @property
    def right(self) -> bool:
        """All answer paths are right."""
        return all(item.correct for item in self.said)

    @property
    def paths_agree(self) -> bool:
        """All answer paths name one class."""
        return len({item.predicted for item in self.said}) == 1 and self.said[0].predicted is not None


@dataclass(frozen=True)
class Card:
    """One held-out image with all that was said about it."""

    sample_id: str
    domain: str
    labels: tuple[str, ...]
    thumbnail: str | None
    """A data URI, None where the image could not be read."""
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Gallery:
    """The cards, and the method whose answers decided which images are shown."""

    cards: tuple[Card, ...]
    chosen_by: str
    right: int
    """How many of the cards that method got right on its last answer path."""


def make_gallery(run: Run, group: Group, images_root: Path | None, limit: int = 48) -> Gallery | None:
    """`limit` images spread over targets, half of them wrong where there are enough, the same for the same
    run.

    Right and wrong are those of one method, the first of DECIDING that has predictions,
    on its lowest seed; every other method's answers to the same images stand beside. None without
    predictions.
    """
    chosen_units = _one_unit_per_method_and_target(run, group)
    if not chosen_units:
        return None
    methods = in_order((method for method, _ in chosen_units), METHOD_ORDER)
    deciding = next((method for method in DECIDING if method in methods), methods[-1])
    targets = sorted({target for method, target in chosen_units if method == deciding})
    cards: list[Card] = []
    right = 0
    for number, target in enumerate(targets):
        share = limit // len(targets) + (number < limit % len(targets))
        answers = {
            method: _by_sample(run, chosen_units[method, target])
            for method in methods
            if (method, target) in chosen_units
        }
        for sample_id, correct in _choose(answers[deciding], share, target):
            right += correct
            cards.append(_card(sample_id, answers, chosen_units, target, images_root))
    return Gallery(tuple(cards), deciding, right)


def parts(text: str) -> tuple[Part, ...]:
    """Splits `<STAGE>…</STAGE>` apart for display; anything else stays as it is, nothing is lost but white space."""
    found: list[Part] = []
    text = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " […]"
    end = 0
    for match in re.finditer(r"<([A-Z_]{1,32}|think)>([^<]*)</\1>", text):
        found.append(Part(None, text[end : match.start()].strip()))
        found.append(Part(match[1], match[2].strip()))
        end = match.end()
    found.append(Part(None, text[end:].strip()))
    return tuple(part for part in found if part.stage or part.text)


def thumbnail(images_root: Path, sample_id: str) -> str | None:
    """The image as a JPEG data URI at most 160 pixels wide or high; None where it is missing, unreadable or outside."""
    from throughline.domains.images import load_image

    relative = PurePosixPath(sample_id)
    path = images_root / relative
    # predictions may come from elsewhere: an id must not lead out of the image folder
    if relative.is_absolute() or ".." in relative.parts or not path.is_file():
        return None
    try:
        image = load_image(path)
    except ThroughlineError:  # an unreadable picture must not cost the report
        return None
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _one_unit_per_method_and_target(run: Run, group: Group) -> dict[tuple[str, str], ResultLine]:
    """The lowest seed's unit that has predictions."""
    chosen: dict[tuple[str, str], ResultLine] = {}
    for line in sorted(run.results, key=lambda line: (line.seed, line.unit)):
        unit = run.units.get(line.unit)
        if line.round is None and group.holds(line) and unit and (unit.folder / "predictions.jsonl").is_file():
            chosen.setdefault((line.method, line.target), line)
    return chosen


def _by_sample(run: Run, line: ResultLine) -> dict[str, tuple[Prediction, ...]]:
    found: dict[str, dict[str, Prediction]] = {}
    for prediction in run.units[line.unit].predictions():
        found.setdefault(prediction.sample_id, {})[prediction.answer] = prediction
    return {
        sample_id: tuple(said[answer] for answer in in_order(said, ANSWER_ORDER)) for sample_id, said in found.items()
    }


def _choose(answers: Mapping[str, tuple[Prediction, ...]], count: int, target: str) -> list[tuple[str, bool]]:
    """Ids with right or wrong: half wrong if there are enough of both, drawn by a generator of the target's own."""
    names = sorted(answers)
    generator(0, "report gallery", target).shuffle(names)
    verdict = {name: _deciding(answers[name]).correct for name in names}
    wrong = [name for name in names if not verdict[name]]
    right = [name for name in names if verdict[name]]
    wrong_count = max(min(len(wrong), count // 2), count - len(right))
    taken = wrong[:wrong_count] + right[: count - len(wrong[:wrong_count])]
    return [(name, verdict[name]) for name in sorted(taken)]


def _deciding(said: tuple[Prediction, ...]) -> Prediction:
    """The reasoning path decides where there is one, else the label path, else whatever there is."""
    by_answer = {prediction.answer: prediction for prediction in said}
    return by_answer.get("reasoning") or by_answer.get("label") or said[0]


def _card(
    sample_id: str,
    answers: Mapping[str, Mapping[str, tuple[Prediction, ...]]],
    units: Mapping[tuple[str, str], ResultLine],
    target: str,
    images_root: Path | None,
) -> Card:
    entries = tuple(
        Entry(
            method=method,
            seed=units[method, target].seed,
            said=tuple(Said(p.answer, p.predicted, p.outcome, p.correct, parts(p.text)) for p in found[sample_id]),
        )
        for method, found in answers.items()
        if sample_id in found
    )
    first = next(found[sample_id][0] for found in answers.values() if sample_id in found)
    picture = thumbnail(images_root, sample_id) if images_root else None
    return Card(sample_id, first.domain, first.labels, picture, entries)
