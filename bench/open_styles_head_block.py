"""The linear head on real images as tables: each style held out, what groups change, from each style to each. Called by
`documents.py`."""

from collections.abc import Callable, Mapping
from pathlib import Path

from certificate_block import NOT_MEASURED
from records import APART, DOMAINBED, FEWER, MAJORITY, OTHERS, SAME, HeadCell, HeadScore, OpenStylesHead, read_record
from throughline.core.table import Table
from throughline.metrics.intervals import LEVEL, Interval
from throughline.reporting.text import to_markdown

RECORD = "open_styles_head.json"
COMPARED = (SAME, FEWER, DOMAINBED)


def _block(tables: Callable[[OpenStylesHead], list[Table]]) -> Callable[[Path], str]:
    def block(evidence: Path) -> str:
        found = read_record(evidence / RECORD, OpenStylesHead)
        return "\n".join(to_markdown(table, with_title=False) for table in tables(found)) if found else NOT_MEASURED

    return block


def _held_out(found: OpenStylesHead) -> list[Table]:
    cells = [cell for cell in found.cells if cell.source == OTHERS]
    mean = next(mean for mean in found.means if mean.name == OTHERS)
    classes = round(1 / mean.rows[MAJORITY].balanced.mean)
    rows = [
        (
            cell.target,
            f"{cell.rows[APART].trained:.0f}",
            f"{cell.asked:.0f}",
            f"{100 * cell.rows[MAJORITY].accuracy.mean:.1f}",
            _shown(cell.rows[APART].accuracy),
            _shown(cell.rows[APART].balanced),
        )
        for cell in cells
    ]
    rows.append(("mean", "", "", "", "", _shown(mean.rows[APART].balanced)))
    columns = ("held out", "trained on", "asked", "majority vote, accuracy", "accuracy", "balanced accuracy")
    notes = (
        f"`{found.command}`: {found.images:,} images. The head is a ridge classifier on {found.features:,} features, "
        f"{found.tower}; it is trained on half of the concepts in all other styles and asked about the other half. "
        f"Images, and percent, over {len(found.seeds)} seeds of the split. Chance, and the balanced accuracy of the "
        f"majority vote: {100 / classes:.1f} %. {100 * LEVEL:.0f} % intervals over concepts and seeds; heads are not "
        "trained anew for them.",
        found.environment.sentence(),
    )
    return [Table("held out", columns, tuple(rows), notes)]


def _groups(found: OpenStylesHead) -> list[Table]:
    columns = (APART, *(column for name in COMPARED for column in (name, "minus apart")))
    of_targets = {cell.target: cell.rows for cell in found.cells if cell.source == OTHERS}
    of_pairs = {f"{mean.name} ({mean.cells})": mean.rows for mean in found.means if mean.name != OTHERS}
    mean = next(mean for mean in found.means if mean.name == OTHERS)
    shared = "; ".join(
        f"{name} {100 * min(share):.0f} to {100 * max(share):.0f} %"
        for name in COMPARED
        if (share := [cell.rows[name].shared for cell in found.cells if cell.source == OTHERS])
    )
    notes = (
        "Balanced accuracy in percent, and the paired difference in points with its interval, on the same images. "
        f"{APART}: half A of the concepts is trained on. {SAME}: half B, that of the images asked about. {FEWER}: "
        f"images of DomainBed's split, as many of each domain and class as in half A. {DOMAINBED}: all of its images, "
        f"about twice as many. Asked about, with a concept that is trained on, all others being the sources: {shared}.",
    )
    pairs = "Trained on one style, asked about another; the number of such pairs in brackets."
    return [
        Table("groups, held out", ("held out", *columns), _rows({**of_targets, "mean": mean.rows}), notes),
        Table("groups, pairs", ("trained on → asked", *columns), _rows(of_pairs), (pairs,)),
    ]


def _rows(scores: Mapping[str, Mapping[str, HeadScore]]) -> tuple[tuple[str, ...], ...]:
    def cells(rows: Mapping[str, HeadScore]) -> list[str]:
        shown = [f"{100 * rows[APART].balanced.mean:.1f}"]
        for name in COMPARED:
            shown += [f"{100 * rows[name].balanced.mean:.1f}", _shown(rows[name].minus_apart, "+")]
        return shown

    return tuple((name, *cells(rows)) for name, rows in scores.items())


def _matrix(found: OpenStylesHead) -> list[Table]:
    cells: dict[tuple[str, str], HeadCell] = {(cell.source, cell.target): cell for cell in found.cells}
    domains = sorted({target for _, target in cells})
    rows = tuple(
        (source, *(_shown(cells[source, target].rows[APART].balanced, digits=0) for target in domains))
        for source in domains
    )
    note = "Balanced accuracy in percent with its interval, concepts kept apart within a style, too."
    return [Table("matrix", ("trained on", *domains), rows, (note,))]


def _shown(interval: Interval | None, sign: str = "", digits: int = 1) -> str:
    values = (interval.mean, interval.low, interval.high) if interval else ()
    return "{} ({} to {})".format(*(f"{100 * value:{sign}.{digits}f}" for value in values)) if values else ""


BLOCKS = {
    "open-styles-head": _block(_held_out),
    "open-styles-head-groups": _block(_groups),
    "open-styles-head-matrix": _block(_matrix),
}
