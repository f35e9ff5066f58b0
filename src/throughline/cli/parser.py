"""argparse as every verb uses it: errors that name the nearest known word."""

import argparse
import re
from functools import partial
from typing import Any, NoReturn

from throughline.core.errors import UsageError
from throughline.core.nearest import nearest

_FORMATTER = partial(argparse.RawDescriptionHelpFormatter, max_help_position=32)


class Parser(argparse.ArgumentParser):
    """Raises a UsageError instead of printing the usage and leaving; takes no abbreviated options.

    An abbreviation that works today would turn ambiguous with the next option, in scripts nobody looks at.
    """

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", _FORMATTER)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """Raises a UsageError with argparse's message and, for a misspelt word, the nearest known one."""
        where = f"see {self.prog} --help"
        near = _nearest_in(message, self)
        raise UsageError(message, do=f"did you mean {near}? {where}" if near else where)


def _nearest_in(message: str, parser: argparse.ArgumentParser) -> str | None:
    if unknown := re.match(r"unrecognized arguments: (-\S+)", message):
        return nearest(unknown[1].split("=")[0], _option_strings(parser))
    if invalid := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
        return nearest(invalid[1], [choice.strip("'") for choice in invalid[2].split(", ")])
    return None


def _option_strings(parser: argparse.ArgumentParser) -> list[str]:
    """The long and short options of a parser and of the subcommands below it."""
    names: list[str] = []
    for action in parser._actions:  # argparse has no public list of them
        names += action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                names += _option_strings(below)
    return names
