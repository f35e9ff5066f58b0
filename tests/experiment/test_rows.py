"""Each unit's row stands on the screen as soon as it is measured, with the numbers of results.jsonl, and only there."""

import io
import json
import re
import shutil

import pytest
from rich.console import Console
from rich.progress import Progress as Bar
from tests.experiment.fake_executor import EXECUTORS, notes

from throughline.cli.main import main
from throughline.cli.progress import RunProgress
from throughline.core.files import read_json_lines
from throughline.experiment.config_files import load_config
from throughline.experiment.run import run_experiment

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("teacher", "forked_workers", "undrawn")]
METHODS = "methods=zero_shot,cls,mtct,mtct_sarr"
ROW = re.compile(
    r"^(?P<names>.*)   label (?P<share>[ \d.]{5})   \(100 images, chance 50\.0\)(?P<left>  about .* left)?$"
)


@pytest.fixture
def command(config_file, tmp_path, monkeypatch, capsys):
    """The verb's exit code, stdout and stderr."""
    monkeypatch.setitem(run_experiment.__kwdefaults__, "executors", EXECUTORS)

    def command(*overrides, options=()):
        settings = [word for override in overrides for word in ("--set", override)]
        code = main(["run", str(config_file), "--out", str(tmp_path / "run"), *settings, *options])
        return code, *capsys.readouterr()

    return command


def rows_of(screen):
    return [match for match in map(ROW.match, screen.splitlines()) if match]


def expected(folder):
    """Names → accuracy in percent, by hand from the file."""
    return {
        (*row["targets"], row["method"], *(f"{k}={v}" for k, v in row["factors"].items()), f"seed {row['seed']}"): (
            100 * row["correct"] / row["n"]
        )
        for row in read_json_lines(folder / "results.jsonl")
        if row["split"] == "all"
    }


def said(rows):
    return {tuple(re.split(r"\s{2,}", row["names"].strip())): float(row["share"]) for row in rows}


@pytest.mark.parametrize("workers", [1, 2])
def test_every_unit_has_a_row_in_the_order_of_measurement_with_the_numbers_of_the_results(command, tmp_path, workers):
    code, printed, screen = command(METHODS, "seeds=[0,10]", options=("--workers", str(workers)))
    rows = rows_of(screen)
    assert code == 0 and len(rows) == 8
    assert said(rows) == expected(tmp_path / "run")
    assert not rows_of(printed)
    ended = [slug for what, slug, _ in notes(tmp_path / "run") if what == "end"]
    order = ["-".join(names).replace("seed ", "seed") for names in said(rows)]
    assert sorted(order) == sorted(ended)
    if workers == 1:  # which of two units ends first is chance
        assert order == ended
        assert order[0] == "sketch-zero_shot-seed0", "it needs no training"
    assert len({row.start("share") for row in rows}) == 1
    assert rows[0]["left"] is not None
    assert rows[-1]["left"] is None


def test_with_json_stdout_is_json_alone(command, tmp_path):
    _, printed, screen = command(METHODS, options=("--json",))
    shown = json.loads(printed)
    assert shown["results"] == read_json_lines(tmp_path / "run" / "results.jsonl")
    assert said(rows_of(screen)) == expected(tmp_path / "run")


def test_a_resumed_run_shows_what_is_done_once_and_first(command, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_DIVERGES", "cls")
    code, _, screen = command(METHODS)
    before = list(said(rows_of(screen)))
    assert code == 1 and [names[1] for names in before] == ["zero_shot", "mtct", "mtct_sarr"]
    monkeypatch.delenv("FAKE_DIVERGES")
    code, _, screen = command(METHODS)
    rows = rows_of(screen)
    assert code == 0 and list(said(rows)) == [*before, ("sketch", "cls", "seed 0")]
    assert len(rows) == 4 and not any(row["left"] for row in rows)
    assert screen.index("mtct_sarr") < screen.index("3 of 4 units done") < screen.index("sketch  cls")


def test_a_row_names_targets_factors_and_image_sets_where_they_differ(command, tmp_path, images):
    factors = "factors={wording: {short: {questions.label: null}, plain: {}}}"
    shutil.copytree(images, tmp_path / "others")
    (tmp_path / "others" / "photo" / "cat" / "0.png").write_bytes(b"another picture")
    more = f"more_data=[{{images: {tmp_path / 'others'}}}]"
    code, _, screen = command("methods=zero_shot,cls", "data.targets=all", "data.name=ours", factors, more)
    rows = rows_of(screen)
    assert code == 0
    names = set(said(rows))
    assert len(rows) == len(names) == 2 * 3 * 2 * 2 and len({row.start("share") for row in rows}) == 1
    assert {name[0] for name in names} == {"ours", "others"}
    assert {name[1] for name in names} == {"photo", "real world", "sketch"}
    assert {name[3] for name in names} == {"wording=short", "wording=plain"}


def test_in_a_terminal_the_rows_stand_above_the_bar_word_for_word(config_file, tmp_path):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=60)
    with Bar(console=console, transient=True) as bar:
        reporter = RunProgress(bar)
        config = load_config(str(config_file), [METHODS])
        run_experiment(config, tmp_path / "run", executors=EXECUTORS, on_progress=reporter.report_units)
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]|\r", "\n", screen.getvalue())
    assert said(rows_of(plain)) == expected(tmp_path / "run")
