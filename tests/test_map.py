"""The map of rooms in docs/architecture.md, held to the code: no import upwards, no circle, public names only, and no
torch where the map says that there is none."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from throughline.cli.main import VERBS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "throughline"
ROW = re.compile(r"^\| `(\w+)` \|.*\| (no|late|yes) \|$", re.MULTILINE)
ROOMS = dict(ROW.findall((ROOT / "docs" / "architecture.md").read_text("utf-8")))
"""Room: when it loads torch, in the order of the map."""
HEAVY = ("torch", "transformers", "pandas", "matplotlib", "sklearn", "pydantic")


@dataclass(frozen=True)
class Import:
    """A name or a module that one file takes from another; `typing` where it is for type checkers only."""

    file: Path
    module: str
    name: str | None
    typing: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(PACKAGE)}: {self.module} {self.name or ''}".rstrip()


def module_of(file: Path) -> str:
    parts = ("throughline", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


FILES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str | None:
    """`throughline.mllm.tree` is in `mllm`; files that lie beside the rooms are in none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else None


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for file in FILES.values() for found in _imports_in(file, ast.parse(file.read_text("utf-8"))))


def _imports_in(file: Path, node: ast.AST, typing: bool = False) -> Iterator[Import]:
    """Those anywhere in the file, late ones too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(file, name.name, None, typing) for name in child.names if _is_ours(name.name))
        elif isinstance(child, ast.ImportFrom) and child.module and _is_ours(child.module):
            for name in child.names:
                inner = f"{child.module}.{name.name}"
                module, taken = (inner, None) if inner in FILES else (child.module, name.name)
                yield Import(file, module, taken, typing)
        else:
            inside = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            yield from _imports_in(file, child, typing or inside)


def _is_ours(module: str) -> bool:
    return module.split(".", maxsplit=1)[0] == "throughline"


def test_the_map_names_every_room_and_no_other() -> None:
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ROOMS)


def test_no_import_runs_upwards() -> None:
    order = list(ROOMS)
    upwards = [
        str(each)
        for each in imports()
        if (source := room_of(module_of(each.file))) and (target := room_of(each.module))
        if order.index(target) > order.index(source)
    ]
    assert not upwards, "\n".join(["imports from a room further down the map:", *upwards])


def test_no_two_files_import_each_other_even_by_way_of_others() -> None:
    graph: dict[str, set[str]] = {module: set() for module in FILES}
    for each in imports():
        if not each.typing and each.module in FILES and each.module != module_of(each.file):
            graph[module_of(each.file)].add(each.module)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_other_rooms_take_public_names_only() -> None:
    private = [
        str(each)
        for each in imports()
        if room_of(each.module) != room_of(module_of(each.file))
        if any(re.match("_(?!_)", part) for part in (*each.module.split(".")[1:], each.name or ""))
    ]
    assert not private, "\n".join(["names that another room keeps to itself:", *private])


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Which of the heavy libraries are there after `code` ran in a process of its own."""
    shown = f"\nimport sys; print('LOADED', *(name for name in {HEAVY} if name in sys.modules))"
    command = [sys.executable, "-c", code + shown, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.splitlines()[-1].split()[1:])


@pytest.mark.slow
def test_rooms_without_torch_import_without_it() -> None:
    modules = [name for name in FILES if ROOMS.get(room_of(name) or "") == "no"]
    assert not loaded_by("\n".join(f"import {name}" for name in modules)) & {"torch", "transformers"}


def test_verbs_import_without_torch() -> None:
    imports = "\n".join(f"import throughline.cli.{verb}" for verb in sorted(VERBS))
    assert not loaded_by(imports) & {"torch", "transformers", "pandas"}


def test_importing_throughline_loads_nothing_heavy() -> None:
    assert loaded_by("import throughline; throughline.__all__, dir(throughline)") == set()


def test_checking_images_loads_neither_torch_nor_pandas(tmp_path: Path) -> None:
    code = "import sys; from throughline.cli.main import main; main(sys.argv[1:])"
    assert not loaded_by(code, "--help")
    assert not loaded_by(code, "data", "check", str(tmp_path)) & {"torch", "transformers", "pandas", "matplotlib"}
