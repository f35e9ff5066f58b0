"""The one exception family for faults a user can mend. The command line prints each as a single line."""

from collections.abc import Iterable


class ThroughlineError(Exception):
    """The input is at fault: says what is wrong, where, and what to do. Exit code 1."""

    exit_code = 1
    lines: tuple[str, ...] = ()
    """What the command line prints where it is more than one line."""

    def __init__(self, what: str, where: object | None = None, do: str | None = None) -> None:
        self.what, self.where, self.do = what, where, do
        super().__init__(str(self))

    def __str__(self) -> str:
        line = self.what
        if self.where is not None:
            line += f" [{self.where}]"
        if self.do is not None:
            line += f": {self.do}"
        return " ".join(line.split())


def extra(name: str) -> str:
    """What to do where a package of an extra is missing. Another project has the name `throughline` on PyPI."""
    return f"install the extra {name} (pip install '.[{name}]' in the checkout's folder, or 'FILE.whl[{name}]')"


class UnitsFailed(ThroughlineError):
    """Units of a run failed. `lines` say of each why, and which others were skipped since they need it."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("; ".join(self.lines))


class UsageError(ThroughlineError):
    """The command line itself is wrong. Exit code 2."""

    exit_code = 2


class Interrupted(ThroughlineError):
    """Stopped half-way with everything paid for on disk; the same command continues. Exit code 3."""

    exit_code = 3
