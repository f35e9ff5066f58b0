"""The bench of scale measures what it says on images that a data set could hold, and sets many against few."""

from pathlib import Path

import pytest

import scale
from scale import STAGES, Measured, ScaleSettings, measure, measure_images, write_images
from throughline.core.errors import UsageError
from throughline.domains.checks import check_images
from throughline.domains.folders import read_images


@pytest.mark.slow
def test_its_images_are_fit_for_training_and_no_two_are_the_same_file(tmp_path: Path) -> None:
    write_images(tmp_path, 400)
    report = check_images(tmp_path)
    assert not report.defects
    assert len(report.domains) == 4
    assert len(report.classes) == 10
    images = read_images(tmp_path)
    assert len({sample.image_sha256 for sample in images.samples}) == 400


@pytest.mark.slow
def test_every_stage_sees_every_image_and_the_cache_is_full(tmp_path: Path) -> None:
    write_images(tmp_path, 40)
    found = measure_images(tmp_path, ScaleSettings(batch=8))
    assert set(found.seconds) == set(STAGES)
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert found.megabytes > 100  # torch alone
    assert found.facts["cache_hits"] == 1.0
    assert {"geometry", "threads", "dtype", "torch", "transformers"} <= set(found.facts)


def test_as_many_against_as_many_is_wrong_usage_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "write_images", lambda *_: pytest.fail("written"))
    with pytest.raises(UsageError, match="fewer"):
        measure(ScaleSettings(few=40, many=40), print)


@pytest.mark.slow
def test_rows_set_many_against_few(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def fake(function: object, root: Path, settings: ScaleSettings) -> Measured:
        count = sum(path.is_file() for path in root.rglob("*"))
        measured.append(count)
        slower = 2.0 if count == 80 else 1.0
        return Measured(dict.fromkeys(STAGES, slower), 500.0 + count, {"pixels": 64})

    monkeypatch.setattr(scale, "in_a_fresh_process", fake)
    *stages, memory = measure(ScaleSettings(few=40, many=80), print)
    assert measured == [40, 80, 40, 80, 40]
    assert [row.name for row in stages] == [f"scale pocket, {stage}" for stage in STAGES]
    assert {row.rival for row in stages} == {"the same with 40 images"}
    assert {row.ratio for row in stages} == {0.5}  # the rival's seconds over ours
    assert memory.ratio == pytest.approx(580 / 540)  # ours over the rival's
    assert memory.settings["difference"] == 40


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_it_runs_as_a_whole() -> None:
    rows = measure(ScaleSettings(few=40, many=44, batch=40), print)
    assert len(rows) == len(STAGES) + 1
    assert all(row.ours_value > 0 and row.rival_value > 0 for row in rows)
    assert rows[-1].unit == "MB"
    assert abs(rows[-1].settings["difference"]) < 200
