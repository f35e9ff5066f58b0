"""The concept graph of the drawn world: which parts a class must have, must not have, or may have.

Twelve classes stand in six contrastive families; the two classes of a family differ in one deciding part and
share everything else. Scenes are drawn from this graph, the describer reasons over it, counterfactuals follow it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import TypeAdapter

from throughline.chains.concepts import ConceptGraph


@dataclass(frozen=True)
class Family:
    """Two classes that one part tells apart. `required` and `free` parts are the same for both."""

    name: str
    with_part: str
    without_part: str
    deciding: str
    required: tuple[str, ...]
    free: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, str]:
        """The class that has the deciding part, then the one that has not."""
        return self.with_part, self.without_part


@cache
def read_data(name: str) -> Any:
    """A YAML file of this folder: what the world is made of, or the describer's wording."""
    return yaml.safe_load(files("throughline.drawn").joinpath(name).read_text("utf-8"))


FAMILIES = TypeAdapter(tuple[Family, ...]).validate_python(read_data("world.yaml")["families"])
CLASSES: tuple[str, ...] = tuple(sorted(name for family in FAMILIES for name in family.classes))
PARTS: tuple[str, ...] = tuple(
    sorted({part for family in FAMILIES for part in (family.deciding, *family.required, *family.free)})
)


def _row(family: Family, cls: str) -> dict[str, int]:
    signs = dict.fromkeys(PARTS, -1) | dict.fromkeys(family.free, 0) | dict.fromkeys(family.required, 1)
    return signs | {family.deciding: 1 if cls == family.with_part else -1}


# class -> part -> +1 required, -1 excluded, 0 free
CONCEPTS: dict[str, dict[str, int]] = {cls: _row(family, cls) for family in FAMILIES for cls in sorted(family.classes)}

GRAPH = ConceptGraph(
    {cls: {part: sign for part, sign in row.items() if sign} for cls, row in CONCEPTS.items()},
    synonyms={part: tuple(others) for part, others in read_data("world.yaml")["synonyms"].items()},
)
"""The same as the graph that any other set of classes has."""

_FAMILY_OF = {cls: family for family in FAMILIES for cls in family.classes}


def family_of(cls: str) -> Family:
    """The family a class belongs to; an unknown class is a `KeyError`."""
    return _FAMILY_OF[cls]


def contrast_of(cls: str) -> str:
    """The other class of the same family."""
    first, second = family_of(cls).classes
    return second if cls == first else first


def nearest_classes(parts: Iterable[str]) -> tuple[str, ...]:
    """The classes, sorted, with the fewest broken entries: what a mistaken reader of parts would still conclude."""
    seen = frozenset(parts)
    counts = {cls: GRAPH.violations(cls, seen) for cls in CLASSES}
    return tuple(cls for cls in CLASSES if counts[cls] == min(counts.values()))
