"""How far models as they are fall: the shift map, domains × models, with their differences on the same images; and
under views of the images, beside the run's first model. Called by `page` and by the verb `ood`."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import pandas as pd

from throughline.core.plot import Panel, Plot
from throughline.core.table import MISSING, Table
from throughline.drift.interference import FACTOR
from throughline.metrics import robustness
from throughline.metrics.intervals import Interval, bootstrap_generator, hierarchical_bootstrap, percentile_interval
from throughline.ood.factors import CLEAN, EXAMPLES, VIEW
from throughline.reporting.estimates import MEASURES
from throughline.reporting.groups import Group, Setup
from throughline.reporting.probes import ANSWERED
from throughline.reporting.shifts import severity_curves
from throughline.reporting.side_by_side import difference_tables
from throughline.reporting.tables import drawn_notes, existing, guessing, of_measure, share_cell
from throughline.runs.order import ANSWER_ORDER, in_order

NOTE = "In percent, means over the severities. Relative robustness: accuracy over that on the images as they are."
BESIDE = "CE (of all kinds: mCE) and relative CE: errors beside those of {}; X where those are not surely above 0."


def is_shifted(setup: Setup) -> bool:
    """Whether it is asked about a view of the images, behind examples, or under interference."""
    return any(setup.levels.get(name) not in {None, CLEAN, "0"} for name in (VIEW, EXAMPLES, FACTOR))


def shift_tables(every: Sequence[Group]) -> list[Table]:
    """For each answer path accuracy by domain and model, and balanced accuracy where that is another; then how far
    models are from the first, where nothing is shifted. Empty for a run that trains, or one domain of one model."""
    uneven = any((g.final["accuracy"] - g.final["balanced_accuracy"]).abs().max() > 1e-9 for g in every)
    measures = ("accuracy", "balanced_accuracy")[: 1 + uneven]
    tables = [_shift_table(every, answer, measure) for measure in measures for answer in _answers(every)]
    for groups in _by_dataset(every) if tables and not any(map(is_shifted, every[0].setups.values())) else ():
        tables += difference_tables({group.model: group for group in groups})
    return tables


def shift_figures(every: Sequence[Group]) -> tuple[Plot, ...]:
    """A heat map of the accuracies for each answer path; empty where `shift_tables` is."""
    panels, numbers = [], []
    for answer in _answers(every):
        shares = _cells(every, answer, "accuracy").map(lambda cell: cell.mean)
        ticks = [list(enumerate(names)) for names in (shares.columns, map(" · ".join, shares.index))]
        heat = shares.fillna(0).to_numpy().tolist()
        panels.append(Panel(title=f"{answer} path", heat=heat, x_ticks=ticks[0], y_ticks=ticks[1]))
        numbers += [(answer, *place, share) for place, share in shares.stack().items()]
    about = "Accuracy of each model in each domain; darker is better"
    columns = ("answer", "dataset", "domain", "model", "accuracy")
    height = 1.6 + 0.2 * sum(len(group.targets) for group in every)
    return (Plot("shift-map", about, tuple(panels), columns, tuple(numbers), height, shared="y"),) if panels else ()


def robustness_tables(every: Sequence[Group]) -> tuple[Table, ...]:
    """One for each image set and answer path that was asked about views of the images; empty where none was."""
    return existing(_view_table(groups, answer) for groups in _by_dataset(every) for answer in ANSWER_ORDER)


def error_draws(groups: Sequence[Group], answer: str) -> dict[tuple[str, str], robustness.Numbers]:
    """Shares of wrong answers `(draws, severities)` by model and kind, on the images and views that all models were
    asked about: what was observed, then draws of images. Of several seeds an image has the mean."""
    columns = {}
    for group in groups:
        for curve in severity_curves(group, answer):
            for point in curve.points:
                wrong = 1 - pd.concat({run: right.astype(float) for run, right in point.right.items()})
                kind, model = CLEAN if point is curve.points[0] else curve.name, f"{group.model} · {curve.about}"
                columns[model.removesuffix(f" · {ANSWERED}"), kind, point.x] = wrong.groupby(level=[0, 2]).mean()
    table = pd.DataFrame(columns).dropna(axis="columns")
    table = table[[place for place in table if all((model, *place[1:]) in table for model, *_ in table)]]
    tables = {str(target): own for target, own in table.groupby(level=0)}
    if not tables:
        return {}
    draws = pd.DataFrame(robustness.bootstrap_columns(tables, bootstrap_generator()).T, table.columns)
    return {place: own.to_numpy().T for place, own in draws.groupby(level=[0, 1], sort=False)}


def _shift_table(every: Sequence[Group], answer: str, measure: str) -> Table:
    cells, rows = _cells(every, answer, measure), []
    guesses = {group.dataset: list(guessing(group).items())[: 2 - (measure != "accuracy")] for group in every}
    for dataset, own in cells.groupby(level=0, sort=False):
        means = own.map(lambda cell: cell.mean)
        worst = np.where(means.eq(means.min()) & (len(own) > 1), " *", "")
        said = own.map(share_cell) + worst
        rows += [(" · ".join(place), *row) for place, *row in said.itertuples(name=None)]
        averages = (100 * means.mean(skipna=False)).map("{:.1f}".format).replace("nan", MISSING)
        rows.append((f"{dataset} · mean", *averages))
        rows += [(f"{dataset} · {name}", *[f"{100 * share:.1f}"] * len(averages)) for name, share in guesses[dataset]]
    about = f"{MEASURES[measure]} in percent, with its 95 % interval over images; *: the worst domain of a model."
    notes = (about, *drawn_notes(every[0].drawn))
    return Table(f"Domains and models · {answer} path{of_measure(measure)}", ("domain", *cells), tuple(rows), notes)


def _cells(every: Sequence[Group], answer: str, measure: str) -> pd.DataFrame:
    """Intervals: a row for each (dataset, domain), a column for each model and further level. Balanced accuracy is the
    mean over classes, whose images are drawn apart."""
    cells = {}
    for group in every:
        rows = _asked(group).query("answer == @answer").assign(label=lambda own: own["labels"].map(", ".join))
        by = ["label", "seed"] if measure == "balanced_accuracy" else ["answer", "seed"]
        for (target, column), own in rows.groupby(["target", "column"]):
            runs = {key: part["correct"] for key, part in own.groupby(by)}
            cells[group.dataset, target, column] = hierarchical_bootstrap(runs, bootstrap_generator())
    return pd.Series(cells).unstack(fill_value=Interval(np.nan, np.nan, np.nan), sort=False)


def _answers(every: Sequence[Group]) -> tuple[str, ...]:
    """The answer paths of a run that only asks, about more than one domain or model."""
    several = sum(_asked(group).groupby(["target", "column"]).ngroups for group in every) > 1
    only_asks = all(set(group.final["method"]) == {ANSWERED} for group in every)
    paths = (path for group in every for path in _asked(group)["answer"].unique())
    return in_order(paths, ANSWER_ORDER) if several and only_asks else ()


def _asked(group: Group) -> pd.DataFrame:
    """The answers about images as they are, with the name of their `column`: the model and further levels."""
    shown = (setup for setup in group.setups.values() if not is_shifted(setup))
    columns = {setup.name: Setup(group.model, setup.without(VIEW, EXAMPLES, FACTOR).levels).name for setup in shown}
    return group.predictions.assign(column=group.predictions["setup"].map(columns)).dropna(subset="column")


def _view_table(groups: Sequence[Group], answer: str) -> Table | None:
    draws = error_draws(groups, answer)
    models, kinds = (list(dict.fromkeys(place[axis] for place in draws)) for axis in (0, 1))
    if not {CLEAN} < set(kinds):
        return None
    columns = ("error", "relative robustness", "CE", "relative CE")[: 4 if len(models) > 1 else 2]
    rows = []
    for model in models:
        values = []
        clean, theirs = (draws[name, CLEAN] for name in (model, models[0]))
        for kind in kinds[1:]:
            errors, beside = (draws[name, kind] for name in (model, models[0]))
            error, relative = errors.mean(axis=1), robustness.corruption_error(errors - clean, beside - theirs)
            share, ce = robustness.relative_robustness(errors, clean), robustness.corruption_error(errors, beside)
            values.append([error, share, ce, relative])
        values.insert(0, list(map(robustness.mean_over_kinds, zip(*values, strict=True))))
        for kind, own in zip(("all kinds", *kinds[1:]), values, strict=True):
            rows.append((model, kind, *(share_cell(percentile_interval(v[1:], v[0])) for v in own[: len(columns)])))
    notes = (NOTE, *([BESIDE.format(models[0])] if len(models) > 1 else []), *drawn_notes(groups[0].drawn))
    return Table(f"{groups[0].dataset} · {answer} path · views", ("model", "kind", *columns), tuple(rows), notes)


def _by_dataset(every: Sequence[Group]) -> list[list[Group]]:
    return [list(groups) for _, groups in groupby(every, key=lambda group: group.dataset)]
