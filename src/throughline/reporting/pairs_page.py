"""The page of a folder of preference pairs: both sides beside each other, with the words that differ marked. Text of
others enters the document as text, never as markup. Called by `throughline chains view`."""

from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from throughline.chains.pairs import Pair, Side, read_pairs
from throughline.core.files import require_writable, write_atomically
from throughline.core.untrusted import one_line
from throughline.domains.samples import ImageSet, spread
from throughline.reporting.gallery import parts, thumbnail
from throughline.reporting.self_contained import render_page


def write_pairs_page(folder: Path, page: Path, images: ImageSet, limit: int = 500) -> tuple[int, int]:
    """Writes the page of the pairs in a folder, atomically, and gives how many are shown, and how many there are: all
    about at most `limit` images, which are spread over domains and classes.

    ThroughlineError as `read_pairs` raises it, or when `page` cannot be written.
    """
    require_writable(page)
    pairs = read_pairs(folder, images)
    samples = {pair.chosen.sample.id: pair.chosen.sample for pair in pairs}
    about = {sample.id for sample in spread([*samples.values()], limit)}
    shown = {
        "name": one_line(folder.resolve().name),
        "cards": [_card(pair) for pair in pairs if pair.chosen.sample.id in about],
        "sources": dict(Counter(pair.source for pair in pairs)),
    }
    write_atomically(page, render_page("pairs.html.jinja", (), ("page.css",), shown))
    return len(shown["cards"]), len(pairs)


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
