"""What the page shows of a run's analyses, and what it says where they are missing."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape

import pytest
from tests.reporting.analysis_fixture import HOSTILE, full_analysis, write_full_analysis
from tests.reporting.conftest import FakeRun, write_run

from throughline.analysis.beside_the_paper import beside_the_paper
from throughline.analysis.divergence import divergence_table
from throughline.analysis.document import FILE, Analysis, sections, summary_of
from throughline.analysis.entropy import top_tokens
from throughline.analysis.faithfulness import variant_tables
from throughline.analysis.folds import averaged
from throughline.analysis.mismatch import perplexity_figure
from throughline.analysis.optimisation import optimisation_figure, optimisation_table
from throughline.analysis.probabilities import probability_figures, probability_tables
from throughline.analysis.records import State
from throughline.core.table import Table
from throughline.drawn import DRAWN_NOTE
from throughline.metrics.intervals import Interval
from throughline.reporting.analyses import find_analysis, shaded_data
from throughline.reporting.page import write_page
from throughline.runs.reader import Run, read_run

pytestmark = pytest.mark.slow

EMPTY = {"folds": (), "divergence": (), "sensitivity": (), "missing": ()}


@pytest.fixture(scope="module")
def run(fake_run: FakeRun) -> Run:
    return read_run(fake_run.folder)


@pytest.fixture(scope="module")
def analysis(run: Run) -> Analysis:
    return full_analysis(run)


def small(make_run: Callable[..., FakeRun]) -> Run:
    return read_run(make_run(targets=("sketch",), seeds=(0,), size=10).folder)


def by_name(table: Table) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in table.rows}


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A small run with an analysis and its page; read only."""
    run = read_run(write_run(tmp_path_factory.mktemp("analysed"), targets=("sketch",), seeds=(0,), size=10).folder)
    write_full_analysis(run)
    write_page(run.folder)
    return run


def page_of(run: Run) -> str:
    return (run.folder / "report" / "index.html").read_text()


def test_every_section_has_something_when_everything_was_measured(analysed: Run) -> None:
    assert all(section.tables or section.figures for section in sections(find_analysis(analysed)[0]))
    page = unescape(page_of(analysed))
    for words in (
        "Compared with the paper's numbers", "+43.38", "+1.88", "+29.74", "+43.28", "86.33", "92.23", "90.23",
        "not comparable", "Distance between domains", "expected by chance", "Does the conclusion depend on the chain?",
        "rounds: mtct_sarr, label path", "class probability by step, sarr", "--limit 8",
    ):  # fmt: skip
        assert words in page, words
    figures = {path.name for path in (analysed.folder / "report" / "figures").iterdir()}
    names = {
        "accuracy", "differences", "rounds", "loss", "reliability", "abstention", "classes", "confusion-1",
        "perplexity", "optimisation", "divergence", "probabilities-label-class",
        "probabilities-teacher-class", "probabilities-teacher-chain",
    }  # fmt: skip
    assert figures == {f"{name}.{ending}" for name in names for ending in ("svg", "png", "csv")}
    assert all(f'aria-label="{name}' not in page for name in ("None", "{"))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("parts", ["none", "empty", "broken"])
def test_without_an_analysis_every_section_names_the_command(make_run: Callable[..., FakeRun], parts: str) -> None:
    run = small(make_run)
    if parts == "empty":
        (run.folder / FILE).write_text(full_analysis(run).model_copy(update=EMPTY).model_dump_json())
    if parts == "broken":
        (run.folder / FILE).write_text('{"schema_version": 1, "folds": [')
    empty = sections(find_analysis(run)[0])
    assert not any(section.tables or section.figures for section in empty)
    page = write_page(run.folder).read_text()
    assert page.count("<code>throughline analyze RUN</code>") >= len(empty)
    assert ("analysis.json cannot be used" in page) == (parts == "broken")
    assert str(run.folder.parent) not in page


def test_what_training_reached_stands_in_numbers(analysis: Analysis) -> None:
    table = optimisation_table(analysis.of_folds("curves"), analysis.scope)
    assert table is not None
    rows = {row[:2]: row[2:] for row in table.rows}
    # every unit's label loss falls from 2 at step 5 to 1 at step 10; a probability was logged at step 5 only
    assert rows["loss, nats: label", "mtct"] == ("2.000 at 5", "1.000 at 10", "1.000 at 10")
    assert rows["class probability: label", "cls"] == ("0.250 at 5", "0.250 at 5", "0.250 at 5")
    assert {method for _, method in rows}.isdisjoint({"zero_shot"})


def test_an_analysis_of_other_units_is_told(make_run: Callable[..., FakeRun]) -> None:
    run = small(make_run)
    stale = full_analysis(run).model_dump_json().replace("cls-sketch-0", "cls-sketch-9")
    (run.folder / FILE).write_text(stale)
    _, notes = find_analysis(run)
    assert notes[0].startswith("analysis.json has units that this run no longer has (cls-sketch-9")


def test_one_fold_has_its_interval_and_several_their_standard_error() -> None:
    one = Interval(mean=0.5, low=0.25, high=0.75)
    assert averaged([one], 1, 100) == "50.0 (25.0 to 75.0)"
    assert averaged([one, replace(one, mean=0.7)], 1, 100) == "60.0 ± 7.1"  # numpy's std over sqrt(2)
    assert averaged([]) == "X"


def test_probabilities_are_averaged_over_folds(analysis: Analysis) -> None:
    tables = probability_tables(analysis.of_folds("buckets"), analysis.of_folds("moved"), analysis.scope)
    assert len(tables) == 3
    rows = by_name(tables[0])
    assert list(rows) == ["base", "cls", "reasoning", "mtct", "sarr round 1", "sarr round 2", "mtct_sarr round 1",
                          "mtct_sarr round 2"]  # fmt: skip
    # two targets, three seeds: 40 tokens each, above 0.75: 70, 80, 90 %
    assert rows["cls"][:3] == ("240", "10.0 ± 0.0", "80.0 ± 3.3")
    assert rows["cls"][-1].startswith("+50.0 ± ") and rows["base"][-1] == "X"
    assert DRAWN_NOTE in tables[0].notes


def test_the_papers_figures_stand_beside_ours(analysis: Analysis) -> None:
    table = beside_the_paper(analysis.folds, analysis.scope)
    assert table is not None
    rows = by_name(table)
    label = rows["class tokens, low to high, training on labels, points"]
    assert label[:2] == ("+43.38", "cls") and label[2].startswith("+50.0")
    own = rows["class tokens, low to high, training on own chains, points"]
    assert own[:2] == ("+29.74", "sarr") and own[-1].startswith("+50.0")
    assert "not comparable" in table.notes[0] and "InternVL3-8B" in table.notes[0]


def test_tokens_show_their_blanks(analysis: Analysis) -> None:
    fold = analysis.folds[0]
    assert top_tokens(fold.name, fold.entropy[0]).rows == (("␣sky⏎", "7", "2.50", "0.25", "2.25"),)


def test_divergence_gives_what_chance_gives_and_the_published_means(analysis: Analysis) -> None:
    table = divergence_table(analysis.divergence, analysis.scope)
    assert table is not None
    assert by_name(table)["images"][2:] == ("0.200", "0.050", "1 of 1")
    assert "0.239" in " ".join(table.notes) and "0.099" in " ".join(table.notes)


def test_variants_have_a_column_for_each_state(analysis: Analysis) -> None:
    accuracy, lost, probability = variant_tables(analysis.of_folds("variants"), analysis.scope)
    assert [row[0] for row in lost.rows] == ["image blanked"] and lost.rows[0][2] == "12.5 ± 0.0"
    assert accuracy.columns[2:] == ("base", "mtct_sarr round 2")
    assert by_name(accuracy)["image blanked"] == ("image", "50.0 ± 0.0", "50.0 ± 0.0")
    assert by_name(probability)["whole chain"][1] == "37.5 ± 0.0"


def test_figures_hold_the_numbers_that_they_draw(analysis: Analysis) -> None:
    histogram = probability_figures(analysis.of_folds("buckets"))[0]
    drawn = [row for row in histogram.rows if row[0] == "mtct_sarr round 2"]
    assert [row[3] for row in drawn] == [6] * 19 + [6 * 21]  # six folds
    curves = optimisation_figure(analysis.of_folds("curves"))
    assert curves is not None
    assert ("class_probability", "label", "cls", 5, 0.25) in curves.rows, "steps that nobody logged are left out"
    assert ("losses", "label", "mtct_sarr", 10, 1.0) in curves.rows
    mismatches = analysis.of_folds("mismatch")
    chosen = State(method="mtct_sarr", unit="u", round=None)
    mismatches = [*mismatches, *(record.model_copy(update={"state": chosen}) for record in mismatches)]
    rounds = perplexity_figure(mismatches, analysis.scope)
    assert rounds is not None
    drawn = [row for row in rounds.rows if row[:2] == ("mtct_sarr", "self")]
    assert [row[2:4] for row in drawn] == [(-1, 4.0), (0, 4.0), (1, 3.0), (2, 2.0)]


def test_shaded_chains_travel_as_data(analysed: Run) -> None:
    page = page_of(analysed)
    assert HOSTILE not in page and "\u2028" not in page
    blocks = [json.loads(block) for block in re.findall(r'type="application/json">(.*?)</script', page, re.DOTALL)]
    [fold] = next(block for block in blocks if isinstance(block, list))
    assert fold["name"] == "sketch, seed 0" and len(fold["chains"]) == 4
    assert fold["chains"][0]["tokens"][2] == [HOSTILE, 0.0625, 0.1875]
    assert shaded_data(None) is None and shaded_data(full_analysis(analysed).model_copy(update=EMPTY)) is None


def test_the_verb_tells_means_over_folds(analysis: Analysis) -> None:
    said = summary_of(analysis).splitlines()
    assert any(line.startswith("class tokens alone above 0.75, cls − base: +50.0 ± ") for line in said)
    assert "rounds, mtct_sarr, label path: 0: 50.0 %, 1: 50.0 %" in said
    assert "Mean ± standard error over 6 folds (targets and seeds)." in said
    assert len(said) < 40  # it is read in a terminal
    assert summary_of(analysis.model_copy(update=EMPTY)) == "nothing was measured"
