"""A concept graph out of the accepted chains of a store: a teacher lists the relations that each chain states, and an
edge is what enough chains agree on. Called by `throughline drift graph`.

After arXiv 2505.13081 (section 2.3, App. C.2: association, irrelevance and exclusion out of reports). The prompt and
the rule by which statements become edges are ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.names import words_of
from throughline.chains.store import ChainStore
from throughline.core.errors import ThroughlineError
from throughline.drift.teacher import TextTeacher

if TYPE_CHECKING:
    import pandas as pd

PROMPT = """Somebody looked at a picture, reasoned about it, and named its class:

{chain}

Which relations between classes and visible attributes does this text state? Answer with a JSON list and nothing else:

[{"class": "...", "attribute": "...", "category": "...", "relation": "+"}]

class: one of {classes}
attribute: what is seen or missing, as a noun in lower case, in the singular and without an article
category: one word for the kind of attribute
relation: "+" where the text says that the class has the attribute, "-" where it says that the class has it not, "0" \
where it says that the attribute does not matter for the class"""

RELATIONS = {"required": "+", "excluded": "-", "free": "0"}
_LIST = re.compile(r"\[.*\]", re.DOTALL)


class _Statement(BaseModel):
    label: str = Field(alias="class")
    attribute: str = Field(min_length=1)
    relation: Literal["+", "-", "0"]
    category: str = "attributes"


_STATEMENTS = TypeAdapter(list[_Statement])


@dataclass(frozen=True)
class Evidence:
    """What the teacher's answers list: `relations` has a row for each, with the columns `chain`, `class`, `attribute`,
    `relation` and `category`, and those of unknown classes apart."""

    relations: pd.DataFrame
    of_unknown_classes: pd.DataFrame
    read: int
    """Answers that are lists of relations."""
    unread: int
    """Answers that are not."""


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
    """Asks the teacher about each text. ThroughlineError where no answer is a list of relations."""
    import pandas as pd

    template = PROMPT.replace("{classes}", ", ".join(classes))
    prompts = {name: template.replace("{chain}", text) for name, text in texts.items()}
    answers = teacher.ask(template, prompts, classes, FIVE_STAGE)
    known, rows, unread = {_spelling(name): name for name in classes}, list[tuple[str, ...]](), 0
    for chain, answer in sorted(answers.items()):
        try:
            stated = _STATEMENTS.validate_json("".join(_LIST.findall(answer)))
        except ValidationError:
            unread += 1
            continue
        for own in stated:
            label, category = known.get(_spelling(own.label), own.label), _spelling(own.category) or "attributes"
            rows.append((chain, label, _spelling(own.attribute), own.relation, category))
    if unread == len(answers):
        raise ThroughlineError("no answer is a list of relations", teacher.store, "look at them, or ask another model")
    relations = pd.DataFrame(rows, columns=["chain", "class", "attribute", "relation", "category"])
    is_known = relations["class"].isin(classes)
    return Evidence(relations[is_known], relations[~is_known], len(answers) - unread, unread)


def _spelling(name: str) -> str:
    return " ".join(words_of(name))


def weigh_evidence(relations: pd.DataFrame, least: int, agreement: float) -> pd.DataFrame:
    """A row for each edge: how many chains say that it is `required`, `excluded` and `free`, its `sign` and `category`,
    and as `outcome` whether it is set, or why it is left 0.

    An edge is set where at least `least` chains state the relation, and these are at least the share `agreement` of all
    chains that state any about it.
    """
    relations = relations[relations["attribute"] != ""]
    stated = relations.drop_duplicates(["chain", "class", "attribute", "relation"])
    stated = stated.assign(**{name: stated["relation"] == sign for name, sign in RELATIONS.items()})
    edges = stated.groupby(["class", "attribute"], as_index=False)[[*RELATIONS]].sum()
    counts = edges[[*RELATIONS]].to_numpy(np.int64)
    most, sign = counts.max(axis=1), np.array([1, -1, 0])[counts.argmax(axis=1)]
    faults = {"with too few chains": most < least, "contradictory": most < agreement * counts.sum(axis=1)}
    outcome = np.select([*faults.values(), sign == 0], [*faults, "free"], "set")
    category = relations.groupby("attribute")["category"].agg(lambda names: names.mode()[0])
    edges.insert(2, "sign", np.where(outcome == "set", sign, 0))
    edges.insert(3, "category", edges["attribute"].map(category))
    return edges.assign(outcome=outcome)
