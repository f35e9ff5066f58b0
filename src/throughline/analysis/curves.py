"""The optimisation gap: what each method's training reached, by optimiser step, from its own loss lines.

`losses` are the NLLs that training minimises (label: sum over its tokens; chain: mean over its own).
`class_probability` is the mean probability of the class tokens, as the whole answer and where a chain last names the
class, of the samples since the line before; it is logged beside the loss and changes no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from throughline.analysis.records import Curve


def curve(method: str, unit: str, lines: Sequence[Mapping[str, Any]]) -> Curve | None:
    """From the rows of a unit's training.jsonl; steps go on counting through the rounds. None without any."""
    if not lines:
        return None
    steps, offset, last, stage = [], 0, 0, lines[0].get("stage")
    for line in lines:
        if line.get("stage") != stage:
            offset, stage = offset + last, line.get("stage")
        last = int(line["step"])
        steps.append(offset + last)
    return Curve(
        method=method,
        unit=unit,
        steps=tuple(steps),
        losses=_columns(lines, "losses"),
        class_probability=_columns(lines, "class_probability"),
    )


def _columns(lines: Sequence[Mapping[str, Any]], key: str) -> dict[str, tuple[float | None, ...]]:
    names = sorted({name for line in lines for name in line.get(key) or {}})
    return {name: tuple((line.get(key) or {}).get(name) for line in lines) for name in names}
