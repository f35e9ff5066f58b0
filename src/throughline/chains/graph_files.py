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
from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from throughline.chains.concepts import ConceptGraph
from throughline.chains.names import words_of
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_atomically
from throughline.core.nearest import did_you_mean
from throughline.core.yaml_text import UniqueKeys, read_yaml
from throughline.domains.tables import read_text

PARTS = ("categories", "synonyms", "classes")
COLUMNS = ("class", "attribute", "sign", "category", "synonyms")


class _Name(str):
    """A word of a file that knows the line where it stands."""

    line: int

    def __new__(cls, text: str, line: int) -> "_Name":
        name = super().__new__(cls, text)
        name.line = line
        return name


class _Loader(UniqueKeys):
    """Takes every scalar as a `_Name`."""


_Loader.yaml_implicit_resolvers = {}
_Loader.add_constructor("tag:yaml.org,2002:str", lambda _, node: _Name(node.value, node.start_mark.line + 1))


@dataclass
class _Draft:
    """What a file says, not checked yet."""

    path: Path
    members: list[tuple[_Name, _Name]] = field(default_factory=list)
    """Of a category a member."""
    synonyms: list[tuple[_Name, _Name]] = field(default_factory=list)
    """Of an attribute another name."""
    edges: list[tuple[_Name, _Name, _Name]] = field(default_factory=list)
    """Of a class an attribute and its sign."""
    classes: list[_Name] = field(default_factory=list)
    """Those named, also without an edge; the first of their edges names others."""

    def fault(self, what: str, line: int, remedy: str | None = None) -> ThroughlineError:
        """An error at a line of the file."""
        return ThroughlineError(what, f"{self.path}, line {line}", remedy)


def read_graph(path: Path) -> ConceptGraph:
    """The graph in a YAML or CSV file.

    Raises a ThroughlineError, with its line, for what is no graph: an unknown attribute, a sign other than -1, 0 and 1,
    two edges that contradict each other, a name for two attributes, categories in a circle, and a class that no
    attribute tells from any other.
    """
    draft = _Draft(path)
    if path.suffix.lower() == ".csv":
        _read_csv(draft)
    else:
        _read_yaml(draft)
    return _checked(draft)


def write_graph(path: Path, graph: ConceptGraph) -> None:
    """As YAML; `read_graph` reads it back. ThroughlineError for a name that it would read as a table."""
    if path.suffix.lower() == ".csv":
        raise ThroughlineError("a graph is written as YAML, not as a table", path, "name a .yaml file")
    parts = {
        "categories": {name: list(members) for name, members in graph.categories.items()},
        "synonyms": {name: list(others) for name, others in graph.synonyms.items()},
        "classes": {label: dict(row) for label, row in graph.signs.items()},
    }
    parts = {name: content for name, content in parts.items() if content}
    write_atomically(path, yaml.safe_dump(parts, sort_keys=False, allow_unicode=True, default_flow_style=None))


def _read_yaml(draft: _Draft) -> None:
    def entries(mapping: Any, line: int) -> Iterable[tuple[_Name, Any]]:
        if not isinstance(mapping, dict):
            raise draft.fault("a mapping of names is expected here", line, f"its parts are {', '.join(PARTS)}")
        return mapping.items()

    for part, content in entries(read_yaml(draft.path, "concept graph", _Loader), 1):
        if part not in PARTS:
            raise draft.fault(f"unknown key {part}", part.line, did_you_mean(part, PARTS, "the keys here"))
        for subject, value in entries(content, part.line):
            if part == "classes":
                draft.classes.append(subject)
                draft.edges += [(subject, name, sign) for name, sign in entries(value, subject.line)]
            elif isinstance(value, list) and all(isinstance(name, _Name) for name in value):
                (draft.members if part == "categories" else draft.synonyms).extend((subject, name) for name in value)
            else:
                raise draft.fault(f"{subject} needs a list of names", subject.line, "write [a, b]")


def _read_csv(draft: _Draft) -> None:
    text, _ = read_text(draft.path)
    reader = csv.DictReader(text.splitlines(), restval="")
    if missing := {"class", "attribute", "sign"} - set(reader.fieldnames or ()):
        raise draft.fault(f"the table has no column {sorted(missing)[0]}", 1, "its columns are class, attribute, sign")
    for row in reader:
        cells = {column: _Name(row.get(column, "").strip(), reader.line_num) for column in COLUMNS}
        draft.edges.append((cells["class"], cells["attribute"], cells["sign"]))
        if cells["category"]:
            draft.members.append((cells["category"], cells["attribute"]))
        names = filter(None, map(str.strip, cells["synonyms"].split("|")))
        draft.synonyms += [(cells["attribute"], _Name(name, reader.line_num)) for name in names]


def _checked(draft: _Draft) -> ConceptGraph:
    categories = _categories(draft)
    grouped = dict.fromkeys(name for _, name in draft.members if name not in categories)
    attributes = list(map(str, grouped or dict.fromkeys(name for _, name, _ in draft.edges)))
    signs: dict[_Name, dict[str, int]] = {label: {} for label in draft.classes}
    for label, name, sign in draft.edges:
        row = signs.setdefault(label, {})
        if sign not in ("-1", "0", "1", "+1"):
            raise draft.fault(f"the edge from {label} to {name} is {sign}", name.line, "write 1, -1, or 0")
        if name not in attributes and name not in categories:
            remedy = did_you_mean(name, attributes, "the attributes")
            raise draft.fault(f"{label} has an unknown attribute, {name}", name.line, remedy)
        for attribute in categories.get(name, (str(name),)):
            if row.setdefault(attribute, int(sign)) != int(sign):
                what = f"{label} has two edges to {attribute} that contradict each other"
                raise draft.fault(what, name.line, "keep one of them")
    edges = {str(label): {name: sign for name, sign in row.items() if sign} for label, row in signs.items()}
    graph = ConceptGraph(edges, categories, _synonyms(draft, attributes))
    for label in signs:
        if not graph.nearest(label):
            what = f"no attribute decides between {label} and any other class"
            remedy = "give it one that another class must have and it must not, or the reverse"
            raise draft.fault(what, label.line, remedy)
    return graph


def _categories(draft: _Draft) -> dict[str, tuple[str, ...]]:
    """Of every category the attributes in it, also through other categories."""
    below: dict[str, list[str]] = {}
    for category, member in draft.members:
        below.setdefault(str(category), []).append(str(member))
    leaves: dict[str, tuple[str, ...]] = {}
    try:
        for name in TopologicalSorter(below).static_order():
            inside = [leaf for own in below.get(name, ()) for leaf in leaves[own]]
            leaves[name] = tuple(dict.fromkeys(inside)) if name in below else (name,)
    except CycleError as error:
        circle = error.args[1]
        line = next(member.line for category, member in draft.members if category in circle and member in circle)
        raise draft.fault(f"categories contain each other: {' > '.join(circle)}", line, "take one out") from None
    return {category: leaves[category] for category in below}


def _synonyms(draft: _Draft, attributes: list[str]) -> dict[str, tuple[str, ...]]:
    """Of every attribute its further names; a name belongs to one attribute."""
    owner = {" ".join(words_of(name)): name for name in attributes}
    names: dict[str, tuple[str, ...]] = {}
    for attribute, name in draft.synonyms:
        if attribute not in attributes:
            remedy = did_you_mean(attribute, attributes, "the attributes")
            raise draft.fault(f"synonyms of an unknown attribute, {attribute}", name.line, remedy)
        first = owner.setdefault(" ".join(words_of(name)), attribute)
        if first != attribute:
            raise draft.fault(f"{name} is a name of {first} and of {attribute}", name.line, "keep it for one")
        if name != attribute:
            names[str(attribute)] = tuple(dict.fromkeys([*names.get(attribute, ()), str(name)]))
    return names
