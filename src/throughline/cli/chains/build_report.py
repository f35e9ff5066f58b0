"""What `chains build` says: its progress on stderr, its result, and the estimate of a dry run instead of either.

Progress is redrawn in place in a terminal; elsewhere it is a plain line every few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from throughline.cli.progress import Pace, say
from throughline.cli.text import duration, json_text

if TYPE_CHECKING:
    from throughline.teaching.endpoint import Endpoints
    from throughline.teaching.estimate import Estimate
    from throughline.teaching.plan import BuildPlan
    from throughline.teaching.recorder import Progress

SUSPICIOUS = 20
"""Answers without a single chain among them."""
SECONDS_BETWEEN_DRAWINGS = 0.25


@contextlib.contextmanager
def build_progress(endpoints: Sequence[Endpoints]) -> Iterator[Callable[[Progress], None]]:
    """Yields what `build` reports its progress to; `endpoints` may be filled later."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    facts_of, terminal = _Facts(endpoints), sys.stderr.isatty()
    live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
    pace = Pace(SECONDS_BETWEEN_DRAWINGS) if terminal else Pace()
    with live if terminal else contextlib.nullcontext():

        def report_progress(progress: Progress) -> None:
            facts = facts_of(progress)
            if not pace.is_due():
                return
            if not terminal:
                say("; ".join(f"{name} {value}" for name, value in facts.items()))
                return
            table = Table.grid(padding=(0, 2))
            for fact in facts.items():
                table.add_row(*fact)
            live.update(table, refresh=True)

        yield report_progress


@contextlib.contextmanager
def heeding_ctrl_c(endpoints: Sequence[Endpoints]) -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C was pressed: then no further request is made, and those under way are waited for, as they
    may be billed. Pressed again, it ends the build at once. Within a running event loop; where there are no signals
    (Windows), Ctrl-C ends the build at once."""
    pressed = False
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGINT)

    def restore() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)

    def press() -> None:
        nonlocal pressed
        pressed = True
        restore()
        under_way = sum(group.in_flight for group in endpoints)
        waiting = f"waiting for {under_way:,} answers that may cost money" if under_way else "finishing this batch"
        say(f"interrupted: {waiting}; Ctrl-C again ends at once")

    if before is signal.SIG_IGN or sys.platform == "win32":
        yield lambda: False
        return
    loop.add_signal_handler(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        restore()


class _Facts:
    """What is shown, by name, in its order. The first call comes before any work."""

    def __init__(self, endpoints: Sequence[Endpoints]) -> None:
        self.endpoints = endpoints
        self.began = time.monotonic()
        self.first: Progress | None = None
        self.first_answer: tuple[float, int] | None = None
        """When the first answer came, and how many images were done by then."""

    def __call__(self, progress: Progress) -> dict[str, str]:
        first = self.first = self.first or replace(progress)
        minutes = max(time.monotonic() - self.began, 1e-3) / 60
        tokens = progress.prompt_tokens + progress.completion_tokens - first.prompt_tokens - first.completion_tokens
        well_formed = progress.answers < SUSPICIOUS or progress.by_rule["format"]
        outcomes = ", ".join(f"{name} {count:,}" for name, count in progress.outcomes.items())
        beware = f"no answer so far is well-formed ({outcomes}): check the prompt and the length limit"
        in_the_end = progress.cost * progress.images / max(progress.done, 1)
        facts = {
            "images": f"{progress.done:,} of {progress.images:,}",
            "accepted": f"{progress.accepted:,}",
            "answers from the store": f"{progress.cached:,}",
            "failed": f"{progress.failed:,}",
            "answers per minute": f"{progress.answers / minutes:,.0f}",
            "tokens per minute": f"{tokens / minutes:,.0f}",
            **(self._traffic(minutes) if self.endpoints else {}),
            "warning:": "" if well_formed else beware,
            "cost": money(progress.cost) if progress.cost else "",
            "total cost, about": money(in_the_end) if progress.cost and progress.done else "",
            "time left, about": self._time_left(progress),
        }
        return {name: fact for name, fact in facts.items() if fact}

    def _time_left(self, progress: Progress) -> str:
        if self.first_answer is None and progress.answers:  # images that the store serves are done in no time
            self.first_answer = time.monotonic(), progress.done
        if self.first_answer is None or not self.first_answer[1] < progress.done < progress.images:
            return ""
        began, done = self.first_answer
        return duration((time.monotonic() - began) / (progress.done - done) * (progress.images - progress.done))

    def _traffic(self, minutes: float) -> dict[str, str]:
        troubles = "; ".join(group.trouble for group in self.endpoints if group.trouble)
        return {
            "waiting:": troubles,
            "requests per minute": f"{sum(group.requests for group in self.endpoints) / minutes:,.0f}",
            "requests at once": " + ".join(f"{group.in_flight} of {group.limit}" for group in self.endpoints),
            "refused": f"{sum(group.refused for group in self.endpoints):,}",
            "asked again": f"{sum(group.retried for group in self.endpoints):,}",
        }


# at the end, and instead of a build ---------------------------------------------------------------------------------

REASONS_SHOWN = 3
THINKING_ALONE = "{:,} answers had only thinking: --read-thinking looks for a chain in `reasoning_content`"


def money(dollars: float | None) -> str:
    """`$1.23`, with more digits below ten cents; `unknown` for None."""
    if dollars is None:
        return "unknown"
    return f"${dollars:,.2f}" if dollars >= 0.1 or dollars == 0 else f"${dollars:.4f}"


def print_result(progress: Progress, plan: BuildPlan, store: Path, as_json: bool) -> None:
    """What the store holds now, and how this build went; the acceptance of every rule, whichever decides."""
    if as_json:
        print(json_text(asdict(progress)))
        return
    print(_headline(progress, plan))
    for line in _details(progress):
        print(f"  {line}")
    if progress.problems:
        print(f"  {progress.problems:,} lines of the store cannot be read: see `throughline chains check {store}`")
    print(f"look at them: throughline chains view {store} {store.name or 'chains'}.html")


def _headline(progress: Progress, plan: BuildPlan) -> str:
    some = "an accepted chain" if plan.enough in (1, None) else f"{plan.enough} accepted chains"
    without = progress.done - progress.accepted - progress.failed
    still_open = progress.images - progress.done
    parts = [
        (True, f"{progress.accepted:,} of {progress.images:,} images have {some}"),
        (without, f"{without:,} have none after {plan.candidates} candidates"),
        (progress.failed, f"{progress.failed:,} failed, and the next build asks again"),
        (still_open, f"{still_open:,} are not done yet"),
    ]
    return "; ".join(text for shown, text in parts if shown)


def _details(progress: Progress) -> list[str]:
    answers, agreed, failed = progress.answers, progress.judge_agreed, progress.judge_failed
    thinking = progress.only_thinking
    sent, written, lost = progress.prompt_tokens, progress.completion_tokens, progress.lost
    rules = ", ".join(f"{rule} {100 * count / max(answers, 1):.1f} %" for rule, count in progress.by_rule.items())
    outcomes = ", ".join(f"{name} {count:,}" for name, count in Counter(progress.outcomes).most_common())
    lines = [
        (answers, f"{answers:,} new answers, accepted by rule: {rules}"),
        (answers, f"outcomes: {outcomes.replace('rejected_class', 'another class')}"),
        (progress.judged, f"the judge agreed with {agreed:,} of {progress.judged:,} chains and failed on {failed:,}"),
        (thinking, THINKING_ALONE.format(thinking)),
        (progress.cached, f"{progress.cached:,} answers were already in the store"),
        (sent, f"tokens in total: {sent:,} sent, {written:,} written"),
        (progress.cost, f"cost: {money(progress.spent)} now, {money(progress.cost)} in total"),
        (lost, f"{lost:,} requests in total were cut off before their answer came, and may have cost money"),
    ]
    looks = [f"{name}, such as: {text}" for name, text in progress.examples.items() if progress.failed_trial]
    reasons = [f"{count:,} times: {reason}" for reason, count in Counter(progress.reasons).most_common(REASONS_SHOWN)]
    return reasons + looks + [text for shown, text in lines if shown]


def print_estimate(estimate: Estimate, plan: BuildPlan, model: str | None, as_json: bool) -> None:
    """Requests, tokens and cost; `model` is None where nothing is paid."""
    costs = [estimate.cost(number) for number in estimate.requests]
    expected = estimate.expected_requests
    if as_json:
        values = {name: value for name, value in vars(estimate).items() if name != "price"}
        values |= {"cost": costs, "expected_cost": None if expected is None else estimate.cost(expected)}
        print(json_text(values))
        return
    few, many = estimate.requests
    likely = expected is not None and few < many
    print(f"images that need chains: {estimate.images:,} of {len(plan.samples):,}")
    print("requests: " + _span(f"{few:,}", f"{many:,}", f"about {expected:,} as accepted so far" if likely else None))
    if model is None:
        return
    rule = "a rule of thumb, with images counted as GPT-4o does; --limit 40 measures it"
    basis = f"mean of {estimate.measured:,} answers in the store" if estimate.measured else rule
    print(f"tokens: {estimate.prompt_tokens:.0f} per request, {estimate.completion_tokens:.0f} per answer ({basis})")
    if estimate.price is None:
        print(f"cost: the price of {model} is not known; give one with --prices FILE")
    else:
        about = f"about {money(estimate.cost(expected))}" if likely and expected is not None else None
        print("cost: " + _span(money(costs[0]), money(costs[1]), about))


def _span(low: str, high: str, about: str | None) -> str:
    return (low if low == high else f"{low} to {high}") + (f", {about}" if about else "")
