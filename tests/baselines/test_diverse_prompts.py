"""Prompts in several manners: what they suppress, how images are moved, and the loss."""

from __future__ import annotations

import pytest
import torch
from tests.baselines.clips import write_clip

from throughline.baselines.diverse_prompts import DiversePrompts
from throughline.baselines.objectives import Outputs, clip_prompts
from throughline.baselines.settings import BaselineSettings
from throughline.mllm.clip import Clip, open_clip

NAMES, TEMPLATES = ("cat", "cup", "dog"), ("a photo of a {}.", "a sketch of a {}.", "{} at night")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return open_clip(str(write_clip("clip", tmp_path_factory.mktemp("clips"))))


def network(clip: Clip, gates: float) -> DiversePrompts:
    made = DiversePrompts(clip, TEMPLATES, NAMES).eval()
    torch.nn.init.constant_(made.gates, gates)
    return made


def features(clip: Clip) -> torch.Tensor:
    rows = torch.randn(5, clip.width, generator=torch.Generator().manual_seed(0))
    return rows / rows.norm(dim=1, keepdim=True)


def manners(clip: Clip) -> torch.Tensor:
    """How far the prompts of each manner lie from those of all, over classes."""
    rows = torch.stack([clip.embed(clip.tokens([t.format(name) for name in NAMES])).mean(0) for t in TEMPLATES])
    return rows - rows.mean(0)


def test_with_nothing_suppressed_it_begins_as_the_ensemble_of_prompts(clip):
    embedded = torch.stack([clip.embed(clip.tokens([t.format(name) for name in NAMES])) for t in TEMPLATES]).mean(0)
    cosines = torch.nn.functional.cosine_similarity(features(clip)[:, None], embedded[None], dim=2)
    _, logits = network(clip, gates=-30.0)(features(clip))
    torch.testing.assert_close(logits, clip.scale * cosines, rtol=1e-4, atol=1e-4)


def test_with_all_suppressed_no_move_to_another_manner_changes_an_answer(clip):
    closed, opened = network(clip, gates=30.0), network(clip, gates=0.0)
    for manner in manners(clip):
        moved = features(clip) + 0.7 * manner
        same = torch.nn.functional.cosine_similarity(closed(moved)[1], closed(features(clip))[1], dim=1)
        torch.testing.assert_close(same, torch.ones(5), rtol=1e-4, atol=1e-4)
        assert (opened(moved)[1] - opened(features(clip))[1]).abs().max() > 0.01


def test_in_training_each_image_is_moved_to_one_of_the_manners(clip):
    trained = network(clip, gates=0.0).train()
    torch.manual_seed(1)
    moved, _ = trained(features(clip))
    trained.eval()
    candidates = torch.stack([trained._logits(features(clip) + manner) for manner in manners(clip)])
    apart = (candidates - moved).abs().amax(2).min(0)
    assert (apart.values < 1e-3).all() and len(set(apart.indices.tolist())) > 1


def test_the_loss_is_cross_entropy_of_both_and_the_divergence_of_moved_answers():
    drawn = torch.Generator().manual_seed(0)
    logits, moved = (torch.randn(2, 4, 3, generator=drawn, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])
    settings = BaselineSettings.model_validate({"clip_prompts": {"consistency": 0.3}})
    expected = 0.0
    for domain in range(2):
        for image in range(4):
            p, q = logits[domain, image].softmax(0), moved[domain, image].softmax(0)
            true = labels[domain, image]
            expected -= float(p[true].log() + q[true].log())
            expected += 0.3 * sum(float(own * (own / other).log()) for own, other in zip(p, q, strict=True))
    ours = clip_prompts(Outputs(moved.unbind(), logits.unbind(), labels.unbind()), settings, 0)
    assert float(ours) == pytest.approx(expected / 8)
