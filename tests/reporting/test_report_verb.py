import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.reporting.conftest import FakeRun, write_run

from throughline.cli import report
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_json_lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    """One target and one seed; read only."""
    return write_run(tmp_path_factory.mktemp("small"), targets=("sketch",), seeds=(0,), size=10)


def parse(*words: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    report.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.mark.usefixtures("undrawn")
def test_it_prints_every_answer_path_and_writes_the_page(fake_run: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.run(parse(fake_run.folder, "--images", fake_run.images)) == 0
    printed = capsys.readouterr()
    for path in ("label", "reasoning", "likelihood"):
        assert f"{path} path · split in" in printed.out
    assert "difference from cls" in printed.out
    assert (fake_run.folder / "report" / "index.html").is_file()
    assert printed.err.startswith("report: ")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("form,sign", [("markdown", "| zero\\_shot |"), ("latex", "\\toprule")])
def test_stdout_is_the_table_alone_in_the_format_asked_for(
    small_run: FakeRun, capsys: pytest.CaptureFixture[str], form: str, sign: str
) -> None:
    report.run(
        parse(small_run.folder, "--format", form, "--split", "all", "--answer", "label", "--baseline", "zero_shot")
    )
    printed = capsys.readouterr().out
    assert sign in printed and "reasoning path" not in printed and "report:" not in printed


def test_another_measure_is_printed_without_differences_or_refused_where_there_is_none(
    make_run: Callable[..., FakeRun], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("throughline.reporting.page.write_page", lambda folder, images, out: folder)
    folder = make_run(methods=("zero_shot", "cls"), targets=("sketch",), seeds=(0,), size=10).folder
    report.run(parse(folder, "--measure", "balanced_accuracy", "--split", "all", "--answer", "label"))
    printed = capsys.readouterr().out
    assert "Balanced accuracy in percent" in printed and "difference from" not in printed
    rows = read_json_lines(folder / "results.jsonl")
    write_json_lines(folder / "results.jsonl", [row | {"metrics": {}} for row in rows])
    with pytest.raises(ThroughlineError, match="have no macro_f1"):
        report.run(parse(folder, "--measure", "macro_f1"))


@pytest.mark.parametrize(
    "words,what",
    [
        (["{tmp}/nowhere"], "no such run folder"),
        (["{tmp}"], "this is not a run folder"),
        (["{run}", "--baseline", "erm"], "no results of the method erm"),
        (["{run}", "--images", "{tmp}/nowhere"], "no such image folder"),
        (["{run}", "--images", "{tmp}/nowhere.csv"], "no such image folder or table"),
    ],
)
def test_wrong_input_ends_in_one_line(fake_run: FakeRun, tmp_path: Path, words: list[str], what: str) -> None:
    filled = [word.format(tmp=tmp_path, run=fake_run.folder) for word in words]
    with pytest.raises(ThroughlineError, match=what):
        report.run(parse(*filled))


def test_a_table_of_images_may_be_named(fake_run: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "set.csv"
    table.write_text("image,domain,label\n")
    given: list[Path] = []
    page = "throughline.reporting.page.write_page"
    monkeypatch.setattr(page, lambda folder, images, out: given.append(images) or folder)
    report.run(parse(fake_run.folder, "--images", table, "--split", "all", "--answer", "label"))
    assert given == [table]


def test_a_split_that_was_not_measured_names_those_that_were(make_run: Callable[..., FakeRun]) -> None:
    fake_run = make_run(methods=("cls",), seeds=(0,), targets=("sketch",))
    results = fake_run.folder / "results.jsonl"
    kept = [row for row in results.read_text().splitlines() if '"split":"all"' in row]
    results.write_text("\n".join(kept) + "\n")
    with pytest.raises(ThroughlineError, match="it has splits all"):
        report.run(parse(fake_run.folder, "--split", "out"))


def test_a_run_with_rounds_only_says_that_nothing_is_final(make_run: Callable[..., FakeRun]) -> None:
    fake_run = make_run(methods=("sarr",), seeds=(0,), targets=("sketch",))
    results = fake_run.folder / "results.jsonl"
    kept = [row for row in results.read_text().splitlines() if '"round":null' not in row]
    results.write_text("\n".join(kept) + "\n")
    with pytest.raises(ThroughlineError, match="no unit of this run has its final results yet"):
        report.run(parse(fake_run.folder))


def test_the_verb_loads_no_torch() -> None:
    code = (
        "import sys, throughline.cli.report, throughline.reporting.page, throughline.domains.images;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
