"""A rule's verdict on a journal's candidate, for dataset building and self-labelling alike. This is where the
true label meets a chain, and nowhere earlier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from throughline.chains.formats import ChainFormat
from throughline.chains.parsing import parse_chain
from throughline.chains.records import Candidate, Verdict
from throughline.chains.rules import judge


def verdict_on(
    candidate: Candidate, rule: str, format: ChainFormat, classes: Sequence[str], true_label: str
) -> Verdict:
    """Parses the candidate's text and judges it by `rule`: the line for the journal."""
    return verdicts_on(candidate, (rule,), format, classes, true_label)[0]


def verdicts_on(
    candidate: Candidate, rules: Iterable[str], format: ChainFormat, classes: Sequence[str], true_label: str
) -> tuple[Verdict, ...]:
    """The verdict of each rule, in order; the text is parsed once."""
    parsed = parse_chain(candidate.text, format, classes, candidate.finish_reason)
    judged = [(rule, judge(rule, parsed, classes, true_label)) for rule in rules]
    return tuple(
        Verdict(
            key=candidate.key,
            sample_id=candidate.sample_id,
            rule=rule,
            outcome=judgement.outcome,
            accepted=judgement.accepted,
        )
        for rule, judgement in judged
    )
