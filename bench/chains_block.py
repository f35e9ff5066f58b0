"""The table of what building chains costs, for `documents`."""

from pathlib import Path

from certificate_block import NOT_MEASURED
from records import BuiltChains, ChainsStudy, read_record
from throughline.core.table import Table
from throughline.drawn import DRAWN_NOTE
from throughline.metrics.intervals import mean_and_error
from throughline.reporting.text import to_markdown


def chains(evidence: Path) -> str:
    """What REFLECTION and early stopping buy."""
    found = read_record(evidence / "chains.json", ChainsStudy)
    if found is None:
        return NOT_MEASURED
    columns = (
        "build",
        "answers per image",
        "tokens per answer",
        "well-formed %",
        "consistent %",
        "correct %",
        "images with a chain %",
        "tokens per image with a chain",
        "tokens per accepted chain",
    )
    notes = (
        f"`{found.command}`: {found.images:,} images, at most {found.candidates} candidates each; mean ± standard "
        f"error over {len(found.builds[0].answers)} seeds of the describer. Tokens by the pocket's tokenizer.",
        DRAWN_NOTE,
    )
    return to_markdown(Table("chains", columns, tuple(map(_built, found.builds)), notes), with_title=False)


def _built(build: BuiltChains) -> tuple[str, ...]:
    def shown(above: list[int], below: list[int], times: float = 1.0) -> str:
        value = mean_and_error([times * a / b for a, b in zip(above, below, strict=True)])
        return f"{value.mean:.{2 if value.mean < 10 else 1}f} ± {value.error:.{2 if value.mean < 10 else 1}f}"

    images = [build.images] * len(build.answers)
    return (
        build.name,
        shown(build.answers, images),
        shown(build.tokens, build.answers),
        shown(build.well_formed, build.answers, 100),
        shown(build.consistent, build.answers, 100),
        shown(build.correct, build.answers, 100),
        shown(build.images_with_chain, images, 100),
        shown(build.tokens, build.images_with_chain),
        shown(build.tokens, build.correct),
    )
