"""The prediction of a run held against what the run took: seconds by unit and phase, from a run folder.

Measured seconds are differences of the times at which a unit's files were written, so the folder must be where the run
wrote it, and the run must not have been interrupted. Training ends with `training.jsonl`, a round's sampling with its
journal, and a unit with `done`; the rest of a unit is answering. `bench/cost_model.py` prints this and calibrates
`hardware` with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines
from throughline.experiment.config import RunConfig, load_config
from throughline.experiment.folder import DONE, UNITS
from throughline.experiment.predicting.hardware import Hardware, seconds_by_group, this_machine
from throughline.experiment.predicting.prediction import read_paths
from throughline.experiment.predicting.work import ANSWERING, SELF_LABELLING, TRAINING, Phase, phases_of
from throughline.experiment.run import preview_run
from throughline.training.methods import METHODS


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

    def to_json(self) -> dict[str, Any]:
        """The object that evidence keeps."""
        return asdict(self)


def compare_with_run(run_folder: Path) -> tuple[tuple[Compared, ...], Hardware]:
    """Every unit's training, self-labelling and answering, and the machine as it is measured now.

    Raises ThroughlineError for a folder without a finished run, and where nothing can be predicted.
    """
    config = load_config(str(run_folder / "config.yaml"))
    hardware = this_machine(config)
    if isinstance(hardware, str):
        raise ThroughlineError(f"nothing is known of this machine: {hardware}", run_folder)
    return tuple(_compared(config, run_folder, hardware)), hardware


def _compared(config: RunConfig, run_folder: Path, hardware: Hardware) -> Iterator[Compared]:
    preview = preview_run(config)
    read = read_paths(config, preview.images)
    if isinstance(read, str):
        raise ThroughlineError(f"nothing can be predicted: {read}", run_folder)
    model, paths, _ = read
    layers = model.shape.decoder.layers
    for unit in preview.units:
        folder = _finished_unit(run_folder, unit.slug)
        phases = phases_of(METHODS[unit.method], preview.costs[unit.name], config, model.shape, paths)
        kept = [_scaled(phase, _kept_share(folder)) if phase.name == TRAINING else phase for phase in phases]
        at_most = seconds_by_group(hardware, phases, layers)
        predicted = seconds_by_group(hardware, kept, layers)
        measured = measured_seconds(folder)
        for group in at_most:
            chosen = [phase for phase in kept if phase.group == group]
            yield Compared(
                unit=unit.slug,
                group=group,
                at_most=at_most[group],
                predicted=predicted[group],
                measured=measured.get(group, 0.0),
                flops=sum(phase.flops for phase in chosen),
                decoding_flops=sum(phase.decoding_flops for phase in chosen),
                layer_steps=sum(phase.steps for phase in chosen) * layers,
            )


def measured_seconds(unit_folder: Path) -> dict[str, float]:
    """Seconds of a finished unit by group, from its files' times; loading the checkpoint counts with what follows it.

    A round's training includes the probes around it.
    """
    times = {path: path.stat().st_mtime for path in unit_folder.rglob("*") if path.is_file()}
    began, ended = times[unit_folder / "unit.json"], times[unit_folder / DONE]
    rounds = sorted(unit_folder.glob("round-*"), key=lambda path: int(path.name.partition("-")[2]))
    found: dict[str, float] = {}
    if rounds:
        before = began
        found = {TRAINING: 0.0, SELF_LABELLING: 0.0}
        for folder in rounds:
            sampled, trained = times[folder / "journal-0.jsonl"], times[folder / "training.jsonl"]
            found[SELF_LABELLING] += sampled - before
            found[TRAINING] += trained - sampled
            before = times[folder / "stage.json"]
    elif unit_folder / "training.jsonl" in times:
        found = {TRAINING: times[unit_folder / "training.jsonl"] - began}
    return {**found, ANSWERING: ended - began - sum(found.values())}


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
    return replace(
        hardware,
        shares=replace(
            hardware.shares,
            training=share,
            prompts=share,
            decoding=share / 2,
            seconds_a_layer=rest / sum(row.layer_steps for row in asking),
        ),
    )


def _finished_unit(run_folder: Path, slug: str) -> Path:
    found = [path for path in (run_folder / UNITS).glob(f"{slug}-*") if (path / DONE).is_file()]
    if len(found) != 1:
        raise ThroughlineError(f"the unit {slug} is not finished once", run_folder, "let the run finish")
    return found[0]


def _kept_share(unit_folder: Path) -> float:
    """Of the samples that rounds asked about, those they trained on; 1 where there are no rounds."""
    path = unit_folder / "rounds.jsonl"
    rounds = read_json_lines(path) if path.is_file() else []
    return sum(row["trained"] for row in rounds) / sum(row["sampled"] for row in rounds) if rounds else 1.0


def _scaled(phase: Phase, share: float) -> Phase:
    return replace(phase, tokens=round(phase.tokens * share), flops=round(phase.flops * share))
