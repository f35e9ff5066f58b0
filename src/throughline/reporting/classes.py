"""How often each class is recognised, by setup and by held-out domain: where classes are of unlike size, a mean over
images does not show the rare ones. Called by `page` and `cards`."""

from collections.abc import Collection

import pandas as pd

from throughline.core.plot import Panel, Plot
from throughline.core.table import MISSING, Table
from throughline.metrics.intervals import wilson_interval
from throughline.reporting.ablation import FULL
from throughline.reporting.confusion import LARGEST_TABLE
from throughline.reporting.estimates import averages
from throughline.reporting.groups import Group
from throughline.reporting.tables import drawn_notes, percent_interval

FAINTEST = 0.1
"""Of a class that is never recognised, to be told from one without an image."""


def class_table(group: Group, answer: str, methods: Collection[str] | None = None) -> Table | None:
    """Classes × setups (of some methods, or all): recall in percent with Wilson's 95 % interval, X without an image;
    the classes with most images first. None without predictions on this answer path, or where images have several
    labels."""
    images = _by_image(group, answer)
    if images is None:
        return None
    names = [n for n in group.final_setups(answer) if methods is None or group.setups[n].method in methods]
    by_setup = images.groupby(["label", "setup"])["correct"].agg(["sum", "size"])
    recalls = {key: wilson_interval(right, n) for key, right, n in by_setup.itertuples(name=None)}
    cells = {key: f"{100 * recall.mean:.1f} ({percent_interval(recall)})" for key, recall in recalls.items()}
    counts = _images_of(images)
    return Table(
        title=f"{group.title} · {answer} path · recall by class",
        columns=("class", "images", *names),
        rows=tuple((row, str(n), *(cells.get((row, name), MISSING) for name in names)) for row, n in counts.items()),
        notes=(
            "In percent, over the images of all held-out domains, mean over seeds; in brackets Wilson's 95 % interval "
            "over images alone. An answer that names no class is wrong.",
            *drawn_notes(group.drawn),
        ),
    )


def class_figure(group: Group, answer: str) -> Plot | None:
    """Classes × held-out domains, shaded by the share of right answers, a panel each for baseline, full method and the
    method with the best Avg. None where `class_table` has none."""
    images = _by_image(group, answer)
    names = [] if images is None else [name for name in _compared(group, answer) if name in set(images["setup"])]
    if images is None or not names:
        return None
    ours, counts = images[images["setup"].isin(names)], _images_of(images)
    lowest = set(ours.groupby("label")["correct"].mean().nsmallest(LARGEST_TABLE).index)
    classes = [label for label in counts if label in lowest]
    cells = ours.groupby(["setup", "label", "domain"])["correct"].agg(["mean", "size"])
    shades = FAINTEST + (1 - FAINTEST) * cells["mean"].unstack()
    panels = [
        Panel(
            title=name,
            heat=shades.loc[name].reindex(classes).fillna(0).to_numpy().tolist(),
            x_ticks=list(enumerate(shades.columns)),
            y_ticks=list(enumerate(classes)),
        )
        for name in names
    ]
    chosen = f"the {len(classes)} of {len(counts)} classes with the lowest, " if len(classes) < len(counts) else ""
    return Plot(
        "classes",
        f"Accuracy of each class in each held-out domain on the {answer} path, {chosen}the class with most images on "
        "top; darker is better, and blank if a domain has no image of the class",
        tuple(panels),
        ("method", "class", "domain", "accuracy", "images"),
        tuple((*key, *values) for key, *values in cells.itertuples(name=None)),
        height=max(1.8, 0.15 * len(classes)) + 0.05 * max(map(len, shades.columns)),  # its names stand upright
        x_label="held-out domain",
        y_label="class",
        shared="xy",
    )


def _by_image(group: Group, answer: str) -> pd.DataFrame | None:
    """Columns `setup, label, domain, sample_id, correct`: the share of the seeds that were right about an image."""
    rows = group.predictions[group.predictions["answer"] == answer]
    if rows.empty or (rows["labels"].map(len) != 1).any():
        return None
    keys = ["setup", "label", "domain", "sample_id"]
    return rows.assign(label=rows["labels"].str[0]).groupby(keys, as_index=False)["correct"].mean()


def _images_of(images: pd.DataFrame) -> dict[str, int]:
    """How many images each class has, the most first."""
    counts = images.drop_duplicates(["domain", "sample_id"])["label"].value_counts()
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _compared(group: Group, answer: str) -> tuple[str, ...]:
    """The setups of baseline, full method and best Avg, each once."""
    ours = averages(group, group.main_split, "accuracy").unstack().get(answer, pd.Series()).dropna()
    full = next((name for name in group.final_setups(answer) if group.setups[name].method == FULL), None)
    best = ours.idxmax() if len(ours) else None
    return tuple(dict.fromkeys(name for name in (group.baseline(answer), full, best) if name is not None))
