"""Tables as text, for the terminal, for Markdown and for LaTeX. Called by the verbs that print tables and by the
commands that generate them for the documents."""

import io
import re

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from throughline.core.table import Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "√": r"$\sqrt{}$",
    "·": r"$\cdot$",
    "−": "$-$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def to_terminal(table: Table) -> str:
    """The table as text, as wide as it needs so that no cell is cut."""
    shown = RichTable(box=box.SIMPLE_HEAD)
    for number, column in enumerate(table.columns):
        shown.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    buffer = io.StringIO()
    console = Console(file=buffer, width=10_000, force_terminal=False, highlight=False, markup=False, emoji=False)
    console.print(table.title, style="bold")
    console.print(shown, crop=False)
    for note in table.notes:
        console.print(note, style="dim", width=110)
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


def _markdown(text: str) -> str:
    return _escaped(" ".join(text.split()))


def _escaped(text: str) -> str:
    return re.sub(r"[\\`*_|<>\[\]!]", r"\\\g<0>", text)


def _markdown_note(text: str) -> str:
    """As `_markdown`, but what a note has between backticks stays code."""
    prose_and_code = re.split(r"(`[^`]+`)", text)
    return "".join(part if number % 2 else _escaped(part) for number, part in enumerate(prose_and_code))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
