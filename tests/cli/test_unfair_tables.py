"""A store with chains for few images: what each method learns from stands in the table, at the command line."""

import json

import pytest

from throughline.cli.main import main

TRAINING = ("training.stage.epochs=1", "training.stage.batch=16", "training.stage.lr=1e-3")
EVALUATION = ("evaluation.answering.answers=likelihood", "methods=cls,reasoning,mtct", "data.targets=sketch")


@pytest.fixture(scope="module")
def images_and_chains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unfair")
    images, chains = folder / "images", folder / "chains"
    assert main(["data", "draw", str(images), "--per-class", "1", "--styles", "cartoon,photo,sketch"]) == 0
    build = ["chains", "build", str(images), "--teacher", "drawn", "--out", str(chains), "--limit", "6"]
    assert main(build) == 0
    return images, chains


def run_with(images_and_chains, out, *keys):
    images, chains = images_and_chains
    config = out.with_suffix(".yaml")
    config.write_text(f"data: {{images: {images}}}\nchains: {{journal: {chains}}}\n")
    words = [word for key in (*TRAINING, *EVALUATION, *keys) for word in ("--set", key)]
    return main(["run", str(config), "--out", str(out), *words])


def images_of(run):
    marks = {}
    for path in run.glob("units/*/stage.json"):
        method = json.loads((path.parent / "unit.json").read_text())["method"]
        mark = json.loads(path.read_text())
        marks[method] = (mark["images"], mark["images_with_chain"])
    return marks


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_by_default_every_label_is_learnt_from_and_the_counts_are_told(images_and_chains, tmp_path, capsys):
    assert run_with(images_and_chains, tmp_path / "run") == 0
    printed = capsys.readouterr()
    marks = images_of(tmp_path / "run")
    all_images, few = marks["cls"][0], marks["reasoning"][0]
    assert marks == {"cls": (all_images, 0), "reasoning": (few, few), "mtct": (all_images, few)}
    assert 0 < few <= 6 < all_images
    assert f"reasoning is trained on {few} images, others on {all_images}" in printed.err
    assert f"mtct has chains for only {few} of its {all_images} images" in printed.err
    assert "images" in printed.out


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_shared_coverage_shows_all_methods_the_same_images(images_and_chains, tmp_path, capsys):
    assert run_with(images_and_chains, tmp_path / "run", "chains.coverage=shared") == 0
    few = images_of(tmp_path / "run")["cls"][0]
    assert images_of(tmp_path / "run") == {"cls": (few, 0), "reasoning": (few, few), "mtct": (few, few)}
    assert "is trained on" not in capsys.readouterr().err


def test_shared_coverage_without_chains_is_one_line(tmp_path, capsys):
    keys = ["--set", "chains.coverage=shared", "--set", "chains.teacher=null", "--set", "methods=cls"]
    assert main(["run", "tiny", "--out", str(tmp_path / "run"), *keys]) == 1
    assert "coverage is shared, but there are no chains" in capsys.readouterr().err
