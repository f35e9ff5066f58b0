"""The real executor on the smallest of everything: what it leaves, and that nothing but `seconds` ever differs."""

import csv
import json
import math
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics.pairwise import cosine_distances
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.chat_server import FaultPlan, ServerSettings, running_server
from tests.evaluation.questions import answers_of
from tests.evaluation.small import write_chains
from tests.forks import typed
from tests.mllm.reference import Spoken, nll_alone
from tests.training.small import chain_of

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.pairs import Pair, Side, write_pairs
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample, balanced
from throughline.domains.views import load_sample
from throughline.evaluation import selection
from throughline.evaluation.examples import draw_examples, with_labels
from throughline.evaluation.folds import leave_out
from throughline.experiment import run
from throughline.experiment.config_files import load_config
from throughline.experiment.engine import worker
from throughline.experiment.forecast import Forecast, forecast_run
from throughline.experiment.run import FinishedRun, run_experiment
from throughline.metrics.intervals import bootstrap_generator, hierarchical_bootstrap
from throughline.mllm import sampling as sampler
from throughline.mllm.chat import user_turn
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.lora import load_adapter
from throughline.mllm.sampling import Continuation
from throughline.questions.question_set import make_question_set
from throughline.questions.wording import with_options
from throughline.reporting.estimates import summarise
from throughline.reporting.groups import groups
from throughline.reporting.page import write_page
from throughline.runs.folder import PIXELS, begin_unit, remove_pixels
from throughline.runs.reader import read_run
from throughline.teaching import endpoint
from throughline.training import trainer

pytestmark = pytest.mark.slow

METHODS = ["cls_matched", "mtct_sarr"]  # and mtct, which both need
UNITS = {"mtct", "mtct_sarr", "cls_matched"}
ADAPTER = "adapter/adapter_model.safetensors"
BRIEF = "evaluation.answering.answers=[likelihood]"
"""Where it is no matter how a model answers."""
Run = Callable[..., FinishedRun]


@pytest.fixture(scope="module")
def config_file(tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four training images of two domains, fifteen of the target, chains for all, two rounds."""
    folder = tmp_path_factory.mktemp("config")
    values = {
        "data": {"images": str(tiny_images.root), "targets": ["sketch"]},
        "model": {"checkpoint": str(tiny_checkpoint), "device": "cpu"},
        "chains": {"journal": str(write_chains(tiny_images.root, folder / "journal-0.jsonl"))},
        "methods": METHODS,
        "training": {
            "rounds": 2,
            "rejected": "keep_last",  # what a random model writes is never accepted
            "self_labelling": {"temperature": 0.7, "max_new_tokens": 4},
            "stage": {"epochs": 1, "batch": 8, "micro_batch": 8, "lr": 5e-3, "save_steps": 2},
        },
        "evaluation": {"answering": {"batch": 15, "label_tokens": 3, "chain_tokens": 4}},
    }
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def results(folder: Path) -> list[dict[str, Any]]:
    """The lines of results.jsonl but for how long they took."""
    rows = read_json_lines(folder / "results.jsonl")
    assert all(row.pop("seconds") >= 0 for row in rows)
    return rows


def folder_of(finished: FinishedRun, method: str) -> Path:
    (unit,) = [unit for unit in finished.units if unit.method == method]
    return finished.folder / "units" / unit.name


def steps_of(finished: FinishedRun, method: str) -> tuple[int, int]:
    found = json.loads((folder_of(finished, method) / "stage.json").read_text())
    return found["optimiser_steps"], found["cumulative_steps"]


# what a run leaves ------------------------------------------------------------------------------------------------


def test_there_is_a_line_for_every_method_answer_split_and_round(undisturbed: FinishedRun) -> None:
    rows = results(undisturbed.folder)
    found = [(row["method"], row["answer"], row["split"], row["round"]) for row in rows]
    expected = {
        (method, answer, split, number)
        for method in UNITS
        for answer in ("label", "reasoning", "likelihood")
        for split in ("in", "out", "all")
        for number in ([None, 1, 2] if method == "mtct_sarr" else [None])
    }
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert {(row["split"], row["n"]) for row in rows} == {("in", 12), ("out", 3), ("all", 15)}


def test_predictions_are_the_whole_target_and_say_what_the_results_say(
    undisturbed: FinishedRun, tiny_images: ImageSet
) -> None:
    for method in UNITS:
        predictions = read_json_lines(folder_of(undisturbed, method) / "predictions.jsonl")
        target = [one.id for one in tiny_images.in_domain("sketch")]
        for answer in ("label", "reasoning", "likelihood"):
            own = [p for p in predictions if p["answer"] == answer]
            assert [p["sample_id"] for p in own] == target
            (line,) = [
                row
                for row in results(undisturbed.folder)
                if (row["method"], row["answer"], row["split"], row["round"]) == (method, answer, "all", None)
            ]
            assert line["correct"] == sum(p["predicted"] in p["labels"] for p in own)


def test_the_last_round_is_the_finished_model(undisturbed: FinishedRun) -> None:
    folder = folder_of(undisturbed, "mtct_sarr")
    last, finished = (path / "predictions.jsonl" for path in (folder / "round-2", folder))
    assert last.read_text() == finished.read_text()
    first = (folder / "round-1" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert first != (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def test_the_matched_control_takes_the_steps_of_the_stages_and_the_rounds(undisturbed: FinishedRun) -> None:
    assert steps_of(undisturbed, "mtct") == (3, 3)
    assert steps_of(undisturbed, "mtct_sarr") == (6, 9)
    assert steps_of(undisturbed, "cls_matched") == (9, 9)


def test_each_of_an_images_chains_is_an_example(here: Run, config_file: Path, tmp_path: Path) -> None:
    """Two chains of most images, one of the others; steps are counted before."""
    lines = (config_file.parent / "journal-0.jsonl").read_text().splitlines()
    seconds = []
    for line in map(json.loads, lines):
        if line["kind"] == "candidate" and not line["sample_id"].endswith("/0.png"):
            text = line["text"].replace("A picture.", "Another picture.")
            seconds.append(json.dumps(line | {"key": f"second {line['key']}", "candidate": 1, "text": text}))
    journal = tmp_path / "journal-0.jsonl"
    journal.write_text("\n".join([*lines, *seconds]) + "\n")
    words = (f"chains.journal={journal}", "methods=mtct,cls", BRIEF)
    run_of_two = here(tmp_path / "two", *words, "chains.per_image=2")
    rows = read_json_lines(run_of_two.folder / "chains" / "accepted.jsonl")
    assert len(rows) == 2 * len({row["sample_id"] for row in rows}) - len({r["sample_id"][:-6] for r in rows})
    config = load_config(str(config_file), (*words, "chains.per_image=2"))
    inside = leave_out(read_images(Path(config.data.images)), ("sketch",), 0).train
    examples = sum(1 + (not one.id.endswith("/0.png")) for one in inside)
    assert steps_of(run_of_two, "mtct") == (math.ceil(examples / 8),) * 2
    assert steps_of(run_of_two, "cls") == (3, 3)  # labels have no chain to repeat
    (most,) = (c for n, c in run.preview_run(config).costs.items() if "mtct" in n)
    assert (most.optimiser_steps, most.images_with_chain) == (math.ceil(examples / 8), len(inside))


def test_loss_lines_cover_every_stage(undisturbed: FinishedRun) -> None:
    lines = {method: read_json_lines(folder_of(undisturbed, method) / "training.jsonl") for method in UNITS}
    assert {method: [(line["round"], line["step"]) for line in found] for method, found in lines.items()} == {
        "mtct": [(0, 2), (0, 3)],
        "mtct_sarr": [(1, 2), (1, 3), (2, 2), (2, 3)],
        "cls_matched": [(0, step) for step in (2, 4, 5, 6, 8, 9)],
    }
    assert {tuple(sorted(line["losses"])) for line in lines["mtct_sarr"]} == {("chain", "label")}
    assert {tuple(line["losses"]) for line in lines["cls_matched"]} == {("label",)}


def test_nothing_is_left_lying_about(undisturbed: FinishedRun) -> None:
    assert not list(undisturbed.folder.rglob("checkpoint-*"))
    assert not list(undisturbed.folder.rglob("*.torn"))
    assert not [path for path in undisturbed.folder.rglob(".*") if path.name not in {".lock", ".workers.lock"}]


# the same again ---------------------------------------------------------------------------------------------------


def test_another_seed_gives_other_weights(here: Run, undisturbed: FinishedRun, tmp_path: Path) -> None:
    other = here(tmp_path / "other", "seeds=1", "methods=mtct", BRIEF)
    assert (folder_of(other, "mtct") / ADAPTER).read_bytes() != (folder_of(undisturbed, "mtct") / ADAPTER).read_bytes()


class Stopped(Exception):
    """Somebody pulled the plug."""


def test_stopped_at_random_writes_and_started_again_it_ends_with_the_same(
    here: Run, undisturbed: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of a run is written atomically but adapters, checkpoints and journals; it stops before one of them.
    Nothing but `seconds` differs."""
    torch.manual_seed(99)  # whatever a process did before
    moments = random.Random(1)
    real, folder = tempfile.mkstemp, tmp_path / "run"
    for _ in range(5):
        left = [moments.randint(2, 40)]

        def stopping(*arguments: Any, left: list[int] = left, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Stopped
            return real(*arguments, **options)

        monkeypatch.setattr("throughline.core.files.tempfile.mkstemp", stopping)
        try:
            here(folder)
        except Stopped:
            continue
        break
    monkeypatch.setattr("throughline.core.files.tempfile.mkstemp", real)
    again = here(folder)
    assert results(folder) == results(undisturbed.folder)
    for method in UNITS:
        for name in ("predictions.jsonl", "training.jsonl", ADAPTER):
            first, second = (folder_of(one, method) / name for one in (undisturbed, again))
            assert first.read_bytes() == second.read_bytes()
    test_nothing_is_left_lying_about(again)


def test_units_share_decoded_images_until_the_run_is_finished(
    here: Run, undisturbed: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    kept: list[int] = []
    monkeypatch.setattr(
        "throughline.mllm.images.load_sample", lambda sample: decoded.append(sample.path.name) or load_sample(sample)
    )
    monkeypatch.setattr(run, "remove_pixels", lambda folder: kept.append(files_below(folder)) or remove_pixels(folder))
    with_cache = here(tmp_path / "with", "methods=cls,mtct")
    assert len(decoded) == 24 + 15
    assert kept == [24 + 15]
    without = here(tmp_path / "without", "methods=cls,mtct", "data.cache_gb=0")
    assert len(decoded) == 3 * (24 + 15)
    assert kept[1] == files_below(with_cache.folder) == 0
    assert results(with_cache.folder) == results(without.folder)


def files_below(run_folder: Path) -> int:
    return sum(path.is_file() for path in (run_folder / PIXELS).rglob("*"))


def test_two_workers_give_what_one_gives(undisturbed: FinishedRun, config_file: Path, tmp_path: Path) -> None:
    """Two workers, loaders of their own, no cache: nothing of it changes a number, nor the name of a unit."""
    changes = ("workers=2", "training.stage.loader_workers=1", "data.cache_gb=0")
    finished = run_experiment(load_config(str(config_file), changes), tmp_path / "pair")
    assert finished.worked == 3
    assert results(finished.folder) == results(undisturbed.folder)


def test_killed_at_random_moments_and_started_again_it_ends_with_the_same(
    undisturbed: FinishedRun, config_file: Path, tmp_path: Path
) -> None:
    moments, folder, said = random.Random(2), tmp_path / "run", tmp_path / "said"
    words = ["run", str(config_file), "--out", str(folder)]
    kills = 0
    for _ in range(2):
        seen = files_in(folder)
        process = typed(words, said)
        wait_for(lambda seen=seen, process=process: files_in(folder) > seen + 3 or not process.is_alive())
        time.sleep(moments.uniform(0, 0.3))
        if process.is_alive():
            kills += 1
        process.kill()
        process.join()
    assert kills == 2, "it was over before it could be killed"
    last = typed(words, said)
    last.join(120)
    assert last.exitcode == 0, said.read_text()
    assert results(folder) == results(undisturbed.folder)


def files_in(folder: Path) -> int:
    """How far a run is: with its first unit the worker has begun."""
    return sum(len(files) for _, _, files in os.walk(folder / "units"))  # goes on where a folder vanishes meanwhile


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


# rounds -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, tiny_images: ImageSet) -> Callable[[Callable[[int, int], bool]], None]:
    """Puts chains into the model's mouth: `right(round, index of the image)` decides which conclude in the truth."""
    place = {one.image_sha256: (number, one.label) for number, one in enumerate(tiny_images.samples)}

    def says(right: Callable[[int, int], bool]) -> None:
        numbers: dict[str, int] = {}

        def sample(mllm: Any, prompts: Any, settings: Any, draws: Any, **_: Any) -> list[list[Continuation]]:
            out = []
            for prompt in prompts:
                key = prompt.images[0].key
                numbers[key] = numbers.get(key, 0) + 1
                index, label = place[key]
                text = chain_of(label, index) if right(numbers[key], index) else "No idea."
                out.append([Continuation((1,), text, "stop")])
            return out

        monkeypatch.setattr(sampler, "sample", sample)

    return says


def test_the_last_round_is_the_unit_and_answers_once(
    undisturbed: FinishedRun, tiny_checkpoint: Path, tiny_images: ImageSet
) -> None:
    """What the unit's own adapter says, asked anew, is what stands there as the unit's and as the last round's."""
    folder = folder_of(undisturbed, "mtct_sarr")
    last, whole = (read_json_lines(folder / name / "predictions.jsonl") for name in ("round-2", "."))
    assert last == whole
    mllm = load_mllm(str(tiny_checkpoint))
    load_adapter(mllm.model, folder / "adapter")
    config = load_config(str(undisturbed.folder / "config.yaml"))
    questions = make_question_set(tiny_images.classes, FIVE_STAGE)
    test = leave_out(tiny_images, ("sketch",), 0).test
    found = answers_of(mllm, test, config.evaluation.answering, questions)
    anew = json.loads(json.dumps([p.to_json() for p in found]))
    for answer in config.evaluation.answering.answers:
        assert [row for row in anew if row["answer"] == answer] == [row for row in whole if row["answer"] == answer]


def trained_in(finished: FinishedRun) -> list[tuple[int, int, int]]:
    rows = read_json_lines(folder_of(finished, "mtct_sarr") / "rounds.jsonl")
    assert [row["sampled"] for row in rows] == [24, 24]
    return [(row["round"], row["accepted"], row["trained"]) for row in rows]


def test_rejected_samples_leave_the_round_or_keep_their_last_chain(
    here: Run, says: Any, tiny_images: ImageSet, tmp_path: Path
) -> None:
    train = leave_out(tiny_images, ("sketch",), 0).train
    index = {one.id: number for number, one in enumerate(tiny_images.samples)}

    def right(number: int, place: int) -> bool:
        return place % (2 if number == 1 else 3) == 0

    accepted = [sum(right(number, index[one.id]) for one in train) for number in (1, 2)]
    assert accepted[0] != accepted[1]

    says(right)
    dropped = here(tmp_path / "drop", "training.rejected=drop", "methods=mtct_sarr", BRIEF)
    assert trained_in(dropped) == [(1, accepted[0], accepted[0]), (2, accepted[1], accepted[1])]
    says(right)
    kept = here(tmp_path / "keep", "training.rejected=keep_last", "methods=mtct_sarr", BRIEF)
    assert trained_in(kept) == [(1, accepted[0], 24), (2, accepted[1], 24)]

    says(right)
    labelled = here(tmp_path / "label", "training.rejected=label_only", "methods=mtct_sarr")
    assert trained_in(labelled) == [(1, accepted[0], 24), (2, accepted[1], 24)]
    unit = folder_of(labelled, "mtct_sarr")
    with_chain = [{row["sample_id"] for row in read_json_lines(unit / f"round-{n}" / "accepted.jsonl")} for n in (1, 2)]
    assert with_chain == [{one.id for one in train if right(n, index[one.id])} for n in (1, 2)]
    says(right)
    alone = here(tmp_path / "alone", "training.rejected=label_only", "training.rounds=1", "methods=sarr")
    [line] = read_json_lines(folder_of(alone, "sarr") / "rounds.jsonl")
    assert line["trained"] == line["accepted"] == accepted[0], "chains are all that it learns from"

    folder = folder_of(kept, "mtct_sarr")
    teacher = {row["sample_id"]: row["text"] for row in read_json_lines(kept.folder / "chains" / "accepted.jsonl")}
    own = {one.id: chain_of(one.label, index[one.id]) for one in train}
    for number in (1, 2):
        chains = {r["sample_id"]: r["text"] for r in read_json_lines(folder / f"round-{number}" / "accepted.jsonl")}
        for one in train:
            ever = any(right(earlier, index[one.id]) for earlier in range(1, number + 1))
            assert chains[one.id] == (own[one.id] if ever else teacher[one.id])


def test_a_round_without_an_accepted_chain_trains_nothing_and_says_so(here: Run, tmp_path: Path) -> None:
    finished = here(tmp_path, "training.rejected=drop", "methods=mtct_sarr", "training.rounds=1", BRIEF)
    (row,) = read_json_lines(folder_of(finished, "mtct_sarr") / "rounds.jsonl")
    assert (row["accepted"], row["trained"], row["adapter_changed"]) == (0, 0, False)
    assert steps_of(finished, "mtct_sarr") == (0, 3)


def test_a_round_that_trained_and_changed_no_output_is_an_error(
    here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trainer.train_stage

    def idle(*arguments: Any, folder: Path, **options: Any) -> Any:
        return (3, []) if folder.name == "round-1" else real(*arguments, folder=folder, **options)

    monkeypatch.setattr(trainer, "train_stage", idle)
    with pytest.raises(
        ThroughlineError, match=r"round 1 was trained, but the output did not change \[sketch-mtct_sarr"
    ):
        here(tmp_path, "methods=mtct_sarr", BRIEF)


# selection --------------------------------------------------------------------------------------------------------


def test_selection_asks_about_the_out_splits_of_the_sources_only(
    here: Run, tiny_images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    real = selection.answer_samples

    def noting(mllm: Any, samples: Any, *rest: Any, **options: Any) -> Any:
        asked.update(one.id for one in samples)
        return real(mllm, samples, *rest, **options)

    monkeypatch.setattr(selection, "answer_samples", noting)
    overrides = ("evaluation.selection=validation", "training.stage.epochs=2", "training.rounds=1")
    finished = here(tmp_path, *overrides, BRIEF, "methods=mtct_sarr")
    fold = leave_out(tiny_images, ("sketch",), 0)
    assert asked == {one.id for one in fold.validation}
    for method, names in (("mtct", ["epoch 1", "epoch 2"]), ("mtct_sarr", ["start", "round 1"])):
        lines = read_json_lines(folder_of(finished, method) / "validation.jsonl")
        assert [line["candidate"] for line in lines] == names
        (best,) = [line for line in lines if line["selected"]]
        assert best["accuracy"] == max(line["accuracy"] for line in lines)
        assert {line["n"] for line in lines} == {6}


def test_images_are_read_where_the_config_says(undisturbed: FinishedRun, tiny_images: ImageSet) -> None:
    assert undisturbed.sets[0].fingerprint() == read_images(tiny_images.root).fingerprint()


def test_a_method_with_keys_of_its_own_is_trained_as_in_a_config_of_its_own(
    here: Run, undisturbed: FinishedRun, tmp_path: Path
) -> None:
    own = "per_method={cls: {training.stage.epochs: 2, training.stage.lr: 1.0e-3}}"
    both = here(tmp_path / "both", "methods=[cls,mtct]", own)
    alone = here(tmp_path / "alone", "methods=cls", "training.stage.epochs=2", "training.stage.lr=1.0e-3")
    assert (steps_of(both, "cls"), steps_of(both, "mtct")) == ((6, 6), (3, 3))
    costs = run.preview_run(load_config(str(both.folder / "config.yaml"))).costs
    assert {name.split("-")[1]: cost.optimiser_steps for name, cost in costs.items()} == {"cls": 6, "mtct": 3}
    for other, method in ((alone, "cls"), (undisturbed, "mtct")):
        adapters = [folder_of(one, method) / "adapter" / "adapter_model.safetensors" for one in (both, other)]
        assert adapters[0].read_bytes() == adapters[1].read_bytes()
        rows, expected = ([r for r in results(of.folder) if r["method"] == method] for of in (both, other))
        assert rows == expected


# units of other kinds ---------------------------------------------------------------------------------------------


def test_a_users_own_method_of_two_stages_trains_from_its_parents_adapter(here: Run, tmp_path: Path) -> None:
    own = Path(__file__).parents[1] / "training" / "my_method.py"
    finished = here(tmp_path, f"methods={own}:PREFERENCE", BRIEF)
    assert [unit.method for unit in finished.units] == ["cls", "preference"]
    assert finished.units[1].needs == {"start": finished.units[0].name}
    assert steps_of(finished, "preference") == (3, 6)
    assert {row["method"] for row in results(tmp_path)} == {"cls", "preference"}


def test_counterfactual_preference_goes_on_from_mtct_with_the_pairs_of_its_sources(
    here: Run, config_file: Path, tiny_images: ImageSet, tmp_path: Path
) -> None:
    images = read_images(tiny_images.root)
    others = {label: images.classes[(place + 1) % 3] for place, label in enumerate(images.classes)}
    pairs = []
    for sample in images.samples:
        own, other = Side(sample, sample.label, chain_of(sample.label)), others[sample.label]
        near = next(s for s in images.samples if s.domain == sample.domain and s.label == other)
        pairs.append(Pair("thinking", own, Side(sample, other, chain_of(other))))
        pairs.append(Pair("perception", own, Side(near, other, None)))
    write_pairs(tmp_path, pairs)
    overrides = ("methods=cfp,cfp_thinking", f"chains.pairs={tmp_path}", BRIEF)
    finished = here(tmp_path / "run", *overrides)
    assert {unit.method for unit in finished.units} == {"mtct", "cfp", "cfp_thinking"}
    mtct, own, _ = (steps_of(finished, name) for name in ("mtct", "cfp", "cfp_thinking"))
    assert own == (6, mtct[1] + 6)  # 24 images of the sources, two pairs each, in batches of 8
    assert steps_of(finished, "cfp_thinking")[0] == 3
    lines = read_json_lines(folder_of(finished, "cfp") / "training.jsonl")
    assert set(lines[0]["losses"]) == {"chosen", "rejected"}
    assert lines[0]["loss"] < math.log(2) + 0.1
    assert {row["method"] for row in results(tmp_path / "run")} == {"mtct", "cfp", "cfp_thinking"}
    preview = run.preview_run(load_config(str(config_file), overrides))
    assert {unit.method: preview.costs[unit.name].optimiser_steps for unit in preview.units}["cfp"] == 6
    assert isinstance(forecast_run(preview), Forecast)


def test_preference_selects_among_its_epochs_and_says_what_its_pairs_lack(
    here: Run, tiny_images: ImageSet, tmp_path: Path
) -> None:
    images = read_images(tiny_images.root)
    others = {label: images.classes[(place + 1) % 3] for place, label in enumerate(images.classes)}
    pairs = [
        Pair("perception", Side(own, own.label, chain_of(own.label)), Side(other, other.label, None))
        for own in images.samples
        for other in images.samples
        if other.domain == own.domain and other.label == others[own.label] and other.id[-5] == own.id[-5]
    ]
    write_pairs(tmp_path, pairs)
    asked = ("methods=cfp_perception", f"chains.pairs={tmp_path}", "training.stage.epochs=2", BRIEF)
    finished = here(tmp_path / "run", *asked, "evaluation.selection=validation")
    lines = read_json_lines(folder_of(finished, "cfp_perception") / "validation.jsonl")
    assert [line["candidate"] for line in lines] == ["epoch 1", "epoch 2"]
    with pytest.raises(ThroughlineError, match="needs a chain about the other image"):
        here(tmp_path / "symmetric", *asked, "training.preference.symmetric=true")
    with pytest.raises(ThroughlineError, match="no pair is of the source percption"):
        here(tmp_path / "weights", *asked, "training.preference.weights={percption: 2}")


def test_a_method_that_needs_pairs_says_so(here: Run, tmp_path: Path) -> None:
    with pytest.raises(ThroughlineError, match=r"cfp learn.* from preference pairs, and the config names none"):
        here(tmp_path / "run", "methods=cfp")


def test_a_unit_runs_the_stages_that_no_other_unit_has_run(here: Run, tmp_path: Path) -> None:
    """Three stages of which the first is another method's: the second one works in a folder of its own."""
    own = tmp_path / "own.py"
    own.write_text(
        "from throughline.training.methods import LABELS, Method\n"
        "from throughline.training.stages.sft import Sft\n"
        "THRICE = Method('thrice', (Sft(LABELS), Sft(LABELS), Sft(LABELS)), 'labels, three times')\n"
    )
    finished = here(tmp_path / "run", f"methods={own}:THRICE", BRIEF)
    folder = folder_of(finished, "thrice")
    assert steps_of(finished, "thrice") == (3, 9)
    mark = json.loads((folder / "stage-2" / "stage.json").read_text())
    assert (mark["optimiser_steps"], mark["cumulative_steps"]) == (3, 6)


WORDINGS = "factors={wording: {paper: {}, short: {questions.label: 'Name it: {options}'}}}"


def test_units_that_differ_in_one_factor_run_in_one_plan_and_resume(
    here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two wordings of the label question, evaluated only; stopped after the first, the second runs alone."""
    overrides = ("methods=zero_shot", WORDINGS)
    undisturbed = here(tmp_path / "undisturbed", *overrides)
    assert [(unit.kind, unit.factors) for unit in undisturbed.units] == [
        ("evaluate", {"wording": "paper"}),
        ("evaluate", {"wording": "short"}),
    ]
    rows = results(undisturbed.folder)
    assert {row["factors"]["wording"] for row in rows} == {"paper", "short"}
    said = [read_json_lines(undisturbed.folder / "units" / u.name / "predictions.jsonl") for u in undisturbed.units]
    assert said[0] != said[1]

    begun: list[str] = []
    real = begin_unit

    def begin_one(folder: Path, unit: Any) -> Path:
        if begun:
            raise Stopped
        begun.append(unit.name)
        return real(folder, unit)

    with monkeypatch.context() as patch:
        patch.setattr(worker, "begin_unit", begin_one)
        with pytest.raises(Stopped):
            here(tmp_path / "stopped", *overrides)
    resumed = here(tmp_path / "stopped", *overrides)
    assert resumed.worked == 1
    assert results(resumed.folder) == rows


def test_a_factor_of_asking_asks_one_adapter(here: Run, undisturbed: FinishedRun, tmp_path: Path) -> None:
    """Its answers are those of a unit that trains and asks, and a smaller sample is a part of them."""
    asked = "factors={asked: {all: {}, few: {evaluation.sample.per_class: 1, evaluation.answering.answers: [label]}}}"
    finished = here(tmp_path / "run", "methods=mtct_sarr", asked)
    run = read_run(finished.folder)
    assert run.faults == ()
    by_level = {
        (unit.unit.method, unit.unit.factors.get("asked")): unit for unit in run.units.values() if unit.predictions()
    }
    assert set(by_level) == {(method, level) for method in ("mtct", "mtct_sarr") for level in ("all", "few")}
    for method in ("mtct", "mtct_sarr"):
        whole, few = (by_level[method, level] for level in ("all", "few"))
        there = read_run(undisturbed.folder).units[folder_of(undisturbed, method).name]
        assert (whole.steps, whole.images) == (there.steps, there.images)
        asking = json.loads((whole.folder / "cost.json").read_text())["seconds"]
        assert whole.seconds == pytest.approx(asking + run.units[whole.unit.needs["start"]].seconds)
        rows = list(whole.predictions())
        assert rows == list(there.predictions())
        said = {row.sample_id: row for row in rows if row.answer == "label"}
        assert [row.answer for row in few.predictions()] == ["label"] * 3
        assert all(row.predicted == said[row.sample_id].predicted for row in few.predictions())


def test_labelled_examples_are_levels_of_a_factor(here: Run, tmp_path: Path) -> None:
    """Every kind of choice and layout; no shots are the question alone, and the asked images are the same for all."""
    kinds = {
        "none": "shots: 0",
        "random": "shots: 2",
        "shuffled": "shots: 2, labels: shuffled",
        "text": "shots: 2, pictures: false",
        "ordinal": "shots: 2, layout: ordinal",
        "nearest": "shots: 2, choice: nearest, domains: sources",
        "spread": "shots: 2, choice: spread, domains: [photo], order: 1",
        "blank": "shots: 2, pictures: blank",
    }
    levels = ", ".join(f"{name}: {{evaluation.examples: {{{keys}}}}}" for name, keys in kinds.items())
    few = ("evaluation.sample.per_class=2", "evaluation.answering.answers=[likelihood,label]")
    finished = here(tmp_path / "run", "methods=zero_shot", f"factors={{examples: {{{levels}}}}}", *few)
    plain = here(tmp_path / "plain", "methods=zero_shot", *few)
    frame = read_run(finished.folder).frames.results
    assert set(frame["examples"]) == set(kinds) and set(frame[frame["split"] == "all"]["n"]) == {6}
    said = {
        unit.unit.factors["examples"]: [(row.sample_id, row.probabilities) for row in unit.predictions()]
        for unit in read_run(finished.folder).units.values()
    }
    (alone,) = read_run(plain.folder).units.values()
    assert said.pop("none") == [(row.sample_id, row.probabilities) for row in alone.predictions()]
    assert len({str(rows) for rows in said.values()}) == len(said)


def test_controls_answer_for_the_examples_that_stand_in_the_prompt(
    here: Run, tiny_images: ImageSet, tiny_mllm: Mllm, tmp_path: Path
) -> None:
    """Votes by scikit-learn's distances between projected features; retrieval over the whole pool; the share of the
    class among the labels shown. An image that cannot be read is asked about in vain, and is no example."""
    kinds = {
        "shown": "shots: 4",
        "knn": "shots: 4, vote: 3",
        "shuffled": "shots: 4, labels: shuffled, vote: 1",
        "retrieval": "shots: 2, choice: nearest, vote: 1",
    }
    levels = ", ".join(f"{name}: {{evaluation.examples: {{{keys}}}}}" for name, keys in kinds.items())
    few = ("evaluation.sample.per_class=2", "evaluation.answering.answers=[likelihood,label]", "methods=zero_shot")
    torn = tmp_path / "images"
    shutil.copytree(tiny_images.root, torn)
    asked = balanced(tiny_images.in_domain("sketch"), 2, 0)
    lost = draw_examples([sample for sample in tiny_images.in_domain("sketch") if sample not in asked], 4, 0)[0]
    for sample in (asked[0], lost):
        (torn / sample.id).write_bytes(b"no image")
    images = read_images(torn)
    assert [sample.id for sample in balanced(images.in_domain("sketch"), 2, 0)] == [sample.id for sample in asked]
    finished = here(tmp_path / "run", f"data.images={torn}", f"factors={{examples: {{{levels}}}}}", *few)
    run = read_run(finished.folder)
    by_level = {unit.unit.factors["examples"]: list(unit.predictions()) for unit in run.units.values()}
    no_examples = {lost.id, *(sample.id for sample in asked)}
    pool = [sample for sample in images.in_domain("sketch") if sample.id not in no_examples]
    reader = ImageReader(tiny_mllm.chat)

    def features(sample: Sample) -> Any:
        with torch.no_grad():
            encoded = tiny_mllm.model.get_image_features(**reader.encode(sample).inputs, return_dict=True).pooler_output
        return torch.cat([own.flatten(0, -2) for own in encoded]).mean(dim=0).numpy()

    drawn = with_labels(draw_examples(pool, 4, 0))
    for rows in by_level.values():
        assert [row.sample_id for row in rows] == [sample.id for _ in range(2) for sample in asked]
    for level, examples, count in (
        ("knn", drawn, 3),
        ("shuffled", with_labels(draw_examples(pool, 4, 0), shuffled=True), 1),
        ("retrieval", with_labels(pool), 1),
    ):
        first, *others = by_level[level][:6]
        assert first.outcome == "error" and first.predicted is None and asked[0].id in first.text
        assert [row.predicted for row in by_level[level][6:]] == [row.predicted for row in (first, *others)]
        for row, sample in zip(others, asked[1:], strict=True):
            near = cosine_distances([features(sample)], [features(example) for example, _ in examples])[0].argsort()
            labels = [examples[place][1] for place in near[:count]]
            assert row.predicted == min(labels, key=lambda label: (-labels.count(label), label)), level
    frame = run.frames.results.query("split == 'all'").set_index(["examples", "answer"])
    assert set(frame["n"]) == {6} and set(frame.loc[["knn", "retrieval"], "errors"]) == {1}
    labels = [label for _, label in drawn]
    expected = np.mean([labels.count(sample.label) / 4 for sample in asked])
    assert frame.loc[("shown", "label"), "copied"] == pytest.approx(expected, abs=1e-6)
    assert frame.loc[["knn", "retrieval"], "copied"].isna().all()


def test_an_adapter_is_trained_on_the_shots_alone(here: Run, tiny_images: ImageSet, tmp_path: Path) -> None:
    """One that `cls` trains on the same images is the same: a set with these as its only source."""
    few = ("evaluation.sample.per_class=2", "evaluation.answering.answers=[likelihood]", "model.lora.dropout=0")
    shots = ("methods=zero_shot", "evaluation.examples={shots: 3, epochs: 2, seed: 1}")
    finished = here(tmp_path / "run", *few, *shots)
    (unit,) = finished.units
    folder = finished.folder / "units" / unit.name
    asked = balanced(tiny_images.in_domain("sketch"), 2, 0)
    drawn = draw_examples([sample for sample in tiny_images.in_domain("sketch") if sample not in asked], 3, 1)
    assert json.loads((folder / "stage.json").read_text())["images"] == 3
    for domain, samples in (("shots", drawn), ("sketch", asked)):
        for sample in samples:
            copied = tmp_path / "images" / domain / sample.label / Path(sample.id).name
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sample.path, copied)
    source = f"data.images={tmp_path / 'images'}"
    alone = here(tmp_path / "alone", "methods=cls", source, "training.stage.epochs=2", *few[1:])
    trained = load_file(folder_of(alone, "cls") / "adapter" / "adapter_model.safetensors")
    ours = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert ours.keys() == trained.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, trained[name], rtol=1e-2, atol=1e-5)
    assert any(value.count_nonzero() for name, value in ours.items() if "lora_B" in name)
    said = [row.probabilities for row in read_run(finished.folder).units[unit.name].predictions()]
    by_cls = [row.probabilities for row in read_run(alone.folder).units[folder_of(alone, "cls").name].predictions()]
    assert all(row == pytest.approx(other, rel=1e-2) for row, other in zip(said, by_cls, strict=True))
    before = (folder / "predictions.jsonl").read_bytes()
    (folder / "done").unlink()
    here(tmp_path / "run", *few, *shots)
    assert (folder / "predictions.jsonl").read_bytes() == before


def test_shots_train_without_chains_and_without_a_choice(here: Run, config_file: Path, tmp_path: Path) -> None:
    """Whatever the methods that train on source domains do with both."""
    journal = tmp_path / "journal-0.jsonl"
    every = Path(yaml.safe_load(config_file.read_text())["chains"]["journal"]).read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in every if "sketch/" not in line))
    shared = (f"chains.journal={journal}", "chains.coverage=shared", "evaluation.selection=validation", BRIEF)
    shots = ("methods=zero_shot", "evaluation.examples={shots: 3, epochs: 1}", "evaluation.sample.per_class=1")
    folder = folder_of(here(tmp_path / "run", *shared, *shots), "zero_shot")
    assert json.loads((folder / "stage.json").read_text())["images"] == 3
    assert not (folder / "validation.jsonl").exists()


def test_options_are_shuffled_for_each_image_and_classes_scored_under_their_names(here: Run, tmp_path: Path) -> None:
    factors = "factors={options: {fixed: {}, shuffled: {evaluation.options: shuffled}}}"
    few = ("methods=zero_shot", "evaluation.sample.per_class=2", "evaluation.answering.answers=[likelihood,label]")
    finished = here(tmp_path / "run", factors, *few)
    by_level = {unit.unit.factors["options"]: unit for unit in read_run(finished.folder).units.values()}
    fixed, shuffled = (list(by_level[level].predictions()) for level in ("fixed", "shuffled"))
    plain = here(tmp_path / "plain", *few)
    (alone,) = read_run(plain.folder).units.values()
    assert fixed == list(alone.predictions())
    assert [(row.sample_id, row.answer) for row in shuffled] == [(row.sample_id, row.answer) for row in fixed]
    assert [row.probabilities for row in shuffled] != [row.probabilities for row in fixed]
    again = here(tmp_path / "again", "evaluation.options=shuffled", *few, "evaluation.sample.per_class=1")
    (fewer,) = read_run(again.folder).units.values()
    said = {(row.sample_id, row.answer): row for row in shuffled}
    for row in fewer.predictions():  # whatever else is asked
        other = said[row.sample_id, row.answer]
        assert row.predicted == other.predicted
        assert row.probabilities is None or row.probabilities == pytest.approx(other.probabilities, rel=1e-3)


def test_descriptions_are_asked_about_in_the_place_of_images(here: Run, tiny_mllm: Mllm, tmp_path: Path) -> None:
    """One sample a description, the same for every target; likelihoods are those of a plain pass over the words."""
    told = {"cat": ["tail", "two wheels"], "cup": ["handle"], "dog": ["no sail"]}
    keys = {"questions.frame": "Think.", "questions.descriptions": told}
    levels = {"ours": {}, "told": keys, "told described": {**keys, "evaluation.described": True}}
    changes = (f"factors={json.dumps({'prompt': levels})}", "data.targets=[photo, sketch]", "methods=zero_shot")
    answers = "evaluation.answering.answers=[label,likelihood,contrast]"
    finished = here(tmp_path / "run", *changes, answers, "evaluation.sample.per_class=1")
    run = read_run(finished.folder)
    assert run.faults == ()
    by_level = {(unit.unit.factors["prompt"], unit.unit.targets[0]): unit for unit in run.units.values()}
    for target in ("photo", "sketch"):
        rows = list(by_level["told described", target].predictions())
        assert [(row.sample_id, row.labels) for row in rows[:4]] == [
            (f"{name}/{number}", (name,)) for name, texts in told.items() for number in range(len(texts))
        ]
        assert [row.answer for row in rows] == ["label"] * 4 + ["likelihood"] * 4
        question = f"Think.\n{make_question_set(tuple(told)).label}"
        for row, words in zip(rows[4:], (text for texts in told.values() for text in texts), strict=True):
            turn = user_turn(f"An object has {words}. {question}", images=0)
            with torch.no_grad():
                nll = [
                    nll_alone(tiny_mllm.model, tiny_mllm.chat.processor, "internvl", Spoken(turn, [], name)).sum()
                    for name in told
                ]
            assert row.probabilities == pytest.approx(torch.softmax(-torch.stack(nll).double(), 0).tolist(), rel=2e-3)
    frame = run.frames.results
    described = frame[frame["prompt"] == "told described"]
    assert set(described["split"]) == {"all"} and set(described["n"]) == {4}
    (group,) = groups(run)
    for answer in ("label", "likelihood"):
        shown = summarise(group, "all", answer)["zero_shot, prompt=told described"]
        once = group.right("zero_shot, prompt=told described", answer)["photo", 0]
        alone = hierarchical_bootstrap({("photo", 0): once.to_numpy(float)}, bootstrap_generator())
        assert shown.n == 8 and shown.interval == alone
    assert set(group.predictions["domain"]) == {"photo", "sketch"}
    page = write_page(finished.folder).read_text()
    assert "told described" in page


def test_images_with_several_labels_are_asked_about_all_of_them(
    here: Run, tiny_images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_images.root, tmp_path / "images")
    table = tmp_path / "images" / "several.csv"
    rows = [f"{s.id},{s.domain},x,{s.label}|{tiny_images.classes[n % 3]}" for n, s in enumerate(tiny_images.samples)]
    table.write_text("\n".join(["image,domain,label,labels", *rows]))
    asked: list[str] = []
    ask = "throughline.questions.question_set.with_options"
    monkeypatch.setattr(ask, lambda *of: asked.append(with_options(*of)) or asked[-1])
    finished = here(tmp_path / "run", "methods=zero_shot", f"data={{images: {table}, targets: [sketch]}}")
    assert any("Name all that apply" in question for question in asked)
    (unit,) = read_run(finished.folder).units.values()
    images = read_images(table)
    assert {p.labels for p in unit.predictions()} == {s.labels for s in images.in_domain("sketch")}
    for p in unit.predictions():
        assert p.predicted is None or isinstance(p.predicted, tuple if p.answer != "likelihood" else str)
    assert {row["n"] for row in results(finished.folder) if row["split"] == "all"} == {15}
    with (finished.folder / "manifest.csv").open(newline="") as file:
        assert [row["labels"] for row in csv.DictReader(file)] == [
            "|".join(s.labels) for s in images.in_domain("sketch")
        ]


def test_two_models_of_one_run_give_what_each_gives_alone(here: Run, tiny_checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: 1.1 * value for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    of_base, of_other = (f"{{checkpoint: {folder}, device: cpu}}" for folder in (tiny_checkpoint, other))
    both = here(tmp_path / "both", "methods=zero_shot", f"model=[{of_base}, {of_other}]")
    alone = [here(tmp_path / str(n), "methods=zero_shot", f"model={own}") for n, own in enumerate((of_base, of_other))]
    assert results(both.folder) == sorted(
        (row for run in alone for row in results(run.folder)), key=lambda row: results(both.folder).index(row)
    )
    assert len(groups(read_run(both.folder))) == 2


def test_probes_stand_beside_the_answers_and_scikit_learn_gives_the_same(here: Run, tmp_path: Path) -> None:
    few = ("evaluation.sample.per_class=2", "evaluation.answering.answers=[likelihood]")
    finished = here(tmp_path / "run", "methods=zero_shot,probe", *few)
    assert [unit.kind for unit in finished.units] == ["evaluate", "probe"]
    run = read_run(finished.folder)
    assert run.faults == ()
    (group,) = groups(run)
    assert group.answers == ("likelihood",)
    answered, probed = (run.units[unit.name] for unit in finished.units)
    asked = [row.sample_id for row in answered.predictions()]
    kept = np.load(probed.folder / "features.npz")
    ids, train = kept["ids"].tolist(), [name for name in kept["ids"].tolist() if name not in asked]
    points = [name for name in kept.files if name not in {"ids", "labels", "groups"}]
    assert kept["labels"].tolist() == [name.split("/")[1] for name in ids] and kept["groups"].tolist() == ids
    assert points[:3] == ["tower", "projector", "layer 0, image"] and len(points) == 2 + 2 * 3
    for point in points:
        said = {row.sample_id: row.predicted for row in probed.predictions() if row.answer == f"probe: {point}"}
        assert list(said) == asked
        rows = kept[point].astype(np.float64)
        own = [ids.index(name) for name in train]
        labels = [name.split("/")[1] for name in train]
        model = make_pipeline(StandardScaler(), RidgeClassifier(class_weight="balanced"))
        grid = {"ridgeclassifier__alpha": [10.0**e for e in range(-1, 6)]}
        folds = list(StratifiedGroupKFold(3, shuffle=True, random_state=0).split(rows[own], labels, groups=train))
        fitted = GridSearchCV(model, grid, cv=folds, scoring="balanced_accuracy").fit(rows[own], labels)
        assert list(said.values()) == fitted.predict(rows[[ids.index(name) for name in asked]]).tolist(), point


def test_views_are_levels_of_a_factor(here: Run, tmp_path: Path) -> None:
    """The same samples under every view, in answers and probes; nothing covered is the image itself."""
    half, none = (f"{{evaluation.view: {{kind: occlusion_grey, severity: {share}}}}}" for share in (0.5, 0))
    levels = f"clean: {{}}, half: {half}, none: {none}"
    few = ("evaluation.sample.per_class=2", "evaluation.answering.answers=[likelihood]")
    finished = here(tmp_path / "run", "methods=zero_shot,cls,probe", f"factors={{view: {{{levels}}}}}", *few)
    assert len([unit for unit in finished.units if unit.kind == "validate"]) == 1
    run = read_run(finished.folder)
    said = {
        (unit.unit.method, unit.unit.factors["view"]): [
            (row.answer, row.sample_id, row.probabilities, row.predicted) for row in unit.predictions()
        ]
        for unit in run.units.values()
        if unit.unit.kind != "validate"
    }
    for method in ("zero_shot", "cls", "probe"):
        assert said[method, "none"] == said[method, "clean"] != said[method, "half"]
        assert [row[1] for row in said[method, "half"]] == [row[1] for row in said[method, "clean"]]
    with pytest.raises(ThroughlineError, match="fog has no severity 9"):
        here(tmp_path / "x", "evaluation.view={kind: fog, severity: 9}")


def test_a_model_behind_an_endpoint_is_asked_beside_a_checkpoint(
    here: Run, tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth of its calls fail; after a kill it is asked for nothing twice; no label goes out."""
    monkeypatch.setattr(endpoint.Patience, "delay", lambda self, attempt: 0.0)
    asked = tiny_images.in_domain("sketch")
    wrong, *others = asked
    labels = {sample.image_sha256: sample.label for sample in others}
    labels[wrong.image_sha256] = next(label for label in tiny_images.classes if label != wrong.label)
    log = tmp_path / "log.jsonl"
    settings = ServerSettings(labels=labels, faults=FaultPlan(errors_500=0.2), log=log)
    with running_server(settings) as server:
        models = f"model=[{{checkpoint: {tiny_checkpoint}, device: cpu}}, {{checkpoint: 'big@{server.url}'}}]"
        examples = "evaluation.examples={shots: 2, domains: sources}"
        finished = here(tmp_path / "run", "methods=zero_shot,cls", models, examples)
        counted = server.stats()
        assert counted["errors_500"] > 0 and counted["answered"] == 2 * len(asked)
        by_model = {unit.model: unit for unit in finished.units if unit.method == "zero_shot"}
        assert [unit.method for unit in finished.units if unit.model == "big"] == ["zero_shot"]
        before, folder = results(finished.folder), finished.folder / "units" / by_model["big"].name
        for name in ("done", "metrics.json", "predictions.jsonl"):
            (folder / name).unlink()
        assert results(here(tmp_path / "run", "methods=zero_shot,cls", models, examples).folder) == before
        assert server.stats()["answered"] == counted["answered"]
    units = read_run(finished.folder).frames.units.set_index(["model", "method"])
    assert units["seconds"].isna().to_dict() == {key: key[0] == "big" for key in units.index}
    assert units["dollars"].isna().all()  # nobody knows what this model costs
    frame = read_run(finished.folder).frames.results.query("split == 'all' and model == 'big'")
    assert dict(zip(frame["answer"], frame["accuracy"], strict=True)) == {"label": 14 / 15, "reasoning": 14 / 15}
    (local,) = (unit for model, unit in by_model.items() if model != "big")
    assert {row.answer for row in read_run(finished.folder).units[local.name].predictions()} == {
        "label",
        "reasoning",
        "likelihood",
    }
    body = next(iter(read_json_lines(log)))["body"]
    images = [part for turn in body["messages"] for part in turn["content"] if part["type"] == "image_url"]
    assert (body["model"], body["temperature"], len(images)) == ("big", 0.0, 3)


def test_an_endpoint_gets_the_options_in_another_order_for_each_image(
    here: Run, tiny_images: ImageSet, tmp_path: Path
) -> None:
    """The server names whatever stands first. Of images with the same bytes, each prompt is sent once."""
    root = tmp_path / "images"
    shutil.copytree(tiny_images.root, root)
    for number in range(5, 9):
        shutil.copy(root / "sketch/cat/0.png", root / f"sketch/cat/{number}.png")
    log = tmp_path / "log.jsonl"
    with running_server(ServerSettings(log=log)) as server:
        words = (f"data.images={root}", "evaluation.options=shuffled", "evaluation.answering.answers=[label]")
        asked = ("methods=zero_shot", f"model={{checkpoint: 'big@{server.url}'}}", *words)
        finished = here(tmp_path / "run", *asked)
        (folder,) = (finished.folder / "units").iterdir()
        before = (folder / "predictions.jsonl").read_bytes()
        (folder / "done").unlink()
        here(tmp_path / "run", *asked)
        assert (folder / "predictions.jsonl").read_bytes() == before
    (unit,) = read_run(finished.folder).units.values()
    rows = list(unit.predictions())
    assert len(rows) == 19 and {row.predicted for row in rows} == set(tiny_images.classes)
    sent = [row["body"]["messages"][0]["content"] for row in read_json_lines(log)]
    assert 15 < len(sent) == len({json.dumps(content) for content in sent}) <= 19
    first = {}
    for image, text in sent:
        order = text["text"].rpartition(": ")[2].split(", ")
        assert sorted(order) == sorted(tiny_images.classes)
        first[image["image_url"]["url"].rpartition(",")[2]] = order[0]  # the log has hashes for images
    named = {row.sample_id: row.predicted for row in rows}
    others = [sample for sample in tiny_images.in_domain("sketch") if sample.id != "sketch/cat/0.png"]
    assert [named[sample.id] for sample in others] == [first[sample.image_sha256] for sample in others]


def test_an_endpoint_is_asked_about_descriptions_without_an_image(here: Run, tmp_path: Path) -> None:
    told = "questions.descriptions={cat: [tail, two wheels], cup: handle, dog: no sail}"
    log = tmp_path / "log.jsonl"
    with running_server(ServerSettings(log=log)) as server:
        model = f"model={{checkpoint: 'big@{server.url}'}}"
        finished = here(tmp_path / "run", "methods=zero_shot", model, told, "evaluation.described=true")
    (unit,) = read_run(finished.folder).units.values()
    rows = [row for row in unit.predictions() if row.answer == "label"]
    assert [(row.sample_id, row.predicted) for row in rows] == [
        (name, "cat") for name in ("cat/0", "cat/1", "cup/0", "dog/0")
    ]
    sent = [turn["content"] for row in read_json_lines(log) for turn in row["body"]["messages"]]
    assert all([part["type"] for part in content] == ["text"] for content in sent)
    labelled = [content[0]["text"] for content in sent if content[0]["text"].endswith("dog")]
    assert sorted(text.partition(".")[0] for text in labelled) == sorted(
        f"An object has {words}" for words in ("tail", "two wheels", "handle", "no sail")
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["evaluation.answering.answers=[likelihood]"], "an endpoint tells no likelihoods"),
        (["methods=cls"], "a model behind an endpoint cannot be trained"),
    ],
)
def test_what_an_endpoint_cannot_do_is_told_before_it_is_asked(
    here: Run, tmp_path: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(ThroughlineError, match=said):
        here(tmp_path / "run", "methods=zero_shot", "model={checkpoint: 'big@http://127.0.0.1:9/v1'}", *overrides)


def test_a_set_of_one_domain_is_evaluated_zero_shot_beside_another_set(
    here: Run, tiny_images: ImageSet, tmp_path: Path
) -> None:
    only = tmp_path / "only"
    (only / "sketch").parent.mkdir()
    shutil.copytree(tiny_images.root / "sketch", only / "sketch")
    sets = f"data=[{{images: {tiny_images.root}, name: whole, targets: [sketch]}}, {{images: {only}, name: only}}]"
    finished = here(tmp_path / "run", "methods=zero_shot", sets)
    rows = {
        row["dataset"]: row for row in results(finished.folder) if (row["answer"], row["split"]) == ("label", "all")
    }
    assert set(rows) == {"whole", "only"}
    assert rows["only"]["n"] == 15
