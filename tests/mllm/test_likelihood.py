"""The likelihood of 65 labels in one pass is that of one forward pass per label."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.mllm.reference import Spoken, nll_alone, picture
from tests.mllm.tiny import image_of

from throughline.mllm.chat import user_turn
from throughline.mllm.likelihood import label_log_likelihood, label_trie
from throughline.mllm.load import Mllm
from throughline.mllm.plan import Plan

WORDS = ["cat", "dog", "house", "boat", "horse", "clock", "coin", "cup"]
LABELS = [*WORDS, *(f"{a} {b}" for a in WORDS for b in WORDS[1:]), "caterpillar"]
"""65 labels, many the beginning of others."""
QUESTION = user_turn(f"What is shown? Choose from: {', '.join(LABELS)}. Answer with one word.")
PICTURES = [picture(0), picture(1, 24, 48)]


@pytest.fixture(scope="module")
def one_by_one(mllms: dict[str, Mllm]) -> dict[str, torch.Tensor]:
    """`(images, labels)` per family, a forward pass for each."""
    with torch.no_grad():
        return {
            family: torch.tensor(
                [
                    [
                        -float(nll_alone(m.model, m.chat.processor, family, Spoken(QUESTION, [drawn], label)).sum())
                        for label in LABELS
                    ]
                    for drawn in PICTURES
                ]
            )
            for family, m in mllms.items()
        }


@pytest.mark.parametrize("rows", ["packed", "masked", "paths"])
def test_all_labels_in_one_pass_are_as_one_by_one(
    mllm: Mllm, family: str, rows: str, one_by_one: dict[str, torch.Tensor]
) -> None:
    mllm = replace(mllm, plan=Plan(rows))
    images = [mllm.chat.encode_image(image_of(*drawn), str(drawn)) for drawn in PICTURES]
    found = label_log_likelihood(mllm, QUESTION, images, LABELS)
    assert found.shape == (2, 65)
    torch.testing.assert_close(found, one_by_one[family], atol=1e-4, rtol=1e-5)
    for i, image in enumerate(images):
        torch.testing.assert_close(label_log_likelihood(mllm, QUESTION, [image], LABELS)[0], found[i])


def test_a_label_and_its_continuation_share_no_mass(mllm: Mllm) -> None:
    """Both end their turn: summed over everything one could say, probabilities stay below one."""
    image = mllm.chat.encode_image(image_of(0), "0")
    found = label_log_likelihood(mllm, QUESTION, [image], LABELS)
    assert float(found.exp().sum()) < 1
    assert len(set(found[0].tolist())) == 65


def test_the_question_is_in_the_trie_once(mllm: Mllm) -> None:
    image = mllm.chat.encode_image(image_of(0), "0")
    tree = label_trie(mllm, QUESTION, image, LABELS)
    prompt = len(mllm.chat.prompt(QUESTION, [image]).tokens)
    assert len(tree) < prompt + sum(len(b.scored) for b in tree.branches)
    assert [b.name for b in tree.branches] == LABELS
