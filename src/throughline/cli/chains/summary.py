"""What `chains build` says at its end, and what it says instead of building: the estimate of a dry run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from throughline.teaching.estimate import Estimate
    from throughline.teaching.plan import BuildPlan
    from throughline.teaching.recorder import Progress

REASONS_SHOWN = 3


def money(dollars: float | None) -> str:
    """`$1.23`, with more digits below ten cents; `unknown` for None."""
    if dollars is None:
        return "unknown"
    return f"${dollars:,.2f}" if dollars >= 0.1 or dollars == 0 else f"${dollars:.4f}"


def print_result(progress: Progress, plan: BuildPlan, store: Path, as_json: bool) -> None:
    """What the store holds now, and how this build went; the acceptance of every rule, whichever decides."""
    if as_json:
        print(json.dumps(asdict(progress), indent=2))
        return
    print(_headline(progress, plan))
    for line in _details(progress):
        print(f"  {line}")
    if progress.problems:
        print(f"  {progress.problems:,} lines of the store cannot be read: see `throughline chains check {store}`")
    print(f"look at them: throughline chains view {store} {store.name or 'chains'}.html")


def _headline(progress: Progress, plan: BuildPlan) -> str:
    some = "an accepted chain" if plan.enough in (1, None) else f"{plan.enough} accepted chains"
    parts = [f"{progress.accepted:,} of {progress.images:,} images have {some}"]
    without = progress.done - progress.accepted - progress.failed
    if without:
        parts.append(f"{without:,} have not, after {plan.candidates} candidates")
    if progress.failed:
        parts.append(f"{progress.failed:,} failed, and the next build asks again")
    if progress.done < progress.images:
        parts.append(f"{progress.images - progress.done:,} are still open")
    return "; ".join(parts)


def _details(progress: Progress) -> list[str]:
    lines = [
        f"{count:,} times: {reason}"
        for reason, count in sorted(progress.reasons.items(), key=lambda item: -item[1])[:REASONS_SHOWN]
    ]
    if progress.answers:
        shares = (f"{rule} {100 * n / progress.answers:.1f} %" for rule, n in progress.by_rule.items())
        lines.append(f"{progress.answers:,} new answers, accepted by rule: {', '.join(shares)}")
        outcomes = sorted(progress.outcomes.items(), key=lambda item: -item[1])
        named = (f"{name.replace('rejected_class', 'another class')} {count:,}" for name, count in outcomes)
        lines.append(f"outcomes: {', '.join(named)}")
    if progress.judged:
        agreed, failed = progress.judge_agreed, progress.judge_failed
        lines.append(f"the judge agreed with {agreed:,} of {progress.judged:,}, and failed on {failed:,}")
    if progress.cached:
        lines.append(f"{progress.cached:,} answers were in the store")
    if progress.prompt_tokens:
        lines.append(f"tokens: {progress.prompt_tokens:,} sent, {progress.completion_tokens:,} written, in all")
    if progress.cost:
        lines.append(f"cost: {money(progress.spent)} now, {money(progress.cost)} in all")
    if progress.lost:
        lines.append(f"{progress.lost:,} requests in all were cut off before their answer came, and may have been paid")
    return lines


def print_estimate(estimate: Estimate, plan: BuildPlan, model: str | None, as_json: bool) -> None:
    """Requests, tokens and cost; `model` is None where nothing is paid."""
    costs = [estimate.cost(number) for number in estimate.requests]
    expected = estimate.expected_requests
    if as_json:
        values = {name: value for name, value in vars(estimate).items() if name != "price"}
        values |= {"cost": costs, "expected_cost": None if expected is None else estimate.cost(expected)}
        print(json.dumps(values, indent=2))
        return
    few, many = estimate.requests
    print(f"images that want chains: {estimate.images:,} of {len(plan.samples):,}")
    likely = expected is not None and few < many
    print(
        "requests: " + _range(f"{few:,}", f"{many:,}") + (f", about {expected:,} as accepted so far" if likely else "")
    )
    if model is None:
        return
    rule = "a rule of thumb, images as GPT-4o counts them; --limit 40 measures it"
    basis = f"mean of {estimate.measured:,} answers in the store" if estimate.measured else rule
    print(f"tokens: {estimate.prompt_tokens:.0f} a request, {estimate.completion_tokens:.0f} an answer ({basis})")
    if estimate.price is None:
        print(f"cost: the price of {model} is not known; give one with --prices FILE")
        return
    about = f", about {money(estimate.cost(expected))}" if likely and expected is not None else ""
    print("cost: " + _range(money(costs[0]), money(costs[1])) + about)


def _range(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
