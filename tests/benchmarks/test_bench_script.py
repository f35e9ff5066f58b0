"""The benches under `bench/` take the options of their settings and print what `throughline bench` prints."""

import json

import pytest

from bench_script import run_bench
from classifiers import ClassifierSettings
from evaluate import EvaluateSettings
from input import InputSettings
from scale import ScaleSettings
from teacher import TeacherSettings
from throughline.benchmarks.settings import BenchSettings
from throughline.benchmarks.timing import BenchRow, OnProgress, compare
from throughline.core.errors import ThroughlineError


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], EvaluateSettings()),
        (["--images", "10", "--ablate", "leaving"], EvaluateSettings(images=10, ablate=("leaving",))),
        ([], InputSettings()),
        (["--pixels", "64", "--ablate", "reading ahead"], InputSettings(pixels=64, ablate=("reading ahead",))),
        (["--heads", "2", "--threads", "1"], ClassifierSettings(heads=2, threads=1)),
        (["--few", "40", "--many", "80", "--threads", "1"], ScaleSettings(few=40, many=80, threads=1)),
        (["--images", "100", "--trials", "1"], TeacherSettings(images=100, trials=1)),
    ],
)
def test_options_and_defaults_reach_the_measurement(
    words: list[str], expected: BenchSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    noted: list[BenchSettings] = []

    def measure(settings: BenchSettings, on_progress: OnProgress) -> list[BenchRow]:
        noted.append(settings)
        return [compare("a bench", "a rival", [1.0], [2.0], {})]

    assert run_bench(type(expected), measure, [*words, "--json"]) == 0
    assert noted == [expected]
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["rival"], row["ratio"]) == ("a bench", "a rival", 2.0)


def test_faults_are_one_line_and_an_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(settings: BenchSettings, on_progress: OnProgress) -> list[BenchRow]:
        raise ThroughlineError("no images", "here")

    assert run_bench(ScaleSettings, fails, []) == 1
    assert run_bench(ScaleSettings, fails, ["--few", "none"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "error: no images [here]" in lines[0] and "--few: " in lines[1]
