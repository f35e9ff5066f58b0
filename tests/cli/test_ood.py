"""The verb `ood`: the run that each subcommand makes of images or of a config, and one of them whole."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from throughline.cli.main import main
from throughline.domains.samples import ImageSet
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
def test_a_whole_one_ends_in_tables_and_a_page(
    tiny_images: ImageSet, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = ["--model", str(tiny_checkpoint), "--per-class", "2", "--answers", "likelihood", "--out", str(folder)]
    assert main(["ood", "probe", str(tiny_images.root), *words]) == 0
    assert "zero_shot" in capsys.readouterr().out
    assert {unit.unit.kind for unit in read_run(folder).units.values()} == {"evaluate", "probe"}
    assert "probe: " not in (folder / "report" / "index.html").read_text()
