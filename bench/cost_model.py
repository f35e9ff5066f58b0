"""The cost model of `run --dry-run` against a run, and its constants calibrated anew.

    throughline demo --out RUN && python bench/cost_model.py RUN    # on an idle machine, right after one another

Prints predicted and measured seconds of every unit, then the shares to put into `experiment/predicting/hardware.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from throughline.core.errors import ThroughlineError
from throughline.experiment.predicting.measured import calibrated, compare_with_run
from throughline.reporting.tables import Table, to_terminal


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicted against measured seconds of a run, and calibration.")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of an undisturbed run, where the run wrote it")
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list")
    arguments = parser.parse_args()
    try:
        rows, hardware = compare_with_run(arguments.run)
    except ThroughlineError as error:
        raise SystemExit(f"cost_model: error: {error}") from None
    if arguments.json:
        print(json.dumps([row.to_json() for row in rows], indent=2))
        return
    cells = [(row.unit, row.group, f"{row.at_most:.1f}", f"{row.predicted:.1f}", f"{row.measured:.1f}") for row in rows]
    sums = [sum(getattr(row, name) for row in rows) for name in ("at_most", "predicted", "measured")]
    total = ("total", "", *(f"{value:.1f}" for value in sums))
    columns = ("unit", "phase", "at most", "with the samples kept", "measured")
    print(to_terminal(Table("seconds of a worker", columns, (*cells, total))))
    print(f"{hardware.flops / 1e9:.0f} GFLOP/s a worker; calibrated: {calibrated(rows, hardware).shares}")


if __name__ == "__main__":
    main()
