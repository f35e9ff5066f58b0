"""YAML in which a key stands once: PyYAML takes the last of two and says nothing."""

from pathlib import Path
from typing import Any

import yaml

from throughline.core.errors import ThroughlineError


class UniqueKeys(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that stands twice, and says where a value cannot be read."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Raises yaml.MarkedYAMLError at the second of two equal keys, as written: merges come later."""
        node = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Raises yaml.MarkedYAMLError for 2024-02-30 and the like, where PyYAML lets Python's own errors pass."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            problem = f"{node.value} is no {node.tag.rpartition(':')[2]}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


def parse_yaml(text: str, loader: type[UniqueKeys] = UniqueKeys) -> Any:
    """What `yaml.safe_load` gives. Raises yaml.YAMLError, with its place, also for a key that stands twice."""
    try:
        return yaml.load(text, loader)
    except RecursionError:
        raise yaml.MarkedYAMLError(problem="nested too deeply") from None


def read_yaml(path: Path, what: str, loader: type[UniqueKeys] = UniqueKeys) -> dict[str, Any]:
    """The mapping in a UTF-8 file. ThroughlineError, with the line, for a file that has none; `what` is its name."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig"), loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ThroughlineError(f"cannot read the {what} ({error})", path) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else path
        why = getattr(error, "problem", None) or "unreadable"
        raise ThroughlineError(f"the {what} is not valid YAML ({why})", place) from None
    if not isinstance(values, dict):
        raise ThroughlineError(f"the {what} is not a mapping of keys to values", path)
    return values
