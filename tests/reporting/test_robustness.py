"""The shift map, robustness under views, what changed, and published numbers, against plain numpy and scikit-learn over
the same answers."""

import base64
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from tests.reporting.asked import CLASSES, DOMAINS, Right, labels_of, write_asked
from tests.reporting.conftest import FakeRun

from throughline.core.files import read_json_lines, write_json_lines
from throughline.core.table import Table
from throughline.domains.folders import read_images
from throughline.domains.images import image_bytes
from throughline.domains.views import View, load_sample, view_of
from throughline.reporting.confidence import confidence_table, confidences
from throughline.reporting.estimates import summarise
from throughline.reporting.gallery import LOST, WON, changed_answers
from throughline.reporting.groups import Group, groups
from throughline.reporting.page import write_page
from throughline.reporting.probes import probe_figure
from throughline.reporting.published import published_shift
from throughline.reporting.robustness import robustness_tables, shift_figures, shift_tables
from throughline.runs.reader import read_run

VIEWS = ("clean", "fog-1", "fog-5", "contrast-3")
RATES = {
    (model, level): rate * fall
    for model, rate in (("smol", 0.9), ("a-model", 0.7))
    for level, fall in zip(VIEWS, (1, 0.7, 0.4, 0.5), strict=True)
}


def asked_groups(folder: Path) -> tuple[Group, ...]:
    return groups(read_run(folder))


def cells_of(table: Table) -> dict[str, dict[str, str]]:
    """By row, then by column."""
    return {row[0]: dict(zip(table.columns[1:], row[1:], strict=True)) for row in table.rows}


def number(cell: str) -> float:
    return float(cell.split(maxsplit=1)[0])


def test_the_shift_map_has_each_domain_of_each_model(tmp_path: Path) -> None:
    right = write_asked(tmp_path, {("smol", "x"): 0.9, ("a-model", "x"): 0.6}, factor="", answers=("label",))
    accuracy, balanced, apart = shift_tables(asked_groups(tmp_path))
    assert accuracy.columns == ("domain", "smol", "a-model")  # the config's first before the others
    cells = cells_of(accuracy)
    for model in accuracy.columns[1:]:
        shares = {domain: 100 * right[model, "x", domain].mean() for domain in DOMAINS}
        for domain, share in shares.items():
            cell = cells[f"photos · {domain}"][model]
            assert number(cell) == pytest.approx(share, abs=0.051)
            assert cell.endswith(" *") == (share == min(shares.values()))
            low, high = (float(end) for end in cell.split("(")[1].split(")")[0].split(" to "))
            hits = right[model, "x", domain]
            drawn = np.random.default_rng(5).choice(hits, size=(4000, len(hits))).mean(axis=1)
            assert (low, high) == pytest.approx(tuple(100 * np.quantile(drawn, (0.025, 0.975))), abs=2.6)
        assert number(cells["photos · mean"][model]) == pytest.approx(np.mean(list(shares.values())), abs=0.051)
        assert cells["photos · chance"][model] == "33.3" and cells["photos · most frequent class"][model] == "50.0"
    for model, own in ((name, cells_of(balanced)) for name in balanced.columns[1:]):
        for domain in DOMAINS:
            labels, hits = np.array(labels_of(40)), right[model, "x", domain]
            given = np.where(hits, labels, "none of them")
            with pytest.warns(UserWarning, match="not in y_true"):
                expected = 100 * balanced_accuracy_score(labels, given)
            assert number(own[f"photos · {domain}"][model]) == pytest.approx(expected, abs=0.051)
    gap = 100 * np.mean([right["a-model", "x", own].mean() - right["smol", "x", own].mean() for own in DOMAINS])
    assert apart.columns == ("method", "a-model") and number(apart.rows[0][1]) == pytest.approx(gap, abs=0.051)
    (plot,) = shift_figures(asked_groups(tmp_path))
    assert np.array(plot.panels[0].heat) == pytest.approx(
        np.array([[right[model, "x", domain].mean() for model in ("smol", "a-model")] for domain in DOMAINS])
    )


def test_balanced_accuracy_is_not_repeated_where_it_is_the_accuracy(tmp_path: Path) -> None:
    write_asked(tmp_path, {("smol", "x"): 1.0}, factor="", answers=("label",))
    lines = read_json_lines(tmp_path / "results.jsonl")
    even = [{**line, "metrics": {"balanced_accuracy": line["accuracy"]}} for line in lines]
    write_json_lines(tmp_path / "results.jsonl", even)
    assert [table.title for table in shift_tables(asked_groups(tmp_path))] == ["Domains and models · label path"]


def test_wordings_are_columns_and_views_are_not(tmp_path: Path) -> None:
    write_asked(tmp_path / "worded", {("m", "ours"): 0.9, ("m", "paper"): 0.5}, factor="prompt", answers=("label",))
    first, *_ = shift_tables(asked_groups(tmp_path / "worded"))
    assert first.columns == ("domain", "m, prompt=ours", "m, prompt=paper")
    write_asked(tmp_path / "viewed", RATES, answers=("label",))
    first, *others = shift_tables(asked_groups(tmp_path / "viewed"))
    assert first.columns == ("domain", "smol", "a-model")
    assert not any("difference" in table.title for table in others)  # of all views they would be a table of tables


def test_without_predictions_there_is_nothing_to_show(tmp_path: Path) -> None:
    write_asked(tmp_path, RATES)
    for path in (tmp_path / "units").glob("*/predictions.jsonl"):
        path.unlink()
    every = asked_groups(tmp_path)
    assert shift_tables(every) == [] and shift_figures(every) == () and robustness_tables(every) == ()
    assert changed_answers(every[0], "label", None) == ()


def test_a_run_that_trains_has_no_shift_map(fake_run: FakeRun) -> None:
    every = asked_groups(fake_run.folder)
    assert shift_tables(every) == [] and shift_figures(every) == () and robustness_tables(every) == ()


def wrong(right: Right, model: str, level: str) -> float:
    """The error, mean over the domains."""
    return 1 - float(np.mean([right[model, level, domain].mean() for domain in DOMAINS]))


def test_robustness_is_that_of_hendrycks_and_dietterich(tmp_path: Path) -> None:
    right = write_asked(tmp_path, RATES, images=400, answers=("label",))
    (table,) = robustness_tables(asked_groups(tmp_path))
    assert table.columns == ("model", "kind", "error", "relative robustness", "CE", "relative CE")
    rows = {row[:2]: [number(cell) for cell in row[2:]] for row in table.rows}
    kinds = {"fog": ("fog-1", "fog-5"), "contrast": ("contrast-3",)}
    for model in ("smol", "a-model"):
        expected = []
        for kind, levels in kinds.items():
            errors, theirs = ([wrong(right, name, level) for level in levels] for name in (model, "smol"))
            clean, their_clean = (wrong(right, name, "clean") for name in (model, "smol"))
            relative = sum(e - clean for e in errors) / sum(e - their_clean for e in theirs)
            robust = (1 - np.mean(errors)) / (1 - clean)
            expected.append([100 * x for x in (np.mean(errors), robust, sum(errors) / sum(theirs), relative)])
            assert rows[model, kind] == pytest.approx(expected[-1], abs=0.06)
        assert rows[model, "all kinds"] == pytest.approx(np.mean(expected, axis=0), abs=0.06)
    assert any("beside those of smol" in note for note in table.notes)


def test_a_view_that_one_model_lacks_counts_for_none(tmp_path: Path) -> None:
    right = write_asked(tmp_path, RATES, images=200, answers=("label",))
    lines = [
        line
        for line in read_json_lines(tmp_path / "results.jsonl")
        if (line["model"], line["factors"]["view"], line["targets"]) != ("a-model", "fog-5", ["photo"])
    ]
    write_json_lines(tmp_path / "results.jsonl", lines)
    (table,) = robustness_tables(asked_groups(tmp_path))
    rows = {row[:2]: row[2:] for row in table.rows}
    assert number(rows["smol", "fog"][0]) == pytest.approx(100 * wrong(right, "smol", "fog-1"), abs=0.051)


def test_one_model_has_what_needs_no_other(tmp_path: Path) -> None:
    write_asked(tmp_path, {place: rate for place, rate in RATES.items() if place[0] == "smol"}, answers=("label",))
    (table,) = robustness_tables(asked_groups(tmp_path))
    assert table.columns == ("model", "kind", "error", "relative robustness") and len(table.notes) == 1


def test_every_level_has_its_calibration_error(tmp_path: Path) -> None:
    write_asked(tmp_path, {place: rate for place, rate in RATES.items() if place[0] == "smol"}, images=100)
    (group,) = asked_groups(tmp_path)
    table = confidence_table(confidences(group))
    assert table is not None
    shown = {row[1]: float(row[3]) for row in table.rows}
    assert list(table.columns[:4]) == ["method", "view", "answers", "calibration error (ECE)"]
    for level in VIEWS:
        folders = [u.folder for u in group.run.units.values() if u.unit.factors["view"] == level]
        said = [row for folder in folders for row in read_json_lines(folder / "predictions.jsonl")]
        sure = [(max(r["probabilities"]), r["predicted"] in r["labels"]) for r in said if "probabilities" in r]
        bins: dict[int, list[float]] = {}
        for confidence, correct in sure:
            bins.setdefault(int(np.ceil(confidence * 15)), []).append(confidence - correct)
        assert shown[level] == pytest.approx(100 * sum(abs(sum(own)) for own in bins.values()) / len(sure), abs=0.051)


def test_what_changed_is_shown_as_it_was_shown(tmp_path: Path) -> None:
    levels = {"clean": 0.8, "occlusion_grey-0.5": 0.4, "vertical_lines-3": 0.5}
    rates = {("smol", level): rate for level, rate in levels.items()}
    right = write_asked(tmp_path / "run", rates, images=60, pictures=tmp_path / "images")
    (group,) = asked_groups(tmp_path / "run")
    rows = changed_answers(group, "likelihood", tmp_path / "images")
    assert len(rows) == LOST + WON == len({row.sample_id for row in rows})
    assert [row.correct_after for row in rows] == [False] * LOST + [True] * WON
    samples = read_images(tmp_path / "images").by_id
    for row in rows:
        place = int(Path(row.sample_id).stem)
        assert right["smol", "clean", row.domain][place] == row.correct_before != row.correct_after
        assert right["smol", row.shown, row.domain][place] == row.correct_after
        assert row.predicted_after in CLASSES and 0.4 <= row.confidence_after <= 1
        kind, _, severity = row.shown.rpartition("-")
        for picture, view in zip(row.pictures, (None, View(kind, float(severity))), strict=True):
            sample = samples[row.sample_id]
            drawn = load_sample(sample if view is None else view_of(sample, view))
            assert base64.b64decode(picture.partition(",")[2]) == image_bytes(drawn, jpeg_quality=82)
        assert row.pictures[0] != row.pictures[1]
    (again,) = asked_groups(tmp_path / "run")
    assert [row[1:] for row in changed_answers(again, "likelihood", tmp_path / "images")] == [row[1:] for row in rows]
    assert {row.pictures for row in changed_answers(group, "likelihood", None)} == {(None, None)}


def test_without_the_images_as_they_are_nothing_changed(tmp_path: Path) -> None:
    write_asked(tmp_path, {("smol", "fog-1"): 0.9, ("smol", "fog-5"): 0.5})
    every = asked_groups(tmp_path)
    assert changed_answers(every[0], "label", None) == () and robustness_tables(every) == ()


def test_without_views_nothing_changed(tmp_path: Path) -> None:
    write_asked(tmp_path, {("smol", "ours"): 0.9, ("smol", "paper"): 0.5}, factor="prompt")
    (group,) = asked_groups(tmp_path)
    assert changed_answers(group, "label", None) == () and robustness_tables([group]) == ()


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("PACS", ("GPT-4V", "zero-shot", "96.9", "arXiv 2402.06599 [secondary]")),
        ("office_home", ("CLIP ViT-B/16", "zero-shot, 1,800 random images", "77.8", "arXiv 2312.07424")),
        ("domain_net", ("Gemini", "zero-shot, 1,800 random images", "75.4, of 1,611 answered", "arXiv 2312.07424")),
        ("iwildcam_v2.0_processed", ("LLaVA", "zero-shot", "5.4", "arXiv 2402.06599 [secondary]")),
        ("NIH-Chest", ("GPT-4V", "zero-shot, 1,800 random images", "8.4, of 535 answered", "arXiv 2312.07424")),
        ("drugood_assay", ("Gemini", "zero-shot", "52.2", "arXiv 2402.06599 [secondary]")),
        ("CT-Xcov", ("GPT-4V", "two classes, 8 examples", "44.3", "arXiv 2402.06599 [secondary]")),
    ],
)
def test_published_numbers_stand_beside_ours_under_the_data_sets_name(
    name: str, row: tuple[str, ...], tmp_path: Path
) -> None:
    right = write_asked(tmp_path, {("smol", "clean"): 0.9, ("smol", "fog-5"): 0.2}, dataset=name, answers=("label",))
    (group,) = asked_groups(tmp_path)
    table = published_shift(group, {"label": summarise(group, "all", "label")})
    assert table is not None and row in table.rows and "not measured by us" in table.notes[0]
    ours = [own for own in table.rows if own[0] == "here: smol"]
    assert len(ours) == 1 and number(ours[0][2]) == pytest.approx(100 * (1 - wrong(right, "smol", "clean")), abs=0.051)


def test_other_data_sets_have_no_published_numbers(tmp_path: Path) -> None:
    write_asked(tmp_path, {("smol", "clean"): 0.9, ("smol", "fog-5"): 0.2}, dataset="my_pacs", answers=("label",))
    (group,) = asked_groups(tmp_path)
    assert published_shift(group, {"label": summarise(group, "all", "label")}) is None


def test_answers_are_level_lines_beside_the_probes(tmp_path: Path) -> None:
    right = write_asked(tmp_path, {("smol", "x"): 0.9}, factor="")
    lines = read_json_lines(tmp_path / "results.jsonl")
    points = {"tower": 0.9, "projector": 0.8, "layer 0, image": 0.7, "layer 0, last": 0.6}
    for line in [line for line in lines if line["answer"] == "label"]:
        probe = {**line, "method": "probe"}
        lines += [{**probe, "answer": f"probe: {name}", "accuracy": share} for name, share in points.items()]
    write_json_lines(tmp_path / "results.jsonl", lines)
    (group,) = asked_groups(tmp_path)
    plot = probe_figure(group)
    assert plot is not None
    image, last = plot.panels
    assert list(image.series[0].y) == pytest.approx([90, 80, 70]) and list(last.series[0].y) == pytest.approx(
        [90, 80, 60]
    )
    share = 100 * (1 - wrong(right, "smol", "x"))
    for panel in plot.panels:
        assert [own.name for own in panel.series[1:]] == ["zero_shot, label path", "zero_shot, likelihood path"]
        for own in panel.series[1:]:
            assert list(own.y) == pytest.approx([share, share]) and list(own.x) == [0, 2]


@pytest.mark.slow
def test_the_page_has_map_robustness_and_changes(tmp_path: Path) -> None:
    rates = {("smol", level): 0.5 for level in ("clean", "occlusion_grey-0.5")}
    write_asked(tmp_path / "run", rates, pictures=tmp_path / "images")
    page = write_page(tmp_path / "run", tmp_path / "images")
    text = page.read_text()
    assert "Domains and models · label path" in text and (page.parent / "figures" / "shift-map.csv").is_file()
    assert "relative robustness" in text and "answers that changed on the likelihood path" in text
    assert text.count('class="card changed"') <= LOST + WON
    changed = text[text.index("answers that changed") :]
    assert changed.count("data:image/jpeg") >= 2 * text.count('class="card changed"')
