"""Tables in DomainBed's shape, methods × targets + Avg, made once and rendered for the terminal, for Markdown
and for LaTeX. Called by the report verb, the page, and the commands that generate tables for the
documents."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from throughline.metrics.intervals import Interval, MeanError
from throughline.reporting.runs import RoundLine, Run
from throughline.reporting.summaries import (
    ANSWER_ORDER,
    METHOD_ORDER,
    Comparison,
    CorrectAnswers,
    Group,
    MethodSummary,
    compare,
    describe,
    drawn_over,
    in_order,
    summarise,
    target_names,
)

MISSING = "X"
DRAWN_NOTE = "The drawn world is a laboratory with known truth: these numbers are no evidence about real images."


@dataclass(frozen=True)
class Table:
    """A finished table: every cell is text, the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def results_table(run: Run, group: Group, split: str, answer: str, correct: CorrectAnswers | None = None) -> Table:
    """Methods × targets + Avg in percent, mean ± standard error over seeds, X where a result is missing.

    With `correct` and `split="all"` a column gives the 95 % interval of Avg over images and seeds.
    """
    rows = summarise(run, group, split, answer, correct)
    targets = target_names(run, group)
    with_interval = any(row.interval for row in rows)
    with_errors = any(row.errors for row in rows)
    columns = ("method", *targets, "Avg")
    columns += ("Avg, 95 % interval",) if with_interval else ()
    columns += ("unparsed", "failed") if with_errors else ("unparsed",)
    cells = tuple(_row(row, targets, with_interval, with_errors) for row in rows)
    title = f"{describe(group)} · {answer} path · split {split}"
    return Table(title, columns, cells, tuple(_notes(group, rows, split, with_interval)))


def comparison_table(
    correct: CorrectAnswers, group: Group, answer: str, methods: Iterable[str], baseline: str
) -> Table | None:
    """Paired differences from `baseline` in percentage points on the `all` split; None without any pair."""
    found = compare(correct, group, answer, [(method, baseline) for method in methods])
    if not found:
        return None
    return Table(
        title=f"{describe(group)} · {answer} path · difference from {baseline}, split all",
        columns=("method", "points", "95 % interval", "p", "p, Holm", "units"),
        rows=tuple(_comparison_row(item) for item in found),
        notes=(
            f"Paired bootstrap over {drawn_over(correct.seeds(group))}, the same images for every seed; targets fixed, "
            "2,000 draws. Holm's correction is over the rows of this table. Units: targets times seeds.",
            *([DRAWN_NOTE] if is_drawn(group) else []),
        ),
    )


def headline_table(run: Run, group: Group, split: str, correct: CorrectAnswers | None = None) -> Table:
    """Methods × answer paths: Avg in percent, with its interval where there is one."""
    answers = in_order((line.answer for line in run.results if group.holds(line) and line.split == split), ANSWER_ORDER)
    rows = {answer: {row.method: row for row in summarise(run, group, split, answer, correct)} for answer in answers}
    methods = in_order((method for found in rows.values() for method in found), METHOD_ORDER)
    cells = tuple((method, *(average_cell(rows[answer].get(method)) for answer in answers)) for method in methods)
    all_rows = tuple(row for found in rows.values() for row in found.values())
    with_interval = any(row.interval for row in all_rows)
    notes = (
        "Mean over the held-out domains. Which answer path the paper's table uses is not known to us: all are shown.",
        *_notes(group, all_rows, split, with_interval, with_unparsed=False),
    )
    columns = ("method", *(f"{answer} path" for answer in answers))
    return Table(f"{describe(group)} · split {split}", columns, cells, notes)


def rounds_table(run: Run, group: Group) -> Table | None:
    """What every round of self-labelling sampled and accepted, and why not, summed over units."""
    methods = {line.unit: line.method for line in run.results if group.holds(line)}
    found: dict[tuple[str, int], list[RoundLine]] = {}
    for name in sorted(methods):
        for line in run.units[name].rounds if name in run.units else ():
            found.setdefault((methods[name], line.round), []).append(line)
    if not found:
        return None
    outcomes = sorted({outcome for lines in found.values() for line in lines for outcome in line.outcomes})
    order = in_order((method for method, _ in found), METHOD_ORDER)
    rows = []
    for method, number in sorted(found, key=lambda key: (order.index(key[0]), key[1])):
        lines = found[method, number]
        sampled, accepted = sum(line.sampled for line in lines), sum(line.accepted for line in lines)
        share = f"{100 * accepted / sampled:.1f}" if sampled else MISSING
        counts = [str(sum(line.outcomes.get(outcome, 0) for line in lines)) for outcome in outcomes]
        changed = [line.adapter_changed for line in lines if line.adapter_changed is not None]
        verdict = f"{sum(changed)} of {len(changed)}" if changed else MISSING
        rows.append((method, str(number), str(sampled), share, *counts, verdict))
    columns = ("method", "round", "sampled", "accepted %", *outcomes, "adapter changed")
    note = (
        "Chains sampled and outcomes are counts over all units. Adapter changed: units whose adapter gave "
        "another output after the round."
    )
    return Table(f"{describe(group)} · rounds of self-labelling", columns, tuple(rows), (note,))


def is_drawn(group: Group) -> bool:
    """Whether the images are the drawn world's."""
    return group.dataset == "drawn" or group.dataset.startswith(("drawn-", "drawn_"))


def to_terminal(table: Table, width: int | None = None, color: bool = False) -> str:
    """The table as text; `width` in characters, by default as wide as it needs so that no cell is cut."""
    shown = RichTable(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=width is None)
    for row in table.rows:
        shown.add_row(*row)
    buffer = io.StringIO()
    console = Console(
        file=buffer, width=width or 10_000, force_terminal=color, highlight=False, markup=False, emoji=False
    )
    console.print(shown, crop=False)
    for note in table.notes:
        console.print(note, style="dim", width=min(width or 110, 110))
    return "\n".join(line.rstrip() for line in buffer.getvalue().strip("\n").splitlines()) + "\n"


def to_markdown(table: Table, with_title: bool = True) -> str:
    """GitHub Markdown; the title stands above in bold, the notes below."""
    lines = [f"**{_markdown(table.title)}**", ""] if with_title else []
    lines.append("| " + " | ".join(map(_markdown, table.columns)) + " |")
    lines.append("|" + "|".join(["---", *["---:"] * (len(table.columns) - 1)]) + "|")
    lines += ["| " + " | ".join(map(_markdown, row)) + " |" for row in table.rows]
    for note in table.notes:
        lines += ["", _markdown_note(note)]
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    """A `table` environment that needs the booktabs package; notes stand in the caption."""
    caption = " ".join([f"{table.title}.", *table.notes])
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_latex(caption)}}}"]
    lines.append(rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}")
    lines += [r"\toprule", " & ".join(map(_latex, table.columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(_latex, row)) + r" \\" for row in table.rows]
    lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def percent(value: MeanError) -> str:
    """`85.5 ± 0.2`; one run has no spread, so none is printed."""
    spread = f" ± {100 * value.error:.1f}" if value.count > 1 else ""
    return f"{100 * value.mean:.1f}{spread}"


def points(share: float) -> str:
    """A difference of shares as `+1.5`; what rounds to nothing is `+0.0` from either side."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def percent_interval(value: Interval) -> str:
    """`83.1 to 86.0`."""
    return f"{100 * value.low:.1f} to {100 * value.high:.1f}"


def average_cell(row: MethodSummary | None) -> str:
    """`85.5 ± 0.2 (83.1 to 86.0)`: the mean over targets, with its interval where there is one."""
    if row is None or row.average is None:
        return MISSING
    return percent(row.average) + (f" ({percent_interval(row.interval)})" if row.interval else "")


def _row(row: MethodSummary, targets: tuple[str, ...], with_interval: bool, with_errors: bool) -> tuple[str, ...]:
    cells = [percent(row.cells[target]) if target in row.cells else MISSING for target in targets]
    average = percent(row.average) if row.average else MISSING
    interval = [percent_interval(row.interval) if row.interval else MISSING] if with_interval else []
    counts = [row.unparsed, row.errors] if with_errors else [row.unparsed]
    shares = [f"{100 * count / row.n:.1f}" if row.n else MISSING for count in counts]
    return (row.method, *cells, average, *interval, *shares)


def _notes(
    group: Group, rows: tuple[MethodSummary, ...], split: str, with_interval: bool, with_unparsed: bool = True
) -> list[str]:
    seeds = max((cell.count for row in rows for cell in row.cells.values()), default=0)
    spread = "mean ± standard error over seeds (standard deviation over √seeds, as DomainBed has it)"
    notes = [f"Accuracy in percent; {spread if seeds > 1 else 'one seed, so no spread'}."]
    notes += ["Unparsed: share of answers that name no class, counted as wrong."] if with_unparsed else []
    if split == "in":
        notes.append("Split in: the 80 % of the target that DomainBed reports.")
    if with_interval:
        notes.append(f"Interval: hierarchical bootstrap over {drawn_over(seeds)}; the targets are fixed.")
    if is_drawn(group):
        notes.append(DRAWN_NOTE)
    return notes


def _comparison_row(item: Comparison) -> tuple[str, ...]:
    paired = item.paired
    interval = f"{points(paired.low)} to {points(paired.high)}"
    return (
        item.method,
        points(paired.difference),
        interval,
        f"{paired.p_value:.3f}",
        f"{item.adjusted_p:.3f}",
        str(item.units),
    )


def _markdown(text: str) -> str:
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    return re.sub(r"[\\`*_|<>\[\]!]", r"\\\g<0>", text)


def _markdown_note(text: str) -> str:
    """As `_markdown`, but what a note has between backticks stays code."""
    prose_and_code = re.split(r"(`[^`]+`)", text)
    return "".join(part if number % 2 else _escaped(part) for number, part in enumerate(prose_and_code))


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "√": r"$\sqrt{}$",
    "·": r"$\cdot$",
    "−": "$-$",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
