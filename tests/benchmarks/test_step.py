"""All sides of `bench step` train the same thing on the same samples, and a difference stops it before the clock."""

from dataclasses import asdict, replace

import pytest
import torch
from tests.benchmarks.conftest import first_sample

from throughline.benchmarks import step
from throughline.benchmarks.contenders import largest_difference, separate_rows, separate_sequences, token_trees
from throughline.benchmarks.settings import StepSettings
from throughline.benchmarks.step import measure_workload
from throughline.benchmarks.trl import sft_trainer
from throughline.benchmarks.workload import class_list, make_workload, random_model, tile_grid, with_random_lora
from throughline.chains.formats import FIVE_STAGE
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.core.errors import ThroughlineError, UsageError
from throughline.domains.class_lists import CLASS_LISTS
from throughline.drawn.concepts import CLASSES
from throughline.mllm.flops import Row, step_flops
from throughline.mllm.forward import score_trees
from throughline.mllm.plan import Plan

RIVALS = ["TRL SFTTrainer, default padding", "TRL SFTTrainer, length-grouped", "two separate sequences"]


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def test_trees_and_separate_sequences_give_every_adapter_the_same_gradient(work):
    model = work.model
    ours = gradients(model, score_trees(model, work.batch()).loss_sum())
    rival = gradients(model, sum(rows.nll(model).sum() for rows in separate_rows(work)))
    assert ours.keys() == rival.keys()
    assert all("lora_" in name for name in ours) and any("vision_tower" in name for name in ours)
    scale = max(float(gradient.norm()) for gradient in rival.values())
    assert max(float((ours[name] - rival[name]).norm()) for name in ours) < 1e-5 * scale


def test_separate_sequences_share_a_batch_where_they_are_of_one_length_and_are_never_padded(work):
    mllm = work.mllm
    groups = separate_rows(make_workload(mllm, work.model, "pocket", class_list(7), batch=7))
    assert sorted(key for rows in groups for key in rows.keys) == sorted(
        (sample, name) for sample in range(7) for name in ("label", "chain")
    )
    assert max(len(rows.keys) for rows in groups) > 1 and len(groups) < 14
    assert not any((rows.input_ids == mllm.chat.pad_id).any() for rows in groups)


def test_the_flops_that_are_counted_are_those_of_the_samples_tokens(work):
    """Written out from the texts: the tree has the chain's path and, beside it, what is the label's alone."""
    single, chat = first_sample(work), work.mllm.chat
    label, chain = (rows.input_ids[0] for rows in separate_rows(single))
    shared = int((label != chain[: len(label)]).int().argmax())
    assert shared > 16 + 7  # image and class list at least
    tree = token_trees(single)
    assert tree.settings["rows"] == f"1x{len(label) + len(chain) - shared}"
    spoken = sum(
        len(chat.tokenizer(text)["input_ids"]) + 1 for text in (single.examples[0].label, single.examples[0].chain)
    )
    assert tree.settings["logits"] == separate_sequences(single).settings["logits"] == spoken
    tokens = len(label) + len(chain) - shared
    row = Row(tokens, 1, spoken, pairs=shared**2 + (tokens - shared) * tokens)
    counted = step_flops(work.model, [row])
    assert tree.flops == counted.total


def test_a_model_that_ignores_the_mask_is_told_before_the_clock_starts(work, monkeypatch):
    mllm = random_model("pocket")
    deaf = with_random_lora(mllm)
    inner = deaf.get_base_model().model
    real = inner.forward
    inner.forward = lambda layout=None, **rest: real(**rest)
    monkeypatch.setattr(step, "take_turns", lambda *_: pytest.fail("timed"))
    work = replace(work, mllm=mllm, model=deaf)
    with pytest.raises(ThroughlineError, match="token trees and two separate sequences differ by"):
        measure_workload("pocket", work, token_trees(work), [separate_sequences(work)], 1)


def test_a_rival_that_trains_other_weights_is_told_before_the_clock_starts(work, monkeypatch):
    rival = sft_trainer(work, grouped=True)
    with torch.no_grad():
        next(weight for name, weight in rival.model.named_parameters() if "lora_B" in name).mul_(2)
    monkeypatch.setattr(step, "take_turns", lambda *_: pytest.fail("timed"))
    with pytest.raises(ThroughlineError, match="token trees and TRL SFTTrainer, length-grouped differ by"):
        measure_workload("pocket", work, token_trees(work), [rival], 1)


def test_an_nll_that_is_no_number_is_no_agreement():
    ours, rival = {(0, "label"): 1.0, (0, "chain"): 2.0}, {(0, "label"): float("nan"), (0, "chain"): 2.0}
    assert not largest_difference(ours, rival) <= 1e-5


@pytest.mark.slow
def test_rows_say_what_was_measured_and_leave_torchs_threads_as_they_were():
    before = torch.get_num_threads()
    settings = StepSettings(geometry="pocket", classes=(7, 65), trials=1, batch=1, threads=1, tiles=(1,))
    rows = [asdict(row) for row in step.measure(settings, print)]
    assert torch.get_num_threads() == before
    assert [row["rival"] for row in rows] == RIVALS * 2
    assert [row["name"] for row in rows] == ["step pocket, 7 classes, 1 tile"] * 3 + [
        "step pocket, 65 classes, 1 tile"
    ] * 3
    for row in rows:
        assert row["ratio"] == row["rival_value"] / row["ours_value"] > 0
        assert row["settings"]["threads"] == row["settings"]["batch"] == row["settings"]["trials"] == 1
        assert row["settings"]["largest_nll_difference"] < 1e-5
    (padded, grouped, plain), (_, _, plain_65) = rows[:3], rows[3:]
    assert 1 < plain["predicted_ratio"] < plain_65["predicted_ratio"] < 2
    assert plain["predicted_ratio"] < grouped["predicted_ratio"] < padded["predicted_ratio"]


@pytest.mark.slow
def test_an_ablation_is_timed_against_the_trees_like_any_rival(work):
    apart = replace(work, mllm=replace(work.mllm, plan=Plan("paths")))
    ours, without = token_trees(work), token_trees(apart, "without shared tokens")
    (row,) = measure_workload("step pocket", work, ours, [without], 1)
    assert row.rival == "without shared tokens" and row.settings["batch"] == 2
    assert row.settings["largest_nll_difference"] < 1e-5
    assert row.settings["ours_rows"].startswith("1x") and row.settings["rival_rows"].startswith("4x")


def test_chains_are_whole_five_stage_chains_of_their_own_lengths_and_labels_of_the_class_list(work):
    chat = work.mllm.chat
    work = make_workload(work.mllm, work.model, "pocket", class_list(7), batch=8)
    lengths = {len(chat.tokenizer(example.chain)["input_ids"]) for example in work.examples}
    assert len(lengths) > 3 and 60 < min(lengths) < max(lengths) < 300
    assert {example.label for example in work.examples} == set(CLASS_LISTS["PACS"])
    for example in work.examples:
        assert parse_chain(example.chain, FIVE_STAGE, CLASSES).outcome is Outcome.OK


def test_an_image_is_cut_into_the_tiles_that_are_asked_for_and_a_thumbnail(work):
    work = make_workload(work.mllm, work.model, "pocket", class_list(7), batch=1, tiles=6)
    assert work.pictures[0].size == (192, 128)
    assert work.examples[0].images[0].inputs["pixel_values"].shape == (7, 3, 64, 64)
    assert [tile_grid(tiles) for tiles in (1, 2, 4, 5, 6, 12)] == [(1, 1), (2, 1), (2, 2), (5, 1), (3, 2), (4, 3)]


def test_large_steps_are_few_unless_more_are_asked_for():
    usual, asked = StepSettings(), StepSettings(trials=2, batch=3)
    assert usual.batch_of("bench-40m", 6) < usual.batch_of("bench-40m", 1) == usual.batch_of("pocket", 6)
    assert usual.trials_of("bench-40m", 6) < usual.trials_of("bench-40m", 1) < usual.trials_of("pocket", 6)
    assert (asked.trials_of("bench-40m", 6), asked.batch_of("bench-40m", 6)) == (2, 3)


def test_a_class_list_or_a_batch_that_is_not_to_be_had_is_named(work):
    with pytest.raises(UsageError, match=r"no class list of 8 classes.*5, 7, 10, 65, 345"):
        class_list(8)
    with pytest.raises(UsageError, match=r"a step of 301 images.*at most 300"):
        make_workload(work.mllm, work.model, "pocket", class_list(7), batch=301)
