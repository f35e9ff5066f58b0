"""Text that was written by others, made fit to be shown: what cannot be seen is written out, names stay short, and JSON
can stand inside a page without ending its block. Called where files and answers of others are told: pages, checks,
tables, dataset cards."""

import json
import re
from pathlib import Path
from typing import Any

# Names (ids, models, rules, finish reasons) come from files as well; longer ones are no names.
LONGEST_NAME = 300

# Controls but tab and line feed, the marks that turn the writing direction (they could make a text read as another
# one), halves of surrogate pairs (they are no UTF-8).
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with what could not be seen written out, such as ⟨U+0007⟩; ends of lines are line feeds."""
    return _UNSEEN.sub(lambda hit: f"⟨U+{ord(hit[0]):04X}⟩", text.replace("\r\n", "\n"))


def one_line(text: str, most: int = LONGEST_NAME) -> str:
    """A name as it is shown: visible, on one line, of bearable length."""
    line = visible(" ".join(text[: most + 1].split()))
    return line if len(line) <= most else line[:most] + "…"


def shown_path(path: Path) -> str:
    """A path as text, and JSON, can hold it: file names are bytes."""
    return str(path).encode(errors="backslashreplace").decode()


def printable(text: str, most: int = 80) -> str:
    """The text for a terminal, as one line of at most `most` characters; what does not print is spelt as Python spells
    it."""
    text = text[: most + 1]  # it may be a megabyte
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= most else text[: most - 1] + "…"


def quoted(value: object, most: int = 80) -> str:
    """Any value of a file, as Python spells it."""
    return printable(repr(value[:most] if isinstance(value, str) else value), most)


def json_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in some bytes; None where there is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def embedded(value: Any) -> str:
    """JSON that may stand inside `<script>`: no "<" can end the block or open a comment, no character ends a line of
    JavaScript that ends none of JSON."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    # these characters occur inside strings only, where JSON spells them either way
    for character in "<>\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
