"""Answers: one class, or the one reason why there is none."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughline.chains.answers import Answer, is_refusal, parse_answer
from throughline.chains.outcomes import Outcome
from throughline.core.errors import ThroughlineError
from throughline.domains.class_lists import CLASS_LISTS

CLASSES = (*CLASS_LISTS["PACS"], "cat", "mug", "coffee_mug", "hot_dog", "TV", "Candles", "Knives", "bus")


def label(text, classes=CLASSES, aliases=None):
    answer = parse_answer(text, classes, aliases)
    assert (answer.label is not None) == (answer.outcome is Outcome.OK)
    return answer.label


def outcome(text, classes=CLASSES):
    return str(parse_answer(text, classes).outcome)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A coffee mug", "coffee_mug"),
        ("coffee-mug", "coffee_mug"),
        ("CoffeeMug", "coffee_mug"),
        ("This mug", "mug"),
        ("a hotdog", "hot_dog"),
        ("two hot dogs", "hot_dog"),
        ("dogs", "dog"),
        ("some people", "person"),
        ("a candle", "Candles"),
        ("one knife", "Knives"),
        ("buses", "bus"),
        ("t.v.", "TV"),
        ("'DOG'", "dog"),
        ("\uff24\uff2f\uff27", "dog"),  # full-width letters
        ("dog, dog and again dog", "dog"),
    ],
)
def test_spelling_number_and_the_longest_name(text, expected):
    assert label(text) == expected


@pytest.mark.parametrize("text", ["dogma", "underdog", "smug", "carthorse", "househusband", "busts", "tvs2"])
def test_a_name_inside_a_word_is_no_name(text):
    assert outcome(text) == "out_of_list"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not a dog but a cat", "cat"),
        ("It is not a dog, it is a cat.", "cat"),
        ("It's a cat, not a dog.", "cat"),
        ("It isn’t a dog. It is a cat.", "cat"),
        ("This is a cat rather than a dog.", "cat"),
        ("a cat instead of a dog", "cat"),
        ("Neither a dog nor a horse, but a cat", "cat"),
        ("I don't think this is a dog; it looks like a cat", "cat"),
        ("Is it a dog? No, it is a cat.", "cat"),
        ("A dog would have longer ears, so it is a cat.", "cat"),
        ("The dog can be ruled out and a cat is right.", "cat"),
        ("A dog is not what this is; it is a cat.", "cat"),
        ("Dog is incorrect. Cat.", "cat"),
        ("The evidence speaks against a dog. It is a cat.", "cat"),
        ("It could be mistaken for a dog, but it is a cat.", "cat"),
        ("No wings are visible, cat", "cat"),
        ("A dog? No. A horse? No. A cat.", "cat"),
        ("not a dog\nbut a cat", "cat"),
        ("Not a coffee mug but a cat", "cat"),
    ],
)
def test_a_denied_class_never_wins(text, expected):
    assert label(text) == expected


@pytest.mark.parametrize(
    "text",
    ["None other than a dog", "No doubt a dog", "It is not just a dog", "Nothing but a dog", "No. Dog."],
)
def test_denying_words_that_do_not_deny(text):
    assert label(text) == "dog"


@pytest.mark.parametrize(
    "text",
    [
        "not a dog",
        "It is not a mug",
        "it is not a brown dog",
        "This is not, however, a dog",
        "Not a dog, a cat or a horse",
        "neither a dog nor a cat",
        "I do not think that it is a dog",
        "There is no evidence that this is a dog",
        "anything but a dog",
        "no dog",
        "The dog can be excluded.",
    ],
)
def test_only_denied_classes_are_negated(text):
    assert outcome(text) == "negated"


@pytest.mark.parametrize(
    "text",
    [
        "dog or cat",
        "a dog and a cat",
        "a person on a horse",
        "dog/cat",
        "It is a dog. It is not a dog.",
        "Could it be a dog?",
    ],
)
def test_several_classes_or_no_commitment_are_ambiguous(text):
    assert outcome(text) == "ambiguous"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, I can't help with that.",
        "I’m sorry, but I cannot identify the dog in this picture.",
        "I am sorry, but I cannot name this object.",
        "I cannot answer this question.",
        "I'm unable to determine the object.",
        "As an AI language model, I cannot see images.",
        "I do not know.",
        "Sorry.",
    ],
)
def test_refusals_are_recognised(text):
    assert outcome(text) == "refusal"
    assert is_refusal(text)


def test_a_regret_with_an_answer_is_no_refusal():
    assert label("I can't say for sure, but it is a dog.") == "dog"
    assert label("Sorry, it is a dog") == "dog"


@pytest.mark.parametrize("text", ["", "  \n\t", "…", "🙂 ***", "\u200b"])
def test_no_word_is_empty(text):
    assert outcome(text) == "empty"


def test_other_words_are_out_of_list_and_never_the_first_class():
    assert outcome("a zebra") == "out_of_list"
    assert parse_answer("option 1", CLASSES) == Answer(None, Outcome.OUT_OF_LIST)


def test_numbers_side_by_side_stay_numbers():
    digits = tuple(str(digit) for digit in range(12))
    assert label("The digit is 7.", digits) == "7"
    assert label("11", digits) == "11"
    assert outcome("1 1 0", digits) == "ambiguous"


def test_classes_that_are_denying_words_or_have_commas_answer_for_themselves():
    classes = ("no_smoking", "smoking", "none", "tench, Tinca tinca", "sorry")
    for name in classes:
        assert label(name, classes) == name
    assert label("It is a tench, tinca tinca.", classes) == "tench, Tinca tinca"
    assert label("The sign says no smoking", classes) == "no_smoking"


def test_aliases_are_other_names_of_a_class():
    aliases = {"person": ["man", "woman"], "house": ["cottage"]}
    assert label("two women or a woman", aliases=aliases) == "person"
    assert label("some cottages", aliases=aliases) == "house"
    assert label("some cottages") is None
    with pytest.raises(ThroughlineError, match="another class"):
        label("dog", aliases={"dog": ["cat"]})
    with pytest.raises(ThroughlineError, match="unknown class"):
        label("dog", aliases={"wolf": ["husky"]})


def test_classes_that_cannot_be_told_apart_are_the_users_fault():
    with pytest.raises(ThroughlineError, match="differ only"):
        label("dog", ("hot dog", "Hot_Dog"))
    with pytest.raises(ThroughlineError, match="no letter or digit"):
        label("dog", ("dog", "__"))


def test_a_class_keeps_its_name_against_the_plural_of_another():
    assert label("glass", ("glass", "glasses")) == "glass"
    assert label("glasses", ("glass", "glasses")) == "glasses"


PIECES = ("dog", "cat", "hot", "mug", "coffee", "not", "no", "but", "is", "it", "a", "would", "ruled", "out", "sorry")
MARKS = (".", ",", "?", ":", "\n", "I can't", "T", "V", "—")
WORDS = st.lists(st.sampled_from(PIECES + MARKS), max_size=30)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), WORDS.map(" ".join)))
def test_no_text_crashes_and_a_label_is_always_of_the_list(text):
    assert label(text) in (*CLASSES, None)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(CLASS_LISTS["DomainNet"]), st.sampled_from(CLASS_LISTS["DomainNet"]))
def test_not_this_but_that_never_gives_this(this, that):
    text = f"It is not a {this.replace('_', ' ')} but a {that.replace('_', ' ')}."
    got = parse_answer(text, CLASS_LISTS["DomainNet"])
    assert got.label == that if this != that else got.outcome is Outcome.AMBIGUOUS


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "not dog " * 62_500,
        "ruled out dog " * 35_000,
        "a" + "\u0301\u0316" * 250_000,
        "dog? " * 100_000,
        "\n \t" * 165_000,
        "the answer is dog. " * 25_000,
        "the answer is dog " * 25_000,
        "the answer is not dog. " * 20_000,
        "I cannot identify the dog. " * 20_000,
    ],
    ids=["denials", "rulings", "marks", "questions", "blanks", "statements", "run-on", "denied", "refusals"],
)
def test_half_a_megabyte_takes_linear_time(text):
    started = time.process_time()
    parse_answer(text, CLASSES)
    # quadratic time would be minutes
    assert time.process_time() - started < 5
