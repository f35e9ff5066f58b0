"""One page that stands alone: a template with its script and styles inside, and a content policy that allows this
script and no other. The report and the page of a chain store are both rendered here.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from throughline.core.untrusted import visible

_TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    """One for all pages: it keeps the compiled templates."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment


def render_page(template: str, scripts: Sequence[str], styles: Sequence[str], shown: Mapping[str, Any]) -> str:
    """The page as text. `template`, `scripts` and `styles` are files of `templates/`; what is `shown` is escaped.

    The template gets `script` (all of them, one behind the other), `script_hash` (base64 SHA-256, for its content
    policy) and `style` besides.
    """
    code = "".join((_TEMPLATES / name).read_text("utf-8") for name in scripts)
    return (
        _environment()
        .get_template(template)
        .render(
            shown,
            script=code,
            script_hash=base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
            style="".join((_TEMPLATES / name).read_text("utf-8") for name in styles),
        )
    )
