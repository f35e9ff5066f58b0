"""How `run --dry-run` shows a run before it begins: config, units, what they compute, hours on named hardware."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from throughline.experiment.folder import resolved_yaml
from throughline.experiment.predicting.hardware import GB, THIS_MACHINE, Hardware
from throughline.experiment.predicting.prediction import RunPrediction, UnitPrediction
from throughline.experiment.predicting.work import ANSWERING, SELF_LABELLING, TRAINING
from throughline.experiment.run import Preview
from throughline.reporting.tables import Table, to_terminal

GROUPS = (TRAINING, SELF_LABELLING, ANSWERING)
_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"))


def as_json(preview: Preview, predicted: RunPrediction | str) -> dict[str, Any]:
    """The dry run for a program; `prediction` is null where `unknown` says why."""
    slugs = {unit.name: unit.slug for unit in preview.units}
    known = predicted if isinstance(predicted, RunPrediction) else None
    by_unit = {one.unit.name: one.to_json() for one in known.units} if known else {}
    return {
        "config": preview.config.model_dump(mode="json"),
        "units": [
            {"unit": unit.slug, "needs": [slugs[name] for name in unit.needs]}
            | asdict(preview.costs[unit.name])
            | {"prediction": by_unit.get(unit.name)}
            for unit in preview.units
        ],
        "total": asdict(preview.total),
        "prediction": known.to_json() if known else None,
        "unknown": predicted if isinstance(predicted, str) else None,
    }


def as_text(preview: Preview, predicted: RunPrediction | str) -> str:
    """The dry run for a person."""
    pieces = [resolved_yaml(preview.config), to_terminal(_units_table(preview))]
    if isinstance(predicted, str):
        pieces.append(f"Tokens, FLOPs, memory and hours are unknown: {predicted}.")
    else:
        pieces += [to_terminal(_work_table(predicted)), to_terminal(_hardware_table(predicted))]
    return "\n".join(pieces)


def _units_table(preview: Preview) -> Table:
    slugs = {unit.name: unit.slug for unit in preview.units}
    rows = [
        (unit.slug, *preview.costs[unit.name].cells(), ", ".join(slugs[name] for name in unit.needs))
        for unit in preview.units
    ]
    return Table(
        title=f"{len(rows)} units on {len(preview.images.samples):,} images of {len(preview.images.domains)} domains",
        columns=("unit", "training samples", "optimiser steps", "chains sampled", "answers", "after"),
        rows=(*rows, ("total", *preview.total.cells(), "")),
        notes=("At most: images without an accepted chain are trained on less. Nothing was loaded or written.",),
    )


def _work_table(predicted: RunPrediction) -> Table:
    paths, here = predicted.paths, THIS_MACHINE in predicted.elapsed
    units = predicted.units
    rows = [(one.unit.slug, *_work_cells((one,), here)) for one in units]
    image = f"{paths.tiles} tiles" if paths.tiles > 1 else "1 tile"
    return Table(
        title="predicted tokens (trained, of prompts, written) and FLOPs (training, self-labelling, answering)",
        columns=("unit", "trained", "prompts", "written", *GROUPS, "memory GB", *(("time here",) if here else ())),
        rows=(*rows, ("total", *_work_cells(units, here))),
        notes=(
            f"An image of {image} and the class list take {paths.shared:,} tokens, a label {paths.label:,}, a chain "
            f"{paths.chain:,}. Memory is a worker's peak{'; time is of one worker on this machine' if here else ''}.",
            *(f"{note[0].upper()}{note[1:]}." for note in predicted.notes),
            "At most, again: no chain is taken to be rejected. Nor is any padding counted.",
        ),
    )


def _work_cells(units: tuple[UnitPrediction, ...], here: bool) -> tuple[str, ...]:
    tokens = (
        sum(one.training_tokens for one in units),
        sum(one.prompt_tokens for one in units),
        sum(one.new_tokens for one in units),
    )
    flops = (sum(one.flops(group) for one in units) for group in GROUPS)
    seconds = (_time(sum(one.total_seconds(THIS_MACHINE) for one in units)),) if here else ()
    memory = max((one.memory.total for one in units), default=0)
    return (*map(_count, tokens), *map(_count, flops), f"{memory / GB:.1f}", *seconds)


def _hardware_table(predicted: RunPrediction) -> Table:
    rows = [_hardware_row(predicted, hardware) for hardware in predicted.hardware]
    here = [f"{name}: {why}." for name, why in predicted.missing.items()]
    cards = [one for one in predicted.hardware if one.name != THIS_MACHINE]
    return Table(
        title="the whole run on one of",
        columns=("hardware", "peak TFLOP/s", "share trained at", "workers", "time", "memory GB", "fits"),
        rows=tuple(rows),
        notes=(
            *here,
            *(f"{one.name}: {one.note}." for one in predicted.hardware if one.name == THIS_MACHINE),
            f"{', '.join(one.name for one in cards)}: {cards[0].note}.",
        ),
    )


def _hardware_row(predicted: RunPrediction, hardware: Hardware) -> tuple[str, ...]:
    fits = hardware.holds(predicted.memory)
    needed = predicted.memory * hardware.workers / GB
    memory = f"{needed:.1f} of {hardware.memory / GB:.0f}" if hardware.memory is not None else f"{needed:.1f}"
    return (
        hardware.name,
        f"{hardware.flops / 1e12:.3g}",
        f"{hardware.shares.training:.0%}",
        str(hardware.workers),
        _time(predicted.elapsed[hardware.name]),
        memory,
        {True: "yes", False: "no", None: "unknown"}[fits],
    )


def _count(value: float) -> str:
    """Exact below a thousand million, then with the prefix of the power: 1.80T."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.2f}{prefix}"
    return f"{value:,.0f}" if value else "–"


def _time(seconds: float) -> str:
    """In the unit in which it reads best."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
