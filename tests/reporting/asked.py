"""Writes the folder of a run that only asks: several models about the same images, as they are and under views, with
answers drawn at known rates."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from throughline.core.files import write_json, write_json_lines
from throughline.core.nested import flattened
from throughline.runs.unit import Unit

CLASSES = ("boat", "bowl", "cup")
DOMAINS = ("photo", "sketch")
Right = Mapping[tuple[str, str, str], NDArray[np.bool_]]
"""By model, level and domain."""


def labels_of(images: int) -> list[str]:
    """Half of them boats."""
    return [CLASSES[max(0, number % 4 - 1)] for number in range(images)]


def write_asked(
    folder: Path,
    rates: Mapping[tuple[str, str], float],
    *,
    factor: str = "view",
    images: int = 40,
    answers: Sequence[str] = ("label", "likelihood"),
    dataset: str = "photos",
    pictures: Path | None = None,
) -> Right:
    """A run with the models and the levels of one factor in `rates`, each right at that rate in the first domain and at
    half of it in the second; what is right is the same on every answer path. The first model is the config's first.
    With `pictures`, the images are written there."""
    lines, right = [], {}
    for number, (model, level) in enumerate(rates):
        for place, target in enumerate(DOMAINS):
            rng = np.random.default_rng([number, place])
            hits = rng.uniform(size=images) < rates[model, level] / (1 + place)
            right[model, level, target] = hits
            named = {"dataset": dataset, "model": model, "method": "zero_shot", "targets": (target,), "seed": 0}
            factors = {factor: level} if factor else {}
            unit = Unit(kind="evaluate", factors=factors, inputs={**named, "level": level}, **named)
            said = []
            for n, (label, hit) in enumerate(zip(labels_of(images), hits, strict=True)):
                given = label if hit else CLASSES[(CLASSES.index(label) + 1) % len(CLASSES)]
                row = {"sample_id": f"{target}/{label}/{n:03}.png", "domain": target, "labels": [label]}
                sure = round(rng.uniform(0.4, 1), 3)
                shares = [sure if name == given else (1 - sure) / 2 for name in CLASSES]
                for answer in answers:
                    own = {"probabilities": shares} if answer == "likelihood" else {}
                    said.append({**row, "answer": answer, "predicted": given, "outcome": "ok", **own})
                if pictures is not None:
                    path = pictures / str(row["sample_id"])
                    path.parent.mkdir(parents=True, exist_ok=True)
                    noise = np.random.default_rng([place, n]).integers(0, 255, (6, 8, 3), dtype=np.uint8)
                    Image.fromarray(noise).resize((64, 48), Image.Resampling.NEAREST).save(path)
            own_folder = folder / "units" / unit.name
            write_json(own_folder / "unit.json", unit.to_json())
            write_json(own_folder / "metrics.json", [])
            write_json_lines(own_folder / "predictions.jsonl", said)
            (own_folder / "done").write_text("x")
            recalls = [hits[[own == label for own in labels_of(images)]].mean() for label in CLASSES]
            common = {"unit": unit.name, **named, "factors": factors, "round": None, "split": "all"}
            numbers = {"n": images, "correct": int(hits.sum()), "accuracy": hits.mean()}
            metrics = {"balanced_accuracy": float(np.mean(recalls)), "macro_f1": float(np.mean(recalls))}
            lines += [{**common, "answer": answer, **numbers, "metrics": metrics} for answer in answers]
    levels = {}
    for level in dict.fromkeys(level for _, level in rates):
        kind, _, severity = level.rpartition("-")
        view = {"kind": kind, "severity": float(severity), "seed": 0} if kind else None
        levels[level] = flattened({"evaluation": {"view": view}}) if view else {}
    models = list(dict.fromkeys(model for model, _ in rates))
    config = {"name": "asked", "model": {"checkpoint": models[0]}, "factors": {factor: levels} if factor else {}}
    write_json_lines(folder / "results.jsonl", lines)
    write_json(folder / "environment.json", {})
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return right
