"""What a run says in the cards of a model and of a dataset, and that it has to be a run of the same images."""

import json
from pathlib import Path

import pytest
from tests.evaluation.small import in_this_process, write_chains, write_images, write_preset
from tests.reporting.conftest import CLASSES

from throughline.analysis.divergence import Divergence, Pair
from throughline.analysis.document import FILE, Analysis, Fold
from throughline.analysis.faithfulness import Variant, finding
from throughline.analysis.mismatch import Mismatch
from throughline.analysis.records import State
from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.core.files import read_json_lines, write_atomically, write_json_lines
from throughline.metrics.intervals import Interval
from throughline.reporting.cards import chains_section, held_out_section

pytestmark = pytest.mark.slow

IMAGES = "f" * 64
BASE = State(method=None, unit=None, round=None)
MTCT = State(method="mtct", unit="u", round=None)


def sure(value: float) -> Interval:
    return Interval(mean=value, low=value, high=value)


def mismatch(source: str, perplexity: float, state: State = BASE) -> Mismatch:
    return Mismatch(state=state, source=source, images=3, perplexity=sure(perplexity), low=0.1, distance=None)


def analysis() -> Analysis:
    variants = tuple(
        Variant(state=MTCT, name=name, about="image", images=3, accuracy=sure(value), probability=sure(0.5))
        for name, value in (("whole chain", 0.8), ("another image", 0.1), ("another image's chain", 0.75))
    )
    pair = Pair(first="a", second="b", distance=0.2, expected=0.05, p_value=0.01)
    apart = Divergence(
        encoder="own towers", of="images", source=None, samples=6, permutations=99, mean=0.2, pairs=(pair,)
    )
    fold = Fold(
        targets=("sketch",),
        seed=0,
        states=(BASE, MTCT),
        variants=variants,
        mismatch=(mismatch("teacher", 25.0), mismatch("self", 1.5), mismatch("teacher", 2.0, MTCT)),
    )
    return Analysis(
        dataset="d", model="pocket", drawn=False, limit=3, classes=("a", "b"), folds=(fold,), divergence=(apart,)
    )


@pytest.fixture
def folder(make_run) -> Path:
    """A run whose units know their images, analysed."""
    folder: Path = make_run().folder
    for path in folder.glob("units/*/unit.json"):
        about = json.loads(path.read_text())
        path.write_text(json.dumps(about | {"inputs": {"images": IMAGES}}))
    (folder / FILE).write_text(analysis().model_dump_json())
    return folder


def test_a_models_card_has_its_method_beside_the_base_and_labels(folder: Path) -> None:
    said = held_out_section(folder, "pocket", "mtct", IMAGES)
    rows = [line.split("|")[1].strip() for line in said.splitlines() if line.startswith("| ")]
    assert {name for name in rows if name not in ("method", "class", *CLASSES)} == {"zero\\_shot", "cls", "mtct"}
    assert said.count("path**") == 3 == said.count("| class | images | zero\\_shot | cls | mtct |")
    assert "80 % with own image and chain; with another image 10 %; with another image's chain 75 %" in said
    (folder / FILE).unlink()
    assert "with own image and chain" not in held_out_section(folder, "pocket", "mtct", IMAGES)


def test_a_models_card_is_about_the_checkpoint_that_was_fitted(folder: Path) -> None:
    path = folder / "results.jsonl"
    rows = read_json_lines(path)
    larger = [{**row, "model": "larger"} if row["method"] in {"cls", "mtct"} else row for row in rows]
    write_json_lines(path, larger)
    write_atomically(folder / "config.yaml", "model: {checkpoint: pocket}\n")
    assert held_out_section(folder, "larger", "mtct", IMAGES).count("| mtct |") > 0
    said = held_out_section(folder, "pocket", "mtct_sarr", IMAGES)
    assert "mtct\\_sarr" in said and "| cls |" not in said and "with own image and chain" not in said
    for model, method in (("pocket", "mtct"), ("larger", "mtct_sarr"), ("big", "cls")):
        with pytest.raises(ThroughlineError, match=f"no results of {method} with the checkpoint {model}"):
            held_out_section(folder, model, method, IMAGES)


def test_a_search_that_measured_no_target_has_no_results_for_a_card(folder: Path) -> None:
    write_json_lines(folder / "results.jsonl", [])
    for unit in folder.glob("units/*"):
        write_json_lines(unit / "validation.jsonl", [{"selected": True, "domains": {"photo": 0.5}}])
    with pytest.raises(ThroughlineError, match="no results of cls"):
        held_out_section(folder, "pocket", "cls", IMAGES)


def test_the_finding_says_what_conclusions_follow() -> None:
    variants = analysis().of_folds("variants")
    assert finding(variants) == (
        "mtct follows the image more than the chain: of its conclusions 80 % are right, behind another image's chain "
        "75 %, with another image 10 %."
    )
    assert finding(variants[:2]) == finding(()) == ""


def test_a_datasets_card_says_how_foreign_its_chains_are(folder: Path) -> None:
    said = chains_section(folder, IMAGES)
    assert "Perplexity of pocket, untrained, on these chains: 25.00; on chains of its own 1.50." in said
    assert "| images | own towers | 6 | 0.200 | 0.050 | 1 of 1 |" in said
    (folder / FILE).unlink()
    with pytest.raises(ThroughlineError, match="no analysis"):
        chains_section(folder, IMAGES)


def test_a_run_of_other_images_or_methods_is_refused(folder: Path) -> None:
    for section in (
        lambda: held_out_section(folder, "pocket", "mtct", "0" * 64),
        lambda: chains_section(folder, "0" * 64),
    ):
        with pytest.raises(ThroughlineError, match="used other images"):
            section()
    with pytest.raises(ThroughlineError, match="no results of cls_matched"):
        held_out_section(folder, "pocket", "cls_matched", IMAGES)


def test_the_verb_says_so_before_it_trains(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path / "animals")
    words = ["fit", str(images), "--out", str(tmp_path / "model"), "--run", str(folder)]
    assert main(words) == 1
    assert "used other images" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def of_images(folder: Path, images: Path) -> None:
    """Makes the run one of these images."""
    from throughline.domains.folders import read_images

    for path in folder.glob("units/*/unit.json"):
        about = json.loads(path.read_text()) | {"inputs": {"images": read_images(images).fingerprint()}}
        path.write_text(json.dumps(about))


def test_an_exports_card_has_the_section(folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "animals")
    of_images(folder, images)
    store = tmp_path / "store"
    store.mkdir()
    write_chains(images, store / "journal-0.jsonl")
    words = ["chains", "export", str(store), str(tmp_path / "out"), "--images", str(images), "--run", str(folder)]
    assert main(words) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.index("## Acceptance") < card.index("## Measured") < card.index("## Training")


def test_a_models_card_has_the_section_also_when_the_model_is_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from throughline.experiment import run

    monkeypatch.setattr(run, "run_units", in_this_process)
    images, preset = write_images(tmp_path / "animals"), write_preset(tmp_path)
    of_images(folder, images)
    words = ["fit", str(images), "--out", str(tmp_path / "model"), "--preset", str(preset), "--method", "cls"]
    assert main(words) == 0
    card = tmp_path / "model" / "README.md"
    assert "## Held out" not in card.read_text()
    results = folder / "results.jsonl"
    write_json_lines(results, [{**row, "model": "tiny-base"} for row in read_json_lines(results)])
    assert main([*words, "--run", str(folder)]) == 0
    assert "## Held out" in card.read_text() and "## Limits" in card.read_text()
