"""What a chain store holds, in numbers: how much was asked, what each rule accepted, how long the chains are, what they
cost. `throughline chains stats` prints the frames as tables (`statistics_tables`) or as JSON.

A store may hold several teachers, models and rounds. Every number is given for the whole store (part 0) and for each
(source, model, round) by itself (parts from 1).
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from throughline.chains.formats import FORMATS, without_tags
from throughline.chains.journal import require_journals
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.chains.rules import RULES
from throughline.chains.store import MEASURES, ChainStore, read_store
from throughline.chains.verdicts import judged_answers, with_samples
from throughline.domains.samples import ImageSet

_ACCEPTED = ("images", "images_accepted", "candidates", "accepted", "images_gained")
_COLUMNS = {
    "parts": ("part", "source", "model", "round", "images", "candidates", "copies", "failed"),
    "acceptance": ("part", "rule", "by", "name", *_ACCEPTED),
    "outcomes": ("part", "rule", "outcome", "accepted", "count"),
    "words": ("part", "rule", "format", "stage", "count", "median", "low", "high", "longest"),
    "spending": ("part", "quantity", "reporting", "total", "per_candidate", "judging", "per_accepted"),
}
_KINDS: list[tuple[str | None, str | None]] = [
    (None, None),
    *((name, stage) for name in sorted(FORMATS) for stage in FORMATS[name].stages),
]
"""Texts whose words are counted: whole answers, and the stages of each format."""


@dataclass(frozen=True)
class ChainStatistics:
    """The numbers of a store: a mapping, and frames of objects, None where there is no number."""

    store: dict[str, Any]
    """`lines` that hold anything, of all journals; `duplicates`: candidate lines beyond the one that stands for their
    (key, sample_id); `problems`: lines that could not be used, and second answers that differ from the first;
    `unusable_usage`: reported tokens or costs that can be none (negative, absurd), which are in no sum;
    `verdicts_without_candidate`; `formats`; `prompts`: how many different questions were asked; `judged_anew`: the
    store has no verdicts, those counted were made for this count and are written nowhere. Of the image folder, None
    without one: `images_given`; `images_unknown`: sample ids that it does not hold; `images_changed`: sample ids that
    it holds with other bytes than were asked about, which have no class here."""
    parts: Any
    """A row for each part: `images` are sample ids with a candidate line, `candidates` are answers, copies included;
    `copies` were not asked for, since another sample has the same image and the same request; `failed` requests have
    no answer so far."""
    acceptance: Any
    """What each rule accepted of the images and candidates that it has judged: `by` "all", "domain", "class" (with
    images only, of samples that the folder holds) and "number", the candidate's, from 0. An image is accepted if one of
    its candidates is. `images_gained` (by number) have an accepted candidate of this number and none of a lower one."""
    outcomes: Any
    """How often a rule gave which outcome; failed requests are here (error) and nowhere else."""
    words: Any
    """Words without tags of what each rule accepted (None: of all answers): of whole answers, well formed or not
    (`format` and `stage` None), and of the stages of well-formed chains. `low` and `high` are the 5 % and 95 %
    quantiles, interpolated linearly."""
    spending: Any
    """Tokens and US dollars, by `MEASURES`. `reporting` candidates report the quantity, and only they are in the other
    numbers; a copy reports nothing. `judging`: what the verdicts of a judge model took besides. `per_accepted`, by
    rule: total and judging, rejected candidates included, per accepted candidate."""

    def as_data(self) -> dict[str, Any]:
        """All numbers as JSON has them, each frame as a list of rows."""
        frames = {name: getattr(self, name).to_dict("records") for name in _COLUMNS}
        return {"store": self.store, **frames}


def summarise_chains(store: Path, images: ImageSet | None = None) -> ChainStatistics:
    """Counts a journal, or a folder of journals.

    `images` brings the classes, and verdicts by every rule of `RULES` when the store has none of its own. Memory
    grows by about 600 bytes a candidate, whatever the length of its text. ThroughlineError for a store that
    cannot be read or holds no journal, and for a newer schema.
    """
    chains = read_store(require_journals(store))
    requests, folder = _labelled(chains.requests, images)
    judged_anew = images is not None and not chains.rules
    verdicts = _verdicts(chains, requests, images if judged_anew else None)
    answers = requests[~requests["failed"]]
    words = _count_words(chains, answers)
    paid_keys = answers["key"][answers["reported"]]
    is_copy = ~answers["reported"] & (answers["key"].isin(paid_keys) | answers.duplicated("key"))
    copies = answers.index[is_copy]
    judging = pd.DataFrame([(row, *usage) for row, usage in chains.judging.values()], columns=["row", *MEASURES])
    rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in _COLUMNS}
    teachers = requests.groupby(["source", "model", "round"])
    for part, (teacher, own) in enumerate([((None, None, None), requests), *teachers]):
        for name, row in _part_rows(teacher, own, verdicts, words, judging, copies):
            rows[name].append((part, *row))
    unmatched = ((~chains.verdicts(rule).index.isin(requests.index)).sum() for rule in chains.rules)
    return ChainStatistics(
        store={
            "lines": chains.lines,
            "duplicates": chains.duplicates,
            "problems": len(chains.problems) + len(chains.contradictions),
            "unusable_usage": chains.unusable_usage,
            "verdicts_without_candidate": int(sum(unmatched)),
            "formats": sorted(requests["format"].unique()),
            "prompts": requests["prompt_sha256"].nunique(),
            "judged_anew": judged_anew,
            **folder,
        },
        **{name: pd.DataFrame(rows[name], columns=columns, dtype=object) for name, columns in _COLUMNS.items()},
    )


def _part_rows(
    teacher: tuple[Any, ...], own: Any, verdicts: Mapping[str, Any], words: Any, judging: Any, copies: Any
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """The numbers of one part's requests: (frame, columns of it after `part`)."""
    answers = own[~own["failed"]]
    judged = {rule: answers.join(frame, how="inner") for rule, frame in verdicts.items()}
    judged = {rule: rows for rule, rows in judged.items() if len(rows)}
    kept = {rule: rows[rows["accepted"]] for rule, rows in judged.items()}
    copied, failed = answers.index.isin(copies), len(own) - len(answers)
    yield "parts", (*teacher, own["sample"].nunique(), len(answers), int(copied.sum()), failed)
    for rule, rows in judged.items():
        yield from (("acceptance", (rule, *group)) for group in _groups(rows))
        counts = Counter(zip(rows["outcome"], rows["accepted"], strict=True))
        counts[Outcome.ERROR, False] += failed
        for (outcome, accepted), count in sorted((+counts).items()):
            yield "outcomes", (rule, str(outcome), accepted, count)
    for accepted_by, rows in [(None, answers), *kept.items()]:
        yield from (("words", (accepted_by, *lengths)) for lengths in _lengths(words, rows.index))
    yield from (("spending", spent) for spent in _spending(answers, kept, judging, answers.index[~copied]))


def _labelled(requests: Any, images: ImageSet | None) -> tuple[Any, dict[str, int | None]]:
    """The requests with the `class` of their sample, None where `images` does not tell; and the folder's counts."""
    if images is None:
        folder = dict.fromkeys(("images_given", "images_unknown", "images_changed"))
        return requests.assign(**{"class": None, "all": "all"}), folder
    requests = with_samples(requests, images)
    samples = [images.samples[place] if place >= 0 else None for place in requests["place"]]
    labels = [sample.label if sample is not None and sample.task == "single" else None for sample in samples]
    requests["class"] = pd.Series(labels, requests.index, object).where(requests["is_same"], None)
    is_known, ids = requests["place"] >= 0, requests["sample"]
    return requests.assign(all="all"), {
        "images_given": len(images.samples),
        "images_unknown": ids[~is_known].nunique(),
        "images_changed": ids[is_known & ~requests["is_same"]].nunique(),
    }


def _verdicts(chains: ChainStore, requests: Any, images: ImageSet | None) -> dict[str, Any]:
    """By rule, our own first: the verdicts of the store, or those made now with the labels of `images`."""
    if images is None:
        ours = [rule for rule in RULES if rule in chains.rules]
        return {rule: chains.verdicts(rule) for rule in (*ours, *sorted(set(chains.rules) - set(ours)))}
    known = requests[~requests["failed"] & requests["class"].notna() & requests["format"].isin(FORMATS)]
    return judged_answers(chains, known, images, RULES)


def _count_words(chains: ChainStore, answers: Any) -> Any:
    """Rows of `row, kind, words`: each answer without its tags, and each stage of well-formed chains."""
    rows, kinds, words = array("q"), array("b"), array("q")
    for row, candidate in zip(answers.index, chains.read(answers.index), strict=True):
        format = FORMATS.get(candidate.format)
        texts: dict[tuple[str | None, str | None], str] = {(None, None): without_tags(candidate.text, candidate.format)}
        # Without classes: where a chain's stages are does not depend on what its answer names.
        parsed = parse_chain(candidate.text, format, (), candidate.finish_reason).chain if format else None
        if parsed is not None:
            names = ((parsed.format.name, stage) for stage in parsed.format.stages)
            texts.update(zip(names, parsed.stages, strict=True))
        for kind, text in texts.items():
            rows.append(row)
            kinds.append(_KINDS.index(kind))
            words.append(len(text.split()))
    return pd.DataFrame({"row": np.asarray(rows), "kind": np.asarray(kinds), "words": np.asarray(words)})


def _lengths(words: Any, rows: Any) -> Iterator[tuple[Any, ...]]:
    """Format, stage and lengths of every kind of text in these rows of the store."""
    for kind, counts in words[words["row"].isin(rows)].groupby("kind")["words"]:
        low, median, high = np.quantile(counts, (0.05, 0.5, 0.95)).tolist()
        yield *_KINDS[kind], len(counts), median, low, high, int(counts.max())


def _groups(judged: Any) -> Iterator[tuple[Any, ...]]:
    """The columns of `acceptance` from `by` on."""
    kept = judged[judged["accepted"]].sort_values("number", kind="stable")
    gained = Counter(kept.drop_duplicates("sample")["number"])
    for by in ("all", "domain", "class", "number"):
        for name, group in judged.groupby(by):
            accepted = group[group["accepted"]]
            images = group["sample"].nunique(), accepted["sample"].nunique()
            yield by, name, *images, len(group), len(accepted), gained[name] if by == "number" else None


def _spending(answers: Any, kept: Mapping[str, Any], judging: Any, asked: Any) -> Iterator[tuple[Any, ...]]:
    """The columns of `spending` from `quantity` on; `asked` are the answers that are no copies."""
    for name in MEASURES:
        values = answers[name].dropna()
        paid = judging[name][judging["row"].isin(answers.index)].dropna()
        total, judged = _sum(name, values), _sum(name, paid)
        whole = (total or 0) + (judged or 0)
        # A local teacher may report nothing and have a judge that does.
        reporting = values.index if len(values) else asked
        chains = {rule: int(rows.index.isin(reporting).sum()) for rule, rows in kept.items()}
        is_known = total is not None or judged is not None
        prices = {rule: whole / count if is_known and count else None for rule, count in chains.items()}
        yield name, len(values), total, None if total is None else total / len(values), judged, prices


def _sum(name: str, values: Iterable[float]) -> float | int | None:
    """Exact, whatever the order; tokens are whole numbers. None for no values."""
    values = list(values)
    total = math.fsum(values)
    return None if not values else total if name == "cost" else int(total)
