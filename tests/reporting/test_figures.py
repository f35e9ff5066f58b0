from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from throughline.reporting.figures import accuracy_figure, loss_figure, rounds_figure
from throughline.reporting.plotting import Plot
from throughline.reporting.runs import Run, read_run
from throughline.reporting.summaries import CorrectAnswers, groups, summarise

if TYPE_CHECKING:
    from conftest import FakeRun


def plots(run: Run) -> list[Plot | None]:
    (group,) = groups(run.results)
    correct = CorrectAnswers(run)
    rows = {answer: summarise(run, group, "all", answer, correct) for answer in ("label", "reasoning")}
    return [accuracy_figure(rows), rounds_figure(run, group, "all"), loss_figure(run, group)]


def figures(run: Run) -> list[str | None]:
    return [None if plot is None else plot.svg() for plot in plots(run)]


def test_figures_are_the_same_bytes_each_time_and_carry_no_date(fake_run: FakeRun) -> None:
    run = read_run(fake_run.folder)
    first, second = figures(run), figures(run)
    assert first == second
    for svg in first:
        assert svg is not None and svg.startswith("<svg") and svg.rstrip().endswith("</svg>")
        ElementTree.fromstring(svg)
        assert "date" not in svg.lower() and "<metadata" not in svg and "Matplotlib" not in svg


def test_figures_take_the_colour_of_the_page_and_say_what_they_show(fake_run: FakeRun) -> None:
    for svg in figures(read_run(fake_run.folder)):
        assert svg is not None
        assert "currentColor" in svg and "#010203" not in svg and "#000000" not in svg
        assert 'role="img" aria-label="' in svg


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
    accuracy, rounds, loss = figures(run)
    assert accuracy is not None and rounds is None and loss is None
