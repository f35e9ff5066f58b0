"""How `run --dry-run` shows a run before it begins: config, units, what they compute, hours on named hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from throughline.cli.text import duration
from throughline.core.table import Table
from throughline.experiment.config import resolved_yaml
from throughline.experiment.costs import Cost
from throughline.experiment.forecast import Forecast, UnitForecast
from throughline.experiment.hardware import GB, THIS_MACHINE, Hardware
from throughline.experiment.run import Preview
from throughline.experiment.workload import ANSWERING, GROUPS, SELF_LABELLING, TRAINING
from throughline.reporting.text import to_terminal

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"))


def as_json(preview: Preview, forecast: Forecast | str) -> dict[str, Any]:
    """The dry run for a program; `forecast` is null where `unknown` says why."""
    known, slugs = isinstance(forecast, Forecast), {unit.name: unit.slug for unit in preview.units}
    forecasts = {one.unit.name: _unit_json(one) for one in forecast.units} if isinstance(forecast, Forecast) else {}
    units = [
        {"unit": unit.slug, "needs": [slugs[name] for name in unit.needs.values()]}
        | asdict(preview.costs[unit.name])
        | {"forecast": forecasts.get(unit.name)}
        for unit in preview.units
    ]
    return {
        "config": preview.config.model_dump(mode="json"),
        "units": units,
        "total": asdict(preview.total),
        "forecast": _forecast_json(forecast) if isinstance(forecast, Forecast) else None,
        "unknown": None if known else forecast,
    }


def _unit_json(one: UnitForecast) -> dict[str, Any]:
    memory = asdict(one.memory) | {"total": one.memory.total}
    return {"phases": list(map(asdict, one.phases)), "memory": memory, "seconds": one.seconds, "done": one.done}


def _forecast_json(forecast: Forecast) -> dict[str, Any]:
    def row(hardware: Hardware) -> dict[str, Any]:
        seconds, need = forecast.elapsed[hardware.name], forecast.memory
        return asdict(hardware) | {"seconds": seconds, "memory_needed": need, "fits": hardware.holds(need)}

    hardware, paths = list(map(row, forecast.hardware)), asdict(forecast.workload.paths)
    return {"paths": paths, "hardware": hardware, "missing": forecast.unknown, "notes": forecast.workload.notes}


def as_text(preview: Preview, forecast: Forecast | str) -> str:
    """The dry run for a person."""
    pieces = [resolved_yaml(preview.config), to_terminal(_units_table(preview))]
    if isinstance(forecast, str):
        pieces.append(f"Tokens, FLOPs, memory and hours are unknown: {forecast}.")
    else:
        pieces += [to_terminal(_work_table(forecast)), to_terminal(_hardware_table(forecast))]
    return "\n".join(pieces)


def _units_table(preview: Preview) -> Table:
    slugs = {unit.name: unit.slug for unit in preview.units}

    def counts(cost: Cost) -> tuple[str, ...]:
        numbers = (cost.training_samples, cost.optimiser_steps, cost.chains_sampled, cost.answers)
        return tuple(f"{number:,}" for number in numbers)

    rows = [
        (unit.slug, *counts(preview.costs[unit.name]), ", ".join(slugs[name] for name in unit.needs.values()))
        for unit in preview.units
    ]
    images = sum(len(images.samples) for images in preview.sets)
    domains = sum(len(images.domains) for images in preview.sets)
    return Table(
        title=f"{len(rows)} units on {images:,} images of {domains} domains",
        columns=("unit", "training samples", "optimiser steps", "chains sampled", "answers", "after"),
        rows=(*rows, ("total", *counts(preview.total), "")),
        notes=("At most: images without an accepted chain are trained on less. Nothing was trained or written.",),
    )


def _work_table(forecast: Forecast) -> Table:
    paths, here, units = forecast.workload.paths, forecast.unknown is None, forecast.units
    image = f"{paths.tiles} tiles" if paths.tiles > 1 else "1 tile"
    done = sum(one.done for one in units)
    notes = [
        f"An image of {image} and the class list take {paths.shared:,} tokens, a label {paths.label:,}, a chain "
        f"{paths.chain:,}. Memory is a worker's peak{'; time is of one worker on this machine' if here else ''}.",
        *(f"{note[0].upper()}{note[1:]}." for note in forecast.workload.notes),
        *([f"Time of {done} finished units is measured, that of the others in proportion to it."] if done else []),
        "At most, again: no chain is taken to be rejected. Nor is any padding counted.",
    ]
    return Table(
        title="forecast of tokens (trained, of prompts, written) and FLOPs (training, self-labelling, answering)",
        columns=("unit", "trained", "prompts", "written", *GROUPS, "memory GB", *(("time here",) if here else ())),
        rows=(*((one.unit.slug, *_work_cells([one], here)) for one in units), ("total", *_work_cells(units, here))),
        notes=tuple(notes),
    )


def _work_cells(units: Sequence[UnitForecast], here: bool) -> tuple[str, ...]:
    columns = [("tokens", TRAINING), ("tokens", SELF_LABELLING, ANSWERING), ("new_tokens", *GROUPS)]
    columns += [("all_flops", group) for group in GROUPS]
    counts = [_count(sum(one.total(*column) for one in units)) for column in columns]
    memory = max((one.memory.total for one in units), default=0)
    seconds = [duration(sum(one.total_seconds(THIS_MACHINE) for one in units))] if here else []
    return (*counts, f"{memory / GB:.1f}", *seconds)


def _hardware_table(forecast: Forecast) -> Table:
    cards = [hardware for hardware in forecast.hardware if hardware.name != THIS_MACHINE]
    here = forecast.unknown or forecast.hardware[0].note
    left = "; time of the units that are not done" if any(one.done for one in forecast.units) else ""
    return Table(
        title="the whole run on one of",
        columns=("hardware", "peak TFLOP/s", "share trained at", "workers", "time", "memory GB", "fits"),
        rows=tuple(_hardware_row(forecast, hardware) for hardware in forecast.hardware),
        notes=(f"{THIS_MACHINE}: {here}{left}.", f"{', '.join(card.name for card in cards)}: {cards[0].note}."),
    )


def _hardware_row(forecast: Forecast, hardware: Hardware) -> tuple[str, ...]:
    needed = f"{forecast.memory * hardware.workers / GB:.1f}"
    return (
        hardware.name,
        f"{hardware.flops / 1e12:.3g}",
        f"{hardware.shares.training:.0%}",
        str(hardware.workers),
        duration(forecast.elapsed[hardware.name]),
        needed if hardware.memory is None else f"{needed} of {hardware.memory / GB:.0f}",
        {True: "yes", False: "no", None: "unknown"}[hardware.holds(forecast.memory)],
    )


def _count(value: float) -> str:
    """Exact below a thousand million, then with the prefix of the power: 1.80T."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.2f}{prefix}"
    return f"{value:,.0f}" if value else "–"
