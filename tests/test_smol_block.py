"""What `smol` answers on real images, as the findings show it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests.answered_run import Answered, write_answered

import documents

STYLES, SHARES = ("line_art", "photo"), {"prior": 10, "label": 20, "likelihood": 30, "contrast": 40}


def hits(count: int, of: int = 100) -> NDArray[np.bool_]:
    return np.arange(of) < count


def test_a_style_has_a_row_with_every_path_the_vote_and_the_probe(tmp_path: Path) -> None:
    assert documents.BLOCKS["smol-styles"](tmp_path) == documents.NOT_MEASURED
    units = [
        unit
        for style, more in zip(STYLES, (0, 5), strict=True)
        for unit in (
            Answered(style, {path: hits(share + more) for path, share in SHARES.items()}),
            Answered(style, {"probe: tower": hits(70 + more)}, method="probe"),
        )
    ]
    write_answered(tmp_path / "smol", units, "open_styles", "smol")
    block = documents.BLOCKS["smol-styles"](tmp_path)
    (photo,) = (row for row in block.splitlines() if row.startswith("| photo"))
    cells = [cell.split(" ")[0] for cell in photo.strip("| ").split(" | ")]
    assert cells == ["photo", "100", "100.0", "15.0", "25.0", "35.0", "45.0", "–", "75.0"]
    assert "| mean |  | 100.0 | 12.5 (" in block
    write_answered(
        tmp_path / "smol_chains",
        [Answered(style, {"reasoning": hits(9, of=36)}) for style in STYLES],
        "open_styles",
        "smol",
    )
    assert "| 25.0 (" in documents.BLOCKS["smol-styles"](tmp_path)


def test_fine_tuning_stands_beside_the_model_as_it_is_path_by_path(tmp_path: Path) -> None:
    units = [
        Answered(style, {path: hits(share)}, method=method, seed=seed, factors={"asked": asked})
        for style in STYLES
        for seed in (0, 1)
        for asked, path in (("labels", "label"), ("chains", "reasoning"))
        for method, share in (("zero_shot", 20), ("cls", 50 + 10 * seed))
    ]
    write_answered(tmp_path / "smol_cls", units, "open_styles", "smol")
    block = documents.BLOCKS["smol-tuned"](tmp_path)
    rows = [row for row in block.splitlines() if row.startswith(("| line", "| photo"))]
    assert [row.split(" | ")[1] for row in rows] == ["label", "reasoning"] * 2
    assert all("| 20.0 (" in row and "| 55.0 (" in row and "+35.0" in row for row in rows)
