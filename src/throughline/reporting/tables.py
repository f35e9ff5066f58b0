"""The tables of a run's results in DomainBed's shape, setups × targets + Avg. Called by the report verb, the page, and
the commands that generate tables for the documents."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import pandas as pd

from throughline.core.table import MISSING, Table
from throughline.drawn import DRAWN_NOTE
from throughline.metrics.intervals import Interval, MeanError
from throughline.metrics.paired import PairedDifference
from throughline.reporting.estimates import (
    MEASURES,
    Comparison,
    Summary,
    against_baseline,
    averages,
    drawn_over,
    summarise,
)
from throughline.reporting.groups import NO_LEVEL, Group, empty_rounds, one_class_only
from throughline.runs.order import ANSWER_ORDER, in_order, ordered
from throughline.runs.records import CLASS_MEASURES

CLASS_NOTE = "Balanced accuracy and macro-F1 are the mean recall and the mean F1 over the classes in a domain."
COST_NOTE = (
    "Cost: parameters of the last stage of training; images that its loop takes in, features where these are computed "
    "before; hours of training and answering. Training whose result is asked in several rows counts in each of them; "
    "what a method goes on from counts in the row of that."
)


def results_table(group: Group, split: str, answer: str, measure: str = "accuracy", with_cost: bool = False) -> Table:
    """Setups × targets + Avg of a measure in percent, mean ± standard error over seeds, X where a result is missing.

    For accuracy on the split `all` a column gives the 95 % interval of Avg over images and seeds; the means of the
    other measures stand beside accuracy where the run has them. Last come `cost_columns`, where they are asked for.
    """
    cost = cost_columns(group) if with_cost else pd.DataFrame(index=list(group.setups))
    summaries = summarise(group, split, answer, measure)
    beside = _class_measures(group, split, [answer] if measure == "accuracy" else [])
    with_interval = any(row.interval for row in summaries.values())
    with_errors = any(row.errors for row in summaries.values())
    means = ("Avg", *(["Avg, 95 % interval"] if with_interval else []), *beside)
    columns = (*group.heads, *group.targets, *means, "unparsed")

    def cells(row: Summary) -> tuple[str, ...]:
        targets = (percent(row.cells[target]) if target in row.cells else MISSING for target in group.targets)
        average = percent(row.average) if row.average else MISSING
        interval = [percent_interval(row.interval) if row.interval else MISSING] if with_interval else []
        counts = [row.unparsed, row.errors] if with_errors else [row.unparsed]
        shares = (f"{100 * count / row.n:.1f}" if row.n else MISSING for count in counts)
        ends = *beside.loc[row.setup.name], *shares, *cost.loc[row.setup.name]
        return (*row.setup.cells, *targets, average, *interval, *ends)

    return Table(
        title=f"{group.title} · {answer} path · split {split}{of_measure(measure)}",
        columns=(*columns, *(["failed"] if with_errors else []), *cost),
        rows=tuple(map(cells, summaries.values())),
        notes=(*accuracy_notes(group, summaries.values(), split, measure=measure), *[COST_NOTE] * (not cost.empty)),
    )


def comparison_table(group: Group, answer: str, baseline: str | None = None) -> Table | None:
    """Paired differences from a baseline (a method; None: see `Group.baseline`) in percentage points on the `all`
    split; None without any pair."""
    compared = against_baseline(group, answer, baseline)
    if not compared:
        return None
    return Table(
        title=f"{group.title} · {answer} path · difference from {compared[0].baseline.name}, split all",
        columns=(*group.heads, "points", "95 % interval", "p", "p, Holm", "units"),
        rows=tuple(
            (*row.setup.cells, *difference_cells(row.paired, row.adjusted_p), str(row.units)) for row in compared
        ),
        notes=(
            f"Paired bootstrap over {drawn_over(group.seeds)}, with the same images for every seed and fixed targets; "
            "2,000 resamples. Holm's correction is over the rows of this table. Units: targets times seeds.",
            *drawn_notes(group.drawn),
        ),
    )


def page_table(group: Group, split: str, answer: str, compared: Sequence[Comparison], ahead: str | None) -> Table:
    """`results_table` as the page has it: on the split `all` with the differences from the baseline, what guessing
    would give, and a star at the setup that is `ahead` of all others."""
    table = results_table(group, split, answer)
    if split != "all":
        return table
    most, heads = max((row.units for row in compared), default=0), len(group.heads)
    beside = {
        row.setup.cells: (
            bracketed(row.paired) + ("" if row.units == most else f", {row.units} of {most} units"),
            f"{row.adjusted_p:.3f}",
        )
        for row in compared
    }
    columns, notes, rows = table.columns, table.notes, []
    if compared:
        columns += (f"minus {compared[0].baseline.name}, points", "p, Holm")
        notes += (
            f"Differences: paired bootstrap over {drawn_over(group.seeds)}, with the same images for every seed; 2,000 "
            "resamples; 95 % interval in brackets. Holm's correction is over the rows of this table.",
            "★: better than every other method, by each interval."
            if ahead
            else "No method is clearly better than all the others.",
        )
    for row in table.rows:
        name = (f"{row[0]} ★" if ahead and row[:heads] == group.setups[ahead].cells else row[0], *row[1:])
        rows.append((*name, *(beside.get(row[:heads], (NO_LEVEL, NO_LEVEL)) if compared else ())))
    for guess, share in guessing(group).items():
        before = [guess, *[NO_LEVEL] * (heads - 1 + len(group.targets)), f"{100 * share:.1f}"]
        rows.append((*before, *[NO_LEVEL] * (len(columns) - len(before))))
    return replace(table, columns=columns, rows=tuple(rows), notes=notes)


def headline_table(group: Group, split: str) -> Table:
    """Setups × answer paths: Avg in percent, with its interval where there is one and what else makes or unmakes the
    number; images and optimiser steps; what guessing would give."""
    measured = group.results.loc[group.results["split"] == split, "answer"]
    by_answer = {answer: summarise(group, split, answer) for answer in in_order(measured, ANSWER_ORDER)}
    names = in_order((name for summaries in by_answer.values() for name in summaries), group.setups)
    alone = {(row.setup, row.answer) for row in one_class_only(group).itertuples()}
    empty = set(empty_rounds(group)["setup"])

    def cell(name: str, answer: str) -> str:
        row = by_answer[answer].get(name)
        unparsed = [f"{100 * row.unparsed / row.n:.1f} % unparsed"] if row and row.unparsed else []
        return ", ".join([average_cell(row), *unparsed, *(["one class"] if (name, answer) in alone else [])])

    frame = pd.DataFrame([[cell(name, answer) for answer in by_answer] for name in names], index=list(names))
    beside = _class_measures(group, split, by_answer)
    frame, columns = frame.join(beside), (*group.heads, *(f"{answer} path" for answer in by_answer), *beside)
    notes = (
        "Mean over the held-out domains. The answer path of the paper's table is open in the paper, so all are shown.",
        *accuracy_notes(group, [row for found in by_answer.values() for row in found.values()], split, False),
        *(["Class measures: one number per answer path, in their order."] if group.class_measured else []),
        *(["†: a round of self-labelling accepted no chain."] if empty else []),
    )
    trained = group.with_setup(group.run.frames.units).groupby("setup")[["images", "steps"]].max()
    if trained["images"].notna().any():  # runs of earlier versions do not know their images
        counts = trained.reindex(names).astype("object")
        frame = pd.concat([frame, counts.where(counts.notna(), NO_LEVEL).astype(str)], axis=1)
        columns += ("images", "steps")
        notes += ("Images: the largest number in one stage of the method. Steps: optimiser steps from the base.",)
    cost = cost_columns(group).loc[list(names)]
    frame, columns, notes = frame.join(cost), (*columns, *cost), (*notes, *[COST_NOTE] * (not cost.empty))
    rows = [
        (
            *(f"{cell} †" if name in empty and at == 0 else cell for at, cell in enumerate(group.setups[name].cells)),
            *row,
        )
        for name, row in zip(names, frame.to_numpy().tolist(), strict=True)
    ]
    for guess, share in guessing(group).items():
        filled = [guess, *[NO_LEVEL] * (len(group.heads) - 1), *[f"{100 * share:.1f}"] * len(by_answer)]
        rows.append((*filled, *[NO_LEVEL] * (len(columns) - len(filled))))
    return Table(f"{group.title} · split {split}", columns, tuple(rows), notes)


def _class_measures(group: Group, split: str, answers: Collection[str]) -> pd.DataFrame:
    """Setups × headings: Avg in percent of the measures that count every class alike, a number for each answer path. No
    columns in a run without them."""
    columns = pd.DataFrame(index=list(group.setups))
    for measure in group.class_measured if answers else ():
        cells = averages(group, split, measure).map(lambda share: MISSING if pd.isna(share) else f"{100 * share:.1f}")
        columns[CLASS_MEASURES[measure]] = [
            " / ".join(cells.get((name, path), MISSING) for path in answers) for name in group.setups
        ]
    return columns


def cost_columns(group: Group) -> pd.DataFrame:
    """Setups × headings: what its units took. No column that nothing is known of."""
    units = group.with_setup(group.run.frames.units).groupby("setup")
    on_cpu = group.run.environment.get("device") == "cpu"
    threads = group.run.config.get("threads", 1) if on_cpu else 1
    columns = {
        "parameters trained": units["parameters"].max(),
        "training images/s": units["images_a_second"].median(),
        f"{'core' if on_cpu else 'GPU'} hours": units["seconds"].sum(skipna=False) * threads / 3600,
        "US dollars": units["dollars"].sum(skipna=False),
    }
    known = pd.DataFrame(columns).reindex(list(group.setups)).dropna(axis="columns", how="all")
    return known.map(lambda value: NO_LEVEL if pd.isna(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}")


def guessing(group: Group) -> dict[str, float]:
    """The accuracy of a fair guess, and of always naming a held-out domain's most frequent class, mean over the
    domains. Empty without predictions, or where a sample has several labels."""
    asked = group.predictions.drop_duplicates(["target", "sample_id"])
    if asked.empty or (asked["labels"].map(len) != 1).any():
        return {}
    labels = asked["labels"].str[0]
    most = labels.groupby(asked["target"]).agg(lambda own: own.value_counts(normalize=True).iloc[0])
    return {"chance": 1 / class_count(group), "most frequent class": float(most.mean())}


def class_count(group: Group) -> int:
    """How many classes were offered, as the likelihoods tell; without any, how many the samples have and the answers
    name. 0 without predictions."""
    offered = group.predictions["probabilities"].dropna().map(len)
    named = group.predictions[["labels", "predicted"]].melt()["value"].explode()
    return int(offered.max() if len(offered) else named.nunique())


def rounds_table(group: Group) -> Table | None:
    """What every round of self-labelling sampled and accepted, and why not, summed over units."""
    rounds = group.with_setup(group.run.frames.rounds)
    if rounds.empty:
        return None
    outcomes = sorted({outcome for counts in rounds["outcomes"] for outcome in counts})
    rows, paired = [], bool(rounds["unpaired"].notna().any())
    for (name, number), lines in ordered(rounds, setup=group.setups).groupby(["setup", "round"], observed=True):
        sampled, accepted = int(lines["sampled"].sum()), int(lines["accepted"].sum())
        share = f"{100 * accepted / sampled:.1f}" if sampled else MISSING
        counts = (str(sum(of_unit.get(outcome, 0) for of_unit in lines["outcomes"])) for outcome in outcomes)
        changed = lines["adapter_changed"].dropna()
        verdict = f"{int(changed.sum())} of {len(changed)}" if len(changed) else MISSING
        alone = [str(int(lines["unpaired"].sum())) if lines["unpaired"].notna().any() else NO_LEVEL] if paired else []
        rows.append((*group.setups[name].cells, str(number), str(sampled), share, *counts, *alone, verdict))
    heads = ("round", "sampled", "accepted %", *outcomes, *["without both"] * paired, "adapter changed")
    note = (
        "Sampled chains and outcomes are counted over all units. Adapter changed: units whose output changed with the "
        "round."
    )
    note += " rejected_class: well-formed, but concludes in another class." if "rejected_class" in outcomes else ""
    note += " Without both: images without a right and a wrong chain, which a preference needs." if paired else ""
    return Table(f"{group.title} · rounds of self-labelling", (*group.heads, *heads), tuple(rows), (note,))


def drawn_notes(drawn: bool) -> tuple[str, ...]:
    """What has to stand under every table of the drawn world."""
    return (DRAWN_NOTE,) if drawn else ()


def percent(value: MeanError) -> str:
    """`85.5 ± 0.2`; one run has no spread, so none is printed."""
    spread = f" ± {100 * value.error:.1f}" if value.count > 1 else ""
    return f"{100 * value.mean:.1f}{spread}"


def points(share: float) -> str:
    """A difference of shares as `+1.5`; what rounds to nothing is `+0.0` from either side."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def bracketed(paired: PairedDifference, unit: str = "") -> str:
    """`−1.9 [−3.5, −0.4]`: points with their interval, the unit behind the points."""
    middle, low, high = map(points, (paired.interval.mean, paired.interval.low, paired.interval.high))
    return f"{middle}{unit} [{low.lstrip('+')}, {high.lstrip('+')}]".replace("-", "−")


def percent_interval(value: Interval) -> str:
    """`83.1 to 86.0`."""
    return f"{100 * value.low:.1f} to {100 * value.high:.1f}"


def share_cell(value: Interval) -> str:
    """`84.5 (83.1 to 86.0)`; of NaN MISSING."""
    return MISSING if pd.isna(value.mean) else f"{100 * value.mean:.1f} ({percent_interval(value)})"


def of_measure(measure: str) -> str:
    """What a table's title has to say of its measure; nothing of accuracy, which is meant where none is named."""
    return "" if measure == "accuracy" else f" · {MEASURES[measure]}"


def average_cell(row: Summary | None) -> str:
    """`85.5 ± 0.2 (83.1 to 86.0)`: the mean over targets, with its interval where there is one."""
    if row is None or row.average is None:
        return MISSING
    return percent(row.average) + (f" ({percent_interval(row.interval)})" if row.interval else "")


def difference_cells(paired: PairedDifference, adjusted_p: float) -> tuple[str, ...]:
    """Points, their interval, p, and p after Holm."""
    low, high = points(paired.interval.low), points(paired.interval.high)
    return points(paired.interval.mean), f"{low} to {high}", f"{paired.p_value:.3f}", f"{adjusted_p:.3f}"


def accuracy_notes(
    group: Group, summaries: Collection[Summary], split: str, with_unparsed: bool = True, measure: str = "accuracy"
) -> tuple[str, ...]:
    """What the numbers of a table of a measure are."""
    seeds = max((cell.count for row in summaries for cell in row.cells.values()), default=0)
    spread = "mean ± standard error over seeds (standard deviation over √seeds, as in DomainBed)"
    notes = [f"{MEASURES[measure]} in percent; {spread if seeds > 1 else 'one seed, so no spread'}."]
    notes += [CLASS_NOTE] if group.class_measured else []
    notes += ["Unparsed: share of answers that name no class, counted as wrong."] if with_unparsed else []
    if split == "in":
        notes.append("Split in: the 80 % of the target that DomainBed reports.")
    units = group.run.units.values()
    done = {folder.unit.identity for folder in units if folder.done}  # perhaps with other settings than when it failed
    lacking = [folder.unit for folder in units if folder.unit.identity not in done]
    names = {unit.slug if unit.dataset == group.dataset else f"{unit.slug} of {unit.dataset}" for unit in lacking}
    if names:
        notes.append(f"Not done yet: {', '.join(sorted(names))}. The command of the run does only these.")
    if any(row.interval for row in summaries):
        notes.append(f"Interval: hierarchical bootstrap over {drawn_over(seeds)}; the targets are fixed.")
    return (*notes, *drawn_notes(group.drawn))


def existing(tables: Iterable[Table | None]) -> tuple[Table, ...]:
    """Those tables that there is anything to put into."""
    return tuple(table for table in tables if table is not None)
