"""An analysis in a terminal: what stands out, a line each. Called by the analyze verb."""

from __future__ import annotations

from throughline.analysis.records import Analysis
from throughline.reporting.folds import WHOSE, averaged, several_folds, together

SHOWN = {("label", "class"): "class tokens alone", ("teacher", "chain"): "a teacher's chain tokens"}
"""Of the token probabilities; the other sources and kinds are on the page."""

EXCHANGED = ("another image", "another image's chain")
"""Of the variants of a chain."""


def summary_of(found: Analysis) -> str:
    """What stands out, over folds, a line each; the rest is in the file and on the page."""
    lines = [*_moved(found), *_perplexities(found), *_lost(found)]
    lines += [several_folds(found)] if lines else []
    lines += [
        f"distance of domains in {apart.of}, {apart.encoder}: {apart.mean:.3f} in the mean over pairs"
        for apart in found.divergence
    ]
    for one in found.sensitivity:
        values = ", ".join(f"{row.value}: {100 * row.accuracy.mean:.1f} %" for row in one.rows)
        lines.append(f"{one.setting}, {one.rows[0].method}, {one.rows[0].answer} path: {values}")
    return "\n".join(lines) or "nothing was measured"


def _moved(found: Analysis) -> list[str]:
    moved = [one for fold in found.folds for one in fold.moved if one.before.method is None]
    nets = together(moved, lambda one: (one.source, one.kind, one.after.name))
    return [
        f"{SHOWN[source, kind]} above 0.75, {name} − base: {averaged([one.net for one in ones], sign='+')} points"
        for (source, kind, name), ones in nets.items()
        if (source, kind) in SHOWN
    ]


def _perplexities(found: Analysis) -> list[str]:
    mismatch = together(
        (one for fold in found.folds for one in fold.mismatch), lambda one: (one.source, one.state.name)
    )
    return [
        f"perplexity of {WHOSE[source]} to {name}: {averaged([one.perplexity for one in ones], 2)}"
        for (source, name), ones in mismatch.items()
    ]


def _lost(found: Analysis) -> list[str]:
    variants = together((one for fold in found.folds for one in fold.variants), lambda one: (one.state.name, one.name))
    return [
        f"accuracy lost behind {name}, {state}: {averaged([one.lost for one in ones if one.lost is not None])} points"
        for (state, name), ones in variants.items()
        if name in EXCHANGED
    ]
