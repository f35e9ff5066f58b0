"""Chains beside the reports of their images: BLEU and ROUGE-L, and ROUGE-L by hand."""

import json
import sys
from pathlib import Path

import pytest
from tests.teaching.test_statistics import answer

from throughline.chains.journal import JournalWriter
from throughline.chains.records import Verdict
from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.teaching.references import compare_with_references

HALF = "the heart is small and the lungs are wet now"
REPORT = "the heart is large and the lungs are clear today"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Of three images: the report itself in tags, half of it, and something about an image without a report."""
    half = f"<think> {HALF[:23]} </think> {HALF[23:]}"
    texts = {"cat": f"<think> the heart is large and </think> {REPORT[23:]}", "cup": half, "dog": "nothing here"}
    with JournalWriter(tmp_path / "journal-0.jsonl") as writer:
        for label, text in texts.items():
            candidate = answer(f"photo/{label}/0.png", text=text, format="think_answer")
            writer.write(candidate)
            sample, accepted = candidate.sample_id, label == "cat"
            writer.write(Verdict(key=candidate.key, sample_id=sample, rule="correct", outcome="ok", accepted=accepted))
    return tmp_path


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    path = tmp_path / "list.csv"
    path.write_text(
        "image,domain,label,report\n" + "".join(f"./photo/{c}/0.png,photo,{c},{REPORT}\n" for c in ("cat", "cup"))
    )
    return path


def lcs(first: list[str], second: list[str]) -> int:
    """Length of the longest common subsequence, straight from its definition."""
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return 1 + lcs(first[:-1], second[:-1])
    return max(lcs(first[:-1], second), lcs(first, second[:-1]))


def test_a_text_is_compared_without_its_tags_and_for_each_rule(store: Path, reports: Path) -> None:
    rows = {row[0]: row[1:] for row in compare_with_references(store, reports).rows}
    assert rows["correct"] == ("1", "100.0", "100.0")
    half = HALF.split()
    f1 = 2 * lcs(half, REPORT.split()) / (len(half) + len(REPORT.split()))
    assert rows["– (all answers)"][::2] == ("2", f"{100 * (1 + f1) / 2:.1f}")
    assert 0 < float(rows["– (all answers)"][1]) < 100


def test_the_verb_shows_them_in_words_and_as_json(
    store: Path, reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["chains", "stats", str(store), "--references", str(reports)]
    assert main(words) == 0
    assert "ROUGE-L" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["references"]
    assert found[1] == {"accepted by": "correct", "texts": "1", "BLEU": "100.0", "ROUGE-L": "100.0"}
    assert main(words[:3]) == 0 and "ROUGE-L" not in capsys.readouterr().out


def test_what_cannot_be_compared_is_said(store: Path, reports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (store / "other.csv").write_text("image,text\nx,y\n")
    with pytest.raises(ThroughlineError, match="no column named report"):
        compare_with_references(store, store / "other.csv")
    (store / "other.csv").write_text("image,report\nx,y\n")
    with pytest.raises(ThroughlineError, match="no answer of the store is about an image with a report"):
        compare_with_references(store, store / "other.csv")
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ThroughlineError, match=r"install the extra text"):
        compare_with_references(store, reports)
