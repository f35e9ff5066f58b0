"""What each token of an answer is, on tokenizations written by hand."""

import re

import pytest

from throughline.analysis.passages import CLASS, END, MENTION, TAG, TEXT, chain_words, label_words
from throughline.chains.formats import FIVE_STAGE, FOUR_STAGE, THINK_ANSWER, Chain, render_chain

CLASSES = ("dog", "hot_dog", "cat")
CHAIN = render_chain(
    Chain(FIVE_STAGE, ("I look.", "A Hot Dog lies here.", "Sausage, no fur.", "Not a cat.", "hot dog"))
)


def spans_of(text: str) -> list[tuple[int, int]]:
    """Pieces of at most four characters, as a tokenizer might cut, and the end of the turn."""
    pieces = [found.span() for found in re.finditer(r"[<>/]|\s*[A-Za-z]{1,4}|\s*[^\sA-Za-z]", text)]
    return [*pieces, (len(text), len(text))]


def by_kind(words, kind):
    return "".join(word.text for word in words if word.kind == kind).strip()


def test_pieces_put_together_are_the_answer():
    for text in (CHAIN, "hot dog"):
        words = chain_words(text, spans_of(text), FIVE_STAGE, CLASSES)
        assert "".join(word.text for word in words) == text


def test_kinds_and_stages_of_a_chain():
    words = chain_words(CHAIN, spans_of(CHAIN), FIVE_STAGE, CLASSES)
    assert by_kind(words, CLASS) == "hot dog"
    assert by_kind(words, MENTION) == "Hot Dog cat"  # whole names: `dog` alone is not found in `hot dog`
    assert {word.stage for word in words if word.kind == CLASS} == {"CONCLUSION"}
    assert by_kind([word for word in words if word.stage == "REASONING"], TEXT) == "Sausage, no fur."
    assert by_kind(words, TAG).count("<") == 10 and "hot" not in by_kind(words, TAG)
    assert [word.kind for word in words].count(END) == 1 and words[-1].kind == END


@pytest.mark.parametrize("form", [FOUR_STAGE, THINK_ANSWER])
def test_the_answer_stands_where_the_format_has_it(form):
    texts = [f"text {i} about a cat" for i in range(len(form.stages) - 1)] + ["a dog"]
    chain = render_chain(Chain(form, tuple(texts)))
    words = chain_words(chain, spans_of(chain), form, CLASSES)
    assert by_kind(words, CLASS) == "dog"
    assert by_kind(words, MENTION).split() == ["cat"] * (len(form.stages) - 1)


def test_a_class_in_another_spelling_is_the_whole_answer():
    chain = CHAIN.replace("<CONCLUSION> hot dog", "<CONCLUSION> Hot-dogs")
    words = chain_words(chain, spans_of(chain), FIVE_STAGE, CLASSES)
    assert by_kind(words, CLASS) == "Hot-dogs"


def test_a_name_inside_a_word_is_no_name():
    words = chain_words("catalogue dogma", spans_of("catalogue dogma"), FIVE_STAGE, CLASSES)
    assert {word.kind for word in words} == {TEXT, END}


def test_all_of_a_label_but_the_end_is_class():
    words = label_words("hot dog", [(0, 3), (3, 7), (7, 7)])
    assert [(word.text, word.kind) for word in words] == [("hot", CLASS), (" dog", CLASS), ("", END)]
