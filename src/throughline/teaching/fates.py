"""What an endpoint's answer means: one table, `fates.toml`, from finish reason, error code and HTTP status to a fate,
and from an error's words where these do not tell. `completions` reads every answer with it, of a connection or a file.
"""

import json
import re
import tomllib
from importlib import resources
from typing import Any, Literal

from throughline.chains.records import FAILED, Usage
from throughline.questions.sampler import Reply

Fate = Literal["truncated", "filtered", "refused", "passing", "lost", "rejected", "final"]
"""Cut off at the length limit; the content filter's answer; too many requests; try again; no connection; not this
request; no request at all. What has none of them is a whole answer."""

_TABLES = tomllib.loads(resources.files(__package__).joinpath("fates.toml").read_text("utf-8"))
_FATES: dict[str, Fate] = {code.replace("_", ""): fate for fate, codes in _TABLES["codes"].items() for code in codes}
_WORDS = {name: re.compile("|".join(words), re.IGNORECASE) for name, words in _TABLES["words"].items()}


class NoAnswer(ValueError):
    """The endpoint gave no text of the teacher. `status` is the HTTP status, or the one that an error inside HTTP 200
    names; None where nothing came back."""

    def __init__(self, fate: Fate, words: str, status: int | None = None) -> None:
        super().__init__(words)
        self.fate, self.status = fate, status
        self.wait: float | None = None
        """Seconds that the endpoint wants to be left alone."""

    def reply(self, words: str) -> Reply:
        """What is recorded of a request that is not made again: a refusal or a failure, and why."""
        if self.fate == "filtered":
            return Reply(words, "content_filter", Usage())
        return Reply(words, FAILED, rejected=self.fate == "rejected")


def fate_of(*codes: Any) -> Fate | None:
    """The fate of the first code that the table knows: in any case, with any or no sign between words, also as in
    `FinishReason.MAX_TOKENS` and `content_filter: SAFETY`."""
    parts = (part for code in codes for part in str(code).casefold().split(":"))
    plain = (re.sub(r"[\W_]+", "", part).removeprefix("finishreason") for part in parts)
    return next((_FATES[code] for code in plain if code in _FATES), None)


def no_answer(body: Any, status: int) -> NoAnswer:
    """What a body means that came with this HTTP status and holds an error, in any of the shapes that servers give it,
    or is no chat completion."""
    error = _innermost(body)
    fields = error if isinstance(error, dict) else {}
    codes = [fields.get("code"), fields.get("type"), fields.get("status"), status]
    number = next((int(code) for code in map(str, codes) if re.fullmatch("[45][0-9][0-9]", code)), status)
    whole = error if isinstance(error, str) else json.dumps(error)
    is_error = status >= 400 or error is not body
    said = str(fields.get("message") or fields.get("detail") or (whole if is_error else "no chat completion"))
    raw = fields["metadata"].get("raw") if isinstance(fields.get("metadata"), dict) else None  # OpenRouter's provider
    said = " ".join(re.sub(r"<[^<>]*>", " ", f"{said} {raw or ''}").split())
    fate = fate_of(*codes)
    if fate in (None, "truncated"):
        fate = "rejected" if 400 <= number < 500 else "passing"
        if number < 500 and not _WORDS["parameter"].search(said):
            spoken_of: tuple[Fate, ...] = ("final", "filtered")
            fate = next((name for name in spoken_of if _WORDS[name].search(whole)), fate)
    if fate == "rejected" and (number == 413 or _WORDS["too_large"].search(said)):
        said += " (a smaller --image-side may help)"
    return NoAnswer(fate or "passing", said, number)


def _innermost(error: Any) -> Any:
    """An error may stand in a list (Gemini), or under "error", once or twice (vLLM's batches)."""
    inside = error.get("error") if isinstance(error, dict) else error[0] if isinstance(error, list) and error else None
    return _innermost(inside) if inside and isinstance(inside, dict | list | str) else error
