"""Analyses of a real, tiny run: what is found, what is kept, what is said to be missing."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.evaluation.small import in_this_process, write_chains
from tests.mllm.tiny import write_checkpoint
from tests.training.small import chain_of

from throughline.analysis.document import FILE, read_analysis, sections
from throughline.analysis.records import BASE
from throughline.cli.main import main
from throughline.core.errors import ThroughlineError, UsageError
from throughline.core.files import read_json_lines, write_json_lines
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, spread
from throughline.experiment import run
from throughline.experiment.analyses import scoring, subject
from throughline.experiment.analyses.entry import analyze_run
from throughline.experiment.analyses.settings import AnalyzeSettings
from throughline.experiment.analyses.subject import read_analyzed_run
from throughline.experiment.config_files import load_config
from throughline.experiment.run import run_experiment
from throughline.mllm import sampling as sampler
from throughline.mllm.load import load_mllm
from throughline.mllm.lora import load_adapter
from throughline.mllm.sampling import Continuation
from throughline.runs.reader import read_run

pytestmark = pytest.mark.slow

ALL = AnalyzeSettings(limit=6)
METHODS = ["zero_shot", "cls", "mtct", "mtct_sarr"]


def replace(settings: AnalyzeSettings, **changes: Any) -> AnalyzeSettings:
    return settings.model_copy(update=changes)


@pytest.fixture(scope="module")
def finished(tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four methods on one target; its rounds accept a chain of every second image, and all held-out images
    have one. Read only."""
    folder = finish(tmp_path_factory.mktemp("analyzed"), tiny_checkpoint, tiny_images)
    for path in (folder / "units").rglob("predictions.jsonl"):
        rows = [
            row | ({"text": chain_of("cat", i)} if row["answer"] == "reasoning" else {})
            for i, row in enumerate(read_json_lines(path))
        ]
        write_json_lines(path, rows)
    return folder


def finish(folder: Path, checkpoint: Path, images: ImageSet, changes: Mapping[str, Any] | None = None) -> Path:
    values = {
        "data": {"images": str(images.root), "targets": ["sketch"]},
        "model": {"checkpoint": str(checkpoint), "device": "cpu"},
        "chains": {"journal": str(write_chains(images.root, folder / "journal-0.jsonl"))},
        "methods": METHODS,
        "training": {
            "rounds": 2,
            "self_labelling": {"temperature": 0.7, "max_new_tokens": 4},
            "stage": {"epochs": 1, "batch": 8, "micro_batch": 8, "lr": 5e-3},
        },
        "evaluation": {"answering": {"batch": 15, "label_tokens": 3, "chain_tokens": 4}},
    }
    (folder / "trial.yaml").write_text(yaml.safe_dump(values))
    by_hash = {one.image_sha256: one for one in images.samples}

    def written(mllm, prompts, settings, generators=None, **options):
        """Every second image gets its class, the others a class that is wrong."""
        found = []
        for prompt in prompts:
            one = by_hash[prompt.images[0].key]
            wrong = "dog" if one.label == "cat" else "cat"
            label = one.label if int(Path(one.id).stem) % 2 == 0 else wrong
            found.append([Continuation((), chain_of(label, len(found)), "stop")])
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "run_units", in_this_process)
        patch.setattr(sampler, "sample", written)
        run_experiment(load_config(str(folder / "trial.yaml"), changes=changes), folder / "run")
    return folder / "run"


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module", autouse=True)
def base_writes_chains() -> Iterator[None]:
    """What a random model writes is no chain."""

    def sample(mllm, prompts, settings, draws, **options):
        return [[Continuation((), chain_of("cup", i), "stop" if i else "length")] for i, _ in enumerate(prompts)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler, "sample", sample)
        yield


@pytest.fixture(scope="module")
def analyzed(finished: Path, base_writes_chains: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with every analysis of it. Read only."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("whole") / "run"))
    analyze_run(folder, ALL, say=silent)
    return folder


def silent(line: str) -> None:
    pass


def test_every_analysis_of_a_run_is_found(analyzed: Path) -> None:
    found = read_analysis(analyzed / FILE)
    assert found is not None
    (fold,) = found.folds
    names = [state.name for state in fold.states]
    assert names == ["base", "cls", "mtct", "mtct_sarr round 1", "mtct_sarr round 2"]
    assert {(one.state.name, one.source, one.kind) for one in fold.buckets} == {
        (name, *kind) for name in names for kind in (("label", "class"), ("teacher", "class"), ("teacher", "chain"))
    }
    assert all(one.images == 6 for one in fold.buckets)
    moved = {(one.before.name, one.after.name, one.source, one.kind) for one in fold.moved}
    assert ("base", "mtct", "teacher", "chain") in moved
    assert ("mtct", "mtct_sarr round 2", "self", "chain") in moved
    assert [(one.state, one.images) for one in fold.context] == [(BASE, 6)]
    assert {one.method for one in fold.curves} == {"cls", "mtct", "mtct_sarr"}
    assert {(one.after.name, one.source) for one in fold.entropy} == {
        ("mtct", "teacher"),
        ("mtct_sarr round 2", "self"),
    }
    assert len(fold.overlap) == 1
    assert [one.state.name for one in fold.mismatch if one.source == "self"] == ["base", "mtct", "mtct_sarr round 1"]
    assert {one.state.name for one in fold.mismatch if one.source == "teacher"} == set(names)
    assert {one.state.name for one in fold.variants} == {"base", "mtct", "mtct_sarr round 2"}
    assert {one.source for one in fold.shaded} == {"teacher", "self"}
    assert {one.of for one in found.divergence} == {"images", "chains", "class words", "descriptive words"}
    assert [row.value for row in found.sensitivity[0].rows] == ["0", "1", "2"]
    assert found.missing == ()


def test_numbers_are_of_the_weights_they_name(folder: Path, tiny_checkpoint: Path) -> None:
    """The label tokens' mean probability after mtct, from a model opened by hand."""
    found = analyze_run(folder, replace(ALL, what=("probabilities",)), say=silent)
    _, (fold,) = read_analyzed_run(folder)
    unit = fold.units["mtct"]
    mllm = load_mllm(str(tiny_checkpoint))
    load_adapter(mllm.model, unit.folder.adapter())
    samples = spread([one for one in fold.fold.train if one.id in fold.subject.chains], 6)
    p = []
    processor = mllm.chat.processor
    questions = fold.subject.questions
    user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": questions.label}]}
    prompt = processor.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
    from throughline.domains.images import load_image

    for one in samples:
        options = {"images": [load_image(one.path)], "return_tensors": "pt", "crop_to_patches": False}
        start = processor(text=prompt, **options)["input_ids"].shape[1]
        whole = processor(text=prompt + one.label, **options)
        with torch.no_grad():
            logits = mllm.model(**whole).logits[0, start - 1 : -1]
        ids = whole["input_ids"][0, start:]
        p += torch.softmax(logits, dim=-1)[torch.arange(len(ids)), ids].tolist()
    (mine,) = (b for b in found.folds[0].buckets if (b.state, b.source) == (unit.state, "label"))
    assert mine.tokens == len(p) and mine.mean.mean == pytest.approx(sum(p) / len(p), abs=1e-4)


def test_a_second_time_no_model_is_opened_and_nothing_changes(
    analyzed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(analyzed, tmp_path / "again"))
    first = read_analysis(folder / FILE)
    assert first is not None
    content = (folder / FILE).read_bytes()
    monkeypatch.setattr(subject, "open_checkpoint", lambda model: pytest.fail("opened"))
    assert analyze_run(folder, ALL, say=silent) == first
    analyze_run(folder, replace(ALL, what=("mismatch",), limit=None), say=silent)
    assert (folder / FILE).read_bytes() == content  # what was not asked for stood as it was, and so did the limit
    other = analyze_run(folder, replace(ALL, what=("sensitivity",), limit=7), say=silent)
    assert other.sensitivity == first.sensitivity and other.folds[0].curves == first.folds[0].curves
    assert not other.folds[0].buckets and other.limit == 7  # those were of six images


def test_a_stopped_analysis_goes_on_where_it_was(analyzed: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_analysis(analyzed / FILE)
    written, write = [], scoring.write_tokens

    def stop_at_the_fourth(path, pieces):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(path, pieces)

    monkeypatch.setattr(scoring, "write_tokens", stop_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        analyze_run(folder, ALL, say=silent)
    assert not (folder / FILE).exists()
    rewritten: list[Path] = []
    monkeypatch.setattr(scoring, "write_tokens", lambda path, pieces: (rewritten.append(path), write(path, pieces)))
    assert analyze_run(folder, ALL, say=silent) == whole
    assert rewritten and not set(written) & set(rewritten)


def test_other_images_or_weights_are_scored_anew(folder: Path) -> None:
    analyze_run(folder, replace(ALL, what=("probabilities",)), say=silent)
    before = set((folder / scoring.SHARDS).iterdir())
    analyze_run(folder, replace(ALL, what=("probabilities",), limit=4), say=silent)
    assert len(set((folder / scoring.SHARDS).iterdir())) > len(before)


@pytest.fixture(scope="module")
def asked_in_two_ways(tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two models, whose levels only ask."""
    folder = tmp_path_factory.mktemp("asked")
    second = write_checkpoint("internvl", folder / "second")
    (second / "notes.json").write_text("{}")
    models = [{"checkpoint": str(path), "device": "cpu"} for path in (tiny_checkpoint, second)]
    levels = {"all": {}, "few": {"evaluation.sample": {"per_class": 2}}}
    changes = {"model": models, "methods": ["mtct_sarr"], "training.rounds": 1, "factors.images": levels}
    return finish(folder, tiny_checkpoint, tiny_images, changes)


def test_levels_that_only_ask_have_the_weights_that_they_ask(asked_in_two_ways: Path, tiny_checkpoint: Path) -> None:
    what = ("probabilities", "optimisation", "mismatch", "sensitivity", "conclusions")
    found = analyze_run(asked_in_two_ways, replace(ALL, what=what), say=silent)
    assert found.model == tiny_checkpoint.name, "the other model is not looked at"
    every, few = found.folds
    assert [state.name for state in every.states] == ["base", "mtct", "mtct_sarr round 1"]
    assert {state.unit for state in every.states[1:]}.isdisjoint(state.unit for state in few.states[1:])
    means = [{(b.state.name, b.source, b.kind): b.mean for b in fold.buckets} for fold in (every, few)]
    assert means[0] == means[1] and len({key[0] for key in means[0]}) == 3, "the same weights score the same texts"
    assert [one.method for one in every.curves] == [one.method for one in few.curves] == ["mtct", "mtct_sarr"]
    assert not found.sensitivity, "no round of theirs was asked"
    run = read_run(asked_in_two_ways)
    assert {run.units[state.unit].unit.model for fold in found.folds for state in fold.states[1:]} == {found.model}


def test_what_a_run_lacks_is_said(folder: Path) -> None:
    for unit in (folder / "units").glob("*mtct_sarr*"):
        (unit / "done").unlink()
    (folder / "chains" / "accepted.jsonl").unlink()
    found = analyze_run(folder, ALL, say=silent)
    (fold,) = found.folds
    assert [state.name for state in fold.states] == ["base", "cls", "mtct"]
    assert any("teacher's chains" in one.what for one in found.missing)
    assert {one.source for one in fold.buckets} == {"label"} and not fold.entropy and not found.sensitivity


def test_loss_lines_of_an_older_version_have_no_class_probability(folder: Path) -> None:
    for path in (folder / "units").glob("*/training.jsonl"):
        lines = [{k: v for k, v in row.items() if k != "class_probability"} for row in read_json_lines(path)]
        write_json_lines(path, lines)
    found = analyze_run(folder, replace(ALL, what=("optimisation",)), say=silent)
    assert len(found.missing) == 3 and all("class probability" in one.what for one in found.missing)


def test_chains_that_were_kept_are_not_the_models_own(folder: Path) -> None:
    (unit,) = (folder / "units").glob("*mtct_sarr*")
    path = unit / "round-1" / "accepted.jsonl"
    rows = read_json_lines(path)
    write_json_lines(path, [*rows, {"sample_id": "photo/cat/1.png", "text": chain_of("cat")}])
    _, (fold,) = read_analyzed_run(folder)
    own = fold.units["mtct_sarr"].folder.own_chains(1)
    assert own == {row["sample_id"]: row["text"] for row in rows}


def test_runs_that_differ_in_one_key_are_set_against_each_other(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "rank-4"))
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["model"]["lora"]["rank"], config["name"] = 4, "rank-4"
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    for path in (other / "units").glob("*/predictions.jsonl"):
        write_json_lines(path, [row | {"predicted": row["labels"][0]} for row in read_json_lines(path)])
    found = analyze_run(folder, replace(ALL, what=("sensitivity",)), [other], say=silent)
    ranks = [one for one in found.sensitivity if one.setting == "model.lora.rank"]
    assert {row.method for one in ranks for row in one.rows} == set(METHODS)
    for one in ranks:
        first, second = one.rows
        assert (first.value, second.value, second.against, second.accuracy.mean) == ("8", "4", "8", 1.0)
        assert second.points.mean == pytest.approx(100 * (1 - first.accuracy.mean))
    config["training"]["rounds"] = 1
    config["data"]["images"] = "gone"  # answers are compared: a further run needs no images
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    another = Path(shutil.copytree(tmp_path / "rank-4", tmp_path / "twice"))
    assert [row.value for row in _of_three(folder, other, another)] == ["8, 2", "4, 1", "4, 1 (3)"]
    both = analyze_run(folder, replace(ALL, what=("sensitivity",)), [other], say=silent).sensitivity[-1]
    assert both.setting == "model.lora.rank, training.rounds"
    assert [row.value for row in both.rows] == ["8, 2", "4, 1"]
    (other / "config.yaml").write_text((folder / "config.yaml").read_text())
    lacking = analyze_run(folder, replace(ALL, what=("sensitivity",)), [other], say=silent).missing
    assert lacking[0].why == "their configs are the same"


def _of_three(folder: Path, *others: Path):
    return analyze_run(folder, replace(ALL, what=("sensitivity",)), others, say=silent).sensitivity[-1].rows


def test_what_was_chosen_among_the_rounds_is_a_state_of_its_own(folder: Path) -> None:
    (unit,) = (folder / "units").glob("*mtct_sarr*")
    write_json_lines(unit / "validation.jsonl", [{}])
    found = analyze_run(folder, replace(ALL, what=("probabilities",)), say=silent)
    assert [state.name for state in found.folds[0].states][-2:] == ["mtct_sarr round 2", "mtct_sarr"]


def test_other_images_or_another_checkpoint_than_the_runs_are_refused(
    folder: Path, tiny_images: ImageSet, tmp_path: Path
) -> None:
    elsewhere = Path(shutil.copytree(tiny_images.root, tmp_path / "elsewhere"))
    only = replace(ALL, what=("optimisation",))
    assert analyze_run(folder, replace(only, images=elsewhere), say=silent).folds
    next(elsewhere.rglob("*.png")).write_bytes(b"another picture")
    with pytest.raises(ThroughlineError, match=r"not the images that the run was made from.*--images"):
        analyze_run(folder, replace(only, images=elsewhere), say=silent)
    other = write_checkpoint("internvl", tmp_path / "other")
    (other / "notes.json").write_text("{}")
    with pytest.raises(ThroughlineError, match=r"not the checkpoint.*--checkpoint"):
        analyze_run(folder, replace(only, checkpoint=str(other)), say=silent)


def test_units_of_an_earlier_plan_are_left_out(folder: Path) -> None:
    rows = [row for row in read_json_lines(folder / "results.jsonl") if row["method"] != "cls"]
    write_json_lines(folder / "results.jsonl", rows)
    found = analyze_run(folder, replace(ALL, what=("optimisation",)), say=silent)
    assert {curve.method for curve in found.folds[0].curves} == {"mtct", "mtct_sarr"}


def test_a_damaged_file_is_written_anew(folder: Path) -> None:
    (folder / FILE).write_text("{")
    lines: list[str] = []
    analyze_run(folder, replace(ALL, what=("optimisation",)), say=lines.append)
    assert "it is written again" in lines[0] and read_analysis(folder / FILE) is not None


def test_faults_are_one_line_each(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ThroughlineError, match="not a run folder"):
        analyze_run(tmp_path, ALL)
    with pytest.raises(UsageError, match=r"no analysis is called 'entropie'.*entropy"):
        analyze_run(folder, replace(ALL, what=("entropie",)))
    for unit in (folder / "units").iterdir():
        (unit / "done").unlink(missing_ok=True)
    with pytest.raises(ThroughlineError, match="no unit of this run is done"):
        analyze_run(folder, ALL)
    assert main(["analyze"]) == 2
    assert main(["analyze", "--model", "pocket"]) == 2
    assert "name a store with --chains" in capsys.readouterr().err
    assert main(["analyze", str(folder), "--tiles", "2"]) == 2
    assert "--tiles cannot be used with a run" in capsys.readouterr().err
    assert main(["analyze", str(folder), "--methods", "mtctsarr"]) == 2
    assert "no method is called 'mtctsarr'" in capsys.readouterr().err


@pytest.mark.usefixtures("undrawn")
def test_the_verb_prints_a_summary_and_writes_page_and_numbers(folder: Path, capsys) -> None:
    assert main(["analyze", str(folder), "--what", "probabilities,mismatch", "--limit", "4"]) == 0
    printed = capsys.readouterr()
    assert "a teacher's chain tokens above 0.75, mtct − base: " in printed.out
    assert (folder / "report" / "index.html").is_file() and "numbers: " in printed.err
    assert main(["analyze", str(folder), "--what", "mismatch", "--limit", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["limit"] == 4


def test_a_plain_checkpoint_on_a_journal(tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path: Path, capsys) -> None:
    journal = write_chains(tiny_images.root, tmp_path / "journal-0.jsonl")
    words = ["analyze", "--model", str(tiny_checkpoint), "--chains", str(journal), "--limit", "4"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 1
    assert "give --images DIR" in capsys.readouterr().err
    assert main([*words, "--images", str(tiny_images.root), "--out", str(tmp_path / "out")]) == 0
    found = read_analysis(tmp_path / "out" / FILE)
    (fold,) = found.folds
    assert [state.name for state in fold.states] == ["base"] and not fold.moved
    assert {(one.source, one.kind) for one in fold.buckets} == {
        ("label", "class"),
        ("teacher", "class"),
        ("teacher", "chain"),
    }
    assert {one.source for one in fold.mismatch} == {"teacher", "self"}
    assert found.divergence and {one.what for one in found.missing} == {"conclusions", "sensitivity"}


def test_an_image_that_cannot_be_read_is_left_out_and_named(
    finished: Path, tiny_images: ImageSet, tmp_path: Path
) -> None:
    """A held-out image may be broken: nothing was trained on it, and its answers failed."""
    root = Path(shutil.copytree(tiny_images.root, tmp_path / "images"))
    victim = sorted(root.glob("sketch/*/*.png"))[0]
    victim.write_bytes(victim.read_bytes()[:60])
    images = read_images(root, name=tiny_images.name)
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(folder / "chains")  # with chains only images that have one are looked at
    for path in (folder / "units").glob("*/unit.json"):
        about = json.loads(path.read_text())
        about["inputs"]["images"] = images.fingerprint()
        path.write_text(json.dumps(about))
    settings = replace(ALL, what=("divergence",), images=root, limit=len(images.samples))
    found = analyze_run(folder, settings, say=silent)
    (lacking,) = [one for one in found.missing if one.analysis == "divergence"]
    assert lacking.what == str(victim.relative_to(root)) and "image" in lacking.why
    assert found.divergence and found.divergence[0].of == "images"
    assert analyze_run(folder, settings, say=silent) == found  # from disk it says so, too
    whole = analyze_run(folder, replace(settings, what=("probabilities", "divergence")), say=silent).missing
    assert analyze_run(folder, replace(settings, what=("entropy",)), say=silent).missing == whole  # nothing twice


def test_a_users_own_method_and_each_combination_of_levels_are_analysed(folder: Path, tmp_path: Path) -> None:
    """Units of one method go under a name of the user's, those of another at a level of a factor."""
    file = tmp_path / "methods.py"
    file.write_text(
        "from throughline.training.methods import LABELS, Method\n"
        "from throughline.training.stages.sft import Sft\n"
        'MINE = Method("mine", (Sft(LABELS),), "labels only, as a user trains them")\n'
    )
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"methods": ["mtct", f"{file}:MINE"]}
    config["factors"] = {"wording": {"plain": {}, "short": {"questions.label": "Name it: {options}"}}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))

    def changed(row):
        method = {"cls": "mine"}.get(row["method"], row["method"])
        return {**row, "method": method, "factors": {"wording": "short" if method == "mine" else "plain"}}

    for path in (folder / "units").glob("*/unit.json"):
        path.write_text(json.dumps(changed(json.loads(path.read_text()))))
    write_json_lines(folder / "results.jsonl", map(changed, read_json_lines(folder / "results.jsonl")))
    settings = replace(ALL, what=("probabilities", "optimisation"), limit=4)
    found = analyze_run(folder, settings, say=silent)
    assert [fold.name for fold in found.folds] == ["sketch, seed 0, wording=plain", "sketch, seed 0, wording=short"]
    plain, short = found.folds
    assert [state.name for state in short.states] == ["base", "mine"] and "mine" not in str(plain.states)
    means = [next(b.mean.mean for b in fold.buckets if (b.state, b.source) == (BASE, "label")) for fold in found.folds]
    assert means[0] != means[1], "each is asked in its own words"
    titles = [table.title for section in sections(found) for table in section.tables]
    assert {title.rpartition(" · ")[2] for title in titles} == {"wording=plain", "wording=short"}
    with pytest.raises(UsageError, match=r"no method is called 'other'.*mine"):
        analyze_run(folder, replace(settings, methods=("other",)), say=silent)
