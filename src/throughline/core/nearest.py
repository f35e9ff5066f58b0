"""The known name nearest to a word that is none of them, for every error that says "did you mean"."""

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like `word`, or None when none comes near."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def did_you_mean(word: str, known: Iterable[str], what: str) -> str:
    """What to do about an unknown name, e.g. "did you mean cls? the methods are zero_shot, cls"; `what` names the
    list."""
    names = list(known)
    match = nearest(word, names)
    return (f"did you mean {match}? " if match else "") + f"{what} are {', '.join(names)}"
