"""Chains that the base writes by itself about images, kept on disk."""

from collections.abc import Sequence

from throughline.analysis.records import BASE
from throughline.core.files import read_json_lines, write_json_lines
from throughline.core.seeding import generator
from throughline.core.settings import SamplingSettings
from throughline.domains.samples import Sample
from throughline.experiment.analyses.scoring import Scoring
from throughline.mllm.chat import user_turn
from throughline.mllm.sampling import sample

VERSION = 2
"""Raised when the same base would write other chains."""


def base_chains(scoring: Scoring, samples: Sequence[Sample], seed: int) -> dict[str, str]:
    """What the base writes about each image by its id, drawn as rounds draw; what was cut off is no chain."""
    settings = scoring.subject.self_labelling.model_copy(update={"constrained": False})
    content = [[image.id, image.image_sha256] for image in samples]
    inputs = [settings.model_dump(mode="json"), seed, content]
    path = scoring.shard("chains-own", BASE, inputs, VERSION).with_suffix(".jsonl")
    if not path.is_file():
        write_json_lines(path, _written(scoring, samples, seed, settings))
    return {row["sample_id"]: row["text"] for row in read_json_lines(path) if row["text"]}


def _written(
    scoring: Scoring, samples: Sequence[Sample], seed: int, settings: SamplingSettings
) -> list[dict[str, str]]:
    subject, rows = scoring.subject, []
    batch, reader = subject.answering.batch, scoring.weights.reader
    with scoring.weights.at(None) as mllm, mllm.evaluating():
        question = user_turn(subject.questions.reasoning)
        for start in range(0, len(samples), batch):
            images = samples[start : start + batch]
            prompts = [mllm.chat.prompt(question, [reader.encode(image)]) for image in images]
            draws = [[generator(seed, "base's own chain", image.id)] for image in images]
            replies = sample(mllm, prompts, settings, draws)
            rows += [
                {"sample_id": image.id, "text": reply.text}
                for image, (reply, *_) in zip(images, replies, strict=True)
                if reply.finish_reason == "stop"
            ]
    return rows
