"""A chain store, read once: the journals of a folder folded into a row for each request on a sample. What is still to
ask, statistics, checks, pages, exports and training are queries on these rows.

The first answer to a request stands, the last verdict of each rule, and usage in sum. No text is kept: a row knows
where its line is, and `read` reads it again. A row takes about 200 bytes, whatever the length of its text.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from throughline.chains.journal import Line, Problem, journal_files, parse_line, read_lines
from throughline.chains.outcomes import Outcome
from throughline.chains.records import JUDGE, Candidate, Header, Record, Usage, Verdict
from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet

MEASURES = ("prompt_tokens", "completion_tokens", "cost")
"""What a source may report of an answer; cost in US dollars."""
MOST_USAGE = 1e15
"""No honest count of tokens is larger; beyond it sums would no longer be exact."""
_ABSENT, _FAILED, _ANSWERED = range(3)
"""States of a row; absent are candidates of which only verdicts were read."""
_HASHES = ("key", "sample", "image", "text")
_REPEATED = ("domain", "format", "classes_sha256", "prompt_sha256", "source", "model", "round", "number")
"""Fields of candidates of which each value is kept once; `number` is their `candidate`."""
_NUMBERS = {"place": "q", "line": "i", "state": "b", "reported": "b"}
_TYPES = dict.fromkeys(_HASHES, "q") | dict.fromkeys(_REPEATED, "i") | _NUMBERS | dict.fromkeys(MEASURES, "d")
_NAN = float("nan")


class ChainStore:
    """The rows of one or more journals; `read_store` makes it.

    Requests, keys, samples, images and texts are kept as 64-bit hashes, good in this process only: of a million
    requests, two have the same hash in one of 37 million stores.
    """

    def __init__(self) -> None:
        self.headers: list[tuple[Path, Header]] = []
        """Each with its file, in reading order."""
        self.problems: list[Problem] = []
        """Lines that cannot be used."""
        self.contradictions: dict[Problem, int] = {}
        """Answers to requests that had been answered otherwise, each with the row of its request."""
        self.lines = 0
        """Lines that hold anything."""
        self.duplicates = 0
        """Candidate lines beyond the one that stands for its request."""
        self.unusable_usage = 0
        """Reported tokens or costs that can be none (negative, absurd); they are in no sum."""
        self.cost = 0.0
        """US dollars behind all lines, failed and repeated ones and judges' verdicts included."""
        self.judgements: dict[tuple[int, str], bool] = {}
        """What judge models said, by hash of the key and model; requests to a judge that failed say nothing."""
        self.judging: dict[tuple[int, str], tuple[int, tuple[float, ...]]] = {}
        """What verdicts of judge models took, by hash of the key and rule: the row, and `MEASURES`."""
        self._columns: dict[str, array[Any]] = {name: array(typecode) for name, typecode in _TYPES.items()}
        self._values = {name: _Values() for name in _REPEATED}
        self._verdicts: dict[str, array[int]] = {}
        """By rule and row: which of `_rulings`; 0 is none, and the end may be missing."""
        self._rulings = _Values({(None, False, None): 0})
        """Outcome, whether it was accepted, and the basis."""
        self._index: dict[int, int] = {}
        """Request → row; needed while lines come in."""
        self._files: list[Path] = []
        self._starts: list[int] = []
        """Where each file would begin if all stood behind one another: a row's `place` counts from there."""
        self._end = 0

    def add(self, path: Path, line: Line, record: Record | Problem) -> bool:
        """Takes in the next line; gives whether it is an answer that stands already, in the same words."""
        self.lines += 1
        if not self._files or self._files[-1] != path:
            self._files.append(path)
            self._starts.append(self._end)
        place = self._starts[-1] + line.offset
        self._end = place + len(line.data)
        if isinstance(record, Problem):
            self.problems.append(record)
        elif isinstance(record, Header):
            self.headers.append((path, record))
        else:
            usage = self._usable(record.usage)
            self.cost += 0.0 if usage[2] != usage[2] else usage[2]
            row = self._row(record, place, line.number)
            if isinstance(record, Candidate):
                return self._add_candidate(row, record, usage, place, line.number)
            self._add_verdict(row, record, usage)
        return False

    def seal(self) -> None:
        """No line comes any more: lets go of what only reading needs."""
        self._index = {}

    def _row(self, record: Candidate | Verdict, place: int, line: int) -> int:
        request = hash((record.key, record.sample_id))
        row = self._index.setdefault(request, len(self._index))
        if row == len(self._columns["state"]):
            known = {"key": hash(record.key), "sample": hash(record.sample_id), "place": place, "line": line}
            for name, column in self._columns.items():
                column.append(known.get(name, _NAN if name in MEASURES else 0))
        return row

    def _add_candidate(self, row: int, candidate: Candidate, usage: tuple[float, ...], place: int, line: int) -> bool:
        state, text = self._columns["state"][row], hash(candidate.text)
        self.duplicates += state != _ABSENT
        if state == _ANSWERED:
            is_repeated = not candidate.failed and text == self._columns["text"][row]
            if not (candidate.failed or is_repeated):
                self.contradictions[Problem(self._files[-1], line, _CONTRADICTION)] = row
            return is_repeated
        if state == _FAILED and not candidate.failed:
            self._forget_failure(row)
        repeated = {name: getattr(candidate, "candidate" if name == "number" else name) for name in _REPEATED}
        values: dict[str, int | float] = {
            "image": hash(candidate.image_sha256),
            "text": text,
            "place": place,
            "line": line,
            "state": _FAILED if candidate.failed else _ANSWERED,
            "reported": candidate.usage is not None,
            **dict(zip(MEASURES, usage, strict=True)),
            **{name: self._values[name].code(value) for name, value in repeated.items()},
        }
        for name, number in values.items():
            self._columns[name][row] = number
        return False

    def _forget_failure(self, row: int) -> None:
        """What was said of the failed request is not said of the answer."""
        errors = [code for (outcome, *_), code in self._rulings.items() if outcome == Outcome.ERROR]
        for codes in self._verdicts.values():
            if row < len(codes) and codes[row] in errors:
                codes[row] = 0

    def _add_verdict(self, row: int, verdict: Verdict, usage: tuple[float, ...]) -> None:
        codes = self._verdicts.setdefault(verdict.rule, array("i"))
        codes.extend([0] * (row + 1 - len(codes)))
        if verdict.usage is not None:  # a copy's verdict repeats what was paid once
            self.judging.setdefault((hash(verdict.key), verdict.rule), (row, usage))
        if verdict.rule == JUDGE:
            if verdict.outcome == Outcome.ERROR and codes[row]:
                return  # a request to the judge that failed takes back nothing
            if verdict.outcome != Outcome.ERROR and verdict.model is not None:
                self.judgements[hash(verdict.key), verdict.model] = verdict.accepted
        codes[row] = self._rulings.code((verdict.outcome, verdict.accepted, verdict.basis))

    def _usable(self, usage: Usage | None) -> tuple[float, ...]:
        """`MEASURES`, NaN for what is not reported or cannot be."""
        reported = [getattr(usage, name, None) for name in MEASURES]
        usable = [value if value is not None and 0 <= value <= MOST_USAGE else None for value in reported]
        self.unusable_usage += usable.count(None) - reported.count(None)
        return tuple(_NAN if value is None else float(value) for value in usable)

    # queries ----------------------------------------------------------------------------------------------------------

    @cached_property
    def requests(self) -> Any:
        """The rows as a pandas frame, indexed by row, in the order in which requests were read first.

        Columns: the hashes `key, sample, image, text`; `line`; `failed`; `domain, format, classes_sha256,
        prompt_sha256, source, model, round, number`; `reported` (there is a usage), `prompt_tokens, completion_tokens,
        cost` (NaN where not reported).
        """
        return self.columns(*_HASHES, "line", "failed", "reported", *MEASURES, *_REPEATED)

    def columns(self, *names: str) -> Any:
        """Some columns of `requests`: a large store has few megabytes for each."""
        import numpy as np
        import pandas as pd

        column = {name: np.asarray(values) for name, values in self._columns.items()}
        present = column["state"] != _ABSENT
        derived = {"failed": column["state"] == _FAILED, "reported": column["reported"] > 0}
        columns: dict[str, Any] = {name: derived[name] if name in derived else column.get(name) for name in names}
        for name in self._values.keys() & set(names):
            values = np.array([*self._values[name], None], object)
            columns[name] = pd.Series(values[column[name]], dtype=object)  # each value is in memory once
        frame = pd.DataFrame(columns, copy=False)
        return frame if present.all() else frame[present]

    @cached_property
    def answers(self) -> Any:
        """The rows of `requests` that have an answer."""
        return self.requests[~self.requests["failed"]]

    @property
    def rules(self) -> list[str]:
        """The rules of which there are verdicts."""
        return list(self._verdicts)

    def verdicts(self, rule: str) -> Any:
        """The last verdicts of a rule as a pandas frame, indexed by row: `outcome`, `accepted`, `basis`."""
        import numpy as np
        import pandas as pd

        codes = np.asarray(self._verdicts.get(rule, array("i")))
        rows = np.flatnonzero(codes)
        rulings = pd.DataFrame(list(self._rulings), columns=["outcome", "accepted", "basis"], dtype=object)
        return rulings.astype({"accepted": bool}).iloc[codes[rows]].set_axis(rows)

    @property
    def vetoed(self) -> Any:
        """The rows that a judge model did not agree with."""
        judged = self.verdicts(JUDGE)
        return judged.index[~judged["accepted"] & (judged["outcome"] != Outcome.ERROR)]

    def orphans(self) -> list[Problem]:
        """Rows with verdicts and no candidate, each with the place of its first verdict."""
        rows = (row for row, state in enumerate(self._columns["state"]) if state == _ABSENT)
        return [self.place_of(row, "a verdict without its candidate") for row in rows]

    def place_of(self, row: int, what: str) -> Problem:
        """What is to be said of a row, with the place of its line."""
        return Problem(self._file_and_offset(row)[0], self._columns["line"][row], what)

    def _file_and_offset(self, row: int) -> tuple[Path, int]:
        place = self._columns["place"][row]
        file = bisect_right(self._starts, place) - 1
        return self._files[file], place - self._starts[file]

    @property
    def prompts(self) -> dict[str, str]:
        """SHA-256 → question, as far as headers have them."""
        return {sha256: prompt for _, header in self.headers for sha256, prompt in header.prompts.items()}

    def candidates(self) -> Iterator[Candidate]:
        """Every candidate that stands, whole, one in memory at a time."""
        return self.read(self.requests.index)

    def read(self, rows: Iterable[int]) -> Iterator[Candidate]:
        """The candidates of these rows, whole, in the order given, one in memory at a time.

        ThroughlineError when they are no longer what was read before; a store that only grew is no trouble.
        """
        with ExitStack() as stack:
            opened: dict[Path, Any] = {}
            for row in rows:
                path, offset = self._file_and_offset(row)
                try:
                    if path not in opened:
                        opened[path] = stack.enter_context(path.open("rb"))
                    opened[path].seek(offset)
                    line = Line(self._columns["line"][row], offset, opened[path].readline())
                except OSError:
                    line = Line(0, offset, b"")
                record = parse_line(path, line)
                known = self._columns["key"][row], self._columns["sample"][row]
                if not isinstance(record, Candidate) or (hash(record.key), hash(record.sample_id)) != known:
                    raise ThroughlineError("the store changed while it was being read", path, "start again")
                yield record


def read_store(paths: Path | Iterable[Path], on_progress: Callable[[int], None] = lambda lines: None) -> ChainStore:
    """Folds journal files; a folder stands for its `journal-<shard>.jsonl`. `on_progress` gets the lines so far.

    Lines that cannot be used (no JSON, unknown kind, wrong fields, torn) are in `problems` with file and line number.
    ThroughlineError for a file that cannot be read, and for a line of a newer schema than this version knows.
    """
    store = ChainStore()
    for path, line, record in read_records(paths):
        store.add(path, line, record)
        if store.lines % _LINES_BETWEEN_REPORTS == 0:
            on_progress(store.lines)
    store.seal()
    return store


def require_chains_about(images: ImageSet, store: Path) -> None:
    """ThroughlineError when a store holds chains, and the first of them are all about images that are none of these."""
    known = {sample.image_sha256 for sample in images.samples}
    candidates = (record for *_, record in read_records(store) if isinstance(record, Candidate))
    are_known = [candidate.image_sha256 in known for candidate in islice(candidates, _SEEN)]
    if are_known and not any(are_known):
        named = next((header.images for header in read_headers(store) if header.images), "another folder")
        what = f"the chains of this store are about other images ({named})"
        raise ThroughlineError(what, store, f"none of them is in {images.root}: name their folder, or another store")


def read_headers(paths: Path | Iterable[Path]) -> Iterator[Header]:
    """The headers of journals in reading order, read as far as they are asked for. Raises as `read_store` does."""
    return (record for _, _, record in read_records(paths) if isinstance(record, Header))


def read_records(paths: Path | Iterable[Path]) -> Iterator[tuple[Path, Line, Record | Problem]]:
    """Every line of journals with its file and what it holds. Raises as `read_store` does."""
    for path in chain.from_iterable(map(journal_files, [paths] if isinstance(paths, Path) else paths)):
        for line in read_lines(path):
            yield path, line, parse_line(path, line)


_LINES_BETWEEN_REPORTS = 1000
_SEEN = 1000  # candidates that are looked at to tell whether a store is about an image set
_CONTRADICTION = "another text for a request that was answered before; the first stands"


class _Values(dict[Any, int]):
    """Values that repeat, each with its code: their number."""

    def code(self, value: Any) -> int:
        return self.setdefault(value, len(self))
