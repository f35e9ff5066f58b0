import argparse
import dataclasses
import json
import types
from pathlib import Path

import pytest

from throughline.cli import doctor
from throughline.cli.doctor import GB, LARGE_MODELS, Gpu, Library, Machine, Package

SMALL, LARGE = LARGE_MODELS
HERE = {model.checkpoint: "here" for model in LARGE_MODELS}


@pytest.fixture
def machine() -> Machine:
    return Machine(
        python=Package("python", ">=3.11", "3.11.7", True),
        packages=(Package("numpy", ">=2.2", "2.4.6", True),),
        torch=Library("2.15.0"),
        torch_cuda="13.2",
        torchvision=Library("0.29.2"),
        gpus=(Gpu("a GPU", 80 * GB, 79 * GB, True),),
        cores=2,
        memory=25 * GB,
        folder="here",
        folder_writable=True,
        folder_free=50 * GB,
        cache="cache",
        cache_free=50 * GB,
        browser=None,
        checkpoints=HERE,
    )


def run(*options: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return doctor.run(parser.parse_args(options))


def test_a_machine_with_everything_runs_everything(machine):
    assert doctor.judge_demo(machine).runs == "yes"
    assert [doctor.judge_large(machine, model).runs for model in LARGE_MODELS] == ["yes", "yes"]


def test_the_demo_needs_no_gpu(machine):
    machine = dataclasses.replace(machine, gpus=(), torch_cuda=None)
    assert doctor.judge_demo(machine).runs == "yes"
    assert doctor.judge_large(machine, SMALL).missing == ("torch 2.15.0 is not a CUDA build",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"python": Package("python", ">=3.12", "3.11.7", False)}, "Python 3.11.7 is not >=3.12"),
        ({"packages": (Package("numpy", ">=2.2", None, False),)}, "numpy is not installed (required: >=2.2)"),
        ({"packages": (Package("numpy", ">=2.2", "1.26", False),)}, "numpy 1.26 is not supported"),
        ({"torch": Library(None, "no libcudart")}, "torch does not load: no libcudart"),
        ({"torchvision": Library(None, "no nms")}, "torchvision does not load: no nms"),
        ({"memory": 2 * GB}, "2.0 GB of memory"),
        ({"folder_writable": False}, "not writable"),
        ({"folder_free": GB // 10}, "0.1 GB free"),
    ],
)
def test_what_keeps_the_demo_from_running_is_named(machine, change, words):
    job = doctor.judge_demo(dataclasses.replace(machine, **change))
    assert job.runs == "no"
    assert len(job.missing) == 1
    assert words in job.missing[0]


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ((), "no CUDA device"),
        ((Gpu("old", 32 * GB, 32 * GB, False),), "no GPU with bf16"),
        ((Gpu("small", 12 * GB, 12 * GB, True),), "small has 12.0 GB"),
        ((Gpu("busy", 80 * GB, 9 * GB, True),), "busy has 9.0 GB of 80.0 GB free"),
    ],
)
def test_a_gpu_that_does_not_do_is_named_with_its_reason(machine, gpus, words):
    job = doctor.judge_large(dataclasses.replace(machine, gpus=gpus), LARGE)
    assert job.runs == "no"
    assert len(job.missing) == 1
    assert words in job.missing[0]


def test_one_gpu_that_does_is_enough(machine):
    gpus = (Gpu("old", 32 * GB, 32 * GB, False), Gpu("small", 8 * GB, 8 * GB, True), *machine.gpus)
    assert doctor.judge_large(dataclasses.replace(machine, gpus=gpus), LARGE).runs == "yes"


def test_a_missing_checkpoint_is_a_download_where_the_disk_has_room_for_it(machine):
    absent = {SMALL.checkpoint: "here", LARGE.checkpoint: "in part"}
    machine = dataclasses.replace(machine, checkpoints=absent)
    assert doctor.judge_large(machine, SMALL).runs == "yes"
    job = doctor.judge_large(machine, LARGE)
    assert job.runs == "after download"
    assert "hf download OpenGVLab/InternVL3-8B-hf" in job.missing[0]
    assert doctor.judge_large(dataclasses.replace(machine, cache_free=3 * GB), LARGE).runs == "no"


def linear_layers(width, key_value, feed_forward, layers):
    """(in, out) of every adapted linear layer of a Qwen2.5 decoder and of InternViT-300M."""
    decoder = [(width, width)] * 2 + [(width, key_value)] * 2 + [(width, feed_forward)] * 3
    vision = [(1024, 1024)] * 4 + [(1024, 4096)] * 2
    return decoder * layers + vision * 24


@pytest.mark.parametrize(
    ("model", "layers"),
    [(SMALL, linear_layers(1536, 256, 8960, 28)), (LARGE, linear_layers(3584, 512, 18944, 28))],
)
def test_the_memory_estimate_adds_up_and_counts_the_adapter_of_rank_eight(machine, model, layers):
    assert model.adapter_parameters == pytest.approx(sum(8 * (a + b) for a, b in layers), rel=0.05)
    assert model.memory == model.weights + 16 * model.adapter_parameters + model.activations
    assert "estimate" in doctor.judge_large(machine, model).needs


def fill_cache(cache: Path, name: str, files: dict[str, str]) -> None:
    repository = cache / ("models--" + name.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    for file, text in files.items():
        (repository / "snapshots" / "abc" / file).write_text(text)


@pytest.mark.parametrize(
    ("files", "state"),
    [
        (None, "absent"),
        ({"config.json": "{}"}, "in part"),
        ({"config.json": "{}", "model.safetensors": ""}, "here"),
        ({"config.json": "{}", "model.safetensors.index.json": "INDEX", "a.safetensors": ""}, "in part"),
        (
            {"config.json": "{}", "model.safetensors.index.json": "INDEX"}
            | dict.fromkeys(["a.safetensors", "b.safetensors"], ""),
            "here",
        ),
    ],
)
def test_a_checkpoint_is_here_only_with_all_its_shards(tmp_path, files, state):
    index = json.dumps({"weight_map": {"one": "a.safetensors", "two": "b.safetensors"}})
    if files is not None:
        fill_cache(tmp_path, "some/model", {name: text.replace("INDEX", index) for name, text in files.items()})
    assert doctor.checkpoint_state("some/model", tmp_path) == state


def test_packages_are_compared_and_extras_left_out():
    lines = ["pytest>=1", "pytest<1", "no-such-package-here>=2", 'absent-extra; extra == "dev"', "numpy"]
    packages = doctor.compare_packages(lines)
    assert [(package.name, package.fits) for package in packages] == [
        ("pytest", True),
        ("pytest", False),
        ("no-such-package-here", False),
        ("numpy", True),
    ]
    assert packages[2].installed is None


def test_a_library_that_breaks_while_loading_is_a_fault_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise RuntimeError('operator\\n  does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor.import_library("broken_library") == (None, Library(None, "operator does not exist"))


def test_cuda_devices_are_read_from_torch(monkeypatch):
    class Device:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            cuda.current = self.index

        def __exit__(self, *_):
            cuda.current = None

    cuda = types.SimpleNamespace(
        current=None,
        device=Device,
        is_available=lambda: True,
        device_count=lambda: 2,
        mem_get_info=lambda: [(5, 8), (20, 24)][cuda.current],
        is_bf16_supported=lambda including_emulation: [False, True][cuda.current],
        get_device_name=lambda index: ["first", "second"][index],
    )
    torch = types.SimpleNamespace(cuda=cuda, version=types.SimpleNamespace(cuda="13.2"))
    monkeypatch.setattr(doctor, "import_library", lambda name: (torch, Library("2.15.0")))
    assert doctor.inspect_torch() == (
        Library("2.15.0"),
        "13.2",
        (Gpu("first", 8, 5, False), Gpu("second", 24, 20, True)),
    )


def test_this_machine_is_described_for_programs_and_readers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = run("--json")
    found = json.loads(capsys.readouterr().out)
    assert [job["name"] for job in found["jobs"]] == ["demo", "InternVL3-2B LoRA", "InternVL3-8B LoRA"]
    assert code == (0 if found["jobs"][0]["runs"] == "yes" else 1)
    assert all(package["fits"] for package in found["packages"])
    assert {"torch", "torchvision", "transformers"} <= {package["name"] for package in found["packages"]}
    assert run() == code
    page = capsys.readouterr().out
    assert found["torch"]["version"] in page
    assert "estimate" in page


def test_a_machine_that_cannot_run_the_demo_exits_with_one(machine, monkeypatch, capsys):
    broken = dataclasses.replace(machine, torch=Library(None, "no libcudart"), torch_cuda=None, gpus=())
    monkeypatch.setattr(doctor, "inspect_machine", lambda: broken)
    assert run() == 1
    page = capsys.readouterr().out
    assert "torch does not load: no libcudart" in page
    assert "InternVL3-8B LoRA" in page
