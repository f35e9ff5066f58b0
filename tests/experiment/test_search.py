"""A search in a config: its draws, the units that they become, what these cost, and what is refused."""

import math
import shutil
from collections import Counter
from itertools import combinations

import pytest
from tests.experiment.test_plan import CHAINS

from throughline.core.errors import ThroughlineError
from throughline.core.seeding import generator
from throughline.domains.folders import read_images
from throughline.domains.splits import split_domains
from throughline.experiment.config_files import load_config, resolved_yaml
from throughline.experiment.costs import estimate_costs
from throughline.experiment.plan import PlannedSet, plan

GRID = "training.stage.lr: [0.1, 0.2], training.stage.epochs: [1, 2]"


def search(over=GRID, **keys):
    return f"search={{over: {{{over}}}{''.join(f', {key}: {value}' for key, value in keys.items())}}}"


@pytest.fixture
def units_of(config_file, images):
    def units_of(*overrides):
        config = load_config(str(config_file), overrides)
        return plan(config, [PlannedSet(config.data, read_images(images), CHAINS)], "m")

    return units_of


# draws ------------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_behind_the_config_as_written(config_file, tmp_path):
    config = load_config(str(config_file), [search()])
    lr, epochs = "training.stage.lr", "training.stage.epochs"
    assert config.factors["draw"] == {
        "0": {},
        "1": {lr: 0.1, epochs: 1},
        "2": {lr: 0.1, epochs: 2},
        "3": {lr: 0.2, epochs: 1},
        "4": {lr: 0.2, epochs: 2},
    }
    resolved = tmp_path / "config.yaml"
    resolved.write_text(resolved_yaml(config))
    assert load_config(str(resolved)) == config


def test_random_draws_are_those_of_their_seed_and_within_their_ranges(config_file):
    over = (
        "training.stage.lr: {low: 1.0e-4, high: 1.0e-2, log: true}, training.stage.warmup: {low: 0, high: 0.5}, "
        "training.rounds: {low: 1, high: 3}, training.stage.schedule: [cosine, linear]"
    )

    def draws(**keys):
        return load_config(str(config_file), [search(over, **keys)]).factors["draw"]

    first = draws(draws=200, seed=7)
    assert first == draws(draws=200, seed=7) and first != draws(draws=200, seed=8)
    assert draws(draws=20, seed=7) == dict(list(first.items())[:21])  # a longer search begins as a shorter one
    drawn = [keys for number, keys in first.items() if number != "0"]
    assert len(drawn) == 200
    assert all(1e-4 <= keys["training.stage.lr"] <= 1e-2 for keys in drawn)
    assert all(0 <= keys["training.stage.warmup"] <= 0.5 for keys in drawn)
    below = sum(keys["training.stage.lr"] < 1e-3 for keys in drawn)
    assert 70 < below < 130  # the middle of the logarithms
    for key, values in (("training.rounds", {1, 2, 3}), ("training.stage.schedule", {"cosine", "linear"})):
        counts = Counter(keys[key] for keys in drawn)
        assert set(counts) == values and min(counts.values()) > 200 / len(values) * 0.6
    by_hand = generator(7, "search", 3, "training.stage.lr").uniform(math.log(1e-4), math.log(1e-2))
    assert first["3"]["training.stage.lr"] == pytest.approx(math.exp(by_hand))


# units ------------------------------------------------------------------------------------------------------------


def test_each_draw_is_a_unit_and_a_point_like_the_config_as_written_is_none(units_of):
    written = ("training.stage.lr=0.2", "training.stage.epochs=1")
    units = units_of("methods=cls,mtct_sarr,zero_shot", *written, search())
    by_method = {
        method: [unit.factors["draw"] for unit in units if unit.method == method]
        for method in ("zero_shot", "cls", "mtct", "mtct_sarr")
    }
    assert by_method == {"zero_shot": ["0"], **{name: ["0", "1", "2", "4"] for name in ("cls", "mtct", "mtct_sarr")}}
    stages = {unit.factors["draw"]: unit.inputs["stage"] for unit in units if unit.method == "cls"}
    assert {draw: (stage["lr"], stage["epochs"]) for draw, stage in stages.items()} == {
        "0": (0.2, 1),
        "1": (0.1, 1),
        "2": (0.1, 2),
        "4": (0.2, 2),
    }
    assert "sketch-cls-draw=2-seed0" in {unit.slug for unit in units}
    seen = set()
    for unit in units:
        assert set(unit.needs.values()) <= seen
        seen.add(unit.name)
    parent = {unit.factors["draw"]: unit.name for unit in units if unit.method == "mtct"}
    assert all(unit.needs["start"] == parent[unit.factors["draw"]] for unit in units if unit.method == "mtct_sarr")


def test_a_point_is_like_the_config_for_the_methods_that_have_its_values(units_of):
    """mtct has them through keys of its own; mtct_sarr, at another rate, goes on from that one mtct."""
    own = "per_method={mtct: {training.stage.lr: 0.1}, mtct_sarr: {training.stage.lr: 0.3}}"
    units = units_of("methods=mtct_sarr,cls", own, search("training.stage.lr: [0.1, 0.2]"))
    draws = {
        method: {unit.factors["draw"]: unit for unit in units if unit.method == method}
        for method in ("cls", "mtct", "mtct_sarr")
    }
    assert {method: list(found) for method, found in draws.items()} == {
        "cls": ["0", "1", "2"],
        "mtct": ["0", "2"],
        "mtct_sarr": ["0", "1", "2"],
    }
    assert draws["mtct_sarr"]["1"].needs["start"] == draws["mtct"]["0"].name


def test_equal_random_draws_are_one_unit(units_of):
    units = units_of("methods=cls", search("training.stage.epochs: [1, 2]", draws=12))
    assert len(units) == 3


def test_without_a_search_no_unit_knows_of_one(units_of):
    assert all("draw" not in unit.factors and unit.kind in {"fold", "evaluate"} for unit in units_of("methods=cls"))


def test_validation_alone_measures_no_target(units_of, config_file, images):
    words = ("methods=zero_shot,cls,mtct_sarr", search(measure="validation"))
    units = units_of(*words)
    assert {unit.kind for unit in units} == {"validate"} and "zero_shot" not in {unit.method for unit in units}
    config = load_config(str(config_file), words)
    costs = estimate_costs(units, config, [PlannedSet(config.data, read_images(images), CHAINS)])
    # 2 images of each of 2 sources are `out`; each is asked about once, on the first answer path
    assert {(cost.images_measured, cost.images_validated, cost.answers) for cost in costs.values()} == {(0, 4, 4)}


def test_validation_alone_needs_a_method_that_trains(units_of):
    with pytest.raises(ThroughlineError, match=r"no method trains.*\[methods\]: add cls"):
        units_of("methods=zero_shot", search(measure="validation"))


def test_leave_one_domain_out_makes_each_pair_once(units_of, config_file, images):
    rules = "[training_domain, leave_one_domain_out]"
    words = ("methods=zero_shot,cls", "data.targets=all", search("training.stage.lr: [0.1]", rules=rules))
    units = units_of(*words)
    domains = read_images(images).domains
    pairs = [(unit.targets, unit.factors["draw"]) for unit in units if unit.kind == "validate"]
    assert sorted(pairs) == sorted((pair, draw) for pair in combinations(domains, 2) for draw in "01")
    assert {unit.method for unit in units if unit.kind == "validate"} == {"cls"}
    one = units_of(*words, "data.targets=sketch")
    assert {unit.targets for unit in one if unit.kind == "validate"} == {("photo", "sketch"), ("real world", "sketch")}
    config = load_config(str(config_file), words)
    costs = estimate_costs(units, config, [PlannedSet(config.data, read_images(images), CHAINS)])
    inside = {domain: len(split.inside) for domain, split in split_domains(read_images(images), 0).items()}
    for unit in units:
        if unit.kind == "validate":
            cost = costs[unit.name]
            assert cost.images == sum(n for domain, n in inside.items() if domain not in unit.targets)
            assert cost.answers == cost.images_validated == sum(inside[domain] for domain in unit.targets)


def test_a_unit_of_a_search_is_validated_besides(units_of, config_file, images):
    def cost(*words):
        config = load_config(str(config_file), ["methods=cls", *words])
        units = plan(config, [PlannedSet(config.data, read_images(images), CHAINS)], "m")
        return next(
            iter(estimate_costs(units, config, [PlannedSet(config.data, read_images(images), CHAINS)]).values())
        )

    plain, searched = cost(), cost(search())
    assert (searched.images_validated, searched.answers) == (4, plain.answers + 4)
    chosen_anyway = cost(search(), "evaluation.selection=validation")  # an epoch is chosen there
    assert chosen_anyway.answers == cost("evaluation.selection=validation").answers


# what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (search("training.stage.lrr: [1]"), ("search.over", "unknown key training.stage.lrr", "training.stage.lr?")),
        (search("training.stage.lr: [0.1, -1]"), ("search.over", "training.stage.lr is -1", "greater than 0")),
        (search("training.stage.lr: []"), ("over.training.stage.lr is an empty list", "name its values")),
        (search("training.stage.lr: {low: 1, high: 2}"), ("is a range", "set draws")),
        (
            search("training.stage.lr: {low: 2, high: 1}", draws=3),
            ("over.training.stage.lr is no range", "low: 1.0e-4"),
        ),
        (search("training.stage.lr: {low: 0, high: 1, log: true}", draws=3), ("is no range",)),
        (search("training.stage.lr: {low: -1}", draws=3), ("is no range",)),
        (search("training.stage.lr: {low: 1, hihg: 2}", draws=3), ("is no range",)),
        (search("training.stage.lr: 0.1"), ("search.over.training.stage.lr is 0.1", "list")),
        (search("methods: [cls]"), ("search.over sets methods", "a value of the whole run")),
        (search("model.checkpoint: [a, b]"), ("search.over sets model.checkpoint",)),
        (search("search.seed: [1, 2]"), ("search.over sets search.seed",)),
        ("search={over: {}}", ("search: over names no key", "training.stage.lr: [3.0e-4")),
        ("search={}", ("search.over is missing",)),
        (search(rule="last"), ("unknown key search.rule", "search.rules?")),
        (search(rules="[first]"), ("search.rules", "'first'", "'training_domain'")),
        (search(rules="[]"), ("search.rules", "at least 1")),
        (search(measure="validation", rules="[oracle]"), ("the rule oracle needs the target", "leave it out")),
        (search(measure="targets"), ("search.measure is 'targets'", "'validation'")),
        (search(draws=0), ("search.draws", "greater than or equal to 1")),
        ("factors={draw: {a: {}}}", ("factors.draw belongs to a search", "another name")),
    ],
)
def test_a_search_that_cannot_be_is_one_line(config_file, words, parts):
    with pytest.raises(ThroughlineError) as caught:
        load_config(str(config_file), [words])
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_two_domains_cannot_be_held_out_in_pairs(units_of, images):
    shutil.rmtree(images / "photo")
    with pytest.raises(ThroughlineError, match=r"holds two domains out.*leave the rule out"):
        units_of("methods=cls", search(rules="[leave_one_domain_out]"))


def test_with_validation_alone_the_one_rule_is_the_training_domains(config_file):
    assert load_config(str(config_file), [search(measure="validation")]).search.rules == ("training_domain",)
    assert load_config(str(config_file), [search()]).search.rules == ("training_domain", "oracle", "last")
