"""An exported store: loads with `datasets`, trains with TRL, holds what the store holds, and says what it does not."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from throughline.chains.formats import FIVE_STAGE, THINK_ANSWER, Chain, render_chain
from throughline.chains.journal import JournalWriter
from throughline.chains.records import (
    Candidate,
    Usage,
    Verdict,
    candidate_key,
    classes_sha256,
    make_header,
    prompt_sha256,
)
from throughline.core.errors import ThroughlineError
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet, Sample
from throughline.drawn.describer import describe
from throughline.drawn.scenes import read_scenes
from throughline.drawn.world import write_world
from throughline.questions.question_set import make_question_set
from throughline.teaching.exports.export import export_chains
from throughline.teaching.exports.selection import MARKED, ExportPlan, ExportSummary
from throughline.teaching.exports.trainer_formats import control_mark

ASKED = "Which of these is it? {options} ````ends no block```` <b>not bold</b>"
NASTY = "\x00\x1b[31mred\x7f <script>alert('1')</script> & \u2028 next \u0085 line \ufeff &lt; | `tick` \U0001f600"


def asked_of(images: ImageSet) -> str:
    return ASKED.replace("{options}", ", ".join(images.classes))


def candidate_of(sample: Sample, images: ImageSet, number: int, text: str, /, **other: Any) -> Candidate:
    prompt = prompt_sha256(asked_of(images))
    made = {
        "sample_id": sample.id,
        "image_sha256": sample.image_sha256,
        "domain": sample.domain,
        "classes_sha256": classes_sha256(images.classes),
        "format": FIVE_STAGE.name,
        "source": "describer",
        "model": "describer",
        "prompt_sha256": prompt,
        "params": {"temperature": 0.7},
        "seed": 0,
        "finish_reason": "stop",
        **other,
    }
    key = candidate_key(sample.image_sha256, prompt, made["model"], made["params"], made["seed"], number)
    return Candidate(**{"key": key, **made}, candidate=number, text=text)


def chain_of(label: str, word: str = "A picture.") -> str:
    return render_chain(Chain(FIVE_STAGE, (word, word, word, word, label)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("drawn") / "world"
    write_world(root, per_class=1, seed=4, styles=("photo", "sketch"))
    return read_images(root)


@pytest.fixture(scope="module")
def store(images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two teachers, in two journals. The describer tries twice with nearly every image; of the second journal each line
    is a case of its own."""
    folder, scenes = tmp_path_factory.mktemp("store"), read_scenes(images.root)
    prompts = ("unused", asked_of(images))
    header = make_header(images.classes, FIVE_STAGE, prompts)
    with JournalWriter(folder / "journal-0.jsonl") as writer:
        writer.write(header)
        for number in (1, 0):  # as an asynchronous build may write them
            for sample in reversed(images.samples):
                if sample not in (images.samples[0], *images.samples[-3:]):
                    text = describe(scenes[sample.id], seed=0, sample_id=sample.id, candidate=number)
                    writer.write(candidate_of(sample, images, number, text))
    late, nasty, gone, changed, other, unanswered = images.samples[:6]
    paid = {
        "source": "endpoint",
        "model": "teacher|`4`\n<i>",
        "usage": Usage(prompt_tokens=100, completion_tokens=20, cost=0.25),
    }
    with JournalWriter(folder / "journal-1.jsonl") as writer:
        writer.write(header)
        failed = candidate_of(late, images, 0, "connection lost", finish_reason="error", **{**paid, "usage": None})
        right = candidate_of(late, images, 0, chain_of(late.label, "After the failure."), **paid)
        again = right.model_copy(update={"text": chain_of(late.label, "A second answer to the same request.")})
        lies = Verdict(key=right.key, sample_id=late.id, rule="correct", outcome="refusal", accepted=False)
        writer.write(failed, right, lies, again, right)
        writer.write(candidate_of(nasty, images, -1, chain_of(nasty.label, NASTY), **paid))
        writer.write(candidate_of(replace(gone, id="photo/gone/1.png"), images, 0, chain_of("gone"), **paid))
        writer.write(candidate_of(replace(changed, image_sha256="0" * 64), images, -1, chain_of(changed.label), **paid))
        writer.write(candidate_of(other, images, -1, "<think> It is. </think>\ncup", **paid, format=THINK_ANSWER.name))
        writer.write(candidate_of(unanswered, images, -1, "time-out", finish_reason="error", **paid))
        writer.write(candidate_of(images.samples[-3], images, 0, chain_of(late.label), **paid))
        writer.write(candidate_of(images.samples[-2], images, 0, chain_of("a cup or a bowl"), **paid))
        writer.write(candidate_of(images.samples[-1], images, 0, "<SUMMARY> I think", **paid, finish_reason="length"))
    with (folder / "journal-1.jsonl").open("a") as file:
        file.write('{"kind": "candidate", "schema": 1, "key": 3}\nno JSON\n')
    return folder


@pytest.fixture(scope="module")
def exported(store: Path, images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> ExportSummary:
    folder = tmp_path_factory.mktemp("out") / "dataset"
    return export_chains(store, folder, ExportPlan(images, FIVE_STAGE, with_labels=True), shard_bytes=20_000)


@pytest.fixture(scope="module")
def expected(store: Path, images: ImageSet) -> dict[str, str]:
    """Sample id → the chain to export, read without the project's journal, parser and rules."""
    right: dict[str, tuple[int, str]] = {}
    form = re.compile(r"<SUMMARY> [^<]+ </SUMMARY>\n<CAPTION> [^<]+ </CAPTION>\n<REASONING> [^<]+ </REASONING>\n"
                      r"<REFLECTION> [^<]+ </REFLECTION>\n<CONCLUSION> (\w+) </CONCLUSION>")  # fmt: skip
    for line in (store / "journal-0.jsonl").read_text().splitlines()[1:]:
        row = json.loads(line)
        found = form.fullmatch(row["text"])
        number, sample_id = row["candidate"], row["sample_id"]
        if found and found[1] == images.by_id[sample_id].label and number < right.get(sample_id, (9, ""))[0]:
            right[sample_id] = number, row["text"]
    chains = {sample_id: text for sample_id, (_, text) in right.items()}
    late, nasty = images.samples[:2]
    chains[late.id] = chain_of(late.label, "After the failure.")
    chains[nasty.id] = chain_of(nasty.label, NASTY)
    return chains


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Any]]:
    """`load_dataset(folder)["train"]` with a cache of its own and without the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    yield lambda folder: datasets.load_dataset(str(folder))["train"]
    datasets.enable_progress_bars()


def jsonl(summary: ExportSummary, name: str) -> list[dict[str, Any]]:
    text = (summary.folder / "jsonl" / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_the_parquet_holds_the_first_right_chain_of_every_image_and_the_image_itself(
    exported: ExportSummary, images: ImageSet, expected: dict[str, str], loaded: Callable[[Path], Any]
) -> None:
    rows = loaded(exported.folder)
    assert len(exported.shards) > 1
    assert {row["sample_id"]: row["chain"] for row in rows} == expected
    assert len(rows) == len(expected) == exported.chains == exported.images > 0.7 * len(images.samples)
    assert [row["sample_id"] for row in rows] == [one.id for one in images.samples if one.id in expected]
    for row in rows:
        sample = images.by_id[row["sample_id"]]
        with Image.open(sample.path) as original:
            assert row["image"].tobytes() == original.tobytes()
        assert rows.features["label"].int2str(row["label"]) == row["concluded"] == sample.label
        assert (row["domain"], row["image_sha256"]) == (sample.domain, sample.image_sha256)
        assert (row["prompt"], row["params"]) == (asked_of(images), '{"temperature":0.7}')
        assert row["conclusion"] == sample.label
    assert rows.features["label"].names == list(images.classes)
    paid = [row for row in rows if row["source"] == "endpoint"]
    assert [(row["prompt_tokens"], row["completion_tokens"], row["cost"]) for row in paid] == [(100, 20, 0.25)] * 2


def test_the_original_bytes_are_embedded(exported: ExportSummary, images: ImageSet) -> None:
    from pyarrow import parquet

    for shard in exported.shards:
        file = parquet.ParquetFile(exported.folder / shard)
        for row in file.read(columns=["image", "sample_id"]).to_pylist():
            assert row["image"]["bytes"] == images.by_id[row["sample_id"]].path.read_bytes()


def test_an_export_that_was_moved_still_loads_and_its_jsonl_finds_its_images(
    exported: ExportSummary, tmp_path: Path, expected: dict[str, str], loaded: Callable[[Path], Any]
) -> None:
    moved = Path(shutil.copytree(exported.folder, tmp_path / "elsewhere"))
    assert {row["sample_id"]: row["chain"] for row in loaded(moved)} == expected
    for row in jsonl(replace(exported, folder=moved), "llama_factory.jsonl"):
        assert (moved / "jsonl" / row["images"][0]).is_file()


def test_everything_that_did_not_come_along_is_counted_and_named(exported: ExportSummary, images: ImageSet) -> None:
    left_out = {what: those for what, those in exported.left_out.items() if those}
    problems = left_out.pop("left out, lines that cannot be used")
    assert isinstance(problems, list) and len(problems) == 2
    assert "journal-1.jsonl:15" in problems[0]
    assert left_out == {
        "left out, as the image folder does not have them": ["photo/gone/1.png"],
        "left out, as the image is another than the one asked about": [images.samples[3].id],
        "left out, in another chain format": 1,
        "requests that never got an answer": 1,
        "lines of a request beyond the one that stands": 3,
    }
    assert exported.asked == len(images.samples)
    assert exported.answers == 2 * (len(images.samples) - 4) + 8
    assert "$0.5000 (reported by 2)" in exported.spent_on_exported
    assert exported.spent_on_exported in (exported.folder / "README.md").read_text()
    told = "\n".join(exported.lines())
    for word in ("photo/gone/1.png", images.samples[3].id, "journal-1.jsonl:15", "$2.0000"):
        assert word in told


def test_what_the_rules_accept_is_told_of_the_asked_images(
    exported: ExportSummary, store: Path, images: ImageSet, tmp_path: Path
) -> None:
    count = len(images.samples)
    assert exported.accepted == {"format": count - 1, "consistent": count - 2, "correct": count - 3}
    assert exported.images == count - 3
    other = export_chains(store, tmp_path / "out", ExportPlan(images, FIVE_STAGE, rule="format"))
    assert other.images == count - 1
    assert f"| correct | {count - 3} | {(count - 3) / count:.1%} |" in (exported.folder / "README.md").read_text()


def test_every_accepted_candidate_comes_along_when_asked_for(
    store: Path, images: ImageSet, expected: dict[str, str], tmp_path: Path, loaded: Callable[[Path], Any]
) -> None:
    summary = export_chains(
        store, tmp_path / "all", ExportPlan(images, FIVE_STAGE, every_accepted=True, with_labels=True)
    )
    rows = loaded(summary.folder)
    assert summary.images == len(expected) < summary.chains == len(rows)
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row["sample_id"], row["chain"])
    assert first == expected
    asks = [row["asks_for"] for row in jsonl(summary, "trl.jsonl")]
    assert (asks.count("label"), asks.count("reasoning")) == (summary.images, summary.chains)


def judged(candidate: Candidate, accepted: bool, outcome: str = "ok") -> Verdict:
    return Verdict(
        key=candidate.key,
        sample_id=candidate.sample_id,
        rule="judge",
        outcome=outcome,
        accepted=accepted,
        model="judge-1",
    )


def test_a_chain_that_the_judge_did_not_agree_with_stays_behind(
    images: ImageSet, tmp_path: Path, loaded: Callable[[Path], Any]
) -> None:
    """Whatever the rules' own verdicts say; and the judge's last word counts, in whichever journal it stands."""
    second, overturned, refused, failed, unjudged, elsewhere = images.samples[:6]
    first = {one.id: candidate_of(one, images, 0, chain_of(one.label, "First.")) for one in images.samples[:6]}
    correct = Verdict(key=first[second.id].key, sample_id=second.id, rule="correct", outcome="ok", accepted=True)
    with JournalWriter(tmp_path / "store" / "journal-0.jsonl") as writer:
        writer.write(judged(first[elsewhere.id], False))
    with JournalWriter(tmp_path / "store" / "journal-1.jsonl") as writer:
        writer.write(*first.values(), correct)
        writer.write(candidate_of(second, images, 1, chain_of(second.label, "Second.")))
        writer.write(judged(first[second.id], False), judged(first[overturned.id], False))
        writer.write(judged(first[overturned.id], True), judged(first[overturned.id], False, "error"))
        writer.write(judged(first[refused.id], True), judged(first[refused.id], False, "out_of_list"))
        writer.write(judged(first[failed.id], False, "error"))
    summary = export_chains(tmp_path / "store", tmp_path / "out", ExportPlan(images, FIVE_STAGE))
    assert {row["sample_id"]: row["summary"] for row in loaded(summary.folder)} == {
        second.id: "Second.",
        overturned.id: "First.",
        failed.id: "First.",
        unjudged.id: "First.",
    }
    assert (summary.images, summary.asked, summary.accepted["correct"]) == (4, 6, 6)
    assert "left out, as the judge did not agree: 3" in summary.lines()
    assert "the judge did not agree: 3" in (summary.folder / "README.md").read_text()
    every = export_chains(tmp_path / "store", tmp_path / "out", ExportPlan(images, FIVE_STAGE, every_accepted=True))
    assert every.chains == 4 and "left out, as the judge did not agree: 3" in every.lines()
    few = replace(images, samples=(refused, elsewhere))
    with pytest.raises(ThroughlineError, match=r"none of 7 answers .* and by the judge"):
        export_chains(tmp_path / "store", tmp_path / "few", ExportPlan(few, FIVE_STAGE))


def test_rows_for_trainers_hold_both_questions_and_one_image(
    exported: ExportSummary, images: ImageSet, expected: dict[str, str]
) -> None:
    prompts = make_question_set(images.classes, FIVE_STAGE)
    answers = {"label": {one.id: one.label for one in images.samples}, "reasoning": expected}
    questions = {"label": prompts.label, "reasoning": prompts.reasoning}
    for name in ("trl.jsonl", "ms_swift.jsonl", "llama_factory.jsonl"):
        rows = jsonl(exported, name)
        assert len(rows) == exported.jsonl_rows == 2 * len(expected)
        for row in rows:
            user, assistant = row["messages"] if "messages" in row else row["prompt"] + row["completion"]
            question = questions[row["asks_for"]]
            assert user == {"role": "user", "content": question if name == "trl.jsonl" else f"<image>{question}"}
            assert assistant == {"role": "assistant", "content": answers[row["asks_for"]][row["sample_id"]]}
            (image,) = row["images"]
            sample = images.by_id[row["sample_id"]]
            assert (exported.folder / "jsonl" / image).read_bytes() == sample.path.read_bytes()
            assert row["domain"] == sample.domain


def test_llama_factory_is_told_how_to_read_its_file(exported: ExportSummary) -> None:
    (entry,) = json.loads((exported.folder / "jsonl" / "dataset_info.json").read_text()).values()
    row = jsonl(exported, entry["file_name"])[0]
    tags = entry["tags"]
    user, assistant = row[entry["columns"]["messages"]]
    assert (user[tags["role_tag"]], assistant[tags["role_tag"]]) == (tags["user_tag"], tags["assistant_tag"])
    media = [row[entry["columns"]["images"]]]
    assert sum(message[tags["content_tag"]].count("<image>") for message in (user, assistant)) == len(media)


@pytest.mark.parametrize("mark", ["<image>", "<|im_end|>", "<IMG_CONTEXT>"])
def test_a_chain_that_trainers_would_misread_is_in_the_parquet_only(
    images: ImageSet, tmp_path: Path, loaded: Callable[[Path], Any], mark: str
) -> None:
    assert control_mark(chain_of("cup", NASTY)) is None
    one, two = images.samples[:2]
    with JournalWriter(tmp_path / "store" / "journal-0.jsonl") as writer:
        writer.write(candidate_of(one, images, 0, chain_of(one.label, f"An {mark} here.")))
        writer.write(candidate_of(two, images, 0, chain_of(two.label)))
    summary = export_chains(tmp_path / "store", tmp_path / "out", ExportPlan(images, FIVE_STAGE))
    assert len(loaded(summary.folder)) == 2
    assert [row["sample_id"] for row in jsonl(summary, "ms_swift.jsonl")] == [two.id]
    assert summary.left_out[MARKED] == [one.id]


def test_the_card_tells_datasets_and_readers_what_this_is(
    exported: ExportSummary, images: ImageSet, store: Path, tmp_path: Path
) -> None:
    _, front, body = (exported.folder / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "data/*.parquet"}]
    assert head["dataset_info"]["splits"][0]["num_examples"] == exported.chains
    assert head["size_categories"] == ["n<1K"]
    assert "license" not in head
    assert "No licence given" in body
    assert "no evidence about real" in body
    assert "never the label" in body
    assert prompt_sha256(asked_of(images)) in body
    assert f"`````text\n{asked_of(images)}\n`````" in body
    assert "teacher\\|\\`4\\` &lt;i&gt;" in body
    assert not re.search("<script|<b>|alert", body.replace(asked_of(images), ""))
    for name in images.classes:
        assert f"| {name} |" in body
    licensed = export_chains(store, tmp_path / "out", ExportPlan(images, FIVE_STAGE, licence="cc-by-4.0"))
    text = (licensed.folder / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "cc-by-4.0"
    assert "No licence given" not in text


def test_an_export_depends_on_the_content_of_the_store_alone(
    store: Path, images: ImageSet, exported: ExportSummary, tmp_path: Path
) -> None:
    shuffled = tmp_path / "store" / "journal-0.jsonl"
    shuffled.parent.mkdir()
    header, *lines = (store / "journal-0.jsonl").read_text().splitlines(keepends=True)
    shuffled.write_bytes(b"\xef\xbb\xbf" + "".join([*sorted(lines), header]).replace("\n", "\r\n").encode())
    shutil.copy(store / "journal-1.jsonl", shuffled.parent)
    again = export_chains(
        shuffled.parent, tmp_path / "out", ExportPlan(images, FIVE_STAGE, with_labels=True), shard_bytes=20_000
    )
    names = [path.relative_to(again.folder) for path in again.folder.rglob("*") if path.is_file()]
    assert len(names) > 10
    for name in names:
        assert (again.folder / name).read_bytes() == (exported.folder / name).read_bytes()


def test_a_folder_of_the_users_is_left_alone(store: Path, images: ImageSet, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    with pytest.raises(ThroughlineError, match="the folder is not empty"):
        export_chains(store, mine, ExportPlan(images, FIVE_STAGE))
    export_chains(store, tmp_path / "out", ExportPlan(images, FIVE_STAGE))
    (tmp_path / "out" / "data" / "notes.txt").write_text("mine")
    with pytest.raises(ThroughlineError, match=r"data/notes\.txt"):
        export_chains(store, tmp_path / "out", ExportPlan(images, FIVE_STAGE))
    assert (mine / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "out" / "data" / "notes.txt").read_text() == "mine"


def test_an_older_export_is_replaced(store: Path, images: ImageSet, tmp_path: Path) -> None:
    out = tmp_path / "out"
    many = export_chains(store, out, ExportPlan(images, FIVE_STAGE, rule="format"), shard_bytes=1)
    assert len(many.shards) == many.chains
    one = export_chains(store, out, ExportPlan(images, FIVE_STAGE))
    assert [f"data/{path.name}" for path in (out / "data").iterdir()] == list(one.shards)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


KILLED = """
import os, signal, sys
from pathlib import Path
from throughline.chains.formats import FIVE_STAGE
from throughline.domains.folders import read_images
from throughline.teaching.exports.export import export_chains
from throughline.teaching.exports.selection import ExportPlan
store, out, images = map(Path, sys.argv[1:])
on_progress = lambda done, total: done == 5 and os.kill(os.getpid(), signal.SIGKILL)
plan = ExportPlan(read_images(images), FIVE_STAGE)
export_chains(store, out, plan, shard_bytes=1, on_progress=on_progress)
"""


@pytest.mark.slow
def test_a_killed_export_leaves_what_stood_there_and_nothing_that_the_next_one_trips_over(
    store: Path, images: ImageSet, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_chains(store, out, ExportPlan(images, FIVE_STAGE, rule="format"))
    before = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    command = [sys.executable, "-c", KILLED, str(store), str(out), str(images.root)]
    assert subprocess.run(command, check=False).returncode == -9
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert len(list(tmp_path.iterdir())) == 2, "the draft of the killed one lies beside"
    export_chains(store, out, ExportPlan(images, FIVE_STAGE))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_interrupted_export_goes_without_a_trace(store: Path, images: ImageSet, tmp_path: Path) -> None:
    def on_progress(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_chains(store, tmp_path / "out", ExportPlan(images, FIVE_STAGE), on_progress=on_progress)
    assert not list(tmp_path.iterdir())


def test_an_image_that_changes_meanwhile_ends_the_export(store: Path, tmp_path: Path, images: ImageSet) -> None:
    copied = read_images(Path(shutil.copytree(images.root, tmp_path / "world")))
    copied.samples[-4].path.write_bytes(b"another image")
    with pytest.raises(ThroughlineError, match="the image changed"):
        export_chains(store, tmp_path / "out", ExportPlan(copied, FIVE_STAGE))
    assert not (tmp_path / "out").exists()


def test_a_store_without_an_accepted_chain_is_said_in_one_line(store: Path, images: ImageSet, tmp_path: Path) -> None:
    with pytest.raises(ThroughlineError, match="answers is accepted by rule correct in format think_answer"):
        export_chains(store, tmp_path / "out", ExportPlan(replace(images, samples=images.samples[:1]), THINK_ANSWER))
    with pytest.raises(ThroughlineError, match="no chain journal here"):
        export_chains(tmp_path, tmp_path / "out", ExportPlan(images, FIVE_STAGE))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_lines_of_the_card_load_and_trl_trains_on_them(
    exported: ExportSummary, loaded: Callable[[Path], Any], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from trl import SFTConfig, SFTTrainer

    from throughline.mllm.checkpoints import checkpoint_source

    card = (exported.folder / "README.md").read_text().replace("path/to/this/folder", str(exported.folder))
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        exec(block, names)
    assert len(names["chains"]) == exported.chains
    assert len(names["rows"]) == exported.jsonl_rows

    pocket = checkpoint_source("pocket")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trainer = SFTTrainer(
            AutoModelForImageTextToText.from_pretrained(pocket, dtype=torch.float32),
            args=SFTConfig(
                max_length=None,
                max_steps=1,
                per_device_train_batch_size=2,
                save_strategy="no",
                output_dir=str(tmp_path / "trained"),
                use_cpu=True,
                bf16=False,
                disable_tqdm=True,
            ),
            train_dataset=names["rows"],
            processing_class=AutoProcessor.from_pretrained(pocket),
        )
        loss = trainer.train().training_loss
    finally:
        torch.set_num_threads(threads)
    assert 0 < loss < 100


def test_an_export_of_named_classes_is_read_and_checked_by_its_names(images: ImageSet, tmp_path: Path) -> None:
    from pyarrow import parquet

    from throughline.teaching.check import check_chains

    words = {label: f"zorb{chr(ord('a') + place)}" for place, label in enumerate(images.classes)}
    named = images.with_names({label: (word,) for label, word in words.items()})
    with JournalWriter(tmp_path / "store" / "journal-0.jsonl") as writer:
        writer.write(make_header(images.classes, FIVE_STAGE, ("unused", asked_of(images))))
        for sample in images.samples:
            writer.write(candidate_of(sample, images, 0, chain_of(words[sample.label])))
    summary = export_chains(tmp_path / "store", tmp_path / "out", ExportPlan(named, FIVE_STAGE, with_labels=True))
    assert summary.chains == len(images.samples)
    rows = [row for shard in summary.shards for row in parquet.read_table(tmp_path / "out" / shard).to_pylist()]
    assert [row["concluded"] for row in rows] == [images.classes[row["label"]] for row in rows]
    asked = [row for row in jsonl(summary, "trl.jsonl") if row["asks_for"] == "label"]
    assert {row["completion"][0]["content"] for row in asked} == set(words.values())
    assert not check_chains(tmp_path / "out").problems
    with pytest.raises(ThroughlineError, match="none of"):
        export_chains(tmp_path / "store", tmp_path / "none", ExportPlan(images, FIVE_STAGE))
