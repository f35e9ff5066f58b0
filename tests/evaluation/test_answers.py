"""Every planned sample ends in one prediction for each way of answering, whatever lies in its file."""

import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.evaluation.questions import ANSWERS, CLASSES, QUESTIONS, answers_of, asked
from tests.mllm.reference import Spoken, nll_alone, picture
from tests.mllm.tiny import FAMILIES, write_checkpoint
from tests.training.small import chain_of, with_lora

from throughline.chains.outcomes import Outcome
from throughline.core.settings import AnswerSettings
from throughline.domains.samples import ImageSet, Sample
from throughline.evaluation import answers
from throughline.evaluation.answers import answer_samples
from throughline.evaluation.results import results_lines
from throughline.mllm.chat import user_turn
from throughline.mllm.likelihood import label_log_likelihood
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.plan import Plan
from throughline.mllm.sampling import Continuation
from throughline.questions.in_context import WithExamples
from throughline.questions.prompt import Prompt, user_prompt
from throughline.questions.question import Generated, Likelihood, Question, Reading
from throughline.questions.question_set import make_question_set
from throughline.runs.records import Prediction
from throughline.runs.unit import Unit


@pytest.fixture
def broken(tiny_images: ImageSet, tmp_path: Path) -> list[Sample]:
    """Six images, of which the second is torn, the fourth and fifth are gone."""
    samples = list(tiny_images.samples[:6])
    torn = tmp_path / samples[1].id
    torn.parent.mkdir(parents=True)
    torn.write_bytes(samples[1].path.read_bytes()[:40])
    samples[1] = replace(samples[1], root=tmp_path, image_sha256="torn")
    for place in (3, 4):
        samples[place] = replace(samples[place], root=tmp_path / "gone", image_sha256=f"gone {place}")
    return samples


@pytest.mark.parametrize("batch", [1, 4, 10])
def test_every_sample_has_one_prediction_for_every_answer(tiny_mllm: Mllm, broken: list[Sample], batch: int) -> None:
    found = answers_of(tiny_mllm, broken, asked(batch=batch))
    assert [(p.sample_id, p.answer) for p in found] == [(one.id, answer) for one in broken for answer in ANSWERS]
    for p, one in zip(found, (one for one in broken for _ in ANSWERS), strict=True):
        assert (p.domain, p.labels) == (one.domain, one.labels)
        unreadable = one.image_sha256 in {"torn", "gone 3", "gone 4"}
        assert (p.outcome == "error") == unreadable
        if unreadable:
            assert p.predicted is None
            assert not p.correct
            assert one.path.name in p.text
            assert p.probabilities is None


def test_images_nobody_can_read_do_not_move_the_others(tiny_mllm: Mllm, broken: list[Sample]) -> None:
    readable = [broken[place] for place in (0, 2, 5)]
    alone = answers_of(tiny_mllm, readable, asked())
    among = answers_of(tiny_mllm, broken, asked(batch=10))
    assert [p for p in among if p.outcome != "error"] == alone


def test_an_image_the_processor_refuses_counts_as_an_error(
    tiny_mllm: Mllm, tiny_images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("absolute aspect ratio must be smaller than 200")

    monkeypatch.setattr(tiny_mllm.chat, "encode_image", refuse)
    found = answers_of(tiny_mllm, tiny_images.samples[:2], asked())
    assert {p.outcome for p in found} == {"error"}
    assert "aspect ratio" in found[0].text


def test_probabilities_are_those_of_the_labels_alone_and_sum_to_one(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    samples = tiny_images.samples[:3]
    found = answers_of(tiny_mllm, samples, asked(answers=("likelihood",), batch=2))
    for seed, p in enumerate(found):
        spoken = [Spoken(user_turn(QUESTIONS.label), [picture(seed)], name) for name in CLASSES]
        with torch.no_grad():
            nll = [nll_alone(tiny_mllm.model, tiny_mllm.chat.processor, "internvl", one).sum() for one in spoken]
        expected = torch.softmax(-torch.stack(nll).double(), 0).tolist()
        assert p.probabilities == pytest.approx(expected, rel=1e-3)
        assert sum(p.probabilities or ()) == pytest.approx(1, abs=1e-5)
        assert p.predicted == CLASSES[expected.index(max(expected))]
        assert min(p.probabilities or ()) > 0


def test_a_class_that_is_almost_impossible_keeps_its_likelihood(
    tiny_mllm: Mllm, tiny_images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its -log p is part of the calibration: rounded to 0 it would be infinite."""
    scores = torch.tensor([[0.0, -20.0, -30.0]])
    monkeypatch.setattr(answers, "label_log_likelihood", lambda *_: scores)
    (p,) = answers_of(tiny_mllm, tiny_images.samples[:1], asked(answers=("likelihood",)))
    assert torch.tensor(p.probabilities).log().tolist() == pytest.approx([0, -20, -30], abs=1e-4)


def replies(monkeypatch: pytest.MonkeyPatch, *texts: str, why: str = "stop") -> None:
    """Puts words into the model's mouth."""
    rows = [[Continuation((1,), text, why)] for text in texts]
    monkeypatch.setattr(answers, "continuations_of", lambda *_, **__: rows)


def outcomes(found: list[Prediction]) -> list[tuple[str | None, str]]:
    return [(p.predicted, p.outcome) for p in found]


def test_the_label_path_reads_classes_and_nothing_else(
    tiny_mllm: Mllm, tiny_images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies(monkeypatch, "A cat.", "cat or dog", "a spaceship", "")
    found = answers_of(tiny_mllm, tiny_images.samples[:4], asked(answers=("label",)))
    assert outcomes(found) == [("cat", "ok"), (None, "ambiguous"), (None, "out_of_list"), (None, "empty")]


def test_the_reasoning_path_reads_conclusions_of_well_formed_chains_only(
    tiny_mllm: Mllm, tiny_images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = chain_of("cat")
    replies(monkeypatch, chain, "It is a cat.", chain.replace("<CONCLUSION>", ""), chain + " and a dog")
    found = answers_of(tiny_mllm, tiny_images.samples[:4], asked(answers=("reasoning",)))
    assert outcomes(found) == [
        ("cat", "ok"),
        (None, "missing_stage"),
        (None, "missing_stage"),
        (None, "trailing_text"),
    ]
    assert found[0].text == chain
    replies(monkeypatch, chain, why="length")
    (cut,) = answers_of(tiny_mllm, tiny_images.samples[:1], asked(answers=("reasoning",)))
    assert outcomes([cut]) == [(None, "truncated")]


def test_no_answer_depends_on_dropout(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    model = with_lora(tiny_mllm, dropout=0.5)
    first = answers_of(tiny_mllm, tiny_images.samples[:3], asked())
    model.train()
    assert answers_of(tiny_mllm, tiny_images.samples[:3], asked()) == first


def test_progress_counts_images(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    told: list[tuple[int, int]] = []
    answers_of(
        tiny_mllm,
        tiny_images.samples[:5],
        asked(answers=("likelihood",), batch=2),
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_a_line_has_probabilities_only_where_there_are_some(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    label, chain, likelihood = (p.to_json() for p in answers_of(tiny_mllm, tiny_images.samples[:1], asked()))
    common = {"sample_id", "domain", "labels", "answer", "predicted", "outcome", "text"}
    assert set(label) == set(chain) == common
    assert set(likelihood) == common | {"probabilities"}


@pytest.mark.parametrize("family", FAMILIES)
def test_asked_together_every_way_gives_what_it_gives_alone(family: str, tiny_images: ImageSet, tmp_path: Path) -> None:
    """All three share what the questions share; a model that takes no layouts computes each by itself."""
    mllm = load_mllm(str(write_checkpoint(family, tmp_path)))
    samples = tiny_images.samples[:4]
    together = answers_of(mllm, samples, asked(batch=3))
    apart = [answers_of(mllm, samples, asked(answers=(answer,), batch=3)) for answer in ANSWERS]
    slower = answers_of(replace(mllm, plan=Plan("masked")), samples, asked(batch=3))
    for other in ([p for row in zip(*apart, strict=True) for p in row], slower):
        for one, two in zip(together, other, strict=True):
            assert replace(one, probabilities=None) == replace(two, probabilities=None)
            assert (one.probabilities or ()) == pytest.approx(two.probabilities or (), rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_behind_examples_are_those_of_a_naive_loop(
    family: str, tiny_images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-4, as logarithms: every image's whole conversation goes through the model, once for each class."""
    mllm = load_mllm(str(write_checkpoint(family, tmp_path)))
    scores: list[torch.Tensor] = []

    def noted(*given: Any) -> torch.Tensor:
        scores.append(label_log_likelihood(*given))
        return scores[-1]

    monkeypatch.setattr(answers, "label_log_likelihood", noted)
    make = partial(WithExamples, tuple((sample, sample.label) for sample in tiny_images.samples[9:13]))
    samples = tiny_images.samples[:5]
    found = answer_samples(mllm, samples, QUESTIONS.build(asked(answers=("likelihood",)), make), batch=2)
    naive = []
    for sample in samples:
        prompt = make(QUESTIONS.label)(sample)
        pictures = [picture(tiny_images.samples.index(image)) for image in prompt.images]
        spoken = [Spoken(prompt.messages, pictures, name) for name in CLASSES]
        with torch.no_grad():
            naive.append([-float(nll_alone(mllm.model, mllm.chat.processor, family, one).sum()) for one in spoken])
    assert torch.cat(scores).numpy() == pytest.approx(np.array(naive), abs=1e-4)
    assert [row.predicted for row in found] == [CLASSES[place] for place in np.argmax(naive, axis=1)]


def test_the_seconds_of_every_way_add_up_to_no_more_than_all(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    took: Counter[str] = Counter()
    began = time.monotonic()
    answers_of(tiny_mllm, tiny_images.samples[:4], asked(batch=2), seconds=took)
    assert set(took) == set(ANSWERS)
    assert 0 < sum(took.values()) <= time.monotonic() - began


@pytest.mark.slow
def test_constrained_chains_stay_in_their_format_and_labels_are_free(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    """Of random weights nothing else would: what is not truncated has every stage."""
    settings = asked(constrained=True, chain_tokens=400)
    found = answers_of(tiny_mllm, tiny_images.samples[:3], settings)
    free = answers_of(tiny_mllm, tiny_images.samples[:3], asked(chain_tokens=400))
    chains = [p for p in found if p.answer == "reasoning"]
    assert all(p.text.startswith("<SUMMARY>") for p in chains)
    assert {p.outcome for p in chains} <= {"ok", "truncated", "out_of_list", "ambiguous", "negated"}
    assert [p.text for p in found if p.answer == "label"] == [p.text for p in free if p.answer == "label"]
    assert not any(p.text.startswith("<SUMMARY>") for p in free)


# questions of any kind ------------------------------------------------------------------------------------------------


def read_text(text: str, finish_reason: str) -> Reading:
    """A reader that names no class."""
    return Reading(None, Outcome.OUT_OF_LIST)


def read_words(text: str, finish_reason: str) -> Reading:
    """A reader of several classes."""
    words = tuple(word for word in ("cat", "dog", "cup") if word in text)
    return Reading(words, Outcome.OK) if words else Reading(None, Outcome.EMPTY)


@pytest.mark.parametrize("plan", [None, Plan("masked")])
def test_questions_about_any_number_of_images_stand_beside_each_other(
    tiny_mllm: Mllm, tiny_images: ImageSet, plan: Plan | None
) -> None:
    """With examples before the image, without any image, and ours: each answers as it does when asked alone."""
    mllm = tiny_mllm if plan is None else replace(tiny_mllm, plan=plan)
    example, *samples = tiny_images.samples[:4]
    others = tiny_images.samples[10:20]

    def with_examples(sample: Sample) -> Prompt:
        shown = others[: 1 + samples.index(sample) % 2]  # not the same number for all
        return user_prompt(*shown, "A dog, and", sample, "What is shown?")

    asking = Generated(read_text, max_new_tokens=5)
    questions = (
        *QUESTIONS.build(asked(answers=("label", "likelihood"))),
        Question("examples", with_examples, asking),
        Question("examples likelihood", with_examples, Likelihood(("a cat", "a dog"), ("cat", "dog"))),
        Question("blind", lambda sample: user_prompt("What is shown?"), asking),
        Question("image last", lambda sample: user_prompt(example, QUESTIONS.label, sample), asking),
    )
    together = answer_samples(mllm, samples, questions, batch=3)
    assert [p.answer for p in together] == [question.name for question in questions] * 3
    apart = [answer_samples(mllm, samples, [question], batch=3) for question in questions]
    for one, two in zip(together, [p for row in zip(*apart, strict=True) for p in row], strict=True):
        assert replace(one, probabilities=None) == replace(two, probabilities=None)
        assert (one.probabilities or ()) == pytest.approx(two.probabilities or (), rel=1e-4)
    texts = {name: {p.text for p in together if p.answer == name} for name in ("blind", "image last")}
    assert len(texts["blind"]) == 1 < len(texts["image last"])


def test_an_answer_of_several_classes_is_right_when_the_set_is_equal(
    tiny_mllm: Mllm, tiny_images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [("cat", "dog"), ("dog",), ("cup", "dog"), ()]
    samples = [replace(s, labels=own, task="multi") for s, own in zip(tiny_images.samples, labels, strict=False)]
    assert len(answers_of(tiny_mllm, samples, asked())) == 12  # no question of ours needs a single label
    replies(monkeypatch, "a dog and a cat", "a dog and a cat", "a dog, a cup", "")
    question = Question("classes", lambda sample: user_prompt(sample, "Which?"), Generated(read_words, 8))
    predictions = answer_samples(tiny_mllm, samples, [question], batch=4)
    (ours,) = make_question_set(CLASSES, several=True).build(AnswerSettings(answers=("label",)))
    assert answer_samples(tiny_mllm, samples, [ours], batch=4) == [
        replace(p, answer="label", predicted=tuple(sorted(p.predicted)) if p.predicted else None) for p in predictions
    ]
    assert [p.predicted for p in predictions] == [("cat", "dog"), ("cat", "dog"), ("dog", "cup"), None]
    assert [p.correct for p in predictions] == [True, False, True, False]
    unit = Unit("evaluate", "d", ("sketch",), "zero_shot", "m", 0)
    (line,) = results_lines(predictions, CLASSES, {"all": None}, unit, {})
    assert (line.n, line.correct, line.unparsed) == (4, 2, 1)
