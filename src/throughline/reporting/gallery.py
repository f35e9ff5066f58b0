"""The gallery of held-out images: which images, with what every method said about them on each answer path. Text of a
model is untrusted and stays text: it travels as JSON. Called by `page`."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.seeding import generator
from throughline.reporting.runs import Prediction, ResultLine, Run
from throughline.reporting.summaries import ANSWER_ORDER, METHOD_ORDER, Group, in_order
from throughline.reporting.untrusted import one_line, visible

# A reader turns no more pages than that, and a browser filters them in a few milliseconds.
MOST_IMAGES = 5000
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
    parts: tuple[Part, ...] | None
    """Its text; None where the page does not carry it."""


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
    """A data URI; None where the image could not be read, or is not among those that have one."""
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Gallery:
    """The cards, those with picture and texts first, and the method whose answers decided which these are."""

    cards: tuple[Card, ...]
    chosen_by: str
    told: int
    """How many of the cards have their texts (and pictures, where there is an image folder)."""
    right: int
    """How many of those that method got right on its last answer path."""
    total: int
    """Held-out images in all."""


def make_gallery(
    run: Run, group: Group, images_root: Path | None, told: int = 48, limit: int = MOST_IMAGES
) -> Gallery | None:
    """At most `limit` images spread over targets, `told` of them with picture and texts; the same for the same run.

    Of the told half are wrong where there are enough; right and wrong are those of one method, the first of DECIDING
    that has predictions, on its lowest seed; every other method's answers to the same images stand beside. None without
    predictions.
    """
    units = _one_unit_per_method_and_target(run, group)
    if not units:
        return None
    methods = in_order((method for method, _ in units), METHOD_ORDER)
    targets = sorted({target for _, target in units})
    first: list[Card] = []
    others: list[Card] = []
    right = total = 0
    for number, target in enumerate(targets):
        asked = {method: _by_sample(run, units[method, target]) for method in methods if (method, target) in units}
        answers = {method: found for method, found in asked.items() if found}
        if not answers:
            continue
        deciding = answers[_deciding_method(answers)]
        chosen = _choose(deciding, _share(told, number, len(targets)), target)
        right += sum(correct for _, correct in chosen)
        total += len(deciding)
        names = [name for name, _ in chosen]
        first += [_card(name, answers, units, target, images_root, with_text=True) for name in names]
        rest = sorted(set(deciding) - set(names))
        generator(0, "report gallery, the rest", target).shuffle(rest)
        room = _share(limit, number, len(targets)) - len(names)
        others += [_card(name, answers, units, target, None, with_text=False) for name in sorted(rest[: max(0, room)])]
    shown = in_order((entry.method for card in (*first, *others) for entry in card.entries), METHOD_ORDER)
    if not shown:
        return None
    return Gallery((*first, *others), _deciding_method(dict.fromkeys(shown)), len(first), right, total)


def gallery_data(gallery: Gallery) -> dict[str, Any]:
    """For the page's script: names once, then per image its answers as places in the lists of names."""
    methods = in_order((entry.method for card in gallery.cards for entry in card.entries), METHOD_ORDER)
    said = [one for card in gallery.cards for entry in card.entries for one in entry.said]
    answers = in_order((one.answer for one in said), ANSWER_ORDER)
    outcomes = sorted({one.outcome for one in said})
    domains = sorted({card.domain for card in gallery.cards})
    classes = sorted(
        {label for card in gallery.cards for label in card.labels}
        | {s.predicted for s in said if s.predicted is not None}
    )
    place = {name: number for number, name in enumerate(classes)}
    return {
        "methods": [one_line(name) for name in methods],
        "answers": [one_line(name) for name in answers],
        "outcomes": [one_line(name) for name in outcomes],
        "domains": [one_line(name) for name in domains],
        "classes": [one_line(name) for name in classes],
        "first": methods.index(gallery.chosen_by),
        "images": [
            [
                one_line(card.sample_id),
                domains.index(card.domain),
                [place[label] for label in card.labels],
                card.thumbnail,
                [
                    [
                        methods.index(entry.method),
                        entry.seed,
                        [
                            [
                                answers.index(one.answer),
                                -1 if one.predicted is None else place[one.predicted],
                                outcomes.index(one.outcome),
                                int(one.correct),
                                None if one.parts is None else [[part.stage, visible(part.text)] for part in one.parts],
                            ]
                            for one in entry.said
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
    with_text: bool,
) -> Card:
    entries = tuple(
        Entry(
            method=method,
            seed=units[method, target].seed,
            said=tuple(
                Said(p.answer, p.predicted, p.outcome, p.correct, parts(p.text) if with_text else None)
                for p in found[sample_id]
            ),
        )
        for method, found in answers.items()
        if sample_id in found
    )
    first = next(found[sample_id][0] for found in answers.values() if sample_id in found)
    picture = thumbnail(images_root, sample_id) if images_root else None
    return Card(sample_id, first.domain, first.labels, picture, entries)


def _deciding_method(methods: Mapping[str, object]) -> str:
    return next((method for method in DECIDING if method in methods), list(methods)[-1])


def _share(total: int, number: int, count: int) -> int:
    """What of `total` falls to one of `count`, the first ones taking what does not divide."""
    return total // count + (number < total % count)
