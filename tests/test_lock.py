"""The lock fits pyproject.toml and carries nothing of the machine that wrote it."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def locked() -> list[Requirement]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [Requirement(line.removesuffix("\\")) for line in lines if line and not line.startswith((" ", "#"))]


def test_every_requirement_of_the_project_is_locked_at_a_version_that_fits(locked):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, asked):
        name = canonicalize_name(requirement.name)
        versions = [str(pin.specifier).removeprefix("==") for pin in locked if canonicalize_name(pin.name) == name]
        assert versions, f"{name} is not locked: run make lock"
        assert all(requirement.specifier.contains(version) for version in versions), f"{name}: run make lock"


def test_every_pin_is_exact_and_carries_hashes(locked):
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in locked)
    text = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked)
    assert all("--hash=sha256:" in block for block in blocks)


def test_the_lock_names_no_index_no_path_and_no_build_of_torch_of_its_own():
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|^-|@ |/|\+cpu", text, flags=re.MULTILINE)


def test_what_says_how_to_install_names_an_extra_of_this_project_and_not_a_stranger_on_pypi():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    texts = (path for kind in ("docs/**/*.md", "src/**/*.py", "src/**/*.yaml") for path in ROOT.glob(kind))
    for path in (ROOT / "README.md", *texts):
        text = path.read_text()
        assert not re.search(r"install '?throughline|throughline\[\w+\]", text), path
        named |= {*re.findall(r"(?:extra[ (]+[`\"']|'\.\[)(\w+)", text)}
    assert {"styles", "baselines", "bench"} <= named <= {*extras}
