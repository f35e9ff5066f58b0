"""What verbs print: numbers with a noun, spans of time, JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from throughline.core.table import Table


def json_text(value: Any) -> str:
    """What `--json` prints."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def counted(number: int, noun: str) -> str:
    """`1 file`, `1,200 files`: for nouns with a regular plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def count_table(root: Path, counts: Mapping[str, Mapping[str, int]], images: Mapping[str, int] | None = None) -> Table:
    """Images of each class (a row) in each domain (a column), `counts[domain][class]`, and all `images` of the domain;
    without these the sum, which is right where an image has one label."""
    images = images or {domain: sum(row.values()) for domain, row in counts.items()}
    labels = next(iter(counts.values()), {})
    rows = [(label, *(f"{row[label]:,}" for row in counts.values())) for label in labels]
    rows.append(("all", *(f"{images.get(domain, 0):,}" for domain in counts)))
    return Table(f"{root}: images by domain and class", ("class", *counts), tuple(rows))


def duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
