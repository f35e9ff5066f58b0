"""Whether two runs of one config gave the same numbers: every results line, prediction, loss line, round and adapter.

    python bench/compare_runs.py runs/before runs/after

A unit is found by what it is (image set, targets, method, seed, factors), since its name ends in a hash of versions.
Left out are `seconds` and `unit`, and keys that only one version of the program writes, which are named. Exit code 1
where anything differs; answers that name another class are counted as flips.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from throughline.core.files import canonical_json, file_sha256, read_json_lines
from throughline.core.nested import flattened

NOT_COMPARED = {"seconds", "unit", "schema"}
LINES = ("training.jsonl", "rounds.jsonl", "validation.jsonl")
Row = dict[str, Any]


def unit_key(row: Row) -> str:
    """What a unit is, whatever it is called."""
    return canonical_json([row["dataset"], row["targets"], row["method"], row["seed"], row.get("factors") or {}])


def compare_rows(what: str, before: Iterable[Row], after: Iterable[Row], report: Counter[str]) -> None:
    """Counts equal and different rows, in their order; keys that only one side has are counted by name."""
    first, second = list(before), list(after)
    if len(first) != len(second):
        report[f"DIFFERENT number of {what}: {len(first)} and {len(second)}"] += 1
    for old, new in zip(first, second, strict=False):
        for key in old.keys() ^ new.keys():
            report[f"{what}: key {key} {'before' if key in old else 'after'} only"] += 1
        shared = (old.keys() & new.keys()) - NOT_COMPARED
        different = [key for key in sorted(shared) if old[key] != new[key]]
        report[f"DIFFERENT {what}: {', '.join(different)}" if different else f"{what}: equal"] += 1
        if "predicted" in different:
            report["flips: answers that name another class"] += 1


def compare_runs(before: Path, after: Path) -> Counter[str]:
    """What is equal and what is not, with how often; what differs begins with DIFFERENT."""
    report: Counter[str] = Counter()
    rows = tuple(sorted(_results_lines(run), key=_line_key) for run in (before, after))
    compare_rows("results lines", rows[0], rows[1], report)
    units = [
        {unit_key(row): run / "units" / row["unit"] for row in lines}
        for run, lines in zip((before, after), rows, strict=True)
    ]
    for key in units[0].keys() ^ units[1].keys():
        report[f"DIFFERENT units: {key} in one run only"] += 1
    for key in sorted(units[0].keys() & units[1].keys()):
        first, second = units[0][key], units[1][key]
        for path in sorted(first.rglob("predictions.jsonl")):
            compare_rows("predictions", read_json_lines(path), _read(second / path.relative_to(first)), report)
        for name in LINES:
            compare_rows(name, _read(first / name), _read(second / name), report)
        for path in sorted(first.rglob("adapter_model.safetensors")):
            other = second / path.relative_to(first)
            equal = other.is_file() and file_sha256(path) == file_sha256(other)
            report["adapters: equal" if equal else "DIFFERENT adapters"] += 1
    return report


def _results_lines(run: Path) -> list[Row]:
    """With a key for each of their metrics, so that one that only one version writes is named, too."""
    lines = []
    for row in read_json_lines(run / "results.jsonl"):
        metrics = row.pop("metrics", {})
        lines.append(row | flattened({"metrics": metrics}))
    return lines


def _line_key(row: Row) -> str:
    return canonical_json([unit_key(row), row["answer"], row["split"], row["round"]])


def _read(path: Path) -> list[Row]:
    return read_json_lines(path) if path.is_file() else []


def main(arguments: list[str] | None = None) -> int:
    """Prints what is equal and what is not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path, help="run folder")
    parser.add_argument("after", type=Path, help="run folder of the same config")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    options = parser.parse_args(arguments)
    report = compare_runs(options.before, options.after)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for what, count in sorted(report.items()):
            print(f"{count:8,}  {what}")
    return 1 if any(what.startswith("DIFFERENT") for what in report) else 0


if __name__ == "__main__":
    sys.exit(main())
