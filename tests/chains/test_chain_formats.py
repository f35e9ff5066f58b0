"""Formats and parsing: what was rendered parses back; everything else has one name."""

import re
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from throughline.chains.formats import (
    FIVE_STAGE,
    FORMATS,
    FOUR_STAGE,
    THINK_ANSWER,
    Chain,
    ChainFormat,
    render_chain,
)
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import parse_chain
from throughline.core.errors import ThroughlineError

CLASSES = ("cat", "dog", "horse")
TEXTS = ("I look first.", "A brown animal.", "It has paws.", "A cat would be smaller.", "dog")
CHAIN = Chain(FIVE_STAGE, TEXTS)
LINES = render_chain(CHAIN).split("\n")

# plain text, and text made of the stuff that tags are made of
pieces = st.sampled_from(
    [
        "<",
        ">",
        "/",
        " ",
        "SUMMARY",
        "think",
        "Caption",
        "</",
        "CONCLUSION",
        "\n",
        "dog",
        "not",
        "<b>",
        "ſummary",
    ]
)
stage_texts = st.one_of(st.text(max_size=40), st.lists(pieces, max_size=12).map("".join))


def outcome(text, format=FIVE_STAGE, **options):
    return str(parse_chain(text, format, CLASSES, **options).outcome)


def has_own_tag(format, text):
    """An independent look for tags: every bracketed piece, its blanks and slash taken out, in lower case."""
    names = {name.lower() for name in format.tagged_stages}
    inner = re.findall(r"<([^<>]*)>", text)
    return any(
        re.sub(r"^[ \t\n\r\f\v]*/?[ \t\n\r\f\v]*|[ \t\n\r\f\v]*$", "", piece).lower() in names for piece in inner
    )


def test_a_five_stage_chain_is_one_tagged_line_a_stage():
    assert render_chain(CHAIN).startswith("<SUMMARY> I look first. </SUMMARY>\n<CAPTION> A brown animal. </CAPTION>\n")
    assert render_chain(CHAIN).endswith("\n<CONCLUSION> dog </CONCLUSION>")


def test_think_answer_ends_in_an_untagged_sentence():
    assert render_chain(Chain(THINK_ANSWER, ("hm", "It is a dog."))) == "<think> hm </think>\nIt is a dog."


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(list(FORMATS.values())), st.data())
def test_parsing_what_was_rendered_gives_the_chain_back(format, data):
    chain = Chain(format, tuple(data.draw(stage_texts) for _ in format.stages))
    refused = any(not text or has_own_tag(format, text) for text in chain.stages)
    if refused:
        with pytest.raises(ThroughlineError):
            render_chain(chain)
    else:
        assert parse_chain(render_chain(chain), format, CLASSES).chain == chain


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(FORMATS.values())),
    st.one_of(st.text(), st.lists(pieces, max_size=30).map("".join)),
    st.none() | st.text(max_size=8),
)
def test_no_text_crashes_the_parser_and_faults_of_form_have_no_chain(format, text, finish_reason):
    parsed = parse_chain(text, format, CLASSES, finish_reason)
    assert (parsed.label is not None) == (parsed.outcome is Outcome.OK)
    if parsed.chain is not None:
        assert all(parsed.chain.stages) and render_chain(parsed.chain)
    else:
        assert parsed.outcome is not Outcome.OK and parsed.detail


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(render_chain(CHAIN)) - 1))
def test_a_chain_cut_anywhere_is_truncated_or_lacks_stages(length):
    assert outcome(render_chain(CHAIN)[:length]) in ("truncated", "missing_stage", "empty")


def test_the_label_is_the_class_of_the_conclusion_only():
    parsed = parse_chain(render_chain(CHAIN), FIVE_STAGE, CLASSES)
    assert (parsed.label, parsed.outcome, parsed.chain) == ("dog", Outcome.OK, CHAIN)
    assert parse_chain("<think> a cat </think>\nThe answer is a horse.", THINK_ANSWER, CLASSES).label == "horse"


def test_tags_count_in_any_case_and_with_blanks():
    text = "\n\n".join(LINES).replace("<SUMMARY>", "< Summary >").replace("</CONCLUSION>", "</ conclusion\n>")
    assert parse_chain(text, FIVE_STAGE, CLASSES).chain == CHAIN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("I'm sorry, I can't help with that.", "refusal"),
        ("dog", "missing_stage"),
        ("\n".join(LINES[1:]), "missing_stage"),
        ("\n".join(LINES[:-1]), "missing_stage"),
        ("\n".join(LINES).replace("</CAPTION>", ""), "missing_stage"),
        ("\n".join(LINES).replace("<CAPTION>", ""), "missing_stage"),
        ("\n".join([*LINES, LINES[-1]]), "repeated_stage"),
        ("\n".join([LINES[0], *LINES]), "repeated_stage"),
        ("\n".join([LINES[1], LINES[0], *LINES[2:]]), "wrong_order"),
        ("\n".join(LINES).replace("It has paws.", ""), "empty_stage"),
        ("\n".join(LINES).replace(" dog ", ""), "empty_stage"),
        ("\n".join(LINES) + "\nI hope this helps.", "trailing_text"),
        ("Sure!\n" + "\n".join(LINES), "trailing_text"),
        ("\nand\n".join(LINES), "trailing_text"),
        ("\n".join(LINES)[:-20], "truncated"),
        ("\n".join(LINES).replace("</CONCLUSION>", ""), "truncated"),
        ("\n".join(LINES[:2]) + "\n<REAS", "truncated"),
    ],
)
def test_each_fault_of_form_has_its_name_and_no_chain(text, expected):
    parsed = parse_chain(text, FIVE_STAGE, CLASSES)
    assert (str(parsed.outcome), parsed.chain, parsed.label) == (expected, None, None)


@pytest.mark.parametrize(
    ("conclusion", "expected"),
    [
        ("zebra", "out_of_list"),
        ("dog or cat", "ambiguous"),
        ("not a dog", "negated"),
        ("I cannot tell", "refusal"),
        ("…", "empty"),
    ],
)
def test_a_faulty_conclusion_keeps_the_chain_and_names_its_fault(conclusion, expected):
    chain = Chain(FIVE_STAGE, (*TEXTS[:-1], conclusion))
    parsed = parse_chain(render_chain(chain), FIVE_STAGE, CLASSES)
    assert (str(parsed.outcome), parsed.chain, parsed.label) == (expected, chain, None)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("length", "truncated"), ("content_filter", "refusal"), ("error", "error"), ("stop", "ok")],
)
def test_the_finish_reason_stands_above_the_text(reason, expected):
    assert outcome(render_chain(CHAIN), finish_reason=reason) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think> a </think>", "missing_stage"),
        ("a </think> dog", "missing_stage"),
        ("<think> a", "truncated"),
        ("<think> </think> dog", "empty_stage"),
        ("<think> a </think> <think> b </think> dog", "repeated_stage"),
        ("Well. <think> a </think> dog", "trailing_text"),
        ("dog", "missing_stage"),
        ("<think> a </think> <SUMMARY> dog </SUMMARY>", "ok"),
    ],
)
def test_faults_of_think_answer(text, expected):
    assert outcome(text, THINK_ANSWER) == expected


def test_a_five_stage_chain_is_no_four_stage_chain():
    assert outcome(render_chain(CHAIN), FOUR_STAGE) == "trailing_text"


@given(st.text())
def test_chains_hold_stripped_texts(text):
    assume(text.strip())
    assert Chain(THINK_ANSWER, (f" {text}\n", text)).stages == (text.strip(), text.strip())


def test_impossible_formats_and_chains_are_bugs():
    with pytest.raises(ValueError, match="answer stage"):
        ChainFormat("x", ("A",), "B")
    with pytest.raises(ValueError, match="last stage"):
        ChainFormat("x", ("A", "B"), "A", answer_is_tail=True)
    with pytest.raises(ValueError, match="stages"):
        Chain(FIVE_STAGE, ("one",))


@pytest.mark.parametrize(
    "piece", ["<", "< ", "</", "<SUMMARY>", "</SUMMARY>", "<SUMMARY> a </SUMMARY>", "<" + " " * 99, "sorry "]
)
@pytest.mark.parametrize("format", [FIVE_STAGE, THINK_ANSWER], ids=lambda format: format.name)
def test_a_megabyte_is_read_in_linear_time(piece, format):
    started = time.process_time()
    parse_chain(piece * (1_000_000 // len(piece)), format, CLASSES)
    assert time.process_time() - started < 5
