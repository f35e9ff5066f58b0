"""Reads and writes concept graphs: YAML, or a CSV table of edges. Every fault names the line where it stands.

    categories: {parts: [handle, basin], details: [steam]}    # may be left out; a member may be a category
    synonyms: {handle: [grip, ear]}                           # may be left out
    classes:
      cup: {handle: 1, basin: 1, steam: 0}
      bowl: {handle: -1, basin: 1}

An edge is 1 (required), -1 (excluded) or 0 (free, as what is left out). An edge to a category is one to all its
attributes. A CSV table has the columns `class`, `attribute` and `sign`, and may have `category` and `synonyms`, with
`|` between synonyms.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import yaml

from throughline.chains.concepts import ConceptGraph
from throughline.chains.names import words_of
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_atomically
from throughline.core.nearest import did_you_mean
from throughline.domains.tables import read_text

PARTS = ("categories", "synonyms", "classes")


@dataclass(frozen=True)
class _Fact:
    """Of a category a member, of an attribute a synonym, of a class an attribute with its sign."""

    subject: str
    name: str
    line: int
    sign: int = 0


@dataclass
class _Draft:
    """What a file says, not checked yet."""

    path: Path
    members: list[_Fact] = field(default_factory=list)
    synonyms: list[_Fact] = field(default_factory=list)
    edges: list[_Fact] = field(default_factory=list)

    def fault(self, what: str, line: int, remedy: str | None = None) -> ThroughlineError:
        """An error at a line of the file."""
        return ThroughlineError(what, f"{self.path}, line {line}", remedy)


def read_graph(path: Path) -> ConceptGraph:
    """The graph in a YAML or CSV file.

    Raises a ThroughlineError, with its line, for what is no graph: an unknown attribute, a sign other than -1, 0 and 1,
    two edges that contradict each other, a name for two attributes, categories in a circle, and a class that no
    attribute tells from any other.
    """
    text, _ = read_text(path)
    return _checked(_from_csv(path, text) if path.suffix.lower() == ".csv" else _from_yaml(path, text))


def write_graph(path: Path, graph: ConceptGraph) -> None:
    """As YAML; `read_graph` reads it back."""
    parts = {
        "categories": {name: list(members) for name, members in graph.categories.items()},
        "synonyms": {name: list(others) for name, others in graph.synonyms.items()},
        "classes": {label: dict(row) for label, row in graph.signs.items()},
    }
    parts = {name: content for name, content in parts.items() if content}
    write_atomically(path, yaml.safe_dump(parts, sort_keys=False, allow_unicode=True, default_flow_style=None))


def _from_yaml(path: Path, text: str) -> _Draft:
    draft = _Draft(path)
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise draft.fault(f"the concept graph is not valid YAML ({error.problem})", line) from None
    for part, content in _pairs(draft, root):
        if part.value not in PARTS:
            remedy = did_you_mean(part.value, PARTS, "the keys here")
            raise draft.fault(f"unknown key {part.value}", _line(part), remedy)
        for subject, value in _pairs(draft, content):
            if part.value == "classes":
                draft.edges += [
                    _edge(draft, subject.value, n.value, v.value, _line(n)) for n, v in _pairs(draft, value)
                ]
                continue
            named = draft.members if part.value == "categories" else draft.synonyms
            if not isinstance(value, yaml.SequenceNode):
                raise draft.fault(f"{subject.value} needs a list of names", _line(subject), "write [a, b]")
            named += [_Fact(subject.value, str(item.value), _line(item)) for item in value.value]
    return draft


def _pairs(draft: _Draft, node: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The keys of a mapping with their values."""
    if not isinstance(node, yaml.MappingNode):
        line = 1 if node is None else _line(node)
        raise draft.fault("a mapping of names is expected here", line, f"its parts are {', '.join(PARTS)}")
    seen = set[str]()
    for key, value in node.value:
        if key.value in seen:
            raise draft.fault(f"{key.value} is given twice", _line(key), "keep one of them")
        seen.add(key.value)
        yield key, value


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _from_csv(path: Path, text: str) -> _Draft:
    draft = _Draft(path)
    reader = csv.DictReader(text.splitlines())
    if missing := {"class", "attribute", "sign"} - set(reader.fieldnames or ()):
        raise draft.fault(f"the table has no column {sorted(missing)[0]}", 1, "its columns are class, attribute, sign")
    for row in reader:
        line, attribute = reader.line_num, (row["attribute"] or "").strip()
        draft.edges.append(_edge(draft, (row["class"] or "").strip(), attribute, (row["sign"] or "").strip(), line))
        if category := (row.get("category") or "").strip():
            draft.members.append(_Fact(category, attribute, line))
        names = (row.get("synonyms") or "").split("|")
        draft.synonyms += [_Fact(attribute, name.strip(), line) for name in names if name.strip()]
    return draft


def _edge(draft: _Draft, label: str, attribute: str, sign: object, line: int) -> _Fact:
    if sign not in {"-1", "0", "1", "+1"}:
        raise draft.fault(f"the edge from {label} to {attribute} is {sign}", line, "write 1, -1, or 0")
    return _Fact(label, attribute, line, int(str(sign)))


def _checked(draft: _Draft) -> ConceptGraph:
    members = _categories(draft)
    own = dict.fromkeys(fact.name for fact in draft.members if fact.name not in members)
    attributes = list(own or dict.fromkeys(fact.name for fact in draft.edges))
    synonyms = _synonyms(draft, attributes)
    signs: dict[str, dict[str, int]] = {}
    lines: dict[str, int] = {}
    for edge in draft.edges:
        row = signs.setdefault(edge.subject, {})
        lines.setdefault(edge.subject, edge.line)
        if edge.name not in attributes and edge.name not in members:
            remedy = did_you_mean(edge.name, attributes, "the attributes")
            raise draft.fault(f"{edge.subject} has an unknown attribute, {edge.name}", edge.line, remedy)
        for attribute in members.get(edge.name, (edge.name,)):
            if row.setdefault(attribute, edge.sign) != edge.sign:
                what = f"{edge.subject} has two edges to {attribute} that contradict each other"
                raise draft.fault(what, edge.line, "keep one of them")
    graph = ConceptGraph(
        {label: {name: sign for name, sign in row.items() if sign} for label, row in signs.items()}, members, synonyms
    )
    for label in signs:
        if not graph.nearest(label):
            what = f"no attribute decides between {label} and any other class"
            raise draft.fault(
                what, lines[label], "give it one that another class must have and it must not, or the reverse"
            )
    return graph


def _categories(draft: _Draft) -> dict[str, tuple[str, ...]]:
    """Of every category the attributes in it, also through other categories."""
    below: dict[str, list[str]] = {}
    for fact in draft.members:
        below.setdefault(fact.subject, []).append(fact.name)
    try:
        order = list(
            TopologicalSorter({name: [n for n in own if n in below] for name, own in below.items()}).static_order()
        )
    except CycleError as error:
        circle = error.args[1]
        line = next(f.line for f in draft.members if f.subject in circle and f.name in circle)
        raise draft.fault(f"categories contain each other: {' > '.join(circle)}", line, "take one out") from None
    leaves: dict[str, tuple[str, ...]] = {}
    for name in order:
        leaves[name] = tuple(dict.fromkeys(leaf for n in below[name] for leaf in leaves.get(n, (n,))))
    return {name: leaves[name] for name in below}


def _synonyms(draft: _Draft, attributes: list[str]) -> dict[str, tuple[str, ...]]:
    """Of every attribute its further names; a name belongs to one attribute."""
    owner = {" ".join(words_of(name)): name for name in attributes}
    names: dict[str, tuple[str, ...]] = {}
    for fact in draft.synonyms:
        if fact.subject not in attributes:
            remedy = did_you_mean(fact.subject, attributes, "the attributes")
            raise draft.fault(f"synonyms of an unknown attribute, {fact.subject}", fact.line, remedy)
        first = owner.setdefault(" ".join(words_of(fact.name)), fact.subject)
        if first != fact.subject:
            raise draft.fault(f"{fact.name} is a name of {first} and of {fact.subject}", fact.line, "keep it for one")
        if fact.name not in (fact.subject, *names.get(fact.subject, ())):
            names[fact.subject] = (*names.get(fact.subject, ()), fact.name)
    return names
