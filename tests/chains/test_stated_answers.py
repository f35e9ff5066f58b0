"""What a text states against what it weighs, in texts of many kinds; the reasons stand in docs/answers.md."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughline.chains.answers import parse_answer
from throughline.chains.outcomes import Outcome
from throughline.domains.class_lists import CLASS_LISTS

ANIMALS = ("bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon", "squirrel")
PACS = CLASS_LISTS["PACS"]
VLCS = ("bird", "car", "chair", "dog", "person")
OFFICE = (
    "Alarm_Clock",
    "Bike",
    "Computer",
    "Desk_Lamp",
    "Keyboard",
    "Mouse",
    "Mug",
    "Pen",
    "Pencil",
    "TV",
    "Trash_Can",
)
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
CHINESE, JAPANESE, KOREAN = ("猫", "狗", "马"), ("犬", "猫", "ネコ"), ("개", "고양이")


def label(text, classes):
    return parse_answer(text, classes).label


@pytest.mark.parametrize(
    "text",
    [
        "Bigger than a rabbit.",
        "It has the size of a raccoon.",
        "Not as big as a dog.",
        "It has a tail as long as a squirrel.",
        "The same size as a cat.",
        "The ears are like those of a rabbit.",
        "a cat-shaped shadow",
        "A rabbit-sized animal, unclear which.",
        "Reminiscent of a squirrel.",
        "Compared to a dog it is small.",
        "I doubt it is a dog.",
        "I'm not convinced this is a cat.",
        "Whether it is a dog or not, I cannot tell.",
        "I have ruled out a cat and a dog.",
        "I ruled the opossum out.",
        "The cat was ruled out.",
        "We can eliminate the raccoon.",
        "Too small for a coyote.",
        "It is unlikely to be a dog.",
        "The least likely option is a rabbit.",
        "A rabbit is the least likely.",
        "A raccoon does not fit.",
        "There is a lack of any bird.",
        "I don't think the answer is dog.",
        "I cannot identify the dog.",
    ],
)
def test_what_is_compared_doubted_or_ruled_out_is_no_answer(text):
    assert label(text, ANIMALS) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It might be mistaken for a coyote, yet it is a dog.", "dog"),
        ("It looks like a dog.", "dog"),
        ("This looks more like a coyote than a dog.", "coyote"),
        ("The animal is smaller than a dog, so it is a rabbit.", "rabbit"),
        ("Too small for a dog, probably a cat", "cat"),
        ("There are no cats, only a dog.", "dog"),
        ("After excluding opossum and cat, the answer is raccoon.", "raccoon"),
        ("I considered dog, cat and coyote. My final answer: coyote.", "coyote"),
        ("The answer is clear. It is a dog.", "dog"),
        ("Answer: not a dog but a coyote", "coyote"),
        ("Answer:\n\ncoyote", "coyote"),
        ("**Final Answer**: `bobcat`\n\nThe dog in the background is a statue.", "bobcat"),
        ('{"reasoning": "not a dog", "label": "coyote", "confidence": 0.7}', "coyote"),
        ("{'answer': 'coyote', 'why': 'a dog would be larger'}", "coyote"),
        ("\\boxed{\\text{raccoon}} since the dog has no mask", "raccoon"),
        ("I would go with squirrel; a rabbit has longer ears.", "squirrel"),
        ("My choice is opossum, not raccoon", "opossum"),
        ("Class label: opossum", "opossum"),
        ("Most likely: raccoon", "raccoon"),
        ("<CONCLUSION>cat</CONCLUSION> and a dog", "cat"),
        # what is stated is no class of the list, whatever else is named
        ("Final answer: wolf. It looks like a dog.", None),
        ("The answer is a wolf. It looks like a dog.", None),
        ("<answer>wolf</answer> with a dog", None),
        # two statements that differ
        ("Answer: dog\nAnswer: cat", None),
        ("<answer>dog</answer><answer>cat</answer>", None),
        ("Prediction: cat (92%), dog (5%)", None),
        ("1. dog\n2. cat", None),
    ],
)
def test_what_is_stated_stands_before_what_is_weighed(text, expected):
    assert label(text, ANIMALS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It is a dog. Wait.</think>\nCat.", "cat"),
        ("[THINK]dog?[/THINK]rabbit", "rabbit"),
        ("◁think▷a dog◁/think▷ opossum", "opossum"),
    ],
)
def test_thinking_is_not_read(text, expected):
    assert label(text, ANIMALS) == expected


def test_thinking_that_does_not_end_is_truncated():
    assert parse_answer("<think>It could be a dog.", ANIMALS).outcome is Outcome.TRUNCATED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I cannot tell the age of the animal. It's a raccoon.", "raccoon"),
        ("I'm unable to say more about the location. A bobcat walks by.", "bobcat"),
        ("A dog walks by. I'm unable to say more.", "dog"),
    ],
)
def test_declining_something_else_declines_no_class(text, expected):
    assert label(text, ANIMALS) == expected


@pytest.mark.parametrize(
    ("text", "classes", "expected"),
    [
        ("a bird bath", ANIMALS, None),
        ("cat food on the floor", ANIMALS, None),
        ("the dog's leash", ANIMALS, None),
        ("a horse-drawn carriage", PACS, None),
        ("horse racing", PACS, None),
        ("hot dog", ANIMALS, None),
        ("a raccoon dog", ANIMALS, None),
        ("car seat", VLCS, None),
        ("computer screen", OFFICE, None),
        ("a trash can lid", OFFICE, None),
        ("pencil case", OFFICE, None),
        ("laptop computer", OFFICE, "Computer"),
        ("a bike mouse", OFFICE, "Mouse"),
        ("bird car chair", VLCS, None),
        ("dog\ncat", ANIMALS, None),
        ("A cat sleeping on a sofa", ANIMALS, "cat"),
        ("a dog lying down", ANIMALS, "dog"),
        ("A raccoon climbs a tree.", ANIMALS, "raccoon"),
        ("A bird perched on a branch", ANIMALS, "bird"),
        ("a giraffe's head", PACS, "giraffe"),
        ("A drawing of a house", PACS, "house"),
    ],
)
def test_a_name_inside_another_noun_is_another_thing(text, classes, expected):
    assert label(text, classes) == expected


@pytest.mark.parametrize(
    ("text", "classes", "expected"),
    [
        ("I see the letter Q.", LETTERS, "Q"),
        ("It is an A.", LETTERS, "A"),
        ("I", LETTERS, "I"),
        ("Answer: I", LETTERS, "I"),
        ("I think this is a hand sign.", LETTERS, None),
        ("It could be an M or an N.", LETTERS, None),
        ("Yes, there is.", ("no", "yes"), "yes"),
        ("No, there is not.", ("no", "yes"), "no"),
        ("a red or grey fox", ("red fox", "grey fox"), None),
        ("neither a red nor a grey fox", ("red fox", "grey fox"), None),
        ("a red fox", ("red fox", "grey fox"), "red fox"),
        ("either a floor or desk lamp", ("desk lamp", "floor lamp"), None),
        ("The person rides without a helmet.", ("with helmet", "without helmet"), "without helmet"),
        ("With a helmet", ("with helmet", "without helmet"), "with helmet"),
    ],
)
def test_names_that_are_small_words_or_share_words(text, classes, expected):
    assert label(text, classes) == expected


@pytest.mark.parametrize(
    ("text", "classes", "expected"),
    [
        ("Das ist nicht die Katze.", ("Hund", "Katze"), None),
        ("Das ist ein Hund.", ("Hund", "Katze"), "Hund"),
        ("Ce n'est pas un chien, mais un chat.", ("chien", "chat"), "chat"),
        ("No es un perro, es un gato.", ("perro", "gato"), "gato"),
        ("Non è un cane ma un gatto", ("cane", "gatto"), "gatto"),
        ("Это не собака, а кошка.", ("собака", "кошка"), "кошка"),
        ("一匹斑马", CHINESE, None),
        ("这不是猫", CHINESE, None),
        ("答案：狗", CHINESE, "狗"),
        ("这是狗，不是猫。", CHINESE, "狗"),
        ("图中有一只猫和一只狗。", CHINESE, None),
        ("这是一只cat", ("cat", "dog"), "cat"),
        ("これは犬です。", JAPANESE, "犬"),
        ("これは犬ではありません。", JAPANESE, None),
        ("これはネコです", JAPANESE, "ネコ"),
        ("이것은 개입니다.", KOREAN, "개"),
        ("고양이가 있습니다.", KOREAN, "고양이"),
        ("개구리입니다.", KOREAN, None),
        ("개가 아닙니다.", KOREAN, None),
    ],
)
def test_other_languages_and_scripts_without_blanks(text, classes, expected):
    assert label(text, classes) == expected


ONLY_WEIGHED = (
    "It is larger than a {}.",
    "I doubt that this is a {}.",
    "I ruled the {} out.",
    "It is about the size of a {}.",
    "Too large to be a {}.",
    "A {} would be smaller.",
    "The {} can be excluded.",
    "It is unlikely that it is a {}.",
    "Could it be a {}?",
    "It resembles a {}, but I cannot say.",
    "This is no {}.",
    "{} is the least likely class.",
)
NAMES = st.sampled_from([(name, classes) for classes in CLASS_LISTS.values() for name in classes])


@settings(max_examples=400, deadline=None)
@given(NAMES, st.lists(st.sampled_from(ONLY_WEIGHED), min_size=1, max_size=3))
def test_sentences_that_only_weigh_never_give_a_class(named, sentences):
    name, classes = named
    text = " ".join(sentence.format(name.replace("_", " ")) for sentence in sentences)
    assert label(text, classes) is None


@settings(max_examples=400, deadline=None)
@given(NAMES, st.data())
def test_a_stated_answer_is_not_moved_by_what_is_weighed(named, data):
    name, classes = named
    spoken = name.replace("_", " ")
    other = data.draw(st.sampled_from([label for label in classes if label != name])).replace("_", " ")
    before = data.draw(st.sampled_from(ONLY_WEIGHED)).format(other)
    stated = data.draw(
        st.sampled_from(("Answer: {}", "The answer is {}.", "Final answer: **{}**", "<answer>{}</answer>"))
    )
    assert label(f"{before}\n{stated.format(spoken)}", classes) == name
