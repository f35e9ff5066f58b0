"""What a reader has to know before the numbers: rows that do not say what they seem to say. Shown at the end of
a run and on top of the page."""

from collections.abc import Iterator

import pandas as pd

from throughline.reporting.groups import Group, empty_rounds, groups, one_class_only
from throughline.runs.reader import Run

ENOUGH = 0.9
"""Below this share of images with a chain a comparison of methods is one of images, too."""
STILL_FALLING, RISING = 0.9, 1.1
"""The mean loss of the last quarter of a stage over that of the quarter before."""


def warnings(run: Run) -> tuple[str, ...]:
    """One sentence each, in the order of the groups of results; what is so in several of them once."""
    checks = (_coverage, _empty_rounds, _one_class, _unparsed, _losses)
    return tuple(dict.fromkeys(line for group in groups(run) for check in checks for line in check(group)))


def _coverage(group: Group) -> Iterator[str]:
    # zero_shot trains at most on the examples of a prompt
    return coverage(group.with_setup(group.run.frames.units.query("method != 'zero_shot'")).dropna(subset=["images"]))


def coverage(units: pd.DataFrame) -> Iterator[str]:
    """Setups that learn from other images than the rest, or lack chains; `units` of one group that were trained, or
    will be, with the columns `setup, images, images_with_chain`."""
    most = int(units["images"].max()) if len(units) else 0
    for setup, ours in units.groupby("setup", sort=False):
        images, with_chain = int(ours["images"].min()), int(ours["images_with_chain"].min())
        if images < ENOUGH * most:
            yield f"{setup} is trained on {images} images, others on {most}: the difference may come from the images"
        elif 0 < with_chain < ENOUGH * images:
            yield f"{setup} has chains for only {with_chain} of its {images} images"


def _empty_rounds(group: Group) -> Iterator[str]:
    for row in empty_rounds(group).itertuples():
        yield f"round {row.round} of {row.setup} ({row.target}, seed {row.seed}) accepted none of {row.sampled} chains"


def _one_class(group: Group) -> Iterator[str]:
    for row in one_class_only(group).itertuples():
        yield f"{row.setup}, {row.answer} path: every image was answered with one class, {row.predicted}"


def _unparsed(group: Group) -> Iterator[str]:
    rows = group.final[group.final["split"] == group.main_split]
    counts = rows.groupby(["setup", "answer"], sort=False)[["n", "unparsed"]].sum()
    for (setup, answer), row in counts[counts["unparsed"] > counts["n"] / 2].iterrows():
        yield f"{setup}, {answer} path: {row['unparsed']} of {row['n']} answers name no class"


def _losses(group: Group) -> Iterator[str]:
    lines = group.with_setup(group.run.frames.training.query("method != 'zero_shot'"))
    whole = lines[(lines["part"] == "loss") & lines["setup"].isin(group.final["setup"])]
    for (setup, stage), ours in whole.groupby(["setup", "stage"], sort=False):
        quarter = ours["step"] * 4 > ours["step"].max() * 3
        before = (ours["step"] * 2 > ours["step"].max()) & ~quarter
        if quarter.sum() < 2 or before.sum() < 2:
            continue
        ratio = ours.loc[quarter, "loss"].mean() / ours.loc[before, "loss"].mean()
        if ratio < STILL_FALLING:
            hint = "more training.stage.epochs or a higher training.stage.lr may help"
            yield f"{setup}, {stage}: the loss still falls at the end, to {ratio:.2f} of the quarter before: {hint}"
        elif ratio > RISING:
            yield f"{setup}, {stage}: the loss rises at the end of training: a lower training.stage.lr may help"
