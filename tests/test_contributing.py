"""CONTRIBUTING.md: its recipes are followed as they stand, and what it names is there."""

import re
from pathlib import Path

import pytest
from tests.test_manual import Terminal, blocks, commands

from throughline.experiment.config_files import load_config
from throughline.experiment.run import preview_run

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "CONTRIBUTING.md"
RECIPES = [block for block in blocks(PAGE) if not block.text.startswith("make")]


@pytest.fixture
def method_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    [block] = [block for block in RECIPES if block.language == "python"]
    assert len(block.text.splitlines()) < 40
    (tmp_path / block.words).write_text(block.text)
    return tmp_path


def test_the_method_of_the_recipe_is_planned_behind_the_one_it_begins_like(method_file):
    config = load_config("tiny", ["methods=cls,my_method.py:CHAINS_LAST"])
    units = preview_run(config).units
    assert [unit.method for unit in units] == ["cls", "mtct", "chains_last"]


@pytest.mark.slow
def test_every_command_of_a_recipe_runs(method_file):
    terminal = Terminal(method_file)
    for block in RECIPES:
        for command in commands(block) if block.language == "sh" else ():
            code, text = terminal.type(command)
            assert code == 0, f"{command}\n{text}"
    assert "chains_last" in (method_file / "runs" / "my_method" / "results.jsonl").read_text()


def test_what_it_names_is_there():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = PAGE.read_text()
    assert set(re.findall(r"make ([a-z]+)", text)) <= targets
    for path in re.findall(r"`([a-z_]+/[\w/]+\.py)`", text):
        assert (ROOT / path).exists() or (ROOT / "src" / "throughline" / path).exists() or path.endswith("NAME.py")
    for path in re.findall(r"\]\(([\w/.]+)\)", text):
        assert (ROOT / path).is_file()
