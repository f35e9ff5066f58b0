"""`throughline bench`: options come from the settings and reach the measurement; rows are JSON or a table."""

import importlib
import json
import re
from typing import get_args

import pytest
import torch

from throughline.benchmarks.settings import (
    BENCHES,
    BenchSettings,
    Geometry,
    MemorySettings,
    SampleSettings,
    ScoreSettings,
    StepSettings,
)
from throughline.benchmarks.timing import compare
from throughline.cli import bench
from throughline.cli.main import main
from throughline.cli.parser import Parser
from throughline.mllm.geometries import GEOMETRIES


@pytest.fixture
def measured(monkeypatch) -> list[BenchSettings]:
    """Puts measurements in place that only note their settings."""
    noted: list[BenchSettings] = []

    def measure(settings, on_progress):
        noted.append(settings)
        on_progress("something")
        sizes = settings.classes if isinstance(settings.classes, tuple) else (settings.classes,)
        return [
            compare(f"{name}, {size} classes", "a rival", [1.0], [1.5], {"classes": size, "batch": 4}, 1.6)
            for name in settings.geometry
            for size in sizes
        ]

    for name in BENCHES:
        monkeypatch.setattr(importlib.import_module(f"throughline.benchmarks.{name}"), "measure", measure)
    return noted


def test_json_is_alone_on_stdout(measured, capsys):
    assert main(["bench", "step", "--json"]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [row["name"] for row in rows] == [
        f"{name}, {size} classes" for name in ("pocket", "bench-40m") for size in (7, 65)
    ]
    keys = {"name", "rival", "ours_value", "rival_value", "unit", "ratio", "predicted_ratio", "settings"}
    assert keys <= set(rows[0])
    assert printed.err == "measuring something\n"


def test_the_table_shows_times_ratio_and_the_share_of_the_prediction(measured, capsys):
    assert main(["bench", "step", "--geometry", "pocket", "--classes", "65"]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("pocket, 65 classes", "1.50", "1.60", "94%", "batch 4"))


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("step", "", StepSettings()),
        (
            "step",
            "--geometry pocket --classes 7,65 --trials 2 --batch 3 --threads 1",
            StepSettings(geometry=("pocket",), classes=(7, 65), trials=2, batch=3, threads=1),
        ),
        ("step", "--tiles 6 --ablate", StepSettings(tiles=(6,), ablate=("all",))),
        ("memory", "", MemorySettings()),
        (
            "memory",
            "--geometry pocket --classes 7 --tiles 6 --batch 2 --threads 1",
            MemorySettings(geometry=("pocket",), classes=(7,), tiles=6, batch=2, threads=1),
        ),
        ("score", "", ScoreSettings()),
        (
            "score",
            "--classes 65,345 --images 1 --trials 2 --threads 1 --ablate layouts",
            ScoreSettings(classes=(65, 345), images=(1,), trials=2, threads=1, ablate=("layouts",)),
        ),
        ("sample", "", SampleSettings()),
        (
            "sample",
            "--geometry bench-40m --trials 2 --threads 1",
            SampleSettings(geometry=("bench-40m",), trials=2, threads=1),
        ),
    ],
)
def test_options_and_defaults_reach_the_measurement(measured, name, words, expected):
    assert main(["bench", name, *words.split()]) == 0
    assert measured == [expected]


def test_an_unknown_class_list_is_wrong_usage_in_one_line(capsys):
    assert main(["bench", "step", "--geometry", "pocket", "--classes", "8"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "no class list of 8 classes" in printed.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["step", "--classes", "seven"], "--classes: 'seven'"),
        (["step", "--classes", ","], "--classes: ','"),
        (["step", "--ablate", "speed"], "--ablate: .*'shared tokens'.*, not 'speed'"),
        (["step", "--trials", "0"], "--trials: '0', expected: greater than 0"),
        (["gpu", "--geometry", "none"], "--geometry: .*'none'.*internvl3-8b"),
        (["stepp"], r"did you mean step\?"),
    ],
)
def test_what_no_option_takes_is_wrong_usage_in_one_line(words, complaint, capsys):
    assert main(["bench", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert re.search(complaint, printed.err)


def test_summary_and_geometries_are_those_that_exist():
    assert {*get_args(Geometry), "internvl3-8b"} == set(GEOMETRIES)  # the last for a GPU's own benchmark


@pytest.mark.parametrize("name", ["step", "memory", "score", "sample"])
def test_the_help_names_every_ablation_and_no_other(name):
    parser = Parser()
    bench.add_options(parser, BENCHES[name])
    text = next(action.help or "" for action in parser._actions if action.dest == "ablate")
    everything = BENCHES[name].model_validate({"ablate": "all"}).ablations()
    assert f"({', '.join(everything)}; default: none)" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure for minutes")
def test_without_a_gpu_its_benchmark_is_one_line(capsys):
    assert main(["bench", "gpu"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "no CUDA device here" in printed.err
