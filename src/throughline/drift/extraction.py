"""A concept graph out of the accepted chains of a store: a teacher lists the relations that each chain states, and an
edge is what enough chains agree on. Called by `throughline drift graph`.

After arXiv 2505.13081 (section 2.3, App. C.2: association, irrelevance and exclusion out of reports). The prompt and
the rule by which statements become edges are ours.
"""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.names import words_of
from throughline.chains.store import ChainStore
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_atomically
from throughline.drift.teacher import TextTeacher

PROMPT = """Somebody looked at a picture, reasoned about it, and named its class:

{chain}

Which relations between classes and visible attributes does this text state? Answer with a JSON list and nothing else:

[{"class": "...", "attribute": "...", "category": "...", "relation": "+"}]

class: one of {classes}
attribute: what is seen or missing, as a noun in lower case, in the singular and without an article
category: one word for the kind of attribute
relation: "+" where the text says that the class has the attribute, "-" where it says that the class has it not, "0" \
where it says that the attribute does not matter for the class"""

_RELATIONS = ("+", "-", "0")


class _Statement(BaseModel):
    label: str = Field(alias="class")
    attribute: str = Field(min_length=1)
    relation: Literal["+", "-", "0"]
    category: str = "attributes"


_STATEMENTS = TypeAdapter(list[_Statement])


@dataclass
class Evidence:
    """How many chains state each relation of an edge; a chain counts once for each."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By class, attribute, and relation: `+`, `-` or `0`."""
    categories: dict[str, Counter[str]] = field(default_factory=dict)
    """Of each attribute what it was said to be."""
    read: int = 0
    """Answers that are lists of relations."""
    unread: int = 0
    """Answers that are not."""
    unanswered: int = 0
    strangers: Counter[str] = field(default_factory=Counter)
    """Classes that there are not, by how often they were named."""

    @property
    def edges(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """By class and attribute how many chains say `+`, `-` and `0`; sorted."""
        named = sorted({(label, attribute) for label, attribute, _ in self.counts})
        return {edge: tuple(self.counts[*edge, relation] for relation in _RELATIONS) for edge in named}  # type: ignore[misc]


def accepted_texts(store: ChainStore) -> dict[str, str]:
    """The chains that the rule `correct` and a judge, if there was one, accepted, by name: the id of the image and a
    number. ThroughlineError where there is none."""
    verdicts = store.verdicts("correct")
    rows = verdicts.index[verdicts["accepted"]].difference(store.vetoed).intersection(store.answers.index)
    candidates = list(store.read(sorted(rows)))
    if not candidates:
        raise ThroughlineError("the store has no accepted chain", do="build some with `throughline chains build`")
    return {f"{line.sample_id} {line.round}.{line.candidate} {line.key[:8]}": line.text for line in candidates}


def gather_evidence(texts: Mapping[str, str], classes: Sequence[str], teacher: TextTeacher) -> Evidence:
    """Asks the teacher about each text and counts what it lists."""
    template = PROMPT.replace("{classes}", ", ".join(classes))
    prompts = {name: template.replace("{chain}", text) for name, text in texts.items()}
    answers = teacher.ask(template, prompts, classes, FIVE_STAGE)
    evidence, known = Evidence(unanswered=len(texts) - len(answers)), {_spelling(name): name for name in classes}
    for name in sorted(answers):
        statements = _statements_in(answers[name])
        evidence.read += statements is not None
        evidence.unread += statements is None
        stated = set()
        for statement in statements or ():
            label, attribute = known.get(_spelling(statement.label)), _spelling(statement.attribute)
            if label is None:
                evidence.strangers[statement.label] += 1
            elif attribute:
                stated.add((label, attribute, statement.relation))
                category = _spelling(statement.category) or "attributes"
                evidence.categories.setdefault(attribute, Counter())[category] += 1
        evidence.counts.update(stated)
    return evidence


def _spelling(name: str) -> str:
    return " ".join(words_of(name))


def _statements_in(answer: str) -> Iterable[_Statement] | None:
    found = re.search(r"\[.*\]", answer, re.DOTALL)
    try:
        return _STATEMENTS.validate_json(found[0] if found else "")
    except ValidationError:
        return None


def write_evidence(path: Path, evidence: Evidence, least: int, agreement: float) -> dict[str, int]:
    """The graph as a CSV table, an edge with its counts on each line; gives how many edges are set, and how many are
    left 0 for what reason.

    An edge is set where at least `least` chains state the relation, and these are at least the share `agreement` of all
    chains that state any about it.
    """
    outcomes: Counter[str] = Counter()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("class", "attribute", "sign", "category", "required", "excluded", "free"))
    for (label, attribute), counts in evidence.edges.items():
        most = max(counts)
        sign = (1, -1, 0)[counts.index(most)]
        fault = "with too few chains" if most < least else "contradictory" if most < agreement * sum(counts) else ""
        outcomes[fault or ("set" if sign else "free")] += 1
        category = min(evidence.categories[attribute].items(), key=lambda item: (-item[1], item[0]))[0]
        table.writerow((label, attribute, 0 if fault else sign, category, *counts))
    write_atomically(path, text.getvalue())
    return dict(outcomes)
