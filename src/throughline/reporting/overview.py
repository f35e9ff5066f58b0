"""What a reader has to know first about a group of results: what was measured, whether the full method beats the
baseline, and whether that may be chance. Called by `page`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from throughline.reporting.ablation import FULL
from throughline.reporting.results import Comparison, Group, Summary, drawn_over
from throughline.reporting.tables import bracketed, class_names, guessing

MAY_BE_CHANCE = 0.05
"""From this p on, after Holm."""


@dataclass(frozen=True)
class Verdict:
    """A setup against the baseline, in the numbers of the table."""

    difference: str
    """`mtct_sarr − cls: −1.9 points [−3.5, −0.4]`."""
    word: str
    """By the interval: better, worse, or cannot be told apart."""
    chance: str
    """Whether it may be chance, by p after Holm."""


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
    setups: tuple[str, ...]
    """The baseline and the setup of the first verdict; one alone where nothing can be compared."""


def overview(group: Group, rows: Mapping[str, Summary], compared: Sequence[Comparison], ahead: str | None) -> Overview:
    """All on the main answer path: the `rows` of the main split, all setups minus the baseline, and the one that is
    ahead of all others."""
    means = {name: row.average.mean for name, row in rows.items() if row.average}
    highest = max(means, key=means.__getitem__, default=None)
    setups, chosen = tuple(rows)[-1:], []
    if compared:
        first = _first_compared(compared, means)
        setups = (first.baseline.name, first.setup.name)
        better = [row for row in compared if row.setup.name == highest and row.paired.interval.low > 0]
        chosen = [first, *(row for row in better if row is not first)]
    best = "No method has results for every held-out domain."
    if highest is not None:
        alone = f"★ {highest} is ahead of all other methods, by intervals"
        no_one = f"No method is ahead of all others by an interval; highest: {highest}"
        best = f"{alone if highest == ahead else no_one}, {100 * means[highest]:.1f} %."
    verdicts = tuple(_verdict(row, len(compared)) for row in chosen)
    return Overview(_facts(group), verdicts, best, _note(group, bool(compared)), setups)


def _first_compared(compared: Sequence[Comparison], means: Mapping[str, float]) -> Comparison:
    """The full method at the baseline's levels, else at any, else the setup with the highest mean."""
    same_levels = compared[0].baseline.of_method(FULL)
    full = [row for row in compared if row.setup.method == FULL]
    at_levels = [row for row in full if row.setup.name == same_levels]
    return next(iter(at_levels or full), max(compared, key=lambda row: means.get(row.setup.name, 0.0)))


def _verdict(row: Comparison, comparisons: int) -> Verdict:
    word = (
        "better" if row.paired.interval.low > 0 else "worse" if row.paired.interval.high < 0 else "cannot be told apart"
    )
    chance = "It may be" if row.adjusted_p >= MAY_BE_CHANCE else "Hardly"
    corrected = f"p {row.adjusted_p:.3f} after Holm's correction over {comparisons} comparisons"
    return Verdict(
        difference=f"{row.setup.name} − {row.baseline.name}: {bracketed(row.paired, ' points')}",
        word=word,
        chance=f"By chance? {chance}: {corrected if comparisons > 1 else f'p {row.adjusted_p:.3f}'}.",
    )


def _note(group: Group, is_compared: bool) -> str:
    if not is_compared:
        return "Nothing to compare: that takes two methods that answered the same images, with their predictions."
    one_seed = " One seed: this says nothing about another training." if group.seeds == 1 else ""
    return (
        f"{group.main_answer} path, mean over the held-out domains; in brackets the 95 % interval over "
        f"{drawn_over(group.seeds)}.{one_seed}"
    )


def _facts(group: Group) -> dict[str, str]:
    main = group.final[group.final["split"] == group.main_split]
    facts = {
        "images": f"{int(main.groupby('target')['n'].max().sum()):,} held out",
        "held-out domains": ", ".join(group.targets),
        "classes": f"{len(class_names(group)):,}",
        "seeds": str(group.seeds),
        "checkpoint": group.model,
        "chance": "".join(f"{100 * share:.1f} %" for name, share in guessing(group).items() if name == "chance"),
    }
    return {name: value for name, value in facts.items() if value not in {"", "0"}}
