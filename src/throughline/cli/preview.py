"""How `run --dry-run` shows a run before it begins: config, units, what they compute, hours on named hardware."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from throughline.cli.text import counted, duration
from throughline.core.table import Table, tabulate
from throughline.experiment.config_files import resolved_yaml
from throughline.experiment.costs import Cost
from throughline.experiment.feature_workload import FeatureWorkload
from throughline.experiment.forecast import Forecast, UnitForecast
from throughline.experiment.hardware import GB, THIS_MACHINE, Hardware
from throughline.experiment.run import Preview
from throughline.experiment.workload import ANSWERING, GROUPS, SELF_LABELLING, TRAINING, Workload
from throughline.reporting.groups import Setup
from throughline.reporting.text import to_terminal
from throughline.reporting.warnings import coverage
from throughline.runs.unit import DRAW, EVALUATE, FEW_SHOT, Unit

_COUNTED = ("training_samples", "optimiser_steps", "chains_sampled", "answers")
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"))


def as_json(preview: Preview, forecast: Forecast | str) -> dict[str, Any]:
    """The dry run for a program; `forecast` is null where `unknown` says why."""
    known = None if isinstance(forecast, str) else forecast
    forecasts = {row.unit.name: _unit_json(row) for row in known.units} if known else {}
    units = [
        {"unit": unit.slug, "needs": _needed(unit, preview)}
        | asdict(preview.costs[unit.name])
        | {"forecast": forecasts.get(unit.name)}
        for unit in preview.units
    ]
    return {
        "config": preview.config.model_dump(mode="json"),
        "units": units,
        "total": asdict(preview.total),
        "warnings": warnings_of(preview),
        "forecast": _forecast_json(known) if known else None,
        "unknown": None if known else forecast,
    }


def warnings_of(preview: Preview) -> list[str]:
    """What is doubtful about the images, and which methods would learn from other images than the rest."""
    compared = (line for _, units in learning(preview).groupby("dataset", sort=False) for line in coverage(units))
    return [*preview.warnings, *(f"warning: {line}" for line in compared)]


def learning(preview: Preview) -> pd.DataFrame:
    """What will stand behind the weights of each unit that trains, by image set and setup, as a run's frame has it."""
    trains = (unit for unit in preview.units if unit.kind not in (EVALUATE, FEW_SHOT) and len(unit.targets) == 1)
    trained = ((unit, preview.costs[unit.name]) for unit in trains)
    rows = [
        (unit.dataset, Setup(unit.method, unit.factors).name, cost.images, cost.images_with_chain, cost.steps_from_base)
        for unit, cost in trained
    ]
    return pd.DataFrame(rows, columns=["dataset", "setup", "images", "images_with_chain", "steps"])


def _needed(unit: Unit, preview: Preview) -> list[str]:
    return [needed.slug for needed in preview.units if needed.name in unit.needs.values()]


def _unit_json(row: UnitForecast) -> dict[str, Any]:
    memory = asdict(row.memory) | {"total": row.memory.total}
    return {"phases": list(map(asdict, row.phases)), "memory": memory, "seconds": row.seconds, "done": row.done}


def _forecast_json(forecast: Forecast) -> dict[str, Any]:
    """`paths` and `notes` are those of the first image set and levels."""
    need, workload = forecast.memory, forecast.workloads[0]
    paths = None if workload.paths is None else asdict(workload.paths)
    hardware = [
        asdict(machine)
        | {"seconds": forecast.elapsed[machine.name], "memory_needed": need, "fits": machine.holds(need)}
        for machine in forecast.hardware
    ]
    missing, notes = forecast.unknown, workload.notes
    return {"paths": paths, "hardware": hardware, "missing": missing, "notes": notes}


def as_text(preview: Preview, forecast: Forecast | str) -> str:
    """The dry run for a person."""
    tables = (_units_table(preview), *_draws_table(preview), *_learning_tables(preview))
    pieces = [resolved_yaml(preview.config), *map(to_terminal, tables)]
    if isinstance(forecast, str):
        pieces.append(f"Tokens, FLOPs, memory and hours are unknown: {forecast}.")
    else:
        pieces += [to_terminal(_work_table(forecast)), to_terminal(_hardware_table(forecast))]
    return "\n".join(pieces)


def _units_table(preview: Preview) -> Table:
    rows = [(unit.slug, *_counts(preview, [unit]), ", ".join(_needed(unit, preview))) for unit in preview.units]
    images = sum(len(images.samples) for images in preview.sets)
    domains = sum(len(images.domains) for images in preview.sets)
    return Table(
        title=f"{len(rows)} units on {images:,} images of {domains} domains",
        columns=("unit", *(column.replace("_", " ") for column in _COUNTED), "after"),
        rows=(*rows, ("total", *_counts(preview, preview.units), "")),
        notes=("Upper bounds: chains not written yet count as accepted. Nothing was trained or written.",),
    )


def _counts(preview: Preview, units: Sequence[Unit]) -> tuple[str, ...]:
    cost = sum((preview.costs[unit.name] for unit in units), Cost())
    return tuple(f"{getattr(cost, column):,}" for column in _COUNTED)


def _draws_table(preview: Preview) -> Iterator[Table]:
    """The draws of a search, and what the units of each compute."""
    search = preview.config.search
    if search is None:
        return
    levels, units = preview.config.factors[DRAW], preview.units
    rows = []
    for draw, keys in levels.items():
        values = (str(keys.get(key, "as written")) for key in search.keys)
        rows.append((draw, *values, *_counts(preview, [unit for unit in units if unit.factors[DRAW] == draw])))
    pairs = [unit for unit in units if len(unit.targets) > 1]
    rows += [("of which pairs", *[""] * len(search.keys), *_counts(preview, pairs))] if pairs else []
    note = (
        "Nothing is computed twice: what a draw shares with an earlier one counts there. Pairs: two domains held out."
    )
    columns = ("draw", *search.keys, *(column.replace("_", " ") for column in _COUNTED))
    title = f"{counted(len(levels), 'draw')} of the search, measured on the {search.measure}"
    yield Table(title, columns, tuple(rows), (note,))


def _learning_tables(preview: Preview) -> Iterator[Table]:
    for dataset, units in learning(preview).groupby("dataset", sort=False):
        most = units.groupby("setup", sort=False)[["images", "images_with_chain", "steps"]].max()
        yield Table(
            title=f"{dataset} · what each method is trained on",
            columns=("method", "images", "with a chain", "steps"),
            rows=tuple((str(row.Index), *(f"{count:,}" for count in row[1:])) for row in most.itertuples()),
            notes=("Images: the most that a stage of the method sees. Steps: optimiser steps from the base.",),
        )


def _work_table(forecast: Forecast) -> Table:
    here, units = forecast.unknown is None, forecast.units
    done = sum(row.done for row in units)
    notes = [
        *dict.fromkeys(note for workload in forecast.workloads for note in _workload_notes(workload)),
        f"Memory is a worker's peak{'; time is of one worker on this machine' if here else ''}.",
        *([f"The time of {done} finished units is measured; that of the others is scaled to it."] if done else []),
        "Upper bounds, as above; padding is not counted.",
    ]
    return Table(
        title="forecast of tokens (trained, of prompts, written) and FLOPs (training, self-labelling, answering)",
        columns=("unit", "trained", "prompts", "written", *GROUPS, "memory GB", *(("time here",) if here else ())),
        rows=(*((row.unit.slug, *_work_cells([row], here)) for row in units), ("total", *_work_cells(units, here))),
        notes=tuple(notes),
    )


def _workload_notes(workload: Workload | FeatureWorkload) -> Iterator[str]:
    if (paths := workload.paths) is not None:
        yield (
            f"An image of {counted(paths.tiles, 'tile')} and the class list take {paths.shared:,} tokens, "
            f"a label {paths.label:,}, a chain {paths.chain:,}."
        )
    yield from (f"{note[0].upper()}{note[1:]}." for note in workload.notes)


def _work_cells(units: Sequence[UnitForecast], here: bool) -> tuple[str, ...]:
    columns = [("tokens", TRAINING), ("tokens", SELF_LABELLING, ANSWERING), ("new_tokens", *GROUPS)]
    columns += [("all_flops", group) for group in GROUPS]
    counts = [_count(sum(row.total(*column) for row in units)) for column in columns]
    memory = max((row.memory.total for row in units), default=0)
    seconds = [duration(sum(row.total_seconds(THIS_MACHINE) for row in units))] if here else []
    return (*counts, f"{memory / GB:.1f}", *seconds)


def _hardware_table(forecast: Forecast) -> Table:
    cards = [hardware for hardware in forecast.hardware if hardware.name != THIS_MACHINE]
    here = forecast.unknown or forecast.hardware[0].note
    left = "; time of the unfinished units" if any(row.done for row in forecast.units) else ""
    columns: dict[str, Callable[[Hardware], str]] = {
        "hardware": lambda machine: machine.name,
        "peak TFLOP/s": lambda machine: f"{machine.flops / 1e12:.3g}",
        "share reached in training": lambda machine: f"{machine.shares.training:.0%}",
        "workers": lambda machine: str(machine.workers),
        "time": lambda machine: duration(forecast.elapsed[machine.name]),
        "memory GB": lambda machine: (
            f"{forecast.memory * machine.workers / GB:.1f}"
            + (f" of {machine.memory / GB:.0f}" if machine.memory is not None else "")
        ),
        "fits": lambda machine: {True: "yes", False: "no", None: "unknown"}[machine.holds(forecast.memory)],
    }
    notes = f"{THIS_MACHINE}: {here}{left}.", f"{', '.join(card.name for card in cards)}: {cards[0].note}."
    return tabulate("the whole run on one of", forecast.hardware, columns, notes)


def _count(value: float) -> str:
    """Exact below a thousand million, then with the prefix of the power: 1.80T."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.2f}{prefix}"
    return f"{value:,.0f}" if value else "–"
