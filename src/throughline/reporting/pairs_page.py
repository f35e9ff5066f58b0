"""The page of a folder of preference pairs: both sides beside each other, with the words that differ marked. Text of
others enters the document as text, never as markup. Called by `throughline chains view`."""

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from throughline.chains.pairs import Pair, Side, read_pairs
from throughline.core.files import require_writable, write_atomically
from throughline.core.seeding import seed_of
from throughline.core.untrusted import one_line
from throughline.domains.samples import ImageSet
from throughline.reporting.gallery import parts, thumbnail
from throughline.reporting.self_contained import render_page


def write_pairs_page(folder: Path, page: Path, images: ImageSet, limit: int = 500) -> tuple[int, int]:
    """Writes the page of the pairs in a folder, atomically, and gives how many are shown, and how many there are. Of
    more than `limit` pairs a sample is shown, spread evenly over sources; the same pairs give the same bytes.

    ThroughlineError as `read_pairs` raises it, or when `page` cannot be written.
    """
    require_writable(page)
    pairs = read_pairs(folder, images)
    shown = {
        "name": one_line(folder.resolve().name),
        "cards": [_card(pair) for pair in _spread(pairs, limit)],
        "sources": dict(Counter(pair.source for pair in pairs)),
    }
    write_atomically(page, render_page("pairs.html.jinja", (), ("page.css",), shown))
    return len(shown["cards"]), len(pairs)


def _spread(pairs: Sequence[Pair], limit: int) -> list[Pair]:
    drawn = sorted(pairs, key=lambda pair: seed_of(0, "pairs page", ascii(pair.identity)))
    seen: Counter[str] = Counter()
    turns = []
    for pair in drawn:
        turns.append((seen[pair.source], pair))
        seen[pair.source] += 1
    chosen = {id(pair) for _, pair in sorted(turns, key=lambda turn: turn[0])[:limit]}
    return [pair for pair in pairs if id(pair) in chosen]


def _card(pair: Pair) -> dict[str, Any]:
    same_chain = pair.chosen.sample != pair.rejected.sample
    other = pair.chosen.chain if same_chain else pair.rejected.chain
    sides = [_side(pair.chosen, pair.chosen.chain, other), _side(pair.rejected, other, pair.chosen.chain)]
    known = {"changed": ", ".join(pair.changed), "distance": pair.distance, "verdict": pair.verdict}
    facts = [f"{name}: {one_line(str(value))}" for name, value in known.items() if value not in (None, "")]
    return {"source": one_line(pair.source), "facts": facts, "sides": sides, "same_chain": same_chain}


def _side(side: Side, chain: str | None, other: str | None) -> dict[str, Any]:
    """`stages` are names with pieces of text, each with whether the other side lacks it."""
    against = dict(parts(other or ""))
    stages = [(stage, _marked(text, against.get(stage, ""))) for stage, text in parts(chain or "")]
    sample, label = side.sample, one_line(side.label)
    picture = thumbnail(sample.root, sample.id, sample.view)
    view = f" ({sample.view.name})" if sample.view else ""
    return {"id": one_line(sample.id) + view, "label": label, "picture": picture, "stages": stages}


def _marked(own: str, other: str) -> list[tuple[str, bool]]:
    words = own.split()
    matcher = SequenceMatcher(None, words, other.split(), autojunk=False)
    return [(" ".join(words[i:j]), tag != "equal") for tag, i, j, *_ in matcher.get_opcodes() if j > i]
