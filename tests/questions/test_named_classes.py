"""Classes with a display name and synonyms: asked about and read by them, known by their own."""

import pytest
from tests.training.small import chain_of

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.outcomes import Outcome
from throughline.chains.records import Candidate
from throughline.chains.verdicts import basis_of, verdicts_on
from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash
from throughline.core.settings import AnswerSettings
from throughline.questions.question_set import make_question_set
from throughline.teaching.prompt import teacher_prompt

CLASSES = ("n01440764", "n02099601", "cat")
NAMES = {"n01440764": ("tench", "Tinca tinca"), "n02099601": ("golden_retriever", "golden")}
QUESTIONS = make_question_set(CLASSES, names=NAMES)


def question(name, questions=QUESTIONS):
    return next(asked for asked in questions.build(AnswerSettings()) if asked.name == name)


def test_options_are_listed_by_display_name():
    for text in (*QUESTIONS.texts, teacher_prompt(CLASSES, FIVE_STAGE, names=NAMES)):
        assert "tench, golden retriever, cat" in text
        assert "n01440764" not in text and "Tinca" not in text


def test_the_display_name_is_the_continuation_that_stands_for_the_class():
    answer = question("likelihood").answer
    assert answer.continuations == ("tench", "golden retriever", "cat")
    assert answer.classes == CLASSES
    assert answer.read([0.7, 0.2, 0.1]).predicted == "n01440764"


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("tench", "n01440764"),
        ("A tench.", "n01440764"),
        ("This is Tinca tinca, a fish.", "n01440764"),
        ("two tenches", "n01440764"),
        ("Answer: golden retriever", "n02099601"),
        ("It is a golden.", "n02099601"),
        ("n02099601", "n02099601"),
        ("a cat", "cat"),
        ("not a tench but a cat", "cat"),
    ],
)
def test_display_names_and_synonyms_answer_with_the_class(said, label):
    assert question("label").answer.read(said, "stop").predicted == label
    assert question("reasoning").answer.read(chain_of(said), "stop").predicted == label


def test_without_names_the_same_answers_name_no_class():
    assert question("label", make_question_set(CLASSES)).answer.read("tench", "stop").predicted is None


@pytest.mark.parametrize("chain", [chain_of("tench"), chain_of("Tinca tinca"), chain_of("n01440764")])
def test_rules_accept_chains_that_conclude_in_any_name_of_the_class(chain):
    candidate = Candidate(
        key="k",
        sample_id="s",
        image_sha256="0" * 64,
        domain="photo",
        classes_sha256="0" * 64,
        format=FIVE_STAGE.name,
        source="test",
        model="by hand",
        prompt_sha256="0" * 64,
        text=chain,
        finish_reason="stop",
    )
    [verdict] = verdicts_on(candidate, ["correct"], FIVE_STAGE, CLASSES, "n01440764", NAMES)
    assert (verdict.accepted, verdict.outcome) == (True, Outcome.OK)
    [other] = verdicts_on(candidate, ["correct"], FIVE_STAGE, CLASSES, "cat", NAMES)
    assert not other.accepted


def test_verdicts_are_judged_anew_under_other_names_and_stand_without_any():
    from throughline.chains.rules import VERSION

    plain = content_hash([VERSION, FIVE_STAGE.name, FIVE_STAGE.stages, CLASSES, "cat"])[:16]
    assert basis_of(FIVE_STAGE, CLASSES, "cat") == plain
    candidate = Candidate.model_construct(key="k", sample_id="s", text=chain_of("cat"), finish_reason="stop")
    bases = [
        verdicts_on(candidate, ["correct"], FIVE_STAGE, CLASSES, "cat", names)[0].basis
        for names in (None, {}, NAMES, {**NAMES, "cat": ("kitty",)})
    ]
    assert bases[0] == bases[1] == plain
    assert len(set(bases)) == 3


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"cat": ["Tench"], "n01440764": ["tench"]}, "one of another class"),
        ({"cat": ["n01440764"]}, "one of another class, 'n01440764'"),
        ({"cat": ["kitty", "N-02099601"]}, "one of another class, 'n02099601'"),
        ({"dog": ["puppy"]}, "unknown class"),
        ({"cat": ["!!!"]}, "no letter"),
    ],
)
def test_names_that_cannot_be_told_apart_are_one_clear_line(names, said):
    with pytest.raises(ThroughlineError) as error:
        make_question_set(CLASSES, names=names)
    assert said in str(error.value) and "\n" not in str(error.value)
    make_question_set(CLASSES, names={"cat": ["cat", "Cat", "kitty"]})  # a class may repeat its own


def test_a_folder_called_by_a_number_or_a_picture_is_read_by_its_name_alone():
    classes = ("0", "1", "\U0001f431", "2b")
    names = {"0": ("cup",), "1": ("dog",), "\U0001f431": ("cat",), "2b": ("pencil",)}
    read = question("label", make_question_set(classes, names=names)).answer.read
    for said, label in (("There is 1 cup.", "0"), ("1 dog", "1"), ("a cat", "\U0001f431"), ("2b", "2b"), ("1", None)):
        assert read(said, "stop").predicted == label, said
    plain = question("label", make_question_set(("0", "1"))).answer.read
    assert plain("1", "stop").predicted == "1"


def test_without_names_questions_are_what_they_were():
    assert make_question_set(CLASSES, names={}) == make_question_set(CLASSES)
