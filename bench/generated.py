"""Tables inside hand-written Markdown that come from evidence: what stands between two markers is replaced by
command, and a test compares it. Called by the commands that renew README and docs."""

import re

from throughline.core.errors import ThroughlineError

_END = "<!-- /generated -->"


def replace_generated(text: str, name: str, block: str) -> str:
    """`text` with `block` between `<!-- generated: NAME -->` and `<!-- /generated -->`; doing it twice
    changes nothing.

    A marker that is missing, doubled or not closed is a ThroughlineError.
    """
    start, end = _inside(text, name)
    return f"{text[:start]}\n\n{block.strip()}\n\n{text[end:]}"


def generated_block(text: str, name: str) -> str:
    """What stands between the markers now, without the blank lines around it."""
    start, end = _inside(text, name)
    return text[start:end].strip()


def generated_names(text: str) -> tuple[str, ...]:
    """The names of all blocks of a text, in their order."""
    return tuple(re.findall(r"<!-- generated: (.+?) -->", text))


def _inside(text: str, name: str) -> tuple[int, int]:
    opening = f"<!-- generated: {name} -->"
    found = [match.end() for match in re.finditer(re.escape(opening), text)]
    if len(found) != 1:
        raise ThroughlineError(
            f"the marker stands {len(found)} times in the text", opening, "it has to stand exactly once"
        )
    end = text.find(_END, found[0])
    next_opening = text.find("<!-- generated:", found[0])
    if end < 0 or 0 <= next_opening < end:
        raise ThroughlineError("the marker is not closed", opening, f"put {_END} after the generated part")
    return found[0], end
