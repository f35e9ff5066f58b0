"""The configs that ship with the package, by name: `demo`, `paper/pacs`, ... Read by `load_config` and `run --list`."""

import importlib.resources
from pathlib import Path

FOLDER = Path(str(importlib.resources.files("throughline.experiment"))) / "presets"


def preset_names() -> tuple[str, ...]:
    """All presets, sorted; a subfolder is part of the name."""
    return tuple(sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml")))


def preset_path(name: str) -> Path:
    """The file of a preset that exists."""
    return FOLDER / f"{name}.yaml"


def preset_summary(name: str) -> str:
    """The first comment line of the preset's file."""
    return preset_path(name).read_text().splitlines()[0].lstrip("# ")
