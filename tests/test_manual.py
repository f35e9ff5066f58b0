"""The manual: what it shows is run as a user would, page by page; what needs more than this machine can be typed."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.forks import started, typed

import command_reference
from throughline.experiment.config_files import load_config

ROOT = Path(__file__).resolve().parent.parent

DOCS = ROOT / "docs"
TUTORIAL, HOW_TOS = DOCS / "tutorial.md", tuple(sorted((DOCS / "howto").glob("*.md")))
PAGES = (TUTORIAL, *HOW_TOS)
MANUAL = (*(DOCS / f"{name}.md" for name in ("README", "reference", "findings", "first_laboratory")), *PAGES)
FENCE = re.compile(r"^```(\w*) ?(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {"needs-answers", "needs-cluster", "needs-gpu", "needs-model", "needs-packages", "needs-server"}
"""Words behind `sh` or `python` that keep a block from being run."""
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the words behind it, its text."""

    language: str
    words: str
    text: str


def blocks(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text())]


def commands(block: Block) -> list[str]:
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


class Terminal:
    """Types commands in a folder, each a process of its own; what is said comes back with the exit code."""

    def __init__(self, folder: Path, drawn: bool = False) -> None:
        self.folder = folder
        self.drawn = drawn
        self.said = folder / ".said"

    def type(self, command: str) -> tuple[int, str]:
        words = shlex.split(command)
        if words[0] == "throughline":
            return self._end_of(typed(words[1:], self.said, self.folder, self.drawn))
        done = subprocess.run(command, shell=True, cwd=self.folder, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def run_python(self, code: str) -> tuple[int, str]:
        """As in a notebook, there is no file."""
        return self._end_of(started(exec, (code, {"__name__": "__main__"}), self.said, self.folder))

    def _end_of(self, process: Any) -> tuple[int, str]:
        process.join()
        return process.exitcode, self.said.read_text()


def run_page(page: Path, folder: Path, drawn: bool = False) -> None:
    """All of a page's files and commands in their order, in `folder`; then its Python, as one notebook."""
    terminal = Terminal(folder, drawn)
    for block in blocks(page):
        if block.language == "yaml" or block.words.endswith(".py"):
            (folder / block.words).write_text(block.text)
        if block.language != "sh" or block.words:
            continue
        for command in commands(block):
            code, said = terminal.type(command)
            assert code == 0, f"{name_of(page)}: {command}\n{said}"
    if cells := [block.text for block in blocks(page) if block.language == "python" and not block.words]:
        code, said = terminal.run_python("\n".join(cells))
        assert code == 0, f"{name_of(page)}\n{said}"


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs_in_its_order(tmp_path: Path) -> None:
    run_page(TUTORIAL, tmp_path, drawn=True)
    run = tmp_path / "runs" / "my_experiment"
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    assert {"analysis.json", "report/index.html", "results.jsonl"} <= set(files)
    assert [path for path in files if not command_reference.described_in_run_folder(path)] == []
    assert (tmp_path / "my_checkpoint" / "model.safetensors").is_file()


def test_the_tutorial_passes_through_every_verb_of_the_way() -> None:
    shown = {command.split()[1] for block in blocks(TUTORIAL) for command in commands(block) if block.language == "sh"}
    assert {"data", "chains", "run", "report", "analyze", "fit", "evaluate", "predict", "export"} <= shown


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_say_what_they_are(page: Path) -> None:
    for block in blocks(page):
        assert block.language in {"sh", "yaml", "text", "python"}, block
        if block.language in {"sh", "python"} and not re.fullmatch(r"\w+\.py", block.words):
            assert block.words in {"", *NEEDS}, block
        if block.language == "yaml":
            assert re.fullmatch(r"\w+\.yaml", block.words), block
        if block.language == "python":
            compile(block.text, name_of(page), "exec")


SHOWN = sorted(
    {
        command
        for page in PAGES
        for block in blocks(page)
        if block.language == "sh"
        for command in commands(block)
        if command.startswith("throughline ")
    }
)


@pytest.mark.parametrize("command", SHOWN)
def test_every_command_can_be_typed(command: str) -> None:
    _, verb, *words = shlex.split(command, comments=True)
    arguments = command_reference.parser_of(verb).parse_args(words)
    if verb == "run" and not arguments.config.endswith(".yaml") and "$" not in command:  # a shell fills those in
        load_config(arguments.config, arguments.set)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_config_is_one(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.language == "yaml" and "data" in yaml.safe_load(block.text):
            (tmp_path / block.words).write_text(block.text)
            assert load_config(str(tmp_path / block.words)).name == block.words.removesuffix(".yaml")


@pytest.mark.parametrize("page", MANUAL, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for path, heading in LINK.findall(text):
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), path
        lines = target.read_text().splitlines() if heading else []  # a picture has none
        headings = {
            re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
            for line in lines
            if line.startswith("#")
        }
        assert not heading or heading in headings, f"{path}#{heading}"


def test_the_index_names_every_page() -> None:
    index = (DOCS / "README.md").read_text()
    pages = [path for path in DOCS.rglob("*.md") if path.name != "README.md"]
    assert all(f"({name_of(page)})" in index for page in pages)


def test_changelog_and_citation_name_this_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["cff-version"], str(citation["version"])) == ("1.2.0", version[1])
    assert citation["license"] == "Apache-2.0"
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()


# Last, so that two test workers share the long tests: the first has the tutorial.
@pytest.mark.slow
@pytest.mark.parametrize("page", HOW_TOS, ids=name_of)
def test_every_command_of_a_how_to_runs_in_its_order(page: Path, tmp_path: Path) -> None:
    run_page(page, tmp_path)
