"""What examples in the prompt mend: what is run, and the amounts that are shown."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from tests.answered_run import Answered, write_answered

import documents
from in_context import CONFIG, DRAWS, PATH, SETS, SHOTS, SPURIOUS, ask_in_context, command, images_of, record_name
from throughline.cli import ood
from throughline.core.files import read_json_lines
from throughline.domains.digits import Shift, write_digits
from throughline.domains.folders import read_images
from throughline.domains.samples import balanced
from throughline.evaluation.examples import draw_examples, example_pool
from throughline.experiment.config_files import load_config
from throughline.ood.factors import CONTROLS, example_kinds, examples_of_level

ROOT = Path(__file__).resolve().parent.parent
TARGETS, IMAGES = ("cartoon", "photo"), 40


def shots_of(level: str) -> int:
    return int(level.partition(" ")[0])


def right(level: str, target: str) -> NDArray[np.bool_]:
    """More with more examples, most with the target's own, none gained with shuffled labels."""
    (kind, draw), shots = examples_of_level(level), shots_of(level)
    gain = {"target": 0.05, "sources": 0.02, "shuffled": 0.0}.get(kind, 0.01)
    rng = np.random.default_rng([shots, draw, TARGETS.index(target), len(kind)])
    return rng.uniform(size=IMAGES) < 0.3 + gain * shots + 0.01 * draw


def write_run(folder: Path, levels: list[str]) -> None:
    units = [
        Answered(
            target,
            {PATH: right(level, target)},
            factors={"examples": level},
            metrics={"copied": 0.25} if level != "0" and "nearest" not in level else {},
        )
        for level, target in itertools.product(levels, TARGETS)
    ]
    shown = {level: {"evaluation.examples": {"shots": shots_of(level)}} if shots_of(level) else {} for level in levels}
    write_answered(folder, units, "drawn", "pocket", {"examples": shown})


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


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_asked_with_all_controls_and_three_draws(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    parser = argparse.ArgumentParser()
    ood.add_arguments(parser)
    words = (*command(name), *images_of(ROOT, name, lambda *_: None))
    own = parser.parse_args(words[1:])
    assert (own.shots, own.draws, own.examples) == (SHOTS, DRAWS, tuple(CONTROLS))
    assert (own.answers, own.per_class) == ((PATH,), SETS[name].per_class)
    assert (own.shares, own.spurious) == ([SETS[name].shares], SPURIOUS)
    config = load_config(str(ROOT / CONFIG), own.set)
    assert config.name == record_name(name)
    assert (config.data.drawn is None) == (name != "drawn")
    assert (config.data.targets == "all") == (name != "rotation")
    assert name == "drawn" or config.data.images == f"runs/digits/{name}"


@pytest.mark.parametrize("shift", ["rotation", "colour"])
def test_enough_images_are_left_to_be_examples(shift: Shift, tmp_path: Path) -> None:
    write_digits(tmp_path / shift, shift)
    images, asking = read_images(tmp_path / shift), SETS[shift]
    targets = images.domains if asking.targets == "all" else yaml.safe_load(asking.targets)
    shares = example_kinds((), [asking.shares])[asking.shares]["shares"]
    for target in targets:
        asked = balanced(images.in_domain(target), asking.per_class, seed=0)
        assert len(asked) == asking.per_class * len(images.classes)
        for kind, draw in itertools.product(("target", "sources"), range(DRAWS)):
            pool = example_pool(images, (target,), kind, asked)
            assert len(draw_examples(pool, max(SHOTS), draw)) == max(SHOTS)
        own = example_pool(images, (target,), "target", asked)
        assert len(draw_examples(own, max(SHOTS), 0, {name: float(share) for name, share in shares.items()})) == 8


def test_the_block_has_accuracies_and_what_the_targets_own_are_ahead(evidence: Path) -> None:
    assert documents.BLOCKS["in-context-drawn"](evidence.parent) == documents.NOT_MEASURED
    block = documents.BLOCKS["in-context-drawn"](evidence)
    assert len(list(read_json_lines(evidence / record_name("drawn") / "results.jsonl"))) == 15 * len(TARGETS)

    def shares(kind: str, shots: int, draws: range) -> NDArray[np.bool_]:
        levels = [f"{shots} {kind} {draw}" if shots else "0" for draw in draws]
        return np.array([[right(level, target) for target in TARGETS] for level in levels])

    own, other = shares("target", 4, range(2)), shares("sources", 4, range(2))
    nearest, none = shares("nearest", 4, range(1)), shares("target", 0, range(1))
    assert f"without examples {100 * none.mean():.1f} (" in block
    assert f"| target | {100 * shares('target', 1, range(2)).mean():.1f} (" in block
    assert f") | {100 * own.mean():.1f} (" in block
    assert f"{100 * (own.mean() - other.mean()):+.1f} (" in block
    assert f"{100 * (own.mean() - nearest.mean()):+.1f} (" in block
    assert "| shuffled | 25.0 | 25.0 |" in block and "| nearest | 25.0" not in block
