"""The peak is exact where it can be worked out by hand, and both sides of `bench memory` are counted alike."""

import pytest
import torch

from throughline.benchmarks.contenders import token_trees
from throughline.benchmarks.memory import cpu_peak, measure, peak_of_step
from throughline.benchmarks.settings import MemorySettings

pytestmark = pytest.mark.slow

MIB = 1 << 20
FLOATS = MIB // 4


def test_the_peak_is_the_most_that_was_held_at_once():
    held_before = torch.zeros(9 * FLOATS)

    def run():
        first = torch.zeros(2 * FLOATS)
        second = torch.zeros(3 * FLOATS)
        del first
        third = torch.zeros(4 * FLOATS)  # 3 + 4 are held, 2 + 3 were
        del second, third
        torch.zeros(5 * FLOATS).add_(held_before.sum())

    assert cpu_peak(run) == 7 * MIB


def test_what_is_kept_for_the_backward_pass_counts():
    """exp keeps its result of 1 MiB; its gradient of 1 MiB is added into the one that is there."""
    weight = torch.zeros(FLOATS, requires_grad=True)
    weight.grad = torch.zeros(FLOATS)
    assert 2 * MIB <= cpu_peak(lambda: weight.exp().sum().backward()) < 2 * MIB + 1024


def test_scratch_space_inside_an_operator_counts():
    """A stable sort of 1 MiB of floats gives as much again and twice that in indices, and works on copies."""
    values = torch.rand(FLOATS)
    assert cpu_peak(lambda: torch.sort(values, stable=True)) >= 3 * MIB


def test_a_step_is_its_inputs_and_its_peak_and_says_the_same_twice(work):
    ours = token_trees(work)
    alone, again = (peak_of_step(ours.model, ours.take_step, {}, "cpu") for _ in range(2))
    with_inputs = peak_of_step(ours.model, ours.take_step, {"pixel_values": torch.zeros(FLOATS)}, "cpu")
    assert alone == again == with_inputs - MIB
    assert not ours.model.training and all(weight.grad is None for weight in ours.model.parameters())


@pytest.fixture(scope="module")
def rows():
    settings = MemorySettings(geometry="pocket", classes=(7,), batch=2, threads=1, ablate=("logits in chunks",))
    return measure(settings, print)


def test_rows_say_how_it_was_measured_and_their_ratio_is_ours_over_the_rivals(rows):
    assert [row.name for row in rows] == [
        "memory pocket, 7 classes",
        "memory pocket, 7 classes",
        "memory pocket, 7 classes, gradient checkpointing",
        "memory pocket, 7 classes, gradient checkpointing",
    ]
    for row in rows[::2]:
        assert row.rival == "TRL SFTTrainer, length-grouped" and row.unit == "MiB"
        assert row.ratio == row.ours_value / row.rival_value
        assert row.settings["batch"] == 2 and "profile" in row.settings["method"]
        assert row.settings["ours_rows"].startswith("1x") and row.settings["rival_rows"].startswith("2x")


def test_what_is_left_out_has_a_row_beside_the_rivals(rows):
    plain, ablated, *_ = rows
    assert ablated.rival == "without logits in chunks" and ablated.ours_value == plain.ours_value
    assert ablated.ratio == ablated.ours_value / ablated.rival_value


def test_gradient_checkpointing_lowers_both_sides(rows):
    plain, checkpointed = rows[::2]
    assert checkpointed.ours_value < 0.7 * plain.ours_value
    assert checkpointed.rival_value < plain.rival_value
