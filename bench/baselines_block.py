"""The methods of the comparison as tables: accuracy with intervals and cost, and the difference of each from ERM.
Called by `documents.py`."""

from collections.abc import Callable
from pathlib import Path

from baselines_study import DRAWN, REAL
from certificate_block import NOT_MEASURED
from throughline.baselines.training import ANSWER
from throughline.reporting.groups import groups
from throughline.reporting.tables import comparison_table, existing, results_table
from throughline.reporting.text import to_markdown
from throughline.runs.reader import read_run

REFERENCE = "erm"
"""What DomainBed compares every method with."""


def methods_block(name: str) -> Callable[[Path], str]:
    """The block of one run."""

    def block(evidence: Path) -> str:
        if not (evidence / name).is_dir():
            return NOT_MEASURED
        (group,) = groups(read_run(evidence / name))
        results = results_table(group, "all", ANSWER, with_cost=True)
        tables = existing([results, comparison_table(group, ANSWER, REFERENCE)])
        return "\n".join(map(to_markdown, tables))

    return block


BLOCKS = {name.replace("_", "-"): methods_block(name) for name in (DRAWN, *REAL)}
