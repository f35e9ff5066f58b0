"""The gallery of held-out images: which images, with what every method said about them on each answer path; and the
three with their chains beside the card; and those whose answer a view of them changed. Text of a model is untrusted and
stays text: it travels as JSON, or is escaped by the template. Called by `page`."""

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from throughline.core.errors import ThroughlineError
from throughline.core.files import file_sha256
from throughline.core.nested import flattened, settings_below
from throughline.core.seeding import generator
from throughline.core.untrusted import one_line, visible
from throughline.domains.images import image_bytes
from throughline.domains.samples import Sample, on_disk
from throughline.domains.views import View, load_sample, view_of
from throughline.ood.factors import CLEAN, VIEW
from throughline.reporting.ablation import FULL
from throughline.reporting.groups import Group, joined
from throughline.runs.folder import PREDICTIONS
from throughline.runs.order import ANSWER_ORDER, in_order, ordered
from throughline.training.methods import METHODS

# A reader turns no more pages than that, and a browser filters them in a few milliseconds.
MOST_IMAGES = 5000
THUMBNAIL_PIXELS = 160
LOST, WON = 6, 3
"""Images shown whose answer became wrong under a view, and right."""
# A chain longer than this (a model that never stops) would swell the page for nothing.
LONGEST_TEXT = 4000
# Whose answers decide what is shown, the first that ran: the full method, then what it is made of.
DECIDING = (FULL, *(name for name in reversed(METHODS) if not METHODS[name].control))

Part = tuple[str | None, str]
"""A piece of an answer's text: a stage with its name, or text outside of any stage (None)."""

Card = tuple[str, str]
"""A target and one of its held-out images: what was said about an image in one fold."""


@dataclass(frozen=True)
class Gallery:
    """The images, those with picture and texts first, and the setup whose answers decided which these are."""

    data: Mapping[str, Any]
    """For the page's script: names once, then for each image its answers as places in the lists of names."""
    chosen_by: str
    with_texts: int
    """How many of the images have their texts (and pictures, where there is an image folder)."""
    right: int
    """How many of those that setup got right on its last answer path."""
    total: int
    """Held-out images in all."""
    disputed: int
    """Images shown that were not given one and the same class by every method on every path."""


def make_gallery(
    group: Group, images_root: Path | None, with_texts: int = 48, limit: int = MOST_IMAGES
) -> Gallery | None:
    """At most `limit` images spread over targets, `with_texts` of them with picture and texts, those that were given
    several classes first; the same for the same run.

    Of these half are wrong where there are enough; right and wrong are those of one setup, of the first DECIDING method
    that has predictions, on its lowest seed; every other setup's answers to the same images stand beside. None without
    predictions.
    """
    answers, targets = _answers(group)
    first: list[Card] = []
    others: list[Card] = []
    right = total = 0
    for number, target in enumerate(targets):
        here = answers[answers["target"] == target]
        if here.empty:
            continue
        verdict = _verdict(here[here["setup"] == _deciding_setup(group, here["setup"].unique())])
        chosen = _choose(verdict, _share(with_texts, number, len(targets)), target)
        right += sum(verdict[name] for name in chosen)
        total += len(verdict)
        rest = sorted(verdict.keys() - set(chosen))
        generator(0, "report gallery, the rest", target).shuffle(rest)
        room = _share(limit, number, len(targets)) - len(chosen)
        first += [(target, name) for name in chosen]
        others += [(target, name) for name in rest[: max(0, room)]]
    if not first and not others:
        return None
    named = answers.groupby(["target", "sample_id"])["predicted"].nunique(dropna=False)
    disputed = set(named.index[named > 1])
    first, others = _disputed_first(first, disputed), _disputed_first(others, disputed)
    shown = answers[pd.MultiIndex.from_frame(answers[["target", "sample_id"]]).isin([*first, *others])]
    chosen_by = _deciding_setup(group, shown["setup"].unique())
    rows: dict[Card, list[Any]] = {card: [] for card in (*first, *others)}
    for row in shown.itertuples():
        rows[row.target, row.sample_id].append(row)
    names = _names(group, shown)
    place = {kind: {name: number for number, name in enumerate(of_kind)} for kind, of_kind in names.items()}
    data = {
        **{kind: [one_line(name) for name in of_kind] for kind, of_kind in names.items()},
        "first": place["methods"][chosen_by],
        "images": [
            _image(of_card, place, images_root, with_text=number < len(first))
            for number, of_card in enumerate(rows.values())
        ],
    }
    return Gallery(data, chosen_by, len(first), right, total, len(disputed.intersection(rows)))


@dataclass(frozen=True)
class Examples:
    """Held-out images with the chains of one setup about them."""

    setup: str
    answers: tuple[Any, ...]
    """Rows of predictions on the reasoning path, with `picture` (a data URI or None) and `parts` of the chain."""


def make_examples(group: Group, images_root: Path | None, count: int = 3) -> Examples | None:
    """The images whose ids have the smallest SHA-256, whatever was answered, with the chains of the first DECIDING
    method that wrote any. None where nobody wrote any."""
    answers, _ = _answers(group)
    chains = answers[answers["answer"] == "reasoning"]
    if chains.empty:
        return None
    setup = _deciding_setup(group, chains["setup"].unique())
    chains = chains[chains["setup"] == setup].drop_duplicates("sample_id")
    chosen = chains.sort_values("sample_id", key=lambda ids: ids.map(_id_hash)).head(count)
    pictures = [thumbnail(images_root, name) for name in chosen["sample_id"]]
    chosen = chosen.assign(picture=pictures, parts=[parts(text) for text in chosen["text"]])
    return Examples(setup, tuple(chosen.itertuples()))


def changed_answers(group: Group, answer: str, images_root: Path | None) -> tuple[Any, ...]:
    """Rows with `setup`, `sample_id`, `labels`, `domain`, the level `shown`, `pictures` (data URIs or None of image and
    view), and `predicted`, `confidence` and `correct`, each `_before` and `_after`: LOST images, then WON. Of all
    changes those whose id and level have the smallest SHA-256, each image once. Empty without views."""
    if VIEW not in group.factors or group.predictions.empty:
        return ()
    rows = group.predictions[group.predictions["answer"] == answer].rename(columns={VIEW: "shown"})
    setups = [group.setups[name].without(VIEW).name for name in rows["setup"]]
    rows = rows.assign(setup=setups, predicted=rows["predicted"].map(joined))
    same = ["setup", "target", "seed", "sample_id", "domain", "labels"]
    clean = rows.loc[rows["shown"] == CLEAN, [*same, "predicted", "confidence", "correct"]]
    both = rows[rows["shown"] != CLEAN].merge(clean, on=same, suffixes=("_after", "_before"))
    both = both[both["correct_after"] != both["correct_before"]]
    both = (
        both.assign(at=(both["sample_id"] + both["shown"]).map(_id_hash)).sort_values("at").drop_duplicates("sample_id")
    )
    chosen = pd.concat([both[~both["correct_after"]].head(LOST), both[both["correct_after"]].head(WON)])
    levels, config = group.run.config.get("factors", {}).get(VIEW, {}), flattened(group.run.config)
    told = {level: settings_below({**config, **flattened(keys)}, "evaluation.view") for level, keys in levels.items()}
    views = {level: View(**own) for level, own in told.items() if own}
    shown = zip(chosen["sample_id"], map(views.get, chosen["shown"]), strict=True)
    pictures = [(thumbnail(images_root, name), view and thumbnail(images_root, name, view)) for name, view in shown]
    return tuple(chosen.assign(pictures=pictures).itertuples())


def parts(text: str) -> tuple[Part, ...]:
    """Each stage `<STAGE>…</STAGE>` with its text, and the text outside of any stage (None), made visible; nothing is
    lost but white space."""
    pieces: list[Part] = []
    text = text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " […]"
    end = 0
    for match in re.finditer(r"<([A-Z_]{1,32}|think)>([^<]*)</\1>", text):
        pieces += [(None, text[end : match.start()]), (match[1], match[2])]
        end = match.end()
    pieces.append((None, text[end:]))
    shown = ((stage, visible(piece.strip())) for stage, piece in pieces)
    return tuple(part for part in shown if any(part))


def thumbnail(images_root: Path | None, sample_id: str, view: View | None = None) -> str | None:
    """The image, or a view of it, as a JPEG data URI at most 160 pixels wide or high; None where it is missing,
    unreadable or outside, or the view cannot be drawn."""
    relative = PurePosixPath(sample_id)
    # predictions may come from elsewhere: an id must not lead out of the image folder
    if images_root is None or relative.is_absolute() or ".." in relative.parts:
        return None
    try:
        # what is random in a view is drawn from the bytes of the image
        own = Sample(sample_id, images_root, "", (), file_sha256(on_disk(images_root, sample_id)) if view else "")
        image = load_sample(view_of(own, view) if view else own)
    except (ThroughlineError, OSError):  # an unreadable picture must not cost the report
        return None
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    return "data:image/jpeg;base64," + base64.b64encode(image_bytes(image, jpeg_quality=82)).decode()


def _id_hash(sample_id: str) -> str:
    return hashlib.sha256(sample_id.encode()).hexdigest()


def _answers(group: Group) -> tuple[pd.DataFrame, list[str]]:
    """The answers of one unit for each setup and target, that of the lowest seed that has predictions: setups and
    answer paths in their order, samples by name. And the targets of these units."""
    lines = group.final.drop_duplicates("unit").sort_values(["seed", "unit"])
    units = group.run.units
    there = [name in units and (units[name].folder / PREDICTIONS).is_file() for name in lines["unit"]]
    lines = lines[there].drop_duplicates(["setup", "target"])
    answers = group.predictions[group.predictions["unit"].isin(lines["unit"])].copy()
    answers["predicted"] = answers["predicted"].map(joined)
    answers = ordered(answers, setup=group.setups, answer=ANSWER_ORDER)
    return answers.sort_values(["setup", "answer", "sample_id"]), sorted(set(lines["target"]))


def _verdict(answers: pd.DataFrame) -> dict[str, bool]:
    """Whether a setup got each image right: the reasoning path decides where there is one, else the label path, else
    whatever there is."""
    deciding = ordered(answers, answer=("reasoning", "label")).sort_values("answer").drop_duplicates("sample_id")
    return dict(zip(deciding["sample_id"], map(bool, deciding["correct"]), strict=True))


def _names(group: Group, answers: pd.DataFrame) -> dict[str, Sequence[str]]:
    """All names in these answers, each list in the order in which the page offers it."""
    labels = {label for labels in answers["labels"] for label in labels}
    return {
        "methods": in_order(answers["setup"], group.setups),
        "answers": in_order(answers["answer"], ANSWER_ORDER),
        "outcomes": sorted(set(answers["outcome"])),
        "domains": sorted(set(answers["domain"])),
        "classes": sorted(labels | set(answers["predicted"].dropna())),
    }


def _image(
    rows: Sequence[Any], place: Mapping[str, Mapping[str, int]], images_root: Path | None, with_text: bool
) -> list[Any]:
    """An image with all answers about it: id, domain, classes, picture (a data URI or None), then for each setup its
    place, seed and answers."""
    first = rows[0]
    entries = []
    for setup, of_setup in groupby(rows, key=lambda row: row.setup):
        answers = list(of_setup)
        said = [
            [
                place["answers"][row.answer],
                place["classes"][row.predicted] if isinstance(row.predicted, str) else -1,
                place["outcomes"][row.outcome],
                int(row.correct),
                parts(row.text) if with_text else None,
            ]
            for row in answers
        ]
        entries.append([place["methods"][setup], int(answers[0].seed), said])
    picture = thumbnail(images_root, first.sample_id) if with_text else None
    labels = [place["classes"][label] for label in first.labels]
    return [one_line(first.sample_id), place["domains"][first.domain], labels, picture, entries]


def _choose(verdict: Mapping[str, bool], count: int, target: str) -> list[str]:
    """Ids of images: half wrong if there are enough of both, drawn by a generator of the target's own."""
    names = sorted(verdict)
    generator(0, "report gallery", target).shuffle(names)
    wrong = [name for name in names if not verdict[name]]
    right = [name for name in names if verdict[name]]
    wrong = wrong[: max(min(len(wrong), count // 2), count - len(right))]
    return [*wrong, *right[: count - len(wrong)]]


def _disputed_first(cards: Iterable[Card], disputed: Collection[Card]) -> list[Card]:
    """Shuffled, those that were given several classes before the others."""
    shuffled = sorted(cards)
    generator(0, "report gallery, order").shuffle(shuffled)
    return sorted(shuffled, key=lambda card: card not in disputed)


def _deciding_setup(group: Group, names: Iterable[str]) -> str:
    """The first of the DECIDING methods, else the last setup."""
    setups = in_order(names, group.setups)
    by_method = {group.setups[name].method: name for name in reversed(setups)}
    return next((by_method[method] for method in DECIDING if method in by_method), setups[-1])


def _share(total: int, number: int, count: int) -> int:
    """What of `total` falls to one of `count`, the first ones taking what does not divide."""
    return total // count + (number < total % count)
