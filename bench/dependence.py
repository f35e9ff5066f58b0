"""Does what holds depend on the number of training images, or on the teacher's mistakes? Called by
`evidence.py dependence`.

Written down before anything was run: `cls`, `mtct` and `mtct_sarr`; `sketch` and `photo` held out; seeds 0, 1, 2;
answered by likelihood and by label; chains accepted by rule `correct`. *Images*: 20, 40, 80 and 160 per source domain,
160 being those of the full table and taken from it, at as many optimiser steps as the chosen budgets have with 160.
`mtct_sarr` has the budget of `mtct`; its rounds have the epochs of the first stage, and steps by how many chains are
accepted. *Mistakes*: the describer is wrong about the deciding part in 0, 0.08 (its default), 0.24 and 0.4 of the
chains it writes, with 160 images. `cls` learns from no chain, so here it is that of the run with 160 images and 0.08,
which both halves share. Whatever comes out stands as it falls. Stopped runs resume; of points that are whole, reduced
runs are kept.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from budgets import EPOCHS, per_method
from records import Budgets, DependenceRow, DependenceValue
from reduced_run import read_group, reduce_run
from throughline.core.errors import ThroughlineError
from throughline.drawn.styles import DOMAIN_STYLES
from throughline.experiment.config_files import load_config
from throughline.metrics.intervals import bootstrap_generator, hierarchical_bootstrap
from throughline.metrics.paired import paired_difference
from throughline.reporting.groups import Group, Right
from throughline.runs.reader import REDUCED_PREDICTIONS, REDUCED_UNITS

CONFIG = "bench/dependence.yaml"
METHODS = ("cls", "mtct", "mtct_sarr")
TARGETS = ("sketch", "photo")
SEEDS = (0, 1, 2)
PATHS = ("likelihood", "label")
IMAGES = (20, 40, 80, 160)
MISTAKES = (0.0, 0.08, 0.24, 0.4)
ALL_IMAGES, USUAL = 160, 0.08
"""What both halves share."""
AGAINST: dict[str, tuple[str, ...]] = {"cls": (), "mtct": ("cls",), "mtct_sarr": ("cls", "mtct")}


def study_dependence(
    root: Path, run: Callable[..., None], budgets: Budgets, full: Path, parts: Path
) -> list[DependenceValue]:
    """Runs every point but that of the reduced run `full` below `runs/dependence`, and keeps each one's reduced run in
    `parts`, from which it is taken if it is there; `run(*words)` is `throughline run`. Raises a ThroughlineError for a
    run that is not whole."""

    def point(name: str, images: int, methods: tuple[str, ...], *settings: str) -> Group:
        keys = json.dumps(budgets_for(images, budgets))
        own = (f"methods=[{','.join(methods)}]", f"data.train_per_domain={images}", f"per_method={keys}", *settings)
        if not (parts / name / REDUCED_PREDICTIONS).is_file():
            folder = Path("runs") / "dependence" / name
            run(CONFIG, *(word for setting in own for word in ("--set", setting)), "--out", str(folder))
            reduce_run(root / folder, parts / name)
        return read_group(parts / name)

    shared = read_group(full)
    by_images = {
        images: shared if images == ALL_IMAGES else point(f"images-{images}", images, METHODS) for images in IMAGES
    }
    by_mistakes = {
        share: shared
        if share == USUAL
        else point(f"mistakes-{share:g}", ALL_IMAGES, METHODS[1:], f"chains.part_mistakes={share:g}")
        for share in MISTAKES
    }
    return [
        *(DependenceValue(half="images", value=n, rows=_rows(group, group)) for n, group in by_images.items()),
        *(DependenceValue(half="mistakes", value=x, rows=_rows(group, shared)) for x, group in by_mistakes.items()),
    ]


def budgets_for(images: int, budgets: Budgets) -> dict[str, dict[str, float]]:
    """`per_method` of a config with so many images per source domain: the chosen learning rates, and as many epochs as
    make the optimiser steps of the chosen ones with all images."""
    sources = len(DOMAIN_STYLES) - 1
    once = load_config(str(Path(__file__).with_suffix(".yaml"))).training.stage.model_copy(update={"epochs": 1})
    longer = once.steps(sources * ALL_IMAGES) / once.steps(sources * images)
    chosen = per_method(budgets)
    names = [f"{method}@{target}" for method in METHODS[:2] for target in TARGETS]
    return {name: {**chosen[name], EPOCHS: longer * chosen[name][EPOCHS]} for name in names}


def _rows(group: Group, with_cls: Group) -> list[DependenceRow]:
    """Every method on every path; `cls` is taken from `with_cls`."""
    rows = []
    for answer in PATHS:
        sources = {method: with_cls if method == "cls" else group for method in METHODS}
        rights = {method: _right(source, method, answer) for method, source in sources.items()}
        _require_same_images(rights.values(), group.run.folder)
        for method, source in sources.items():
            units = source.with_setup(pd.read_csv(source.run.folder / REDUCED_UNITS))
            units = units.query("setup == @method and target in @TARGETS")
            rows.append(
                DependenceRow(
                    method=method,
                    answer=answer,
                    steps=float(units["steps"].mean()),
                    with_chain=float(units["images_with_chain"].sum() / units["images"].sum()),
                    accuracy=hierarchical_bootstrap(rights[method], bootstrap_generator()),
                    minus={
                        other: paired_difference(rights[method], rights[other], bootstrap_generator()).interval
                        for other in AGAINST[method]
                    },
                )
            )
    return rows


def _right(group: Group, method: str, answer: str) -> Right:
    right = {place: answers for place, answers in group.right(method, answer).items() if place[0] in TARGETS}
    lacking = {(target, seed) for target in TARGETS for seed in SEEDS} - right.keys()
    if lacking:
        target, seed = min(lacking)
        what = f"the run is not whole: no {answer} answers of {method} on {target} with seed {seed}"
        raise ThroughlineError(what, group.run.folder, "finish it")
    return right


def _require_same_images(rights: Iterable[Right], folder: Path) -> None:
    """All methods and seeds have answered the same images of a target; else a ThroughlineError."""
    for target in TARGETS:
        first, *others = (right[target, seed].index for right in rights for seed in SEEDS)
        if not all(first.equals(other) for other in others):
            raise ThroughlineError(f"methods or seeds have answered other images of {target}", folder, "run it again")
