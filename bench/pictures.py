"""The README's pictures of a report page, as a headless browser shows it. For `evidence`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from browser import BROWSER, BROWSERS, Browser
from throughline.core.errors import ThroughlineError

PICTURES = {"report": (None, "light", 1600), "report-chains": ("chains", "dark", 760)}
"""By file name: the section at the top (None: the head of the page), the colour scheme and the height in pixels."""

WIDTH = 1400


def take_pictures(page: Path, folder: Path) -> Iterator[Path]:
    """Writes each of `PICTURES` into `folder`. Raises ThroughlineError without a page or a browser."""
    if not page.is_file():
        raise ThroughlineError("no report page here", page, "finish the run, or name another with --run")
    if BROWSER is None:
        raise ThroughlineError("no browser to take pictures with", do=f"install one of {', '.join(BROWSERS)}")
    with tempfile.TemporaryDirectory() as scratch, Browser(Path(scratch) / "profile") as browser:
        browser.hide_scrollbars()
        for name, (section, scheme, height) in PICTURES.items():
            browser.emulate(scheme=scheme)
            browser.open(page, width=WIDTH, height=height)
            if section is not None:
                browser.evaluate(f"openFor('{section}'); document.getElementById('{section}').scrollIntoView()")
            raw = Path(scratch) / f"{name}.png"
            browser.picture(raw)
            # A page has few colours: a palette makes the file a third of the size, and no eye sees it.
            Image.open(raw).convert("RGB").quantize(128).save(folder / raw.name, optimize=True)
            yield folder / raw.name
