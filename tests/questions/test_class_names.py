import pytest

from throughline.domains.class_lists import CLASS_LISTS
from throughline.questions.class_names import class_name_defects


def severities(*classes):
    return [defect.severity for defect in class_name_defects(classes)]


@pytest.mark.parametrize("name", CLASS_LISTS)
def test_the_benchmarks_names_have_no_defect(name):
    assert severities(*CLASS_LISTS[name]) == []


@pytest.mark.parametrize(
    "classes",
    [
        ("\U0001f600\U0001f601", "cat"),
        ("C", "C++", "Java"),
        ("a<b", "a>b"),
        ("-1", "1"),
        ("<i>cat</i>", "dog"),
        ("<CONCLUSION>", "dog"),
        ("cat\x07", "dog"),
        ("cat\tdog", "bird"),
        ("dog; cat", "dog"),
    ],
)
def test_a_name_that_cannot_be_told_from_an_answer_is_an_error(classes):
    assert severities(*classes) == ["error"]


def test_a_comma_inside_and_a_name_that_is_lost_in_a_sentence_are_warnings():
    assert severities("tench, Tinca tinca", "shark") == ["warning"]
    assert severities("cat?", "dog") == ["warning"]


@pytest.mark.parametrize(
    "classes",
    [("no tumor", "tumor"), ("age <50", "age 50-70", "age >70"), ("café", "bar"), ("猫", "狗")],
)
def test_names_that_are_read_back_have_no_defect(classes):
    assert severities(*classes) == []
