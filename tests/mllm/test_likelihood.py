"""The likelihood of 65 labels in one pass is that of one forward pass per label."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from tests.mllm.reference import Spoken, nll_alone, picture
from tests.mllm.tiny import image_of

from throughline.mllm import likelihood
from throughline.mllm.chat import EncodedImage, EncodedPrompt, Path, user_turn
from throughline.mllm.likelihood import label_crown, label_log_likelihood, label_trie
from throughline.mllm.load import Mllm
from throughline.mllm.plan import Plan
from throughline.mllm.prefix import encode_prefix

WORDS = ["cat", "dog", "house", "boat", "horse", "clock", "coin", "cup"]
LABELS = [*WORDS, *(f"{a} {b}" for a in WORDS for b in WORDS[1:]), "caterpillar"]
"""65 labels, many the beginning of others."""
QUESTION = user_turn(f"What is shown? Choose from: {', '.join(LABELS)}. Answer with one word.")
PICTURES = [picture(0), picture(1, 24, 48)]


def asking(images: list[EncodedImage]) -> list[EncodedPrompt]:
    return [EncodedPrompt(QUESTION, [image]) for image in images]


@pytest.fixture(scope="module")
def one_by_one(mllms: dict[str, Mllm]) -> Callable[[str], torch.Tensor]:
    """Of a family, a forward pass for each: all labels about the first picture, then every fourth about the second."""

    @cache
    @torch.no_grad()
    def scores(family: str) -> torch.Tensor:
        model, processor = mllms[family].model, mllms[family].chat.processor
        asked = [(PICTURES[0], label) for label in LABELS] + [(PICTURES[1], label) for label in LABELS[::4]]
        spoken = [Spoken(QUESTION, [drawn], label) for drawn, label in asked]
        return torch.tensor([-float(nll_alone(model, processor, family, one).sum()) for one in spoken])

    return scores


@pytest.mark.parametrize("rows", ["packed", "masked", "paths"])
def test_all_labels_in_one_pass_are_as_one_by_one(
    mllm: Mllm, family: str, rows: str, one_by_one: Callable[[str], torch.Tensor]
) -> None:
    mllm = replace(mllm, plan=Plan(rows))
    images = [mllm.chat.encode_image(image_of(*drawn), str(drawn)) for drawn in PICTURES]
    found = label_log_likelihood(mllm, asking(images), LABELS)
    assert found.shape == (2, 65)
    compared = torch.cat([found[0], found[1, ::4]])
    torch.testing.assert_close(compared, one_by_one(family), atol=1e-4, rtol=1e-5)
    for i, image in enumerate(images):
        torch.testing.assert_close(label_log_likelihood(mllm, asking([image]), LABELS)[0], found[i])


def test_labels_are_cut_once_behind_prompts_of_many_words(
    mllm: Mllm, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a special token closes the question, as in chat templates but LLaVA's."""
    image = mllm.chat.encode_image(image_of(0), "0")
    prompts = [EncodedPrompt(user_turn(f"Choose: {', '.join(LABELS[n:] + LABELS[:n])}"), [image]) for n in range(4)]
    alone = [label_crown(mllm.chat, [prompt], LABELS) for prompt in prompts]
    calls, answered = [], mllm.chat.answered
    monkeypatch.setattr(mllm.chat, "answered", lambda *given: [calls.append(given), answered(*given)][1])
    together = label_crown(mllm.chat, prompts, LABELS)
    assert sum(answer is not None for *_, answer in calls) == len(LABELS) * (4 if family == "llava" else 1)
    assert together is not None
    for crown in alone:
        assert crown is not None
        for name in ("tokens", "offsets", "visible", "targets", "predictors", "owner"):
            assert torch.equal(getattr(crown, name), getattr(together, name))


def test_a_label_and_its_continuation_share_no_mass(mllm: Mllm) -> None:
    """Both end their turn: summed over everything one could say, probabilities stay below one."""
    image = mllm.chat.encode_image(image_of(0), "0")
    found = label_log_likelihood(mllm, asking([image]), LABELS)
    assert float(found.exp().sum()) < 1
    assert len(set(found[0].tolist())) == 65


def test_the_question_is_in_the_trie_once(mllm: Mllm) -> None:
    image = mllm.chat.encode_image(image_of(0), "0")
    tree = label_trie(mllm, EncodedPrompt(QUESTION, [image]), LABELS)
    prompt = len(mllm.chat.prompt(QUESTION, [image]).tokens)
    assert len(tree) < prompt + sum(len(b.scored) for b in tree.branches)
    assert [b.name for b in tree.branches] == LABELS


def test_images_in_turns_and_on_half_a_prompt_score_the_same(mllm: Mllm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What memory does not allow at once goes in turns; a prefix may end anywhere in the prompt."""
    images = [mllm.chat.encode_image(image_of(*drawn), str(drawn)) for drawn in PICTURES]
    expected = label_log_likelihood(mllm, asking(images), LABELS)
    monkeypatch.setattr(likelihood, "AT_ONCE", 1)
    torch.testing.assert_close(label_log_likelihood(mllm, asking(images), LABELS), expected, atol=1e-5, rtol=1e-5)
    prompts = [mllm.chat.prompt(QUESTION, [image]) for image in images]
    heads = [Path(p.tokens[:-4], p.positions[:, :-4], p.images, len(p.tokens) - 4) for p in prompts]
    found = label_log_likelihood(mllm, asking(images), LABELS, encode_prefix(mllm.model, heads))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_crown_computes_each_shared_token_once_and_no_labels_last(mllm: Mllm) -> None:
    image = mllm.chat.encode_image(image_of(0), "0")
    labels = ["cat", "cat tower", "cat"]
    crown = label_crown(mllm.chat, asking([image]), labels)
    assert crown is not None
    spelt = [mllm.chat.answered(QUESTION, [image], label) for label in labels]
    one, two = (path.tokens[path.answer_start :].tolist() for path in spelt[:2])
    shared = next(i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
    assert len(crown.tokens) == shared + (len(one) - 1 - shared) + (len(two) - 1 - shared)
    assert crown.owner.tolist() == [0] * len(one) + [1] * len(two) + [2] * len(one)


def test_labels_that_merge_with_the_prompt_are_scored_all_the_same(mllm: Mllm, monkeypatch: pytest.MonkeyPatch) -> None:
    image = mllm.chat.encode_image(image_of(0), "0")
    expected = label_log_likelihood(mllm, asking([image]), LABELS)
    real = type(mllm.chat).answered

    def merged(chat: Any, *args: Any) -> Path:
        path = real(chat, *args)
        return replace(path, answer_start=path.answer_start - 1)

    assert label_crown(mllm.chat, asking([image]), LABELS) is not None
    monkeypatch.setattr(type(mllm.chat), "answered", merged)
    assert label_crown(mllm.chat, asking([image]), LABELS) is None
    last = label_log_likelihood(mllm, asking([image]), LABELS) - expected
    torch.testing.assert_close(last, last[:, :1].expand_as(last))  # one token more, the prompt's own, for all alike
