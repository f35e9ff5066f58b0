"""`bench gpu` whole, with the pocket geometry on the CPU; what needs a GPU is memory and the numbers."""

import math
from pathlib import Path

import pytest
import torch

from throughline.benchmarks import gpu
from throughline.benchmarks.gpu import Side, checked_precision, fold_samples, measure, rows_of_sides
from throughline.benchmarks.settings import GpuSettings
from throughline.benchmarks.workload import POOL
from throughline.core.errors import ThroughlineError, UsageError
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.splits import split_domains

pytestmark = pytest.mark.slow

SETTINGS = GpuSettings(geometry="pocket", device="cpu", batch=1, trials=1)


@pytest.fixture(scope="module")
def rows():
    return {row.name.partition(": ")[2]: row for row in measure(SETTINGS, print)}


def test_every_number_of_a_row_follows_from_its_step_time(rows):
    step, samples, tokens = rows["step"], rows["samples"], rows["tokens"]
    assert step.name == "gpu pocket: step" and step.rival == "two separate sequences"
    assert step.ratio == step.rival_value / step.ours_value and 1 < step.predicted_ratio < 2
    assert samples.ours_value == pytest.approx(1 / step.ours_value)
    assert samples.ratio == pytest.approx(step.ratio)
    assert tokens.ratio < samples.ratio  # for the same samples the tree has fewer
    share = step.settings["ours_gflops"] / step.ours_value / (step.settings["ceiling_tflops"] * 1e3)
    assert rows["utilisation"].ours_value == pytest.approx(share, rel=0.01)
    fold = rows["a fold of TerraIncognita, MTCT, training"]
    assert fold.ours_value == pytest.approx(3 * fold_samples() / samples.ours_value / 3600)
    whole = rows["a fold of TerraIncognita, MTCT and 3 rounds, training"]
    assert whole.rival_value == pytest.approx(4 * fold.rival_value)
    assert step.settings["dtype"] == "bfloat16" and step.settings["largest_nll_difference"] < 0.05
    assert "peak memory" not in rows  # nobody counts it here


def test_settings_say_which_rows_the_tokens_are_of(rows):
    step, tokens = rows["step"], rows["tokens"]

    def counted(batches: str) -> int:
        return sum(math.prod(map(int, batch.split("x"))) for batch in batches.split(" + "))

    assert tokens.ours_value * step.ours_value == pytest.approx(counted(step.settings["ours_rows"]))
    assert tokens.rival_value * step.rival_value == pytest.approx(counted(step.settings["rival_rows"]))


def test_more_samples_than_there_are_is_wrong_usage_before_weights_are_drawn(monkeypatch):
    monkeypatch.setattr(gpu, "random_mllm", lambda *_, **__: pytest.fail("drawn"))
    with pytest.raises(UsageError, match="at most"):
        measure(SETTINGS.model_copy(update={"batch": POOL + 1}), print)


@pytest.mark.parametrize("part", ["checked_precision", "matmul_ceiling"])
def test_too_little_memory_is_one_line_wherever_it_runs_out(part, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(gpu, "checked_precision", lambda *_: (0.0, 0.0))  # what it gives has a test of its own
    monkeypatch.setattr(gpu, part, full)
    with pytest.raises(ThroughlineError, match="use a smaller --batch"):
        measure(SETTINGS, print)


def test_memory_is_ours_over_the_rivals():
    tree, paths = Side((2.0,), 8, 100, 10**9, 30 * 10**9), Side((3.0,), 8, 150, 2 * 10**9, 40 * 10**9)
    rows = {row.unit: row for row in rows_of_sides("gpu", tree, paths, 1e12, {})}
    assert (rows["GB"].ours_value, rows["GB"].rival_value, rows["GB"].ratio) == (30.0, 40.0, 0.75)
    assert rows["seconds"].predicted_ratio == 2.0


def test_the_fold_is_what_domainbeds_split_leaves_to_train_on():
    samples = tuple(
        Sample(f"{name}/cat/{number}.jpg", Path(), name, ("cat",), "")
        for name, count in gpu.TERRA_INCOGNITA.items()
        for number in range(count)
    )
    images = ImageSet("terra", Path(), tuple(sorted(gpu.TERRA_INCOGNITA)), ("cat",), samples)
    inside = {name: len(split.inside) for name, split in split_domains(images, 0).items()}
    folds = [sum(count for name, count in inside.items() if name != target) for target in inside]
    assert fold_samples() == sum(folds) / len(folds)
    assert len(samples) == 24_788


def test_bfloat16_that_is_off_is_told_before_the_clock_starts(monkeypatch):
    logit_difference, nll_difference = checked_precision("pocket", "cpu")
    assert 0 < logit_difference < gpu.LOGIT_BOUND and 0 < nll_difference < gpu.NLL_BOUND
    real = gpu.random_mllm

    def coarse(*arguments, **rest):
        """Rounds the decoder's last hidden states to 1/8 while the weights are bfloat16."""
        mllm = real(*arguments, **rest)
        head = mllm.model.lm_head

        def rounded(module, inputs):
            (hidden,) = inputs
            return ((hidden * 8).round() / 8 if hidden.dtype == torch.bfloat16 else hidden,)

        head.register_forward_pre_hook(rounded)
        return mllm

    monkeypatch.setattr(gpu, "random_mllm", coarse)
    monkeypatch.setattr(gpu, "time_steps", lambda *_: pytest.fail("timed"))
    with pytest.raises(ThroughlineError, match="from float32 in logits"):
        measure(SETTINGS, print)
