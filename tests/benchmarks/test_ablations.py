"""Every ablation computes the same as the whole, and really does without."""

from dataclasses import replace

import pytest

from throughline.benchmarks.ablations import (
    EVALUATING,
    SAMPLING,
    SCORING,
    TRAINING,
    chosen,
    training_without,
    with_plan,
)
from throughline.benchmarks.contenders import token_trees
from throughline.benchmarks.memory import MemorySettings, measure_memory
from throughline.benchmarks.score import ScoreSettings, measure_score
from throughline.benchmarks.step import largest_difference, measure_workload
from throughline.core.errors import UsageError
from throughline.mllm import lora_linear, rms_norm


@pytest.mark.parametrize("thing", TRAINING)
def test_a_step_without_it_trains_the_same(pocket_step, thing):
    mllm, model, work = pocket_step.mllm, pocket_step.model, pocket_step.work
    whole, without = token_trees(mllm, model, work), training_without(thing, mllm, model, work)
    assert without.name == f"without {thing}"
    assert largest_difference(whole.asked(), without.asked()) < 1e-5
    gradients = []
    for side in (whole, without):
        side.timed_step()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    model.zero_grad(set_to_none=True)
    ours, theirs = gradients
    assert ours.keys() == theirs.keys()
    scale = max(float(gradient.norm()) for gradient in ours.values())
    assert max(float((ours[name] - theirs[name]).norm()) for name in ours) < 1e-5 * scale


@pytest.mark.parametrize(
    ("thing", "module", "used"),
    [("LoRA in one node", lora_linear, "_LinearWithLora"), ("norms in one node", rms_norm, "_RmsNorm")],
)
def test_a_node_that_is_left_out_is_not_run(pocket_step, monkeypatch, thing, module, used):
    mllm, model, work = pocket_step.mllm, pocket_step.model, pocket_step.work
    without = training_without(thing, mllm, model, work)
    monkeypatch.setattr(getattr(module, used), "apply", lambda *_: pytest.fail("run"))
    without.timed_step()
    model.zero_grad(set_to_none=True)
    with pytest.raises(pytest.fail.Exception):
        token_trees(mllm, model, work).timed_step()


def test_the_steps_of_an_ablation_have_a_row(pocket_step):
    mllm, model, work = pocket_step.mllm, pocket_step.model, pocket_step.work
    one = replace(work, pictures=work.pictures[:1], images=work.images[:1], examples=work.examples[:1])
    sides = [training_without(thing, mllm, model, one) for thing in TRAINING]
    rows = measure_workload("step pocket", token_trees(mllm, model, one), sides, 1, {})
    assert [row.rival for row in rows] == [f"without {thing}" for thing in TRAINING]


def test_memory_and_scores_have_rows_of_what_was_left_out():
    settings = MemorySettings(("pocket",), (7,), batch=1, threads=1, ablate=("logits in chunks",))
    plain, ablated, *_ = measure_memory(settings)
    assert ablated.rival == "without logits in chunks" and ablated.ours_value == plain.ours_value
    assert ablated.ratio == ablated.ours_value / ablated.rival_value
    rows = measure_score(ScoreSettings(("pocket",), (7,), images=(1,), trials=1, threads=1, ablate=("all",)))
    assert [row.rival for row in rows][-1] == "without layouts"


def test_names_are_checked_and_all_is_all():
    assert chosen((), TRAINING) == ()
    assert chosen(("all",), SAMPLING) == SAMPLING
    assert chosen(("leaving",), EVALUATING) == ("leaving",)
    with pytest.raises(UsageError, match=r"nothing here is called 'speed'.*layouts, or all"):
        chosen(("speed",), SCORING)


def test_a_plan_without_something_is_another_plan(pocket_step):
    plans = {with_plan(pocket_step.mllm, thing).plan for thing in (*TRAINING[:3], *SAMPLING)}
    assert pocket_step.mllm.plan not in plans and len(plans) == 5  # without packed rows is without layouts, too
