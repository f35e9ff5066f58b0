"""A store with chains for few images: what each method is trained on stands in the table, at the command line."""

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


def run_with(images_and_chains, out, *keys, options=()):
    images, chains = images_and_chains
    config = out.with_suffix(".yaml")
    config.write_text(f"data: {{images: {images}}}\nchains: {{journal: {chains}}}\n")
    words = [word for key in (*TRAINING, *EVALUATION, *keys) for word in ("--set", key)]
    return main(["run", str(config), "--out", str(out), *words, *options])


def marks_of(run):
    """Of each method the images, those with a chain, and the steps from the base."""
    marks = {}
    for path in run.glob("units/*/stage.json"):
        method = json.loads((path.parent / "unit.json").read_text())["method"]
        mark = json.loads(path.read_text())
        marks[method] = (mark["images"], mark["images_with_chain"], mark["cumulative_steps"])
    return dict(sorted(marks.items()))


def foretold(images_and_chains, out, capsys, *keys):
    """Of each method the images, those with a chain and the steps in a dry run's table; and its warnings."""
    assert run_with(images_and_chains, out, *keys, options=["--dry-run"]) == 0
    printed = capsys.readouterr()
    table = printed.out.partition("what each method is trained on")[2].partition("Images: ")[0]
    rows = [line.split() for line in table.splitlines()]
    return {row[0]: tuple(map(int, row[1:])) for row in rows if row and row[-1].isdigit()}, warnings_in(printed.err)


def warnings_in(text):
    return {line for line in text.splitlines() if line.startswith("warning: ") and "images" in line}


def test_a_dry_run_tells_the_images_of_each_method_before_anything_is_trained(images_and_chains, tmp_path, capsys):
    counts, warnings = foretold(images_and_chains, tmp_path / "run", capsys)
    (all_images, _, steps), (few, *_) = counts["cls"], counts["reasoning"]
    assert counts == {"cls": (all_images, 0, steps), "reasoning": (few, few, 1), "mtct": (all_images, few, steps)}
    assert 0 < few <= 6 < all_images
    cause = "the difference may come from the images"
    assert warnings == {
        f"warning: reasoning is trained on {few} images, others on {all_images}: {cause}",
        f"warning: mtct has chains for only {few} of its {all_images} images",
    }


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers", "undrawn")
def test_by_default_every_label_is_learnt_from_and_the_counts_are_told(images_and_chains, tmp_path, capsys):
    counts, warnings = foretold(images_and_chains, tmp_path / "run", capsys)
    assert run_with(images_and_chains, tmp_path / "run") == 0
    printed = capsys.readouterr()
    marks = marks_of(tmp_path / "run")
    all_images, few = marks["cls"][0], marks["reasoning"][0]
    assert {method: mark[:2] for method, mark in marks.items()} == {
        "cls": (all_images, 0),
        "reasoning": (few, few),
        "mtct": (all_images, few),
    }
    assert 0 < few <= 6 < all_images
    assert f"reasoning is trained on {few} images, others on {all_images}" in printed.err
    assert f"mtct has chains for only {few} of its {all_images} images" in printed.err
    assert "images" in printed.out
    assert counts == marks and warnings == warnings_in(printed.err)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers", "undrawn")
def test_shared_coverage_shows_all_methods_the_same_images(images_and_chains, tmp_path, capsys):
    shared = (
        "chains.coverage=shared",
        "methods=cls,mtct_sarr",
        "training.rounds=1",
        "training.self_labelling.max_new_tokens=8",
    )
    counts, warnings = foretold(images_and_chains, tmp_path / "run", capsys, *shared)
    assert run_with(images_and_chains, tmp_path / "run", *shared) == 0
    marks = marks_of(tmp_path / "run")
    few = marks["cls"][0]
    assert [mark[:2] for mark in marks.values()] == [(few, 0), (few, few), (few, few)]
    assert json.loads(next((tmp_path / "run").glob("units/*/rounds.jsonl")).read_text())["sampled"] == few
    assert "is trained on" not in capsys.readouterr().err and not warnings
    assert {name: counts[name] for name in ("cls", "mtct")} == {name: marks[name] for name in ("cls", "mtct")}


def test_shared_coverage_without_chains_is_one_line(tmp_path, capsys):
    keys = ["--set", "chains.coverage=shared", "--set", "chains.teacher=null", "--set", "methods=cls"]
    assert main(["run", "tiny", "--out", str(tmp_path / "run"), *keys]) == 1
    assert "coverage is shared, but there are no chains" in capsys.readouterr().err
