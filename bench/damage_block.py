"""The study of damaged checkpoints as tables: verdicts by damage and strength, and how often they are right. Called by
`documents.py`."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from certificate_block import NOT_MEASURED
from damage import DamageStudy, Verdict
from records import read_record
from throughline.core.table import Table
from throughline.drawn import DRAWN_NOTE
from throughline.metrics.intervals import wilson_interval
from throughline.reporting.text import to_markdown

RECORD = "damage.json"
JUDGED = ("right", "wrong", "refused")


def damage(evidence: Path) -> str:
    """Shares over all copies, then a row for each damage and strength."""
    found = read_record(evidence / RECORD, DamageStudy)
    return NOT_MEASURED if found is None else "\n".join(to_markdown(own, with_title=False) for own in _tables(found))


def _tables(found: DamageStudy) -> list[Table]:
    damaged, whole = ([v for v in found.verdicts if bool(v.causes) is with_cause] for with_cause in (True, False))
    one, two = ([v for v in damaged if len(v.causes) == count] for count in (1, 2))
    groups = {"one cause": one, "two causes": two, "all damaged": damaged, "no cause": whole}
    shares = tuple((name, str(len(own)), *(_share(own, judged) for judged in JUDGED)) for name, own in groups.items())
    by_damage: dict[str, list[Verdict]] = {}
    for verdict in found.verdicts:
        by_damage.setdefault(" and ".join(f"{name} {strength:g}" for name, strength in verdict.damages), []).append(
            verdict
        )
    rows = tuple(
        (
            name,
            " or ".join(own[0].causes) or "none",
            f"{100 * fmean(verdict.accuracy for verdict in own):.0f}",
            ", ".join(" and ".join(verdict.named) or "refused" for verdict in own),
        )
        for name, own in by_damage.items()
    )
    notes = (
        f"`{found.command}`: {len(found.verdicts)} copies of the pocket, {found.asked:,} of {found.images:,} images "
        f"asked about, label likelihood. Undamaged: {100 * found.accuracy:.0f} %. Percent with Wilson's 95 % interval "
        "over copies. Refused: there is a cause, and none is named. The longest diagnosis took "
        f"{max(verdict.seconds for verdict in found.verdicts):.0f} s.",
        DRAWN_NOTE,
        found.environment.sentence(),
    )
    return [
        Table("verdicts", ("damaged copies with", "copies", *JUDGED), shares, notes),
        Table("by damage", ("damage", "truth", "accuracy, %", "verdicts"), rows),
    ]


def _share(verdicts: Sequence[Verdict], judged: str) -> str:
    share = wilson_interval(sum(verdict.judged == judged for verdict in verdicts), len(verdicts)).scaled(100)
    return f"{share.mean:.0f} ({share.low:.0f} to {share.high:.0f})"


BLOCKS = {"damage": damage}
