"""What settings are worth: one key of bench/sensitivity.yaml changed at a time, and five rounds. For `evidence`.

The values were written down before any of these runs. Every run is kept in runs/sensitivity and goes on where it was.
"""

from collections.abc import Callable
from pathlib import Path

from throughline.analysis.document import FILE, read_analysis
from throughline.analysis.sensitivity import Sensitivity

VARIED: dict[str, tuple[str, ...]] = {
    "model.lora.rank": ("2", "32"),
    "model.lora.vision": ("[]",),
    "model.lora.decoder": ("[]",),
    "training.stage.lr": ("3.0e-4", "3.0e-3"),
}
"""Key and its other values; those of the file are rank 8, both towers, 1e-3."""

TWO_CHAINS = ("chains.per_image=2", "training.stage.epochs=1.5")
"""Twice the examples in half the epochs: as many steps."""

ROUNDS = ("methods=mtct_sarr", "training.rounds=5")


def study(
    root: Path, run: Callable[..., None], compared: Callable[[Path, list[Path]], None]
) -> tuple[Sensitivity, ...]:
    """`run(*words)` is `throughline run`, `compared(base, others)` is `throughline analyze --what sensitivity`."""
    folder = root / "runs" / "sensitivity"
    config = "bench/sensitivity.yaml"
    base = folder / "base"
    run(config, "--out", str(base.relative_to(root)))
    found: list[Sensitivity] = []
    for key, values in VARIED.items():
        others = []
        for value in values:
            other = folder / f"{key.rpartition('.')[2]}-{value.strip('[]') or 'none'}"
            run(config, "--set", f"{key}={value}", "--out", str(other.relative_to(root)))
            others.append(other)
        found += _of(base, others, compared)
    two = folder / "two-chains"
    run(config, *(word for one in TWO_CHAINS for word in ("--set", one)), "--out", str(two.relative_to(root)))
    found += _of(base, [two], compared)
    rounds = folder / "rounds"
    run(config, *(word for one in ROUNDS for word in ("--set", one)), "--out", str(rounds.relative_to(root)))
    found += _of(rounds, [], compared)
    return tuple(found)


def _of(base: Path, others: list[Path], compared: Callable[[Path, list[Path]], None]) -> list[Sensitivity]:
    """An analysis keeps what it was not asked for: the one before goes first."""
    (base / FILE).unlink(missing_ok=True)
    compared(base, others)
    analysis = read_analysis(base / FILE)
    assert analysis is not None
    if analysis.missing:
        raise SystemExit(f"{base}: {analysis.missing[0].what}: {analysis.missing[0].why}")
    return list(analysis.sensitivity)
