"""The budgets of the second laboratory as a table: what was tried on the source domains, what was chosen, and whether
it is enough. Called by `documents.py`."""

from pathlib import Path

from budgets import gain_of_twice
from certificate_block import NOT_MEASURED
from records import BudgetDraw, Budgets, read_record
from throughline.core.table import Table
from throughline.drawn import DRAWN_NOTE
from throughline.reporting.text import to_markdown


def budgets(evidence: Path) -> str:
    """One row for each method and learning rate, a cell for each target with both numbers of epochs."""
    record = read_record(evidence / "budgets.json", Budgets)
    if record is None or not record.checks:
        return NOT_MEASURED
    targets = list(dict.fromkeys(draw.target for draw in record.draws))
    epochs = sorted({draw.epochs for draw in record.draws})
    of_row: dict[tuple[str, float], dict[str, list[BudgetDraw]]] = {}
    for draw in sorted(record.draws, key=lambda draw: draw.epochs):
        of_row.setdefault((draw.method, draw.lr), {}).setdefault(draw.target, []).append(draw)
    rows = tuple(
        (method, f"{lr:g}", *(" / ".join(map(_cell, cells[target])) for target in targets))
        for (method, lr), cells in of_row.items()
    )
    points, seeds = 100 * gain_of_twice(record), len({check.seed for check in record.checks})
    notes = (
        "`python bench/evidence.py budgets`: accuracy in percent on the `out` splits of the other three styles, seed "
        f"0, after {' / '.join(f'{number:g}' for number in epochs)} epochs; `reasoning` by its chains' conclusions, "
        "the others by label likelihood. No image of the style that is held out was asked about.",
        f"`cls` at twice the chosen steps: {points:+.1f} points on the source domains, in the mean over {len(targets)} "
        f"styles and {seeds} seeds; {100 * record.tolerance:g} were allowed.",
        DRAWN_NOTE,
    )
    return to_markdown(Table("budgets", ("method", "learning rate", *targets), rows, notes), with_title=False)


def _cell(draw: BudgetDraw) -> str:
    share = f"{100 * draw.accuracy:.1f}"
    return f"{share} (chosen)" if draw.chosen else share
