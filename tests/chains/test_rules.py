"""Verdict rules: usable (`outcome`) and kept (`accepted`)."""

import pytest

from throughline.chains.formats import FIVE_STAGE, FOUR_STAGE, Chain, render_chain
from throughline.chains.parsing import parse_chain
from throughline.chains.rules import RULES, judge
from throughline.core.errors import ThroughlineError

CLASSES = ("bowl", "cup", "dog")


def parsed(conclusion="cup", reflection="The handle is there.", format=FIVE_STAGE):
    texts = ("a", "b", "It may be a bowl.", reflection, conclusion)
    chain = Chain(format, texts if format is FIVE_STAGE else (*texts[:3], conclusion))
    return parse_chain(render_chain(chain), format, CLASSES)


def verdicts(chain, true_label="cup"):
    return {
        rule: (str(verdict.outcome), verdict.accepted)
        for rule in RULES
        for verdict in [judge(rule, chain, CLASSES, true_label)]
    }


def test_a_right_chain_is_kept_by_every_rule():
    assert set(verdicts(parsed()).values()) == {("ok", True)}


def test_another_class_is_well_formed_and_not_correct():
    assert verdicts(parsed("bowl")) == {
        "format": ("ok", True),
        "consistent": ("ok", True),
        "correct": ("ok", False),
    }


def test_a_conclusion_outside_the_list_is_only_a_format():
    expected = ("out_of_list", False)
    assert verdicts(parsed("plate")) == {"format": ("ok", True), "consistent": expected, "correct": expected}


def test_a_fault_of_form_is_every_rules_fault():
    assert set(verdicts(parse_chain("<SUMMARY> a", FIVE_STAGE, CLASSES)).values()) == {("truncated", False)}


@pytest.mark.parametrize(
    ("reflection", "expected"),
    [
        ("It is a bowl.", "ambiguous"),
        ("On second thought this is not a cup.", "negated"),
        ("It is not a cup but a bowl.", "negated"),
        ("The cup can be ruled out.", "negated"),
        ("A bowl would have no handle, so that class can be ruled out.", "ok"),
        ("Could it be a bowl? No, because the handle would be missing.", "ok"),
        ("Without the handle I would say bowl, but here the evidence supports cup.", "ok"),
        ("The handle decides against a bowl.", "ok"),
        ("bowl = handle no. not ok. cup = handle yes. ok.", "ok"),
        ("handle no: bowl not ok, cup ok.", "ok"),
        ("Nothing to add.", "ok"),
    ],
)
def test_a_reflection_overturns_by_denying_the_class_or_naming_only_another(reflection, expected):
    assert verdicts(parsed(reflection=reflection))["consistent"] == (expected, expected == "ok")


def test_formats_without_reflection_have_nothing_to_overturn():
    assert set(verdicts(parsed(format=FOUR_STAGE)).values()) == {("ok", True)}


def test_unknown_rules_and_missing_labels_are_the_users_fault():
    with pytest.raises(ThroughlineError, match="format, consistent, correct"):
        judge("best", parsed(), CLASSES)
    for label in (None, "plate"):
        with pytest.raises(ThroughlineError, match="needs the image's class"):
            judge("correct", parsed(), CLASSES, label)
