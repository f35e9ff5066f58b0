"""The one vocabulary of what can come of a model's text, used from the parser to the results page. Closed on
purpose: tables and verdicts of different runs stay comparable."""

from enum import StrEnum


class Outcome(StrEnum):
    """`ok`, or the one fault by which a text is no usable answer or chain."""

    OK = "ok"
    """Usable: an answer names one class, a chain keeps to its format."""
    # what the answer says
    OUT_OF_LIST = "out_of_list"
    """Words, but none of the classes."""
    AMBIGUOUS = "ambiguous"
    """Several classes, or one that is asserted and denied."""
    NEGATED = "negated"
    """Classes are named only to say that it is not them."""
    REFUSAL = "refusal"
    """The model declines to answer, or its provider filtered the answer."""
    EMPTY = "empty"
    """No word at all."""
    # what the chain looks like
    TRUNCATED = "truncated"
    """Cut off by the length limit, or the text ends inside a stage."""
    MISSING_STAGE = "missing_stage"
    """A stage of the format is absent, or one of its two tags is."""
    REPEATED_STAGE = "repeated_stage"
    """A stage is there more than once."""
    WRONG_ORDER = "wrong_order"
    """All stages are there, in another order than the format's."""
    EMPTY_STAGE = "empty_stage"
    """A stage holds no word."""
    TRAILING_TEXT = "trailing_text"
    """Text outside the stages: after, between or before them."""
    # what happened on the way
    ERROR = "error"
    """No text came back: the request or the generation failed."""
