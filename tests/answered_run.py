"""A reduced run folder with answers that are known to be right or wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from throughline.core.files import write_json, write_json_lines
from throughline.runs.unit import Unit


@dataclass(frozen=True, eq=False)
class Answered:
    """Right or wrong of each image of a target, by answer path; every image shows a cup."""

    target: str
    right: Mapping[str, NDArray[np.bool_]]
    method: str = "zero_shot"
    seed: int = 0
    factors: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)


def write_answered(
    folder: Path, units: Sequence[Answered], dataset: str, model: str, factors: Mapping[str, Any] = {}
) -> None:
    """As `reduce_run` leaves it; `factors` are those of its config."""
    lines = []
    for own in units:
        named: dict[str, Any] = {"dataset": dataset, "model": model, "method": own.method, "targets": (own.target,)}
        at = dict(own.factors)
        unit = Unit(kind="evaluate", seed=own.seed, factors=at, inputs={**named, **at}, **named)
        place, said = folder / "units" / unit.name, []
        for answer, right in own.right.items():
            common = {"unit": unit.name, **named, "seed": own.seed, "round": None, "factors": at, "answer": answer}
            share = {"n": len(right), "correct": int(right.sum()), "accuracy": right.mean()}
            lines += [
                {**common, **share, "metrics": dict(own.metrics), "split": split} for split in ("in", "out", "all")
            ]
            said += [
                {
                    "sample_id": f"{own.target}/cup/{number:02}.png",
                    "domain": own.target,
                    "labels": ["cup"],
                    "answer": answer,
                    "outcome": "ok",
                    "predicted": "cup" if hit else "bowl",
                }
                for number, hit in enumerate(right)
            ]
        write_json(place / "unit.json", unit.to_json())
        write_json(place / "metrics.json", [])
        write_json_lines(place / "predictions.jsonl", said)
        (place / "done").write_text("x")
    write_json_lines(folder / "results.jsonl", lines)
    write_json(folder / "environment.json", {})
    data: dict[str, Any] = {"drawn": {}} if dataset == "drawn" else {"images": "images"}
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"data": data, "model": {"checkpoint": model}, "factors": factors})
    )
