"""The other analyses as tables: mismatch, entropy, divergence, faithfulness, sensitivity. Called by `analysis_page`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from throughline.analysis.records import Analysis, EntropyTable, Fold, Sensitivity, Setting, Variant
from throughline.reporting.folds import (
    MEASURED,
    WHOSE,
    averaged,
    by_state,
    drawn_notes,
    mean_curves,
    mean_of,
    several_folds,
    shown_token,
    together,
)
from throughline.reporting.published import PAPER, ROUNDS_NOTE, dataset_of
from throughline.reporting.summaries import METHOD_ORDER, drawn_over, in_order
from throughline.reporting.tables import Table


def mismatch_table(analysis: Analysis) -> Table | None:
    """Perplexity of teacher's and own chains by state, and how far a round moved the token probabilities."""
    found = [one for fold in analysis.folds for one in fold.mismatch]
    if not found:
        return None
    rows = []
    for (source, name), ones in together(found, lambda one: (one.source, one.state.name)).items():
        distances = [one.distance for one in ones if one.distance is not None]
        rows.append(
            (
                name,
                WHOSE[source],
                str(sum(one.images for one in ones)),
                averaged([one.perplexity for one in ones], 2),
                mean_of([one.low for one in ones]),
                mean_of(distances, 3, 1.0),
            )
        )
    return Table(
        title="How well the weights expect the chains",
        columns=("weights", "chains", "images", "perplexity", "tokens below 0.25, %", "distance from the state before"),
        rows=tuple(rows),
        notes=(
            f"Perplexity: exp of the mean over chains of the mean NLL over a chain's tokens. {several_folds(analysis)}",
            "Own chains are other texts in each row: the base's own; what the first round accepted, for the weights it "
            "started from; what each round accepted.",
            "Distance: Wasserstein, between the distributions of token probabilities of two successive states.",
            *drawn_notes(analysis),
        ),
    )


def optimisation_table(analysis: Analysis) -> Table | None:
    """Class probability and loss of each method at its first logged step, in the middle and at the last."""
    lines = mean_curves([one for fold in analysis.folds for one in fold.curves])
    if not lines:
        return None
    order = in_order((method for *_, method in lines), METHOD_ORDER)
    rows = []
    kinds = list(dict.fromkeys((measure, part) for measure, part, _ in lines))
    for measure, part, method in sorted(lines, key=lambda key: (kinds.index(key[:2]), order.index(key[2]))):
        steps, values = lines[measure, part, method]
        middle = len(steps) // 2
        cells = (f"{values[place]:.3f} at {steps[place]}" for place in (0, middle, -1))
        rows.append((f"{MEASURED[measure]}: {part}", method, *cells))
    return Table(
        title="What training reached, by optimiser step",
        columns=("of the path", "method", "first logged, at step", "in the middle", "last"),
        rows=tuple(rows),
        notes=("Means over folds, on the batches trained on since the step logged before.", *drawn_notes(analysis)),
    )


def entropy_table(analysis: Analysis) -> Table | None:
    """Mean next-token entropy before and after, and how many of the tokens where it fell most name a class."""
    found = [one for fold in analysis.folds for one in fold.entropy]
    if not found:
        return None
    rows = []
    for (source, before, after), ones in together(
        found, lambda one: (one.source, one.before.name, one.after.name)
    ).items():
        rows.append(
            (
                f"{before} to {after}",
                WHOSE[source],
                str(sum(one.tokens for one in ones)),
                mean_of([one.mean_before for one in ones], 2, 1.0),
                mean_of([one.mean_after for one in ones], 2, 1.0),
                f"{sum(one.about_classes for one in ones)} of {sum(len(one.top) for one in ones)}",
            )
        )
    return Table(
        title="Next-token entropy under each source's chains",
        columns=(
            "weights",
            "chains",
            "tokens",
            "before, nats",
            "after, nats",
            "of the top, part of a class name",
        ),
        rows=tuple(rows),
        notes=(
            f"Mean over folds. Published: {PAPER} finds the top tokens of the two sources disjoint: context words "
            "under GPT-4o's chains, category words under the model's own. Its formula and minimum count are not known.",
            *drawn_notes(analysis),
        ),
    )


def overlap_table(analysis: Analysis) -> Table | None:
    """Tokens in both top lists, fold by fold."""
    rows = tuple(
        (
            fold.name,
            one.teacher.name,
            one.own.name,
            f"{len(one.shared)} of {one.of}",
            " ".join(shown_token(token) for token in one.shared) or "none",
        )
        for fold in analysis.folds
        for one in fold.overlap
    )
    if not rows:
        return None
    columns = ("fold", "under a teacher's chains", "under own chains", "shared", "tokens")
    return Table("Tokens in both lists", columns, rows, drawn_notes(analysis))


def top_tokens(fold: Fold, table: EntropyTable) -> Table:
    """The tokens where the entropy fell most."""
    rows = tuple(
        (
            shown_token(one.token),
            str(one.count),
            f"{one.before:.2f}",
            f"{one.after:.2f}",
            f"{one.reduction:.2f}",
        )
        for one in table.top
    )
    return Table(
        title=f"{fold.name}: {WHOSE[table.source]}, {table.before.name} to {table.after.name}",
        columns=("token", "times", "before", "after", "fell by, nats"),
        rows=rows,
        notes=(f"Tokens that come at least {table.minimum} times; ␣ is a blank.",),
    )


def divergence_table(analysis: Analysis) -> Table | None:
    """Mean distance between domains of each kind, what chance gives, and how many pairs are further apart."""
    rows = tuple(
        (
            one.of if one.source is None else f"{one.of}, {WHOSE[one.source]}",
            one.encoder,
            str(one.samples),
            f"{one.mean:.3f}",
            f"{math.fsum(pair.expected for pair in one.pairs) / len(one.pairs):.3f}",
            f"{sum(pair.p_value < 0.05 for pair in one.pairs)} of {len(one.pairs)}",
        )
        for one in analysis.divergence
        if one.pairs
    )
    if not rows:
        return None
    return Table(
        title="Distance between domains, linear MMD²",
        columns=("of", "encoder", "samples", "mean over pairs", "expected by chance", "pairs with p below 0.05"),
        rows=rows,
        notes=(
            "Rows of unit length. By chance: the same distance when domains are shuffled over the samples. Kinds "
            "that were measured on other pairs of domains are not comparable; p stands uncorrected.",
            f"Published: {PAPER}, CLIP's towers, mean over pairs: images 0.239, GPT-4o's chains 0.099.",
            *drawn_notes(analysis),
        ),
    )


def variant_tables(analysis: Analysis) -> tuple[Table, ...]:
    """Accuracy, what of it was lost, and probability of the true class, behind chains that were tampered with: a column
    for each state."""
    found = [one for fold in analysis.folds for one in fold.variants]
    states = list(by_state(found))
    kinds = dict.fromkeys((one.about, one.name) for one in found)
    if not kinds:
        return ()
    cells = together(found, lambda one: (one.about, one.name, one.state.name))
    images = max(one.images for one in found)
    note = (
        f"Held-out images whose own chain is well formed and names one class, {images} at most of a fold; columns may "
        "be of other images. The conclusion is the most likely class behind the chain, not what would be written. A "
        "row that does not differ from the whole chain says that what was changed is not what the conclusion comes "
        "from. "
        f"{several_folds(analysis)}"
    )
    tables = []
    for title, measure, scale in (
        ("Accuracy, %", "accuracy", 100),
        ("Accuracy lost, points", "lost", 1),
        ("Probability of the true class, %", "probability", 100),
    ):
        rows = tuple(
            (name, about, *(_mean(cells.get((about, name, state), []), measure, scale) for state in states))
            for about, name in kinds
            if (about, measure) != ("whole", "lost")
        )
        tables.append(
            Table(
                title=f"Does the conclusion depend on the chain? {title}",
                columns=("the chain before the conclusion", "what changed", *states),
                rows=rows,
                notes=(note, *drawn_notes(analysis)),
            )
        )
    return tuple(tables)


def _mean(found: Sequence[Variant], measure: str, scale: float) -> str:
    known = [getattr(one, measure) for one in found]
    return averaged([one for one in known if one is not None], 1, scale)


def sensitivity_tables(analysis: Analysis) -> tuple[Table, ...]:
    """One per setting, method and answer path."""
    return tuple(_sensitivity(analysis, one) for one in analysis.sensitivity if one.rows)


def _sensitivity(analysis: Analysis, one: Sensitivity) -> Table:
    first = one.rows[0]
    published = (ROUNDS_NOTE,) if one.setting == "rounds" and dataset_of(analysis.dataset) == "terraincognita" else ()
    return Table(
        title=f"{one.setting}: {first.method}, {first.answer} path",
        columns=(one.setting, "units", "accuracy, %", "against", "points", "p"),
        rows=tuple(_setting(row) for row in one.rows),
        notes=(
            "Units: targets times seeds. Accuracy with its bootstrap interval over "
            f"{drawn_over(_seeds(analysis, one))}; points: paired, on the same images; p uncorrected.",
            *published,
            *drawn_notes(analysis),
        ),
    )


def _seeds(analysis: Analysis, one: Sensitivity) -> int:
    """Of the run that is analysed, or of another that has more units on its targets."""
    targets = len({fold.targets for fold in analysis.folds})
    return max(row.units for row in one.rows) // max(1, targets)


def _setting(row: Setting) -> tuple[str, ...]:
    return (
        row.value,
        str(row.units),
        averaged([row.accuracy], 1, 100),
        row.against or "",
        averaged([row.points], sign="+") if row.points is not None else "",
        f"{row.p_value:.3f}" if row.p_value is not None else "",
    )
