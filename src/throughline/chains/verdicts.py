"""A rule's verdict on a candidate, for dataset building and self-labelling alike. This is where the true label meets a
chain, and nowhere earlier. A verdict that a store holds is used; only what it lacks is judged.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from throughline.chains.formats import FORMATS, ChainFormat
from throughline.chains.names import Aliases, frozen
from throughline.chains.parsing import parse_chain
from throughline.chains.records import Candidate, Verdict
from throughline.chains.rules import VERSION, judge
from throughline.chains.store import ChainStore
from throughline.core.files import content_hash
from throughline.domains.samples import ImageSet


@lru_cache(maxsize=4096)
def basis_of(format: ChainFormat, classes: tuple[Any, ...], true_label: str) -> str:
    """Everything but the candidate that a verdict depends on, as a hash: rules, format, class list, label. Other names
    of the classes, `frozen`, stand at the end of the class list."""
    return content_hash([VERSION, format.name, format.stages, classes, true_label])[:16]


def verdicts_on(
    candidate: Candidate,
    rules: Iterable[str],
    format: ChainFormat,
    classes: Sequence[str],
    true_label: str,
    names: Aliases | None = None,
) -> tuple[Verdict, ...]:
    """The candidate judged by each rule, in order: the lines for the journal. The text is parsed once; `names` are
    further ones of the classes."""
    parsed = parse_chain(candidate.text, format, classes, candidate.finish_reason, names)
    return tuple(
        Verdict(
            key=candidate.key,
            sample_id=candidate.sample_id,
            rule=rule,
            outcome=judgement.outcome,
            accepted=judgement.accepted,
            basis=basis_of(format, (*classes, *frozen(names)), true_label),
        )
        for rule in rules
        for judgement in [judge(rule, parsed, classes, true_label, names)]
    )


def with_samples(requests: Any, images: ImageSet) -> Any:
    """The requests of a store with the `place` of their sample among the images (-1 for none), and whether its image
    `is_same` as was asked about."""
    import numpy as np

    places = {hash(sample.id): place for place, sample in enumerate(images.samples)}
    contents = np.array([*(hash(sample.image_sha256) for sample in images.samples), 0], np.int64)
    place = requests["sample"].map(places).fillna(-1).astype(int)
    return requests.assign(place=place, is_same=(place >= 0) & (contents[place] == requests["image"]))


def judged_answers(
    store: ChainStore,
    answers: Any,
    images: ImageSet,
    rules: Iterable[str],
    on_verdicts: Callable[[tuple[Verdict, ...]], None] = lambda verdicts: None,
) -> dict[str, Any]:
    """By rule, the verdicts on `answers` (rows of the store, in known formats, with the `place` of their sample among
    the images) as frames with the columns `outcome` and `accepted`, indexed as the answers are.

    A recorded verdict of the same basis is used. Answers that lack one are read again and judged; `on_verdicts` gets
    what comes of it, all rules of an answer at a time.
    """
    classes, names = images.classes, images.names
    labels = [images.samples[place].label for place in answers["place"]]
    known = (*classes, *frozen(names))
    bases = [basis_of(FORMATS[format], known, label) for format, label in zip(answers["format"], labels, strict=True)]
    lacking = answers["format"].isna()  # of none
    verdicts: dict[str, Any] = {}
    for rule in rules:
        recorded = store.verdicts(rule).reindex(answers.index)
        lacking |= recorded.pop("basis") != bases
        recorded["accepted"] = recorded["accepted"].eq(True)
        verdicts[rule] = recorded
    made: dict[str, list[tuple[Any, bool]]] = {rule: [] for rule in rules}
    unjudged = (label for label, lacks in zip(labels, lacking, strict=True) if lacks)
    for candidate, label in zip(store.read(answers.index[lacking]), unjudged, strict=True):
        fresh = verdicts_on(candidate, rules, FORMATS[candidate.format], classes, label, names)
        for verdict in fresh:
            made[verdict.rule].append((verdict.outcome, verdict.accepted))
        on_verdicts(fresh)
    for rule in rules if lacking.any() else ():
        for place, name in enumerate(("outcome", "accepted")):
            verdicts[rule].loc[lacking, name] = [pair[place] for pair in made[rule]]
    return verdicts
