"""The verb `drift measure`: parts on disk, a call that is killed, and what all of it comes to."""

import json
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.forks import typed
from tests.training.small import PROMPTS, chain_of

from throughline.chains.formats import FIVE_STAGE
from throughline.chains.journal import JournalWriter
from throughline.chains.records import Candidate, classes_sha256, make_header, prompt_sha256
from throughline.cli.main import main
from throughline.core.settings import AnswerSettings
from throughline.domains.samples import ImageSet
from throughline.drift.measures import Meter
from throughline.drift.measuring import measure_drift
from throughline.drift.settings import DriftSettings
from throughline.drift.summary import CONFIDENCE, summarise
from throughline.evaluation.saved_model import OpenedModel
from throughline.mllm.load import Mllm

MISSING = float("nan")


@pytest.fixture(scope="module")
def store(tiny_images: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About every image a chain that concludes in its class, and one that does not."""
    folder = tmp_path_factory.mktemp("store")
    with JournalWriter(folder / "journal-0.jsonl") as writer:
        writer.write(make_header(tiny_images.classes, FIVE_STAGE, PROMPTS.texts))
        for number, sample in enumerate(tiny_images.samples):
            other = next(label for label in tiny_images.classes if label != sample.label)
            for candidate, label in enumerate((sample.label, other)):
                writer.write(
                    Candidate(
                        key=f"{sample.id} {candidate}",
                        sample_id=sample.id,
                        image_sha256=sample.image_sha256,
                        domain=sample.domain,
                        classes_sha256=classes_sha256(tiny_images.classes),
                        format=FIVE_STAGE.name,
                        source="test",
                        model="by hand",
                        prompt_sha256=prompt_sha256(PROMPTS.reasoning),
                        candidate=candidate,
                        text=chain_of(label, number),
                        finish_reason="stop",
                    )
                )
    return folder


@pytest.fixture
def words(tiny_checkpoint: Path, tiny_images: ImageSet, store: Path) -> list[str]:
    """Nine images, two a part."""
    asked = ["drift", "measure", str(tiny_checkpoint), str(tiny_images.root), "--chains", str(store)]
    return [*asked, "--every", "0", "--per-class", "1", "--batch", "2"]


def parts(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob("tokens-*/part-*")}


def test_a_store_becomes_parts_tables_and_a_page(
    words: list[str], tiny_images: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["chains"], found["wrong"]) == (9, 18, 9)
    assert [row["stage"] for row in found["stages"]] == ["no stage", *FIVE_STAGE.stages[:-1]]
    assert found["scores"][0]["score"] == CONFIDENCE and len(found["scores"]) > 4
    assert len(parts(tmp_path)) == 5
    rows = pd.concat([pq.read_table(path).to_pandas() for path in sorted(tmp_path.glob("tokens-*/*"))])
    for (sample, key), own in rows.groupby(["sample_id", "chain"]):
        assert own["place"].tolist() == list(range(len(own)))
        assert "".join(own["text"]).endswith("</CONCLUSION>") and key.startswith(sample)
        assert set(own["label"]) == {tiny_images.by_id[sample].label}
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count('<article class="shaded">') == 8 and "REFLECTION" in page
    assert "http" not in page.replace("http-equiv", "")


def test_what_was_interrupted_ends_with_the_same_bytes(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    calls, measure = [], Meter.measure

    def interrupted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(Meter, "measure", interrupted)
    assert main([*words, "--out", str(tmp_path / "torn")]) == 3
    assert len(parts(tmp_path / "torn")) == 1  # three chains of the second part were lost
    [folder] = (tmp_path / "torn").glob("tokens-*")
    (folder / ".part-000001.parquet.abcdefgh").write_bytes(b"what a kill left")
    assert main([*words, "--out", str(tmp_path / "torn")]) == 0
    assert parts(tmp_path / "torn") == parts(tmp_path / "whole")
    assert len(calls) == 7 + 14 and not list(folder.glob(".*"))


@pytest.mark.slow
def test_what_was_killed_ends_with_the_same_bytes(words: list[str], tmp_path: Path) -> None:
    words = [*words[:-1], "1"]  # a part an image
    ended = typed([*words, "--out", str(tmp_path / "whole")], tmp_path / "said")
    ended.join()
    assert ended.exitcode == 0, (tmp_path / "said").read_text()
    for kill in (2, 4, 6):
        process = typed([*words, "--out", str(tmp_path / "killed")], tmp_path / "said")
        deadline = time.monotonic() + 240
        while len(parts(tmp_path / "killed")) < kill:
            assert process.is_alive() and time.monotonic() < deadline, (tmp_path / "said").read_text()
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    ended = typed([*words, "--out", str(tmp_path / "killed")], tmp_path / "said")
    ended.join()
    assert ended.exitcode == 0 and parts(tmp_path / "killed") == parts(tmp_path / "whole")


def test_other_settings_are_measured_anew_beside_these(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--out", str(tmp_path)]) == main([*words, "--out", str(tmp_path), "--seed", "1"]) == 0
    assert main([*words, "--out", str(tmp_path), "--every", "30"]) == 0
    assert len(list(tmp_path.glob("tokens-*"))) == 2 + 1  # another seed takes other images


def test_a_model_writes_its_own_chains_and_the_same_ones_again(
    tiny_mllm: Mllm, tiny_images: ImageSet, tmp_path: Path
) -> None:
    model = OpenedModel(tiny_mllm, PROMPTS, AnswerSettings(batch=2, chain_tokens=6), None)
    images = replace(tiny_images, samples=tiny_images.samples[:3])
    settings = DriftSettings(own=2, every=0)
    first, again = (measure_drift(model, None, images, settings, tmp_path / name) for name in ("a", "b"))
    assert parts(tmp_path / "a") == parts(tmp_path / "b") and first.equals(again)
    assert list(first.groupby(["sample_id", "chain"], sort=False).groups) == [
        (sample.id, f"own {number}") for sample in images.samples for number in (0, 1)
    ]
    assert first["concluded"].isna().all()
    summary = summarise(first, PROMPTS.classes)  # nothing is concluded, so nothing is decided and all is wrong
    assert (summary.wrong, summary.stages, summary.scores) == (6, (), ())


def chain_rows(sample: str, chain: str, concluded: str | None, answers: list[list[float]]) -> list[dict[str, Any]]:
    """A chain about a cup with readings before the first token and at the ends of three stages."""
    ends = (None, "SUMMARY", "CAPTION", "REASONING")
    known = {"sample_id": sample, "chain": chain, "label": "cup", "concluded": concluded, "nll": 1.0}
    measures = {"entropy": 0.5, "jsd": 0.1, "image_kl": MISSING, "answer_jsd": 0.2}
    return [
        {**known, **measures, "place": place, "ended": ended, "answers": z}
        for place, (ended, z) in enumerate(zip(ends, answers, strict=True))
    ]


def test_a_decision_has_fallen_where_no_later_reading_differs() -> None:
    cat, cup = [0.9, 0.1], [0.2, 0.8]
    rows = pd.DataFrame(
        chain_rows("1", "a", "cup", [cup, cat, cup, cup])
        + chain_rows("2", "a", "cup", [cat, cat, cat, cup])
        + chain_rows("3", "a", "cat", [cup, cat, cat, cat])
        + chain_rows("3", "b", None, [cup, cup, cup, cup])
    )
    rows.loc[rows["sample_id"] == "3", "entropy"] = 2.0
    summary = summarise(rows, ("cat", "cup"), {("1", "a"): [2], ("2", "a"): [], ("3", "a"): [1], ("3", "b"): [1, 2]})
    assert (summary.images, summary.chains, summary.wrong) == (3, 4, 2)
    stages = {row.stage: (row.chains, row.decided.mean, row.right.mean) for row in summary.stages}
    assert stages == {
        "no stage": (3, 0, pytest.approx(2 / 3)),
        "SUMMARY": (3, pytest.approx(1 / 3), 0),
        "CAPTION": (3, pytest.approx(2 / 3), pytest.approx(1 / 3)),
        "REASONING": (3, 1, pytest.approx(2 / 3)),
    }
    scores = {row.score: row.auroc.mean for row in summary.scores}
    assert scores["largest entropy + JSD"] == scores["mean entropy"] == 1 and scores["mean NLL"] == 0.5
    assert scores[CONFIDENCE] == 0.5  # 0.1 for the cat, which seemed likely, and 1 where nothing is concluded
    assert scores["number of change points"] == 0.875 and "little use of the image" not in scores


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--chains", "nowhere"], "no chain journal here"),
        (["--beside", "nowhere"], "no such file of pairs"),
        (["--detector", "adwin"], "pip install '.[drift]'"),
    ],
)
def test_what_is_missing_is_one_line(
    words: list[str],
    tmp_path: Path,
    more: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    assert main([*words, *more, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_an_adapter_that_is_of_no_run_and_a_store_about_other_images_are_one_line(
    words: list[str], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.mllm.tiny import image_of

    (tmp_path / "model" / "adapter").mkdir(parents=True)
    (tmp_path / "model" / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    assert main(["drift", "measure", str(tmp_path / "model"), words[3], "--out", str(tmp_path / "out")]) == 1
    assert "not part of a unit of a run" in capsys.readouterr().err
    for label in ("cat", "cup", "dog"):
        (tmp_path / "images" / "photo" / label).mkdir(parents=True)
        image_of(99).save(tmp_path / "images" / "photo" / label / "0.png")
    others = [*words[:3], str(tmp_path / "images"), "--chains", str(store), "--out", str(tmp_path / "out")]
    assert main(others) == 1
    assert "no five_stage chain is about these images" in capsys.readouterr().err
