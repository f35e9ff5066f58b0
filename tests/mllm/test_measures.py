"""Per-token measures against the plain model's whole distributions, and which characters a token is."""

from dataclasses import replace

import pytest
import torch
from tests.mllm.reference import Spoken, picture, processed, tree_of

from throughline.core.errors import ThroughlineError
from throughline.mllm import head
from throughline.mllm.chat import user_turn
from throughline.mllm.forward import measure_trees, score_trees
from throughline.mllm.load import Mllm
from throughline.mllm.plan import Plan

QUESTION = user_turn("What is shown? Choose from: cat, cat tower, dog")
TEXTS = ("cat tower", "The picture has a handle, no sail. <CONCLUSION> dog </CONCLUSION>")
PATHS = [Spoken(QUESTION, [picture(0)], text) for text in TEXTS]


@torch.no_grad()
def distributions(mllm: Mllm, family: str, spoken: Spoken) -> torch.Tensor:
    """`(answer tokens, vocabulary)` log-probabilities of one sequence by itself."""
    whole = processed(mllm.chat.processor, family, spoken, True)
    start = processed(mllm.chat.processor, family, spoken, False)["input_ids"].shape[1]
    return torch.log_softmax(mllm.model(**whole, use_cache=False).logits[0, start - 1 : -1].double(), dim=-1)


@pytest.mark.parametrize("whole", [False, True])
def test_entropies_are_those_of_each_sequence_by_itself(mllm: Mllm, family: str, whole: bool) -> None:
    plan = replace(mllm.plan, whole_logits=whole)
    batch = plan.collate([[tree_of(mllm, PATHS)]], mllm.chat.pad_id)
    scores, entropy = measure_trees(mllm.model, batch)
    expected = [-(logs.exp() * logs).sum(dim=-1) for logs in (distributions(mllm, family, one) for one in PATHS)]
    assert torch.allclose(entropy.double(), torch.cat(expected), atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(scores.token_nll, score_trees(mllm.model, batch).token_nll, atol=1e-5)


def test_chunks_change_nothing(mllms: dict[str, Mllm], monkeypatch: pytest.MonkeyPatch) -> None:
    mllm = mllms["internvl"]
    batch = Plan().collate([[tree_of(mllm, PATHS)]], mllm.chat.pad_id)
    _, whole = measure_trees(mllm.model, batch)
    monkeypatch.setattr(head, "LOGITS_AT_ONCE", 1)
    assert len(head._chunks(torch.arange(3), 100)) == 3
    assert torch.allclose(measure_trees(mllm.model, batch)[1], whole, atol=1e-6)


@pytest.mark.parametrize("answer", [*TEXTS, "cat", "naïve “quotes” – 猫"])
def test_spans_cover_the_answer_and_are_of_its_tokens(mllm: Mllm, answer: str) -> None:
    path = mllm.chat.answered(user_turn("What?", images=0), [], answer)
    spans = mllm.chat.answer_spans(user_turn("What?", images=0), answer)
    tokens = path.tokens[path.answer_start :]
    assert len(spans) == len(tokens)
    covered = {place for begin, end in spans for place in range(begin, end)}
    assert all(place in covered or answer[place].isspace() for place in range(len(answer)))
    assert spans[-1] == (len(answer), len(answer))  # what closes the turn
    for token, (begin, end) in zip(tokens, spans, strict=True):
        text = mllm.chat.tokenizer.decode([int(token)])
        if answer.isascii() and begin < end:
            assert text.strip() in answer[begin:end] or answer[begin:end].strip() in text


def test_images_before_the_answer_do_not_move_its_spans(mllm: Mllm) -> None:
    from tests.mllm.tiny import image_of

    image = mllm.chat.encode_image(image_of(0), "0")
    path = mllm.chat.answered(QUESTION, [image], TEXTS[1])
    assert len(mllm.chat.answer_spans(QUESTION, TEXTS[1])) == len(path.tokens) - path.answer_start


def test_a_tokenizer_that_does_not_tell_is_named(mllms: dict[str, Mllm], monkeypatch: pytest.MonkeyPatch) -> None:
    chat = mllms["internvl"].chat
    real = type(chat.tokenizer).__call__

    def slow(self, *args, **options):
        if options.pop("return_offsets_mapping", False):
            raise NotImplementedError
        return real(self, *args, **options)

    monkeypatch.setattr(type(chat.tokenizer), "__call__", slow)
    with pytest.raises(ThroughlineError, match="does not say which characters"):
        chat.answer_spans(QUESTION, "cat")
