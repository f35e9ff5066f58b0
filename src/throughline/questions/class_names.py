"""Class names that answers cannot be told by, found before anything is asked: by `data check`, `run`, `fit` …"""

import re
from collections.abc import Iterator, Sequence

from throughline.chains.answers import parse_answer
from throughline.chains.names import Aliases
from throughline.core.errors import ThroughlineError
from throughline.domains.checks import Defect, Severity
from throughline.domains.samples import in_words

_UNREADABLE = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]|</?\w[^<>]*>")
"""A line break or another control character, or a tag, as the stages of a chain have."""


def class_name_defects(classes: Sequence[str], names: Aliases | None = None) -> Iterator[Defect]:
    """Names that the answer parser refuses, and those that it does not read back from a plain answer; `names`
    as in `parse_answer`, display names first. Questions show a display name, or else the folder's; of a synonym, which
    only answers use, nothing is an error but that it is read as another class."""
    for label in classes:
        display, *synonyms = (names or {}).get(label, (label,))
        for written in (display, *synonyms):
            name = in_words(written)
            usual: Severity = "error" if written == display else "warning"
            shown = f"the class name {written!r}" + ("" if written == label else f" of {label}")
            texts = (name, f"The answer is {name}.")
            try:
                read = [parse_answer(text, classes, names).label or "no class" for text in texts]
            except ThroughlineError as error:  # the list as a whole
                yield Defect("class_name", "error", str(error), tuple(classes))
                return
            if _UNREADABLE.search(written):
                yield Defect("class_name", usual, f"{shown} contains a line break or a tag: rename it", (label,))
            elif read != [label, label]:
                is_lost_in_a_sentence, others = read == [label, "no class"], set(read) - {label, "no class"}
                severity: Severity = "warning" if is_lost_in_a_sentence else "error" if others else usual
                what = f"{shown} is read from an answer as {read[0]}, from a sentence as {read[1]}: rename it"
                yield Defect("class_name", severity, what, (label,))
            elif written == display and re.search("[,，、]", written):
                what = f"{shown} contains a comma: in the question it looks like several options"
                yield Defect("class_name", "warning", what, (label,))
