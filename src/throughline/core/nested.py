"""Nested mappings, such as a config, under dotted keys."""

from collections.abc import Mapping
from typing import Any


def flattened(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`, in the order of the mapping."""
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            flat |= flattened(inner, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = inner
    return flat


def settings_below(flat: Mapping[str, Any], group: str) -> dict[str, Any]:
    """Of dotted keys those of one group, without its name: `{"a.b": 1}` below `a` as `{"b": 1}`."""
    return {key.removeprefix(f"{group}."): value for key, value in flat.items() if key.startswith(f"{group}.")}


def shown_settings(value: Mapping[str, Any]) -> dict[str, str]:
    """A nested mapping as dotted names with their values as text, in its own order."""
    return {name: " ".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in flattened(value).items()}
