"""A rule's verdict on a journal's candidate, for dataset building and self-labelling alike. This is where the
true label meets a chain, and nowhere earlier."""

from __future__ import annotations

from collections.abc import Sequence

from throughline.chains.formats import ChainFormat
from throughline.chains.parsing import parse_chain
from throughline.chains.records import Candidate, Verdict
from throughline.chains.rules import judge


def verdict_on(
    candidate: Candidate, rule: str, format: ChainFormat, classes: Sequence[str], true_label: str
) -> Verdict:
    """Parses the candidate's text and judges it by `rule`: the line for the journal."""
    parsed = parse_chain(candidate.text, format, classes, candidate.finish_reason)
    judged = judge(rule, parsed, classes, true_label)
    return Verdict(
        key=candidate.key,
        sample_id=candidate.sample_id,
        rule=rule,
        outcome=judged.outcome,
        accepted=judged.accepted,
    )
