"""TRL gets the same sequences, the same weights and the same loss, and its operations are counted as it does them."""

import sys

import pytest
import torch
from tests.benchmarks.conftest import first_sample
from torch.utils.flop_counter import FlopCounterMode

from throughline.benchmarks import memory, step, trl
from throughline.benchmarks.settings import MemorySettings, StepSettings
from throughline.benchmarks.trl import sft_trainer
from throughline.benchmarks.workload import class_list, make_workload
from throughline.core.errors import ThroughlineError
from throughline.mllm.forward import score_trees
from throughline.mllm.lora_linear import LoraLinear


def gradients_of(model):
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.fixture
def without_dropout(work):
    """Sets the dropout of a model's adapter to 0; that of the shared one is put back."""
    changed = []

    def stop(model):
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                changed.append((module, module.p))
                module.p = 0.0

    yield stop
    for module, p in changed:
        module.p = p


@pytest.mark.parametrize("grouped", [False, True])
def test_its_training_steps_give_the_gradient_of_the_trees_token_mean(work, without_dropout, grouped):
    """TRL's loss averages over all tokens of the step; so does this one, over the tree's."""
    model = work.model
    rival = sft_trainer(work, grouped)
    without_dropout(rival.model)
    rival.timed_step()
    theirs = gradients_of(rival.model)
    score_trees(model, work.batch()).token_nll.mean().backward()
    ours = gradients_of(model)
    assert ours.keys() == theirs.keys()
    scale = max(float(gradient.norm()) for gradient in ours.values())
    assert max(float((ours[name] - theirs[name]).norm()) for name in ours) < 1e-5 * scale


def product_in_place(total, left, right, **_):
    """torch's counter knows `addmm` and passes over `addmm_`, with which TRL's head makes its gradient."""
    return 2 * left[0] * left[1] * right[1]


@pytest.mark.slow
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("tiles", [1, 6])
def test_the_flops_that_are_counted_are_those_that_torch_sees(work, grouped, tiles):
    rival = sft_trainer(make_workload(work.mllm, work.model, "pocket", class_list(7), batch=2, tiles=tiles), grouped)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: product_in_place}) as counted:
        rival.timed_step()
    assert rival.flops == counted.get_total_flops()


def test_length_grouping_parts_labels_from_chains_and_default_padding_does_not(work):
    work = make_workload(work.mllm, work.model, "pocket", class_list(7), batch=4)
    grouped, mixed = (sft_trainer(work, grouped=flag) for flag in (True, False))
    paths, sides = work.paths(), (grouped, mixed)
    keys = {side.name: trl._keys_of([part.inputs for part in side.micro_batches], paths) for side in sides}
    every = set(paths)
    for batches in keys.values():
        assert {key for batch in batches for key in batch} == every and [len(batch) for batch in batches] == [4, 4]
    assert [{name for _, name in batch} for batch in keys[grouped.name]] == [{"chain"}, {"label"}]
    assert [{name for _, name in batch} for batch in keys[mixed.name]] == [{"chain", "label"}] * 2
    padding = [side.settings["padding"] for side in (mixed, grouped)]
    assert padding[0] > 4 * padding[1] > 0


def test_a_single_image_makes_one_padded_batch_or_two_unpadded_ones(work):
    work = first_sample(work)
    padded, grouped = (sft_trainer(work, flag) for flag in (False, True))
    label, chain = (len(path.tokens) for path in work.paths().values())
    assert padded.settings["rows"] == f"2x{chain}" and padded.settings["padding"] == chain - label
    assert grouped.settings["rows"] == f"1x{chain} + 1x{label}" and grouped.settings["padding"] == 0


def test_it_trains_layers_of_its_own_on_the_same_frozen_tensors(work):
    model = work.model
    rival = sft_trainer(work, grouped=True).model
    ours, theirs = (dict(one.named_parameters()) for one in (model, rival))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert torch.equal(weight, ours[name]) and weight.requires_grad == ours[name].requires_grad == ("lora_" in name)
        assert (weight.data_ptr() == ours[name].data_ptr()) == ("lora_" not in name)
    assert any(isinstance(module, LoraLinear) for module in model.modules())
    assert not any(isinstance(module, LoraLinear) for module in rival.modules())


def test_a_rendering_with_one_token_more_is_refused(work, monkeypatch):
    made = trl._dataset

    def with_line_break(*asked):
        return made(*asked).map(lambda row: {"completion": row["completion"] + "\n"})

    monkeypatch.setattr(trl, "_dataset", with_line_break)
    with pytest.raises(ThroughlineError, match="is none of the sequences that the trees hold"):
        sft_trainer(work, grouped=True)


def test_nothing_is_printed_on_stdout_and_no_number_is_drawn_from_torchs_generator(work, capfd):
    before = torch.get_rng_state()
    sft_trainer(work, grouped=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(("bench", "settings"), [(step, StepSettings()), (memory, MemorySettings())])
def test_without_trl_a_line_says_how_to_get_it(monkeypatch, bench, settings):
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ThroughlineError, match=r"TRL.* not installed.*install the extra bench"):
        bench.measure(settings, print)
