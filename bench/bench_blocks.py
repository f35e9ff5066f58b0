"""The generated blocks of docs/benchmarks.md: rows of `throughline bench`, the demo's profile, the cost model against
the demo. Called by `documents`.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from certificate_block import NOT_MEASURED
from records import Bench, BenchRow, CostOfDemo, DemoProfile, DemoTime, HelpTime, read_record
from throughline.core.table import Table
from throughline.reporting.text import to_markdown

BENCHES = (
    *("step", "step_ablated", "memory", "score", "sample", "evaluate"),
    *("ood", "drift", "preference", "input", "scale", "teacher", "classifiers", "gpu"),
)
"""What `evidence` measures and the documents show: the NAME of each evidence/bench_NAME.json."""


def bench_block(name: str) -> Callable[[Path], str]:
    """The block of evidence/bench_NAME.json."""

    def block(evidence: Path) -> str:
        found = read_record(evidence / f"bench_{name}.json", Bench)
        return NOT_MEASURED if found is None else _bench(found)

    return block


def _bench(found: Bench) -> str:
    predicted = any(row.predicted_ratio is not None for row in found.rows)
    columns = ("name", "compared with", "ours", "theirs", "unit", "ratio")
    rows = tuple(
        (
            row.name,
            row.rival,
            _measured(row.ours_value, row.ours_spread),
            _measured(row.rival_value, row.rival_spread),
            row.unit,
            f"{row.ratio:.2f}",
            *(_reached(row) if predicted else ()),
        )
        for row in found.rows
    )
    notes = (
        f"`{found.command}`. Medians with first and third quartile. Ratio: theirs over ours; for memory and "
        f"rates ours over theirs.{' Predicted: from the FLOP count.' if predicted else ''}",
        f"Settings of all rows: {_listed(_common(found.rows)) or 'none in common'}.",
        *_own_settings(found.rows),
        found.environment.sentence(),
    )
    table = Table("bench", columns + (("predicted", "reached") if predicted else ()), rows, notes)
    return to_markdown(table, with_title=False)


def _measured(value: float, spread: tuple[float, float] | None) -> str:
    if spread is None or spread[0] == spread[1]:
        return f"{value:.4g}"
    return f"{value:.4g} ({spread[0]:.4g}–{spread[1]:.4g})"


def _reached(row: BenchRow) -> tuple[str, str]:
    if row.predicted_ratio is None:
        return "X", "X"
    return f"{row.predicted_ratio:.2f}", f"{100 * row.ratio / row.predicted_ratio:.0f} %"


def _common(rows: Sequence[BenchRow]) -> dict[str, Any]:
    first, *others = (row.settings for row in rows)
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _own_settings(rows: Sequence[BenchRow]) -> Iterable[str]:
    """A line for each name with what its rows share beyond all rows, then what each of its rivals has for itself."""
    common = _common(rows)
    for name in dict.fromkeys(row.name for row in rows):
        alike = [row for row in rows if row.name == name]
        shared = {key: value for key, value in _common(alike).items() if key not in common}
        parts = [_listed(shared)] if shared else []
        for row in alike if len(alike) > 1 else ():
            own = {key: v for key, v in row.settings.items() if key not in common and key not in shared}
            parts += [f"{row.rival}: {_listed(own)}"] if own else []
        if parts:
            yield f"{name}: {'; '.join(parts)}."


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {f'{v:.3g}' if isinstance(v, float) else v}" for key, v in settings.items())


def demo_time(evidence: Path) -> str:
    """The demo's seconds."""
    found = read_record(evidence / "demo_time.json", DemoTime)
    if found is None:
        return NOT_MEASURED
    seconds = ", ".join(f"{value:.0f} s" for value in found.seconds)
    return (
        f"`{found.command}`, {len(found.methods)} methods, {found.held_out_images} held-out images, after set-up, into "
        f"fresh folders: {seconds}; best {found.best:.0f} s (the bar is {found.limit:.0f} s). "
        f"{found.environment.sentence()}"
    )


def demo_seconds(evidence: Path) -> str:
    """The same in a sentence for the README."""
    found = read_record(evidence / "demo_time.json", DemoTime)
    if found is None:
        return f"Time of the demo: {NOT_MEASURED}"
    return (
        f"The demo took {found.best:.0f} seconds on {found.environment.cores} cores, the best of {len(found.seconds)} "
        "runs."
    )


def help_time(evidence: Path) -> str:
    """The first page of help."""
    found = read_record(evidence / "help_time.json", HelpTime)
    if found is None:
        return NOT_MEASURED
    return (
        f"`{found.command}`: {found.median:.2f} s, median of {len(found.seconds)} (the bar is {found.limit} s). "
        f"{found.environment.sentence()}"
    )


def demo_profile(evidence: Path) -> str:
    """Processor seconds of the demo by what they went into, before and after."""
    before, after = (read_record(evidence / f"demo_profile_{when}.json", DemoProfile) for when in ("before", "after"))
    if before is None or after is None:
        return NOT_MEASURED
    names = sorted({*before.seconds, *after.seconds}, key=lambda name: -before.seconds.get(name, 0.0))
    rows = [(name, f"{before.seconds.get(name, 0):.0f}", f"{after.seconds.get(name, 0):.0f}") for name in names]
    rows.append(("all", f"{sum(before.seconds.values()):.0f}", f"{sum(after.seconds.values()):.0f}"))
    notes = (
        f"`{after.command}` under py-spy, {after.rate} samples a second of every active thread in all "
        f"processes; before: commit {before.commit}, after: commit {after.commit}.",
        after.environment.sentence(),
    )
    return to_markdown(Table("profile", ("processor seconds", "before", "after"), tuple(rows), notes), with_title=False)


def cost_of_demo(evidence: Path) -> str:
    """What the dry run predicts for the demo against what it took."""
    found = read_record(evidence / "cost_model.json", CostOfDemo)
    if found is None:
        return NOT_MEASURED
    rows: list[tuple[str, ...]] = [
        (part.unit, part.group, f"{part.at_most:.0f}", f"{part.predicted:.0f}", f"{part.measured:.0f}")
        for part in found.parts
    ]
    sums = (sum(getattr(part, key) for part in found.parts) for key in ("at_most", "predicted", "measured"))
    rows.append(("all", "", *(f"{value:.0f}" for value in sums)))
    notes = (
        f"`{found.command}`, seconds of a worker. Upper bound: as `--dry-run` prints it, for no rejected chain. With "
        "the accepted chains: the same model given the number of chains that each round accepted.",
        found.environment.sentence(),
    )
    columns = ("unit", "phase", "upper bound", "with the accepted chains", "measured")
    return to_markdown(Table("cost", columns, tuple(rows), notes), with_title=False)
