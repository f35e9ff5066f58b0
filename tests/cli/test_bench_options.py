"""The options of `bench score`, `sample`, `evaluate` and `input` reach their measurements."""

import pytest

from throughline.benchmarks.evaluating import EvaluateSettings
from throughline.benchmarks.input import InputSettings
from throughline.benchmarks.sampling import SampleSettings
from throughline.benchmarks.score import ScoreSettings
from throughline.benchmarks.timing import compare
from throughline.cli.main import main

GIVEN = {
    "score": (
        ["--geometry", "pocket", "--classes", "65,345", "--images", "1", "--trials", "2", "--threads", "1"],
        ScoreSettings(("pocket",), (65, 345), (1,), trials=2, threads=1),
        ScoreSettings(),
    ),
    "sample": (
        ["--geometry", "bench-40m", "--geometry", "bench-40m", "--trials", "2", "--threads", "1"],
        SampleSettings(("bench-40m",), trials=2, threads=1),
        SampleSettings(),
    ),
    "evaluate": (
        ["--images", "10", "--trials", "1", "--threads", "2"],
        EvaluateSettings(images=10, trials=1, threads=2),
        EvaluateSettings(),
    ),
    "input": (
        ["--images", "10", "--pixels", "64", "--trials", "1", "--threads", "2", "--ablate", "pixel cache"],
        InputSettings(images=10, pixels=64, trials=1, threads=2, ablate=("pixel cache",)),
        InputSettings(),
    ),
}
FILES = {"score": "score", "sample": "sampling", "evaluate": "evaluating", "input": "input"}


@pytest.mark.parametrize("name", GIVEN)
def test_options_and_defaults_reach_the_measurement(name, monkeypatch, capsys):
    asked = []

    def measure(settings, told):
        asked.append(settings)
        return [compare(f"{name} x", "plain", [1.0], [2.0], None, {})]

    monkeypatch.setattr(f"throughline.benchmarks.{FILES[name]}.measure_{name}", measure)
    options, *expected = GIVEN[name]
    assert main(["bench", name, *options, "--json"]) == 0
    assert main(["bench", name]) == 0
    assert asked == expected
    assert "2.00" in capsys.readouterr().out
