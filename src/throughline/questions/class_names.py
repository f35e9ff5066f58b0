"""Class names that answers cannot be told by, found before anything is asked: by `data check`, `run`, `fit` …"""

import re
from collections.abc import Iterator, Sequence

from throughline.chains.answers import parse_answer
from throughline.chains.names import Aliases
from throughline.core.errors import ThroughlineError
from throughline.domains.checks import Defect, Severity
from throughline.questions.wording import class_name

_UNREADABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]|</?\w[^<>]*>")
"""A line break or another control character, or a tag, as the stages of a chain have."""


def class_name_defects(classes: Sequence[str], names: Aliases | None = None) -> Iterator[Defect]:
    """Names that the answer parser refuses, and those that it does not read back from a plain answer; `names`
    as in `parse_answer`."""
    for label in classes:
        written, name = (names or {}).get(label, [label])[0], class_name(label, names)
        shown = f"the class name {written!r}"
        try:
            read = [parse_answer(text, classes, names).label or "no class" for text in (name, f"The answer is {name}.")]
        except ThroughlineError as error:  # the list as a whole
            yield Defect("class_name", "error", str(error), tuple(classes))
            return
        if _UNREADABLE.search(written):
            yield Defect("class_name", "error", f"{shown} holds a line break or a tag: rename it", (label,))
        elif read != [label, label]:
            severity: Severity = "warning" if read == [label, "no class"] else "error"
            what = f"{shown} is read from an answer as {read[0]}, from a sentence as {read[1]}: rename it"
            yield Defect("class_name", severity, what, (label,))
        elif re.search("[,，、]", written):
            what = f"{shown} holds a comma: in the question it reads as several options"
            yield Defect("class_name", "warning", what, (label,))
