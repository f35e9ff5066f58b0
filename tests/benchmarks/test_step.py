"""Both sides of `bench step` train the same thing on the same samples, and a difference stops it before the clock."""

import pytest
import torch

from throughline.benchmarks import step
from throughline.benchmarks.step import StepSettings, measure_step, measure_workload
from throughline.benchmarks.workload import class_list, make_workload, tokenizer_texts
from throughline.chains.class_lists import CLASS_LISTS
from throughline.chains.formats import FIVE_STAGE
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.drawn.concepts import CLASSES
from throughline.errors import ThroughlineError, UsageError
from throughline.mllm.forward import score_trees
from throughline.mllm.geometries import GEOMETRIES, random_mllm

POCKET = GEOMETRIES["pocket"]


@pytest.fixture(scope="module")
def mllm():
    return random_mllm(POCKET, tokenizer_texts())


@pytest.fixture(scope="module")
def model(mllm):
    return step.with_random_lora(mllm)


@pytest.fixture(scope="module")
def work(mllm):
    return make_workload(mllm.chat, POCKET.image_size, class_list(7), batch=2)


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def test_both_sides_give_every_adapter_the_same_gradient(mllm, model, work):
    ours = gradients(model, score_trees(model, step.tree_batch(mllm, work)).loss_sum())
    rival = gradients(model, sum(rows.nll(model).sum() for rows in step.separate_rows(mllm, work)))
    assert ours.keys() == rival.keys()
    assert all("lora_" in name for name in ours) and any("vision_tower" in name for name in ours)
    scale = max(float(gradient.norm()) for gradient in rival.values())
    assert max(float((ours[name] - rival[name]).norm()) for name in ours) < 1e-5 * scale


def test_no_row_of_either_side_holds_padding(mllm, work):
    batch, separate = step.tree_batch(mllm, work), step.separate_rows(mllm, work)
    for ids in (batch.input_ids, *(rows.input_ids for rows in separate)):
        assert not (ids == mllm.chat.pad_id).any()


def test_the_rows_that_are_counted_have_the_samples_tokens(mllm, work):
    """Written out from the texts: the tree has the chain's path and, beside it, what is the label's alone."""
    batch, separate = step.tree_batch(mllm, work), step.separate_rows(mllm, work)
    (trees,), (label, _, chain, _) = step.rows_of_trees(batch), step.rows_of_paths(separate)
    assert (trees.tiles, label.tiles, chain.tiles) == (2, 1, 1)
    assert trees.marked == 2 * (label.marked + chain.marked)
    ids_label, ids_chain = (rows.input_ids[0] for rows in separate)
    shared = int((ids_label != ids_chain[: len(ids_label)]).int().argmax())
    tree = label.tokens + chain.tokens - shared
    assert trees.tokens == 2 * tree
    assert trees.pairs == 2 * (shared**2 + (tree - shared) * tree)
    assert shared > 16 + 7  # image and class list at least


def test_a_model_that_ignores_the_mask_is_told_before_the_clock_starts(mllm, work, monkeypatch):
    deaf = step.with_random_lora(random_mllm(POCKET, tokenizer_texts()))
    inner = deaf.get_base_model().model
    real = inner.forward
    inner.forward = lambda layout=None, **rest: real(**rest)
    monkeypatch.setattr(step, "alternate", lambda *_: pytest.fail("timed"))
    with pytest.raises(ThroughlineError, match="differ by"):
        measure_workload("pocket", mllm, deaf, work, 7, StepSettings(trials=1))


def test_a_row_says_what_was_measured_and_leaves_torchs_threads_as_they_were():
    before = torch.get_num_threads()
    settings = StepSettings(geometries=("pocket",), classes=(7, 65), trials=1, batch=1, threads=1)
    seven, sixty_five = (row.to_json() for row in measure_step(settings))
    assert torch.get_num_threads() == before
    assert seven["name"] == "step pocket, 7 classes" and seven["rival"] == "two separate sequences"
    assert seven["ratio"] == seven["rival_value"] / seven["ours_value"] > 0
    assert seven["settings"]["threads"] == seven["settings"]["batch"] == 1
    assert seven["settings"]["largest_nll_difference"] < 1e-5
    assert 1 < seven["predicted_ratio"] < sixty_five["predicted_ratio"] < 2
    assert sixty_five["settings"]["tokens_trees"] > seven["settings"]["tokens_trees"] + 100


def test_chains_are_whole_five_stage_chains_of_one_length(mllm, work):
    lengths = {len(mllm.chat.tokenizer(example.chain)["input_ids"]) for example in work.examples}
    assert len(lengths) == 1 and 60 < lengths.pop() < 300
    for example in work.examples:
        assert parse_chain(example.chain, FIVE_STAGE, CLASSES).outcome is Outcome.OK
        assert example.label in CLASS_LISTS["PACS"]


def test_a_class_list_or_a_batch_that_is_not_to_be_had_is_named(mllm):
    with pytest.raises(UsageError, match=r"no class list of 8 classes.*5, 7, 10, 65, 345"):
        class_list(8)
    with pytest.raises(UsageError, match=r"no 299 chains of one length.*at most \d"):
        make_workload(mllm.chat, POCKET.image_size, class_list(7), batch=299)
