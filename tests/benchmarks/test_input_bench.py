"""`bench/input.py`: every side really does with or without its thing, and both compute the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import input as bench
from input import WAYS, InputSettings, InputWork, Recorded, measure, measure_pair, write_scenes
from throughline.benchmarks.workload import LORA, random_model, with_random_lora
from throughline.core.errors import ThroughlineError, UsageError
from throughline.domains.folders import read_images
from throughline.mllm.images import ImageReader

SMALL = InputSettings(images=8, pixels=96, trials=1, batch=4, micro_batch=2, threads=1)
FACTS = SMALL.model_dump()


@pytest.fixture(scope="module")
def mllm():
    bare = random_model("pocket")
    return replace(bare, model=with_random_lora(bare, LORA.model_copy(update={"dropout": 0.0})))


@pytest.fixture
def work(mllm, tmp_path: Path) -> InputWork:
    chains = write_scenes(tmp_path / "images", SMALL.images, SMALL.pixels)
    return InputWork(mllm, read_images(tmp_path / "images").samples, chains, tmp_path, SMALL)


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch):
    """The names of what ran."""
    seen: list[str] = []

    def note(owner, name):
        plain = getattr(owner, name)

        def noting(*args, **options):
            seen.append(name)
            return plain(*args, **options)

        monkeypatch.setattr(owner, name, noting)

    note(ImageReader, "expect")
    note(bench.PixelCache, "get")
    note(bench.ImageReader, "encode")
    return seen


def test_every_image_has_a_chain_and_a_class(work: InputWork):
    assert len(work.samples) == SMALL.images
    assert all(work.chains[sample.path] for sample in work.samples)


def test_only_one_side_reads_from_the_cache(work: InputWork, noted: list[str]):
    ours, rival = WAYS["pixel cache"](work)
    noted.clear()
    expected = ours.run()
    assert noted.count("get") == SMALL.images
    noted.clear()
    assert torch.equal(rival.run(), expected) and "get" not in noted


def test_only_one_side_reads_ahead(work: InputWork, noted: list[str]):
    ours, rival = WAYS["reading ahead"](work)
    expected = ours.run()
    assert "expect" in noted
    noted.clear()
    assert torch.equal(rival.run(), expected) and "expect" not in noted


def test_only_one_side_folds(work: InputWork, monkeypatch: pytest.MonkeyPatch):
    folded: list[int] = []
    kind = type(bench_layer(work))
    merge = kind.merge

    def noting(layer):
        folded.append(1)
        return merge(layer)

    monkeypatch.setattr(kind, "merge", noting)
    ours, rival = WAYS["folded adapters"](work)
    expected = ours.run()
    assert folded
    folded.clear()
    beside = rival.run()
    assert not folded
    assert torch.allclose(beside, expected, atol=1e-4) and not torch.equal(beside, expected)


def bench_layer(work: InputWork):
    return next(m for m in work.mllm.model.modules() if type(m).__name__ == "LoraLinear")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("thing", "option", "values"),
    [("loader workers", "loader_workers", (1, 0)), ("micro-batches by length", "bucket_lengths", (True, False))],
)
def test_training_takes_the_same_steps_either_way(work: InputWork, monkeypatch, thing, option, values):
    asked = []
    train = bench.train_stage

    def noting(model, dataset, collate, settings, **others):
        asked.append(getattr(settings, option))
        return train(model, dataset, collate, settings, **others)

    monkeypatch.setattr(bench, "train_stage", noting)
    weights = [p.detach().clone() for p in work.mllm.model.parameters() if p.requires_grad]
    ours, rival = (side.run() for side in WAYS[thing](work))
    assert asked == list(values)
    assert len(ours) == SMALL.images // SMALL.batch and float(ours[0]) != float(ours[1])  # it learns
    assert torch.allclose(ours, rival, atol=1e-4)
    after = [p for p in work.mllm.model.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))


@pytest.mark.slow
def test_sides_that_differ_have_no_row():
    sides = Recorded(lambda: torch.zeros(2)), Recorded(lambda: torch.tensor([0.0, 2e-4]))
    with pytest.raises(ThroughlineError, match=r"differ by 2.0e-04"):
        measure_pair("input pocket, x", "x", sides, FACTS)
    nothing = Recorded(lambda: torch.zeros(2)), Recorded(lambda: torch.full((2,), float("nan")))
    with pytest.raises(ThroughlineError, match="differ"):
        measure_pair("input pocket, x", "x", nothing, FACTS)


@pytest.mark.slow
def test_rows_say_what_is_left_out_and_what_was_measured():
    rows = measure(SMALL.model_copy(update={"ablate": ("pixel cache", "folded adapters")}), print)
    assert [row.rival for row in rows] == ["without pixel cache", "without folded adapters"]
    assert {row.unit for row in rows} == {"seconds per 1,000 images"}
    assert all(row.ratio == row.rival_value / row.ours_value for row in rows)
    assert rows[0].settings["largest_difference"] == 0
    assert rows[0].settings["pixels"] == 96 and rows[0].settings["images"] == 8


def test_wrong_usage_is_said_before_anything_is_written():
    with pytest.raises(UsageError, match="301"):
        measure(SMALL.model_copy(update={"images": 301}), print)
