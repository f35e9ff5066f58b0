"""A run's prediction before anything is loaded, against the loaded checkpoint, a profiler's count and real runs."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch
from tests.mllm.tiny import FAMILIES, image_of, write_checkpoint

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.journal import JournalWriter, make_header
from throughline.chains.prompts import class_name, make_prompts
from throughline.chains.records import Candidate
from throughline.domains.folders import read_images
from throughline.experiment.config import RunConfig, load_config
from throughline.experiment.costs import Cost
from throughline.experiment.predicting.chain_lengths import sample_chains
from throughline.experiment.predicting.hardware import CARDS, CPU, Hardware, elapsed, known_card, matmul_flops
from throughline.experiment.predicting.measured import calibrated, compare_with_run, measured_seconds
from throughline.experiment.predicting.memory import peak_memory
from throughline.experiment.predicting.prediction import RunPrediction, predict_run, read_paths
from throughline.experiment.predicting.tokens import PromptCounter, count_paths
from throughline.experiment.predicting.work import Phase, crown_pairs, phases_of, tree_tokens
from throughline.experiment.run import preview_run, run_experiment
from throughline.mllm.chat import user_turn
from throughline.mllm.likelihood import label_trie
from throughline.mllm.load import load_mllm
from throughline.mllm.shapes import read_shape
from throughline.mllm.sizes import NF4_BYTES, linear_parameters
from throughline.training.methods import METHODS
from throughline.training.objectives import Example, sample_tree

CLASSES = ("alarm_clock", "cat", "cat_tower", "dog")
CHAIN = "<SUMMARY>\none object.\n</SUMMARY>\n<CONCLUSION>\ncat\n</CONCLUSION>"


@pytest.fixture(scope="module")
def demo():
    """The demo's preview and prediction."""
    preview = preview_run(load_config("demo"))
    found = predict_run(preview.config, preview.images, preview.units, preview.costs)
    assert isinstance(found, RunPrediction)
    return preview, found


def images_of_classes(folder):
    for domain in ("photo", "sketch"):
        for label in CLASSES:
            path = folder / domain / label / "0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image_of(len(label)).save(path)
    return read_images(folder)


@pytest.mark.parametrize("family", [*FAMILIES, "pocket"])
def test_paths_have_the_tokens_that_the_loaded_checkpoint_gives_them(family, tmp_path):
    """Prompts, label, chain, tree and trie, to the token, without torch's side having been asked."""
    name = "pocket" if family == "pocket" else str(write_checkpoint(family, tmp_path / family))
    mllm = load_mllm(name)
    from throughline.mllm.checkpoints import checkpoint_folder

    folder, prompts = checkpoint_folder(name), make_prompts(CLASSES)
    picture = image_of(3)
    model = read_shape(folder, picture.size)
    images = images_of_classes(tmp_path / "images")
    paths = count_paths(PromptCounter(folder, model, tiles=1), prompts, images, [CHAIN])

    chat, image = mllm.chat, mllm.chat.encode_image(picture, "one")
    label, reasoning = user_turn(prompts.label), user_turn(prompts.reasoning)
    assert paths.label_prompt == len(chat.prompt(label, [image]).tokens)
    assert paths.reasoning_prompt == len(chat.prompt(reasoning, [image]).tokens)
    chain = chat.answered(reasoning, [image], CHAIN)
    assert abs(paths.chain - (len(chain.tokens) - chain.answer_start)) <= 1
    names = [class_name(one) for one in CLASSES]
    lengths = [len(path.tokens) - path.answer_start for path in (chat.answered(label, [image], n) for n in names)]
    assert abs(paths.label - sum(lengths) / len(lengths)) <= 1 and abs(paths.longest_label - max(lengths)) <= 1
    tree = sample_tree(chat, prompts, image, Example(names[0], CHAIN), ("label", "chain"))
    both = paths.label_prompt + lengths[0] + paths.reasoning_prompt + paths.chain - paths.shared
    assert abs(both - len(tree)) <= 2
    trie = label_trie(mllm, label, image, names)
    assert abs(paths.label_prompt + paths.trie - len(trie)) <= 2
    assert abs(paths.trie_inner - len({int(p) for branch in trie.branches for p in branch.predictors})) <= 2


def test_more_tiles_are_counted_as_the_most_there_can_be():
    preview = preview_run(load_config("demo", ["model.tiles=4"]))
    model, paths, notes = read_paths(preview.config, preview.images)
    assert paths.tiles == 5 and paths.shared > 5 * model.image_tokens
    assert any("at most 4 tiles and a thumbnail" in note for note in notes)


def test_chain_lengths_come_from_the_journal_the_describer_or_an_assumption(tmp_path):
    journal = tmp_path / "journal-0.jsonl"
    prompts, images = make_prompts(CLASSES), preview_run(load_config("demo")).images
    with JournalWriter(journal) as writer:
        writer.write(make_header(CLASSES, FIVE_STAGE, prompts))
        for number, (text, reason) in enumerate([("one two", "stop"), ("cut off", "length"), ("three", "stop")]):
            writer.write(
                Candidate(
                    key=str(number),
                    sample_id=f"photo/cat/{number}.png",
                    image_sha256="0",
                    domain="photo",
                    classes_sha256="0",
                    format="five_stage",
                    source="endpoint",
                    model="m",
                    prompt_sha256="0",
                    text=text,
                    finish_reason=reason,
                )
            )
    from_journal = load_config("demo", ["chains.teacher=null", f"chains.journal={journal}"])
    assert sample_chains(from_journal, images).texts == ("one two", "three")
    described = sample_chains(load_config("demo"), images)
    assert len(described.texts) >= 300 and "describer" in described.source
    assumed = sample_chains(load_config("demo", ["methods=cls", "chains.teacher=null"]), images)
    assert assumed.texts == () and "assumption of ours" in assumed.source


def test_the_prefix_is_paid_for_once_whatever_is_asked(demo):
    preview, _ = demo
    model, paths, _ = read_paths(preview.config, preview.images)
    cost = Cost(answers=900, images_measured=300)

    def asked(*ways):
        config = load_config("demo", [f"evaluation.answering.answers=[{','.join(ways)}]"])
        phases = phases_of(METHODS["zero_shot"], cost, config, model.shape, paths)
        return sum(phase.all_flops for phase in phases)

    prefix = phases_of(METHODS["zero_shot"], cost, preview.config, model.shape, paths)[0]
    assert prefix.name == "prompts"
    apart = asked("label") + asked("reasoning") + asked("likelihood")
    together = asked("label", "reasoning", "likelihood")
    # Beside image and class list, the likelihood finds the end of the label prompt run already.
    assert 2 * prefix.flops < apart - together < 2.2 * prefix.flops


def test_checkpointing_costs_a_forward_pass_and_saves_activations(demo):
    preview, _ = demo
    model, paths, _ = read_paths(preview.config, preview.images)
    plain, saving = preview.config, load_config("demo", ["training.stage.gradient_checkpointing=true"])
    cost = Cost(training_samples=10)
    training = [phases_of(METHODS["mtct"], cost, config, model.shape, paths)[0].flops for config in (plain, saving)]
    assert 1.2 < training[1] / training[0] < 1.45
    memory = [peak_memory(METHODS["mtct"], config, model, paths) for config in (plain, saving)]
    assert memory[1].activations < memory[0].activations / 2
    assert memory[0].weights == memory[1].weights


def test_a_tree_is_paid_for_as_its_packed_row_computes_it(demo):
    """Trunk, and crown with the whole tree: a lone path is one trunk, without a mask."""
    preview, _ = demo
    _, paths, _ = read_paths(preview.config, preview.images)
    mllm, chains = load_mllm("pocket"), sample_chains(preview.config, preview.images).texts
    prompts = make_prompts(preview.images.classes)
    for name in ("mtct", "reasoning"):
        example, marked = Example("cup", chains[0]), METHODS[name].marked
        tree = sample_tree(mllm.chat, prompts, mllm.chat.encode_image(image_of(0, 64, 64), "0"), example, marked)
        as_counted = replace(paths, chain=len(tree.tokens) - tree_tokens(METHODS[name], replace(paths, chain=0))[0])
        layout = mllm.collate([[tree]]).attention
        masks = sum(mask.numel() for mask in layout.masks if mask is not None)
        assert crown_pairs(METHODS[name], as_counted) == masks
        trunk = paths.shared if masks else len(tree)
        assert layout.pairs() == masks + trunk**2


def test_asking_holds_the_folded_weights_and_a_whole_batch_of_prompts(demo):
    from throughline.mllm.lora import add_lora, folded

    preview, _ = demo
    model, paths, _ = read_paths(preview.config, preview.images)

    def asking(method, *overrides):
        return peak_memory(METHODS[method], load_config("demo", overrides), model, paths).asking

    mllm = load_mllm("pocket")
    wrapped = add_lora(mllm.model, preview.config.model.lora, seed=0)
    before = {weight.data_ptr() for weight in wrapped.parameters()}
    with folded(wrapped):
        clones = sum(weight.nbytes for weight in wrapped.parameters() if weight.data_ptr() not in before)
    assert asking("mtct") - asking("zero_shot") == clones
    assert asking("mtct", "model.dtype=bfloat16") == asking("zero_shot", "model.dtype=bfloat16")
    only_vision = asking("mtct", "model.quantization=nf4") - asking("zero_shot", "model.quantization=nf4")
    assert 0 < only_vision < clones  # weights in 4 bits are not folded into
    one, ten = (asking("zero_shot", f"evaluation.answering.batch={batch}") for batch in (1, 10))
    assert ten == 10 * one
    tiles = replace(paths, tiles=100)  # whatever else a batch holds, its tiles are seen together
    settings = preview.config
    more = peak_memory(METHODS["zero_shot"], settings, model, tiles).asking
    vision = model.shape.vision
    at_least = settings.evaluation.answering.batch * 100 * model.shape.patches * 2 * vision.mlp * 4
    assert more > at_least


def test_decoding_reads_four_bits_of_quantized_weights(demo):
    preview, _ = demo
    model, paths, _ = read_paths(preview.config, preview.images)

    def read(*overrides):
        config = load_config("demo", ["model.dtype=bfloat16", "evaluation.answering.answers=[label]", *overrides])
        return phases_of(METHODS["zero_shot"], Cost(images_measured=1), config, model.shape, paths)[-1]

    whole, quarter = read(), read("model.quantization=nf4")
    saved = linear_parameters(model.shape.decoder) * whole.steps * (2 - NF4_BYTES)
    assert whole.bytes_read - quarter.bytes_read == pytest.approx(saved, rel=1e-3)


def test_activations_are_about_what_a_step_really_keeps(demo):
    """Against autograd's own list of saved tensors, for the pocket checkpoint and dropout off."""
    from throughline.mllm.forward import score_trees
    from throughline.mllm.lora import add_lora

    preview, _ = demo
    config = load_config("demo", ["training.stage.batch=2", "training.stage.micro_batch=2"])
    model, paths, _ = read_paths(config, preview.images)
    mllm = load_mllm("pocket")
    wrapped = add_lora(mllm.model, config.model.lora, seed=0).train()
    chains = sample_chains(config, preview.images).texts
    prompts = make_prompts(preview.images.classes)
    trees = [
        sample_tree(
            mllm.chat, prompts, mllm.chat.encode_image(image_of(i, 64, 64), str(i)), Example("cup", chain), ("chain",)
        )
        for i, chain in enumerate(chains[:2])
    ]
    weights = {weight.untyped_storage().data_ptr() for weight in wrapped.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = score_trees(wrapped, mllm.collate([[tree] for tree in trees])).loss_sum()
    assert loss.requires_grad
    real = sum(size for size, _ in kept.values())
    predicted = peak_memory(METHODS["reasoning"], config, model, paths)
    assert 0.7 < (predicted.activations + predicted.logits) / real < 1.5


def test_every_unit_of_the_demo_has_tokens_flops_memory_and_seconds(demo):
    _, found = demo
    units = {one.unit.method: one for one in found.units}
    assert units["zero_shot"].training_tokens == 0 and units["zero_shot"].flops("training") == 0
    assert units["cls"].training_tokens < units["reasoning"].training_tokens < units["mtct"].training_tokens
    assert units["mtct_sarr"].training_tokens == 2 * units["mtct"].training_tokens  # two rounds, nothing rejected
    assert units["mtct"].flops("self-labelling") == 0 < units["sarr"].flops("self-labelling")
    assert {card.name for card in CARDS} | {"this machine"} == set(found.elapsed)
    # Of a model of 2.3 million parameters a tree pass takes about 2 + 2 FLOPs a parameter and token, and attention's.
    per_token = units["mtct"].flops("training") / units["mtct"].training_tokens
    assert 8e6 < per_token < 12e6
    assert all(one.memory.total < 3e9 and one.total_seconds("this machine") > 0 for one in found.units)
    assert found.to_json()["hardware"][0]["fits"] is True


def test_eight_billion_parameters_need_a_large_card(tmp_path, demo):
    preview, _ = demo
    text = '{"model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, '
    text += '"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 151674}'
    config = f'{{"model_type": "internvl", "vision_config": {{}}, "text_config": {text}, "tie_word_embeddings": false}}'
    (tmp_path / "config.json").write_text(config)
    model = read_shape(tmp_path)
    _, paths, _ = read_paths(preview.config, preview.images)
    paper = {"model": {"dtype": "bfloat16", "lora": {"dropout": 0.05}}, "training": {"stage": {"micro_batch": 8}}}
    settings = RunConfig.model_validate({"name": "x", "data": {"drawn": {}}, **paper})
    memory = peak_memory(METHODS["mtct"], settings, model, paths)
    assert 15.7e9 < memory.weights < 16.0e9  # 15.9 GB on the hub
    assert 0.3e9 < memory.adapter < 0.5e9  # 24 million parameters of rank 8, 16 bytes each
    h200 = next(card for card in CARDS if card.name == "H200").hardware(settings)
    assert h200.holds(memory.total) and h200.flops == 989e12
    small = replace(h200, memory=16 * 10**9)
    assert small.holds(memory.total) is False and replace(h200, memory=None).holds(memory.total) is None


def test_a_missing_tokenizer_or_an_unknown_family_is_one_line(checkpoint, tmp_path):
    preview = preview_run(load_config("demo", [f"model.checkpoint={checkpoint}"]))
    found = predict_run(preview.config, preview.images, preview.units, preview.costs)
    assert found == f"{checkpoint}: its tokens cannot be counted (no tokenizer.json)"
    overrides = ["model.checkpoint=nobody/nothing-at-all", "model.hub=true"]
    preview = preview_run(load_config("demo", overrides))
    found = predict_run(preview.config, preview.images, preview.units, preview.costs)
    assert "is not on this machine: hf download nobody/nothing-at-all" in found


def test_seconds_are_bound_by_arithmetic_or_by_reading():
    fast = Hardware("x", 1e12, 1e9, None, replace(CPU, decoding=1.0, prompts=0.5, seconds_a_layer=1e-3), "")
    phase = Phase("label", flops=10**12, decoding_flops=10**12, steps=10, bytes_read=5 * 10**9)
    assert fast.seconds(phase, layers=4) == pytest.approx(2 + 5 + 0.04)
    assert replace(fast, bandwidth=None).seconds(phase, layers=4) == pytest.approx(2 + 1 + 0.04)


def test_workers_wait_for_parents_and_take_the_longest_path_first():
    seconds = {"short": 1.0, "parent": 4.0, "child": 3.0, "other": 5.0}
    needs = {"short": (), "parent": (), "child": ("parent",), "other": ()}
    assert elapsed(seconds, needs, workers=1, starting=2.0) == 2 + 13
    assert elapsed(seconds, needs, workers=2, starting=0.0) == 7  # parent and child beside other and short
    assert elapsed(seconds, needs, workers=9, starting=0.0) == 7
    assert elapsed({}, {}, workers=1, starting=3.0) == 0.0  # nothing to do, no worker begins


def test_cards_are_known_by_what_their_driver_calls_them():
    assert known_card("NVIDIA H100 80GB HBM3").name == "H100"
    assert known_card("NVIDIA A100-SXM4-80GB").name == "A100-80G"
    assert known_card("NVIDIA GeForce RTX 4090") is None


def test_the_machines_rate_is_a_number_of_this_century():
    assert 1e8 < matmul_flops(1) < 1e14


def fake_times(folder, times):
    for name, when in times.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (when, when))


def test_a_units_files_tell_how_long_its_phases_took(tmp_path):
    fake_times(tmp_path / "first", {"unit.json": 100, "training.jsonl": 130, "stage.json": 131, "done": 150})
    assert measured_seconds(tmp_path / "first") == {"training": 30, "answering": 20}
    rounds = {"unit.json": 0, "done": 100, "training.jsonl": 99}
    for number, began in ((1, 0), (2, 40)):
        rounds |= {f"round-{number}/journal-0.jsonl": began + 10, f"round-{number}/training.jsonl": began + 25}
        rounds |= {f"round-{number}/stage.json": began + 40}
    fake_times(tmp_path / "rounds", rounds)
    assert measured_seconds(tmp_path / "rounds") == {"self-labelling": 20, "training": 30, "answering": 50}


@pytest.mark.slow
def test_a_finished_run_is_compared_unit_by_unit_and_calibrates_the_model(tmp_path):
    """The tiny preset for real: after calibration the sums meet."""
    config = load_config("tiny", ["methods=cls,mtct_sarr"])
    run_experiment(config, tmp_path / "run")
    rows, hardware = compare_with_run(tmp_path / "run")
    assert {(row.unit, row.group) for row in rows} == {
        ("sketch-cls-seed0", "training"),
        ("sketch-cls-seed0", "answering"),
        ("sketch-mtct-seed0", "training"),
        ("sketch-mtct-seed0", "answering"),
        ("sketch-mtct_sarr-seed0", "training"),
        ("sketch-mtct_sarr-seed0", "self-labelling"),
        ("sketch-mtct_sarr-seed0", "answering"),
    }
    assert all(row.measured > 0 and row.predicted <= row.at_most for row in rows)
    fitted = calibrated(rows, hardware).shares
    training = [row for row in rows if row.group == "training"]
    ours = sum(row.flops for row in training) / (hardware.flops * fitted.training)
    assert ours == pytest.approx(sum(row.measured for row in training))
