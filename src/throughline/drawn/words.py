"""How parts are spoken of: articles, plurals, lists, and the colour a part is drawn in. Used by the describer; it
keeps its vocabulary small."""

from collections.abc import Sequence

from throughline.drawn.scenes import Colours

_PLURAL = frozenset({"dots", "feet", "hands", "legs", "petals", "wheels"})
_MASS = frozenset({"steam"})
_SECOND = frozenset({"hands", "petals", "sail"})
_MAIN = frozenset({"backrest", "basin", "bed", "cabin", "disc", "handle", "head", "hull", "seat"})
_DARK = frozenset({"feet", "legs", "steam", "stem", "wheels"})


def plural(part: str) -> bool:
    """Whether the part is spoken of in the plural."""
    return part in _PLURAL


def named(part: str) -> str:
    """The part with its article: a handle, an oar, hands, steam."""
    if part in _PLURAL | _MASS:
        return part
    return f"an {part}" if part[0] in "aeiou" else f"a {part}"


def colour_of(part: str, colours: Colours) -> str:
    """The colour word of a part; shapes draw the same part in the same role."""
    if part in _DARK:
        return "dark"
    if part in _MAIN:
        return colours.main
    return colours.second if part in _SECOND else colours.accent


def listed(words: Sequence[str]) -> str:
    """a, b and c; an empty text for nothing."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
