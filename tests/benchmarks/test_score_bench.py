"""`bench score`: every rival computes the same likelihoods by another way, and one that does not stops the clock."""

from dataclasses import asdict, replace
from functools import partial

import pytest
import torch

from throughline.benchmarks import timing
from throughline.benchmarks.plain import ask_labels, batched_cache, loop_on_cache, one_pass_per_label
from throughline.benchmarks.score import make_score_work, measure, measure_scoring
from throughline.benchmarks.settings import ScoreSettings
from throughline.benchmarks.timing import OURS
from throughline.benchmarks.workload import class_list, drawn_pictures, random_model
from throughline.core.errors import ThroughlineError, UsageError
from throughline.mllm.geometries import GEOMETRIES
from throughline.questions.question_set import make_question_set

POCKET = GEOMETRIES["pocket"]


@pytest.fixture(scope="module")
def mllm():
    return random_model("pocket")


@pytest.fixture(scope="module")
def asked(mllm):
    pictures = drawn_pictures(2, POCKET.image_size)
    return ask_labels(mllm.chat.processor, make_question_set(class_list(7)).label, pictures, class_list(7))


@torch.no_grad()
def by_hand(mllm, asked, image, label):
    """Token after token from the whole sequence's own softmax, the model called with nothing but ids and pixels."""
    ids = torch.cat([asked.prompt["input_ids"][image], asked.labels[label]])
    logits = mllm.model(input_ids=ids[None], pixel_values=asked.prompt["pixel_values"][image : image + 1]).logits[0]
    start = asked.prompt["input_ids"].shape[1]
    return sum(float(torch.log_softmax(logits[t - 1].double(), -1)[ids[t]]) for t in range(start, len(ids)))


@pytest.mark.parametrize("rival", [one_pass_per_label, loop_on_cache, batched_cache, partial(batched_cache, rows=3)])
def test_every_way_of_plain_transformers_gives_the_sum_over_the_labels_tokens(mllm, asked, rival):
    scores = rival(mllm.model, asked)
    assert scores.shape == (2, 7)
    for image, label in ((0, 0), (1, 0), (0, 6), (1, 3)):
        assert float(scores[image, label]) == pytest.approx(by_hand(mllm, asked, image, label), abs=1e-4)


def test_labels_end_with_the_end_of_the_turn_and_differ_in_length(mllm, asked):
    assert {int(label[-1]) for label in asked.labels} == {mllm.chat.end_of_turn_id}
    assert len({len(label) for label in asked.labels}) > 1


def test_a_rival_with_other_likelihoods_is_told_before_the_clock_starts(mllm, monkeypatch):
    work = make_score_work(mllm, "pocket", class_list(7), 1)
    off = replace(work, rivals={"loop over labels on the cache": lambda: work.ours() + 2e-4})
    monkeypatch.setattr(timing, "take_turns", lambda *_, **__: pytest.fail("timed"))
    with pytest.raises(ThroughlineError, match="loop over labels on the cache and ours differ by 2"):
        measure_scoring("score pocket", off, 1)


def test_times_are_per_image(mllm, monkeypatch):
    def taken(sides, trials, warm_up):
        return {side: [4.0 if side == OURS else 40.0] * trials for side in sides}

    monkeypatch.setattr(timing, "take_turns", taken)
    rows = measure_scoring("score", make_score_work(mllm, "pocket", class_list(5), 4), 2)
    assert [(row.ours_value, row.rival_value, row.ratio, row.unit) for row in rows] == [
        (1.0, 10.0, 10.0, "seconds per image")
    ] * 3


@pytest.mark.slow
def test_rows_name_the_rivals_and_say_what_was_measured():
    settings = ScoreSettings(geometry="pocket", classes=(7,), images=(1, 2), trials=1, threads=1)
    rows = [asdict(row) for row in measure(settings, print)]
    rivals = ["one forward pass per label", "loop over labels on the cache", "batched cache"]
    assert [row["rival"] for row in rows] == rivals * 2
    assert {row["name"] for row in rows[:3]} == {"score pocket, 7 classes, 1 image at a time"}
    assert {row["name"] for row in rows[3:]} == {"score pocket, 7 classes, 2 images at a time"}
    for row in rows:
        assert row["ratio"] == row["rival_value"] / row["ours_value"] > 0
        assert row["settings"]["largest_difference"] <= 1e-4
        assert row["settings"]["threads"] == 1 and row["settings"]["classes"] == 7


def test_an_unknown_class_list_is_wrong_usage():
    with pytest.raises(UsageError, match="no class list of 8 classes"):
        measure(ScoreSettings(classes=(8,)), print)
