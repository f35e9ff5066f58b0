"""Model selection on the source domains' out splits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.evaluation.questions import QUESTIONS, answers_of, asked, predicted
from tests.training.small import same, weights, with_lora

from throughline.domains.samples import ImageSet, Sample
from throughline.evaluation import selection
from throughline.evaluation.folds import leave_out
from throughline.evaluation.selection import select_best
from throughline.mllm.load import Mllm
from throughline.mllm.lora import save_adapter
from throughline.runs.records import Prediction


@pytest.fixture
def candidates(tiny_mllm: Mllm, tmp_path: Path) -> tuple[Any, dict[str, Path]]:
    """A model and four saved adapters of it; the n-th one's weights are all n."""
    model = with_lora(tiny_mllm)
    found = {}
    for number in range(4):
        fill(model, number)
        save_adapter(model, tmp_path / str(number))
        found[f"epoch {number}"] = tmp_path / str(number)
    return model, found


def fill(model: Any, number: int) -> None:
    with torch.no_grad():
        for value in weights_of(model):
            value.fill_(number)


def weights_of(model: Any) -> list[torch.Tensor]:
    return [value for value in model.parameters() if value.requires_grad]


class Answers:
    """Stands in for `answer_samples`: candidate n is right on `right[n]` samples; notes who was asked."""

    def __init__(self, model: Any, right: Sequence[int]) -> None:
        self.model, self.right = model, right
        self.asked: list[str] = []
        self.answers: set[tuple[str, ...]] = set()

    def __call__(self, mllm: Mllm, samples: Sequence[Sample], questions: Any, batch: int, **_: Any) -> Any:
        self.asked += [one.id for one in samples]
        self.answers.add(tuple(question.name for question in questions))
        right = self.right[int(weights_of(self.model)[0].flatten()[0])]
        return [predicted(one.id, "cat", "cat" if n < right else "dog") for n, one in enumerate(samples)]


@pytest.mark.parametrize(("right", "best"), [((1, 3, 2, 0), 1), ((3, 1, 3, 2), 2), ((0, 0, 0, 0), 3)])
def test_the_best_weights_are_put_in_and_of_equals_the_later(
    candidates: Any, tiny_mllm: Mllm, tiny_images: ImageSet, monkeypatch: Any, right: tuple[int, ...], best: int
) -> None:
    model, found = candidates
    monkeypatch.setattr(selection, "answer_samples", Answers(model, right))
    samples = tiny_images.samples[:3]
    lines = select_best(model, tiny_mllm, found, samples, QUESTIONS, asked())
    assert all(bool((value == best).all()) for value in weights_of(model))
    assert [line["selected"] for line in lines] == [number == best for number in range(4)]
    assert [(line["candidate"], line["n"], line["correct"]) for line in lines] == [
        (f"epoch {number}", 3, right[number]) for number in range(4)
    ]


def test_the_target_is_never_asked_about(
    candidates: Any, tiny_mllm: Mllm, tiny_images: ImageSet, monkeypatch: Any
) -> None:
    model, found = candidates
    fold = leave_out(tiny_images, ("sketch",), 0)
    answers = Answers(model, (0, 0, 0, 0))
    monkeypatch.setattr(selection, "answer_samples", answers)
    select_best(model, tiny_mllm, found, fold.validation, QUESTIONS, asked(answers=("likelihood", "label")))
    assert set(answers.asked) == {one.id for one in fold.validation}
    assert not {one.id for one in fold.test} & set(answers.asked)
    assert answers.answers == {("likelihood",)}  # the first way of answering in the settings


def test_with_a_real_model_the_lines_are_what_the_chosen_one_answers(
    tiny_mllm: Mllm, tiny_images: ImageSet, tmp_path: Path
) -> None:
    model = with_lora(tiny_mllm)
    adapters, found = {}, []
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for value in weights_of(model):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.5)
        save_adapter(model, tmp_path / str(number))
        adapters[str(number)] = tmp_path / str(number)
        found.append(weights(model))
    samples = tiny_images.samples[::3]
    settings = asked(answers=("likelihood",))
    lines = select_best(model, tiny_mllm, adapters, samples, QUESTIONS, settings)
    (chosen,) = [number for number, line in enumerate(lines) if line["selected"]]
    assert same(weights(model), found[chosen])
    answered: list[Prediction] = answers_of(tiny_mllm, samples, settings)
    assert lines[chosen]["correct"] == sum(p.correct for p in answered)
