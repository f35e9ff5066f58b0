"""A build's progress on stderr: done, accepted, cached, failed, rates, cost so far and projected, time left.

Redrawn in place in a terminal; a plain line every few seconds elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from throughline.cli.chains.summary import money
from throughline.cli.text import duration

if TYPE_CHECKING:
    from rich.table import Table

    from throughline.teaching.endpoint import Endpoints
    from throughline.teaching.recorder import Progress

SUSPICIOUS = 20
"""Answers without a single chain among them."""
SECONDS_BETWEEN_LINES, SECONDS_BETWEEN_DRAWINGS = 5.0, 0.25


@contextlib.contextmanager
def build_progress(endpoints: Sequence[Endpoints]) -> Iterator[Callable[[Progress], None]]:
    """Yields what `build` reports its progress to; `endpoints` may be filled later."""
    watch = _Watch(endpoints)
    if not sys.stderr.isatty():
        yield watch.line
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:

        def drawn(progress: Progress) -> None:
            facts = watch.facts(progress)
            if watch.due(SECONDS_BETWEEN_DRAWINGS):
                live.update(_table(facts), refresh=True)

        yield drawn


@contextlib.contextmanager
def heeding_ctrl_c(endpoints: Sequence[Endpoints]) -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed: then no further request is made, and those under way are waited for, as they
    may be billed. Pressed again, it ends the build at once. Within a running event loop; where there are no signals
    (Windows), Ctrl-C ends the build at once."""
    pressed = False
    loop = asyncio.get_running_loop()

    def press() -> None:
        nonlocal pressed
        pressed = True
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
        under_way = sum(group.in_flight for group in endpoints)
        waiting = f"waiting for {under_way:,} answers that may be billed" if under_way else "finishing this batch"
        print(f"interrupted: {waiting}; Ctrl-C again ends at once", file=sys.stderr, flush=True)

    before = signal.getsignal(signal.SIGINT)
    try:
        if before is not signal.SIG_IGN:
            with contextlib.suppress(NotImplementedError, ValueError):
                loop.add_signal_handler(signal.SIGINT, press)
        yield lambda: pressed
    finally:
        if not pressed and before is not signal.SIG_IGN:
            with contextlib.suppress(NotImplementedError, ValueError):
                loop.remove_signal_handler(signal.SIGINT)
                signal.signal(signal.SIGINT, before)


class _Watch:
    def __init__(self, endpoints: Sequence[Endpoints]) -> None:
        self.endpoints = endpoints
        self.began = self.last = time.monotonic()
        self.first: Progress | None = None
        self.asking: tuple[float, int] | None = None
        """When the first answer came, and how many images were done by then."""

    def due(self, seconds: float) -> bool:
        now = time.monotonic()
        if now - self.last < seconds:
            return False
        self.last = now
        return True

    def line(self, progress: Progress) -> None:
        facts = self.facts(progress)
        if self.due(SECONDS_BETWEEN_LINES):
            print("; ".join(f"{name} {value}" for name, value in facts.items()), file=sys.stderr, flush=True)

    def facts(self, progress: Progress) -> dict[str, str]:
        """What is shown, in its order. The first call comes before any work."""
        first = self.first = self.first or replace(progress)
        seconds = max(time.monotonic() - self.began, 1e-3)
        tokens = progress.prompt_tokens + progress.completion_tokens - first.prompt_tokens - first.completion_tokens
        facts = {
            "images": f"{progress.done:,} of {progress.images:,}",
            "accepted": f"{progress.accepted:,}",
            "answers from the store": f"{progress.cached:,}",
            "failed": f"{progress.failed:,}",
            "answers a minute": f"{60 * progress.answers / seconds:,.0f}",
            "tokens a minute": f"{60 * tokens / seconds:,.0f}",
        }
        if self.endpoints:
            if trouble := "; ".join(group.trouble for group in self.endpoints if group.trouble):
                facts["waiting:"] = trouble
            facts["requests a minute"] = (
                f"{60 * sum(group.traffic.requests for group in self.endpoints) / seconds:,.0f}"
            )
            facts["under way"] = " + ".join(f"{group.in_flight} of {group.limit}" for group in self.endpoints)
            facts["refused"] = f"{sum(group.traffic.refused for group in self.endpoints):,}"
            facts["asked again"] = f"{sum(group.traffic.retried for group in self.endpoints):,}"
        if progress.answers >= SUSPICIOUS and not progress.by_rule["format"]:
            found = ", ".join(f"{name} {count:,}" for name, count in progress.outcomes.items())
            facts["beware:"] = f"no answer so far is well-formed ({found}); is the prompt right, the length enough?"
        if progress.cost:
            facts["cost"] = money(progress.cost)
        if progress.cost and progress.done:
            facts["cost in the end, about"] = money(progress.cost * progress.images / progress.done)
        if self.asking is None and progress.answers:  # images that the store serves are done in no time
            self.asking = time.monotonic(), progress.done
        if self.asking is not None and self.asking[1] < progress.done < progress.images:
            began, done = self.asking
            pace = (time.monotonic() - began) / (progress.done - done)
            facts["time left, about"] = duration(pace * (progress.images - progress.done))
        return facts


def _table(facts: dict[str, str]) -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(name, value)
    return table
