from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from throughline.core.files import read_json_lines, write_json_lines
from throughline.core.plot import Plot
from throughline.reporting.drawing import drawn_figure, svg_of
from throughline.reporting.estimates import against_baseline, summarise
from throughline.reporting.figures import accuracy_figure, differences_figure, rounds_figure
from throughline.reporting.groups import groups
from throughline.reporting.losses import loss_figure, loss_table
from throughline.runs.reader import Run, read_run

if TYPE_CHECKING:
    from tests.reporting.conftest import FakeRun


def plots(run: Run) -> list[Plot | None]:
    (group,) = groups(run)
    rows = {answer: summarise(group, "all", answer) for answer in ("label", "reasoning")}
    compared = {answer: against_baseline(group, answer) for answer in rows}
    return [
        accuracy_figure(rows, chance=1 / 3),
        rounds_figure(group, "all"),
        loss_figure(group),
        differences_figure(group, compared),
    ]


def figures(run: Run) -> list[str | None]:
    return [None if plot is None else svg_of(plot) for plot in plots(run)]


@pytest.mark.slow
def test_figures_are_the_same_bytes_each_time_and_carry_no_date(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    first, second = figures(run), figures(run)
    assert first == second
    for svg in first:
        assert svg is not None and svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
        ElementTree.fromstring(svg)
        assert "date" not in svg.lower() and "<metadata" not in svg and "Matplotlib" not in svg


@pytest.mark.slow
def test_figures_take_the_colour_of_the_page_and_say_what_they_show(fake_run: FakeRun) -> None:
    for svg in figures(read_run(fake_run.folder)):
        assert svg is not None
        assert "currentColor" in svg and "#010203" not in svg and "#000000" not in svg
        assert 'role="img" aria-label="' in svg


@pytest.mark.slow
def test_ids_of_two_figures_on_one_page_do_not_collide(fake_run: FakeRun) -> None:
    ids: list[str] = []
    for svg in figures(read_run(fake_run.folder)):
        assert svg is not None
        found = [element.get("id") for element in ElementTree.fromstring(svg).iter() if element.get("id")]
        assert len(found) == len(set(found))
        ids += [str(name) for name in found]
        for used in [part.split(")")[0] for part in svg.split("url(#")[1:]]:
            assert used in found
    assert len(ids) == len(set(ids))


def test_every_method_and_both_paths_are_named_in_the_accuracy_figure(fake_run: FakeRun) -> None:
    svg = figures(read_run(fake_run.folder))[0]
    assert svg is not None
    for word in ("zero_shot", "mtct_sarr", "label path", "reasoning path"):
        assert f">{word}</text>" in svg


def test_a_run_without_training_or_rounds_has_no_such_figures(make_run: Callable[..., FakeRun]) -> None:
    run = read_run(make_run(methods=("zero_shot",), seeds=(0,), targets=("sketch",)).folder)
    accuracy, rounds, loss, differences = figures(run)
    assert accuracy is not None and rounds is None and loss is None and differences is None
    (group,) = groups(run)
    assert loss_table(group) is None


def test_the_forest_plot_holds_the_numbers_of_the_comparisons(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    (group,) = groups(run)
    plot = plots(run)[3]
    assert plot is not None and [panel.title for panel in plot.panels] == [
        "label path,\nminus cls",
        "reasoning path,\nminus cls",
    ]
    expected = {row.setup.name: row for row in against_baseline(group, "label")}
    drawn = {str(row[1]): row[2:] for row in plot.rows if row[0] == "label"}
    assert drawn.keys() == expected.keys() and "cls" not in drawn
    for name, row in expected.items():
        assert drawn[name] == (
            "cls",
            row.paired.interval.mean,
            row.paired.interval.low,
            row.paired.interval.high,
            row.adjusted_p,
        )
    assert all(panel.rulers == (0,) for panel in plot.panels), "a line where there is no difference"


def test_the_dot_plot_has_a_line_at_chance(fake_run: FakeRun) -> None:
    plot = plots(read_run(fake_run.folder))[0]
    assert plot is not None and plot.panels[0].rulers == (pytest.approx(100 / 3),)
    assert "dotted line: chance" in plot.description


def test_rounds_begin_where_they_started_from(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    rounds = plots(run)[1]
    assert rounds is not None
    shown = {tuple(row[:3]): row[3] for row in rounds.rows}
    of_mtct = [
        line.accuracy
        for line in run.results
        if (line.method, line.answer, line.split, line.round) == ("mtct", "label", "all", None)
    ]
    assert shown["mtct_sarr", "label", 0] == pytest.approx(sum(of_mtct) / len(of_mtct))
    assert ("mtct_sarr", "label", 1) in shown


def test_rounds_without_all_of_their_starts_begin_with_the_first(make_run: Callable[..., FakeRun]) -> None:
    fake = make_run(targets=("sketch",), seeds=(0, 1), size=10)
    rows = read_json_lines(fake.folder / "results.jsonl")
    write_json_lines(fake.folder / "results.jsonl", [r for r in rows if (r["method"], r["seed"]) != ("mtct", 1)])
    rounds = plots(read_run(fake.folder))[1]
    assert rounds is not None
    assert {row[2] for row in rounds.rows if row[0] == "mtct_sarr"} == {1, 2}
    assert {row[2] for row in rounds.rows if row[0] == "sarr"} == {0, 1, 2}


def test_losses_stand_in_a_table_stage_by_stage(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    (group,) = groups(run)
    table = loss_table(group)
    assert table is not None
    rows = {row[:3]: row[3:] for row in table.rows}
    # the fixture's chain loss: 2 / (step + 20 * round), logged at steps 5, 10, 15, 20 of each stage, in six units
    assert rows["mtct_sarr", "first", "chain"] == ("6", "20", "0.400", "0.100")
    assert rows["mtct_sarr", "round 1", "chain"] == ("6", "20", "0.080", "0.050")
    assert "zero_shot" not in {row[0] for row in table.rows}


def test_the_caption_says_what_the_whiskers_are(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    (group,) = groups(run)
    with_predictions, without = (
        accuracy_figure({"label": summarise(group, split, "label")}) for split in ("all", "in")
    )
    assert with_predictions is not None and with_predictions.description.endswith("whiskers: 95 % intervals")
    assert without is not None and without.description.endswith("whiskers: standard error over seeds")


def test_more_runs_than_colours_still_make_a_figure(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    (group,) = groups(run)
    rows = summarise(group, "all", "label")
    plot = accuracy_figure({f"a rather long name of run {number}": rows for number in range(11)}, series="{}")
    assert plot is not None and {row[0] for row in plot.rows} == {f"a rather long name of run {n}" for n in range(11)}
    figure = drawn_figure(plot)
    (legend,) = figure.legends
    box, paper = legend.get_window_extent(), figure.bbox
    assert box.x0 >= paper.x0 and box.x1 <= paper.x1
