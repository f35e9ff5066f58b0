"""The OpenAI Batch API as files: requests to hand in, answers to take up. vLLM's `run-batch` reads and writes the same.

A request's custom id is its key: it survives whatever happens to the files, is the same in every writing, and says
nothing. What was asked stands in a small file of the store, so that the answers can be read without repeating it.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from throughline.chains.formats import FORMATS
from throughline.chains.journal import read_lines
from throughline.chains.records import FAILED
from throughline.core.errors import ThroughlineError
from throughline.core.files import content_hash, readable_os_errors, write_atomically
from throughline.core.untrusted import json_object
from throughline.domains.images import ImageError
from throughline.domains.samples import ImageSet
from throughline.questions.sampler import Reply
from throughline.teaching.completions import chat_body, read_completion
from throughline.teaching.fates import NoAnswer
from throughline.teaching.pictures import data_url
from throughline.teaching.plan import BuildPlan, Clock
from throughline.teaching.prices import Price
from throughline.teaching.recorder import Recorder
from throughline.teaching.teachers import Brief

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
    candidates: int
    """Asked for per image at most."""

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
    only_thinking: int = 0
    """Answers that were thinking and nothing else."""
    unknown: list[str] = field(default_factory=list)
    """`file:line: why` of lines that belong to no request of this store."""


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
        {name: getattr(brief, name) for name in ("model", "prompt", "params", "seed")}
        | {"format": plan.format.name, "candidates": plan.candidates}
    )
    name = content_hash(order.model_dump(mode="json"))[:8]
    written, size, count = BatchWritten(), 0, 0
    with closing(Recorder(plan, brief, store, lambda: None)) as recorder, readable_os_errors(folder):
        write_atomically(store / f"batch-{name}.json", order.model_dump_json(indent=2) + "\n")
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"batch-{name}-*.jsonl"):
            old.unlink()
        for line in _request_lines(recorder, written.unreadable, on_progress):
            if not written.files or count == most_requests or size + len(line) > most_bytes:
                written.files.append(folder / f"batch-{name}-{len(written.files) + 1:03}.jsonl")
                size = count = 0
            with written.files[-1].open("ab") as file:
                file.write(line)
            size, count, written.requests = size + len(line), count + 1, written.requests + 1
    return written


def _request_lines(
    recorder: Recorder, unreadable: dict[str, str], on_progress: Callable[[int, int], None]
) -> Iterator[bytes]:
    """A line for each candidate that an image wants next; an image that cannot be read is noted in `unreadable`."""
    brief, ledger = recorder.brief, recorder.ledger
    for done, lead in enumerate(ledger.leads, start=1):
        if wanted := _wanted(recorder, lead):
            sample = ledger.samples[lead]
            prompt = brief.prompt_about(sample)
            try:
                urls = [data_url(image, brief.params["image_side"]) for image in prompt.images]
            except ImageError as error:
                unreadable[sample.id], wanted = error.what, []
            for key in (ledger.key(lead, number) for number in wanted):
                body = chat_body(brief, prompt.with_urls(urls), key)
                row = {"custom_id": key, "method": "POST", "url": URL, "body": body}
                yield json.dumps(row, ensure_ascii=False).encode() + b"\n"
        on_progress(done, ledger.distinct)


def _wanted(recorder: Recorder, lead: int) -> list[int]:
    """The next candidate that an image wants; with `enough=None` all that it lacks."""
    lacking = recorder.ledger.lacking(lead)
    if recorder.plan.enough is None:
        return lacking
    return [number for number in lacking[:1] if not recorder.ledger.enough(lead, number)]


def read_orders(store: Path) -> list[BatchOrder]:
    """The orders behind a store's batch files, of those for the same requests the one that wanted most.
    ThroughlineError when there is none, or one is damaged."""
    orders: list[BatchOrder] = []
    for path in sorted(store.glob("batch-*.json")):
        try:
            orders.append(BatchOrder.model_validate_json(path.read_bytes()))
        except (ValidationError, OSError) as error:
            raise ThroughlineError("the batch order is damaged", path, "write the batch files again") from error
    if not orders:
        raise ThroughlineError("no batch files were written from this store", store, "use `chains batch write` first")
    # Orders of the same requests differ in how many were wanted: the last, which wanted most, stands.
    orders.sort(key=lambda order: order.candidates)
    by_request = {content_hash(order.model_dump(mode="json", exclude={"candidates"})): order for order in orders}
    return list(by_request.values())


def read_batch(
    images: ImageSet,
    store: Path,
    files: Iterable[Path],
    *,
    images_named: str | None = None,
    price_of: Callable[[str], Price | None] = lambda model: None,
    read_thinking: bool = False,
    clock: Clock = lambda: None,
) -> BatchRead:
    """Takes the answers of output and error files into the store, each once, with the verdicts of all rules.

    `price_of` gives the price of a model, of which a batch costs half; `read_thinking` is as in a `BuildPlan`.
    """
    result, paths = BatchRead(), list(files)
    keys = {key for _, key, _ in _results(paths)}
    of_no_order = keys.copy()
    for order in read_orders(store):
        more: dict[str, Any] = {"images_named": images_named, "read_thinking": read_thinking}
        plan = BuildPlan(images, FORMATS[order.format], candidates=order.candidates, **more)
        price = price_of(order.model)
        half = price and price.for_batches
        with closing(Recorder(plan, order.brief, store, clock)) as recorder:
            # Places of the requests in these files only: a store may have millions.
            numbered = ((lead, number) for lead in recorder.ledger.leads for number in range(plan.candidates))
            places = {key: place for place in numbered if (key := recorder.ledger.key(*place)) in keys}
            of_no_order -= places.keys()
            for _, key, line in _results(paths):
                if key not in places:
                    continue
                if recorder.ledger.has(*places[key]):
                    result.known += 1
                    continue
                reply = _read_reply(line, half)
                recorder.record(places[key][0], recorder.request(*places[key]), reply)
                result.failed += reply.finish_reason == FAILED
                result.answers += reply.finish_reason != FAILED
            result.only_thinking += recorder.progress.only_thinking
    for place, key, _ in _results(paths):
        if key in of_no_order:
            result.unknown.append(f"{place}: {'no such request' if key else 'no batch answer'}")
    return result


def _results(files: Iterable[Path]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """`file:line`, custom id and content of every line that holds anything; the id is empty where it is no answer."""
    for path in files:
        for line in read_lines(path, "answers"):
            content = json_object(line.data) or {}
            key = content.get("custom_id")
            yield f"{path}:{line.number}", key if isinstance(key, str) else "", content


def _read_reply(line: dict[str, Any], price: Price | None) -> Reply:
    """The reply in one line of an output or error file; OpenAI and vLLM put a failure into `error` or a status."""
    response = line.get("response") if isinstance(line.get("response"), dict) else {}
    assert isinstance(response, dict)
    status = response.get("status_code")
    try:
        body = {"error": line["error"]} if line.get("error") else response.get("body")
        return read_completion(body, price, status if isinstance(status, int) else 200)
    except NoAnswer as error:
        return error.reply(str(error)[:300] or "no answer")
