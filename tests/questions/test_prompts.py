"""Prompts, questions and what is read from answers."""

import pickle
import subprocess
import sys
from pathlib import Path

from tests.training.small import chain_of

from throughline.chains.formats import FIVE_STAGE
from throughline.core.settings import AnswerSettings
from throughline.domains.samples import Sample
from throughline.questions.prompt import ImageThenText, user_prompt
from throughline.questions.question import Generated, Likelihood
from throughline.questions.question_set import make_question_set, shuffled_options

CAT, DOG = (Sample(f"{name}.png", Path("images"), "photo", (name,), name) for name in ("cat", "dog"))
QUESTIONS = make_question_set(("hot_dog", "cat"), FIVE_STAGE)


def test_the_room_loads_no_torch() -> None:
    script = (
        "import sys\nfrom throughline.questions import prompt, question, question_set, sampler, wording\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_images_stand_where_they_were_put() -> None:
    prompt = user_prompt("Before", CAT, DOG, "after")
    (turn,) = prompt.messages
    assert [part["type"] for part in turn["content"]] == ["text", "image", "image", "text"]
    assert prompt.images == (CAT, DOG) and prompt.text == "Before\nafter"
    (sent,) = prompt.with_urls(["data:1", "data:2"])
    assert sent["content"] == [
        {"type": "text", "text": "Before"},
        {"type": "image_url", "image_url": {"url": "data:1"}},
        {"type": "image_url", "image_url": {"url": "data:2"}},
        {"type": "text", "text": "after"},
    ]
    assert user_prompt("Nothing to see").images == ()


def test_the_questions_of_the_settings_come_in_their_order_and_share_the_label_prompt() -> None:
    questions = QUESTIONS.build(AnswerSettings(answers=("likelihood", "reasoning", "label"), constrained=True))
    likelihood, reasoning, label = questions
    assert [question.name for question in questions] == ["likelihood", "reasoning", "label"]
    assert label.prompt == likelihood.prompt == ImageThenText(QUESTIONS.label) != reasoning.prompt
    assert likelihood.answer == Likelihood(("hot dog", "cat"), ("hot_dog", "cat"))
    assert isinstance(reasoning.answer, Generated) and reasoning.answer.format is FIVE_STAGE
    assert isinstance(label.answer, Generated) and label.answer.format is None
    assert reasoning.prompt(CAT).text.startswith(label.prompt(CAT).text)


def test_sixty_options_stand_in_an_order_of_each_samples_own() -> None:
    built = make_question_set([f"class_{number}" for number in range(60)])

    def offered(sample: Sample, seed: int = 0, text: str = built.label) -> list[str]:
        return (
            shuffled_options(built.class_names, ImageThenText, seed, text)(sample).text.rpartition(": ")[2].split(", ")
        )

    of_cat, of_dog = offered(CAT), offered(DOG)
    assert sorted(of_cat) == sorted(of_dog) == sorted(built.class_names)
    assert len({tuple(order) for order in (of_cat, of_dog, offered(CAT, seed=1), built.class_names)}) == 4
    assert offered(CAT) == of_cat
    firsts = [offered(Sample(f"{number}.png", Path(), "photo", ("cat",), "")) for number in range(600)]
    assert len({order[0] for order in firsts}) > 50  # no class has the first place to itself
    label, reasoning = (
        shuffled_options(built.class_names, ImageThenText, 0, text)(CAT).text for text in (built.label, built.reasoning)
    )
    assert reasoning.startswith(f"{label}\n")


def test_answers_are_read_by_the_question() -> None:
    likelihood, reasoning, label = (
        question.answer for question in QUESTIONS.build(AnswerSettings(answers=("likelihood", "reasoning", "label")))
    )
    assert isinstance(likelihood, Likelihood) and isinstance(reasoning, Generated) and isinstance(label, Generated)
    assert label.read("a hot dog", "stop").predicted == "hot_dog"
    assert reasoning.read(chain_of("cat"), "stop").predicted == "cat"
    assert reasoning.read(chain_of("cat"), "length").outcome == "truncated"
    assert reasoning.read("It is a cat.", "stop").predicted is None
    reading = likelihood.read([1e-13 / 3, 1.0])
    assert reading.predicted == "cat" and reading.probabilities == (3.33333e-14, 1.0)


def test_a_question_set_travels_between_processes() -> None:
    built = QUESTIONS.build(AnswerSettings())
    again, questions = pickle.loads(pickle.dumps((QUESTIONS, built)))
    assert again == QUESTIONS
    assert [question.prompt for question in questions] == [question.prompt for question in built]
