"""Counts lines of code and of docstrings by room: the folders of a package, and its single files.

    python bench/code_lines.py src                     # a table
    python bench/code_lines.py src --budget 20000      # exit code 1 where there are more

A line of code holds at least one token that is neither a comment nor part of a docstring. Every string that stands as
a statement of its own counts as a docstring, also the one under a field.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
"""Kinds of tokens that make no line of code."""


@dataclass
class Lines:
    """How many lines some files have."""

    code: int = 0
    docstrings: int = 0
    files: int = 0

    def add(self, other: Lines) -> None:
        self.code += other.code
        self.docstrings += other.docstrings
        self.files += other.files


def count_lines(source: str) -> Lines:
    """Of the text of one file."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SILENT:
            code.update(range(token.start[0], token.end[0] + 1))
    return Lines(len(code - docstrings), len(docstrings), files=1)


def count_rooms(root: Path) -> dict[str, Lines]:
    """Of all Python files below `root`, by room, those with most code first."""
    package = _package(root)
    rooms: dict[str, Lines] = {}
    for path in sorted(package.rglob("*.py")):
        rooms.setdefault(path.relative_to(package).parts[0], Lines()).add(count_lines(path.read_text(encoding="utf-8")))
    return dict(sorted(rooms.items(), key=lambda room: -room[1].code))


def _package(root: Path) -> Path:
    """The folder whose folders are the rooms: below `src` the only package there."""
    inside = Counter(path.relative_to(root).parts[0] for path in root.rglob("*.py"))
    (only, *others) = inside or [""]
    return _package(root / only) if not others and (root / only).is_dir() and only else root


def main() -> None:
    parser = argparse.ArgumentParser(description="Counts lines of code and of docstrings by room.")
    parser.add_argument("root", type=Path, metavar="ROOT", help="a folder with Python files")
    parser.add_argument("--budget", type=int, metavar="N", help="exit code 1 where there are more lines of code")
    arguments = parser.parse_args()
    rooms, total = count_rooms(arguments.root), Lines()
    print(f"{'room':20} {'code':>7} {'docstrings':>11} {'files':>6}")
    for name, lines in rooms.items():
        print(f"{name:20} {lines.code:7} {lines.docstrings:11} {lines.files:6}")
        total.add(lines)
    print(f"{'all':20} {total.code:7} {total.docstrings:11} {total.files:6}")
    print(f"{100 * total.docstrings / max(1, total.code):.1f} lines of docstrings for 100 lines of code")
    if arguments.budget is not None and total.code > arguments.budget:
        raise SystemExit(f"{total.code:,} lines of code, {total.code - arguments.budget:,} above the budget")


if __name__ == "__main__":
    main()
