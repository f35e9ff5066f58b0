"""A whole `throughline ood icl` over images one of which is torn: its accuracies are those of scikit-learn, and it ends
with the same lines however often it is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score
from tests.forks import typed

from kills import results_without_seconds
from throughline.core.files import read_json_lines
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, balanced

pytestmark = pytest.mark.slow

KILLS, PER_CLASS = 10, 3


@pytest.fixture(scope="module")
def images(tiny_images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """The tiny images, the first one that is asked about cut off."""
    root = tmp_path_factory.mktemp("torn") / "images"
    shutil.copytree(tiny_images.root, root)
    torn = balanced(read_images(root).samples, PER_CLASS, seed=0)[0]
    torn.path.write_bytes(torn.path.read_bytes()[:40])
    return read_images(root)


def started(images: ImageSet, checkpoint: Path, folder: Path) -> Any:
    words = ["ood", "icl", str(images.root), "--model", str(checkpoint), "--out", str(folder), "--draws", "1"]
    words += ["--shots", "0,1,2", "--examples", "target,sources,shuffled", "--answers", "label,likelihood"]
    words += ["--set", "data.targets=painting,sketch"]
    return typed([*words, "--per-class", str(PER_CLASS)], folder.with_name(f"{folder.name} said"))


def end_of(process: Any, folder: Path) -> None:
    process.join(600)
    assert process.exitcode == 0, folder.with_name(f"{folder.name} said").read_text()


@pytest.fixture(scope="module")
def undisturbed(images: ImageSet, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    end_of(started(images, tiny_checkpoint, folder), folder)
    return folder


def units(folder: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """What each unit is, and its predictions, as they lie on disk."""
    for path in sorted((folder / "units").iterdir()):
        yield json.loads((path / "unit.json").read_text()), list(read_json_lines(path / "predictions.jsonl"))


def test_accuracies_are_those_of_scikit_learn(undisturbed: Path, images: ImageSet) -> None:
    lines = {
        (line["unit"], line["answer"]): line
        for line in read_json_lines(undisturbed / "results.jsonl")
        if line["split"] == "all"
    }
    for unit, rows in units(undisturbed):
        for answer in ("label", "likelihood"):
            line = lines.pop((unit["unit"], answer))
            own = [row for row in rows if row["answer"] == answer]
            true = [row["labels"][0] for row in own]
            said = [row["predicted"] or "nothing" for row in own]
            classes = list(images.classes)
            assert line["n"] == len(own) and line["accuracy"] == pytest.approx(accuracy_score(true, said))
            recall = recall_score(true, said, labels=classes, average="macro", zero_division=0)
            assert line["metrics"]["balanced_accuracy"] == pytest.approx(recall)
            f1 = f1_score(true, said, labels=classes, average="macro", zero_division=0)
            assert line["metrics"]["macro_f1"] == pytest.approx(f1)
    assert not lines


def test_every_planned_image_is_answered_once_and_the_torn_one_counts(undisturbed: Path, images: ImageSet) -> None:
    planned = balanced(images.samples, PER_CLASS, seed=0)
    levels = set()
    for unit, rows in units(undisturbed):
        own = [sample.id for sample in planned if sample.domain == unit["targets"][0]]
        assert len(own) == PER_CLASS * len(images.classes)
        assert Counter((row["answer"], row["sample_id"]) for row in rows) == Counter(
            (answer, name) for answer in ("label", "likelihood") for name in own
        )
        assert {row["sample_id"] for row in rows if row["outcome"] == "error"} == {planned[0].id} & set(own)
        levels.add(unit["factors"]["examples"])
    assert len(levels) == 1 + 2 * 3


def test_kills_change_nothing(images: ImageSet, tiny_checkpoint: Path, undisturbed: Path, tmp_path: Path) -> None:
    moments, folder = random.Random(11), tmp_path / "killed"
    for _ in range(KILLS):
        seen = files_in(folder)
        process = started(images, tiny_checkpoint, folder)
        deadline = time.monotonic() + 240
        while files_in(folder) <= seen + 1:  # until it is at work: killing the interpreter's start shows nothing
            assert process.is_alive() and time.monotonic() < deadline, "it was over before it could be killed"
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.1))
        assert process.is_alive(), "it was over before it could be killed"
        process.kill()
        process.join()
    end_of(started(images, tiny_checkpoint, folder), folder)
    assert results_without_seconds(folder) == results_without_seconds(undisturbed)
    assert list(units(folder)) == list(units(undisturbed))


def files_in(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder / "units"))
