"""Verdict rules: what a parsed chain must satisfy to be kept. Rules are data (which checks they make), applied to
records whenever wanted, so that several verdicts about one candidate can stand side by side in a journal.

A verdict is two things. `outcome` is from the project's closed vocabulary and says whether the chain is usable at
all; `accepted` says whether the rule keeps it. They differ in one case only: under `correct`, a well-formed,
consistent chain that concludes another class has outcome ok and accepted false. Called by dataset building and by
the self-labelling rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from throughline.chains.answers import stated_classes
from throughline.chains.mentions import classes_of, find_mentions
from throughline.chains.names import Aliases
from throughline.chains.outcomes import Outcome
from throughline.chains.parsing import ParsedChain
from throughline.core.errors import ThroughlineError

VERSION = 2
"""Raised when a rule, or the parser behind it, judges a text otherwise than before: recorded verdicts of another
version are made anew."""


@dataclass(frozen=True)
class Rule:
    """The checks of one rule, beyond the chain being of its format."""

    needs_conclusion: bool
    """The answer stage names exactly one class, and REFLECTION does not overturn it."""
    needs_label: bool
    """The class concluded is the image's own."""


RULES = {
    "format": Rule(needs_conclusion=False, needs_label=False),
    "consistent": Rule(needs_conclusion=True, needs_label=False),
    "correct": Rule(needs_conclusion=True, needs_label=True),
}
"""By name."""

REFLECTION = "REFLECTION"
"""The self-check stage of `five_stage`; formats without it have nothing to overturn."""


@dataclass(frozen=True)
class Judgement:
    """What a rule makes of a chain; see the module's docstring for how `outcome` and `accepted` differ."""

    outcome: Outcome
    accepted: bool
    detail: str = ""


def judge(
    rule: str,
    parsed: ParsedChain,
    classes: Sequence[str],
    true_label: str | None = None,
    aliases: Aliases | None = None,
) -> Judgement:
    """Applies the rule called `rule` to a parsed chain of the class list `classes`.

    `true_label` is joined from the image folder by the caller, at this moment and not before. ThroughlineError for
    an unknown rule, and for a rule that needs a label without one or with one that is not in the list.
    """
    if rule not in RULES:
        raise ThroughlineError("unknown verdict rule", repr(rule), f"name one of {', '.join(RULES)}")
    checks = RULES[rule]
    if checks.needs_label and true_label not in classes:
        raise ThroughlineError(f"rule {rule!r} needs the image's class", repr(true_label), "give a class of the list")
    if parsed.chain is None:
        return Judgement(parsed.outcome, False, parsed.detail)
    if not checks.needs_conclusion:
        return Judgement(Outcome.OK, True)
    if parsed.label is None:
        return Judgement(parsed.outcome, False, parsed.detail)
    fault = _overturned(parsed, classes, aliases)
    if fault is not None:
        return Judgement(fault, False, f"{REFLECTION} speaks against {parsed.label!r}")
    if checks.needs_label and parsed.label != true_label:
        return Judgement(Outcome.OK, False, f"concludes {parsed.label!r}")
    return Judgement(Outcome.OK, True)


def _overturned(parsed: ParsedChain, classes: Sequence[str], aliases: Aliases | None) -> Outcome | None:
    """How REFLECTION contradicts the conclusion, if it does: by denying it (negated) or by stating another class as the
    answer (ambiguous). Weighing other classes is what the stage is for."""
    chain = parsed.chain
    if chain is None or parsed.label is None or REFLECTION not in chain.format.stages:
        return None
    mentions = find_mentions(chain.stage(REFLECTION), classes, aliases)
    if parsed.label in classes_of(mentions.asserted):
        return None
    if parsed.label in classes_of(mentions.denied):
        return Outcome.NEGATED
    return Outcome.AMBIGUOUS if stated_classes(mentions) else None
