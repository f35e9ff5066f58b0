"""Counterfactual preference against what it is compared with: what is run, what is measured, and how it is shown."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

import drift_study
from drift_study import CLAIMS, CONFIG, INTERFERED, MEASURES, METHODS, PARENT, PATHS, SOURCES, UNSEEN, settings_of
from drift_study_block import RECORD, drift_claims
from drift_study_block import drift_study as shown
from grpo import GRPO, GrpoStage
from records import BudgetDraw, Budgets, this_machine, write_record
from throughline.cli.drift import Source
from throughline.drift.interference import ANOTHER, BLANK, FALSE_START, FORCED, SYNONYMS, TRUE
from throughline.experiment.config_files import load_config
from throughline.runs.unit import Unit
from throughline.training.methods import METHODS as KNOWN
from throughline.training.stages.preference import PreferenceStage

ROOT = Path(__file__).resolve().parent.parent
IMAGES, TARGET, SEEDS = 16, "sketch", (0,)
STYLES = ("style cartoon", "style painting", "style photo")
BEGUN = (FALSE_START, TRUE, SYNONYMS, *FORCED.values())
LEVELS = ("clean", BLANK, ANOTHER, *STYLES, *dict.fromkeys((*INTERFERED, *BEGUN)))
BUDGETS = Budgets(
    draws=[BudgetDraw(method="reasoning", target=TARGET, lr=5e-3, epochs=8, accuracy=0.5, chosen=True)],
    checks=[],
    tolerance=0.015,
)


def hits(method: str, level: str, seed: int) -> NDArray[np.bool_]:
    """Right answers, on either answer path: `cfp` is always right, the others half of the time."""
    levels = (*LEVELS, UNSEEN)
    rng = np.random.default_rng([METHODS.index(method), levels.index(level), seed])
    return rng.uniform(size=IMAGES) < (1.0 if method == "cfp" else 0.5)


def write_run(folder: Path, units: Mapping[tuple[str, str | None], str], seed: int) -> None:
    """Finished units by method and level of interference, each with the level whose `hits` it has."""
    lines = []
    for (method, level), right in units.items():
        named: dict[str, Any] = {"dataset": "drawn", "model": "pocket", "method": method, "targets": (TARGET,)}
        factors = {} if level is None else {"interference": level}
        unit = Unit(
            kind="evaluate" if level else "fold", seed=seed, factors=factors, inputs={**named, **factors}, **named
        )
        own, place, said = hits(method, right, seed), folder / "units" / unit.name, []
        for answer in ("reasoning",) if level in BEGUN else PATHS:
            common = {"unit": unit.name, **named, "seed": seed, "factors": factors, "round": None, "split": "all"}
            lines.append({**common, "answer": answer, "n": IMAGES, "correct": int(own.sum()), "accuracy": own.mean()})
            for number, hit in enumerate(own):
                row = {
                    "sample_id": f"{TARGET}/cup/{number:02}.png",
                    "domain": TARGET,
                    "labels": ["cup"],
                    "outcome": "ok",
                }
                row |= {"predicted": "cup" if hit else "bowl", "answer": answer, "text": "i find a handle."}
                more = {"probabilities": [float(hit), float(not hit)]} if answer == "likelihood" else {}
                said.append({**row, **more})
        files = {"unit.json": [unit.to_json()], "metrics.json": [[]], "predictions.jsonl": said, "done": ["x"]}
        files["stage.json"] = [{"cumulative_steps": 360}]
        place.mkdir(parents=True)
        for name, rows in files.items():
            (place / name).write_text("\n".join(map(json.dumps, rows)))  # not to disk: there are hundreds
    (folder / "results.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "environment.json").write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": {"checkpoint": "pocket"}}))


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The study of one style and seed, its commands by folder, and the values that a second call finds without any."""
    root, commands = tmp_path_factory.mktemp("study"), dict[str, tuple[str, ...]]()

    def throughline(*words: str) -> None:
        folder = Path(words[words.index("--out") + 1]) if "--out" in words else Path(words[2])
        commands[str(folder.relative_to("runs/drift_study"))] = words
        if words[0] == "run":
            level = UNSEEN if folder.name.endswith("unseen") else "clean"
            write_run(root / folder, {(method, None): level for method in METHODS}, int(folder.name.split("-")[1][4:]))
        elif words[1] == "robustness":
            units = {(method, level): level for method, level in itertools.product(METHODS, LEVELS)}
            write_run(root / folder, units, int(folder.parent.name.split("-")[1][4:]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drift_study, "TARGETS", (TARGET,))
        patch.setattr(drift_study, "SEEDS", SEEDS)
        found = drift_study.study_drift(root, throughline, BUDGETS, root / "parts", this_machine())
        patch.setattr(drift_study, "summarised", lambda values, _: values)
        again = drift_study.study_drift(root, None, BUDGETS, root / "parts", this_machine())  # type: ignore[arg-type]
    return SimpleNamespace(record=found, again=again, commands=commands)


def test_methods_after_the_parent_have_equal_passes_and_a_fifth_of_its_rate() -> None:
    keys = json.dumps(settings_of(TARGET, BUDGETS))
    config = load_config(str(ROOT / CONFIG), [f"per_method={keys}"])
    assert config.methods == (*METHODS[:-1], "bench/grpo.py:GRPO") and METHODS[-1] == GRPO.name
    for name, sources in SOURCES.items():
        stage = KNOWN[name].stages[-1]
        assert isinstance(stage, PreferenceStage) and stage.sources == sources and {*sources} <= {*get_args(Source)}
        own = config.at(config.data, {}, name, [TARGET]).training.stage
        assert own.epochs * len(sources) == 4 and own.lr == pytest.approx(1e-3)
    rounds = config.at(config.data, {}, "cfp_rounds", [TARGET]).training
    assert rounds.rounds * rounds.stage.epochs == 4
    for name in ("mtct", "sft_more"):  # both begin at the base
        assert config.at(config.data, {}, name, [TARGET]).training.stage.lr == 5e-3 and KNOWN[name].starts_from is None
    assert KNOWN["sft_more"].steps_like == "cfp"
    assert config.at(config.data, {}, "grpo", [TARGET]).training.stage.lr == pytest.approx(1e-3)
    assert GRPO.starts_from == PARENT and GRPO.stages[-1] == GrpoStage()


def test_a_style_and_seed_that_is_whole_is_not_run_again(studied: Any) -> None:
    assert set(studied.again["method"]) == set(METHODS)
    runs = [f"{TARGET}-seed{seed}-{name}" for seed in SEEDS for name in ("any", "any/robustness", "unseen")]
    assert set(studied.commands) == {"images", "pairs", *runs}
    apart = studied.commands[f"{TARGET}-seed0-unseen"]
    assert "data.split_rule=concepts" in apart and "data.group_by=combinations" in apart


def test_measures_are_means_over_their_levels(studied: Any) -> None:
    cells = {(cell.method, cell.answer, cell.measure): cell.value.mean for cell in studied.record.cells}

    def mean(method: str, *levels: str) -> float:
        return float(np.mean([hits(method, level, seed) for level in levels for seed in SEEDS]))

    for method in METHODS:
        clean = mean(method, "clean")
        assert cells[method, "reasoning", "in-domain"] == pytest.approx(mean(method, *STYLES))
        assert cells[method, "likelihood", "held-out style"] == pytest.approx(clean)
        assert cells[method, "reasoning", UNSEEN] == pytest.approx(mean(method, UNSEEN))
        assert cells[method, "reasoning", "interference"] == pytest.approx(mean(method, *INTERFERED))
        shown_only = [level for level in INTERFERED if level not in BEGUN]
        assert cells[method, "likelihood", "interference"] == pytest.approx(mean(method, *shown_only))
        assert cells[method, "reasoning", "coherent"] == pytest.approx(clean)  # a bowl has no handle
        assert cells[method, "reasoning", "lost without the image"] == pytest.approx(
            clean - mean(method, BLANK, ANOTHER)
        )
        changed = [hits(method, SYNONYMS, seed) != hits(method, TRUE, seed) for seed in SEEDS]
        assert cells[method, "reasoning", "flipped by synonyms"] == pytest.approx(np.mean(changed))
        moved = [hits(method, level, seed) != hits(method, "clean", seed) for level in shown_only for seed in SEEDS]
        assert cells[method, "likelihood", "drift"] == pytest.approx(np.mean(moved))
    assert not {key for key in cells if key[1:] in {("likelihood", "coherent"), ("reasoning", "drift")}}


def test_every_claim_has_its_verdict_and_less_drift_is_in_favour(studied: Any, tmp_path: Path) -> None:
    assert {claim.measure for claim in CLAIMS} == set(MEASURES)
    write_record(tmp_path / RECORD, studied.record)

    lines = drift_claims(tmp_path).splitlines()
    of = {claim: next(line for line in lines if claim in line) for claim in ("drifts less", "not the steps alone")}
    assert all(line.rstrip(" |").endswith("seen") for line in of.values())
    assert " -" in of["drifts less"] and "+" in of["not the steps alone"]
    table = shown(tmp_path)
    assert table.count("\n| cfp |") == len(PATHS) and "| 100.0 (100.0 to 100.0) |" in table


def test_nothing_is_shown_before_it_is_measured(tmp_path: Path) -> None:
    assert shown(tmp_path) == drift_claims(tmp_path) == "*Not measured yet.*"
