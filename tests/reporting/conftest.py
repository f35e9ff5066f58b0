"""Writes a run folder as a run writes it, with answers drawn at known rates."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from throughline.core.files import content_hash, write_atomically, write_json, write_json_lines

CLASSES = ("cup", "bowl", "boat")
SKILL = {"zero_shot": 0.4, "cls": 0.6, "reasoning": 0.58, "mtct": 0.7, "sarr": 0.62, "mtct_sarr": 0.8}
ROUNDS = {"sarr": 2, "mtct_sarr": 2}
ATTACK = "<script>alert('chain')</script><img src=https://elsewhere.example/x.png onerror=alert(1)>\u2028{{ 7 * 7 }}"
Row = dict[str, Any]


@dataclass(frozen=True)
class FakeRun:
    folder: Path
    images: Path
    methods: tuple[str, ...]
    attack: str = ATTACK
    """What unparsed answers say."""


def chain(predicted: str) -> str:
    return (
        "<SUMMARY>Look at the parts.</SUMMARY>\n<CAPTION>A drawn thing on a plain ground.</CAPTION>\n"
        f"<REASONING>The rim is wide & there is a handle.</REASONING>\n<REFLECTION>It fits.</REFLECTION>\n"
        f"<CONCLUSION>{predicted}</CONCLUSION>"
    )


def predictions(images: Path, target: str, method: str, seed: int, size: int) -> list[Row]:
    rng = np.random.default_rng([seed, sorted(SKILL).index(method), len(target)])
    rows: list[Row] = []
    for index in range(size):
        label = CLASSES[index % len(CLASSES)]
        sample_id = f"{target}/{label}/{index:03d}.png"
        if not (images / sample_id).exists():
            (images / sample_id).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 20), (index * 5 % 255, 80, 160)).save(images / sample_id)
        for answer in ("label", "reasoning", "likelihood"):
            right = rng.uniform() < SKILL[method]
            predicted: str | None = label if right else CLASSES[(index + 1) % len(CLASSES)]
            outcome, text = "ok", chain(str(predicted)) if answer == "reasoning" else str(predicted)
            if answer != "likelihood" and not right and rng.uniform() < 0.3:
                predicted, outcome, text = None, "out_of_list", ATTACK
            row = {"sample_id": sample_id, "domain": target, "labels": [label], "answer": answer}
            rows.append({**row, "predicted": predicted, "outcome": outcome, "text": text})
            if answer == "likelihood":
                sure = round(float(rng.uniform(0.5, 1.0)), 4)
                others = (1 - sure) / (len(CLASSES) - 1)
                rows[-1]["probabilities"] = [sure if name == predicted else others for name in CLASSES]
    return rows


def class_measures(said: list[Row]) -> Row:
    """By hand: scikit-learn takes milliseconds for each line."""
    pairs = [(row["labels"][0], row["predicted"]) for row in said]
    shown, named = (Counter(side) for side in zip(*pairs, strict=True))
    right = Counter(true for true, given in pairs if true == given)
    recalls = [right[name] / shown[name] for name in shown]
    f1 = [2 * right[name] / (shown[name] + named[name]) for name in shown]
    return {"balanced_accuracy": float(np.mean(recalls)), "macro_f1": float(np.mean(f1))}


def line(unit: str, description: Row, split: str, answer: str, rows: list[Row]) -> Row:
    said = [row for row in rows if row["answer"] == answer]
    # the first fifth is DomainBed's "out", the rest "in"
    border = len(said) // 5
    said = {"all": said, "out": said[:border], "in": said[border:]}[split]
    correct = sum(row["predicted"] in row["labels"] for row in said)
    return {
        **description,
        "schema": 1,
        "unit": unit,
        "round": None,
        "answer": answer,
        "split": split,
        "factors": {},
        "n": len(said),
        "correct": correct,
        "accuracy": correct / len(said),
        "metrics": class_measures(said),
        "errors": 0,
        "seconds": 1.5,
        "unparsed": sum(row["predicted"] is None for row in said),
    }


def losses(method: str) -> list[Row]:
    parts = {"cls": ["label"], "reasoning": ["chain"], "sarr": ["chain"]}.get(method, ["label", "chain"])
    rows: list[Row] = []
    for number in range(1 + ROUNDS.get(method, 0)):
        for step in range(5, 25, 5):
            values = {part: (2.0 if part == "chain" else 1.0) / (step + 20 * number) for part in parts}
            stage = "first" if number == 0 else f"round {number}"
            row = {"stage": stage, "round": number, "step": step, "epoch": step / 8, "lr": 1e-3}
            rows.append({**row, "loss": sum(values.values()), "losses": values})
    return rows


def write_unit(fake: FakeRun, target: str, method: str, seed: int, size: int) -> list[Row]:
    description = {"dataset": "drawn", "targets": [target], "method": method, "model": "pocket", "seed": seed}
    name = f"{method}-{target}-{seed}-{content_hash(description)[:8]}"
    folder = fake.folder / "units" / name
    rows = predictions(fake.images, target, method, seed, size)
    lines = [
        line(name, description, split, answer, rows)
        for split in ("in", "out", "all")
        for answer in ("label", "reasoning", "likelihood")
    ]
    rounds = []
    for number in range(1, ROUNDS.get(method, 0) + 1):
        for found in [found for found in lines if found["split"] == "all" and found["round"] is None]:
            lines.append({**found, "round": number, "accuracy": max(0.0, found["accuracy"] - 0.05 / number)})
        outcomes = {"ok": 60 + 10 * number, "truncated": 10, "out_of_list": 30 - 10 * number}
        accepted = {"sampled": 100, "accepted": 60 + 10 * number, "outcomes": outcomes}
        rounds.append({"round": number, **accepted, "adapter_changed": True})
    write_json(folder / "unit.json", description)
    write_json(folder / "metrics.json", lines)
    write_json_lines(folder / "predictions.jsonl", rows)
    if method != "zero_shot":
        write_json_lines(folder / "training.jsonl", losses(method))
        steps = {"cumulative_steps": 20 * (1 + ROUNDS.get(method, 0)), "optimiser_steps": 20}
        write_json(folder / "stage.json", {**steps, "parameters": 1234, "samples": 160, "seconds": 0.5 + 0.5 * seed})
    write_json(folder / "cost.json", {"seconds": 180.0})
    if rounds:
        write_json_lines(folder / "rounds.jsonl", rounds)
    write_atomically(folder / "done", content_hash(lines))
    return lines


def write_run(
    root: Path,
    targets: tuple[str, ...] = ("painting", "sketch"),
    methods: tuple[str, ...] = tuple(SKILL),
    seeds: tuple[int, ...] = (0, 1, 2),
    size: int = 30,
) -> FakeRun:
    """Writes `root/runs/fake` and the images it talks about."""
    fake = FakeRun(root / "runs" / "fake", root / "images", methods)
    lines = [
        found
        for target in targets
        for method in methods
        for seed in seeds
        for found in write_unit(fake, target, method, seed, size)
    ]
    write_json_lines(fake.folder / "results.jsonl", sorted(lines, key=content_hash))
    environment = {"versions": {"torch": "2.13"}, "hardware": "two cores", "device": "cpu"}
    write_json(fake.folder / "environment.json", environment)
    write_atomically(fake.folder / "config.yaml", "preset: demo\ntraining:\n  lr: 0.001\n")
    return fake


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """Two targets, six methods, three seeds; read only."""
    return write_run(tmp_path_factory.mktemp("fake"))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., FakeRun]:
    """Writes a run of one's own, to be damaged."""
    return lambda **options: write_run(tmp_path, **options)
