"""The page of a chain store: images with all that teachers wrote about them and what the rules made of it, to browse,
filter and search in one HTML file that opens offline. All text in it was written by others: it travels as JSON and
enters the document as text, never as markup. Called by `throughline chains view`."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from throughline.chains.outcomes import Outcome
from throughline.chains.records import Candidate, Usage
from throughline.chains.rules import RULES
from throughline.chains.store import ChainStore, read_store
from throughline.core.errors import ThroughlineError
from throughline.core.files import require_writable, write_atomically
from throughline.core.seeding import seed_of
from throughline.domains.samples import ImageSet
from throughline.reporting.gallery import LONGEST_TEXT, parts, thumbnail
from throughline.reporting.self_contained import render_page
from throughline.reporting.untrusted import embedded, one_line, visible

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
    bytes: int
    """Size of the file."""
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
        raise ThroughlineError("a page shows at least one image", f"limit {limit}", "raise it")
    require_writable(page)
    chains = read_store(store, on_progress)
    problems = len(chains.problems)
    if chains.requests.empty:
        unusable = f"; {problems:,} lines could not be used" if problems else ""
        raise ThroughlineError(
            f"the store holds no candidate{unusable}", store, "build some with `throughline chains build`"
        )
    standings = _standings(chains)
    asked: set[str] = set()
    cards = list(_cards(chains, _spread(standings, limit), images, asked))
    page_bytes = _html(
        name=one_line(store.resolve().name),
        cards=cards,
        prompts=[_question(chains.prompts[sha256]) for sha256 in sorted(asked & chains.prompts.keys())],
        images_in_store=len(standings),
        problems=problems,
        with_images=images is not None,
    ).encode()
    write_atomically(page, page_bytes)
    return PageSummary(
        images=len(cards),
        images_in_store=len(standings),
        candidates=sum(len(card["candidates"]) for card in cards),
        bytes=len(page_bytes),
        problems=problems,
    )


_STRICTNESS = {rule: place for place, rule in enumerate(RULES, start=1)}
_BEST_FIRST = ("accepted", *Outcome)
_PLACES = {outcome: place for place, outcome in enumerate(reversed(_BEST_FIRST), start=2)}


def _standings(chains: ChainStore) -> dict[str, tuple[str, int]]:
    """Sample id → domain and how far its best candidate has come.

    A failed request is below an answer, an answer below its verdicts; a stricter rule's verdict counts before a
    laxer one's, a rule of somebody else's least.
    """
    standing = (~chains.requests["failed"]).astype(int)
    for rule in chains.rules:
        verdicts = chains.verdicts(rule)
        verdicts = verdicts[verdicts.index.isin(standing.index)]
        named = verdicts["outcome"].mask(verdicts["accepted"], "accepted")
        places = 100 * _STRICTNESS.get(rule, 0) + named.map(_PLACES).astype(int)
        standing[places.index] = standing[places.index].clip(lower=places)
    rows = chains.requests.assign(standing=standing, row=standing.index).groupby("sample", sort=False)
    images = rows.agg({"row": "first", "domain": "first", "standing": "max"})
    ids = [candidate.sample_id for candidate in chains.read(images["row"])]
    return dict(zip(ids, zip(images["domain"], images["standing"], strict=True), strict=True))


def _spread(standings: Mapping[str, tuple[str, int]], limit: int) -> set[str]:
    """At most `limit` ids, spread evenly over domains and, within each, over standings; drawn by the ids alone."""
    if len(standings) <= limit:
        return set(standings)
    kinds: dict[str, dict[int, list[str]]] = {}
    for sample_id, (domain, standing) in standings.items():
        kinds.setdefault(domain, {}).setdefault(standing, []).append(sample_id)
    domains = [kinds[domain] for domain in sorted(kinds)]
    chosen: set[str] = set()
    for of_domain, share in zip(domains, _shares([sum(map(len, ids.values())) for ids in domains], limit), strict=True):
        groups = [of_domain[standing] for standing in sorted(of_domain)]
        for group, count in zip(groups, _shares([len(ids) for ids in groups], share), strict=True):
            chosen.update(heapq.nsmallest(count, group, key=_draw))
    return chosen


def _draw(sample_id: str) -> int:
    """A number of the id's own; ids of another hand may hold what is no UTF-8."""
    return seed_of(0, "chains page", ascii(sample_id))


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """How many to take of each group, `total` together: as even as the groups' sizes allow."""
    shares = [0] * len(sizes)
    left = min(total, sum(sizes))
    # the smallest first: what it cannot give is shared out over the others
    for done, index in enumerate(sorted(range(len(sizes)), key=lambda index: sizes[index])):
        shares[index] = min(sizes[index], left // (len(sizes) - done))
        left -= shares[index]
    return shares


def _cards(
    chains: ChainStore, chosen: Collection[str], images: ImageSet | None, asked: set[str]
) -> Iterator[dict[str, Any]]:
    """The chosen images as the page's script reads them (templates/chains.js), in the order of their ids; the hashes of
    the questions behind them go into `asked`."""
    ids = {hash(sample_id): sample_id for sample_id in chosen}
    rows = chains.requests[chains.requests["sample"].isin(ids.keys())].groupby("sample").groups
    verdicts = _verdicts(chains, {row for of_sample in rows.values() for row in of_sample})
    for sample, sample_id in sorted(ids.items(), key=lambda item: item[1]):
        candidates: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        hashes: set[str] = set()
        for row, candidate in zip(rows[sample], chains.read(rows[sample]), strict=True):
            order = candidate.round, candidate.candidate, candidate.model, candidate.key
            shown = _candidate(candidate, verdicts.get(row, []), row in chains.contradicted)
            candidates.append((order, shown))
            hashes.add(candidate.image_sha256)
            asked.add(candidate.prompt_sha256)
        candidates.sort(key=lambda item: item[0])
        domain = chains.requests["domain"][rows[sample][0]]
        yield _card(sample_id, domain, hashes, [shown for _, shown in candidates], images)


def _card(
    sample_id: str, domain: str, hashes: set[str], candidates: Sequence[Mapping[str, Any]], images: ImageSet | None
) -> dict[str, Any]:
    """`hashes` are those of the image files that the candidates are about."""
    sample = images.by_id.get(sample_id) if images is not None else None
    notes = []
    if images is not None and sample is None:
        notes.append("This image is not in the image folder.")
    if sample is not None and hashes != {sample.image_sha256}:
        notes.append("The file has changed since a chain was written about it.")
    if len(candidates) > MOST_CANDIDATES:
        notes.append(f"The first {MOST_CANDIDATES} of {len(candidates):,} candidates are shown.")
    return {
        "id": one_line(sample_id),
        "domain": one_line(domain),
        "labels": [one_line(label) for label in sample.labels] if sample is not None else [],
        "picture": thumbnail(images.root, sample_id) if images is not None and sample is not None else None,
        "notes": notes,
        "candidates": candidates[:MOST_CANDIDATES],
    }


def _verdicts(chains: ChainStore, rows: Collection[int]) -> dict[int, list[dict[str, Any]]]:
    """The verdicts on each row: of our own rules in their order, then those of others."""
    found: dict[int, list[dict[str, Any]]] = {}
    for rule in sorted(chains.rules, key=lambda rule: (_STRICTNESS.get(rule, len(_STRICTNESS) + 1), rule)):
        verdicts = chains.verdicts(rule)
        verdicts = verdicts[verdicts.index.isin(rows)]
        for row, outcome, accepted in zip(verdicts.index, verdicts["outcome"], verdicts["accepted"], strict=True):
            found.setdefault(row, []).append({"rule": rule, "outcome": outcome.value, "accepted": accepted})
    return found


def _candidate(candidate: Candidate, verdicts: Sequence[Mapping[str, Any]], contradicted: bool) -> dict[str, Any]:
    strictest = max(verdicts, key=lambda verdict: _STRICTNESS.get(verdict["rule"], 0), default=None)
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
        "parts": [[part.stage, part.text] for part in parts(text)],
        "characters": len(candidate.text) if shortened else None,
        "contradicted": contradicted,
        "verdicts": [{**verdict, "rule": one_line(verdict["rule"])} for verdict in verdicts],
        "strictest": verdicts.index(strictest) if strictest is not None else None,
    }


def _question(text: str) -> str:
    return visible(text if len(text) <= LONGEST_QUESTION else text[:LONGEST_QUESTION] + " […]")


def _html(*, cards: Sequence[Mapping[str, Any]], **shown: Any) -> str:
    shown |= {"images": len(cards), "data": embedded(cards)}
    return render_page("chains.html.jinja", ("chains.js",), ("page.css", "chains.css"), shown)
