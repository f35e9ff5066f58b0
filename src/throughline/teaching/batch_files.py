"""The OpenAI Batch API as files: requests to hand in, answers to take up. vLLM's `run-batch` reads and writes the same.

A request's custom id is its key: it survives whatever happens to the files, is the same in every writing, and says
nothing. What was asked stands in a small file of the store, so that the answers can be read without repeating it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from throughline.chains.records import FAILED
from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, readable_os_errors, write_atomically
from throughline.teaching.completions import image_body, read_completion, usage_of
from throughline.teaching.pictures import PictureBook
from throughline.teaching.prices import BATCH_SHARE, Price
from throughline.teaching.recorder import BuildPlan, Clock, Recorder
from throughline.teaching.teachers import Brief, Written

URL = "/v1/chat/completions"
MOST_REQUESTS, MOST_BYTES = 50_000, 190_000_000
"""Of one file: OpenAI's limits are quoted as 50,000 requests and 200 MB."""


class BatchOrder(BaseModel):
    """What the requests of some files have in common; a file of the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    model: str
    prompt: str
    params: dict[str, Any]
    seed: int
    format: Literal["five_stage", "four_stage", "think_answer"]
    rule: Literal["format", "consistent", "correct"]
    candidates: int
    enough: int | None

    @property
    def brief(self) -> Brief:
        """The teacher's brief behind the requests."""
        return Brief("endpoint", self.model, self.prompt, self.params, self.seed)


@dataclass
class BatchWritten:
    """The files, and what could not be put into one."""

    files: list[Path] = field(default_factory=list)
    requests: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    """Sample id → what is wrong with its image."""


@dataclass
class BatchRead:
    """What a reading took up, and every line that it did not."""

    answers: int = 0
    failed: int = 0
    known: int = 0
    """Answers that the store held already."""
    unknown: list[str] = field(default_factory=list)
    """`file:line: why` of lines that belong to no request of this store."""

    def joined(self, other: BatchRead) -> BatchRead:
        """The same files read for another order: a line is unknown when it belongs to neither."""
        theirs = set(other.unknown)
        unknown = [line for line in self.unknown if line in theirs]
        return BatchRead(self.answers + other.answers, self.failed + other.failed, self.known + other.known, unknown)


def write_batch(
    plan: BuildPlan,
    brief: Brief,
    store: Path,
    folder: Path,
    *,
    most_requests: int = MOST_REQUESTS,
    most_bytes: int = MOST_BYTES,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BatchWritten:
    """Request files for what the plan wants next: one candidate an image, or all at once with `enough=None`.

    Files are `batch-<hash>-<number>.jsonl`; those of an earlier writing of the same order are replaced.
    """
    order = BatchOrder.model_validate(
        {
            "model": brief.model,
            "prompt": brief.prompt,
            "params": dict(brief.params),
            "seed": brief.seed,
            "format": plan.format.name,
            "rule": plan.rule,
            "candidates": plan.candidates,
            "enough": plan.enough,
        }
    )
    name = content_hash(order.model_dump(mode="json"))[:8]
    written = BatchWritten()
    with Recorder(plan, brief, store, lambda: None) as recorder:
        write_atomically(store / f"batch-{name}.json", order.model_dump_json(indent=2) + "\n")
        with readable_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.glob(f"batch-{name}-*.jsonl"):
                old.unlink()
        files = _Files(folder, name, most_requests, most_bytes, written.files)
        try:
            book = PictureBook(brief.params["image_side"], kept=1)
            for done, lead in enumerate(recorder.ledger.leads, start=1):
                sample = recorder.ledger.samples[lead]
                for number in _wanted(recorder, lead):
                    try:
                        url = book.data_url(sample.path)
                    except ThroughlineError as error:
                        written.unreadable[sample.id] = error.what
                        break
                    body = image_body(brief, sample, url, number)
                    key = brief.key(sample.image_sha256, number)
                    files.write({"custom_id": key, "method": "POST", "url": URL, "body": body})
                    written.requests += 1
                on_progress(done, recorder.ledger.distinct)
        finally:
            files.close()
    return written


def read_orders(store: Path) -> list[BatchOrder]:
    """The orders behind a store's batch files. ThroughlineError when there is none, or one is damaged."""
    orders: dict[str, BatchOrder] = {}
    for path in sorted(store.glob("batch-*.json")):
        try:
            order = BatchOrder.model_validate_json(path.read_bytes())
            # Orders of the same requests differ in how many were wanted: the answers are the same.
            request = content_hash(order.model_dump(mode="json", exclude={"rule", "candidates", "enough"}))
            if request not in orders or orders[request].candidates < order.candidates:
                orders[request] = order
        except (ValidationError, OSError) as error:
            raise ThroughlineError("the batch order is damaged", path, "write the batch files again") from error
    if not orders:
        raise ThroughlineError("no batch files were written from this store", store, "use `chains batch write` first")
    return list(orders.values())


def read_batch(
    plan: BuildPlan,
    order: BatchOrder,
    store: Path,
    files: Iterable[Path],
    *,
    price: Price | None = None,
    clock: Clock = lambda: None,
) -> BatchRead:
    """Takes the answers of output and error files into the store, each once, with the verdicts of all rules."""
    brief, result = order.brief, BatchRead()
    half = Price(prompt=price.prompt * BATCH_SHARE, completion=price.completion * BATCH_SHARE) if price else None
    with Recorder(plan, brief, store, clock) as recorder:
        ledger = recorder.ledger
        asked_for = {key for _, line in _result_lines(files) if isinstance(key := _custom_id(line), str)}
        places = {}  # of the requests in these files only: a store may have millions
        for lead in ledger.leads:
            for number in range(plan.candidates):
                key = brief.key(ledger.samples[lead].image_sha256, number)
                if key in asked_for:
                    places[key] = lead, number
        for place, line in _result_lines(files):
            key = _custom_id(line)
            if not isinstance(key, str) or key not in places:
                result.unknown.append(f"{place}: {'no such request' if key else 'no batch answer'}")
                continue
            lead, number = places[key]
            if ledger.has(lead, number):
                result.known += 1
                continue
            written = _written(line, half)
            recorder.record(lead, recorder.ask(lead, number), written)
            result.failed += written.finish_reason == FAILED
            result.answers += written.finish_reason != FAILED
    return result


def _custom_id(line: Any) -> Any:
    return line.get("custom_id") if isinstance(line, dict) else None


def _wanted(recorder: Recorder, lead: int) -> Iterator[int]:
    """The next candidate that an image wants; with `enough=None` all that it lacks."""
    for number in range(recorder.plan.candidates):
        if recorder.enough(lead, number):
            return
        if not recorder.ledger.has(lead, number):
            yield number
            if recorder.plan.enough is not None:
                return


def _result_lines(files: Iterable[Path]) -> Iterator[tuple[str, Any]]:
    for path in files:
        try:
            with path.open("rb") as file:
                for number, data in enumerate(file, start=1):
                    if data.strip():
                        try:
                            yield f"{path}:{number}", json.loads(data)
                        except (ValueError, RecursionError):
                            yield f"{path}:{number}", None
        except OSError as error:
            raise ThroughlineError(
                f"cannot read the answers: {error.strerror}", path, "name an existing file"
            ) from error


def _written(line: dict[str, Any], price: Price | None) -> Written:
    """The answer in one line of an output or error file; OpenAI and vLLM put a failure into `error` or a status."""
    response = line.get("response") if isinstance(line.get("response"), dict) else {}
    assert isinstance(response, dict)
    try:
        if line.get("error") or response.get("status_code", 200) >= 400:
            raise ValueError(_reason(line.get("error") or response.get("body")))
        said = read_completion(response.get("body"))
    except (ValueError, TypeError) as error:
        return Written(str(error)[:300] or "no answer", FAILED)
    return Written(said.text, said.finish_reason, usage_of(said, price))


def _reason(error: Any) -> str:
    inner = error.get("error", error) if isinstance(error, dict) else error
    message = inner.get("message") if isinstance(inner, dict) else inner
    return " ".join(str(message or "no reason given").split())


class _Files:
    """Numbered JSONL files, none over a number of requests or bytes."""

    def __init__(self, folder: Path, name: str, most_requests: int, most_bytes: int, files: list[Path]) -> None:
        self._folder, self._name, self._files = folder, name, files
        self._most_requests, self._most_bytes = most_requests, most_bytes
        self._file: IO[bytes] | None = None
        self._requests = self._bytes = 0

    def write(self, row: dict[str, Any]) -> None:
        data = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        if self._file is None or self._requests >= self._most_requests or self._bytes + len(data) > self._most_bytes:
            self.close()
            path = self._folder / f"batch-{self._name}-{len(self._files) + 1:03}.jsonl"
            with readable_os_errors(path):
                self._file = path.open("wb")
            self._files.append(path)
            self._requests = self._bytes = 0
        with readable_os_errors(self._files[-1]):
            self._file.write(data)
        self._requests, self._bytes = self._requests + 1, self._bytes + len(data)

    def close(self) -> None:
        if self._file is not None:
            with readable_os_errors(self._files[-1]):
                self._file.close()
            self._file = None
