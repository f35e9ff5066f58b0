"""The forecast of `run --dry-run` against a run, and its constants calibrated anew.

    throughline demo --out RUN && python bench/cost_model.py RUN    # on an idle machine, right after one another

Prints predicted and measured seconds of every unit, then the shares to put into `experiment/hardware.py`. The folder
must be where the run wrote it, and the run must not have been interrupted: the times of its files are what is measured.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines
from throughline.core.table import Table
from throughline.experiment.config_files import load_config
from throughline.experiment.feature_workload import FeatureWorkload
from throughline.experiment.forecast import measured_units, read_workloads, seconds_by_group
from throughline.experiment.hardware import Hardware, this_machine
from throughline.experiment.run import Preview, preview_run
from throughline.experiment.workload import TRAINING, Phase, Workload
from throughline.reporting.text import to_terminal
from throughline.runs.folder import UNITS


@dataclass(frozen=True)
class Compared:
    """Seconds of one group of phases of one unit, on this machine. `at_most` is what the dry run says; `predicted` the
    same with the samples that rounds really kept; the sums of work behind them are for calibration."""

    unit: str
    group: str
    at_most: float
    predicted: float
    measured: float
    flops: int
    decoding_flops: int
    layer_steps: int


def compare_with_run(run_folder: Path) -> tuple[tuple[Compared, ...], Hardware]:
    """Every unit's training, self-labelling and answering, and the machine as it is measured now.

    Raises ThroughlineError for a folder without a finished run, and where nothing can be predicted.
    """
    config = load_config(str(run_folder / "config.yaml"))
    hardware, preview = this_machine(config), preview_run(config)
    if isinstance(hardware, str):
        raise ThroughlineError(f"nothing is known of this machine: {hardware}", run_folder)
    workloads = read_workloads(preview)
    if isinstance(workloads, str):
        raise ThroughlineError(f"nothing can be predicted: {workloads}", run_folder)
    return tuple(_compared(preview, workloads, run_folder, hardware)), hardware


def _compared(
    preview: Preview, workloads: dict[str, Workload | FeatureWorkload], run_folder: Path, hardware: Hardware
) -> Iterator[Compared]:
    measured = measured_units(run_folder, preview.units)
    for unit in preview.units:
        if unit.name not in measured:
            raise ThroughlineError(f"the unit {unit.slug} is not finished once", run_folder, "let the run finish")
        (folder,) = (run_folder / UNITS).glob(f"{unit.slug}-*")
        workload = workloads[unit.name]
        phases = workload.phases(unit.method, preview.costs[unit.name], unit.kind)
        kept = [_scaled(phase, _kept_share(folder)) if phase.name == TRAINING else phase for phase in phases]
        at_most, predicted = (seconds_by_group(hardware, some, workload.layers) for some in (phases, kept))
        for group in at_most:
            chosen = [phase for phase in kept if phase.group == group]
            yield Compared(
                unit=unit.slug,
                group=group,
                at_most=at_most[group],
                predicted=predicted[group],
                measured=measured[unit.name].get(group, 0.0),
                flops=sum(phase.flops for phase in chosen),
                decoding_flops=sum(phase.decoding_flops for phase in chosen),
                layer_steps=sum(phase.steps for phase in chosen) * workload.layers,
            )


def calibrated(rows: Sequence[Compared], hardware: Hardware) -> Hardware:
    """The hardware with the shares that make its prediction meet what was measured, in sum.

    Two things are measured, training and asking. Prompts are taken to reach what training does, decoding half of it;
    what asking took beyond that is the cost of a step in each layer.
    """
    training = [row for row in rows if row.group == TRAINING]
    asking = [row for row in rows if row.group != TRAINING]
    share = sum(row.flops for row in training) / (hardware.flops * sum(row.measured for row in training))
    arithmetic = sum(row.flops + 2 * row.decoding_flops for row in asking) / (hardware.flops * share)
    rest = max(0.0, sum(row.measured for row in asking) - arithmetic)
    seconds_a_layer = rest / sum(row.layer_steps for row in asking)
    shares = replace(
        hardware.shares, training=share, prompts=share, decoding=share / 2, seconds_a_layer=seconds_a_layer
    )
    return replace(hardware, shares=shares)


def _kept_share(unit_folder: Path) -> float:
    """Of the samples that rounds asked about, those they trained on; 1 where there are no rounds."""
    path = unit_folder / "rounds.jsonl"
    rounds = read_json_lines(path) if path.is_file() else []
    return sum(row["trained"] for row in rounds) / sum(row["sampled"] for row in rounds) if rounds else 1.0


def _scaled(phase: Phase, share: float) -> Phase:
    return replace(phase, tokens=round(phase.tokens * share), flops=round(phase.flops * share))


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
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    cells = [(row.unit, row.group, f"{row.at_most:.1f}", f"{row.predicted:.1f}", f"{row.measured:.1f}") for row in rows]
    sums = [sum(getattr(row, name) for row in rows) for name in ("at_most", "predicted", "measured")]
    total = ("total", "", *(f"{value:.1f}" for value in sums))
    columns = ("unit", "phase", "at most", "with the samples kept", "measured")
    print(to_terminal(Table("seconds of a worker", columns, (*cells, total))))
    print(f"{hardware.flops / 1e9:.0f} GFLOP/s a worker; calibrated: {calibrated(rows, hardware).shares}")


if __name__ == "__main__":
    main()
