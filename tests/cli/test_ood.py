"""The verb `ood`: the run that each subcommand makes of images or of a config, and one of them whole."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from throughline.cli.main import main
from throughline.domains.samples import ImageSet
from throughline.reporting.groups import groups
from throughline.runs.reader import read_run


@pytest.fixture
def planned(tiny_images: ImageSet, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """The dry run of a subcommand, as JSON."""

    def planned(command: str, *words: str, source: Path = tiny_images.root) -> Any:
        asked = ["ood", command, str(source), "--model", str(tiny_checkpoint), "--dry-run", "--json", *words]
        assert main(asked) == 0
        return json.loads(capsys.readouterr().out)

    return planned


def test_each_subcommand_is_a_run_over_its_factors(planned: Any) -> None:
    plain = planned("zero-shot")
    assert plain["config"]["methods"] == ["zero_shot"] and plain["config"]["factors"] == {}
    assert plain["config"]["name"] == "ood-zero-shot" and len(plain["units"]) == 3
    assert set(planned("zero-shot", "--prompt", "ours,paper")["config"]["factors"]["prompt"]) == {"ours", "paper"}
    orders = planned("zero-shot", "--options", "fixed,shuffled", "--prompt", "paper")["config"]["factors"]
    assert orders["options"] == {"fixed": {}, "shuffled": {"evaluation.options": "shuffled"}}
    assert "format template" in orders["prompt"]["paper"]["questions.label"].lower()  # a single level is asked, too
    views = planned("corrupt", "--kind", "occlusion_grey", "--severity", "0.2,0.5", "--per-class", "2")
    assert set(views["config"]["factors"]["view"]) == {"clean", "occlusion_grey-0.2", "occlusion_grey-0.5"}
    assert all(unit["images_measured"] == 6 for unit in views["units"])
    probed = planned("probe", "--per-class", "2", "--answers", "likelihood")
    assert probed["config"]["methods"] == ["zero_shot", "probe"]
    examples = planned("icl", "--shots", "0,2", "--examples", "target,sources", "--draws", "2", "--per-class", "2")
    assert list(examples["config"]["factors"]["examples"]) == [
        "0",
        *(f"2 {k} {d}" for k in ("target", "sources") for d in (0, 1)),
    ]


def test_shifts_and_orders_are_levels_and_an_endpoint_has_no_controls_that_look_into_a_model(planned: Any) -> None:
    shifted = ["--examples", "target", "--shares", "cat=3,dog=1", "--spurious", "0,1", "--orders", "2", "--draws", "1"]
    shown = planned("icl", "--shots", "0,2", *shifted, "--per-class", "2")
    kinds = ("target", "cat=3,dog=1", "spurious 0", "spurious 1")
    levels = shown["config"]["factors"]["examples"]
    assert list(levels) == ["0", *(f"2 {kind} {order}" for kind in kinds for order in (0, 1))]
    assert levels["2 cat=3,dog=1 1"]["evaluation.examples.shares"] == {"cat": "3", "dog": "1"}
    controls = ["--examples", "target,knn,lora,retrieval", "--neighbours", "3", "--epochs", "5", "--draws", "1"]
    both = planned("icl", "--model", "big@http://127.0.0.1:9/v1", "--shots", "2", *controls, "--per-class", "2")
    levels = both["config"]["factors"]["examples"]
    assert levels["2 knn 0"]["evaluation.examples.vote"] == 3
    assert levels["2 lora 0"]["evaluation.examples.epochs"] == 5
    assert len(both["units"]) == 3 * (4 + 1)
    lora = next(unit for unit in both["units"] if "lora" in unit["unit"])
    assert (lora["training_samples"], lora["images"], lora["images_measured"]) == (10, 2, 6)


def test_a_config_keeps_what_the_options_do_not_say(planned: Any, tiny_images: ImageSet, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    values = {
        "data": {"images": str(tiny_images.root), "targets": ["sketch"]},
        "factors": {"wording": {"plain": {}, "short": {"questions.label": "Name it: {options}"}}},
        "evaluation": {"sample": {"per_class": 1, "seed": 5}},
    }
    own.write_text(yaml.safe_dump(values))
    shown = planned("corrupt", "--kind", "occlusion_grey", "--severity", "0.5", "--set", "seeds=3", source=own)
    config = shown["config"]
    assert (config["name"], config["seeds"], config["data"]["targets"]) == ("own", [3], ["sketch"])
    assert list(config["factors"]) == ["wording", "view"] and config["evaluation"]["sample"] == {
        "per_class": 1,
        "seed": 5,
    }
    assert len(shown["units"]) == 2 * 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["corrupt", "--kind", "fogg"], "no view named fogg"),
        (["icl", "--examples", "nearst"], "no examples of kind nearst"),
        (["zero-shot", "--prompt", "none.txt"], "cannot read the prompt template"),
    ],
)
def test_what_cannot_be_is_one_line(
    words: list[str], said: str, tiny_images: ImageSet, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = words
    assert main(["ood", command, str(tiny_images.root), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_whole_one_ends_in_tables_and_a_page(
    tiny_images: ImageSet, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ["--model", str(tiny_checkpoint), "--per-class", "2", "--answers", "likelihood", "--out", str(folder)]
    words += ["--set", "data.targets=sketch"]
    assert main(["ood", "probe", str(tiny_images.root), *words]) == 0
    assert "zero_shot" in capsys.readouterr().out
    assert {unit.unit.kind for unit in read_run(folder).units.values()} == {"evaluate", "probe"}
    assert "probe: " not in (folder / "report" / "index.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_diagnosis_ends_in_verdicts_beside_a_reference(
    tiny_images: ImageSet, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a checkpoint whose vision tower is silent, and of the whole one: its probes read nothing there."""
    blind = tmp_path / "blind"
    shutil.copytree(tiny_checkpoint, blind)
    weights = load_file(blind / "model.safetensors")
    silent = {name: value * ("vision_tower" not in name) for name, value in weights.items()}
    save_file(silent, blind / "model.safetensors", {"format": "pt"})
    folder = tmp_path / "run"
    words = ["--per-class", "2", "--answers", "likelihood", "--out", str(folder)]
    words += ["--set", "data.targets=photo,sketch"]
    chosen = ["--model", str(blind), "--reference", str(tiny_checkpoint)]
    assert main(["ood", "diagnose", str(tiny_images.root), *chosen, *words]) == 0
    printed = capsys.readouterr().out
    title = f"causes of the error beyond that of {tiny_checkpoint.name}"
    assert printed.count(title) == 1 and "refused: " in printed
    run = read_run(folder)
    for group in groups(run):
        probes = replace(group, probes=True)
        shares = {target: right.mean() for (target, _), right in probes.right("probe", "probe: tower").items()}
        assert len(shares) == 2
        if group.model == "blind":  # every image looks alike
            said = probes.predictions.query("answer == 'probe: tower' and target == 'sketch'")["predicted"]
            assert said.nunique() == 1
    page = (folder / "report" / "index.html").read_text()
    assert "causes of the error" in page and "linear probes from the vision tower" in page
