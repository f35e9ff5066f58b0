"""The two questions."""

import hashlib

import pytest

from throughline.chains.class_lists import CLASS_LISTS
from throughline.chains.formats import FIVE_STAGE, FORMATS
from throughline.chains.prompts import (
    class_name,
    make_prompts,
    prompt_sha256,
    read_template,
    stage_instruction,
)
from throughline.core.errors import ThroughlineError


def test_the_label_question_has_the_papers_wording():
    assert make_prompts(("dog", "hot_dog")).label == (
        "What type of object is in this photo? Choose from the following options: dog, hot dog"
    )


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("classes", CLASS_LISTS.values(), ids=CLASS_LISTS)
def test_the_reasoning_question_is_the_label_question_and_an_instruction(format, classes):
    prompts = make_prompts(classes, format)
    assert prompts.reasoning.startswith(prompts.label + "\n")
    assert prompts.reasoning.removeprefix(prompts.label).strip() == stage_instruction(format)
    assert all(class_name(name) in prompts.label for name in classes)


@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_the_instruction_names_every_tag_and_is_short(format):
    instruction = stage_instruction(format)
    assert len(instruction.split()) <= 35
    assert all(f"<{name}>" in instruction for name in format.tagged_stages)
    assert "only the option" in instruction


def test_the_hash_is_of_the_prompts_bytes():
    assert prompt_sha256("Größe?") == hashlib.sha256("Größe?".encode()).hexdigest()


def test_a_template_file_replaces_the_wording(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("\ufeffName {it}: {options}!\n", encoding="utf-8")
    prompts = make_prompts(("a_b", "c"), FIVE_STAGE, read_template(path), instruction="Think.")
    assert (prompts.label, prompts.reasoning) == ("Name {it}: a b, c!", "Name {it}: a b, c!\nThink.")


def test_a_template_without_options_is_the_users_fault(tmp_path):
    path = tmp_path / "q.txt"
    path.write_text("What is this?")
    with pytest.raises(ThroughlineError, match=r"no \{options\}.*q\.txt"):
        read_template(path)
    with pytest.raises(ThroughlineError, match="cannot read"):
        read_template(tmp_path / "none.txt")
    with pytest.raises(ThroughlineError, match=r"no \{options\}"):
        make_prompts(("a",), template="What is this?")
    with pytest.raises(ThroughlineError, match="at least one class"):
        make_prompts(())
