"""YAML in which a key stands once: PyYAML takes the last of two and says nothing."""

from pathlib import Path
from typing import Any

import yaml

from throughline.core.errors import ThroughlineError


class UniqueKeys(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Raises yaml.MarkedYAMLError at the second of two equal keys."""
        seen = set[str]()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} is given twice", problem_mark=key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, loader: type[UniqueKeys] = UniqueKeys) -> Any:
    """What `yaml.safe_load` gives. Raises yaml.YAMLError, with its place, also for a key that stands twice."""
    return yaml.load(text, loader)


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
