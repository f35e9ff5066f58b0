"""Curves over severities and shots: what stands behind a point, against plain numpy over the same answers."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from throughline.core.files import write_json, write_json_lines
from throughline.metrics.intervals import bootstrap_generator, hierarchical_bootstrap
from throughline.ood.factors import EXAMPLES, VIEW, Levels, example_levels, view_levels
from throughline.reporting.groups import Group, groups
from throughline.reporting.page import write_page
from throughline.reporting.shifts import curve_figure, curve_table, severity_curves, shot_curves
from throughline.runs.reader import read_run
from throughline.runs.unit import Unit

TARGETS, IMAGES = ("photo", "sketch"), 40
Right = Mapping[tuple[str, str], NDArray[np.bool_]]


def group_with(
    folder: Path, factor: str, levels: Levels, rate_of: Mapping[str, float], copied: Mapping[str, float] = {}
) -> tuple[Group, Right]:
    """A run of one checkpoint on 40 images of two domains, and the right answers by level and domain. `levels` are
    those of its config; `copied` is what copying labels would give at some of them."""
    lines, right = [], {}
    for number, level in enumerate(levels):
        for place, target in enumerate(TARGETS):
            hits = np.random.default_rng([number, place]).uniform(size=IMAGES) < rate_of[level]
            right[level, target] = hits
            named = {"dataset": "images", "model": "m", "method": "zero_shot", "targets": (target,), "seed": 0}
            unit = Unit(kind="evaluate", factors={factor: level}, inputs={**named, "level": level}, **named)
            own = folder / "units" / unit.name
            write_json(own / "unit.json", unit.to_json())
            write_json(own / "metrics.json", [])
            said = [
                {"sample_id": f"{target}/cup/{n}.png", "domain": target, "labels": ["cup"], "answer": "likelihood"}
                | {"predicted": "cup" if hit else "bowl", "outcome": "ok"}
                for n, hit in enumerate(hits)
            ]
            write_json_lines(own / "predictions.jsonl", said)
            (own / "done").write_text("x")
            common = {"unit": unit.name, **named, "factors": {factor: level}, "round": None, "answer": "likelihood"}
            common["metrics"] = {"copied": copied[level]} if level in copied else {}
            lines.append({**common, "split": "all", "n": IMAGES, "correct": int(hits.sum()), "accuracy": hits.mean()})
    write_json_lines(folder / "results.jsonl", lines)
    write_json(folder / "environment.json", {})
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": "x", "factors": {factor: levels}}))
    (group,) = groups(read_run(folder))
    return group, right


def test_severities_are_compared_with_the_images_as_they_are(tmp_path: Path) -> None:
    level_of = {("fog", 1): "fog-1", ("fog", 5): "fog-5", ("occlusion_grey", 0.25): "occlusion of a quarter"}
    levels: Levels = view_levels(["fog"], [1, 5], 0)
    levels["occlusion of a quarter"] = {"evaluation.view": {"kind": "occlusion_grey", "severity": 0.25}}
    rates = {"clean": 0.8, "fog-1": 0.7, "fog-5": 0.2, "occlusion of a quarter": 0.5}
    group, right = group_with(tmp_path, VIEW, levels, rates)
    curves = severity_curves(group, "likelihood")
    assert [(curve.about, curve.name, [point.x for point in curve.points]) for curve in curves] == [
        ("zero_shot", "fog", [0, 1, 5]),
        ("zero_shot", "occlusion_grey", [0, 0.25]),
    ]
    for curve in curves:
        for point in curve.points:
            level = level_of.get((curve.name, point.x), "clean")
            runs = {(target, 0): right[level, target].astype(float) for target in TARGETS}
            assert point.accuracy == hierarchical_bootstrap(runs, bootstrap_generator())
        first, *others = curve.points
        for point in others:
            level = level_of[curve.name, point.x]
            gap = np.mean([right[level, t].mean() - right["clean", t].mean() for t in TARGETS])
            assert point.minus(first).interval.mean == pytest.approx(gap)
    table = curve_table(group, "likelihood", curves, ("view", "severity"))
    assert table is not None and [row[:2] for row in table.rows] == [
        ("fog", "1"),
        ("fog", "5"),
        ("occlusion_grey", "0.25"),
    ]


def test_draws_of_examples_are_the_spread_of_a_point(tmp_path: Path) -> None:
    levels = example_levels((0, 2, 4), {"target": {}, "shuffled": {"labels": "shuffled"}}, draws=3)
    rates = {level: 0.4 + 0.05 * int(level[0]) * ("target" in level) for level in levels}
    group, right = group_with(tmp_path, EXAMPLES, levels, rates)
    curves = {curve.name: curve for curve in shot_curves(group, "likelihood")}
    assert set(curves) == {"target", "shuffled"}
    for name, curve in curves.items():
        assert [point.x for point in curve.points] == [0, 2, 4]
        for point in curve.points[1:]:
            draws = [[right[f"{point.x} {name} {draw}", target] for draw in range(3)] for target in TARGETS]
            assert point.accuracy.mean == pytest.approx(np.mean(draws))
            gap = np.mean(draws) - np.mean([right["0", target] for target in TARGETS])
            assert point.minus(curve.points[0]).interval.mean == pytest.approx(gap)
            assert point.accuracy.low < point.accuracy.mean < point.accuracy.high
    plot = curve_figure(group, "likelihood", list(curves.values()), "shots", "labelled examples")
    assert plot is not None and [panel.title for panel in plot.panels] == list(curves) and len(plot.rows) == 6


def test_what_copying_labels_would_give_stands_beside_the_curve(tmp_path: Path) -> None:
    levels = example_levels((0, 2, 4), {"target": {}, "knn": {"vote": 1}}, draws=2)
    levels = {name: levels[name] for name in ("0", "2 target 0", "2 target 1", "4 target 0", "2 knn 0")}
    copied = {"2 target 0": 0.1, "2 target 1": 0.3, "4 target 0": 0.25}
    group, _ = group_with(tmp_path, EXAMPLES, levels, dict.fromkeys(levels, 0.5), copied)
    curves = shot_curves(group, "likelihood")
    table = curve_table(group, "likelihood", curves, ("examples", "shots"))
    assert table is not None
    column = table.columns.index("labels copied")
    assert {row[:2]: row[column] for row in table.rows} == {
        ("target", "2"): "20.0",
        ("target", "4"): "25.0",
        ("knn", "2"): "–",
    }
    plot = curve_figure(group, "likelihood", curves, "shots", "labelled examples")
    assert plot is not None
    lines = {panel.title: [series.name for series in panel.series] for panel in plot.panels}
    assert lines == {"target": ["zero_shot", "labels copied"], "knn": ["zero_shot"]}
    _, line = next(panel.series for panel in plot.panels if panel.title == "target")
    assert line.y[1:] == pytest.approx([20, 25])


def test_without_such_a_factor_there_is_nothing_to_show(tmp_path: Path) -> None:
    levels: Levels = {"plain": {}, "short": {"questions.label": "Which? {options}"}}
    group, _ = group_with(tmp_path, "wording", levels, {"plain": 0.5, "short": 0.6})
    assert severity_curves(group, "likelihood") == shot_curves(group, "likelihood") == []
    assert curve_table(group, "likelihood", [], ("view", "severity")) is None
    assert curve_figure(group, "likelihood", [], "severities", "severity") is None


@pytest.mark.parametrize("factor", [VIEW, EXAMPLES])
def test_levels_of_ones_own_are_known_by_what_they_set(factor: str, tmp_path: Path) -> None:
    """A level may be called anything, and a factor of one of these names may set other keys."""
    shown = {"kind": "fog", "severity": 3} if factor == VIEW else {"shots": 3}
    foggy: Levels = {"none": {}, "a-few": {f"evaluation.{factor}": shown}, "fog-1": {"questions.label": "{options}?"}}
    group, _ = group_with(tmp_path, factor, foggy, dict.fromkeys(foggy, 0.5))
    (curve,) = (severity_curves if factor == VIEW else shot_curves)(group, "likelihood")
    assert (curve.name, [point.x for point in curve.points]) == ("fog" if factor == VIEW else "a-few", [0, 3])


def test_an_unfinished_run_has_the_points_that_every_target_answered(tmp_path: Path) -> None:
    """Of clean and foggy images of two domains, one lacks a unit: means of other domains do not stand in one row."""
    levels = view_levels(["fog", "contrast"], [1, 5], 0)
    group, right = group_with(tmp_path, VIEW, levels, dict.fromkeys(levels, 0.5))
    assert len(severity_curves(group, "likelihood")) == 2

    def without(*pending: tuple[str, str]) -> Group:
        ours = [line for line in group.run.results if (line.factors[VIEW], line.target) not in pending]
        (other,) = groups(replace(group.run, results=tuple(ours)))
        return other

    partly = severity_curves(
        without(("fog-5", "photo"), ("contrast-1", "photo"), ("contrast-5", "sketch")), "likelihood"
    )
    assert [(curve.name, [point.x for point in curve.points]) for curve in partly] == [("fog", [0, 1])]
    assert partly[0].points[1].accuracy.mean == np.mean([right["fog-1", target] for target in TARGETS])
    assert severity_curves(without(("clean", "photo")), "likelihood") == []


@pytest.mark.slow
def test_the_page_has_the_curves(tmp_path: Path) -> None:
    group_with(tmp_path / "run", VIEW, view_levels(["fog"], [5], 0), {"clean": 0.8, "fog-5": 0.3})
    page = write_page(tmp_path / "run").read_text()
    assert "Corrupted and covered images" in page and "Labelled examples in the prompt" not in page
