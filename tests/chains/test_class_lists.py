"""The class lists of the 20 image sets of arXiv 2402.06599: each class's perfect answer is read as that class, in every
form that a prompt of ours asks for, and what a class's letters stand in is not read as the class."""

import re

import pytest

from throughline.chains.answers import parse_answer
from throughline.chains.formats import FORMATS, Chain, render_chain
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.domains.class_lists import CLASS_LISTS, DOMAINBED
from throughline.ood.factors import PAPER
from throughline.questions.class_names import class_name_defects
from throughline.questions.wording import class_name, with_options

LISTS = pytest.mark.parametrize("name", CLASS_LISTS)
ORDERS = pytest.mark.parametrize("order", [1, -1], ids=["as listed", "reversed"])


def template_of(prompt: str) -> str:
    """What the paper's prompt asks to be repeated, with a place for the class."""
    (template,) = re.findall("---BEGIN FORMAT TEMPLATE---\n(.*)\n---END FORMAT TEMPLATE---", prompt)
    return template.replace("[Your Answer Choice Here]", "{}")


FORMS = (
    *("{}", " {}.\n", "**{}**", "Answer: {}", "Answer: {}.", "The answer is {}.", "It is the {}"),
    *("The object in this photo is a {}.", "The photo shows a {}", "Final answer: {}", 'The correct option is "{}".'),
    *("\\boxed{{{}}}", "\\boxed{{\\text{{{}}}}}", "$\\boxed{{{}}}$", "<answer>{}</answer>", '{{"answer": "{}"}}'),
    '```json\n{{\n  "answer": "{}",\n  "confidence": 0.9\n}}\n```',
    "<think>It could be any of them.</think>\nThe answer is {}.",
    *(form.format(template_of(PAPER)) for form in ("{}", "---BEGIN FORMAT TEMPLATE---\n{}\n---END FORMAT TEMPLATE---")),
    *("Answer Choice: [{}]", "Answer Choice: '{}'", 'Answer Choice: ["{}"]', "answer choice:{}"),
)


@LISTS
@ORDERS
def test_every_perfect_answer_is_read_as_its_class_in_any_order_of_the_list(name, order):
    classes = CLASS_LISTS[name][::order]
    for label in classes:
        spoken = class_name(label)
        for written in {label, spoken, spoken.upper(), label.lower(), label.replace("_", "-")}:
            for form in FORMS:
                answer = parse_answer(form.format(written), classes)
                assert (answer.label, answer.outcome) == (label, Outcome.OK), form.format(written)


@LISTS
@pytest.mark.parametrize("format", FORMATS)
def test_every_class_is_the_conclusion_of_a_chain(name, format):
    classes, form = CLASS_LISTS[name], FORMATS[format]
    for label in classes:
        texts = ("It is seen.",) * (len(form.stages) - 1)
        for answer in (class_name(label), f"The answer is {class_name(label)}."):
            parsed = parse_chain(render_chain(Chain(form, (*texts, answer))), form, classes)
            assert (parsed.label, parsed.outcome) == (label, Outcome.OK)


@LISTS
def test_no_prompt_shows_two_classes_alike_and_no_name_is_a_defect(name):
    classes = CLASS_LISTS[name]
    shown = with_options(PAPER, classes).partition("Choice list:[")[2].partition("]\n")[0]
    assert len(set(shown.split(", "))) == len(classes)
    assert [defect.what for defect in class_name_defects(classes)] == []


def test_the_lists_have_the_papers_sizes_and_folder_order():
    assert {name: len(set(classes)) for name, classes in DOMAINBED.items()} == {
        "PACS": 7,
        "VLCS": 5,
        "OfficeHome": 65,
        "TerraIncognita": 10,
        "DomainNet": 345,
    }
    assert all(list(classes) == sorted(classes) for classes in CLASS_LISTS.values())


# letters of a class in other words ----------------------------------------------------------------------------------

MISREAD = {  # by the released parser of arXiv 2402.06599, in the order of its file: the true class, and what it reads
    "OfficeHome": {"Pencil": "Pen"},
    "DomainNet": {
        **{"keyboard": "key", "rainbow": "rain", "basketball": "basket", "bathtub": "bat", "bush": "bus"},
        **{"carrot": "car", "beard": "bear", "garden_hose": "garden", "house_plant": "house", "eyeglasses": "eye"},
        **{"toothbrush": "tooth", "toothpaste": "tooth", "baseball_bat": "baseball"},  # in other orders
    },
    "FMoW": {
        **{"airport_hangar": "airport", "airport_terminal": "airport", "parking_lot_or_garage": "park"},
    },
}


def first_in_the_list(text: str, classes: tuple[str, ...]) -> str | None:
    """The rule of the released parser: the first class of the list that follows "Answer Choice:"."""
    found = (c for c in classes if re.search(rf"Answer Choice:\s*[\[\"']?{re.escape(c)}", text, re.IGNORECASE))
    return next(found, None)


def prefixed(classes):
    """The pairs of classes of which one begins as the other one is written."""
    return [(long, short) for long in classes for short in classes if long != short and long.startswith(short)]


def test_the_traps_are_those_that_are_known():
    pairs = {name: dict(prefixed(CLASS_LISTS[name])) for name in CLASS_LISTS}
    assert {name: found for name, found in pairs.items() if found} == MISREAD


@pytest.mark.parametrize("name", MISREAD)
def test_a_class_that_begins_like_another_is_read_whole_whichever_stands_first(name):
    for long, short in MISREAD[name].items():
        for classes in ((short, long), (long, short), CLASS_LISTS[name], CLASS_LISTS[name][::-1]):
            for form in FORMS:
                assert parse_answer(form.format(long), classes).label == long
                assert parse_answer(form.format(short), classes).label == short
        assert first_in_the_list(f"Answer Choice: {long}", (short, long)) == short  # it is a trap


def hidden(classes):
    """The classes whose letters stand in another class, which is one word, but not at both of its ends."""
    return [
        (word, label)
        for word in classes
        for label in classes
        if label != word and label.lower() in word.lower() and word.isalpha() and not label.isdigit()
    ]


@LISTS
def test_a_class_is_not_read_from_letters_within_a_word(name):
    for word, label in hidden(CLASS_LISTS[name]):
        others = tuple(other for other in CLASS_LISTS[name] if other != word)
        for form in ("{}", "The photo shows a {}.", "Answer Choice: {}", '{{"answer": "{}"}}'):
            answer = parse_answer(form.format(word), others)
            assert (answer.label, answer.outcome) == (None, Outcome.OUT_OF_LIST), (form.format(word), label)


def test_letters_within_words_are_traps_in_these_lists():
    found = {name: set(hidden(classes)) for name, classes in CLASS_LISTS.items()}
    assert {("elephant", "ant"), ("pineapple", "apple"), ("snail", "nail"), ("beard", "ear")} < found["DomainNet"]
    assert found["NICO++"] == {("sunflower", "flower")} and found["TerraIncognita"] == {("bobcat", "cat")}
    assert found["DrugOOD"] == {("inactive", "active")} and ("airport", "port") in found["FMoW"]


# several labels ------------------------------------------------------------------------------------------------------

NIH = CLASS_LISTS["NIH-Chest"]


def read(text: str) -> tuple[str, ...]:
    answer = parse_answer(text, NIH, several=True)
    assert (answer.outcome is Outcome.OK) == bool(answer.labels) and answer.label == min(answer.labels, default=None)
    return answer.labels


@pytest.mark.parametrize("form", ["{}", "Answer: {}", "The image shows {}.", "\\boxed{{{}}}", "Answer Choice: [{}]"])
@pytest.mark.parametrize("between", [", ", " and ", "\n", "; ", " | ", ", and "])
def test_every_pair_of_findings_is_read_as_a_set(form, between):
    for first in NIH:
        for second in NIH:
            assert set(read(form.format(f"{first}{between}{second}"))) == {first, second}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Effusion", {"Effusion"}),
        ("No Finding", {"No Finding"}),
        ("Subcutaneous Emphysema", {"Subcutaneous Emphysema"}),
        ("Emphysema, Subcutaneous Emphysema", {"Emphysema", "Subcutaneous Emphysema"}),
        ('{"answer": "Effusion, Mass"}', {"Effusion", "Mass"}),
        ('{"findings": ["Effusion", "Pleural_Thickening"]}', {"Effusion", "Pleural Thickening"}),
        ("There is an effusion and a nodule. There is no pneumothorax.", {"Effusion", "Nodule"}),
        ("Answer: Effusion. Mass is unlikely, and there is no edema.", {"Effusion"}),
        ("Answer: Effusion\nThe mass of evidence is clear.", {"Effusion"}),
        ("<think>Perhaps a mass.</think> Edema, Cardiomegaly", {"Edema", "Cardiomegaly"}),
    ],
)
def test_what_is_asserted_is_the_set(text, labels):
    assert set(read(text)) == labels


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("Effusion or mass", Outcome.AMBIGUOUS),
        ("Either effusion, or a mass", Outcome.AMBIGUOUS),
        ("There is no effusion and no mass.", Outcome.NEGATED),
        ("A broken rib", Outcome.OUT_OF_LIST),
        ("Effusion, no effusion", Outcome.AMBIGUOUS),
        ("I'm sorry, I cannot help with that.", Outcome.REFUSAL),
        ("", Outcome.EMPTY),
    ],
)
def test_what_is_no_set_has_its_reason(text, outcome):
    assert read(text) == () and parse_answer(text, NIH, several=True).outcome is outcome


def test_one_class_is_asked_for_unless_several_may_be():
    assert parse_answer("Effusion, Mass", NIH).outcome is Outcome.AMBIGUOUS
    assert parse_answer("Effusion", NIH).labels == ("Effusion",)
