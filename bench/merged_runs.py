"""Reduced runs of several held-out domains as one, for evidence that is measured in parts: one config, each part with
its own `data.targets`. Called by `evidence.py`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet
import yaml

from reduced_run import UNITS, reduced_parquet, require_whole
from throughline.analysis.document import FILE as ANALYSIS
from throughline.analysis.document import Analysis, read_analysis, write_analysis
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_atomically, write_json, write_json_lines
from throughline.runs.reader import REDUCED_PREDICTIONS, Run, read_run


def merge_runs(parts: Sequence[Path], merged: Path) -> Run:
    """Writes `merged` from reduced runs and reads it back.

    Raises a ThroughlineError for parts that are not whole, whose configs differ in more than `data.targets`, or that
    share a unit.
    """
    runs = [read_run(part) for part in parts]
    for run in runs:
        require_whole(run)
    configs = [yaml.safe_load(run.config_text) for run in runs]
    targets = [target for config in configs for target in config["data"].pop("targets")]
    for part, config in zip(parts, configs, strict=True):
        if config != configs[0]:
            raise ThroughlineError("its config differs in more than data.targets", part, "measure it again")
    names = [name for run in runs for name in run.units]
    if len(names) != len(set(names)):
        raise ThroughlineError("two parts have a unit in common", merged, "give each domain to one part")
    configs[0]["data"]["targets"] = targets
    (merged / REDUCED_PREDICTIONS).unlink(missing_ok=True)
    write_atomically(merged / "config.yaml", yaml.safe_dump(configs[0], sort_keys=False))
    write_json(merged / "environment.json", dict(runs[0].environment))
    for name in ("results.jsonl", "rounds.jsonl"):
        write_json_lines(merged / name, _sorted_lines([row for part in parts for row in read_json_lines(part / name)]))
    units = pd.concat([pd.read_csv(part / UNITS, dtype=str, keep_default_na=False) for part in parts])
    units.sort_values("unit").to_csv(merged / UNITS, index=False)
    analyses = [analysis for part in parts if (analysis := read_analysis(part / ANALYSIS)) is not None]
    if analyses:
        write_analysis(merged / ANALYSIS, _merged(analyses))
    tables = [pyarrow.parquet.read_table(part / REDUCED_PREDICTIONS) for part in parts]
    write_atomically(merged / REDUCED_PREDICTIONS, reduced_parquet(pyarrow.concat_tables(tables).sort_by("unit")))
    return read_run(merged)


def _sorted_lines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["unit"])


def _merged(analyses: Sequence[Analysis]) -> Analysis:
    """All folds; what is measured once for all domains is taken from the first part."""
    return analyses[0].model_copy(update={"folds": tuple(fold for analysis in analyses for fold in analysis.folds)})
