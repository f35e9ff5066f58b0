"""Feature-level methods in a run, on the drawn world and with a very small backbone."""

import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.chat_server import ServerSettings, running_server
from tests.evaluation.small import in_this_process

from throughline.baselines import frozen
from throughline.baselines.images import batches, image_readers
from throughline.baselines.learner import Learner
from throughline.baselines.network import Classifier, open_backbone
from throughline.baselines.settings import BaselineSettings
from throughline.baselines.training import predict
from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_json_lines
from throughline.domains.folders import read_images
from throughline.drawn.world import write_world
from throughline.experiment import run
from throughline.experiment.config_files import load_config
from throughline.experiment.run import FinishedRun, preview_run
from throughline.reporting.estimates import summarise
from throughline.reporting.groups import groups
from throughline.reporting.tables import headline_table, results_table
from throughline.runs.reader import read_run
from throughline.training.methods import FEATURE_LEVEL

timm = pytest.importorskip("timm", reason="the extra baselines is not installed")

SMALL = {
    "backbone": "test_efficientnet",
    "weights": "random",
    "image_size": 32,
    "steps": 5,
    "checkpoint_every": 2,
    "batch_per_domain": 4,
    "lr": 1e-3,
    "freeze_batch_norm": False,  # those of random weights are of no use
}
Run = Callable[..., FinishedRun]


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight drawn images, of which one domain is held out; every method."""
    folder = tmp_path_factory.mktemp("config")
    write_world(folder / "images", per_class=1, seed=0)
    values = {
        "data": {"images": str(folder / "images"), "name": "drawn", "targets": ["sketch"]},
        "model": {"device": "cpu"},
        "methods": list(FEATURE_LEVEL),
        "baselines": {**SMALL, "irm": {"anneal_steps": 2}},
        "evaluation": {"answering": {"answers": ["likelihood"], "batch": 16}},
    }
    path = folder / "trial.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def undisturbed(here: Run, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A whole run; read only."""
    return here(tmp_path_factory.mktemp("runs") / "undisturbed", "evaluation.selection=validation")


def folder_of(finished: FinishedRun, method: str) -> Path:
    (unit,) = [unit for unit in finished.units if unit.method == method]
    return finished.folder / "units" / unit.name


def results(folder: Path) -> list[dict[str, Any]]:
    """The lines of results.jsonl but for how long they took."""
    rows = read_json_lines(folder / "results.jsonl")
    assert all(row.pop("seconds") >= 0 for row in rows)
    return rows


def test_each_method_is_a_row_of_one_table(undisturbed):
    (group,) = groups(read_run(undisturbed.folder))
    summaries = summarise(group, "all", "likelihood")
    assert list(summaries) == ["erm", "irm", "mixstyle", "coral", "mldg", "swad", "smos"]
    assert all(row.n == 12 and row.errors == row.unparsed == 0 and row.interval for row in summaries.values())
    assert {line["model"] for line in results(undisturbed.folder)} == {"timm/test_efficientnet"}


def test_a_row_says_what_it_cost(undisturbed, here, tmp_path):
    """Four images of each of three domains in each of five steps."""
    run = read_run(undisturbed.folder)
    units = run.frames.units.set_index("method")
    backbone = open_backbone(BaselineSettings(**SMALL))
    head = (backbone.num_features + 1) * len(undisturbed.sets[0].classes)
    assert units["parameters"]["erm"] == sum(own.numel() for own in backbone.parameters()) + head
    mark = json.loads((folder_of(undisturbed, "erm") / "stage.json").read_text())
    assert mark["samples"] == 5 * 3 * 4
    assert units["images_a_second"]["erm"] == mark["samples"] / mark["seconds"]
    assert (units["seconds"] >= mark["seconds"])["erm"]
    frozen_run = here(tmp_path / "frozen", "methods=erm", "baselines.frozen=true")
    assert list(read_run(frozen_run.folder).frames.units["parameters"]) == [head]
    (group,) = groups(run)
    assert {"training images/s", "core hours"} <= set(results_table(group, "all", "likelihood", with_cost=True).columns)


def test_a_prediction_has_the_probabilities_of_all_classes(undisturbed):
    (images,) = undisturbed.sets
    rows = read_json_lines(folder_of(undisturbed, "coral") / "predictions.jsonl")
    assert [row["sample_id"] for row in rows] == [sample.id for sample in images.in_domain("sketch")]
    for row in rows:
        assert sum(row["probabilities"]) == pytest.approx(1)
        assert row["predicted"] == images.classes[int(np.argmax(row["probabilities"]))]


def test_the_checkpoint_that_is_best_on_the_sources_is_kept(undisturbed):
    lines = read_json_lines(folder_of(undisturbed, "erm") / "validation.jsonl")
    assert [line["candidate"] for line in lines] == ["step 2", "step 4", "step 5"]
    (best,) = [line for line in lines if line["selected"]]
    assert best["accuracy"] == max(line["accuracy"] for line in lines)
    assert set(best["domains"]) == {"cartoon", "painting", "photo"}


class Killed(BaseException):
    """Stands for a kill: nothing after it is run."""


@pytest.mark.parametrize(("method", "last_step"), [("irm", 1), ("irm", 2), ("swad", 3), ("smos", 4)])
def test_killed_at_any_step_and_started_again_it_ends_with_the_same(
    here, undisturbed, tmp_path, monkeypatch, method, last_step
):
    step = Learner.step

    def killing(*arguments: Any) -> float:
        if arguments[-1] == last_step:
            raise Killed
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", killing)
        with pytest.raises(Killed):
            here(tmp_path / "run", "evaluation.selection=validation", f"methods={method}")
    again = here(tmp_path / "run", "evaluation.selection=validation", f"methods={method}")
    for name in ("predictions.jsonl", "training.jsonl", "validation.jsonl", "weights.safetensors"):
        assert (folder_of(again, method) / name).read_bytes() == (folder_of(undisturbed, method) / name).read_bytes()
    assert not [*folder_of(again, method).glob("segment-*")] and not (folder_of(again, method) / "state.pt").exists()
    mark = json.loads((folder_of(again, method) / "stage.json").read_text())
    assert mark["samples"] == (5 - last_step // 2 * 2) * 3 * 4  # a checkpoint at every second step


def test_the_weights_of_swad_are_the_plain_mean_of_those_after_each_step_of_the_valley(here, tmp_path, monkeypatch):
    step, stored = Learner.step, []

    def storing(learner: Learner, *arguments: Any) -> float:
        value = step(learner, *arguments)
        stored.append({name: weights.clone() for name, weights in learner.network.state_dict().items()})
        return value

    monkeypatch.setattr(Learner, "step", storing)
    folder = folder_of(here(tmp_path / "run", "methods=swad", "baselines.swad.converge=2"), "swad")
    lines = read_json_lines(folder / "validation.jsonl")
    segments = [stored[0:2], stored[2:4], stored[4:5]]
    valley = [state for line, own in zip(lines, segments, strict=True) if line["selected"] for state in own]
    assert valley
    for name, weights in load_file(folder / "weights.safetensors").items():
        mean = np.mean([state[name].double().numpy() for state in valley], axis=0)
        if weights.is_floating_point():
            np.testing.assert_allclose(weights.numpy(), mean, rtol=1e-4, atol=1e-6)


def test_rows_of_a_language_model_stand_in_the_same_table(undisturbed, tmp_path):
    shutil.copytree(undisturbed.folder, tmp_path / "run")
    lines = results(tmp_path / "run")
    own = [{**line, "model": "pocket", "method": "zero_shot"} for line in lines if line["method"] == "erm"]
    write_json_lines(tmp_path / "run" / "results.jsonl", [*lines, *own])
    (group,) = groups(read_run(tmp_path / "run"))
    assert group.model == "pocket" and list(summarise(group, "in", "likelihood"))[:2] == ["zero_shot", "erm"]


def test_an_endpoint_stands_beside_with_its_price(tmp_path, monkeypatch):
    """The manual's config, with a server of the tests in the place of the one that is paid."""
    page = (Path(__file__).parents[2] / "docs/howto/baselines.md").read_text()
    (text,) = re.findall(r"^```yaml my_endpoint.yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    config = tmp_path / "my_endpoint.yaml"
    monkeypatch.setattr(run, "run_units", in_this_process)
    with running_server(ServerSettings()) as server:
        config.write_text(text.replace("https://api.openai.com/v1", server.url))
        finished = run.run_experiment(load_config(str(config)), tmp_path / "run")
    asked = read_json_lines(folder_of(finished, "zero_shot") / "journal-0.jsonl")
    used = [line["usage"] for line in asked if line["kind"] == "candidate"]
    dollars = sum(2.5 * one["prompt_tokens"] + 10 * one["completion_tokens"] for one in used) / 1e6
    units = read_run(finished.folder).frames.units.set_index("method")
    assert len(used) == 12 and units["dollars"]["zero_shot"] == pytest.approx(dollars)
    (group,) = groups(read_run(finished.folder))
    table = headline_table(group, "all")
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert rows["zero_shot"]["US dollars"] == f"{dollars:.3g}" and rows["zero_shot"]["core hours"] == "–"
    assert rows["erm"]["US dollars"] == "–" != rows["erm"]["core hours"]


def test_dollars_of_some_answers_only_are_not_told(tmp_path, monkeypatch):
    """A copy of an answer, for another image with the same bytes, cost nothing; of an answer without a cost it is not
    known what it cost."""
    monkeypatch.setattr(run, "run_units", in_this_process)
    with running_server(ServerSettings()) as server:
        values = {
            "data": {"drawn": {"per_class": 1}, "targets": ["sketch"]},
            "model": {"checkpoint": f"gpt-4o@{server.url}"},
            "methods": ["zero_shot"],
            "evaluation": {"answering": {"answers": ["label"]}},
        }
        (tmp_path / "asked.yaml").write_text(yaml.safe_dump(values))
        config = load_config(str(tmp_path / "asked.yaml"))
        folder = folder_of(run.run_experiment(config, tmp_path / "run"), "zero_shot")
        lines = list(read_json_lines(folder / "journal-0.jsonl"))
        first = next(line for line in lines if line["kind"] == "candidate")
        told = []
        for usage in (None, {**first["usage"], "cost": None}):
            changed = [line | {"usage": usage} if line is first else line for line in lines]
            write_json_lines(folder / "journal-0.jsonl", changed)
            (folder / "done").unlink()
            run.run_experiment(config, tmp_path / "run")
            told.append(json.loads((folder / "cost.json").read_text())["dollars"])
    others = [line["usage"]["cost"] for line in lines if line["kind"] == "candidate" and line is not first]
    assert told == [pytest.approx(sum(others)), None]


def test_processes_that_load_images_change_nothing(here, undisturbed, tmp_path):
    other = here(tmp_path / "run", "evaluation.selection=validation", "methods=erm", "baselines.loader_workers=1")
    weights = [load_file(folder_of(each, "erm") / "weights.safetensors") for each in (other, undisturbed)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_image_that_cannot_be_read_is_one_line(tmp_path, workers):
    for label in ("cup", "fork"):
        path = tmp_path / "photo" / label / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"no image")
    images, settings = read_images(tmp_path), BaselineSettings(loader_workers=workers)
    read, _ = image_readers(settings, 32, (0, 0, 0), (1, 1, 1))
    with pytest.raises(ThroughlineError, match=r"^[^\n]*photo/\w+/0\.png[^\n]*$"):
        next(batches(images.samples, images.classes, read, settings, 0, 0))


def test_training_that_diverges_says_so_and_leaves_no_losses(here, tmp_path):
    with pytest.raises(ThroughlineError, match=r"training diverged by step 2 of 5.*the learning rate is 1e\+30"):
        here(tmp_path / "run", "methods=erm", "baselines.lr=1e30")
    assert not [*(tmp_path / "run").rglob("training.jsonl")]


def test_what_is_no_number_is_no_answer(undisturbed):
    """Of three images, one has features that overflow."""
    (images,) = undisturbed.sets
    values = dict(zip(images.samples[:3], (1.0, math.inf, -1.0), strict=True))
    network = Classifier(torch.nn.Identity(), 4, len(images.classes), BaselineSettings())
    rows = predict(network, images.classes, lambda sample: torch.full((4,), values[sample]), 2, list(values))
    assert [row.outcome for row in rows] == ["ok", "error", "ok"]
    assert rows[1].predicted is None and rows[1].probabilities is None and "not numbers" in rows[1].text
    assert rows[0].text == "" and sum(rows[0].probabilities) == pytest.approx(1)


def test_four_images_of_a_domain_leave_none_to_select_by(here, undisturbed, tmp_path):
    (images,) = undisturbed.sets
    for domain in ("photo", "painting", "sketch"):
        for sample in images.in_domain(domain)[:4]:
            (tmp_path / "few" / sample.id).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sample.path, tmp_path / "few" / sample.id)
    few = f"data.images={tmp_path / 'few'}"
    for words in (("methods=swad",), ("methods=erm", "evaluation.selection=validation")):
        with pytest.raises(ThroughlineError, match=r"an out part to select by \[evaluation\.selection\]"):
            here(tmp_path / words[0], few, *words)
    lines = results(here(tmp_path / "last", few, "methods=erm").folder)
    assert {line["split"] for line in lines} == {"in", "all"}


def test_features_of_a_frozen_backbone_are_computed_once_for_all_heads(here, tmp_path, monkeypatch):
    computed, compute = [], frozen._computed
    monkeypatch.setattr(frozen, "_computed", lambda *args: computed.append(len(args[0])) or compute(*args))
    finished = here(tmp_path / "run", "baselines.frozen=true", "methods=erm,coral", "seeds=0,1", "data.targets=all")
    assert computed == [48] and len(finished.units) == 16
    weights = load_file(
        folder_of(here(tmp_path / "one", "baselines.frozen=true", "methods=erm"), "erm") / "weights.safetensors"
    )
    assert set(weights) == {"head.weight", "head.bias"}


def test_frozen_batch_norm_keeps_its_statistics_and_trains_on_them():
    images = torch.randn(4, 3, 32, 32)
    for freeze in (True, False):
        settings = BaselineSettings.model_validate(SMALL | {"freeze_batch_norm": freeze})
        network = Classifier(open_backbone(settings), 256, 3, settings)
        before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
        network.train()(images)[1].sum().backward()
        same = all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
        assert same == freeze
        assert all(weight.grad is not None for weight in network.parameters())


def test_the_hash_of_a_users_loss_has_whatever_the_loss_may_read():
    weak, strong = (BaselineSettings.model_validate(SMALL | {"irm": {"weight": weight}}) for weight in (1, 100))
    assert weak.inputs("erm") == strong.inputs("erm") and weak.inputs("my_own") != strong.inputs("my_own")


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"backbone": "resnet50.nonsense"}, "timm has no such weights of it"),
        ({"weights": "nowhere.safetensors"}, "no such file of weights"),
    ],
)
def test_a_backbone_that_cannot_be_had_is_one_line(keys, what):
    with pytest.raises(ThroughlineError, match=what):
        open_backbone(BaselineSettings.model_validate(SMALL | keys))


@pytest.mark.parametrize(
    ("backbone", "line"),
    [
        ("resnet51", r"no such architecture.*baselines\.backbone: resnet51\]: did you mean .*resnet50"),
        ("resnet50.tv_in1", r"no such weights of it.*did you mean resnet50\.tv_in1k\?"),
        ("zzz", r"timm\.list_models\(\) lists all"),
    ],
)
def test_a_backbone_that_is_none_is_refused_before_a_run_begins(config_file, tmp_path, capsys, backbone, line):
    words = ["run", str(config_file), "--set", "methods=erm", "--set", f"baselines.backbone={backbone}"]
    assert main([*words, "--dry-run"]) == 1
    (told,) = capsys.readouterr().err.splitlines()
    assert re.search(line, told)
    assert main([*words, "--out", str(tmp_path / "run")]) == 1
    assert re.search(line, capsys.readouterr().err) and not (tmp_path / "run").exists()


def test_without_timm_the_extra_is_named_before_a_run_begins(config_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ThroughlineError, match=r"need timm.*\[baselines\]"):
        preview_run(load_config(str(config_file), ["methods=erm"]))
    assert preview_run(load_config(str(config_file), ["methods=zero_shot"])).units


def test_weights_come_from_a_file(tmp_path):
    from safetensors.torch import save_file

    settings = BaselineSettings.model_validate(SMALL)
    whole = timm.create_model("test_efficientnet", num_classes=1000)
    save_file(whole.state_dict(), tmp_path / "own.safetensors")
    loaded = open_backbone(settings.model_copy(update={"weights": str(tmp_path / "own.safetensors")}))
    assert torch.equal(loaded.conv_stem.weight, whole.conv_stem.weight)
