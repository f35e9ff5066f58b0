"""The endpoint teacher against a server that answers after 200 ms, takes 64 requests at once and refuses more.

    python bench/teacher.py --json

Rivals: what such a server can give at most, a plain `openai` client that is told the 64, and a serial loop. Then the
journal's writer by itself, and the memory of a build of many images.
"""

import asyncio
import base64
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
from PIL import Image
from pydantic import PositiveFloat, PositiveInt

from bench_script import run_bench
from fresh_process import in_a_fresh_process, peak_megabytes
from throughline.benchmarks.settings import BenchSettings
from throughline.benchmarks.timing import BenchRow, OnProgress, compare
from throughline.chains.formats import FIVE_STAGE, Chain, render_chain
from throughline.chains.records import Usage
from throughline.core.files import content_hash
from throughline.domains.class_lists import CLASS_LISTS
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.questions.sampler import Reply
from throughline.teaching.building import build, build_chains
from throughline.teaching.completions import chat_body
from throughline.teaching.endpoint import Endpoints, EndpointTeacher
from throughline.teaching.plan import BuildPlan
from throughline.teaching.prompt import teacher_prompt
from throughline.teaching.teachers import Brief, Request

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the server stands with the tests that use it, too
from tests.chat_server import RunningServer, ServerSettings, running_server

CLASSES = CLASS_LISTS["PACS"]
PARAMS: dict[str, Any] = {"temperature": 0.7, "max_tokens": 1024, "seed": True, "image_side": 1024}
ASKED_RECORDS = 2000.0
"""Records a second that one writer has to sustain."""


class TeacherSettings(BenchSettings):
    """Asking an endpoint for chains against the server's capacity and plain clients."""

    latency: PositiveFloat = 0.2
    """Seconds from a request to its answer."""
    at_once: PositiveInt = 64
    """Requests that the server takes at once."""
    trials: PositiveInt = 3
    """Timed runs of each side."""
    warm_up: PositiveFloat = 5.0
    """Seconds of a run that are thrown away."""
    window: PositiveFloat = 10.0
    """Seconds of a run that count, after those."""
    records: PositiveInt = 20_000
    """Candidates in the writer's measurement, each with its three verdicts."""
    images: PositiveInt = 200_000
    """Images in the measurement of memory."""
    few_images: PositiveInt = 10_000
    """Images that these are set against."""

    @property
    def capacity(self) -> float:
        """Answers a second that the server gives when it is never idle."""
        return self.at_once / self.latency


def measure(settings: TeacherSettings, on_progress: OnProgress) -> list[BenchRow]:
    """All rows. Throughput is in seconds for 1,000 answers, so that a ratio above 1 is better throughout."""
    return [*_throughput(settings, on_progress), _writer(settings, on_progress), _memory(settings, on_progress)]


# throughput -----------------------------------------------------------------------------------------------------------


def _throughput(settings: TeacherSettings, on_progress: OnProgress) -> list[BenchRow]:
    ours: list[float] = []
    plain: list[float] = []
    refused: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        images = _noise_images(Path(folder) / "images", 400)
        kilobytes = statistics.mean(sample.path.stat().st_size for sample in images.samples) / 1000
        for trial in range(settings.trials):
            for side in ("ours", "plain") if trial % 2 == 0 else ("plain", "ours"):
                on_progress(f"throughput, trial {trial + 1} of {settings.trials}: {side}")
                server_settings = ServerSettings(latency=settings.latency, at_once=settings.at_once)
                with running_server(server_settings) as server:
                    if side == "ours":
                        store = Path(folder) / f"store-{trial}"
                        ours.append(asyncio.run(_built(server, images, store, settings)))
                        refused.append(int(server.stats()["refused_429"]))
                    else:
                        plain.append(asyncio.run(_plain_client(server, images, Path(folder), settings)))
        on_progress("throughput: serial loop")
        with running_server(ServerSettings(latency=settings.latency, at_once=settings.at_once)) as server:
            serial = [_serial_loop(server, images) for _ in range(settings.trials)]
    facts = {
        "latency": settings.latency,
        "at_once": settings.at_once,
        "warm_up": settings.warm_up,
        "window": settings.window,
        "trials": settings.trials,
        "kilobytes_an_image": round(kilobytes, 1),
        "refused": refused,
        "openai": openai.__version__,
    }
    name, best = f"teacher, {1000 * settings.latency:.0f} ms, {settings.at_once} at once", 1000 / settings.capacity
    return [
        _row(name, "capacity of the server", ours, [best], facts),
        _row(name, f"plain openai client, semaphore of {settings.at_once}", ours, plain, facts),
        _row(name, "serial loop", ours, serial, facts),
    ]


async def _built(server: RunningServer, images: ImageSet, store: Path, settings: TeacherSettings) -> float:
    """Seconds for 1,000 recorded answers in steady state: the whole builder, journal and verdicts included."""
    endpoints = Endpoints([server.url], None)
    brief = Brief("endpoint", server.url, teacher_prompt(images.classes, FIVE_STAGE), PARAMS)
    plan = BuildPlan(images, FIVE_STAGE, candidates=64, enough=None)
    window = _Window(settings)
    work = asyncio.create_task(
        build(plan, EndpointTeacher(brief, endpoints), store, on_progress=lambda now: window.note(now.answers))
    )
    try:
        await asyncio.wait_for(window.over.wait(), settings.warm_up + settings.window + 60)
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        await endpoints.close()
    return window.seconds_for_1000


async def _plain_client(server: RunningServer, images: ImageSet, folder: Path, settings: TeacherSettings) -> float:
    """What a user writes in an evening: a task for every request, a semaphore, a line of JSON for every answer."""
    client = openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=5)
    prompt = teacher_prompt(images.classes, FIVE_STAGE)
    gate, window, answers = asyncio.Semaphore(settings.at_once), _Window(settings), 0

    async def ask(sample: Sample, number: int) -> None:
        nonlocal answers
        async with gate:
            data = base64.b64encode(sample.path.read_bytes()).decode()
            content = [
                {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}},
                {"type": "text", "text": prompt},
            ]
            messages: Any = [{"role": "user", "content": content}]
            completion = await client.chat.completions.create(
                model="plain", messages=messages, temperature=0.7, max_tokens=1024, seed=number
            )
        line = {"id": sample.id, "number": number, "text": completion.choices[0].message.content}
        file.write(json.dumps(line) + "\n")
        answers += 1
        window.note(answers)

    with (folder / "plain.jsonl").open("w") as file:
        requests = [(sample, number) for number in range(64) for sample in images.samples]
        tasks = [asyncio.create_task(ask(*request)) for request in requests]
        try:
            await asyncio.wait_for(window.over.wait(), settings.warm_up + settings.window + 60)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await client.close()
    return window.seconds_for_1000


def _serial_loop(server: RunningServer, images: ImageSet) -> float:
    """One request after the other; ten are enough to know."""
    client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=5)
    brief = Brief("endpoint", "serial", teacher_prompt(images.classes, FIVE_STAGE), PARAMS)
    count, began = 10, time.perf_counter()
    for sample in images.samples[:count]:
        url = "data:image/jpeg;base64," + base64.b64encode(sample.path.read_bytes()).decode()
        messages = brief.prompt_about(sample).with_urls([url])
        client.chat.completions.create(**chat_body(brief, messages, brief.key(sample.image_sha256, 0)))
    return 1000 * (time.perf_counter() - began) / count


class _Window:
    """The time between two counts of answers: after the warm-up, and `window` seconds later."""

    def __init__(self, settings: TeacherSettings) -> None:
        self._settings, self._began = settings, time.perf_counter()
        self._first: tuple[float, int] | None = None
        self.seconds_for_1000 = float("nan")
        self.over = asyncio.Event()

    def note(self, answers: int) -> None:
        now = time.perf_counter()
        if self._first is None and now - self._began >= self._settings.warm_up:
            self._first = now, answers
        elif self._first is not None and now - self._first[0] >= self._settings.window and not self.over.is_set():
            self.seconds_for_1000 = 1000 * (now - self._first[0]) / (answers - self._first[1])
            self.over.set()


def _noise_images(root: Path, count: int) -> ImageSet:
    """JPEGs of 224 pixels and about 20 kB, as PACS has them."""
    noise = np.random.default_rng(0)
    for number in range(count):
        path = root / ("photo", "sketch")[number % 2] / CLASSES[number % len(CLASSES)] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = noise.integers(0, 256, (56, 56, 3), dtype=np.uint8)
        Image.fromarray(small).resize((224, 224), Image.Resampling.BICUBIC).save(path, quality=85)
    return read_images(root)


# the writer, and memory -----------------------------------------------------------------------------------------------


class _Instant:
    """A teacher that answers at once, with the paper's kind of chain: what is left is the builder's own work."""

    batch, at_once = 1, 64

    def __init__(self) -> None:
        self.brief = Brief("endpoint", "instant", teacher_prompt(CLASSES, FIVE_STAGE), PARAMS)

    async def write(self, requests: Sequence[Request]) -> Sequence[Reply]:
        usage = Usage(prompt_tokens=400, completion_tokens=150, cost=0.0025)
        return [Reply(_CHAINS[request.sample.label], "stop", usage) for request in requests]


def _chain(label: str) -> str:
    prose = "The photo shows parts that belong together, and others that only stand near by. " * 2
    return render_chain(Chain(FIVE_STAGE, (prose, prose, prose, prose, label)))


_CHAINS = {label: _chain(label) for label in CLASSES}


def _writer(settings: TeacherSettings, on_progress: OnProgress) -> BenchRow:
    """Seconds for 1,000 candidates from the answer to the file, judged by every rule, their verdicts written."""
    seconds = []
    for trial in range(settings.trials):
        on_progress(f"writer, trial {trial + 1} of {settings.trials}")
        with tempfile.TemporaryDirectory() as folder:
            images, began = _unwritten_images(settings.records), time.perf_counter()
            build_chains(BuildPlan(images, FIVE_STAGE), _Instant(), Path(folder))
            seconds.append(1000 * (time.perf_counter() - began) / settings.records)
    facts = {"records": settings.records, "trials": settings.trials, "lines_a_record": 4}
    return _row("writer", f"{ASKED_RECORDS:.0f} records a second", seconds, [1000 / ASKED_RECORDS], facts)


def _memory(settings: TeacherSettings, on_progress: OnProgress) -> BenchRow:
    """Peak memory of a whole build and of its resumption, each in a process of its own; ratio ours over rival."""
    few, many = settings.few_images, settings.images
    peaks = {}
    for count in (few, many):
        on_progress(f"memory, {count:,} images")
        peaks[count] = in_a_fresh_process(_peak_of_a_build, count)
    return replace(
        _row(f"memory, {many:,} images", f"the same with {few:,} images", [peaks[many]], [peaks[few]], {}),
        unit="MB",
        ratio=peaks[many] / peaks[few],
        settings={"difference": round(peaks[many] - peaks[few], 1), "teacher": "answers at once, in the process"},
    )


def _peak_of_a_build(count: int) -> float:
    images = _unwritten_images(count)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):  # the second reads what the first has written
            build_chains(BuildPlan(images, FIVE_STAGE), _Instant(), Path(folder))
    return peak_megabytes()


def _unwritten_images(count: int) -> ImageSet:
    """Samples as a folder's reading gives them, without the files."""
    root, labels = Path("images"), {label: (label,) for label in CLASSES}

    def samples() -> Iterator[Sample]:
        for number in range(count):
            domain, label = ("photo", "sketch")[number % 2], CLASSES[number % len(CLASSES)]
            name = f"{domain}/{label}/image_{number:07}.jpg"
            yield Sample(name, root, domain, labels[label], content_hash(number))

    return ImageSet("many", root, ("photo", "sketch"), CLASSES, tuple(samples()))


def _row(name: str, rival: str, ours: list[float], theirs: list[float], settings: dict[str, Any]) -> BenchRow:
    return compare(name, rival, ours, theirs, settings, unit="seconds for 1,000 answers")


if __name__ == "__main__":
    sys.exit(run_bench(TeacherSettings, measure))
