"""Every ablation computes the same as the whole, and really does without."""

from typing import get_args

import pytest
from pydantic import ValidationError
from tests.benchmarks.conftest import first_sample

from throughline.benchmarks import score
from throughline.benchmarks.ablations import PLANS, training_without, with_plan
from throughline.benchmarks.contenders import largest_difference, token_trees
from throughline.benchmarks.settings import (
    SampleSettings,
    SamplingAblation,
    ScoreSettings,
    StepSettings,
    TrainingAblation,
)
from throughline.benchmarks.step import measure_workload
from throughline.mllm import lora_linear

TRAINING = ("shared tokens", "packed rows", "logits in chunks", "LoRA in one node")


def test_every_name_has_its_plan_or_its_node():
    assert StepSettings(ablate="all").ablations() == TRAINING
    assert {*PLANS, "LoRA in one node"} == {*TRAINING, *get_args(SamplingAblation)}
    assert len(get_args(TrainingAblation)) == len(TRAINING)


@pytest.mark.parametrize("thing", TRAINING)
def test_a_step_without_it_trains_the_same(work, thing):
    whole, without = token_trees(work), training_without(thing, work)
    assert without.name == f"without {thing}"
    assert largest_difference(whole.evaluated_nll(), without.evaluated_nll()) < 1e-5
    gradients = []
    for side in (whole, without):
        side.timed_step()
        gradients.append({n: p.grad.clone() for n, p in work.model.named_parameters() if p.grad is not None})
    work.model.zero_grad(set_to_none=True)
    ours, theirs = gradients
    assert ours.keys() == theirs.keys()
    scale = max(float(gradient.norm()) for gradient in ours.values())
    assert max(float((ours[name] - theirs[name]).norm()) for name in ours) < 1e-5 * scale


@pytest.mark.parametrize(
    ("thing", "module", "used"),
    [("LoRA in one node", lora_linear, "_LinearWithLora")],
)
def test_a_node_that_is_left_out_is_not_run(work, monkeypatch, thing, module, used):
    without = training_without(thing, work)
    monkeypatch.setattr(getattr(module, used), "apply", lambda *_: pytest.fail("run"))
    without.timed_step()
    work.model.zero_grad(set_to_none=True)
    with pytest.raises(pytest.fail.Exception):
        token_trees(work).timed_step()


@pytest.mark.slow
def test_the_steps_of_an_ablation_have_a_row(work):
    small = first_sample(work)
    sides = [training_without(thing, small) for thing in TRAINING]
    rows = measure_workload("step pocket", small, token_trees(small), sides, 1)
    assert [row.rival for row in rows] == [f"without {thing}" for thing in TRAINING]


@pytest.mark.slow
def test_scores_have_rows_of_what_was_left_out():
    settings = ScoreSettings(geometry="pocket", classes=(7,), images=(1,), trials=1, threads=1, ablate=("all",))
    assert [row.rival for row in score.measure(settings, print)][-1] == "without layouts"


def test_names_are_checked_and_all_is_all():
    assert StepSettings().ablations() == ()
    assert SampleSettings(ablate=("all",)).ablations() == ("layouts", "leaving", "packed weights")
    assert SampleSettings(ablate=("leaving",)).ablations() == ("leaving",)
    with pytest.raises(ValidationError, match="'all' or 'layouts'"):
        ScoreSettings(ablate=("speed",))


def test_a_plan_without_something_is_another_plan(work):
    plans = {with_plan(work.mllm, thing).plan for thing in PLANS}
    assert work.mllm.plan not in plans and len(plans) == 5  # without packed rows is without layouts, too
