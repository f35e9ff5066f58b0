"""`bench/ood.py`: both sides say the same about the same images, or there is no row."""

from dataclasses import asdict
from typing import Any

import pytest
import torch

from ood import BATCHES, LOOP, ONE_PASS, PASS_PER_POINT, TWO_PASSES, WHOLE_PROMPTS, OodSettings, check, measure
from throughline.core.errors import ThroughlineError

OURS: dict[str, Any] = {
    "text": ["cup"] * 200 + ["more than the rival was asked"],
    "log_probability": torch.full((201, 3), -1.1),
}
THEIRS: dict[str, Any] = {"text": ["cup"] * 200, "log_probability": torch.full((200, 3), -1.1)}


def test_a_few_texts_may_differ_and_the_rest_is_compared_where_both_answered() -> None:
    other = {"text": ["bowl", *THEIRS["text"][1:]], "log_probability": THEIRS["log_probability"] + 5e-5}
    found = check("x", OURS, other)
    assert found["differing_texts"] == 1 and found["largest_difference"] == pytest.approx(5e-5 / 1.1, rel=0.1)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({**THEIRS, "text": ["bowl"] * 5 + THEIRS["text"][5:]}, "5 of 200 texts differ"),
        ({**THEIRS, "log_probability": THEIRS["log_probability"] + 2e-4}, "log_probability of both sides differ"),
        ({**THEIRS, "log_probability": THEIRS["log_probability"] * float("nan")}, "log_probability of both sides"),
        ({"text": THEIRS["text"]}, "say different things"),
    ],
)
def test_what_differs_gives_no_row(other: dict[str, Any], said: str) -> None:
    with pytest.raises(ThroughlineError, match=said):
        check("x", OURS, other)


@pytest.mark.slow
def test_every_rival_says_what_we_say_and_has_its_rate() -> None:
    settings = OodSettings(images=7, fewer=5, rival_images=4, shots=3, trials=1, batch=3, threads=1)
    rows = [asdict(row) for row in measure(settings, print)]
    assert [row["rival"] for row in rows] == [LOOP, BATCHES, TWO_PASSES, WHOLE_PROMPTS, PASS_PER_POINT, ONE_PASS]
    assert {row["unit"] for row in rows} == {"seconds per 1,000 images"} and all(row["ratio"] > 0 for row in rows)
    assert [row["settings"]["images"] for row in rows] == [7, 7, 7, 5, 5, 5]
    assert all(row["settings"]["rival_images"] == 4 for row in rows)
    assert [row["settings"].get("differing_texts") for row in rows] == [0, 0, 0, None, None, None]
    assert all(row["settings"]["largest_difference"] < 1e-4 for row in rows[2:])
