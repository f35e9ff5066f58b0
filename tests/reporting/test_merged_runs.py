"""Evidence measured in parts, a few held-out domains each, is the evidence of one run of all of them."""

from pathlib import Path

import pytest
import yaml
from tests.reporting.conftest import write_run

from merged_runs import merge_runs
from reduced_run import UNITS, reduce_run
from throughline.core.errors import ThroughlineError
from throughline.reporting.results import groups
from throughline.reporting.tables import headline_table, rounds_table

METHODS = ("zero_shot", "cls", "mtct_sarr")


def reduced(root: Path, targets: tuple[str, ...], lr: float = 1e-3) -> Path:
    """A run of these targets, reduced."""
    fake = write_run(root, targets, METHODS, (0, 1), 20)
    config = {"name": "demo", "data": {"targets": list(targets)}, "lr": lr}
    (fake.folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return reduce_run(fake.folder, root / "reduced").folder


@pytest.mark.slow
def test_parts_give_the_tables_of_the_whole(tmp_path: Path) -> None:
    parts = [reduced(tmp_path / target, (target,)) for target in ("painting", "sketch")]
    merged = merge_runs(parts, tmp_path / "merged")
    whole = reduce_run(
        write_run(tmp_path / "whole", ("painting", "sketch"), METHODS, (0, 1), 20).folder, tmp_path / "w"
    )
    (ours,), (theirs,) = groups(merged), groups(whole)
    assert headline_table(ours, "all") == headline_table(theirs, "all")
    assert rounds_table(ours) == rounds_table(theirs)
    assert (merged.folder / UNITS).read_text() == (whole.folder / UNITS).read_text()
    assert merged.config["data"]["targets"] == ["painting", "sketch"]


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first, twice = (reduced(tmp_path / name, ("painting",)) for name in ("first", "twice"))
    with pytest.raises(ThroughlineError, match="a unit in common"):
        merge_runs([first, twice], tmp_path / "merged")
    other = reduced(tmp_path / "other", ("sketch",), lr=3e-3)
    with pytest.raises(ThroughlineError, match=r"differs in more than data\.targets"):
        merge_runs([first, other], tmp_path / "merged")
