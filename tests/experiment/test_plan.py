import shutil
from pathlib import Path

import pytest

from throughline.chains.pairs import Pair, Side, write_pairs
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.splits import split_domains
from throughline.evaluation.folds import leave_out
from throughline.experiment.config_files import load_config, resolved_yaml
from throughline.experiment.costs import estimate_costs, longest_paths, own_config
from throughline.experiment.plan import PlannedSet, plan
from throughline.experiment.preparation import preview_images
from throughline.training import methods

METHODS = tuple(
    name for name in methods.METHODS if not any(method.needs_pairs for method in methods.method_table([name]).values())
)
ALL = ",".join(METHODS)
DOMAINS = ("photo", "real world", "sketch")
CHAINS = {f"{domain}/{label}/{i}.png": ("a",) for domain in DOMAINS for label in ("cat", "dog") for i in range(5)}


def planned(config, images, chains=CHAINS, model="m"):
    return plan(config, [PlannedSet(config.data, images, chains)], model)


def costs_of(config, images, chains=CHAINS):
    costs = estimate_costs(planned(config, images, chains), config, [PlannedSet(config.data, images, chains)])
    return {unit.method: costs[unit.name] for unit in planned(config, images, chains)}


@pytest.fixture
def image_set(images):
    return read_images(images)


@pytest.fixture
def hashes(config_file, image_set):
    def hashes(*overrides, chains=CHAINS, model="m", images=image_set):
        config = load_config(str(config_file), [f"methods={ALL}", *overrides])
        return {unit.method: unit.hash for unit in planned(config, images, chains, model)}

    return hashes


def changed(before, after):
    return {method for method in before if before[method] != after[method]}


def test_every_unit_comes_after_those_it_needs_and_only_once(config_file, image_set):
    config = load_config(str(config_file), [f"methods={ALL}", "data.targets=all", "seeds=[0,1]"])
    units = planned(config, image_set, CHAINS, "m")
    seen = set()
    for unit in units:
        assert set(unit.needs.values()) <= seen
        assert unit.name not in seen
        seen.add(unit.name)
    assert len(units) == len(METHODS) * 3 * 2


def test_pairs_and_their_loss_are_part_of_the_methods_that_learn_from_them(config_file, image_set, tmp_path):
    cats = [sample for sample in image_set.samples if sample.label == "cat"]

    def hashes(chain, *overrides):
        write_pairs(tmp_path, [Pair("thinking", Side(cat, "cat", "a"), Side(cat, "dog", chain)) for cat in cats])
        config = load_config(str(config_file), ["methods=mtct,cfp", f"chains.pairs={tmp_path}", *overrides])
        units = plan(config, [PlannedSet(config.data, image_set, CHAINS, str(tmp_path))], "m")
        return {unit.method: unit.hash for unit in units}

    before = hashes("b")
    assert changed(before, hashes("c")) == {"cfp"}
    assert changed(before, hashes("b", "training.preference.beta=0.2")) == {"cfp"}
    assert not changed(before, hashes("b"))


def test_what_a_method_starts_from_or_copies_steps_from_is_added(config_file, image_set):
    config = load_config(str(config_file), ["methods=cls_matched,sarr"])
    units = planned(config, image_set, CHAINS, "m")
    assert [unit.method for unit in units] == ["mtct", "mtct_sarr", "cls_matched", "reasoning", "sarr"]
    by_method = {unit.method: unit for unit in units}
    assert by_method["sarr"].needs == {"start": by_method["reasoning"].name}
    assert by_method["cls_matched"].needs == {"steps": by_method["mtct_sarr"].name}


def test_a_units_name_is_readable_and_ends_with_its_hash(config_file, image_set):
    config = load_config(str(config_file), ["data.targets=[real world]", "methods=cls", "seeds=7"])
    (unit,) = planned(config, image_set, CHAINS, "m")
    assert unit.name == f"real_world-cls-seed7-{unit.hash[:8]}"


def test_the_learning_rate_changes_what_trains_and_nothing_else(hashes):
    assert changed(hashes(), hashes("training.stage.lr=0.1")) == set(METHODS) - {"zero_shot"}


def test_quantized_weights_change_every_unit(hashes):
    assert changed(hashes(), hashes("model.quantization=nf4")) == set(METHODS)


def test_rounds_change_self_labelled_methods_and_those_that_copy_their_steps(hashes):
    expected = {"sarr", "mtct_sarr", "cfp_rounds", "cls_matched", "mtct_matched"}
    assert changed(hashes(), hashes("training.rounds=7")) == expected
    assert changed(hashes(), hashes("training.self_labelling.temperature=0.1")) == expected
    assert changed(hashes(), hashes("training.self_labelling.constrained=true")) == expected
    assert not changed(hashes(), hashes("training.self_labelling.constrained=false"))
    of_preference = (hashes("training.candidates=8"), hashes("training.preference.beta=0.2"))
    assert [changed(hashes(), own) for own in of_preference] == [{"cfp_rounds"}] * 2


def test_who_draws_the_rounds_chains_counts_where_it_is_not_this_process(hashes):
    rounds = {"sarr", "mtct_sarr", "cfp_rounds", "cls_matched", "mtct_matched"}
    served = hashes("training.sampler.serve=vllm serve {checkpoint} --port {port}")
    assert changed(hashes(), served) == rounds
    elsewhere = "training.sampler.serve=/opt/env/bin/vllm serve {checkpoint} --port {port}"
    assert hashes(elsewhere, "training.sampler.at_once=3", "training.sampler.start_seconds=9") == served
    assert changed(served, hashes("training.sampler.serve=vllm serve {checkpoint} --port {port} --seed 1")) == rounds
    assert hashes("training.sampler.at_once=3") == hashes()


def test_chains_change_what_learns_from_them(hashes):
    other = {**CHAINS, "photo/cat/0.png": ("z",)}
    assert changed(hashes(), hashes(chains=other)) == set(METHODS) - {"zero_shot", "cls"}


def test_chains_of_the_target_change_nothing(hashes):
    assert not changed(hashes(), hashes(chains={**CHAINS, "sketch/cat/0.png": ("z",)}))


@pytest.mark.parametrize(
    "override",
    [
        "workers=7",
        "name=other",
        "data.cache_gb=0",
        "training.stage.loader_workers=2",
        "training.stage.save_steps=1",
        "training.stage.report_to=[wandb]",
    ],
)
def test_what_changes_no_number_changes_no_hash(hashes, override):
    assert not changed(hashes(), hashes(override))


@pytest.mark.parametrize(
    "override",
    [
        *("threads=2", "evaluation.answering.batch=5", "model.tiles=2", "data.trial_seed=1", "seeds=1"),
        *("data.split_rule=concepts", "data.split_rule=domainbed"),
    ],
)
def test_what_changes_every_number_changes_every_hash(hashes, override):
    assert changed(hashes(), hashes(override)) == set(METHODS)


def test_a_split_rule_is_a_factor_and_none_leaves_units_as_they_were(config_file, image_set):
    (plain,) = planned(load_config(str(config_file), ["methods=cls"]), image_set)
    assert plain.factors == {} and "split_rule" not in plain.inputs
    config = load_config(str(config_file), ["methods=cls", "data.split_rule=concepts"])
    (unit,) = planned(config, image_set)
    assert unit.factors == {"split_rule": "concepts"} and unit.name.startswith("sketch-cls-split_rule=concepts-seed0")
    fold = leave_out(image_set, ("sketch",), 0, rule="concepts")
    cost = costs_of(config, image_set)["cls"]
    assert (cost.images, cost.images_measured) == (len(fold.train), len(fold.test)) and len(fold.test) < 10


def test_both_split_rules_are_levels_of_one_factor(config_file, image_set):
    levels = "factors={split_rule: {concepts: {data.split_rule: concepts}, domainbed: {data.split_rule: domainbed}}}"
    config = load_config(str(config_file), ["methods=cls", levels])
    units = planned(config, image_set)
    assert [unit.factors["split_rule"] for unit in units] == ["concepts", "domainbed"]
    assert [config.at(config.data, unit.factors).data.split_rule for unit in units] == ["concepts", "domainbed"]
    assert len({unit.hash for unit in units}) == 2


def test_image_sets_of_one_run_have_one_split_rule(config_file):
    several = "data=[{images: a, split_rule: concepts}, {images: b}]"
    with pytest.raises(ThroughlineError, match="several split_rules"):
        load_config(str(config_file), [several])


def test_images_and_model_enter_by_content_and_not_by_place(hashes, images, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "under another name"
    elsewhere.parent.mkdir()
    Path(images).rename(elsewhere)
    assert not changed(hashes(), hashes(images=read_images(elsewhere)))
    (elsewhere / "photo" / "cat" / "0.png").write_bytes(b"another picture")
    assert changed(hashes(), hashes(images=read_images(elsewhere))) == set(METHODS)
    assert changed(hashes(), hashes(model="other")) == set(METHODS)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["data.targets=sketsch"], "did you mean sketch?"),
        (["methods=mtct_sar"], "did you mean mtct_sarr?"),
    ],
)
def test_an_unknown_word_names_the_nearest(config_file, image_set, overrides, part):
    with pytest.raises(ThroughlineError, match=part.replace("?", r"\?")):
        planned(load_config(str(config_file), overrides), image_set, CHAINS, "m")


def test_one_domain_only_can_be_asked_about_and_not_trained_on(config_file, images):
    for domain in ("photo", "real world"):
        shutil.rmtree(images / domain)
    only = read_images(images)
    with pytest.raises(ThroughlineError, match="only one domain"):
        planned(load_config(str(config_file)), only)
    (unit,) = planned(load_config(str(config_file), ["methods=zero_shot", "data.targets=all"]), only, None)
    assert (unit.kind, unit.targets) == ("evaluate", ("sketch",))


def test_every_combination_of_the_factors_levels_is_a_unit_of_its_own(config_file, image_set):
    factors = "factors={tiles: {1: {}, 4: {model.tiles: 4}}, rank: {small: {model.lora.rank: 2}, large: {}}}"
    units = planned(load_config(str(config_file), ["methods=cls", factors]), image_set)
    assert [unit.factors for unit in units] == [
        {"tiles": tiles, "rank": rank} for tiles in ("1", "4") for rank in ("small", "large")
    ]
    assert [unit.inputs["model"]["tiles"] for unit in units] == [1, 1, 4, 4]
    assert [unit.inputs["model"]["lora"]["rank"] for unit in units] == [2, 8, 2, 8]
    assert len({unit.identity for unit in units}) == len({unit.hash for unit in units}) == 4
    assert units[0].slug == "sketch-cls-rank=small-tiles=1-seed0"


ASKED = (
    "factors={asked: {few: {evaluation.sample.per_class: 2}, all: {}}, rank: {small: {model.lora.rank: 2}, large: {}}}"
)


def test_what_only_the_asking_differs_in_is_trained_once(config_file, image_set):
    config = load_config(str(config_file), ["methods=zero_shot,mtct_sarr", ASKED])
    assert config.asked_factors == ("asked",)
    units = planned(config, image_set)
    trained = {unit.name: unit for unit in units if unit.kind == "validate"}
    assert [(unit.method, unit.factors) for unit in trained.values()] == [
        (method, {"rank": rank}) for rank in ("small", "large") for method in ("mtct", "mtct_sarr")
    ]
    asked = [unit for unit in units if unit.kind == "evaluate"]
    assert {(unit.method, unit.factors["asked"], unit.factors["rank"]) for unit in asked} == {
        (method, level, rank)
        for method in ("zero_shot", "mtct", "mtct_sarr")
        for level in ("few", "all")
        for rank in ("small", "large")
    }
    for unit in asked:
        assert unit.inputs["model"]["lora"] is None and "stage" not in unit.inputs
        start = trained[unit.needs["start"]] if unit.method != "zero_shot" else None
        assert start is None or (start.method, start.factors["rank"]) == (unit.method, unit.factors["rank"])
        assert unit.inputs["needs"] == ({} if start is None else {"start": start.hash})


def test_a_classifier_is_trained_where_a_level_asks_it_and_only_there(config_file, image_set):
    """It reads an image and no examples, be these of the config or of a level."""

    def planned_kinds(*levels):
        factors = f"factors={{shown: {{{', '.join(levels)}}}}}"
        methods, clip = "methods=erm,clip_zero_shot,cls", "baselines.clip.checkpoint=pocket_clip"
        config = load_config(str(config_file), ["evaluation.examples.shots=2", factors, methods, clip])
        units = planned(config, image_set)
        return [(unit.method, unit.kind, unit.factors.get("shown"), list(unit.needs)) for unit in units]

    none, four = "none: {evaluation.examples: null}", "four: {evaluation.examples.shots: 4}"
    of_cls = [("cls", "validate", None, []), ("cls", "evaluate", "four", ["start"])]
    assert planned_kinds(four) == of_cls
    assert sorted(planned_kinds(four, none), key=str) == sorted(
        [
            *of_cls,
            ("cls", "evaluate", "none", ["start"]),
            ("erm", "validate", None, []),
            ("erm", "evaluate", "none", ["start"]),
            ("clip_zero_shot", "evaluate", "none", []),
        ],
        key=str,
    )


def test_examples_that_train_an_adapter_are_no_level_of_a_method_that_has_its_own(config_file, image_set):
    trains = "evaluation.examples={shots: 2, epochs: 30}"
    level = "factors={shown: {none: {}, lora: {evaluation.examples: {shots: 2, epochs: 30}}}}"
    for override in (trains, level):
        (unit,) = planned(load_config(str(config_file), ["methods=zero_shot", override]), image_set)[-1:]
        assert unit.kind == "few_shot" and unit.inputs["stage"]["epochs"] == 30
        with pytest.raises(ThroughlineError, match="a control of zero_shot, and cls has"):
            planned(load_config(str(config_file), ["methods=zero_shot,cls", override]), image_set)


def test_costs_count_training_once_and_the_images_asked_about(config_file, image_set):
    config = load_config(str(config_file), ["methods=cls", ASKED, "training.stage.batch=4"])
    sets = [PlannedSet(config.data, image_set, None)]
    units = plan(config, sets, "m")
    costs = estimate_costs(units, config, sets)
    ours = {(unit.kind, unit.factors.get("asked")): costs[unit.name] for unit in units}
    counts = {what: (cost.training_samples, cost.images_measured, cost.steps_from_base) for what, cost in ours.items()}
    assert counts == {
        ("validate", None): (48, 0, 12),
        ("evaluate", "few"): (0, 4, 12),
        ("evaluate", "all"): (0, 10, 12),
    }


def test_a_factor_of_selection_or_of_training_is_trained_for_every_level(config_file):
    for keys in ("evaluation.selection: validation", "training.stage.lr: 0.1", "questions.label: '{options}?'"):
        config = load_config(str(config_file), [f"factors={{x: {{one: {{}}, two: {{{keys}}}}}}}"])
        assert config.asked_factors == ()


def test_several_models_are_planned_one_after_the_other(config_file, image_set, checkpoint, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    models = f"model=[{{checkpoint: {checkpoint}}}, {{checkpoint: {other}, tiles: 4, lora: {{rank: 2}}}}]"
    config = load_config(str(config_file), ["methods=cls", models])
    first, second = units = plan(config, [PlannedSet(config.data, image_set, None)], "m", "n")
    assert [(unit.model, unit.inputs["model"]["tiles"]) for unit in units] == [("checkpoint", 1), ("other", 4)]
    assert (first.inputs["model"]["checkpoint"], second.inputs["model"]["checkpoint"]) == ("m", "n")
    assert first.identity != second.identity and first.name != second.name
    alone = load_config(str(config_file), ["methods=cls"])
    assert [first] == list(planned(alone, image_set, None)) and first.hash == planned(alone, image_set, None)[0].hash
    assert own_config(second, config, [image_set])[0].model.lora.rank == 2
    assert load_config(str(write_yaml(tmp_path, config))) == config
    with pytest.raises(ThroughlineError, match="two models are called checkpoint"):
        load_config(str(config_file), ["methods=cls", models.replace(str(other), str(checkpoint))])


def write_yaml(folder, config):
    path = folder / "resolved.yaml"
    path.write_text(resolved_yaml(config))
    return path


def test_several_image_sets_are_planned_one_after_the_other(config_file, images, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(images, other)
    (other / "photo" / "cat" / "0.png").write_bytes(b"another picture")
    sets = f"data=[{{images: {images}, name: first}}, {{images: {other}, name: second, targets: [photo]}}]"
    config = load_config(str(config_file), ["methods=zero_shot", sets])
    units = plan(
        config, [PlannedSet(data, read_images(Path(data.images), data.name), None) for data in config.image_sets], "m"
    )
    targets = [("photo",), ("real world",), ("sketch",)]
    assert [(unit.dataset, unit.targets) for unit in units] == [
        *(("first", target) for target in targets),
        ("second", ("photo",)),
    ]
    assert load_config(str(config_file), ["methods=zero_shot", sets]) == config
    unnamed = sets.replace(", name: first", "").replace(", name: second", "")
    assert [each.name for each in preview_images(load_config(str(config_file), [unnamed]))] == ["images", "other"]
    with pytest.raises(ThroughlineError, match="two image sets are called images"):
        preview_images(load_config(str(config_file), [unnamed.replace(str(other), str(images))]))


def test_reasoning_without_chains_says_what_to_do(config_file, image_set):
    config = load_config(str(config_file), ["chains.journal=null"])
    with pytest.raises(ThroughlineError, match=r"chains.journal=FILE.jsonl, or --set methods=zero_shot,cls"):
        planned(config, image_set, None, "m")
    with pytest.raises(ThroughlineError, match="no chain is accepted in any of the source domains"):
        planned(config, image_set, {"sketch/cat/0.png": ("c",)}, "m")
    assert planned(load_config(str(config_file), ["methods=cls"]), image_set, None, "m")


@pytest.mark.parametrize("method", ["cls", "erm"])
def test_shared_coverage_needs_a_chain_about_a_source(config_file, image_set, method):
    of_target = {name: texts for name, texts in CHAINS.items() if name.startswith("sketch")}
    alone = load_config(str(config_file), [f"methods={method}"])
    assert planned(alone, image_set, of_target)
    shared = load_config(str(config_file), [f"methods={method}", "chains.coverage=shared"])
    assert planned(shared, image_set)
    with pytest.raises(ThroughlineError, match="no chain is accepted in any of the source domains photo, real world"):
        planned(shared, image_set, of_target)


def test_costs_count_the_source_images_and_the_targets_answers(config_file, image_set):
    # DomainBed's split leaves 8 of a domain's 10 images inside: 16 training images, 10 of the target to answer.
    config = load_config(
        str(config_file), [f"methods={ALL}", "training.stage.batch=5", "training.stage.epochs=2", "training.rounds=3"]
    )
    costs = costs_of(config, image_set)
    assert costs["zero_shot"].training_samples == 0
    assert (costs["cls"].training_samples, costs["cls"].optimiser_steps, costs["cls"].chains_sampled) == (32, 8, 0)
    assert (costs["sarr"].training_samples, costs["sarr"].optimiser_steps, costs["sarr"].chains_sampled) == (96, 24, 48)
    assert costs["cls_matched"].optimiser_steps == 8 + 24
    assert costs["cfp_rounds"].chains_sampled == 4 * 48
    rounds = {"sarr": 3, "mtct_sarr": 3, "cfp_rounds": 3}  # every round's weights are measured
    assert {name: cost.answers for name, cost in costs.items()} == {name: 30 * rounds.get(name, 1) for name in costs}
    assert all(cost.images_measured * 3 == cost.answers for cost in costs.values())


@pytest.mark.parametrize(
    ("coverage", "of_labels", "of_both", "of_rounds"),
    [("labels", (16, 0, 4), (16, 3, 4), (16, 16, 12)), ("shared", (3, 0, 1), (3, 3, 1), (3, 3, 3))],
)
def test_costs_count_the_chains_that_are_there(config_file, image_set, coverage, of_labels, of_both, of_rounds):
    inside = split_domains(image_set, 0)["photo"].inside[:3]
    chains = {**dict.fromkeys(inside, ("a",)), "sketch/cat/0.png": ("a",)}
    words = [f"methods={ALL}", "training.stage.batch=4", "training.stage.epochs=1", f"chains.coverage={coverage}"]
    costs = costs_of(load_config(str(config_file), words), image_set, chains)
    counts = {name: (cost.images, cost.images_with_chain, cost.optimiser_steps) for name, cost in costs.items()}
    assert counts["zero_shot"] == (0, 0, 0)
    assert counts["cls"] == of_labels and counts["mtct"] == of_both and counts["mtct_sarr"] == of_rounds
    assert counts["reasoning"] == (3, 3, 1)


def test_selection_asks_the_sources_out_splits_in_the_first_way_once_for_each_candidate(config_file, image_set):
    config = load_config(
        str(config_file),
        ["methods=zero_shot,cls,mtct_sarr", "evaluation.selection=validation", "training.stage.epochs=2"],
    )
    costs = costs_of(config, image_set)
    # 2 images of each of 2 sources are `out`. Candidates: 2 epochs; where the rounds begin, and 3 rounds.
    assert {name: cost.images_validated for name, cost in costs.items()} == {
        "zero_shot": 0,
        "cls": 4 * 2,
        "mtct": 4 * 2,
        "mtct_sarr": 4 * 4,
    }
    assert costs["cls"].answers == 30 + 8
    # Three rounds, then whatever was selected.
    assert costs["mtct_sarr"].answers == 30 * 4 + 16


def test_a_unit_that_others_wait_for_comes_before_one_of_the_same_cost(config_file, image_set):
    config = load_config(str(config_file), [f"methods={ALL}"])
    units = planned(config, image_set, CHAINS, "m")
    costs = estimate_costs(units, config, [PlannedSet(config.data, image_set, CHAINS)])
    paths = longest_paths(units, {name: cost.weight for name, cost in costs.items()})
    by_method = {unit.method: paths[unit.name] for unit in units}
    assert max(by_method, key=by_method.__getitem__) == "mtct"
    assert by_method["reasoning"] > by_method["cls"]


def test_a_drawn_world_is_called_so_wherever_it_lies(config_file, images):
    config = load_config(str(config_file))
    assert preview_images(config)[0].name == "images"
    (images / "scenes.jsonl").write_text("")
    assert preview_images(config)[0].name == "drawn-images"
    assert preview_images(load_config(str(config_file), ["data.name=drawn_2"]))[0].name == "drawn_2"


def test_names_of_classes_are_part_of_every_unit_and_no_names_of_none(hashes, config_file, image_set):
    before = hashes()
    named = hashes(images=image_set.with_names({"cat": ("kitty",)}))
    assert changed(before, named) == set(METHODS)
    assert hashes(images=image_set.with_names({})) == before
    units = planned(load_config(str(config_file)), image_set)
    assert not any("names" in unit.inputs for unit in units)


def test_names_in_a_config_are_those_of_its_images(config_file):
    config = load_config(str(config_file), ["data.names={cat: [house cat, 7], dog: hound}"])
    [images] = preview_images(config)
    assert images.names == {"cat": ("house cat", "7"), "dog": ("hound",)}
    assert "house cat, hound" in config.question_set(images.classes, images.names).label
    numbered = load_config(str(config_file), ["data.names={15: fifteen}"])
    assert numbered.data.names == {"15": ("fifteen",)}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("{dgo: hound}", "a name is given for an unknown class ['dgo']"),
        ("{cat: dog}", "one of another class, 'dog'"),
        ("{cat: beast, dog: [hound, BEAST]}", "one of another class, 'cat'"),
    ],
)
def test_names_that_do_not_fit_are_told_before_a_unit_begins(config_file, names, said, tmp_path, capsys):
    from throughline.cli.main import main

    for command in ([], ["--dry-run"]):
        arguments = ["run", str(config_file), "--set", f"data.names={names}", "--out", str(tmp_path / "run"), *command]
        assert main(arguments) == 1
        assert said in capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "run").exists()


def test_no_level_of_a_factor_names_classes(config_file):
    with pytest.raises(ThroughlineError, match=r"data\.names"):
        load_config(str(config_file), ["factors={names: {short: {data.names: {cat: kitty}}}}"])


# keys of one method -----------------------------------------------------------------------------------------------


def test_keys_of_a_method_are_those_of_what_starts_from_it_and_of_no_control(hashes, config_file, image_set):
    own = "per_method={mtct: {training.stage.lr: 0.1}, sarr: {training.rounds: 7, training.stage.lr: 0.2}}"
    # the two controls copy the steps of mtct_sarr, so that it is one of their inputs
    expected = {"mtct", "mtct_sarr", "cfp_rounds", "sarr", "cls_matched", "mtct_matched"}
    assert changed(hashes(), hashes(own)) == expected
    units = planned(load_config(str(config_file), [f"methods={ALL}", own]), image_set)
    rates = {unit.method: unit.inputs["stage"]["lr"] for unit in units if unit.method != "zero_shot"}
    assert {name for name, rate in rates.items() if rate == 0.1} == {"mtct", "mtct_sarr", "cfp_rounds"}
    assert {name for name, rate in rates.items() if rate == 0.2} == {"sarr"}
    assert {unit.method: unit.inputs["rounds"] for unit in units if unit.method in ("sarr", "mtct_sarr")} == {
        "sarr": 7,
        "mtct_sarr": 3,
    }


def test_a_method_with_keys_of_its_own_is_the_unit_that_it_is_in_a_config_of_its_own(hashes):
    own = hashes("per_method={cls: {training.stage.lr: 0.1}, mtct: {training.stage.epochs: 9}}")
    assert own["cls"] == hashes("training.stage.lr=0.1")["cls"]
    assert own["mtct_sarr"] == hashes("training.stage.epochs=9")["mtct_sarr"]
    assert own["zero_shot"] == hashes()["zero_shot"]


def test_a_level_of_a_factor_is_set_after_the_keys_of_a_method(config_file, image_set):
    words = ["methods=cls", "per_method={cls: {training.stage.lr: 0.1, training.stage.epochs: 9}}"]
    levels = "factors={rate: {own: {}, low: {training.stage.lr: 0.001}}}"
    units = planned(load_config(str(config_file), [*words, levels]), image_set)
    stages = [unit.inputs["stage"] for unit in units]
    assert [(stage["lr"], stage["epochs"]) for stage in stages] == [(0.1, 9), (0.001, 9)]


def test_a_method_can_have_keys_for_one_target(config_file, image_set):
    first, *others = image_set.domains
    own = f"mtct: {{training.stage.lr: 0.1, training.stage.epochs: 9}}, mtct@{first}: {{training.stage.lr: 0.2}}"
    words = ["methods=mtct,mtct_sarr", "data.targets=all", f"per_method={{{own}}}"]
    units = planned(load_config(str(config_file), words), image_set)
    stages = {(unit.method, *unit.targets): unit.inputs["stage"] for unit in units}
    assert len(stages) == 2 * len(image_set.domains)
    for (_, target), stage in stages.items():
        assert (stage["lr"], stage["epochs"]) == (0.2 if target == first else 0.1, 9)
    costs = costs_of(load_config(str(config_file), [*words, f"data.targets={others[0]}"]), image_set)
    assert costs["mtct"].optimiser_steps > 0


def test_costs_count_each_method_with_its_own_keys(config_file, image_set):
    words = [f"methods={ALL}", "training.stage.batch=5", "training.stage.epochs=2", "training.rounds=3"]
    own = "cls: {training.stage.epochs: 7}, mtct: {training.stage.epochs: 5}, mtct_sarr: {training.rounds: 1}"
    costs = costs_of(load_config(str(config_file), [*words, f"per_method={{{own}}}"]), image_set)
    plain = costs_of(load_config(str(config_file), words), image_set)
    assert {name for name in costs if costs[name] != plain[name]} == {
        *("cls", "mtct", "mtct_sarr", "cfp_rounds", "cls_matched", "mtct_matched")
    }
    # 16 images are 4 steps an epoch: 5 epochs of mtct, then one round of 5 epochs
    assert (costs["cls"].optimiser_steps, costs["mtct"].optimiser_steps) == (4 * 7, 4 * 5)
    assert (costs["mtct_sarr"].optimiser_steps, costs["mtct_sarr"].steps_from_base) == (4 * 5, 4 * 10)
    assert costs["cls_matched"].optimiser_steps == costs["mtct_matched"].optimiser_steps == 4 * 10


@pytest.mark.parametrize(
    ("own", "parts"),
    [
        ("{clss: {training.stage.lr: 1}}", ("no method named clss [per_method]", "did you mean cls?")),
        ("{cls@sketchh: {training.stage.lr: 1}}", ("sketchh",)),
        ("{clss@sketch: {training.stage.lr: 1}}", ("no method named clss [per_method]",)),
        ("{cls: {training.stage.lrr: 1}}", ("per_method.cls", "unknown key training.stage.lrr", "training.stage.lr?")),
        ("{cls: {training.stage.lr: -1}}", ("per_method.cls", "training.stage.lr is -1", "greater than 0")),
        ("{erm: {baselines.lr: 1}, coop: {baselines.lr: 1}}", ("per_method.coop", "set baselines.coop.lr")),
        ("{coop@sketch: {baselines.lr: 1}}", ("per_method.coop@sketch", "set baselines.coop.lr")),
        ("{cls: {seeds: 1}}", ("per_method.cls sets seeds", "only keys of training")),
        ("{cls: {model.tiles: 2}}", ("per_method.cls sets model.tiles", "only keys of training")),
    ],
)
def test_keys_of_a_method_that_do_not_fit_are_one_line(config_file, image_set, own, parts):
    with pytest.raises(ThroughlineError) as caught:
        planned(load_config(str(config_file), [f"per_method={own}"]), image_set)
    assert "\n" not in str(caught.value) and all(part in str(caught.value) for part in parts)


def test_no_level_of_a_factor_sets_keys_of_a_method(config_file):
    with pytest.raises(ThroughlineError, match="sets per_method"):
        load_config(str(config_file), ["factors={rate: {low: {per_method: {cls: {}}}}}"])
