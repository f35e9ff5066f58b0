"""What a reader has to know first about a group of results: what was measured, whether the full method beats the
baseline, and whether that may be chance. Called by `page`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from throughline.reporting.ablation import CONTROLS, FULL
from throughline.reporting.estimates import Comparison, Summary, compare, drawn_over
from throughline.reporting.groups import Group, Setup
from throughline.reporting.tables import bracketed, class_count, guessing
from throughline.training.methods import METHODS

MAY_BE_CHANCE = 0.05
"""From this p on, after Holm."""
ANSWER_WORDS = {
    "label": "the model writes a class name",
    "reasoning": "the model writes a chain, and the class in its conclusion counts",
    "likelihood": "the class name with the highest likelihood counts",
    "mean_likelihood": "the class name with the highest mean likelihood of a token counts",
    "contrast": "the class name whose likelihood the image raises most counts",
    "prior": "the class name with the highest likelihood without the image counts",
}


@dataclass(frozen=True)
class Verdict:
    """A setup against the baseline, in the numbers of the table."""

    about: str
    """Which of the methods this is."""
    difference: str
    """`mtct_sarr − cls: −1.9 points [−3.5, −0.4]`."""
    word: str
    """By the interval: better, worse, or cannot be told apart."""
    chance: str
    """Whether it may be chance, by p after Holm."""
    beside: tuple[str, ...] = ()
    """The same difference on the other answer paths, and from the controls of as many optimiser steps."""


@dataclass(frozen=True)
class Overview:
    """The card on top of a group's results."""

    facts: Mapping[str, str]
    verdicts: tuple[Verdict, ...]
    """The full method against the baseline, or the best other method where the full one did not run; then the best
    method, where it is another one and better than the baseline."""
    best: str
    """Which method is best, as far as intervals tell."""
    note: str
    """What the verdicts are about."""
    methods: Mapping[str, str]
    """What each method is, and what it learns from."""
    setups: tuple[str, ...]
    """The baseline and the setup of the first verdict; one alone where nothing can be compared."""


def overview(
    group: Group, rows: Mapping[str, Summary], by_answer: Mapping[str, Sequence[Comparison]], ahead: str | None
) -> Overview:
    """The `rows` of the main split on the main answer path, the setup that is ahead of all others there, and by answer
    path all setups minus the baseline."""
    means = {name: row.average.mean for name, row in rows.items() if row.average}
    highest = max(means, key=means.__getitem__, default=None)
    compared = by_answer.get(group.main_answer, ())
    setups, verdicts = tuple(rows)[-1:], []
    if compared:
        first = _first_compared(compared, means)
        setups = (first.baseline.name, first.setup.name)
        title = "The whole method" if first.setup.method == FULL else "The best other method"
        controls = _controls(group, first.setup, rows) if first.setup.method == FULL else ()
        verdicts.append(_verdict(f"{title} against the baseline", first, by_answer, controls))
        control = ", a control," if highest is not None and rows[highest].setup.method in CONTROLS else ""
        verdicts += [
            _verdict(f"The highest method{control} against the baseline", row, by_answer)
            for row in compared
            if row is not first and row.setup.name == highest and row.paired.interval.low > 0
        ]
    best = "No method has results for every held-out domain."
    if highest is not None:
        share = f"{100 * means[highest]:.1f} %"
        best = f"No method is clearly better than all the others. The highest is {highest}, {share}."
        if highest == ahead:
            best = f"★ {highest}, {share}, is better than every other method, by each interval."
    methods = {name: _words(row.setup.method, setups[0] == name) for name, row in rows.items()}
    return Overview(_facts(group), tuple(verdicts), best, _note(group, bool(compared)), methods, setups)


def _words(method: str, is_baseline: bool) -> str:
    known = METHODS.get(method)
    if known is None:
        return "a method of this run's own"
    role = "the baseline: " if is_baseline else "the whole method: " if known.full else "a control: " * known.control
    return f"{role}{known.words}"


def _first_compared(compared: Sequence[Comparison], means: Mapping[str, float]) -> Comparison:
    """The full method at the baseline's levels, else at any, else the setup with the highest mean."""
    same_levels = compared[0].baseline.of_method(FULL)
    full = [row for row in compared if row.setup.method == FULL]
    at_levels = [row for row in full if row.setup.name == same_levels]
    return next(iter(at_levels or full), max(compared, key=lambda row: means.get(row.setup.name, 0.0)))


def _controls(group: Group, full: Setup, rows: Mapping[str, Summary]) -> tuple[str, ...]:
    """In one line the full method minus each control at its levels."""
    names = [name for name, row in rows.items() if row.setup.method in CONTROLS and row.setup.levels == full.levels]
    compared = compare(group, group.main_answer, [(full.name, name) for name in names])
    differences = [f"{row.baseline.name} {bracketed(row.paired)}, {_word(row)}" for row in compared]
    return (f"Against controls of as many optimiser steps: {'; '.join(differences)}.",) if differences else ()


def _verdict(
    about: str, row: Comparison, by_answer: Mapping[str, Sequence[Comparison]], beside: tuple[str, ...] = ()
) -> Verdict:
    compared = next(rows for rows in by_answer.values() if row in rows)
    chance = "It may be" if row.adjusted_p >= MAY_BE_CHANCE else "Hardly"
    corrected = f" after Holm's correction over {len(compared)} comparisons" if len(compared) > 1 else ""
    others = [
        f"{answer} path {bracketed(other.paired)}, {_word(other)}"
        for answer, rows in by_answer.items()
        for other in rows
        if rows is not compared and other.setup == row.setup
    ]
    return Verdict(
        about=about,
        difference=f"{row.setup.name} − {row.baseline.name}: {bracketed(row.paired, ' points')}",
        word=_word(row),
        chance=f"By chance? {chance}: p {row.adjusted_p:.3f}{corrected}.",
        beside=(*beside, f"On the other answer paths: {'; '.join(others)}.") if others else beside,
    )


def _word(row: Comparison) -> str:
    interval = row.paired.interval
    return "better" if interval.low > 0 else "worse" if interval.high < 0 else "cannot be told apart"


def _note(group: Group, is_compared: bool) -> str:
    if not is_compared:
        return "Nothing to compare: that takes two methods that answered the same images, with their predictions."
    one_seed = " One seed: this says nothing about another training." if group.seeds == 1 else ""
    return (
        f"Answers on the {group.main_answer} path: {ANSWER_WORDS[group.main_answer]}. Mean over the held-out domains; "
        f"in brackets the 95 % interval over {drawn_over(group.seeds)}.{one_seed}"
    )


def _facts(group: Group) -> dict[str, str]:
    main, chance = group.final[group.final["split"] == group.main_split], guessing(group).get("chance")
    facts = {
        "images": f"{int(main.groupby('target')['n'].max().sum()):,} held out",
        "held-out domains": ", ".join(group.targets),
        "classes": f"{class_count(group):,}",
        "seeds": str(group.seeds),
        "checkpoint": group.model,
        "guessing gives": "" if chance is None else f"{100 * chance:.1f} %",
    }
    return {name: value for name, value in facts.items() if value not in {"", "0"}}
