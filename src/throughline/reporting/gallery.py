"""The gallery of held-out images: which images, with what every method said about them on each answer path. Text of a
model is untrusted and stays text: it travels as JSON. Called by `page`."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.seeding import generator
from throughline.reporting.results import Group
from throughline.reporting.untrusted import one_line, visible
from throughline.runs.order import ANSWER_ORDER, in_order
from throughline.runs.reader import PREDICTIONS, UnitFolder
from throughline.runs.records import Prediction
from throughline.training.methods import METHODS

# A reader turns no more pages than that, and a browser filters them in a few milliseconds.
MOST_IMAGES = 5000
THUMBNAIL_PIXELS = 160
# A chain longer than this (a model that never stops) would swell the page for nothing.
LONGEST_TEXT = 4000
# Whose answers decide what is shown, the first that ran: the full method, then what it is made of.
DECIDING = tuple(name for name in reversed(METHODS) if not METHODS[name].control)


@dataclass(frozen=True)
class Part:
    """A piece of an answer's text: a stage with its name, or text outside of any stage (name None)."""

    stage: str | None
    text: str


@dataclass(frozen=True)
class Answer:
    """What one answer path said."""

    answer: str
    predicted: str | None
    outcome: str
    correct: bool
    parts: tuple[Part, ...] | None
    """Its text; None where the page does not carry it."""


@dataclass(frozen=True)
class Entry:
    """What one method, at one level of each factor, said about one image."""

    method: str
    seed: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Card:
    """One held-out image with all that was said about it."""

    sample_id: str
    domain: str
    labels: tuple[str, ...]
    thumbnail: str | None
    """A data URI; None where the image could not be read, or is not among those that have one."""
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Gallery:
    """The cards, those with picture and texts first, and the setup whose answers decided which these are."""

    cards: tuple[Card, ...]
    setups: tuple[str, ...]
    chosen_by: str
    with_texts: int
    """How many of the cards have their texts (and pictures, where there is an image folder)."""
    right: int
    """How many of those that setup got right on its last answer path."""
    total: int
    """Held-out images in all."""


def make_gallery(
    group: Group, images_root: Path | None, with_texts: int = 48, limit: int = MOST_IMAGES
) -> Gallery | None:
    """At most `limit` images spread over targets, `with_texts` of them with picture and texts; the same for the same
    run.

    Of these half are wrong where there are enough; right and wrong are those of one setup, of the first DECIDING method
    that has predictions, on its lowest seed; every other setup's answers to the same images stand beside. None without
    predictions.
    """
    units = _one_unit_per_setup_and_target(group)
    targets = sorted({target for _, target in units})
    first: list[Card] = []
    others: list[Card] = []
    right = total = 0
    for number, target in enumerate(targets):
        here = {setup: units[setup, target] for setup in group.setups if (setup, target) in units}
        answers = {setup: found for setup, unit in here.items() if (found := _by_sample(unit))}
        if not answers:
            continue
        seeds = {setup: unit.unit.seed for setup, unit in here.items()}
        deciding = answers[_deciding_setup(group, answers)]
        chosen = _choose(deciding, _share(with_texts, number, len(targets)), target)
        right += sum(correct for _, correct in chosen)
        total += len(deciding)
        names = [name for name, _ in chosen]
        first += [_card(name, answers, seeds, images_root, with_text=True) for name in names]
        rest = sorted(set(deciding) - set(names))
        generator(0, "report gallery, the rest", target).shuffle(rest)
        room = _share(limit, number, len(targets)) - len(names)
        others += [_card(name, answers, seeds, None, with_text=False) for name in sorted(rest[: max(0, room)])]
    setups = in_order((entry.method for card in (*first, *others) for entry in card.entries), group.setups)
    if not setups:
        return None
    return Gallery((*first, *others), setups, _deciding_setup(group, setups), len(first), right, total)


def gallery_data(gallery: Gallery) -> dict[str, Any]:
    """For the page's script: names once, then per image its answers as places in the lists of names."""
    said = [answer for card in gallery.cards for entry in card.entries for answer in entry.answers]
    answers = in_order((answer.answer for answer in said), ANSWER_ORDER)
    outcomes = sorted({answer.outcome for answer in said})
    domains = sorted({card.domain for card in gallery.cards})
    classes = sorted(
        {label for card in gallery.cards for label in card.labels}
        | {answer.predicted for answer in said if answer.predicted is not None}
    )
    place = {name: number for number, name in enumerate(classes)}
    return {
        "methods": [one_line(name) for name in gallery.setups],
        "answers": [one_line(name) for name in answers],
        "outcomes": [one_line(name) for name in outcomes],
        "domains": [one_line(name) for name in domains],
        "classes": [one_line(name) for name in classes],
        "first": gallery.setups.index(gallery.chosen_by),
        "images": [
            [
                one_line(card.sample_id),
                domains.index(card.domain),
                [place[label] for label in card.labels],
                card.thumbnail,
                [
                    [
                        gallery.setups.index(entry.method),
                        entry.seed,
                        [
                            [
                                answers.index(answer.answer),
                                -1 if answer.predicted is None else place[answer.predicted],
                                outcomes.index(answer.outcome),
                                int(answer.correct),
                                answer.parts and [[part.stage, visible(part.text)] for part in answer.parts],
                            ]
                            for answer in entry.answers
                        ],
                    ]
                    for entry in card.entries
                ],
            ]
            for card in gallery.cards
        ],
    }


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


def _one_unit_per_setup_and_target(group: Group) -> dict[tuple[str, str], UnitFolder]:
    """The lowest seed's unit that has predictions."""
    chosen: dict[tuple[str, str], UnitFolder] = {}
    lines = group.final.drop_duplicates("unit").sort_values(["seed", "unit"])
    for line in lines.itertuples():
        unit = group.run.units.get(line.unit)
        if unit is not None and (unit.folder / PREDICTIONS).is_file():
            chosen.setdefault((line.setup, line.target), unit)
    return chosen


def _by_sample(unit: UnitFolder) -> dict[str, tuple[Prediction, ...]]:
    answers: dict[str, dict[str, Prediction]] = {}
    for prediction in unit.predictions():
        answers.setdefault(prediction.sample_id, {})[prediction.answer] = prediction
    return {
        sample_id: tuple(by_path[path] for path in in_order(by_path, ANSWER_ORDER))
        for sample_id, by_path in answers.items()
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


def _deciding(answers: tuple[Prediction, ...]) -> Prediction:
    """The reasoning path decides where there is one, else the label path, else whatever there is."""
    by_path = {prediction.answer: prediction for prediction in answers}
    return by_path.get("reasoning") or by_path.get("label") or answers[0]


def _card(
    sample_id: str,
    answers: Mapping[str, Mapping[str, tuple[Prediction, ...]]],
    seeds: Mapping[str, int],
    images_root: Path | None,
    with_text: bool,
) -> Card:
    entries = tuple(
        Entry(
            method=setup,
            seed=seeds[setup],
            answers=tuple(
                Answer(p.answer, _shown(p.predicted), p.outcome, p.correct, parts(p.text) if with_text else None)
                for p in by_sample[sample_id]
            ),
        )
        for setup, by_sample in answers.items()
        if sample_id in by_sample
    )
    first = next(by_sample[sample_id][0] for by_sample in answers.values() if sample_id in by_sample)
    picture = thumbnail(images_root, sample_id) if images_root else None
    return Card(sample_id, first.domain, first.labels, picture, entries)


def _shown(predicted: str | tuple[str, ...] | None) -> str | None:
    return ", ".join(predicted) if isinstance(predicted, tuple) else predicted


def _deciding_setup(group: Group, names: Iterable[str]) -> str:
    """The first of the DECIDING methods, else the last setup."""
    setups = list(names)
    by_method = {group.setups[name].method: name for name in reversed(setups)}
    return next((by_method[method] for method in DECIDING if method in by_method), setups[-1])


def _share(total: int, number: int, count: int) -> int:
    """What of `total` falls to one of `count`, the first ones taking what does not divide."""
    return total // count + (number < total % count)
