"""Damaged copies of the pocket: what is damaged in them, what counts as right, and how it is shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import damage
import documents
from damage import CHOOSING, TESTING, WORLD, DamageStudy, Verdict, cases, study_damage
from damage_block import RECORD
from damaged_pocket import CAUSE, NAMED, Case, Damage, exchanged, write_checkpoint
from records import this_machine, write_record
from throughline.cli.main import main
from throughline.metrics.intervals import Interval
from throughline.mllm.checkpoints import POCKET, checkpoint_folder
from throughline.ood.diagnosis import CAUSES

POCKET_FOLDER = checkpoint_folder(POCKET)
assert POCKET_FOLDER is not None
WHOLE = {name: weight.float() for name, weight in load_file(POCKET_FOLDER / "model.safetensors").items()}


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    def copy(*damages: tuple[Damage, float], seed: int = 1) -> dict[str, Tensor]:
        write_checkpoint(Case(damages, seed), tmp_path / "copy")
        written = load_file(tmp_path / "copy" / "model.safetensors")
        return {name: weight.clone() for name, weight in written.items()}  # the next copy is written over this file

    return copy


def changed(weights: dict[str, Tensor]) -> set[str]:
    assert weights.keys() == WHOLE.keys()
    return {name for name, weight in weights.items() if not torch.equal(weight, WHOLE[name])}


def test_there_are_enough_copies_and_no_seed_is_on_both_sides() -> None:
    tested, chosen = ({case.name for case in cases(seeds)} for seeds in (TESTING, CHOOSING))
    assert len(tested) == len(list(cases(TESTING))) and not tested & chosen
    assert not set(TESTING) & set(CHOOSING) and len(set(WORLD.values())) == 2
    damaged = [case for case in cases(TESTING) if case.causes]
    assert len(damaged) >= 24 and {len(case.causes) for case in damaged} == {1, 2}
    assert {cause for case in damaged for cause in case.causes} == set(CAUSES)
    assert len(NAMED) == 8


def test_noise_is_as_strong_as_said_and_only_where_it_is_said(copy: Any) -> None:
    weights = copy(("tower", 0.5))
    names = changed(weights)
    layers = {name.split(".")[3] for name in names if "encoder.layer" in name}
    assert layers == {"0", "1", "2", "3"} and all(name.startswith("vision_tower.") for name in names)
    for name in names:
        share = (weights[name] - WHOLE[name]).std() / WHOLE[name].std()
        assert share == pytest.approx(0.5, rel=0.1)
    assert {name.split(".")[0] for name in changed(copy(("noise", 3)))} == {"multi_modal_projector"}
    again, other = copy(("tower", 0.5)), copy(("tower", 0.5), seed=2)
    assert changed(again) == names and all(torch.equal(again[name], weights[name]) for name in names)
    assert not any(torch.equal(other[name], weights[name]) for name in names)


def test_a_rotation_turns_what_the_projector_gives_and_keeps_lengths(copy: Any) -> None:
    layer = "multi_modal_projector.linear_2"
    inputs = torch.randn(50, 160, generator=torch.Generator().manual_seed(0))

    def given(weights: dict[str, Tensor]) -> Tensor:
        return inputs @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]

    before, moved = given(WHOLE), []
    for strength in (0.0, 0.6, 1.0):
        weights = copy(("rotation", strength))
        assert changed(weights) <= {f"{layer}.weight", f"{layer}.bias"}
        after = given(weights)
        torch.testing.assert_close(after.norm(dim=1), before.norm(dim=1), rtol=1e-4, atol=1e-4)
        moved.append(float(torch.cosine_similarity(after, before).mean()))
    assert moved[0] == pytest.approx(1, abs=1e-5) and 0.3 < moved[1] < 0.95 and abs(moved[2]) < 0.3


@pytest.mark.slow
def test_a_copy_with_exchanged_words_says_what_the_pocket_says_in_other_words(copy: Any, tmp_path: Path) -> None:
    """To the decoder, the question lists the same classes in another order."""
    from throughline.drawn.scenes import sample_scene
    from throughline.drawn.styles import render
    from throughline.mllm.chat import EncodedPrompt, user_turn
    from throughline.mllm.likelihood import label_log_likelihood
    from throughline.mllm.load import load_mllm
    from throughline.questions.question_set import make_question_set

    copy(("words", 3))
    meant = {name: name for name in NAMED} | exchanged(3, seed=1)
    assert sorted(meant.values()) == sorted(NAMED) and sum(word != other for word, other in meant.items()) == 3
    picture = render(sample_scene(0, "cartoon", "cup", 0), "cartoon")
    scores = []
    for checkpoint, listed in ((str(tmp_path / "copy"), NAMED), (POCKET, [meant[name] for name in NAMED])):
        mllm = load_mllm(checkpoint)
        prompt = EncodedPrompt(user_turn(make_question_set(listed).label), [mllm.chat.encode_image(picture, "picture")])
        scores.append(label_log_likelihood(mllm, [prompt], listed))
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)


def verdict(*damages: tuple[Damage, float], named: str = "", seed: int = 11, seconds: float = 60) -> Verdict:
    case, nothing = Case(damages, seed), Interval(0.0, 0.0, 0.0)
    return Verdict(
        name=case.name,
        damages=list(damages),
        causes=list(case.causes),
        named=tuple(named.split()),
        why="",
        error=nothing,
        shares=dict.fromkeys(CAUSES, nothing),
        accuracy=0.5,
        seconds=seconds,
    )


@pytest.mark.parametrize(
    ("damages", "named", "judged"),
    [
        ([("tower", 1)], "visual", "right"),
        ([("tower", 1)], "mapping", "wrong"),
        ([("tower", 1)], "", "refused"),
        ([("tower", 1)], "visual mapping", "wrong"),
        ([("noise", 3), ("words", 4)], "mapping", "right"),
        ([("noise", 3), ("words", 4)], "semantic", "right"),
        ([("noise", 3), ("words", 4)], "visual", "wrong"),
        ([("noise", 3), ("words", 4)], "semantic mapping", "right"),
        ([("noise", 3), ("words", 4)], "semantic visual", "wrong"),
        ([("harmless", 0.01)], "", "right"),
        ([("harmless", 0.01)], "visual", "wrong"),
    ],
)
def test_either_of_two_causes_is_right_and_refusing_is_where_there_is_none(
    damages: list[tuple[Damage, float]], named: str, judged: str
) -> None:
    assert verdict(*damages, named=named).judged == judged


def test_the_block_counts_verdicts(tmp_path: Path) -> None:
    assert documents.BLOCKS["damage"](tmp_path) == documents.NOT_MEASURED
    verdicts = [
        *(verdict(("tower", 0.5), named=named, seed=seed) for seed, named in enumerate(("visual", "", "mapping"))),
        verdict(("words", 2), named="semantic", seconds=99),
        verdict(("noise", 3), ("words", 4), named="mapping semantic"),
        verdict(("harmless", 0.01)),
    ]
    study = DamageStudy(command="x", images=80, asked=20, accuracy=0.7, verdicts=verdicts, environment=this_machine())
    write_record(tmp_path / RECORD, study)
    block = documents.BLOCKS["damage"](tmp_path)
    assert "| one cause | 4 | 50 (15 to 85) | 25 (5 to 70) | 25 (5 to 70) |" in block
    assert "| two causes | 1 | 100 (21 to 100) |" in block and "| no cause | 1 | 100 (21 to 100) |" in block
    assert "| tower 0.5 | visual | 50 | visual, refused, mapping |" in block
    assert "took 99 s" in block


@pytest.mark.slow
def test_a_study_of_two_copies_is_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forked_workers: Any, undrawn: Any
) -> None:
    """The real verb, on one style; words exchanged in the checkpoint, and in the images' table."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(damage, "STYLES", ("cartoon",))
    monkeypatch.setattr(damage, "PER_CLASS", 14)
    monkeypatch.setattr(damage, "ASKED", 6)
    monkeypatch.setattr(damage, "STRENGTHS", {"words": (8,), "task": (8,)})
    monkeypatch.setattr(damage, "PAIRS", ())
    monkeypatch.setattr(damage, "WORLD", {(1, 1): 0})
    typed: list[tuple[str, ...]] = []

    def run(*words: str) -> None:
        typed.append(words)
        assert main(list(words)) == 0

    monkeypatch.setattr(damage, "cases", lambda seeds: [*cases(seeds[:1])])
    found = study_damage(tmp_path, run, tmp_path / "parts", seeds=(1, 1))
    assert {v.name: v.named for v in found.verdicts} == dict.fromkeys(("words-8-seed1", "task-8-seed1"), ("semantic",))
    assert all(v.error.mean == pytest.approx(found.accuracy - v.accuracy) for v in found.verdicts)
    assert len(typed) == 3 and not list((tmp_path / "runs").rglob("checkpoint"))
    again = study_damage(tmp_path, run, tmp_path / "parts", seeds=(1, 1))
    assert again == found and len(typed) == 4  # what is finished is only read again


def test_every_damage_has_a_cause_and_a_strength() -> None:
    assert set(damage.STRENGTHS) == set(CAUSE) and set(filter(None, CAUSE.values())) == set(CAUSES)
