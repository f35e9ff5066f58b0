"""A finished run reduced to what its tables, intervals and comparisons need, small enough to be committed: config,
versions, results, rounds, steps and images of every unit, and every answer's class without its text. Called by the
commands that write evidence/; `runs.reader` reads what stands there."""

import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from throughline.analysis.document import FILE as ANALYSIS
from throughline.analysis.document import Analysis, read_analysis, write_analysis
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_atomically, write_json, write_json_lines
from throughline.reporting.groups import Group, contradictions, groups
from throughline.runs.order import SPLIT_ORDER
from throughline.runs.reader import REDUCED_COLUMNS, REDUCED_PREDICTIONS, REDUCED_UNITS, Run, read_run

# Of environment.json: what tells which code computed on how many cores, and nothing of whose machine it was.
ENVIRONMENT_KEYS = ("python", "platform", "packages", "cores", "processor", "gpus", "device")


def reduce_run(run_folder: Path, reduced: Path, splits: Collection[str] = SPLIT_ORDER) -> Run:
    """Writes `reduced`: config.yaml, environment.json, results.jsonl (of these splits), rounds.jsonl, units.csv,
    predictions.parquet, where there is one analysis.json; reads it back.

    Raises a ThroughlineError for a run that is not whole, whose results contradict its predictions, whose config names
    an absolute path, or whose samples have several labels. The predictions are written last: a reduction that was
    killed is no reduced folder.
    """
    run = read_run(run_folder)
    require_whole(run)
    _require_no_machine_path(run)
    rows = list(_prediction_rows(run))
    (reduced / REDUCED_PREDICTIONS).unlink(missing_ok=True)
    write_atomically(reduced / "config.yaml", run.config_text)
    write_json(reduced / "environment.json", reduced_environment(run.environment))
    lines = (line for line in read_json_lines(run_folder / "results.jsonl") if line["split"] in splits)
    write_json_lines(reduced / "results.jsonl", lines)
    write_json_lines(reduced / "rounds.jsonl", _round_rows(run))
    run.frames.units.sort_values("unit").to_csv(reduced / REDUCED_UNITS, index=False)
    analysis = read_analysis(run_folder / ANALYSIS)
    if analysis is not None:
        write_analysis(reduced / ANALYSIS, without_texts(analysis))
    write_atomically(reduced / REDUCED_PREDICTIONS, reduced_parquet(_table(rows)))
    return read_run(reduced)


def without_texts(analysis: Analysis) -> Analysis:
    """Numbers only: chains that are shown token by token, and curves of every step, are for the run's own page."""
    folds = tuple(fold.model_copy(update={"shaded": (), "curves": ()}) for fold in analysis.folds)
    return analysis.model_copy(update={"folds": folds})


def read_group(folder: Path) -> Group:
    """The one group of results of a run. ThroughlineError for a run that is not whole, or has several groups."""
    run = read_run(folder)
    require_whole(run)
    found = groups(run)
    if len(found) != 1:
        raise ThroughlineError(f"the run holds {len(found)} groups of results", folder, "reduce one run")
    return found[0]


def require_whole(run: Run) -> None:
    """Raises a ThroughlineError for a run with any fault or with results that its predictions contradict."""
    answered = {(unit.name, prediction.answer) for unit in run.units.values() for prediction in unit.predictions()}
    unanswered = [
        f"{line.unit}: no predictions for its results on the {line.answer} path"
        for line in run.results
        if line.round is None and (line.unit, line.answer) not in answered
    ]
    faults = (*run.faults, *contradictions(run), *unanswered)
    if faults:
        more = f"; and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise ThroughlineError(f"the run is not whole: {faults[0]}{more}", run.folder, "finish it, or reduce it again")


def _require_no_machine_path(run: Run) -> None:
    for part, key in (("data", "images"), ("model", "checkpoint"), ("chains", "journal")):
        named = (run.config.get(part) or {}).get(key)
        if isinstance(named, str) and Path(named).is_absolute():
            raise ThroughlineError(f"{part}.{key} is a path of this machine", named, "run with a relative one")


def reduced_environment(environment: Mapping[str, Any]) -> dict[str, Any]:
    """What of an environment.json is fit to be published."""
    return {key: environment[key] for key in ENVIRONMENT_KEYS if key in environment}


def _prediction_rows(run: Run) -> Iterator[tuple[str | None, ...]]:
    """Rows of REDUCED_COLUMNS, in the order of units, answers and samples."""
    for name in sorted({line.unit for line in run.results}):
        for row in sorted(run.units[name].predictions(), key=lambda row: (row.answer, row.sample_id)):
            if len(row.labels) != 1 or not isinstance(row.predicted, str | None):
                raise ThroughlineError("a sample has several labels", row.sample_id, "only single labels are reduced")
            yield name, row.sample_id, row.answer, row.predicted, row.labels[0], row.outcome


def _round_rows(run: Run) -> Iterator[dict[str, Any]]:
    for name in sorted({line.unit for line in run.results}):
        for line in run.units[name].rounds:
            yield {"unit": name, **asdict(line)}


def _table(rows: list[tuple[str | None, ...]]) -> Any:
    import pyarrow

    columns = {name: [row[number] for row in rows] for number, name in enumerate(REDUCED_COLUMNS)}
    return pyarrow.table(columns, schema=pyarrow.schema([(name, pyarrow.string()) for name in REDUCED_COLUMNS]))


def reduced_parquet(table: Any) -> bytes:
    """A table of `REDUCED_COLUMNS` as the bytes of its file."""
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd", compression_level=19, store_schema=False)
    return buffer.getvalue()
