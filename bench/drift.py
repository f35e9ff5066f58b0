"""The answer behind every beginning of a chain, as `throughline drift measure` reads it, against plain transformers.

    python bench/drift.py --json

Ours takes the chain through the model once and grows the classes behind each of its tokens on that; tokens of the
closings are made inside the timing. The rivals send each beginning through the model anew: with every class in a pass
of its own, or with all classes as a batch padded on the right. Their tokens and pixel values are ready before it. A
rival is measured on some of the beginnings, spread over the chain; on these, both sides have to say the same.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from bench_script import run_bench
from throughline.benchmarks.plain import Inputs, encode, plainly, render
from throughline.benchmarks.settings import BenchSettings
from throughline.benchmarks.timing import (
    OURS,
    BenchRow,
    OnProgress,
    compare,
    machine_settings,
    on_threads,
    require_close,
    take_turns,
)
from throughline.domains.folders import read_images
from throughline.domains.images import load_image
from throughline.drawn.concepts import CLASSES
from throughline.drawn.describer import DescriberSettings, describe
from throughline.drawn.scenes import read_scenes
from throughline.drawn.world import write_world
from throughline.drift.measures import Meter
from throughline.drift.places import Place, closing, places_of
from throughline.mllm.chat import user_turn
from throughline.mllm.checkpoints import POCKET
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.prefix import encode_beginnings
from throughline.questions.question_set import make_question_set

TOLERANCE = 1e-4
"""Largest difference of a class's log-likelihood."""
QUESTIONS = make_question_set(CLASSES)

Beginning = list[Tensor]
"""For each class the whole row of tokens: prompt, chain so far, closing with that class."""


class DriftBenchSettings(BenchSettings):
    """The answer behind every beginning of a chain against plain transformers."""

    rival_places: PositiveInt = 12
    """Beginnings that a rival is measured on."""
    trials: PositiveInt = 3
    """Timed runs of each side."""


def measure(settings: DriftBenchSettings, on_progress: OnProgress) -> list[BenchRow]:
    """A row for each rival, about one chain on one image. Raises a ThroughlineError when two sides do not say the
    same."""
    with on_threads(settings.threads), tempfile.TemporaryDirectory() as folder, torch.no_grad():
        world = Path(folder) / "world"
        write_world(world, per_class=1, seed=0)
        sample = read_images(world).samples[0]
        sure = DescriberSettings(part_mistakes=0, format_faults=0)
        chain = describe(read_scenes(world)[sample.id], seed=0, sample_id=sample.id, settings=sure)
        mllm, picture, name = load_mllm(POCKET), load_image(sample.path), f"drift {POCKET}, {len(CLASSES)} classes"
        places = _places(mllm, chain)
        some = places[:: -(-len(places) // settings.rival_places)]
        image, question = mllm.chat.encode_image(picture, "own"), user_turn(QUESTIONS.reasoning)
        prompt = encode(mllm.chat.processor, render(mllm.chat.processor, QUESTIONS.reasoning), [picture])
        path = mllm.chat.answered(question, [image], chain)
        beginnings = [_beginning(mllm, prompt, path.tokens[path.answer_start :].tolist(), place) for place in some]

        def ours() -> Tensor:
            with mllm.evaluating():
                return Meter(mllm, QUESTIONS).answers(encode_beginnings(mllm.model, path), places)

        lengths = [path.answer_start + place.token for place in some]
        rivals = {
            rival: plainly(mllm.model, partial(run, mllm.model, prompt, beginnings, lengths))
            for rival, run in RIVALS.items()
        }
        on_progress(name)
        said = ours()[[places.index(place) for place in some]]
        differences = {}
        for rival, run in rivals.items():
            gap = float((torch.log_softmax(run().double(), dim=1) - said).abs().max())
            differences[rival] = require_close(name, gap, TOLERANCE, f"answers of {rival} and ours differ")
        seconds = take_turns({OURS: ours, **rivals}, settings.trials, warm_up=0)
        facts = {
            "geometry": POCKET,
            "beginnings": len(places),
            "rival_beginnings": len(some),
            "tokens_path": len(path.tokens),
            "trials": settings.trials,
            **machine_settings(mllm.model),
        }
        return [
            compare(
                name,
                rival,
                [duration / len(places) for duration in seconds[OURS]],
                [duration / len(some) for duration in seconds[rival]],
                {**facts, "largest_difference": differences[rival]},
                unit="seconds per beginning",
            )
            for rival in rivals
        ]


def _places(mllm: Mllm, chain: str) -> list[Place]:
    spans = mllm.chat.answer_spans(user_turn(QUESTIONS.reasoning), chain)
    return list({place.token: place for place in places_of(chain, spans, QUESTIONS.format)}.values())


def _beginning(mllm: Mllm, prompt: Inputs, chain: list[int], place: Place) -> Beginning:
    meter, start = Meter(mllm, QUESTIONS), prompt["input_ids"][0].tolist() + chain[: place.token]
    return [torch.tensor(start + meter.tokens_of(closing(QUESTIONS.format, place, c))) for c in QUESTIONS.class_names]


def one_pass_each(model: object, prompt: Inputs, beginnings: Sequence[Beginning], lengths: Sequence[int]) -> Tensor:
    """`(beginnings, classes)` log-likelihoods, a forward pass for each; logits at what is scored only."""
    pairs = zip(beginnings, lengths, strict=True)
    return torch.tensor([[_scored(model, prompt, [row], length)[0] for row in own] for own, length in pairs])


def classes_as_batch(model: object, prompt: Inputs, beginnings: Sequence[Beginning], lengths: Sequence[int]) -> Tensor:
    """`(beginnings, classes)` log-likelihoods, a forward pass for each beginning."""
    pairs = zip(beginnings, lengths, strict=True)
    return torch.tensor([_scored(model, prompt, own, length) for own, length in pairs])


def _scored(model: object, prompt: Inputs, rows: Sequence[Tensor], length: int) -> list[float]:
    """Of each row the log-likelihood of what stands behind the first `length` tokens."""
    ids = pad_sequence(list(rows), batch_first=True)
    pixels = prompt["pixel_values"].repeat(len(rows), 1, 1, 1)
    kept = torch.arange(length - 1, ids.shape[1] - 1)
    assert callable(model)
    # causal attention keeps a row from the padding behind it, which is not scored
    logits = model(input_ids=ids, pixel_values=pixels, use_cache=False, logits_to_keep=kept).logits
    nll = F.cross_entropy(logits.float().flatten(0, 1), ids[:, length:].flatten(), reduction="none")
    behind = torch.arange(ids.shape[1] - length)
    ends = torch.tensor([len(row) - length for row in rows])
    sums: list[float] = nll.view(len(rows), -1).masked_fill(behind >= ends[:, None], 0.0).sum(dim=1).neg().tolist()
    return sums


RIVALS: dict[str, Callable[..., Tensor]] = {
    "one forward pass for each beginning and class": one_pass_each,
    "one forward pass for each beginning, classes as a batch": classes_as_batch,
}


if __name__ == "__main__":
    sys.exit(run_bench(DriftBenchSettings, measure))
