import json

import pytest
import torch

from throughline.benchmarks.ablations import EVALUATING, SAMPLING, SCORING, TRAINING
from throughline.benchmarks.input import INPUT
from throughline.benchmarks.memory import MemorySettings
from throughline.benchmarks.step import StepSettings
from throughline.benchmarks.timing import compare
from throughline.cli import bench
from throughline.cli.main import VERBS, main
from throughline.mllm.geometries import GEOMETRIES


def fake(monkeypatch):
    """Puts a measurement in place that only notes what it was asked for."""
    asked = []

    def measure(settings, told):
        asked.append(settings)
        told("something")
        return [
            compare(
                f"step {name}, {size} classes",
                "two separate sequences",
                [1.0],
                [1.5],
                1.6,
                {"classes": size, "batch": 4},
            )
            for name in settings.geometries
            for size in settings.classes
        ]

    monkeypatch.setattr("throughline.benchmarks.step.measure_step", measure)
    return asked


def test_json_is_alone_on_stdout(monkeypatch, capsys):
    fake(monkeypatch)
    assert main(["bench", "step", "--json"]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [row["name"] for row in rows] == [
        f"step {name}, {size} classes" for name in ("pocket", "bench-40m") for size in (7, 65)
    ]
    assert {"name", "rival", "ours_value", "rival_value", "unit", "ratio", "predicted_ratio", "settings"} <= set(
        rows[0]
    )
    assert printed.err == "measuring something\n"


def test_the_table_shows_times_ratio_and_the_share_of_the_prediction(monkeypatch, capsys):
    fake(monkeypatch)
    assert main(["bench", "step", "--geometry", "pocket", "--classes", "65"]) == 0
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("step pocket, 65 classes", "1.50", "1.60", "94%", "batch 4"))


def test_options_reach_the_measurement(monkeypatch):
    asked = fake(monkeypatch)
    options = ["--geometry", "pocket", "--classes", "7,65,7", "--trials", "2", "--batch", "3", "--threads", "1"]
    assert main(["bench", "step", *options]) == 0
    assert asked == [StepSettings(("pocket",), (7, 65), 2, 3, 1)]
    assert main(["bench", "step", "--tiles", "6"]) == 0
    assert asked[1] == StepSettings(tiles=(6,))


def test_options_reach_the_measurement_of_memory(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "throughline.benchmarks.memory.measure_memory", lambda settings, told: asked.append(settings) or []
    )
    assert main(["bench", "memory", "--json"]) == 0
    options = ["--geometry", "pocket", "--classes", "7", "--tiles", "6", "--batch", "2", "--threads", "1"]
    assert main(["bench", "memory", *options, "--json"]) == 0
    assert asked == [MemorySettings(), MemorySettings(("pocket",), (7,), 6, 2, 1, "cpu")]


def test_an_unknown_class_list_is_wrong_usage_in_one_line(capsys):
    assert main(["bench", "step", "--geometry", "pocket", "--classes", "8"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "no class list of 8 classes" in printed.err


def test_words_that_are_no_numbers_and_unknown_benchmarks_are_wrong_usage(capsys):
    assert main(["bench", "step", "--classes", "seven"]) == 2
    assert main(["bench", "step", "--classes", ","]) == 2
    assert main(["bench", "step", "--ablate=,"]) == 2
    assert main(["bench", "stepp"]) == 2
    assert "did you mean step?" in capsys.readouterr().err


def test_summary_and_geometries_are_those_that_exist():
    assert VERBS["bench"] == bench.SUMMARY
    parser = bench.argparse.ArgumentParser()
    bench.BENCHES["step"].add_options(parser)
    named = next(action.choices for action in parser._actions if action.dest == "geometry")
    assert set(named) == set(GEOMETRIES) - {"internvl3-8b"}  # for a GPU's own benchmark


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("step", TRAINING),
        ("memory", TRAINING),
        ("score", SCORING),
        ("sample", SAMPLING),
        ("evaluate", EVALUATING),
        ("input", INPUT),
    ],
)
def test_the_help_names_every_ablation_and_no_other(name, known):
    parser = bench.argparse.ArgumentParser()
    bench.BENCHES[name].add_options(parser)
    text = next(action.help for action in parser._actions if action.dest == "ablate")
    assert f"({', '.join(known)}; default: {'all' if name == 'input' else 'none'})" in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure for minutes")
def test_without_a_gpu_its_benchmark_is_one_line(capsys):
    assert main(["bench", "gpu"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "no CUDA device here" in printed.err
    assert main(["bench", "gpu", "--device", "cpu", "--geometry", "none"]) == 2


def test_sizes_reach_the_bench_of_scale(monkeypatch, capsys):
    asked = []

    def measure(settings, told):
        asked.append((settings.images, settings.threads))
        return [compare("scale pocket, check", "the same with 40 images", [1.0], [0.9], None, {"few": 40})]

    monkeypatch.setattr("throughline.benchmarks.scale.measure_scale", measure)
    assert main(["bench", "scale", "--few", "40", "--many", "80", "--threads", "1"]) == 0
    assert main(["bench", "scale", "--json"]) == 0
    assert asked == [((40, 80), 1), ((10_000, 100_000), None)]
    assert "scale pocket, check" in capsys.readouterr().out
