"""`bench/evaluate.py`: the same answers from both sides, or no row."""

from dataclasses import asdict, replace

import pytest
import torch

from evaluate import Answers, EvaluateSettings, Recorded, check_answers, draw_samples, measure, measure_answering
from throughline.core.errors import ThroughlineError

SAID = Answers(("cup",) * 200, ("<CONCLUSION>cup</CONCLUSION>",) * 200, torch.full((200, 3), -1.1))


def test_a_few_texts_may_differ_and_are_counted():
    other = replace(SAID, reasoning=("bowl", *SAID.reasoning[1:]), log_probability=SAID.log_probability + 5e-5)
    checked = check_answers("x", SAID, other)
    assert (checked["texts"], checked["differing_texts"]) == (400, 1)
    assert checked["largest_difference"] == pytest.approx(5e-5 / 1.1, rel=0.1)


@pytest.mark.parametrize(
    "other",
    [
        replace(SAID, label=("bowl",) * 5 + SAID.label[5:]),
        replace(SAID, log_probability=SAID.log_probability + 2e-4),
        replace(SAID, log_probability=SAID.log_probability * float("nan")),
    ],
)
def test_other_answers_give_no_row(other):
    with pytest.raises(ThroughlineError, match="of 400 texts and log-probabilities by"):
        measure_answering("x", Recorded(lambda: SAID), {"plain": Recorded(lambda: other)}, 1, {"images": 200})


def test_images_are_spread_over_styles_and_classes(tmp_path):
    samples = draw_samples(tmp_path, 50)
    assert len({sample.id for sample in samples}) == 50
    assert len({sample.domain for sample in samples}) == 4 and len({sample.label for sample in samples}) == 12


@pytest.mark.slow
def test_the_pocket_checkpoint_says_the_same_both_ways():
    """Four images in two batches."""
    (row,) = (asdict(row) for row in measure(EvaluateSettings(images=4, trials=1, batch=3, threads=1), print))
    assert (row["name"], row["rival"]) == ("evaluate pocket, 4 images", "three separate passes")
    assert row["unit"] == "seconds per 1,000 images" and row["ratio"] > 0
    assert row["settings"]["texts"] == 8 and row["settings"]["differing_texts"] == 0
    assert row["settings"]["largest_difference"] < 1e-4
