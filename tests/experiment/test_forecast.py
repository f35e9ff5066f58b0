"""The forecast of a run against the loaded checkpoint, what autograd keeps, and a run that was really made."""

import os
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.mllm.tiny import FAMILIES, image_of, write_checkpoint
from transformers import AutoProcessor

from cost_model import calibrated, compare_with_run
from throughline.chains.formats import FIVE_STAGE
from throughline.chains.journal import JournalWriter
from throughline.chains.records import Candidate, make_header
from throughline.experiment.config_files import load_config
from throughline.experiment.costs import Cost
from throughline.experiment.environment import usable_memory
from throughline.experiment.forecast import (
    Forecast,
    forecast_run,
    make_workload,
    measured_seconds,
    read_workloads,
    sample_chains,
)
from throughline.experiment.hardware import CPU, Hardware, cards, known_card, matmul_flops, this_machine
from throughline.experiment.run import preview_run, run_experiment
from throughline.experiment.workload import NF4_BYTES, TRAINING, Phase, count_paths
from throughline.mllm.chat import EncodedPrompt, user_turn
from throughline.mllm.checkpoints import checkpoint_folder
from throughline.mllm.geometries import GEOMETRIES, train_tokenizer
from throughline.mllm.likelihood import label_trie
from throughline.mllm.load import load_mllm
from throughline.mllm.shapes import open_outline, outline_of
from throughline.questions.in_context import EXAMPLE_QUESTION
from throughline.questions.question_set import make_question_set
from throughline.questions.wording import class_name
from throughline.runs.folder import unit_folder
from throughline.training.methods import BOTH
from throughline.training.paths import PathRenderer

pytestmark = pytest.mark.slow

CLASSES = ("alarm_clock", "cat", "cat_tower", "dog")
CHAIN = "<SUMMARY>\none object.\n</SUMMARY>\n<CONCLUSION>\ncat\n</CONCLUSION>"


@pytest.fixture(scope="module")
def demo():
    """The demo's preview and forecast."""
    preview = preview_run(load_config("demo"))
    forecast = forecast_run(preview)
    assert isinstance(forecast, Forecast)
    return preview, forecast


def workload_of(*overrides):
    """The one workload of the demo with these overrides, or the line that says why there is none."""
    workloads = read_workloads(preview_run(load_config("demo", overrides)))
    return workloads if isinstance(workloads, str) else next(iter(workloads.values()))


@pytest.mark.parametrize("family", [*FAMILIES, "pocket"])
def test_paths_have_the_tokens_that_the_loaded_checkpoint_gives_them(family, tmp_path):
    """Prompts, label, chain and trie, to the token, from an outline without weights."""
    name = "pocket" if family == "pocket" else str(write_checkpoint(family, tmp_path / family))
    mllm = load_mllm(name)

    (_, chat), prompts = open_outline(str(checkpoint_folder(name))), make_question_set(CLASSES)
    image = chat.encode_image(image_of(3), "one")
    paths, typical = count_paths(chat, prompts, image, CLASSES, [CHAIN])

    chat, image = mllm.chat, mllm.chat.encode_image(image_of(3), "one")
    label, reasoning = user_turn(prompts.label), user_turn(prompts.reasoning)
    assert paths.label_prompt == len(chat.prompt(label, [image]).tokens)
    assert paths.reasoning_prompt == len(chat.prompt(reasoning, [image]).tokens)
    chain = chat.answered(reasoning, [image], CHAIN)
    assert abs(paths.chain - (len(chain.tokens) - chain.answer_start)) <= 1
    names = [class_name(name) for name in CLASSES]
    lengths = [len(path.tokens) - path.answer_start for path in (chat.answered(label, [image], n) for n in names)]
    assert abs(paths.label - sum(lengths) / len(lengths)) <= 1 and paths.longest_label == max(lengths)
    both = len(BOTH.tree(PathRenderer(chat, prompts), typical))
    assert abs(both - (paths.label_prompt + paths.label + paths.reasoning_prompt + paths.chain - paths.shared)) <= 2
    trie = label_trie(mllm, EncodedPrompt(label, [image]), names)
    assert paths.label_prompt + paths.trie == len(trie)
    assert paths.trie_inner == len({int(p) for branch in trie.branches for p in branch.predictors})


def test_tiles_are_those_that_the_processor_cuts_a_typical_image_into():
    whole = workload_of()
    assert whole.paths.tiles == 1 and not any("tiles" in note for note in whole.notes)
    cut = workload_of("model.tiles=4", "data.drawn.size=160")
    assert cut.paths.tiles == 5 and cut.paths.shared == whole.paths.shared + 4 * whole.plain.image_tokens
    assert "an image of 160 x 160 pixels, the mean, is cut into 5 tiles" in cut.notes


def test_every_unit_is_forecast_with_its_own_image_set_and_levels():
    wording = "factors={wording: {plain: {}, short: {questions.label: 'Name it: {options}'}}}"
    preview = preview_run(load_config("demo", [wording, "methods=cls"]))
    forecast = forecast_run(preview)
    plain, short = forecast.workloads
    assert short.paths.label_prompt < plain.paths.label_prompt and short.plain == plain.plain
    assert short.adapted == plain.adapted
    tokens = {unit.unit.factors["wording"]: unit.total("tokens", "training") for unit in forecast.units}
    assert tokens["short"] < tokens["plain"]


def test_chain_lengths_come_from_the_journal_the_describer_or_an_assumption(tmp_path):
    journal = tmp_path / "journal-0.jsonl"
    prompts, images = make_question_set(CLASSES), preview_run(load_config("demo")).sets[0]
    with JournalWriter(journal) as writer:
        writer.write(make_header(CLASSES, FIVE_STAGE, prompts.texts))
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
    assert sample_chains(from_journal, images)[0] == ("one two", "three")
    described, source = sample_chains(load_config("demo"), images)
    assert len(described) >= 300 and "describer" in source
    assumed = workload_of("methods=cls", "chains.teacher=null")
    assert 290 < assumed.paths.chain < 310 and "chain length: 300 tokens, an assumption of ours" in assumed.notes


def test_the_prefix_is_paid_for_once_whatever_is_asked(demo):
    cost = Cost(answers=900, images_measured=300)

    def asked(*ways):
        workload = workload_of(f"evaluation.answering.answers=[{','.join(ways)}]")
        return sum(phase.all_flops for phase in workload.phases("zero_shot", cost))

    prefix = demo[1].workloads[0].phases("zero_shot", cost)[0]
    assert prefix.name == "prompts"
    apart = asked("label") + asked("reasoning") + asked("likelihood")
    together = asked("label", "reasoning", "likelihood")
    # Beside image and class list, the likelihood finds the end of the label prompt run already.
    assert 2 * prefix.flops < apart - together < 2.2 * prefix.flops


def test_labelled_examples_are_tokens_of_prompts_once_a_batch_where_all_images_have_the_same():
    ask = ["evaluation.answering.answers=[label]", "evaluation.answering.batch=4", "evaluation.examples.shots=3"]
    alike, own, voting = (
        workload_of(*ask, f"evaluation.examples.{key}") for key in ("choice=random", "choice=nearest", "vote=1")
    )
    processor = AutoProcessor.from_pretrained(str(checkpoint_folder("pocket")))
    questions = alike.config.question_set(preview_run(alike.config).sets[0].classes, {})
    image = {"type": "image"}
    turns = [
        {"role": "user", "content": [image, {"type": "text", "text": EXAMPLE_QUESTION}]},
        {"role": "assistant", "content": [{"type": "text", "text": questions.class_names[0]}]},
    ] * 3 + [{"role": "user", "content": [image, {"type": "text", "text": questions.label}]}]
    text = processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    pictures = [image_of(n, 96, 96) for n in range(4)]
    (ids,) = processor(text=[text], images=pictures, crop_to_patches=False, max_patches=1)["input_ids"]
    shown = [place for place, token in enumerate(ids) if token == processor.image_token_id]
    begun = shown[-len(shown) // 4]  # up to the last image

    assert abs(alike.asked.label_prompt - len(ids)) <= 3  # a label may have one token more
    assert abs(alike.asked.begun - begun) <= 3 and alike.asked.begun_tiles == 3 and alike.asked.tiles == 4
    measured, batches = Cost(images_measured=10), 3
    tokens, tokens_own = (workload.phases("zero_shot", measured)[0].tokens for workload in (alike, own))
    assert tokens_own == 10 * own.asked.shared and tokens == tokens_own - (10 - batches) * alike.asked.begun
    # who trains sees no examples, and validation asks without them
    plain = workload_of(*ask[:2])
    assert alike.paths == plain.paths == plain.asked == voting.asked
    assert alike.phases("cls", Cost(training_samples=5)) == plain.phases("cls", Cost(training_samples=5))
    validated = Cost(images_validated=10)
    assert alike.phases("cls", validated)[0] == plain.phases("cls", validated)[0]
    assert plain.memory("zero_shot").asking < alike.memory("zero_shot").asking < own.memory("zero_shot").asking


def test_what_a_unit_does_depends_on_its_kind():
    shots = ("methods=zero_shot", "evaluation.examples={shots: 4, epochs: 5}", "data.targets=sketch")
    (unit,) = forecast_run(preview_run(load_config("demo", shots))).units
    assert unit.unit.kind == "few_shot" and unit.total("tokens", TRAINING) > 0 and unit.memory.activations > 0
    training, cost = workload_of("methods=cls"), Cost(images_measured=10)
    few = workload_of(*shots[:2])
    assert few.phases("zero_shot", Cost(training_samples=20), "few_shot") == training.phases(
        "cls", Cost(training_samples=20)
    )
    (probed,) = training.phases("probe", cost, "probe")
    assert probed.tokens == 10 * training.paths.label_prompt and probed.decoding_flops == 0
    asking, whole = training.memory("cls", "evaluate"), training.memory("cls")
    assert (asking.activations, asking.logits, asking.asking) == (0, 0, whole.asking)
    assert 4 * asking.adapter == whole.adapter > 0


def test_checkpointing_costs_a_forward_pass_and_saves_activations(demo):
    plain, saving = demo[1].workloads[0], workload_of("training.stage.gradient_checkpointing=true")
    training = [workload.phases("mtct", Cost(training_samples=10))[0].flops for workload in (plain, saving)]
    assert 1.2 < training[1] / training[0] < 1.45
    memory = [workload.memory("mtct") for workload in (plain, saving)]
    assert memory[1].activations < memory[0].activations / 2
    assert memory[0].weights == memory[1].weights


def test_asking_holds_the_folded_weights_and_a_whole_batch_of_prompts(demo):
    from throughline.mllm.lora import add_lora, folded

    def asking(method, *overrides):
        return workload_of(*overrides).memory(method).asking

    workload = demo[1].workloads[0]
    wrapped = add_lora(load_mllm("pocket").model, workload.config.model.lora, seed=0)
    before = {weight.data_ptr() for weight in wrapped.parameters()}
    with folded(wrapped):
        clones = sum(weight.nbytes for weight in wrapped.parameters() if weight.data_ptr() not in before)
    assert asking("mtct") - asking("zero_shot") == clones
    assert asking("mtct", "model.dtype=bfloat16") == asking("zero_shot", "model.dtype=bfloat16")
    only_vision = asking("mtct", "model.quantization=nf4") - asking("zero_shot", "model.quantization=nf4")
    assert 0 < only_vision < clones  # weights in 4 bits are not folded into
    one, ten = (asking("zero_shot", f"evaluation.answering.batch={batch}") for batch in (1, 10))
    assert ten == 10 * one
    # Whatever else a batch holds, its tiles are seen together.
    tiled = replace(workload, asked=replace(workload.asked, tiles=100))
    vision, batch = workload.plain.vision, workload.config.evaluation.answering.batch
    at_least = batch * 100 * workload.plain.patches * 2 * vision.mlp_width * 4
    assert tiled.memory("zero_shot").asking > at_least


def test_decoding_reads_four_bits_of_quantized_weights():
    def read(*overrides):
        workload = workload_of("model.dtype=bfloat16", "evaluation.answering.answers=[label]", *overrides)
        return workload, workload.phases("zero_shot", Cost(images_measured=1))[-1]

    (workload, whole), (_, quarter) = read(), read("model.quantization=nf4")
    saved = workload.plain.decoder.linears.weights * whole.steps * (2 - NF4_BYTES)
    assert whole.bytes_read - quarter.bytes_read == pytest.approx(saved, rel=1e-3)


@pytest.mark.parametrize("method", ["reasoning", "mtct"])
def test_activations_are_about_what_a_step_really_keeps(method):
    """Against autograd's own list of saved tensors, for the pocket checkpoint and dropout off."""
    from throughline.mllm.forward import score_trees
    from throughline.mllm.lora import add_lora

    workload = workload_of("training.stage.batch=2", "training.stage.micro_batch=2")
    mllm = load_mllm("pocket")
    wrapped = add_lora(mllm.model, workload.config.model.lora, seed=0).train()
    tree = workload.trees[method]
    weights = {weight.untyped_storage().data_ptr() for weight in wrapped.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = score_trees(wrapped, mllm.collate([[tree], [tree]])).loss_sum()
    assert loss.requires_grad
    real = sum(size for size, _ in kept.values())
    memory = workload.memory(method)
    assert 0.7 < (memory.activations + memory.logits) / real < 1.5


def test_every_unit_of_the_demo_has_tokens_flops_memory_and_seconds(demo):
    _, forecast = demo
    units = {unit.unit.method: unit for unit in forecast.units}

    def trained(method, quantity="tokens"):
        return units[method].total(quantity, "training")

    assert trained("zero_shot") == trained("zero_shot", "all_flops") == 0
    assert trained("cls") < trained("reasoning") < trained("mtct")
    assert trained("mtct_sarr") == 2 * trained("mtct")  # two rounds, nothing rejected
    assert units["mtct"].total("all_flops", "self-labelling") == 0 < units["sarr"].total("all_flops", "self-labelling")
    assert list(forecast.elapsed) == ["this machine", "A100-80G", "H100", "H200"]
    # Of a model of 2.3 million parameters a tree pass takes about 2 + 2 FLOPs a parameter and token, and attention's.
    assert 8e6 < trained("mtct", "all_flops") / trained("mtct") < 12e6
    assert all(unit.memory.total < 3e9 and unit.total_seconds("this machine") > 0 for unit in forecast.units)
    assert forecast.hardware[0].holds(forecast.memory)


def test_eight_billion_parameters_need_a_large_card():
    """InternVL3-8B's shape under the paper's settings, from its configuration."""
    overrides = ["model.dtype=bfloat16", "model.lora.dropout=0.05", "training.stage.micro_batch=8"]
    preview = preview_run(load_config("demo", overrides))
    geometry = GEOMETRIES["internvl3-8b"]
    tokenizer = train_tokenizer(["a red cup with a handle"], 300)
    config = geometry.config(tokenizer)
    processor = geometry.processor(tokenizer)
    memory = make_workload(preview.config, preview.sets[0], *outline_of(config, processor)).memory("mtct")
    assert 15.7e9 < memory.weights < 16.0e9  # 15.9 GB on the hub
    assert 0.3e9 < memory.adapter < 0.5e9  # 24 million parameters of rank 8, 16 bytes each
    h200 = cards(preview.config)[-1]
    assert h200.holds(memory.total) and h200.flops == 989e12
    small = replace(h200, memory=16 * 10**9)
    assert small.holds(memory.total) is False and replace(h200, memory=None).holds(memory.total) is None


def test_a_checkpoint_that_cannot_be_read_or_is_not_here_is_one_line(checkpoint):
    line = workload_of(f"model.checkpoint={checkpoint}")
    assert line.startswith(f"{checkpoint}: its configuration or its processor cannot be read (") and "\n" not in line
    line = workload_of("model.checkpoint=nobody/nothing-at-all", "model.hub=true")
    assert "is not on this machine: hf download nobody/nothing-at-all" in line


def test_seconds_are_bound_by_arithmetic_or_by_reading():
    fast = Hardware("x", 1e12, 1e9, None, replace(CPU, decoding=1.0, prompts=0.5, seconds_a_layer=1e-3), "")
    phase = Phase("label", flops=10**12, decoding_flops=10**12, steps=10, bytes_read=5 * 10**9)
    assert fast.seconds(phase, layers=4) == pytest.approx(2 + 5 + 0.04)
    assert replace(fast, bandwidth=None).seconds(phase, layers=4) == pytest.approx(2 + 1 + 0.04)


def test_a_run_takes_as_long_as_its_longest_path_or_its_work_shared_among_workers(demo):
    preview, alone = demo
    (here,) = (hardware for hardware in alone.hardware if hardware.name == "this machine")
    units = {unit.unit.method: unit.total_seconds("this machine") for unit in alone.units}
    assert alone.elapsed["this machine"] == pytest.approx(CPU.starting + sum(units.values()) / here.workers)
    many = forecast_run(replace(preview, config=load_config("demo", ["workers=9"])))
    units = {unit.unit.method: unit.total_seconds("this machine") for unit in many.units}
    paths = (units["mtct"] + units["mtct_sarr"], units["reasoning"] + units["sarr"])
    assert many.elapsed["this machine"] == pytest.approx(CPU.starting + max(paths))


def test_cards_are_known_by_what_their_driver_calls_them():
    config = load_config("demo")
    assert known_card("NVIDIA H100 80GB HBM3", config).name == "H100"
    assert known_card("NVIDIA A100-SXM4-80GB", config).name == "A100-80G"
    assert known_card("NVIDIA GeForce RTX 4090", config) is None


def test_the_workers_of_a_run_share_the_card_that_is_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "NVIDIA A100-PCIE-40GB")
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(total_memory=40 * 10**9))
    alone, shared = (this_machine(load_config("demo", ["model.device=auto", f"workers={n}"])) for n in (1, 2))
    assert (alone.memory, alone.workers, alone.flops) == (40 * 10**9, 1, known_card("A100", load_config("demo")).flops)
    assert alone.holds(30 * 10**9) and not shared.holds(30 * 10**9) and shared.holds(18 * 10**9)
    phase = Phase(TRAINING, flops=10**15)
    assert shared.seconds(phase, 0) == pytest.approx(2 * alone.seconds(phase, 0))


def test_a_container_with_less_memory_than_its_machine_counts(tmp_path):
    limit = tmp_path / "memory.max"
    whole = usable_memory(limit)
    limit.write_text("max\n")
    assert usable_memory(limit) == whole
    limit.write_text("1000\n")
    assert usable_memory(limit) == 1000


def test_the_machines_rate_is_a_number_of_this_century():
    assert 1e8 < matmul_flops(1024) < 1e14


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


def test_units_that_a_folder_has_finished_count_with_what_they_took(demo, tmp_path):
    preview, alone = demo
    cls = next(unit for unit in preview.units if unit.method == "cls")
    fake_times(unit_folder(tmp_path, cls), {"unit.json": 100, "training.jsonl": 700, "done": 1000})
    units = {unit.unit.method: unit for unit in forecast_run(preview, tmp_path).units}
    assert units["cls"].done and units["cls"].seconds["this machine"] == {"training": 600, "answering": 300}
    assert Counter(unit.done for unit in units.values()) == {True: 1, False: len(units) - 1}
    # The others are slower in the same proportion, and a unit that is done takes no more time.
    assert units["zero_shot"].total_seconds("this machine") == pytest.approx(300)
    cards = {unit.unit.method: unit.seconds["H100"] for unit in alone.units}
    assert all(unit.seconds["H100"] == cards[method] for method, unit in units.items())
    for unit in preview.units:
        fake_times(unit_folder(tmp_path, unit), {"unit.json": 100, "training.jsonl": 700, "done": 1000})
    assert forecast_run(preview, tmp_path).elapsed["this machine"] == 0


@pytest.mark.usefixtures("forked_workers")
def test_a_finished_run_is_compared_unit_by_unit_and_calibrates_the_model(tmp_path):
    """The tiny preset for real: after calibration the sums meet."""
    config = load_config("tiny", ["methods=cls,mtct_sarr", "data.drawn.per_class=1"])
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
