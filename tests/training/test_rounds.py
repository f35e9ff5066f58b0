"""A round of self-labelling: what is kept, what is counted, and what a kill costs. The model's words are put in its
mouth; everything around them is the real thing."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tests.chains.plain_fold import read_journal
from tests.training.small import PROMPTS, chain_of

from throughline.core.settings import SamplingSettings
from throughline.domains.samples import ImageSet, Sample
from throughline.mllm import sampling as in_process
from throughline.mllm.load import Mllm
from throughline.mllm.sampling import Continuation
from throughline.questions.sampler import Drawn, InProcessSampler, Reply, SamplingRequest
from throughline.training.self_labelling import RoundPlan, SelfLabels, self_label

CLASSES = ("cat", "cup", "dog")


def other(label: str) -> str:
    return next(name for name in CLASSES if name != label)


def words_for(samples: Sequence[Sample]) -> dict[str, tuple[str, str]]:
    """What is said of each image, by its content: every kind of answer in turn."""
    kinds: list[Callable[[str], tuple[str, str]]] = [
        lambda label: (chain_of(label), "stop"),
        lambda label: (chain_of(other(label)), "stop"),
        lambda label: (chain_of(label), "length"),
        lambda label: (f"It is a {label}.", "stop"),
        lambda label: (chain_of(f"{label} or {other(label)}"), "stop"),
        lambda label: (chain_of("spaceship"), "stop"),
    ]
    return {one.image_sha256: kinds[n % len(kinds)](one.label) for n, one in enumerate(samples)}


class Mouth:
    """Stands in for `sample`; notes how many prompts each call had, and can be killed before its `dies_at`-th."""

    def __init__(self, words: dict[str, tuple[str, str]], dies_at: int | None = None) -> None:
        self.words, self.dies_at = words, dies_at
        self.calls: list[int] = []
        self.draws: list[float] = []

    def __call__(
        self, mllm: Mllm, prompts: Any, settings: SamplingSettings, draws: Any, **_: Any
    ) -> list[list[Continuation]]:
        if len(self.calls) + 1 == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append(len(prompts))
        self.draws += [float(generator.random()) for (generator,) in draws]
        said = [self.words[prompt.images[0].key] for prompt in prompts]
        return [[Continuation((1, 2), text, why)] for text, why in said]


@pytest.fixture
def samples(tiny_images: ImageSet) -> tuple[Sample, ...]:
    return tiny_images.samples[:14]


@pytest.fixture
def label(tiny_mllm: Mllm, samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch) -> Callable[..., SelfLabels]:
    def run(journal: Path, mouth: Mouth, **changes: Any) -> SelfLabels:
        monkeypatch.setattr(in_process, "sample", mouth)
        values: dict[str, Any] = {
            "samples": samples,
            "questions": PROMPTS,
            "sampling": SamplingSettings(temperature=1.0),
            "batch": 4,
            "seed": 3,
            "round": 1,
        }
        return self_label(InProcessSampler(tiny_mllm), RoundPlan(**{**values, **changes}), journal, "weights")

    return run


def test_only_chains_that_conclude_in_the_true_class_are_kept(label: Any, samples: Any, tmp_path: Path) -> None:
    result = label(tmp_path / "journal-0.jsonl", Mouth(words_for(samples)))
    assert result.accepted == {one.id: chain_of(one.label) for one in samples[::6]}
    assert result.sampled == 14
    assert result.outcomes == {
        "accepted": 3,
        "ambiguous": 2,
        "missing_stage": 2,
        "out_of_list": 2,
        "rejected_class": 3,
        "truncated": 2,
    }


def test_the_journal_holds_every_chain_and_its_verdict(label: Any, samples: Any, tmp_path: Path) -> None:
    result = label(tmp_path / "journal-0.jsonl", Mouth(words_for(samples)))
    journal = read_journal(tmp_path / "journal-0.jsonl")
    assert not journal.problems
    assert [candidate.sample_id for candidate in journal.candidates] == [one.id for one in samples]
    assert {(c.source, c.model, c.round, c.seed) for c in journal.candidates} == {("self", "weights", 1, 3)}
    assert {candidate.sample_id for candidate in journal.accepted("correct")} == set(result.accepted)
    (header,) = journal.headers
    assert {candidate.prompt_sha256 for candidate in journal.candidates} <= set(header.prompts)


def test_whole_batches_are_not_sampled_again_after_a_kill(label: Any, samples: Any, tmp_path: Path) -> None:
    words = words_for(samples)
    undisturbed = label(tmp_path / "undisturbed.jsonl", Mouth(words))
    journal = tmp_path / "journal-0.jsonl"
    with pytest.raises(KeyboardInterrupt):
        label(journal, Mouth(words, dies_at=3))
    again = Mouth(words)
    assert label(journal, again) == undisturbed
    assert again.calls == [4, 2]
    last = Mouth(words)
    assert label(journal, last) == undisturbed
    assert not last.calls


@pytest.mark.parametrize("torn", [0, 40])
def test_a_torn_batch_is_sampled_again_and_gives_the_same(label: Any, samples: Any, tmp_path: Path, torn: int) -> None:
    words = words_for(samples)
    undisturbed = label(tmp_path / "undisturbed.jsonl", Mouth(words))
    lines = (tmp_path / "undisturbed.jsonl").read_bytes().splitlines(keepends=True)
    journal = tmp_path / "journal-0.jsonl"
    journal.write_bytes(b"".join(lines[: 1 + 6]) + lines[7][:torn])  # the header, a batch and a half
    again = Mouth(words)
    assert label(journal, again) == undisturbed
    assert again.calls == [4, 4, 2]
    assert read_journal(journal).candidates == read_journal(tmp_path / "undisturbed.jsonl").candidates


def test_draws_belong_to_the_sample_the_round_and_the_seed(label: Any, samples: Any, tmp_path: Path) -> None:
    words = words_for(samples)
    drawn = {}
    for name, changes in {
        "first": {},
        "other batches": {"batch": 5},
        "second": {"round": 2},
        "seed": {"seed": 4},
    }.items():
        mouth = Mouth(words)
        label(tmp_path / f"{name}.jsonl", mouth, **changes)
        drawn[name] = mouth.draws
    assert drawn["first"] == drawn["other batches"]
    assert len(set(drawn["first"])) == 14
    assert not np.isin(drawn["first"], drawn["second"] + drawn["seed"]).any()


def test_progress_counts_images(label: Any, samples: Any, tmp_path: Path, tiny_mllm: Mllm, monkeypatch: Any) -> None:
    monkeypatch.setattr(in_process, "sample", Mouth(words_for(samples)))
    told: list[tuple[int, int]] = []
    plan = RoundPlan(samples, PROMPTS, SamplingSettings(), 6, 0, 1)
    self_label(
        InProcessSampler(tiny_mllm),
        plan,
        tmp_path / "j.jsonl",
        "weights",
        report_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(6, 14), (12, 14), (14, 14)]


def test_a_real_model_is_sampled_alike_twice_and_with_a_kill_between(
    tiny_mllm: Mllm, samples: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling = SamplingSettings(temperature=1.0, max_new_tokens=6)
    plan = RoundPlan(samples[:6], PROMPTS, sampling, 2, 0, 1)
    self_label(InProcessSampler(tiny_mllm), plan, tmp_path / "once.jsonl", "weights")
    real, calls = in_process.sample, iter(range(10))

    def dying(*arguments: Any, **options: Any) -> Any:
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(in_process, "sample", dying)
    with pytest.raises(KeyboardInterrupt):
        self_label(InProcessSampler(tiny_mllm), plan, tmp_path / "killed.jsonl", "weights")
    self_label(InProcessSampler(tiny_mllm), plan, tmp_path / "killed.jsonl", "weights")
    candidates = read_journal(tmp_path / "once.jsonl").candidates
    assert read_journal(tmp_path / "killed.jsonl").candidates == candidates
    assert len({candidate.text for candidate in candidates}) > 1


class Endpoint:
    """A sampler that answers one by one, out of order, and dies after so many answers."""

    whole_batches = False
    params: ClassVar[dict[str, Any]] = {"serve": "some server"}

    def __init__(self, words: dict[str, tuple[str, str]], dies_after: int = 100) -> None:
        self.words, self.dies_after = words, dies_after
        self.asked: list[str] = []
        self.closed = False

    def draw(self, request: SamplingRequest, batches: Sequence[Sequence[Sample]]) -> Generator[Sequence[Drawn]]:
        try:
            for one in reversed([one for batch in batches for one in batch]):
                if len(self.asked) == self.dies_after:
                    raise KeyboardInterrupt
                self.asked.append(one.id)
                yield [Drawn(one, 0, Reply(*self.words[one.image_sha256]))]
        finally:
            self.closed = True


def test_what_a_server_answered_is_not_asked_again_not_even_in_a_torn_batch(samples: Any, tmp_path: Path) -> None:
    plan = RoundPlan(samples, PROMPTS, SamplingSettings(), 4, 0, 1)
    words = words_for(samples)
    first, second, third = Endpoint(words, dies_after=6), Endpoint(words), Endpoint(words)
    with pytest.raises(KeyboardInterrupt):
        self_label(first, plan, tmp_path / "j.jsonl", "weights")
    result = self_label(second, plan, tmp_path / "j.jsonl", "weights")
    assert first.closed and len(first.asked) == 6
    assert sorted(first.asked + second.asked) == sorted(one.id for one in samples)
    assert result.accepted == {one.id: chain_of(one.label) for one in samples[::6]}
    assert self_label(third, plan, tmp_path / "j.jsonl", "weights") == result
    assert not third.asked
    assert {c.params["serve"] for c in read_journal(tmp_path / "j.jsonl").candidates} == {"some server"}
