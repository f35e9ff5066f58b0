"""Reduced runs of several held-out domains or seeds as one, for evidence that is measured in parts: one config, each
part with its own `data.targets` and `seeds`. Called by `evidence.py`."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import yaml

from reduced_run import reduce_run, reduced_parquet, require_whole
from throughline.analysis.document import FILE as ANALYSIS
from throughline.analysis.document import Analysis, read_analysis, write_analysis
from throughline.analysis.sensitivity import Sensitivity, sensitivity
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_atomically, write_json, write_json_lines
from throughline.experiment.analyses.sensitivity import rounds_right
from throughline.experiment.config_files import load_config
from throughline.runs.reader import REDUCED_PREDICTIONS, REDUCED_UNITS, Run, read_run

ROUNDS_RIGHT = "rounds_right.jsonl"
"""Of a part: whether each image was answered right after each round, which is compared over all parts together."""


def reduce_part(run_folder: Path, part: Path) -> Run:
    """As `reduce_run`, with what a comparison of rounds over several parts needs beside it."""
    rows = [
        {
            "method": method,
            "answer": answer,
            "round": number,
            "target": target,
            "seed": seed,
            "right": np.asarray(right).tolist(),
        }
        for method, answer, rounds in rounds_right(read_run(run_folder))
        for number, runs in rounds.items()
        for (target, seed), right in runs.items()
    ]
    write_json_lines(part / ROUNDS_RIGHT, rows)
    return reduce_run(run_folder, part)


def merge_runs(parts: Sequence[Path], merged: Path) -> Run:
    """Writes `merged` from parts, as `reduce_part` writes them, and reads it back.

    Raises a ThroughlineError for parts that are not whole, whose configs differ in more than `data.targets`,
    `seeds` and `workers`, that share a unit, or that are not all targets with all seeds.
    """
    runs = [read_run(part) for part in parts]
    for run in runs:
        require_whole(run)
    # with every default, since parts may be of several versions of the code
    configs = [load_config(str(part / "config.yaml")).model_dump(mode="json") for part in parts]
    own = [(config["data"].pop("targets"), config.pop("seeds")) for config in configs]
    workers = {config.pop("workers") for config in configs}  # no number depends on how many there were
    for part, config in zip(parts, configs, strict=True):
        if config != configs[0]:
            raise ThroughlineError("its config differs in more than data.targets and seeds", part, "measure it again")
    targets = list(dict.fromkeys(chain.from_iterable(names for names, _ in own)))
    seeds = sorted(set(chain.from_iterable(numbers for _, numbers in own)))
    if len(targets) * len(seeds) != sum(len(names) * len(numbers) for names, numbers in own):
        raise ThroughlineError("not every target was measured with every seed once", merged, "measure what is missing")
    names = [name for run in runs for name in run.units]
    if len(names) != len(set(names)):
        raise ThroughlineError("two parts have a unit in common", merged, "give each domain to one part")
    configs[0]["data"]["targets"], configs[0]["seeds"], configs[0]["workers"] = targets, seeds, max(workers)
    (merged / REDUCED_PREDICTIONS).unlink(missing_ok=True)
    write_atomically(merged / "config.yaml", yaml.safe_dump(configs[0], sort_keys=False))
    write_json(merged / "environment.json", dict(runs[0].environment))
    for name in ("results.jsonl", "rounds.jsonl"):
        write_json_lines(merged / name, _sorted_lines([row for part in parts for row in read_json_lines(part / name)]))
    units = pd.concat([pd.read_csv(part / REDUCED_UNITS, dtype=str, keep_default_na=False) for part in parts])
    units.sort_values("unit").to_csv(merged / REDUCED_UNITS, index=False)
    analyses = [analysis for part in parts if (analysis := read_analysis(part / ANALYSIS)) is not None]
    if analyses:
        write_analysis(merged / ANALYSIS, _merged(analyses, _rounds_varied(parts)))
    tables = [pyarrow.parquet.read_table(part / REDUCED_PREDICTIONS) for part in parts]
    write_atomically(merged / REDUCED_PREDICTIONS, reduced_parquet(pyarrow.concat_tables(tables).sort_by("unit")))
    return read_run(merged)


def _sorted_lines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["unit"])


def _rounds_varied(parts: Sequence[Path]) -> tuple[Sensitivity, ...]:
    """What a round is worth over all parts."""
    rounds: dict[tuple[str, str], dict[str, dict[tuple[str, int], list[float]]]] = {}
    for row in chain.from_iterable(read_json_lines(part / ROUNDS_RIGHT) for part in parts):
        of_round = rounds.setdefault((row["method"], row["answer"]), {}).setdefault(row["round"], {})
        of_round[row["target"], row["seed"]] = row["right"]
    varied = (sensitivity("rounds", *key, right, against_previous=True) for key, right in rounds.items())
    return tuple(each for each in varied if each is not None)


def _merged(analyses: Sequence[Analysis], rounds: tuple[Sensitivity, ...]) -> Analysis:
    """All folds; what is measured once for all domains is taken from the first part."""
    folds = tuple(chain.from_iterable(analysis.folds for analysis in analyses))
    return analyses[0].model_copy(update={"folds": folds, "sensitivity": rounds})
