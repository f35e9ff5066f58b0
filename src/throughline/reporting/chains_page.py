"""The page of a chain store: images with all that teachers wrote about them and what the rules made of it, to browse,
filter and search in one HTML file that opens offline. All text in it was written by others: it travels as JSON and
enters the document as text, never as markup. Called by `throughline chains view`."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from throughline.chains.journal import Candidate, Header, Problem, Usage, Verdict, scan_journal
from throughline.chains.outcomes import Outcome
from throughline.chains.rules import RULES
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
_LINES_BETWEEN_TELLING = 1000

Told = Callable[[int, int | None], None]


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
    told: Told = lambda done, total: None,
) -> PageSummary:
    """Writes the page of a chain store (a folder of journals, or one journal) to `page`, atomically.

    Pictures and classes come from `images`, None when the folder is gone: the page says so. Of a store with more than
    `limit` images a sample is shown, spread evenly over domains and, within each, over outcomes; the same store gives
    the same sample, and the same store and images the same bytes. The store is read twice, a line at a time: memory
    holds a few words for each image of the store and the (shortened) texts of the images shown. `told` gets the lines
    read so far and, the second time, their number.

    ThroughlineError when the store cannot be read or has no candidate, or when `page` cannot be written.
    """
    if limit < 1:
        raise ThroughlineError("a page shows at least one image", f"limit {limit}", "raise it")
    require_writable(page)
    survey = _survey(store, told)
    standings = survey.standings
    if not standings:
        unusable = f"; {survey.problems:,} lines could not be used" if survey.problems else ""
        raise ThroughlineError(
            f"the store holds no candidate{unusable}", store, "build some with `throughline chains build`"
        )
    chosen = _spread(standings, limit)
    gathered, prompts = _gather(store, chosen, lambda done: told(done, survey.lines))
    cards = [_card(sample_id, standings[sample_id][0], found, images) for sample_id, found in gathered.items()]
    asked = {attempt.prompt_sha256 for found in gathered.values() for attempt in found.attempts.values()}
    page_bytes = _html(
        name=one_line(store.resolve().name),
        cards=cards,
        prompts=[_question(prompts[sha256]) for sha256 in sorted(asked & prompts.keys())],
        images_in_store=len(standings),
        problems=survey.problems,
        with_images=images is not None,
    ).encode()
    write_atomically(page, page_bytes)
    return PageSummary(
        images=len(cards),
        images_in_store=len(standings),
        candidates=sum(len(card["candidates"]) for card in cards),
        bytes=len(page_bytes),
        problems=survey.problems,
    )


@dataclass(frozen=True)
class _Survey:
    """What the first reading finds: where every image stands, nothing of what was written about it."""

    standings: Mapping[str, tuple[str, int]]
    """Sample id → (domain, standing): images of one pair are of one kind, and share the pair in memory."""
    lines: int
    problems: int


_STRICTNESS = {rule: place for place, rule in enumerate(RULES, start=1)}
_BEST_FIRST = ("accepted", *Outcome)
_PLACES = {outcome: place for place, outcome in enumerate(reversed(_BEST_FIRST), start=2)}


def _standing(record: Candidate | Verdict) -> int:
    """How far one line brings its image: the greatest of an image's lines is where the image stands.

    A failed request is below an answer, an answer below its verdicts; a stricter rule's verdict counts before a
    laxer one's, a rule of somebody else's least. The order of lines does not matter, so an acceptance that a later
    line takes back still counts: standings steer the sample and are shown nowhere.
    """
    if isinstance(record, Candidate):
        return 0 if record.failed else 1
    return 100 * _STRICTNESS.get(record.rule, 0) + _PLACES["accepted" if record.accepted else record.outcome]


def _survey(store: Path, told: Told) -> _Survey:
    seen: dict[str, tuple[str | None, int]] = {}
    pairs: dict[tuple[str | None, int], tuple[str | None, int]] = {}
    number = problems = 0
    for number, (_, _, record) in enumerate(scan_journal(store), start=1):
        if number % _LINES_BETWEEN_TELLING == 0:
            told(number, None)
        if isinstance(record, Problem):
            problems += 1
        elif not isinstance(record, Header):
            domain, standing = seen.get(record.sample_id, (None, 0))
            if domain is None and isinstance(record, Candidate):
                domain = record.domain
            pair = domain, max(standing, _standing(record))
            seen[record.sample_id] = pairs.setdefault(pair, pair)
    # a verdict without its candidate makes no image
    standings = {sample_id: (domain, place) for sample_id, (domain, place) in seen.items() if domain is not None}
    return _Survey(standings, number, problems)


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


@dataclass(frozen=True)
class _Attempt:
    """What the page needs of a candidate; the text as far as it is shown."""

    key: str
    number: int
    round: int
    source: str
    model: str
    image_sha256: str
    prompt_sha256: str
    finish_reason: str | None
    failed: bool
    usage: Usage | None
    text: str
    characters: int
    """Of the whole text."""
    text_sha256: str

    @classmethod
    def of(cls, candidate: Candidate) -> _Attempt:
        return cls(
            key=candidate.key,
            number=candidate.candidate,
            round=candidate.round,
            source=candidate.source,
            model=candidate.model,
            image_sha256=candidate.image_sha256,
            prompt_sha256=candidate.prompt_sha256,
            finish_reason=candidate.finish_reason,
            failed=candidate.failed,
            usage=candidate.usage,
            text=candidate.text[: LONGEST_TEXT + 1],  # one more, so that `parts` sees that there is more
            characters=len(candidate.text),
            text_sha256=_sha256(candidate.text),
        )


@dataclass
class _Gathered:
    """Everything of one image's lines that the page shows, merged as `read_journal` merges."""

    attempts: dict[str, _Attempt] = field(default_factory=dict)
    """By key."""
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)
    """By (key, rule); they may stand in a file that is read before their candidate's."""
    contradicted: set[str] = field(default_factory=set)
    """Keys for which the store holds a second, different text."""

    def add(self, record: Candidate | Verdict) -> None:
        if isinstance(record, Verdict):
            self.verdicts[record.key, record.rule] = record  # the last one read stands
            return
        first = self.attempts.get(record.key)
        if first is None or first.failed:  # asked again after the failure: the answer stands
            self.attempts[record.key] = _Attempt.of(record)
        elif not record.failed and first.text_sha256 != _sha256(record.text):
            self.contradicted.add(record.key)


def _gather(
    store: Path, chosen: Collection[str], told: Callable[[int], None]
) -> tuple[dict[str, _Gathered], dict[str, str]]:
    """The second reading: the chosen images' lines by sample id, and the questions by their SHA-256."""
    gathered = {sample_id: _Gathered() for sample_id in sorted(chosen)}
    prompts: dict[str, str] = {}
    for number, (_, _, record) in enumerate(scan_journal(store), start=1):
        if number % _LINES_BETWEEN_TELLING == 0:
            told(number)
        if isinstance(record, Header):
            prompts.update(record.prompts)
        elif not isinstance(record, Problem) and record.sample_id in gathered:
            gathered[record.sample_id].add(record)
    return gathered, prompts


def _card(sample_id: str, domain: str, found: _Gathered, images: ImageSet | None) -> dict[str, Any]:
    """One image as the page's script reads it (templates/chains.js)."""
    sample = images.by_id.get(sample_id) if images is not None else None
    attempts = sorted(found.attempts.values(), key=lambda one: (one.round, one.number, one.model, one.key))
    notes = []
    if images is not None and sample is None:
        notes.append("This image is not in the image folder.")
    if sample is not None and any(one.image_sha256 != sample.image_sha256 for one in attempts):
        notes.append("The file has changed since a chain was written about it.")
    if len(attempts) > MOST_CANDIDATES:
        notes.append(f"The first {MOST_CANDIDATES} of {len(attempts):,} candidates are shown.")
    return {
        "id": one_line(sample_id),
        "domain": one_line(domain),
        "labels": [one_line(label) for label in sample.labels] if sample is not None else [],
        "picture": thumbnail(images.root, sample_id) if images is not None and sample is not None else None,
        "notes": notes,
        "candidates": [_candidate(one, found) for one in attempts[:MOST_CANDIDATES]],
    }


def _candidate(attempt: _Attempt, found: _Gathered) -> dict[str, Any]:
    verdicts = sorted(
        (verdict for (key, _), verdict in found.verdicts.items() if key == attempt.key),
        # our own rules in their order, then those of others
        key=lambda verdict: (_STRICTNESS.get(verdict.rule, len(_STRICTNESS) + 1), verdict.rule),
    )
    strictest = max(verdicts, key=lambda verdict: _STRICTNESS.get(verdict.rule, 0), default=None)
    usage = attempt.usage or Usage()
    text = visible(attempt.text)
    shortened = max(attempt.characters, len(text)) > LONGEST_TEXT
    return {
        "key": one_line(attempt.key),
        "number": attempt.number,
        "round": attempt.round,
        "source": one_line(attempt.source),
        "model": one_line(attempt.model),
        "finish": one_line(attempt.finish_reason) if attempt.finish_reason is not None else None,
        "failed": attempt.failed,
        "usage": [usage.prompt_tokens, usage.completion_tokens, usage.cost],
        "parts": [[part.stage, part.text] for part in parts(text)],
        "characters": attempt.characters if shortened else None,
        "contradicted": attempt.key in found.contradicted,
        "verdicts": [
            {"rule": one_line(verdict.rule), "outcome": verdict.outcome.value, "accepted": verdict.accepted}
            for verdict in verdicts
        ],
        "strictest": verdicts.index(strictest) if strictest is not None else None,
    }


def _question(text: str) -> str:
    return visible(text if len(text) <= LONGEST_QUESTION else text[:LONGEST_QUESTION] + " […]")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _html(*, cards: Sequence[Mapping[str, Any]], **shown: Any) -> str:
    shown |= {"images": len(cards), "data": embedded(cards)}
    return render_page("chains.html.jinja", ("chains.js",), ("page.css", "chains.css"), shown)
