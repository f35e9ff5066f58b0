"""What examples in the prompt mend: what is run, and the amounts that are shown."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import documents
import in_context
from in_context import CONFIG, DRAWS, PATHS, PER_CLASS, SHOTS, ask_in_context, command, images_of, record_name
from throughline.cli import ood
from throughline.core.files import write_json, write_json_lines
from throughline.domains.digits import write_digits
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.experiment.config_files import load_config
from throughline.ood.factors import CONTROLS, examples_of_level
from throughline.runs.unit import Unit

ROOT = Path(__file__).resolve().parent.parent
TARGETS, IMAGES = ("cartoon", "photo"), 40


def right(level: str, target: str, path: str) -> NDArray[np.bool_]:
    """More with more examples, most with the target's own, none gained with shuffled labels."""
    shots, kind, draw = examples_of_level(level)
    gain = {"target": 0.05, "sources": 0.02, "shuffled": 0.0}.get(kind, 0.01)
    rng = np.random.default_rng([shots, draw, TARGETS.index(target), PATHS.index(path), len(kind)])
    return rng.uniform(size=IMAGES) < 0.3 + gain * shots + 0.01 * draw


def write_run(folder: Path, levels: list[str]) -> None:
    lines = []
    for level, target in itertools.product(levels, TARGETS):
        named: dict[str, Any] = {"dataset": "drawn", "model": "pocket", "method": "zero_shot", "targets": (target,)}
        factors = {"examples": level}
        unit = Unit(kind="evaluate", seed=0, factors=factors, inputs={**named, **factors}, **named)
        place, said = folder / "units" / unit.name, []
        for path in PATHS:
            answers = right(level, target, path)
            common = {"unit": unit.name, **named, "seed": 0, "round": None, "factors": factors, "split": "all"}
            share = {"n": IMAGES, "correct": int(answers.sum()), "accuracy": answers.mean()}
            lines.append({**common, "answer": path, **share})
            said += [
                {
                    "sample_id": f"{target}/cup/{number:02}.png",
                    "domain": target,
                    "labels": ["cup"],
                    "answer": path,
                    "outcome": "ok",
                    "predicted": "cup" if hit else "bowl",
                }
                for number, hit in enumerate(answers)
            ]
        write_json(place / "unit.json", unit.to_json())
        write_json(place / "metrics.json", [])
        write_json_lines(place / "predictions.jsonl", said)
        (place / "done").write_text("x")
    write_json_lines(folder / "results.jsonl", lines)
    write_json(folder / "environment.json", {})
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": {"drawn": {}}, "model": {"checkpoint": "pocket"}}))


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reduced runs of two draws, made by a stand-in for `throughline`."""
    calls: list[tuple[str, ...]] = []

    def run(*words: str) -> None:
        calls.append(words)
        if words[0] == "ood":
            drawn = itertools.product((1, 4), ("target", "sources", "shuffled"), range(2))
            levels = [*(f"{shots} {kind} {draw}" for shots, kind, draw in drawn), "1 nearest 0", "4 nearest 0"]
            write_run(tmp_path / words[words.index("--out") + 1], ["0", *levels])

    ask_in_context(tmp_path, tmp_path / "evidence", run)
    assert [words[0] for words in calls] == ["ood", "data", "ood", "data", "ood"]
    ask_in_context(tmp_path, tmp_path / "evidence", run)
    assert len(calls) == 5, "what is there is not run again"
    return tmp_path / "evidence"


@pytest.mark.parametrize("name", PER_CLASS)
def test_every_set_is_asked_with_all_controls_and_three_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parser = argparse.ArgumentParser()
    ood.add_arguments(parser)
    words = (*command(name, PER_CLASS[name]), *images_of(ROOT, name, lambda *_: None))
    own = parser.parse_args(words[1:])
    assert (own.shots, own.draws, own.examples) == (SHOTS, DRAWS, tuple(CONTROLS))
    assert (own.answers, own.per_class) == (PATHS, PER_CLASS[name])
    config = load_config(str(ROOT / CONFIG), own.set)
    assert config.name == record_name(name)
    assert (config.data.drawn is None) == (name != "drawn") and config.data.targets == "all"
    assert name == "drawn" or config.data.images == f"runs/digits/{name}"


def test_images_are_left_to_be_examples(tmp_path: Path) -> None:
    """Of every class and domain twice as many as the most shots need."""
    config = load_config(str(ROOT / CONFIG))
    assert config.data.drawn is not None and set(DOMAIN_STYLES) == {"cartoon", "painting", "photo", "sketch"}
    assert config.data.drawn.per_class - PER_CLASS["drawn"] >= 2
    for shift, classes in (("rotation", 10), ("colour", 2)):
        write_digits(tmp_path / shift, shift)  # type: ignore[arg-type]
        for domain in (tmp_path / shift).iterdir():
            counts = [len(list(folder.iterdir())) for folder in domain.iterdir()]
            assert len(counts) == classes
            assert min(counts) - PER_CLASS[shift] >= 2 * -(-max(SHOTS) // classes)


def test_the_block_has_accuracies_and_what_the_targets_own_are_ahead(evidence: Path) -> None:
    assert documents.BLOCKS["in-context-drawn"](evidence.parent) == documents.NOT_MEASURED
    block = documents.BLOCKS["in-context-drawn"](evidence)
    for path in PATHS:
        assert f"{path} path · number of examples" in block

    def shares(kind: str, shots: int, draws: range, path: str = "likelihood") -> NDArray[np.bool_]:
        levels = [f"{shots} {kind} {draw}" if shots else "0" for draw in draws]
        return np.array([[right(level, target, path) for target in TARGETS] for level in levels])

    own, other = shares("target", 4, range(2)), shares("sources", 4, range(2))
    nearest, none = shares("nearest", 4, range(1)), shares("target", 0, range(1))
    assert f"without examples {100 * none.mean():.1f} (" in block
    assert f"| target | {100 * shares('target', 1, range(2)).mean():.1f} (" in block
    assert f") | {100 * own.mean():.1f} (" in block
    assert f"{100 * (own.mean() - other.mean()):+.1f} (" in block
    assert f"{100 * (own.mean() - nearest.mean()):+.1f} (" in block


def test_every_block_is_of_a_set_that_is_asked() -> None:
    assert {record_name(name) for name in PER_CLASS} == {f"in_context_{name}" for name in in_context.PER_CLASS}
