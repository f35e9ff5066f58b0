"""A local checkpoint as the teacher: its chains depend on image, number and seed, and on nothing that came before."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.chains.plain_fold import read_journal

from throughline.chains.formats import FIVE_STAGE
from throughline.core.settings import SamplingSettings
from throughline.domains.folders import read_images
from throughline.domains.samples import ImageSet
from throughline.drawn.world import write_world
from throughline.mllm.constraints import constraint_of
from throughline.mllm.load import Mllm, load_mllm
from throughline.questions.question_set import make_question_set
from throughline.teaching.building import build_chains
from throughline.teaching.local import LocalTeacher
from throughline.teaching.plan import BuildPlan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pocket() -> Mllm:
    return load_mllm("pocket")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("world")
    write_world(root, per_class=1, seed=3, styles=("photo",))
    found = read_images(root)
    return replace(found, samples=found.samples[:6])


def teacher(pocket: Mllm, images: ImageSet, seed: int = 0, batch: int = 4) -> LocalTeacher:
    question = make_question_set(images.classes).reasoning
    return LocalTeacher(pocket, question, SamplingSettings(temperature=0.7, max_new_tokens=160), seed, batch)


def test_constrained_chains_are_all_well_formed_and_other_candidates(
    pocket: Mllm, images: ImageSet, tmp_path: Path
) -> None:
    """So hot that some free ones are not."""
    sampling = SamplingSettings(temperature=1.2, max_new_tokens=250, constrained=True)
    question = make_question_set(images.classes).reasoning
    bound = LocalTeacher(pocket, question, sampling, 0, 6, constraint_of(sampling, pocket.chat, FIVE_STAGE))
    build_chains(BuildPlan(images, FIVE_STAGE, candidates=1, enough=None), bound, tmp_path)
    journal = read_journal(tmp_path)
    assert all(c.params["constrained"] is True for c in journal.candidates)
    ended = {c.key for c in journal.candidates if c.finish_reason == "stop"}
    assert len(ended) >= 3
    assert all(v.accepted for v in journal.verdicts if v.rule == "format" and v.key in ended)
    assert teacher(pocket, images).brief.params["constrained"] is False


def test_quantized_weights_are_other_candidates(pocket: Mllm, images: ImageSet) -> None:
    assert teacher(replace(pocket, quantization="nf4"), images).brief.params["quantization"] == "nf4"
    assert "quantization" not in teacher(pocket, images).brief.params


def texts(store: Path) -> dict[tuple[str, int], str]:
    return {(c.sample_id, c.candidate): c.text for c in read_journal(store).candidates}


def test_chains_are_sampled_recorded_and_resumed_alike(pocket: Mllm, images: ImageSet, tmp_path: Path) -> None:
    plan = BuildPlan(images, FIVE_STAGE, candidates=2, enough=None)
    build_chains(plan, teacher(pocket, images), tmp_path / "whole")
    whole = texts(tmp_path / "whole")
    assert len(whole) == len(set(whole.values())) == 12
    candidates = read_journal(tmp_path / "whole").candidates
    assert {(c.source, c.model) for c in candidates} == {("local", f"pocket@{pocket.fingerprint[:12]}")}
    assert all(c.usage and c.usage.prompt_tokens and c.usage.completion_tokens for c in candidates)
    verdicts = read_journal(tmp_path / "whole").verdicts
    assert sum(v.accepted for v in verdicts if v.rule == "format") >= 8

    (tmp_path / "torn").mkdir()
    lines = (tmp_path / "whole/journal-0.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "torn/journal-0.jsonl").write_bytes(b"".join(lines[: 1 + 4 * 3]) + lines[13][:50])
    build_chains(plan, teacher(pocket, images), tmp_path / "torn")
    assert texts(tmp_path / "torn") == whole


def test_another_seed_writes_other_chains(pocket: Mllm, images: ImageSet, tmp_path: Path) -> None:
    few = BuildPlan(replace(images, samples=images.samples[:2]), FIVE_STAGE, candidates=1)
    for seed in (0, 1):
        build_chains(few, teacher(pocket, images, seed), tmp_path / str(seed))
    assert not set(texts(tmp_path / "0").values()) & set(texts(tmp_path / "1").values())


def test_an_image_that_cannot_be_read_is_a_named_failure(pocket: Mllm, images: ImageSet, tmp_path: Path) -> None:
    gone = replace(images.samples[0], root=tmp_path / "gone")
    plan = BuildPlan(replace(images, samples=(gone, *images.samples[1:3])), FIVE_STAGE, candidates=1)
    progress = build_chains(plan, teacher(pocket, images), tmp_path / "store")
    assert (progress.failed, progress.answers) == (1, 2)
    (failed,) = [c for c in read_journal(tmp_path / "store").candidates if c.failed]
    assert failed.sample_id == gone.id and failed.text
