"""The two questions."""

import hashlib

import pytest
from pydantic import ValidationError

from throughline.chains.formats import FIVE_STAGE, FORMATS, THINK_ANSWER
from throughline.chains.records import prompt_sha256
from throughline.core.errors import ThroughlineError
from throughline.core.settings import WordingSettings
from throughline.domains.class_lists import CLASS_LISTS
from throughline.questions.question import read_chain
from throughline.questions.question_set import make_question_set
from throughline.questions.wording import class_name, read_template, stage_instruction


def test_the_label_question_has_the_papers_wording():
    assert make_question_set(("dog", "hot_dog")).label == (
        "What type of object is in this photo? Choose from the following options: dog, hot dog"
    )


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("classes", CLASS_LISTS.values(), ids=CLASS_LISTS)
def test_the_reasoning_question_is_the_label_question_and_an_instruction(format, classes):
    prompts = make_question_set(classes, format)
    assert prompts.reasoning.startswith(prompts.label + "\n")
    assert prompts.reasoning.removeprefix(prompts.label).strip() == stage_instruction(format)
    assert all(class_name(name) in prompts.label for name in classes)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_the_instruction_names_every_tag_and_is_short(format):
    instruction = stage_instruction(format)
    assert len(instruction.split()) <= 35
    assert all(f"<{name}>" in instruction for name in format.tagged_stages)
    assert "only the option" in instruction
    assert "only the options that apply" in stage_instruction(format, several=True)


@pytest.mark.parametrize(
    ("sentence", "labels"),
    [
        ("The disease of this patient is Edema, Pleural Effusion.", ("Edema", "Pleural Effusion")),
        ("The disease of this patient is Pneumonia.", ("Pneumonia",)),
        ("The disease of this patient is Edema, not Pneumonia.", ("Edema",)),
    ],
)
def test_a_chain_may_conclude_in_several_classes(sentence, labels):
    chain = f"<think> Pneumonia was looked for; the lungs are wet. </think>\n{sentence}"
    said = read_chain(CLASS_LISTS["CheXpert"], THINK_ANSWER, {}, chain, "stop", several=True)
    assert (said.predicted, said.outcome) == (labels, "ok")
    prompts = make_question_set(CLASS_LISTS["CheXpert"], THINK_ANSWER, several=True)
    assert prompts.reasoning.endswith(stage_instruction(THINK_ANSWER, several=True))


def test_the_hash_is_of_the_prompts_bytes():
    assert prompt_sha256("Größe?") == hashlib.sha256("Größe?".encode()).hexdigest()


def test_a_template_file_replaces_the_wording(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("\ufeffName {it}: {options}!\n", encoding="utf-8")
    wording = WordingSettings(label=read_template(path), instruction="Think.")
    prompts = make_question_set(("a_b", "c"), FIVE_STAGE, wording)
    assert (prompts.label, prompts.reasoning) == ("Name {it}: a b, c!", "Name {it}: a b, c!\nThink.")


def test_a_template_without_options_is_the_users_fault(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("What is this?")
    with pytest.raises(ThroughlineError, match=r"no \{options\}.*q\.txt"):
        read_template(path)
    with pytest.raises(ThroughlineError, match="cannot read"):
        read_template(tmp_path / "none.txt")
    with pytest.raises(ValidationError, match=r"no \{options\}"):
        WordingSettings(label="What is this?")
    with pytest.raises(ThroughlineError, match="at least one class"):
        make_question_set(())


def test_a_frame_and_the_classes_in_words_stand_before_the_question():
    told = {"alarm_clock": ["hands", "a bell"], "cup": "basin"}
    wording = WordingSettings(frame="You know tableware.", descriptions=told)
    names = {"cup": ["mug", "cup"]}
    prompts = make_question_set(("alarm_clock", "cup"), FIVE_STAGE, wording, names)
    plain = make_question_set(("alarm_clock", "cup"), FIVE_STAGE, names=names)
    assert prompts.label == f"You know tableware.\nalarm clock: hands; a bell\nmug: basin\n{plain.label}"
    assert prompts.reasoning.startswith(f"{prompts.label}\n")
    asked = make_question_set(("alarm_clock", "cup"), FIVE_STAGE, wording, names, described=True)
    assert asked.label == f"You know tableware.\n{plain.label}"


@pytest.mark.parametrize(
    ("told", "described", "said"),
    [
        ({"cup": "basin"}, False, "no description of alarm_clock"),
        ({"cup": "b", "clock": "c"}, False, "no description of alarm_clock; no class is called clock"),
        ({}, True, "no description of alarm_clock, cup"),
    ],
)
def test_descriptions_are_of_each_class_and_of_no_other(told, described, said):
    with pytest.raises(ThroughlineError, match=f"{said}.*questions.descriptions"):
        make_question_set(("alarm_clock", "cup"), wording=WordingSettings(descriptions=told), described=described)
