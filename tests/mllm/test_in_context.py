"""Questions behind labelled examples, behind descriptions, about parts and without an image: what a family's plain
forward pass gives for the whole conversation, in every family."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.mllm.reference import Spoken, nll_alone, picture
from tests.mllm.tiny import image_of

from parts_question import parts_question
from throughline.core.settings import AnswerSettings
from throughline.domains.samples import Sample
from throughline.evaluation.answers import answer_samples
from throughline.mllm import prefix
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.tree import common_path
from throughline.questions.in_context import EXAMPLE_QUESTION, WithExamples, with_descriptions
from throughline.questions.probing import class_from_words
from throughline.questions.prompt import ImageThenText, user_prompt
from throughline.questions.question import Likelihood, Question
from throughline.questions.question_set import make_question_set, shuffled_options

CLASSES = ("cat", "dog", "boat")
ANSWER = Likelihood(CLASSES, CLASSES)
LABEL = make_question_set(CLASSES).label


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Five pictures as files."""
    for seed in range(5):
        image_of(seed).save(tmp_path / f"{seed}.png")
    return [Sample(f"{seed}.png", tmp_path, "d", ("cat",), f"content of {seed}") for seed in range(5)]


def questions(samples: list[Sample]) -> list[Question]:
    """Every kind."""
    shown = tuple(zip(samples[:2], ("dog", "boat"), strict=True))
    described = with_descriptions(LABEL, {"cat": "tail, no sail", "boat": "hull, sail"})
    return [
        Question("examples", WithExamples(shown, LABEL), ANSWER),
        Question("descriptions", ImageThenText(described), ANSWER),
        Question("from words", lambda _: user_prompt(class_from_words("a hull and a sail", LABEL)), ANSWER),
    ]


def test_each_is_the_plain_pass_over_the_whole_conversation(mllm: Mllm, family: str, samples: list[Sample]) -> None:
    asked = questions(samples)
    rows = answer_samples(mllm, samples[2:], asked, batch=3)
    by_name = {question.name: question for question in asked}
    for row in rows:
        prompt = by_name[row.answer].prompt(samples[int(row.sample_id[0])])
        pictures = [picture(int(image.id[0])) for image in prompt.images]
        with torch.no_grad():
            nll = [
                nll_alone(mllm.model, mllm.chat.processor, family, Spoken(prompt.messages, pictures, name)).sum()
                for name in CLASSES
            ]
        expected = torch.softmax(-torch.stack(nll).double(), dim=0).tolist()
        assert row.probabilities == pytest.approx(expected, rel=2e-3), row.answer


def test_likelihoods_count_what_plain_passes_give(mllm: Mllm, family: str, samples: list[Sample]) -> None:
    """The sum over an answer's tokens, their mean, and the sum less that behind the same words without the image;
    alone, behind examples, and with options in another order for each image."""
    classes = ("cat", "small dog", "boat")
    built = make_question_set(classes)
    settings = AnswerSettings(answers=("likelihood", "mean_likelihood", "contrast", "prior"))
    shown = ((samples[0], "boat"),)
    behind = partial(WithExamples, shown)
    for about in (ImageThenText, behind, partial(shuffled_options, classes, behind, 0)):
        rows = answer_samples(mllm, samples[2:4], built.build(settings, about), batch=2)
        for place, sample in enumerate(samples[2:4]):
            prompt = about(built.label)(sample)
            pictures = [picture(int(image.id[0])) for image in prompt.images]
            turn = prompt.messages[-1]
            blind = [*prompt.messages[:-1], {**turn, "content": [p for p in turn["content"] if p["type"] != "image"]}]

            def logs(messages: Any, shown: Any) -> list[torch.Tensor]:
                with torch.no_grad():
                    return [
                        -nll_alone(mllm.model, mllm.chat.processor, family, Spoken(messages, shown, name))
                        for name in classes
                    ]

            seen, prior = logs(prompt.messages, pictures), logs(blind, pictures[:-1])
            scores = {
                "likelihood": [float(log.sum()) for log in seen],
                "mean_likelihood": [float(log.mean()) for log in seen],
                "contrast": [float(log.sum() - other.sum()) for log, other in zip(seen, prior, strict=True)],
                "prior": [float(other.sum()) for other in prior],
            }
            for row in rows[4 * place : 4 * place + 4]:
                expected = torch.softmax(torch.tensor(scores[row.answer]).double(), dim=0).tolist()
                assert row.probabilities == pytest.approx(expected, rel=2e-3), row.answer


def test_examples_that_all_samples_share_go_through_the_model_once(
    mllm: Mllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of several sizes, which some families turn into several numbers of tokens."""
    for seed, side in enumerate((32, 32, 32, 64, 32)):
        image_of(seed).resize((side, side)).save(tmp_path / f"{seed}.png")
    samples = [Sample(f"{seed}.png", tmp_path, "d", ("cat",), f"sized {seed}") for seed in range(5)]
    shown = tuple(zip(samples[:2], ("dog", "boat"), strict=True))
    reader = ImageReader(mllm.chat)
    paths = [WithExamples(shown, LABEL)(sample).encode(reader).path(mllm.chat) for sample in samples[2:]]
    beginning = common_path(paths, mllm.chat.image_token_id)
    assert len(beginning.images) == 2
    if not mllm.plan.takes_layouts:
        pytest.skip("this family has no prefixes")
    run: list[int] = []
    real = prefix._states

    def counted(model: object, tokens: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        run.append(len(tokens))
        return real(model, tokens, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(prefix, "_states", counted)
    alone, together = prefix.encode_prefix(mllm.model, paths), prefix.encode_prefix(mllm.model, paths, beginning)
    whole, *once = run
    assert whole - sum(once) == 2 * len(beginning.tokens)
    assert (together.lengths, together.following.tolist()) == (alone.lengths, alone.following.tolist())
    for ours, theirs in zip((*together.keys, *together.values), (*alone.keys, *alone.values), strict=True):
        for row, length in enumerate(alone.lengths):
            torch.testing.assert_close(ours[row, :, :length], theirs[row, :, :length], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.state, alone.state, rtol=1e-4, atol=1e-5)
    assert (together.beyond is None) == (alone.beyond is None)
    assert together.beyond is None or torch.equal(together.beyond, alone.beyond)


def test_images_that_are_all_the_same_are_answered_as_each_alone(mllm: Mllm, samples: list[Sample]) -> None:
    """Then the prompts have everything in common, the image asked about with it."""
    asked = [Question("examples", WithExamples(((samples[0], "dog"),), LABEL), ANSWER)]
    (alone,) = answer_samples(mllm, samples[2:3], asked, batch=1)
    for row in answer_samples(mllm, [samples[2]] * 3, asked, batch=3):
        assert row.probabilities == pytest.approx(alone.probabilities, rel=1e-3)


def test_an_example_is_a_turn_with_its_image_and_one_with_its_label(mllm: Mllm, samples: list[Sample]) -> None:
    prompt = WithExamples(((samples[0], "dog"), (samples[1], "boat")), LABEL)(samples[4])
    assert [turn["role"] for turn in prompt.messages] == ["user", "assistant"] * 2 + ["user"]
    assert [image.id for image in prompt.images] == ["0.png", "1.png", "4.png"]
    assert prompt.text == f"{EXAMPLE_QUESTION}\ndog\n{EXAMPLE_QUESTION}\nboat\n{LABEL}"


@pytest.mark.parametrize(
    ("text", "predicted"),
    [
        ("basin, handle", ("basin", "handle")),
        ("A basin without a handle.", ("basin",)),
        ("no handle", None),
        ("", None),
        ("I see hands; a stripe is there too.", ("hands", "stripe")),
    ],
)
def test_parts_that_are_denied_are_not_named(text: str, predicted: tuple[str, ...] | None) -> None:
    answer = parts_question(("basin", "handle", "hands", "stripe")).answer
    reading = answer.read(text, "stop")  # type: ignore[call-arg, union-attr, arg-type]
    assert reading.predicted == predicted


@pytest.mark.slow
def test_they_are_asked_of_the_pocket_as_well(samples: list[Sample]) -> None:
    parts = parts_question(("basin", "handle"))
    rows = answer_samples(load_mllm("pocket"), samples[2:], [*questions(samples), parts], batch=2)
    assert [row.answer for row in rows] == ["examples", "descriptions", "from words", "parts"] * 3
    assert all(sum(row.probabilities or (1,)) == pytest.approx(1, abs=1e-4) for row in rows)
