"""Fewer training images, and another teacher: what is run, what is compared, and how it is shown."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import documents
from dependence import AGAINST, IMAGES, METHODS, MISTAKES, PATHS, SEEDS, TARGETS, USUAL, study_dependence
from dependence_block import RECORD, write_plots
from records import BudgetDraw, Budgets, Dependence, DependenceRow, DependenceValue, this_machine, write_record
from reduced_run import reduce_run
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_json, write_json_lines
from throughline.drawn.describer import DescriberSettings
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.experiment.config import RunConfig
from throughline.experiment.config_files import load_config
from throughline.runs.unit import Unit

ROOT = Path(__file__).resolve().parent.parent
SIZE = 60
CHOSEN = {
    ("cls", "sketch"): (3e-3, 8),
    ("cls", "photo"): (1e-3, 4),
    ("mtct", "sketch"): (6e-3, 4),
    ("mtct", "photo"): (3e-3, 8),
}


def budgets() -> Budgets:
    rest = {("reasoning", target): (6e-3, 8) for target in TARGETS} | {("cls", "cartoon"): (6e-3, 8)}
    draws = [
        BudgetDraw(method=method, target=target, lr=lr, epochs=epochs, accuracy=0.5, chosen=chosen)
        for (method, target), (lr, epochs) in (CHOSEN | rest).items()
        for chosen in (True, False)
    ]
    return Budgets(draws=draws, checks=[], tolerance=0.015)


def answers(config: RunConfig, method: str, target: str, seed: int, path: str) -> NDArray[np.bool_]:
    """Right answers: more with more images, fewer with a worse teacher, for `cls` whatever the teacher."""
    images = config.data.train_per_domain or 0
    mistakes = 0.0 if method == "cls" else config.chains.part_mistakes
    rate = 0.4 + images / 800 + 0.1 * METHODS.index(method) - 0.5 * (USUAL if mistakes is None else mistakes)
    rng = np.random.default_rng([METHODS.index(method), [*DOMAIN_STYLES].index(target), seed, PATHS.index(path)])
    return rng.uniform(size=SIZE) < rate


def write_units(folder: Path, config: RunConfig, targets: Sequence[str] = TARGETS) -> None:
    lines = []
    for method, target, seed in itertools.product(config.methods, targets, config.seeds):
        named: dict[str, Any] = {"dataset": "drawn", "model": "pocket", "method": method, "targets": (target,)}
        unit = Unit(kind="fold", seed=seed, inputs=named, **named)
        place, said = folder / "units" / unit.name, []
        common = {"unit": unit.name, **named, "seed": seed, "round": None, "split": "all", "n": SIZE}
        for path in PATHS:
            right = answers(config, method, target, seed, path)
            lines.append({**common, "answer": path, "correct": int(right.sum()), "accuracy": right.mean()})
            ours = {"domain": target, "labels": ["cup"], "answer": path, "outcome": "ok"}
            said += [
                {**ours, "sample_id": f"{target}/cup/{number}.png", "predicted": "cup" if hit else "bowl"}
                for number, hit in enumerate(right)
            ]
        write_json(place / "unit.json", unit.to_json())
        write_json(place / "metrics.json", [])
        write_json_lines(place / "predictions.jsonl", said)
        images = 3 * (config.data.train_per_domain or 0)
        marks = {"cumulative_steps": 10 * seed, "images": images, "images_with_chain": images // 2 * (method != "cls")}
        write_json(place / "stage.json", marks)
        (place / "done").write_text("x")
    write_json_lines(folder / "results.jsonl", lines)
    write_json(folder / "environment.json", {})
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))


def make_runner(root: Path) -> Any:
    """Stands for `throughline run`: writes finished units, and keeps the configs that it was called with by folder.

    `study()` is the study with it, and with a full table over three targets that stands there."""
    settings = ["methods=[cls,mtct,mtct_sarr]", "per_method={}"]
    full = load_config("demo_full", settings)
    write_units(root / "demo_full", full, targets=("cartoon", *TARGETS))
    reduce_run(root / "demo_full", root / "full")
    configs: dict[str, RunConfig] = {}

    def run(config: str, *words: str) -> None:
        settings = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
        folder = Path(words[words.index("--out") + 1])
        assert folder.parent == Path("runs/dependence")
        configs[folder.name] = load_config(str(ROOT / config), settings)
        write_units(root / folder, configs[folder.name])

    def study(run: Callable[..., None] = run) -> list[DependenceValue]:
        return study_dependence(root, run, budgets(), root / "full", root / "parts")

    return SimpleNamespace(run=run, configs=configs, root=root, study=study, full=full)


@pytest.fixture
def runner(tmp_path: Path) -> Any:
    """One that has run nothing yet."""
    return make_runner(tmp_path)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One whose study is done, with its `values`; read only."""
    runner = make_runner(tmp_path_factory.mktemp("studied"))
    runner.values = runner.study()
    return runner


def test_each_point_is_run_once_and_with_as_many_steps_as_all_images(studied: Any) -> None:
    usual = DescriberSettings().part_mistakes
    assert usual == USUAL
    points = {
        (config.data.train_per_domain, usual if config.chains.part_mistakes is None else config.chains.part_mistakes)
        for config in studied.configs.values()
    }
    assert points == {(20, 0.08), (40, 0.08), (80, 0.08), (160, 0.0), (160, 0.24), (160, 0.4)}
    assert len(studied.configs) == len(points)
    for name, config in studied.configs.items():
        assert config.methods == (METHODS if name.startswith("images") else METHODS[1:])
        for method, target in itertools.product(config.methods, config.data.targets):
            lr, epochs = CHOSEN["mtct" if method == "mtct_sarr" else method, target]
            stage = config.at(config.data, {}, method, [target]).training.stage
            assert (stage.lr, stage.steps(3 * config.data.train_per_domain)) == (lr, epochs * 3 * 160 / 16)


def test_points_that_are_whole_are_not_run_again(studied: Any) -> None:
    def nothing(*words: str) -> None:
        raise AssertionError(words)

    assert studied.study(nothing) == studied.values


def test_what_is_not_varied_is_that_of_the_full_table(studied: Any) -> None:
    config, full = studied.configs["mistakes-0"], load_config("demo_full")
    assert (config.data.targets, config.seeds) == (TARGETS, full.seeds) == (TARGETS, SEEDS)
    assert config.data.model_copy(update={"targets": "all"}) == full.data
    usual = {"part_mistakes": full.chains.part_mistakes}
    assert config.chains.model_copy(update=usual) == full.chains
    assert (config.model, config.threads) == (full.model, full.threads)
    same = {"stage": full.training.stage}
    assert config.training.model_copy(update=same) == full.training
    asked = {"answers": full.evaluation.answering.answers}
    assert config.evaluation.answering.model_copy(update=asked) == full.evaluation.answering


def naive_interval(table: NDArray[np.float64], draws: int = 3000) -> list[float]:
    """Of `(targets, seeds, images)`: seeds and images of each target drawn with replacement, one draw at a time."""
    rng = np.random.default_rng(7)
    targets, seeds, images = table.shape
    means = []
    for _ in range(draws):
        drawn = [rng.integers(seeds, size=seeds) for _ in range(targets)]
        seen = [rng.integers(images, size=images) for _ in range(targets)]
        means.append(np.mean([table[t][np.ix_(drawn[t], seen[t])].mean() for t in range(targets)]))
    return [float(end) for end in np.quantile(means, [0.025, 0.975])]


def test_accuracies_and_differences_are_those_of_the_answers(studied: Any) -> None:
    values = studied.values
    assert [(value.half, value.value) for value in values] == [
        *(("images", images) for images in IMAGES),
        *(("mistakes", share) for share in MISTAKES),
    ]
    shared = [value.rows for value in values if value.value in (160, USUAL)]
    assert shared[0] == shared[1]
    for value in values:
        config = studied.configs.get(f"{value.half}-{value.value:g}", studied.full)

        def table(method: str, path: str, config: RunConfig = config) -> NDArray[np.float64]:
            rows = [[answers(config, method, target, seed, path) for seed in SEEDS] for target in TARGETS]
            return np.array(rows, dtype=float)

        assert {(row.method, row.answer) for row in value.rows} == set(itertools.product(METHODS, PATHS))
        for row in value.rows:
            assert row.steps == 10
            assert row.with_chain == pytest.approx(0 if row.method == "cls" else 0.5)
            ours = table(row.method, row.answer)
            assert row.accuracy.mean == pytest.approx(ours.mean())
            assert row.minus.keys() == set(AGAINST[row.method])
            for other, difference in row.minus.items():
                gaps = ours - table(other, row.answer)
                assert difference.mean == pytest.approx(gaps.mean())
                if value.value in (20, 0.4):
                    assert [difference.low, difference.high] == pytest.approx(naive_interval(gaps), abs=0.015)


@pytest.mark.parametrize("damage", ["not done", "no seed", "another image"])
def test_what_is_not_whole_makes_no_record(damage: str, runner: Any) -> None:
    def run(*words: str) -> None:
        runner.run(*words)
        folder = runner.root / words[-1]
        if not folder.name.startswith("mistakes"):
            return
        unit = next((folder / "units").glob("photo-mtct-seed1-*"))
        results = folder / "results.jsonl"
        if damage == "not done":
            (unit / "done").unlink()
        elif damage == "no seed":
            results.write_text("".join(line for line in results.open() if unit.name not in line))
        else:
            path = unit / "predictions.jsonl"
            path.write_text(path.read_text().replace("photo/cup/0.png", "photo/cup/99.png"))

    said = {"not done": "not done", "no seed": "no likelihood answers of mtct on photo with seed 1"}
    with pytest.raises(ThroughlineError, match=said.get(damage, "other images of photo")):
        runner.study(run)


def test_the_block_and_the_figures_show_a_record_and_nothing_without(studied: Any, tmp_path: Path) -> None:
    evidence, images = tmp_path / "evidence", tmp_path / "images"
    write_plots(evidence, images)
    assert documents.BLOCKS["dependence"](evidence) == documents.NOT_MEASURED
    assert not images.exists()
    record = Dependence(
        command="python bench/evidence.py dependence", values=studied.values, environment=this_machine()
    )
    write_record(evidence / RECORD, record)
    block = documents.BLOCKS["dependence"](evidence)
    assert block.count("\n| 160 | mtct\\_sarr | 10 | 50 | ") == 1
    assert block.count("\n| 24 | mtct\\_sarr | 10 | 50 | ") == 1
    write_plots(evidence, images)
    names = ["dependence-images.svg", "dependence-mistakes.svg"]
    assert sorted(path.name for path in images.iterdir()) == names
    for name in names:
        assert f"(images/{name})" in block
        text = (images / name).read_text()
        assert ElementTree.fromstring(text).get("style") == "color: #1f2328; background: white"
        assert "mtct_sarr" in text


def test_an_interval_is_shown_in_points_with_its_sign(tmp_path: Path) -> None:
    low = {"mean": -0.0123, "low": -0.04, "high": 0.0156}
    rows = [
        {"method": method, "answer": "likelihood", "steps": 1, "with_chain": 1, "accuracy": low, "minus": minus}
        for method, minus in (("cls", {}), ("mtct", {"cls": low}))
    ]
    values = [
        DependenceValue(half=half, value=0.5, rows=[DependenceRow.model_validate(row) for row in rows])
        for half in ("images", "mistakes")
    ]
    write_record(tmp_path / RECORD, Dependence(command="x", values=values, environment=this_machine()))
    block = documents.BLOCKS["dependence"](tmp_path)
    assert "| mtct | 1 | 100 | -1.2 (-4.0 to 1.6) | -1.2 (-4.0 to +1.6) |  |" in block
