"""The manual's picture of the drawn world: every class in every style. Called by `evidence.py screenshot`."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from throughline.core.files import write_atomically
from throughline.drawn.concepts import FAMILIES
from throughline.drawn.scenes import sample_scene
from throughline.drawn.styles import AUXILIARY_STYLES, DOMAIN_STYLES, render


def contact_sheet(path: Path, seed: int, styles: Sequence[str] = (*DOMAIN_STYLES, *AUXILIARY_STYLES)) -> None:
    """A picture of every class (rows, pairs together) in every style (columns), labelled, as PNG at `path`."""
    cell, gap, margin, header = 96, 4, 64, 18
    classes = [cls for family in FAMILIES for cls in family.classes]
    wide, high = margin + len(styles) * (cell + gap), header + len(classes) * (cell + gap)
    sheet = Image.new("RGB", (wide, high), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    for column, style in enumerate(styles):
        pen.text((margin + column * (cell + gap) + 4, 3), style, fill=(0, 0, 0))
    for row, cls in enumerate(classes):
        top = header + row * (cell + gap)
        pen.text((6, top + cell // 2 - 6), cls, fill=(0, 0, 0))
        for column, style in enumerate(styles):
            image = render(sample_scene(seed, style, cls, 0), style, 64).resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(image, (margin + column * (cell + gap), top))
    buffer = io.BytesIO()
    sheet.quantize(256).save(buffer, "PNG", optimize=True)  # a third of the bytes, no difference to the eye
    write_atomically(path, buffer.getvalue())
