"""The documents: what is generated is what the evidence says now, what is shown to be typed can be typed."""

import importlib
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import command_reference
import documents
import evidence
import kills
import records
from generated import generated_names
from throughline.cli.main import VERBS
from throughline.cli.parser import Parser
from throughline.core.errors import ThroughlineError
from throughline.core.files import write_json, write_json_lines
from throughline.experiment.config_files import load_config
from throughline.mllm.checkpoints import checkpoint_source

ROOT = Path(__file__).resolve().parent.parent

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# A path from the root of somebody's machine, with two parts or more; not an address, not a relative path.
# a script's first line names a shell that is there everywhere
MACHINE_PATH = re.compile(r"(?<![\w.:!/~<*-])/(?!path/)[A-Za-z][\w.-]*/[\w.-]+|\b[A-Z]:\\\\")
MACHINE: dict[str, Any] = {
    "python": "3.11.9",
    "platform": "Linux x86_64",
    "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
    "cores": 2,
    "processor": None,
    "gpus": [],
}
STEP_ROW = {
    "name": "step pocket 7 classes",
    "rival": "two separate sequences",
    "ours_value": 0.5,
    "rival_value": 0.9,
    "unit": "s",
    "ratio": 1.8,
    "predicted_ratio": 1.9,
    "settings": {"threads": 2, "classes": 7},
}


# the documents as they stand ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_generated_block_is_what_the_evidence_says_now() -> None:
    for path, text in documents.rendered(ROOT).items():
        assert path.read_text() == text, f"{path.name}: run python bench/evidence.py docs"


def test_every_generator_has_its_place_in_a_document() -> None:
    used = {name for document in documents.DOCUMENTS for name in generated_names((ROOT / document).read_text())}
    assert used == set(documents.BLOCKS)


def fenced(language: str) -> list[str]:
    texts = [(ROOT / name).read_text() for name in documents.DOCUMENTS]
    return [body for text in texts for found, body in FENCE.findall(text) if found == language]


COMMANDS = [
    line
    for body in fenced("sh")
    for line in body.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


def test_the_documents_show_commands() -> None:
    shown = {shlex.split(line)[1] for line in COMMANDS if line.startswith("throughline ")}
    assert {"demo", "data", "run", "fit", "predict", "doctor"} <= shown <= set(VERBS)
    assert {"make demo", "make test"} <= set(COMMANDS)


def test_make_evidence_measures_every_part_once_that_needs_no_gpu() -> None:
    measured = re.findall(r"bench/evidence\.py ([\w-]+)", (ROOT / "Makefile").read_text())
    assert sorted(measured) == sorted({*evidence.PARTS, "demo-profile", "screenshot"} - {"bench-gpu"})


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_in_a_document_can_be_typed(command: str) -> None:
    program, *words = shlex.split(command, comments=True)
    if program == "make":
        assert re.search(rf"^{re.escape(words[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return
    if program == ".":
        assert words == [".venv/bin/activate"]
        return
    if program == "pip":
        assert words[0] == "install"
        required = (ROOT / "pyproject.toml").read_text()
        assert all(word == "." or word.startswith(("-", "https:")) or f'"{word}>=' in required for word in words[1:])
        return
    assert program == "throughline", f"{program}: teach this test what it is"
    module = importlib.import_module(f"throughline.cli.{words[0]}")
    parser = Parser(prog=f"throughline {words[0]}")
    module.add_arguments(parser)
    arguments = parser.parse_args(words[1:])
    if words[0] == "run" and arguments.config is not None and not arguments.config.startswith("my_"):
        load_config(str(ROOT / arguments.config) if "bench/" in arguments.config else arguments.config, arguments.set)


@pytest.mark.parametrize("body", fenced("yaml"))
def test_every_config_in_a_document_is_one(body: str, tmp_path: Path) -> None:
    (tmp_path / "my_experiment.yaml").write_text(body)
    assert load_config(str(tmp_path / "my_experiment.yaml")).name == "my_experiment"


def test_the_demo_writes_where_the_readme_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from throughline.cli import demo, run

    folders: list[Path] = []
    monkeypatch.setattr(run, "run_and_report", lambda config, folder, **options: folders.append(folder))
    for words in ([], ["--full"]):
        parser = Parser(prog="throughline demo")
        demo.add_arguments(parser)
        demo.run(parser.parse_args(words))
    assert folders == [Path("runs/demo"), Path("runs/demo_full")]
    assert "`runs/demo/report/index.html`" in (ROOT / "README.md").read_text()


def test_no_document_and_no_evidence_names_a_machine() -> None:
    folders = [ROOT / "docs", ROOT / "evidence"]
    paths = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in {".md", ".json", ".jsonl", ".yaml"}
    ]
    for path in (ROOT / "README.md", *paths):
        assert MACHINE_PATH.findall(path.read_text()) == [], path


@pytest.mark.parametrize("text", ['"/opt/someone/x"', " /home/a", "in /srv/data/pacs", "`/home/x.py`", "C:\\\\Users"])
def test_a_machine_path_would_be_found(text: str) -> None:
    assert MACHINE_PATH.search(text)


# blocks from evidence of known content ------------------------------------------------------------------------------


def certificate() -> dict[str, Any]:
    def said(likelihood: float) -> dict[str, float]:
        return {"likelihood": likelihood, "label_path": likelihood, "label_path_unparsed": 0.02}

    def style(zero: float) -> dict[str, Any]:
        return {
            "zero_shot": said(zero),
            "held_out": [said(zero + step) for step in (0.1, 0.2, 0.3)],
            "included": [said(0.85)] * 3,
        }

    return {
        "what": "drawn world and pocket base; no evidence about real images",
        "budget": {
            "images_held_out": 40,
            "images_included": 30,
            "epochs": 6,
            "batch": 16,
            "lr": 1e-3,
            "seeds": [0, 1, 2],
            "test_images": 25,
        },
        "bars": {
            "zero_shot": [0.2, 0.65],
            "gain": 0.08,
            "included": 0.75,
            "gap": 0.08,
            "background": 0.1,
            "pairs": 0.95,
            "perplexity_ratio": 2.0,
        },
        "per_target": {"photo": style(0.5), "sketch": style(0.3)},
        "means": {"zero_shot": 0.4, "held_out": 0.6, "included": 0.85},
        "background": {"accuracy": 0.12, "chance": 1 / 12},
        "pairs": {"accuracy": {}, "lowest": 0.97, "training_images": 1, "epochs": 1},
        "perplexity": {"own": 2.0, "describer": 9.0, "ratio": 4.5},
        "checks": {
            "zero_shot_per_style": True,
            "cls_gains_held_out": True,
            "included_is_learnable": True,
            "gap_to_close": True,
            "background_tells_nothing": True,
            "pairs_can_be_seen": True,
            "wordings_differ": True,
        },
        "holds": True,
    }


EVIDENCE: dict[str, Callable[[], dict[str, Any]]] = {
    "certificate": certificate,
    "demo_time": lambda: {
        "command": "throughline demo",
        "seconds": [240.1, 231.0, 250.9],
        "best": 231.0,
        "limit": 300.0,
        "held_out_images": 300,
        "methods": ["cls", "zero_shot"],
        "environment": MACHINE,
    },
    "help_time": lambda: {
        "command": "throughline --help",
        "seconds": [0.1, 0.2, 0.3],
        "median": 0.2,
        "limit": 0.4,
        "environment": MACHINE,
    },
    "demo_kills": lambda: {
        "command": "throughline demo",
        "kills": [{"after_seconds": 3.2, "whole_group": False}, {"after_seconds": 8.0, "whole_group": True}],
        "killed_equal": True,
        "workers_equal": False,
        "result_lines": 90,
        "results_sha256": "0" * 64,
        "environment": MACHINE,
    },
    "bench_step": lambda: {"command": "throughline bench step --json", "rows": [STEP_ROW], "environment": MACHINE},
    "bench_score": lambda: {
        "command": "throughline bench score --json",
        "rows": [
            {**STEP_ROW, "predicted_ratio": None, "ours_spread": (0.4, 0.6), "rival_spread": (0.9, 0.9)},
            {**STEP_ROW, "rival": "another", "predicted_ratio": None, "settings": {"threads": 2, "rows": "4x5"}},
        ],
        "environment": MACHINE,
    },
    "cost_model": lambda: {
        "command": "python bench/cost_model.py runs/demo",
        "parts": [
            {"unit": "sketch-cls", "group": "training", "at_most": 30.2, "predicted": 29.6, "measured": 21.6},
            {"unit": "sketch-cls", "group": "answering", "at_most": 15.0, "predicted": 15.0, "measured": 7.0},
        ],
        "environment": MACHINE,
    },
}
BLOCK_OF = {name: name.replace("_", "-") for name in EVIDENCE} | {"demo_kills": "kills", "cost_model": "cost-of-demo"}
SAID = {
    "certificate": [
        "**The certificate holds.**",
        "| sketch | 30.0 | 50.0 ± 4.7 | 85.0 ± 0.0 |",
        "| \\+20.0 points | yes |",
    ],
    "demo_time": ["best 231 s", "2 methods, 300 held-out images"],
    "help_time": ["0.20 s, median of 3"],
    "demo_kills": ["killed 2 times and restarted | yes", "one worker instead of two | \\*\\*no\\*\\*"],
    "bench_step": ["| 1.80 | 1.90 | 95 % |", "threads 2"],
    "bench_score": ["| 0.5 (0.4–0.6) | 0.9 | s | 1.80 |", "Settings of all rows: threads 2.", "another: rows 4x5."],
    "cost_model": ["| sketch-cls | training | 30 | 30 | 22 |", "| all |  | 45 | 45 | 29 |"],
}


@pytest.mark.parametrize("name", EVIDENCE)
def test_a_block_shows_what_was_measured(name: str, tmp_path: Path) -> None:
    write_json(tmp_path / f"{name}.json", EVIDENCE[name]())
    block = documents.BLOCKS[BLOCK_OF[name]](tmp_path)
    for text in SAID[name]:
        assert text.replace("\\+", "+") in block, block


@pytest.mark.parametrize("name", EVIDENCE)
@pytest.mark.parametrize("damage", ["a key gone", "a key too many", "no JSON", "empty"])
def test_malformed_evidence_makes_no_document(name: str, damage: str, tmp_path: Path) -> None:
    content = EVIDENCE[name]()
    if damage == "a key gone":
        del content["seconds" if "time" in name else "checks" if name == "certificate" else "environment"]
    if damage == "a key too many":
        content = (
            {**content, "checks": {**content["checks"], "new": True}} if "checks" in content else {**content, "x": 1}
        )
    text = {"no JSON": "{", "empty": ""}.get(damage, json.dumps(content))
    path = tmp_path / f"{name}.json"
    path.write_text(text)
    with pytest.raises(ThroughlineError, match=r"malformed|misstates"):
        documents.BLOCKS[BLOCK_OF[name]](tmp_path)


OF_THE_PACKAGE = {"gpu-memory", "open-styles-archives", "open-styles-counts", *command_reference.BLOCKS}


@pytest.mark.parametrize("block", sorted(set(documents.BLOCKS) - OF_THE_PACKAGE))
def test_a_block_without_evidence_says_that_nothing_was_measured(block: str, tmp_path: Path) -> None:
    assert documents.NOT_MEASURED in documents.BLOCKS[block](tmp_path)


def test_the_profile_puts_both_sides_beside_each_other_and_needs_both(tmp_path: Path) -> None:
    profile = {"command": "throughline demo", "rate": 50, "environment": MACHINE}
    before = {**profile, "commit": "aaa1111", "seconds": {"answering": 121.1, "training": 300.0}}
    after = {**profile, "commit": "bbb2222", "seconds": {"answering": 60.4, "training": 200.0, "new": 1.0}}
    write_json(tmp_path / "demo_profile_before.json", before)
    assert documents.BLOCKS["demo-profile"](tmp_path) == documents.NOT_MEASURED
    write_json(tmp_path / "demo_profile_after.json", after)
    block = documents.BLOCKS["demo-profile"](tmp_path)
    for row in ("| training | 300 | 200 |", "| answering | 121 | 60 |", "| new | 0 | 1 |", "| all | 421 | 261 |"):
        assert row in block
    assert "before: commit aaa1111, after: commit bbb2222" in block


METHODS = ("zero_shot", "cls", "reasoning", "mtct", "sarr", "mtct_sarr", "cls_matched", "mtct_matched")


def write_reduced(folder: Path, methods: tuple[str, ...], answers: tuple[str, ...], dataset: str) -> None:
    """A run of two targets and two seeds, each answer right at a rate that grows with the method; then reduced."""
    from reduced_run import reduce_run

    run, lines = folder.parent / "run" / folder.name, []
    for number, method in enumerate(methods):
        for target, seed in ((target, seed) for target in ("photo", "sketch") for seed in (0, 1)):
            unit = f"{target}-{method}-seed{seed}-00000000"
            rng = np.random.default_rng([number, seed, len(target)])
            rows, common = [], {"unit": unit, "dataset": dataset, "model": "pocket", "targets": [target]}
            for answer in answers:
                right = rng.uniform(size=40) < 0.3 + 0.08 * number
                said = [
                    {
                        "sample_id": f"{target}/cup/{index}.png",
                        "domain": target,
                        "labels": ["cup"],
                        "answer": answer,
                        "predicted": "cup" if hit else "bowl",
                        "outcome": "ok",
                        "text": "",
                    }
                    for index, hit in enumerate(right)
                ]
                rows += said
                line = {"method": method, "seed": seed, "answer": answer, "split": "all", "n": 40}
                line |= {"correct": int(right.sum()), "accuracy": right.mean(), "seconds": 1.0}
                rounds = (None, 1, 2) if "sarr" in method else (None,)
                lines += [{**common, **line, "round": number} for number in rounds]
            unit_folder = run / "units" / unit
            write_json_lines(unit_folder / "predictions.jsonl", rows)
            if "sarr" in method:
                found = {"sampled": 10, "accepted": 7, "outcomes": {"accepted": 7, "truncated": 3}}
                write_json_lines(
                    unit_folder / "rounds.jsonl", [{**found, "round": r, "adapter_changed": True} for r in (1, 2)]
                )
            for name in ("unit.json", "metrics.json", "done"):
                write_json(unit_folder / name, {})
    write_json_lines(run / "results.jsonl", lines)
    write_json(run / "environment.json", MACHINE)
    (run / "config.yaml").write_text("name: fake\n")
    reduce_run(run, folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("measured")
    write_reduced(root / "demo_full", METHODS, ("label", "reasoning", "likelihood"), "drawn")
    write_reduced(root / "digits_colour", METHODS[:2], ("label", "likelihood"), "digits_colour")
    return root


@pytest.mark.parametrize("answer", ["label", "reasoning", "likelihood"])
def test_the_full_table_has_every_method_an_interval_and_the_notice(measured: Path, answer: str) -> None:
    table = documents.BLOCKS[f"results-{answer}"](measured)
    assert [line.split(" | ")[0][2:].replace("\\", "") for line in table.splitlines()[4:12]] == list(METHODS)
    assert "Avg, 95 % interval" in table and "no evidence about real images" in table
    compared = documents.BLOCKS[f"differences-{answer}"](measured)
    assert "difference from cls" in compared and "| zero\\_shot |" in compared


def test_matched_controls_and_rounds_are_shown_for_every_answer_path(measured: Path) -> None:
    matched = documents.BLOCKS["matched"](measured)
    for control in ("cls", "mtct"):
        for answer in ("label", "reasoning", "likelihood"):
            assert f"| mtct\\_sarr − {control}\\_matched | {answer} |" in matched
    rounds = documents.BLOCKS["rounds"](measured)
    assert "| sarr | 1 | 40 | 70.0 |" in rounds and "| mtct\\_sarr | 0 (mtct) |" in rounds


def test_digits_are_compared_with_zero_shot_and_are_not_called_drawn(measured: Path) -> None:
    table = documents.BLOCKS["digits-colour"](measured)
    assert "difference from zero\\_shot" in table and "digits\\_colour · pocket · label path" in table
    assert "drawn" not in table


def test_a_reduced_run_that_contradicts_itself_makes_no_document(tmp_path: Path) -> None:
    folder = tmp_path / "demo_full"
    write_reduced(folder, ("zero_shot", "cls"), ("label",), "drawn")
    (folder / "predictions.parquet").unlink()
    with pytest.raises(ThroughlineError, match="not whole"):
        documents.BLOCKS["results-label"](tmp_path)
    (folder / "results.jsonl").unlink()
    with pytest.raises(ThroughlineError, match="no results"):
        documents.BLOCKS["results-label"](tmp_path)


# measuring kills ----------------------------------------------------------------------------------------------------

RUN = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
folder.mkdir(parents=True, exist_ok=True)
for number in range(12):
    step = folder / f"step-{number}"
    if not step.exists():
        time.sleep(0.05)
        step.write_text("")
rows = [{"accuracy": 0.5 + TILT, "seconds": time.time()}]
(folder / "results.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tilt,equal", [("0", True), ("0.1 * ('killed' in str(folder))", False)])
def test_kills_are_counted_and_another_result_is_seen(tmp_path: Path, tilt: str, equal: bool) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN.replace("TILT", tilt))
    plan = kills.Plan((sys.executable, str(script)), "run", tmp_path / "scratch", tmp_path, kills=4)
    found = kills.measure_kills(plan)
    assert len(found.kills) == 4 and {kill.whole_group for kill in found.kills} == {True, False}
    assert (found.killed_equal, found.workers_equal, found.result_lines) == (equal, True, 1)
    assert kills.measure_kills(plan).kills == found.kills


def test_moments_of_kills_lie_within_the_run_and_are_the_same_each_time() -> None:
    delays = kills.kill_delays(10, 200.0, seed=0)
    assert len(delays) == 10 and all(delay > 0 for delay in delays) and sum(delays) < 200
    assert delays == kills.kill_delays(10, 200.0, seed=0)


def test_this_machine_is_described_without_its_name() -> None:
    assert set(records.this_machine().model_dump()) == set(MACHINE)


def test_configs_of_the_digits_are_configs_and_name_relative_folders() -> None:
    for shift in ("rotation", "colour"):
        path = ROOT / "bench" / f"digits_{shift}.yaml"
        assert load_config(str(path)).methods == ("zero_shot", "cls")
        assert yaml.safe_load(path.read_text())["data"]["images"] == f"runs/digits/{shift}"


@pytest.mark.parametrize("name", ["digits_rotation", "digits_colour", "sensitivity"])
def test_studies_of_the_first_laboratory_take_its_checkpoint(name: str) -> None:
    checkpoint = load_config(str(ROOT / "bench" / f"{name}.yaml")).model.checkpoint
    assert checkpoint_source(str(ROOT / checkpoint)) == str(ROOT / "bench" / "checkpoints" / "first_pocket")


def test_tables_of_some_of_the_seeds_say_so(measured: Path) -> None:
    assert documents.BLOCKS["seeds-so-far"](measured) == "**Measured with 2 of 3 seeds so far.**"
