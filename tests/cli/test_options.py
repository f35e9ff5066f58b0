from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from throughline.cli.options import Shown, add_settings, add_subcommands, given_settings
from throughline.cli.parser import Parser
from throughline.core.errors import UsageError
from throughline.core.settings import Settings


class Stage(Settings):
    """A group of settings."""

    lr: float = Field(default=0.1, gt=0)
    """Peak learning rate, 100 % of it. A second sentence is not for the help."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """NLL by step."""
    auto: bool = False
    """Halve it."""


class Job(Settings):
    """Settings with a group below them."""

    stage: Stage = Stage()
    sizes: tuple[int, ...] = (1, 6)
    """Tiles of an image."""
    limit: int | None = Field(default=None, ge=1)
    """Images at most."""


KEYS = ("stage.lr", "stage.schedule", "stage.auto", "sizes", "limit")


def parser_of(default: str | None = None) -> Parser:
    parser = Parser(prog="x")
    add_settings(parser, Job, KEYS, default)
    return parser


def test_help_comes_from_the_fields_docstring_with_kind_and_default():
    text = " ".join(parser_of().format_help().split())
    for expected in (
        "--lr X peak learning rate, 100 % of it (default: 0.1)",
        "--schedule {cosine,linear} NLL by step (default: cosine)",
        "--auto halve it --sizes",
        "--sizes N,N tiles of an image (default: 1,6)",
        "--limit N images at most (default: none)",
    ):
        assert expected in text
    assert "second sentence" not in text


def test_help_names_whose_default_applies_where_it_is_not_the_fields():
    text = " ".join(parser_of("the preset's, or {}").format_help().split())
    assert "--lr X peak learning rate, 100 % of it (default: the preset's, or 0.1)" in text


def test_an_option_left_out_has_the_fields_default():
    values = given_settings(parser_of().parse_args([]), KEYS)
    assert values == {"stage.lr": 0.1, "stage.schedule": "cosine", "sizes": (1, 6)}


def test_an_option_left_out_overrides_nothing_where_another_default_applies():
    parser = parser_of("the preset's")
    assert given_settings(parser.parse_args([]), KEYS) == {}
    words = ["--lr", "3", "--auto", "--sizes", "2,3", "--limit", "4"]
    given = {"stage.lr": 3.0, "stage.auto": True, "sizes": (2, 3), "limit": 4}
    assert given_settings(parser.parse_args(words), KEYS) == given


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "0"], "'0', expected: greater than 0"),
        (["--lr", "fast"], "'fast', expected: a valid number"),
        (["--sizes", "2,x"], "'2,x', expected: a valid integer"),
        (["--limit", "0"], "expected: greater than or equal to 1"),
        (["--schedule", "cosin"], "did you mean cosine?"),
    ],
)
def test_a_value_is_checked_as_the_settings_class_checks_it(words, said):
    with pytest.raises(UsageError, match=said.replace("?", r"\?")):
        parser_of().parse_args(words)


class Search(Settings):
    """Look for images of 50 % contrast."""

    source: Annotated[Path, Shown("DIR", positional=True)]
    """Where they lie."""
    target: Annotated[str, Shown("DOMAIN")]
    """The domain."""
    shift: Literal["rotation", "colour"] | None = None
    """What is shifted (default: nothing)."""
    share: float = Field(default=0.5, ge=0, le=1)
    """Of them all."""
    classes: tuple[str, ...] | None = None
    """Names (default: all)."""


def subcommands() -> Parser:
    parser = Parser(prog="x")
    add_subcommands(parser, {"search": (Search, lambda arguments: 7)}, json_of=["search"])
    return parser


def test_a_subcommand_has_the_fields_of_its_options_and_what_it_runs():
    words = ["search", "images", "--target", "art", "--classes", "dog,cat", "--json"]
    arguments = subcommands().parse_args(words)
    assert arguments.classes == ("dog", "cat")
    assert (arguments.source, arguments.target, arguments.shift) == (Path("images"), "art", None)
    assert arguments.share == 0.5 and arguments.json and arguments.act(arguments) == 7


def test_help_of_a_subcommand_tells_what_is_required_and_keeps_a_default_in_words(capsys):
    with pytest.raises(SystemExit):
        subcommands().parse_args(["search", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for expected in (
        "look for images of 50 % contrast",
        "DIR where they lie",
        "--target DOMAIN the domain (required)",
        "--shift {rotation,colour} what is shifted (default: nothing)",
    ):
        assert expected in text


@pytest.mark.parametrize("words", [["images"], ["images", "--target", "art", "--share", "nan"]])
def test_a_subcommand_refuses_what_its_fields_do_not_take(words):
    with pytest.raises(UsageError, match=r"--target|expected"):
        subcommands().parse_args(["search", *words])
