"""Reads configs: a YAML file or a preset that ships with the package, with overrides laid over it; and writes one.

Every fault of a file is a ThroughlineError in one line. Called by the verbs that take a config.
"""

import importlib.resources
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.nearest import did_you_mean
from throughline.core.yaml_text import parse_yaml, read_yaml
from throughline.experiment.config import RunConfig, folder_name, set_key
from throughline.experiment.config_faults import first_fault

PRESETS = Path(str(importlib.resources.files("throughline.experiment"))) / "presets"


def load_config(
    name_or_path: str, overrides: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> RunConfig:
    """The config in a YAML file or of a preset, with `a.b=c` overrides (values are YAML), then `changes` by dotted key
    laid over it.

    A file that gives no `name` is called after itself, with underscores for what a name may not have. Raises a
    ThroughlineError, in one line, for a file that cannot be read, an unknown key (with the nearest known one) and a
    value of the wrong type.
    """
    return make_config(read_mapping(name_or_path), name_or_path, overrides, changes)


def make_config(
    values: dict[str, Any], source: str, overrides: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> RunConfig:
    """As `load_config`, from what a file would say; errors name the `source`."""
    for key, value in (*map(_key_and_value, overrides), *(changes or {}).items()):
        set_key(values, key, value)
    values.setdefault("name", folder_name(unicodedata.normalize("NFKC", Path(source).stem)))
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ThroughlineError(*first_fault(error, RunConfig, source)) from None


def preset_paths() -> dict[str, Path]:
    """The configs that ship with the package, by name: `demo`, `paper/pacs`, ..."""
    names = {path.relative_to(PRESETS).with_suffix("").as_posix(): path for path in PRESETS.rglob("*.yaml")}
    return dict(sorted(names.items()))


def preset_summaries() -> dict[str, str]:
    """By name, the first comment line of a preset's file."""
    return {name: path.read_text().splitlines()[0].lstrip("# ") for name, path in preset_paths().items()}


def _config_path(name_or_path: str) -> Path:
    path, presets = Path(name_or_path), preset_paths()
    if path.is_file():
        return path
    if name_or_path in presets:
        return presets[name_or_path]
    if path.suffix in {".yaml", ".yml"}:
        raise ThroughlineError("no such config file", name_or_path, "name a YAML file or a preset")
    hint = did_you_mean(name_or_path, presets, "the presets")
    raise ThroughlineError(f"no preset named {name_or_path}", None, hint)


def read_mapping(name_or_path: str) -> dict[str, Any]:
    """What the YAML of a file or of a preset says, not checked yet."""
    return read_yaml(_config_path(name_or_path), "config")


def _key_and_value(override: str) -> tuple[str, Any]:
    """The parts of `a.b=c`; the value is YAML."""
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.strip().split(".")):
        raise UsageError(f"--set {override} is not key=value", do="write for example --set training.rounds=2")
    try:
        return dotted.strip(), parse_yaml(text)
    except yaml.YAMLError:
        raise UsageError(f"the value of --set {override} is not valid YAML") from None


def resolved_yaml(config: RunConfig) -> str:
    """A config as YAML with every key, in the order of its definition; `load_config` reads it back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
