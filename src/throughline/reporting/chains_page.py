"""The page of a chain store: images with all that teachers wrote about them and what the rules made of it, to browse,
filter and search in one HTML file that opens offline. All text in it was written by others: it travels as JSON and
enters the document as text, never as markup. Called by `throughline chains view`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from throughline.chains.outcomes import Outcome
from throughline.chains.records import Candidate, Usage
from throughline.chains.rules import RULES
from throughline.chains.store import ChainStore, read_store
from throughline.core.errors import ThroughlineError
from throughline.core.files import require_writable, write_atomically
from throughline.core.seeding import seed_of
from throughline.core.untrusted import embedded, one_line, visible
from throughline.domains.samples import ImageSet
from throughline.reporting.gallery import LONGEST_TEXT, parts, thumbnail
from throughline.reporting.self_contained import render_page

# A question holds its class list: DomainNet's 345 classes take 4,000 characters.
LONGEST_QUESTION = 20_000
# Of one image: more than anybody asks a teacher for, few enough that no single card fills the page.
MOST_CANDIDATES = 32


@dataclass(frozen=True)
class PageSummary:
    """What a page holds of its store."""

    images: int
    """Images shown."""
    images_in_store: int
    candidates: int
    """Candidates shown, all of them of the images shown."""
    problems: int
    """Lines of the store that could not be used; `chains check` names them."""


def write_chains_page(
    store: Path,
    page: Path,
    images: ImageSet | None,
    *,
    limit: int = 500,
    on_progress: Callable[[int], None] = lambda lines: None,
) -> PageSummary:
    """Writes the page of a chain store (a folder of journals, or one journal) to `page`, atomically.

    Pictures and classes come from `images`, None when the folder is gone: the page says so. Of a store with more than
    `limit` images a sample is shown, spread evenly over domains and, within each, over outcomes; the same store gives
    the same sample, and the same store and images the same bytes. Memory holds a few words for each candidate of the
    store and the (shortened) texts of the images shown. `on_progress` gets the lines read so far.

    ThroughlineError when the store cannot be read or has no candidate, or when `page` cannot be written.
    """
    if limit < 1:
        raise ThroughlineError("the page would show no image", f"limit {limit}", "raise it")
    require_writable(page)
    chains = read_store(store, on_progress)
    problems = len(chains.problems)
    if chains.requests.empty:
        unusable = f"; {problems:,} lines could not be used" if problems else ""
        raise ThroughlineError(
            f"the store has no candidate{unusable}", store, "build some with `throughline chains build`"
        )
    verdicts = _verdicts(chains)
    ids = _sample_ids(chains, verdicts)
    requests = chains.requests[chains.requests["sample"].isin(_spread(ids, limit).index)]
    requests = requests.assign(id=requests["sample"].map(ids["id"]))
    given: dict[int, list[Sequence[Any]]] = {}
    for row, *verdict in verdicts[verdicts.index.isin(requests.index)].itertuples():
        given.setdefault(row, []).append(verdict)
    cards = [_card(chains, rows, given, images) for _, rows in requests.groupby("id")]
    asked = sorted(set(requests["prompt_sha256"]) & chains.prompts.keys())
    summary = PageSummary(len(cards), len(ids), sum(len(card["candidates"]) for card in cards), problems)
    shown = asdict(summary) | {
        "name": one_line(store.resolve().name),
        "prompts": [_question(chains.prompts[sha256]) for sha256 in asked],
        "with_images": images is not None,
        "data": embedded(cards),
    }
    write_atomically(
        page, render_page("chains.html.jinja", ("common.js", "chains.js"), ("page.css", "chains.css"), shown)
    )
    return summary


def _verdicts(chains: ChainStore) -> Any:
    """The verdicts on requests, of our own rules in their order, then those of others: `rule`, `outcome`, `accepted`
    and `standing`, which is larger for a stricter rule and, within it, for what came closer to being accepted."""
    import pandas as pd

    strictness = {rule: place for place, rule in enumerate(RULES, start=1)}
    places = {outcome: place for place, outcome in enumerate(reversed(("accepted", *Outcome)), start=2)}
    frames = []
    for rule in sorted(chains.rules, key=lambda rule: (strictness.get(rule, len(RULES) + 1), rule)):
        verdicts = chains.verdicts(rule).drop(columns="basis")
        place = verdicts["outcome"].mask(verdicts["accepted"], "accepted").map(places)
        frames.append(verdicts.assign(rule=one_line(rule), standing=100 * strictness.get(rule, 0) + place.astype(int)))
    columns = ["rule", "outcome", "accepted", "standing"]
    verdicts = pd.concat(frames) if frames else pd.DataFrame(columns=columns)
    return verdicts.loc[verdicts.index.isin(chains.requests.index), columns]


def _sample_ids(chains: ChainStore, verdicts: Any) -> Any:
    """By sample: `id`, `domain`, and the `standing` of its best candidate. A failed request is below an answer, an
    answer below its verdicts."""
    best = verdicts.groupby(level=0)["standing"].max().reindex(chains.requests.index)
    standing = best.fillna((~chains.requests["failed"]).astype(int)).astype(int)
    requests = chains.requests.assign(standing=standing, row=standing.index)
    samples = requests.groupby("sample", sort=False).agg({"row": "first", "domain": "first", "standing": "max"})
    return samples.assign(id=[candidate.sample_id for candidate in chains.read(samples.pop("row"))])


def _spread(samples: Any, limit: int) -> Any:
    """At most `limit` samples, spread evenly over domains and, within each, over standings; drawn by the ids alone."""
    # ids of another hand may hold what is no UTF-8
    samples = samples.assign(draw=[seed_of(0, "chains page", ascii(sample_id)) for sample_id in samples["id"]])
    samples = samples.sort_values("draw")
    turn = samples.groupby(["domain", "standing"]).cumcount()
    samples = samples.assign(turn=turn).sort_values(["turn", "draw"])
    turn = samples.groupby("domain").cumcount()
    return samples.assign(turn=turn).sort_values(["turn", "draw"]).head(limit)


def _card(
    chains: ChainStore, requests: Any, verdicts: Mapping[int, Sequence[Sequence[Any]]], images: ImageSet | None
) -> dict[str, Any]:
    """An image as the page's script reads it (templates/chains.js), with what was asked about it. `verdicts` are
    those of `_verdicts` by row."""
    sample_id, domain = requests["id"].iloc[0], requests["domain"].iloc[0]
    sample = images.by_id.get(sample_id) if images is not None else None
    candidates = sorted(
        zip(chains.read(requests.index), requests.index, strict=True),
        key=lambda read: (read[0].round, read[0].candidate, read[0].model, read[0].key),
    )
    is_changed = sample is not None and any(sample.image_sha256 != made.image_sha256 for made, _ in candidates)
    notes = {
        "This image is not in the image folder.": images is not None and sample is None,
        "The file has changed since a chain was written about it.": is_changed,
        f"The first {MOST_CANDIDATES} of {len(candidates):,} candidates are shown.": len(candidates) > MOST_CANDIDATES,
    }
    return {
        "id": one_line(sample_id),
        "domain": one_line(domain),
        "labels": [one_line(label) for label in sample.labels] if sample is not None else [],
        "picture": thumbnail(images.root, sample_id) if images is not None and sample is not None else None,
        "notes": [note for note, applies in notes.items() if applies],
        "candidates": [
            _candidate(candidate, verdicts.get(row, ()), row in chains.contradictions.values())
            for candidate, row in candidates[:MOST_CANDIDATES]
        ],
    }


def _candidate(candidate: Candidate, verdicts: Sequence[Sequence[Any]], is_contradicted: bool) -> dict[str, Any]:
    usage = candidate.usage or Usage()
    text = visible(candidate.text[: LONGEST_TEXT + 1])  # one more, so that `parts` sees that there is more
    shortened = max(len(candidate.text), len(text)) > LONGEST_TEXT
    return {
        "key": one_line(candidate.key),
        "number": candidate.candidate,
        "round": candidate.round,
        "source": one_line(candidate.source),
        "model": one_line(candidate.model),
        "finish": one_line(candidate.finish_reason) if candidate.finish_reason is not None else None,
        "failed": candidate.failed,
        "usage": [usage.prompt_tokens, usage.completion_tokens, usage.cost],
        "parts": parts(text),
        "characters": len(candidate.text) if shortened else None,
        "contradicted": is_contradicted,
        "verdicts": [dict(zip(("rule", "outcome", "accepted"), verdict, strict=False)) for verdict in verdicts],
        "strictest": max(range(len(verdicts)), key=lambda place: verdicts[place][3] // 100, default=None),
    }


def _question(text: str) -> str:
    return visible(text if len(text) <= LONGEST_QUESTION else text[:LONGEST_QUESTION] + " […]")
