"""The rules of selection on a made-up run, against DomainBed's own definitions on records in DomainBed's form."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from throughline.core.files import content_hash, write_json, write_json_lines
from throughline.reporting.selection import selection_tables
from throughline.runs.draws import choose, find_draws
from throughline.runs.reader import Run, read_run

DOMAINS, DRAWS, SEEDS, METHODS = ("art", "photo", "toy"), 3, (0, 1), ("cls", "mtct")
RULES = ("training_domain", "leave_one_domain_out", "oracle", "last")
Record = dict[str, Any]


def accuracies(rng: np.random.Generator, targets: tuple[str, ...]) -> Record:
    """A record as DomainBed logs it: the accuracy on both splits of every environment. Few values, so that some tie."""
    shares = {f"{domain}_{split}": rng.integers(3, 8) / 10 for domain in DOMAINS for split in ("in", "out")}
    return {"test_envs": targets, **shares}


@pytest.fixture(scope="module")
def records() -> dict[tuple[str, int, int], list[Record]]:
    """By method, seed and draw: a record of every target, and of every pair of targets."""
    rng = np.random.default_rng(3)
    held_out = [*((domain,) for domain in DOMAINS), *combinations(DOMAINS, 2)]
    return {
        (method, seed, draw): [accuracies(rng, targets) for targets in held_out]
        for method in METHODS
        for seed in SEEDS
        for draw in range(DRAWS)
    }


@pytest.fixture
def folder(records: dict[tuple[str, int, int], list[Record]], tmp_path: Path) -> Path:
    """Those records as a run folder has them; and a unit of zero_shot for each target and seed."""
    lines = [
        line
        for (method, seed, draw), of_draw in records.items()
        for record in of_draw
        for line in write_unit(tmp_path, method, seed, draw, record)
    ]
    for target in DOMAINS:
        base = accuracies(np.random.default_rng(1), (target,))
        lines += [line for seed in SEEDS for line in write_unit(tmp_path, "zero_shot", seed, 0, base)]
    write_json_lines(tmp_path / "results.jsonl", lines)
    write_config(tmp_path, {"rules": list(RULES), "measure": "target"})
    return tmp_path


def write_config(folder: Path, search: Record | None) -> None:
    draws = {str(draw): {"training.stage.lr": draw / 100} if draw else {} for draw in range(DRAWS)}
    config = {"factors": {"draw": draws}, "evaluation": {"answering": {"answers": ["label", "likelihood"]}}}
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "search": search}))


def write_unit(folder: Path, method: str, seed: int, draw: int, record: Record) -> list[Record]:
    targets = record["test_envs"]
    is_pair = len(targets) > 1
    kind = "evaluate" if method == "zero_shot" else "validate" if is_pair else "fold"
    about = {"dataset": "made_up", "model": "m", "targets": targets, "method": method, "seed": seed}
    about["factors"] = {"draw": str(draw)}
    name = f"{'+'.join(targets)}-{method}-draw={draw}-seed{seed}-{content_hash(about)[:8]}"
    write_json(folder / "units" / name / "unit.json", {"kind": kind, **about})
    if kind != "evaluate":
        asked = [f"{name}_in" for name in targets] if is_pair else [f"{d}_out" for d in DOMAINS if d not in targets]
        validation = {"selected": True, "domains": {key.rpartition("_")[0]: record[key] for key in asked}}
        write_json_lines(folder / "units" / name / "validation.jsonl", [validation])
    rows = [
        {
            **about,
            "unit": name,
            "round": None,
            "answer": answer,
            "split": split,
            "n": 10,
            "correct": 0,
            "accuracy": share,
        }
        for split in ("in", "out")
        for answer, share in (("label", record[f"{targets[0]}_{split}"]), ("likelihood", 0.99))
    ]
    write_json(folder / "units" / name / "metrics.json", {})
    write_json_lines(folder / "units" / name / "predictions.jsonl", [])
    write_json(folder / "units" / name / "done", {})
    return [] if is_pair else rows


def by_domainbed(
    records: dict[tuple[str, int, int], list[Record]], method: str, seed: int, target: str, rule: str
) -> int:
    """The draw that a SelectionMethod of domainbed/model_selection.py ranks first; of equal ones the lowest."""
    values = []
    for draw in range(DRAWS):
        ours = [record for record in records[method, seed, draw] if target in record["test_envs"]]
        (alone,) = (record for record in ours if len(record["test_envs"]) == 1)
        others = [domain for domain in DOMAINS if domain != target]
        if rule == "training_domain":
            values.append(np.mean([alone[f"{domain}_out"] for domain in others]))
        elif rule == "leave_one_domain_out":
            of_pairs = {(set(r["test_envs"]) - {target}).pop(): r for r in ours if len(r["test_envs"]) == 2}
            values.append(np.sum([of_pairs[domain][f"{domain}_in"] for domain in others]) / len(others))
        elif rule == "oracle":
            values.append(alone[f"{target}_out"])
        else:
            values.append(float(draw == 0))
    return int(np.argmax(np.round(values, 12)))


def picks(run: Run) -> dict[tuple[str, int, str, str], int | None]:
    found = {}
    for draws in find_draws(run):
        unit = draws[0].unit
        for rule in RULES:
            draw = choose(draws, rule)
            found[unit.method, unit.seed, unit.targets[0], rule] = None if draw is None else draw.number
    return found


def test_every_rule_chooses_what_domainbeds_would(folder: Path, records: Any) -> None:
    found = picks(read_run(folder))
    chosen = {key: draw for key, draw in found.items() if key[0] in METHODS}
    assert len(chosen) == len(METHODS) * len(SEEDS) * len(DOMAINS) * len(RULES)
    assert chosen == {key: by_domainbed(records, *key) for key in chosen}
    assert {found["zero_shot", 0, "art", rule] for rule in ("oracle", "last")} == {0}
    assert found["zero_shot", 0, "art", "training_domain"] is None


def test_the_table_has_the_targets_in_splits_with_the_error_over_seeds(folder: Path, records: Any) -> None:
    rules, draws = selection_tables(read_run(folder))
    assert rules.columns == ("method", "rule", *DOMAINS, "Avg", "unparsed")
    rows = {row[:2]: row[2:-1] for row in rules.rows}
    assert set(rows) == {("zero_shot", "last"), *((method, rule) for method in METHODS for rule in RULES)}
    for (method, rule), cells in rows.items():
        if method != "zero_shot":
            shares = np.array(
                [
                    [
                        next(
                            record[f"{target}_in"]
                            for record in records[method, seed, by_domainbed(records, method, seed, target, rule)]
                            if record["test_envs"] == (target,)
                        )
                        for target in DOMAINS
                    ]
                    for seed in SEEDS
                ]
            )
            columns = [*shares.T, shares.mean(axis=1)]
            # domainbed/scripts/collect_results.py, format_mean
            expected = [f"{100 * np.mean(c):.1f} ± {100 * np.std(list(c) / np.sqrt(len(c))):.1f}" for c in columns]
            assert list(cells) == expected
    assert draws.columns == ("method", "draw", "training.stage.lr", *DOMAINS, "Avg", *RULES)
    assert [row[:3] for row in draws.rows[:DRAWS]] == [
        ("cls", "0", "–"),
        *(("cls", f"{n}", f"{n / 100}") for n in (1, 2)),
    ]
    last = [row[-1] for row in draws.rows if row[0] == "cls"]
    assert last == ["6 of 6", *["0 of 6"] * (DRAWS - 1)]
    for place, rule in enumerate(RULES, start=-len(RULES)):
        counts = [int(row[place].split()[0]) for row in draws.rows if row[0] == "cls"]
        numbers = [by_domainbed(records, "cls", seed, target, rule) for seed in SEEDS for target in DOMAINS]
        assert counts == [numbers.count(draw) for draw in range(DRAWS)]


def test_what_is_not_done_is_not_chosen(folder: Path, records: Any) -> None:
    best = by_domainbed(records, "cls", 0, "art", "training_domain")
    (unit,) = folder.glob(f"units/art-cls-draw={best}-seed0-*")
    (unit / "done").unlink()
    assert picks(read_run(folder))["cls", 0, "art", "training_domain"] not in {best, None}
    tables = selection_tables(read_run(folder))
    assert all(any(f"Not done yet: art-cls-draw={best}-seed0" in note for note in table.notes) for table in tables)


def test_leave_one_domain_out_needs_every_pair(folder: Path, records: Any) -> None:
    best = by_domainbed(records, "cls", 0, "art", "leave_one_domain_out")
    for unit in folder.glob(f"units/art+toy-cls-draw={best}-seed0-*"):
        (unit / "done").unlink()
    found = picks(read_run(folder))
    assert found["cls", 0, "art", "leave_one_domain_out"] not in {best, None}
    for unit in folder.glob("units/art+toy-cls-*-seed0-*/done"):
        unit.unlink(missing_ok=True)
    assert picks(read_run(folder))["cls", 0, "art", "leave_one_domain_out"] is None


def test_draws_of_an_earlier_config_are_not_chosen_from(folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["factors"]["draw"]["2"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert {draw.number for draws in find_draws(read_run(folder)) for draw in draws} == {0, 1}


def test_without_a_search_there_is_no_table(folder: Path) -> None:
    write_config(folder, None)
    assert selection_tables(read_run(folder)) == ()


def test_with_validation_alone_the_table_shows_the_sources_and_the_choice(folder: Path) -> None:
    both = selection_tables(read_run(folder))[1]
    write_json_lines(folder / "results.jsonl", [])
    write_config(folder, {"rules": ["training_domain"], "measure": "validation"})
    (table,) = selection_tables(read_run(folder))
    assert table.columns == (*both.columns[: -len(RULES)], "training_domain")
    assert table.rows == tuple(row[: 1 - len(RULES)] for row in both.rows)
