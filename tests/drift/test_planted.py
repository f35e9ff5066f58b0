"""Errors that were put into chains at a known token, seen by the pocket checkpoint."""

from pathlib import Path

import pandas as pd
import pytest

from planted import DETECTORS, TRUE, TRUE_STAGES, first_planted, measure_planted, summarise_planted
from planted_block import RECORD, planted
from records import this_machine, write_record
from throughline.drawn.concepts import CLASSES, contrast_of
from throughline.drift.summary import CONFIDENCE, LATE, summarise

IMAGES = 4


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """About some drawn images a true chain each, one that turns against its reasoning, and one that sees wrongly."""
    return measure_planted(IMAGES)


def of_kind(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    return rows[rows["chain"].isin([TRUE, kind])]


def test_the_planted_chains_conclude_wrongly(rows: pd.DataFrame) -> None:
    for (_, key), own in rows.groupby(["sample_id", "chain"]):
        label, [concluded] = own["label"].iloc[0], set(own["concluded"])
        assert concluded == (label if key == TRUE else contrast_of(label))


def test_a_late_surprise_tells_a_contradiction(rows: pd.DataFrame) -> None:
    summary = summarise(of_kind(rows, "contradiction"), CLASSES)
    [late] = [row for row in summary.scores if row.score == LATE]
    assert late.auroc.low > 0.5 and summary.wrong == IMAGES
    reasoned = {row.stage: row for row in summary.stages}["REASONING"]
    assert reasoned.right.mean > 0.8  # half of all chains go on to turn against it
    assert reasoned.decided.mean < 0.7


@pytest.mark.parametrize(("kind", "before"), [("contradiction", "REASONING"), ("perception", "SUMMARY")])
def test_nothing_is_seen_before_the_planted_token_and_a_surprise_at_it(
    rows: pd.DataFrame, kind: str, before: str
) -> None:
    places, higher = first_planted(rows, kind), []
    assert len(places) == IMAGES and set(TRUE_STAGES) == {"contradiction", "perception"}
    for image, first in places.items():
        own = rows[rows["sample_id"] == image]
        true, wrong = (own[own["chain"] == key].reset_index(drop=True) for key in (TRUE, kind))
        assert (true["token_id"][:first] == wrong["token_id"][:first]).all()
        assert (true["nll"][:first] - wrong["nll"][:first]).abs().max() < 1e-4
        assert before in set(true["ended"][: first + 1].dropna())
        higher.append(wrong["nll"][first] > true["nll"][first])
    assert sum(higher) > 0.7 * IMAGES


def test_the_record_has_every_score_beside_confidence_and_is_shown(rows: pd.DataFrame, tmp_path: Path) -> None:
    assert planted(tmp_path) == "*Not measured yet.*"
    record = summarise_planted(rows, DETECTORS, this_machine())
    assert [(row.kind, row.detector) for row in record.changes] == [
        (kind, detector) for kind in TRUE_STAGES for detector in DETECTORS
    ]
    for kind in TRUE_STAGES:
        own = {row.score: row for row in record.scores if row.kind == kind}
        assert {"little use of the image", LATE, CONFIDENCE} <= set(own)
        for row in own.values():
            assert row.gain.mean == pytest.approx(row.auroc.mean - own[CONFIDENCE].auroc.mean)
    for change in record.changes:
        assert 0 <= change.noticed <= 1 and (change.distance is None) == (change.noticed == 0)
    write_record(tmp_path / RECORD, record)
    text = planted(tmp_path)
    assert "contradiction, AUROC" in text and "perception, minus confidence" in text and "page\\_hinkley" in text
