"""Rounds of preference for the model's own chains: which pairs they make, and what a kill and a second unit cost. The
chains are put in the model's mouth; training is the real thing."""

import json
import math
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from safetensors.torch import load_file
from tests.training.small import PROMPTS, chain_of, same, samples_of, settings, with_lora

from throughline.core.files import read_json_lines, write_json
from throughline.core.settings import LoraSettings, SelfLabelling, TrainingSettings
from throughline.domains.samples import ImageSet, Sample
from throughline.mllm.forward import score_trees
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.lora import save_adapter
from throughline.questions.sampler import Drawn, Reply, SamplingRequest
from throughline.training.methods import METHODS
from throughline.training.paths import Example, PathRenderer
from throughline.training.stages.context import StageContext

KINDS = ("both", "right only", "wrong only")
ADAPTER = "adapter/adapter_model.safetensors"


class Mouth:
    """Says of an image, by its place, a right chain, a wrong one and two malformed ones; or only one kind of them. Can
    be killed before a round."""

    whole_batches: ClassVar[bool] = True
    params: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, samples: Sequence[Sample], dies: bool = False) -> None:
        self.samples, self.dies = list(samples), dies

    def draw(self, request: SamplingRequest, batches: Sequence[Sequence[Sample]]) -> Generator[Sequence[Drawn]]:
        if self.dies:
            raise KeyboardInterrupt
        assert len(set(request.purposes)) == 4
        for batch in batches:
            yield [
                Drawn(sample, number, Reply(text, "stop"))
                for sample in batch
                for number, text in enumerate(self.said(sample))
            ]

    def said(self, sample: Sample) -> list[str]:
        place = self.samples.index(sample)
        wrong = next(name for name in PROMPTS.classes if name != sample.label)
        right, other = chain_of(sample.label, place), chain_of(wrong, place + 1)
        kind = KINDS[place % 3]
        first = other if kind == "wrong only" else right
        return ["malformed", first, right if kind == "right only" else other, ""]


def context_of(checkpoint: Path, samples: Sequence[Sample], folder: Path, **more: Any) -> StageContext:
    """Two rounds from an adapter that lies in `folder/start`."""
    mllm = load_mllm(str(checkpoint))
    start = folder / "start"
    if not start.is_dir():
        save_adapter(with_lora(mllm), start / "adapter")
        write_json(start / "stage.json", {"optimiser_steps": 1, "cumulative_steps": 1})
        mllm = load_mllm(str(checkpoint))
    stage = settings(epochs=1, batch=2, micro_batch=2)
    values: dict[str, Any] = {
        "mllm": mllm,
        "reader": ImageReader(mllm.chat),
        "questions": PROMPTS,
        "samples": tuple(samples),
        "chains": {},
        "settings": TrainingSettings(stage=stage, rounds=2, candidates=4, self_labelling=SelfLabelling()),
        "lora": LoraSettings(),
        "batch": 3,
        "seed": 0,
        "position": 1,
        "folder": folder / "unit",
        "start": start,
        "sampler": lambda _: Mouth(samples),
        "references": folder / "references",
    }
    return StageContext(**(values | more))


def run(context: StageContext) -> None:
    METHODS["cfp_rounds"].stages[-1].run(context)


@pytest.mark.slow
def test_a_right_chain_is_preferred_to_a_wrong_one_and_a_kill_changes_nothing(
    tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path: Path
) -> None:
    samples = samples_of(tiny_images, 7)
    run(context_of(tiny_checkpoint, samples, tmp_path / "whole"))
    whole = tmp_path / "whole" / "unit"
    for line in read_json_lines(whole / "rounds.jsonl"):
        assert (line["sampled"], line["trained"], line["unpaired"]) == (28, 3, 4)
        assert line["accepted"] == 3 + 2 * 2 and line["outcomes"]["rejected_class"] == 3 + 2 * 2
    start = load_file(tmp_path / "whole" / "start" / ADAPTER)
    assert not same(start, load_file(whole / ADAPTER))
    lines = read_json_lines(whole / "training.jsonl")
    assert {(*line["losses"],) for line in lines} == {("chosen", "rejected")}
    assert all(line["loss"] < math.log(2) for line in lines)  # what it is while the weights are the reference's

    def killed_in_round_two(folder: Path) -> Mouth:
        return Mouth(samples, dies=folder.name == "round-2")

    with pytest.raises(KeyboardInterrupt):
        run(context_of(tiny_checkpoint, samples, tmp_path / "again", sampler=killed_in_round_two))
    run(context_of(tiny_checkpoint, samples, tmp_path / "again"))
    assert same(load_file(tmp_path / "again" / "unit" / ADAPTER), load_file(whole / ADAPTER))


@pytest.mark.slow
def test_a_round_of_which_no_seconds_are_known_counts_no_samples_beside_others(
    tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path: Path
) -> None:
    """Three samples in batches of two; the first round is then one of an earlier version."""
    context = context_of(tiny_checkpoint, samples_of(tiny_images, 7), tmp_path)
    run(context)
    whole, *rounds = (context.folder / name / "stage.json" for name in (".", "round-1", "round-2"))
    first, second = (json.loads(mark.read_text()) for mark in rounds)
    mark = json.loads(whole.read_text())
    assert (mark["samples"], mark["seconds"]) == (6, first["seconds"] + second["seconds"])
    write_json(rounds[0], {name: first[name] for name in ("optimiser_steps", "cumulative_steps")})
    whole.unlink()
    run(context_of(tiny_checkpoint, context.samples, tmp_path))
    mark = json.loads(whole.read_text())
    assert (mark["optimiser_steps"], mark["samples"], mark["seconds"]) == (4, 3, second["seconds"])


@pytest.mark.slow
def test_reference_scores_are_computed_once(
    tiny_checkpoint: Path, tiny_images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, calls = samples_of(tiny_images, 7), Counter[str]()

    def counted(*given: Any) -> Any:
        calls[phase] += 1
        return score_trees(*given)

    monkeypatch.setattr("throughline.training.trainer.score_trees", counted)
    phase = "first"
    run(context_of(tiny_checkpoint, samples, tmp_path))
    kept = {path.name: path.read_text() for path in (tmp_path / "references").iterdir()}
    assert len(kept) == 2 * 3  # of two rounds, whose weights differ
    phase = "second"
    second = context_of(tiny_checkpoint, samples, tmp_path)
    run(replace(second, folder=tmp_path / "another unit"))
    assert calls["first"] - calls["second"] == 2 * 3
    phase = "without"
    third = context_of(tiny_checkpoint, samples, tmp_path, references=tmp_path / "others")
    run(replace(third, folder=tmp_path / "third"))
    assert calls["without"] == calls["first"]
    first, *others = (load_file(tmp_path / name / ADAPTER) for name in ("unit", "another unit", "third"))
    assert all(same(first, other) for other in others)
    assert {path.name: path.read_text() for path in (tmp_path / "references").iterdir()} == kept


def test_what_a_tree_is_scored_by_is_its_content(tiny_mllm: Mllm, tiny_images: ImageSet) -> None:
    reader, renderer = ImageReader(tiny_mllm.chat), PathRenderer(tiny_mllm.chat, PROMPTS)

    def content(place: int, chain: str) -> list[object]:
        example = Example((reader.encode(tiny_images.samples[place]),), "cat", chain)
        return renderer.merge([renderer.chain(example)]).content

    assert content(0, chain_of("cat")) == content(0, chain_of("cat"))
    assert content(0, chain_of("cat")) != content(1, chain_of("cat"))
    assert content(0, chain_of("cat")) != content(0, chain_of("dog"))
