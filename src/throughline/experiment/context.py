"""Whether the longest prompts of a run, with the answers behind them, have room in their checkpoint's context.

Counted with the checkpoint's own processor before any weights are loaded: a prompt that is cut asks something else, and
one that is too long asks at positions that the model has never seen. Called by `run` and by `--dry-run`.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any

from PIL import Image

from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet
from throughline.experiment.config import DataConfig, RunConfig
from throughline.experiment.costs import own_config
from throughline.experiment.shots import questions_behind
from throughline.mllm.chat import Chat, EncodedImage
from throughline.mllm.checkpoints import checkpoint_folder
from throughline.mllm.shapes import open_outline
from throughline.questions.prompt import Prompt
from throughline.questions.question import Generated, Question
from throughline.runs.unit import Unit

SAMPLED_IMAGES = 100
"""Images whose size is read."""


def require_context(units: Sequence[Unit], config: RunConfig, sets: Sequence[ImageSet]) -> None:
    """Raises a ThroughlineError for the first unit whose prompts, with as many new tokens as it may write, are longer
    than its checkpoint's `max_position_embeddings`. A checkpoint that cannot be read is left to loading; of one behind
    an endpoint nothing is known."""
    sizes = {own.name: frozenset(some_sizes(data, own)) for data, own in zip(config.image_sets, sets, strict=True)}
    for unit in units:
        own, images = own_config(unit, config, sets)
        model, more = own.model, "evaluation.answering.chain_tokens, or the class list"
        with contextlib.suppress(OSError, ValueError, LookupError):
            limit, chat, image = _opened(model.checkpoint, model.tiles, model.revision, sizes[images.name])
            prompt, new = longest_prompt(own, images, chat, image)
            if prompt + new > limit:
                what = f"{unit.slug} asks with {prompt:,} tokens for up to {new:,}: {unit.model} takes {limit:,}"
                raise ThroughlineError(what, do=f"lower evaluation.examples.shots, model.tiles, {more}")


@cache
def _opened(name: str, tiles: int, revision: str | None, sizes: Collection[Any]) -> tuple[float, Chat, EncodedImage]:
    """The positions of a checkpoint, its chat, and of images of these sizes the one with most tokens."""
    outline, chat = open_outline(str(checkpoint_folder(name) or name), tiles, revision)
    encoded = [chat.encode_image(Image.new("RGB", size), "") for size in sizes]
    limit = getattr(outline.config.get_text_config(), "max_position_embeddings", None)
    return limit or float("inf"), chat, max(encoded, key=lambda image: image.placeholder_tokens)


def longest_prompt(config: RunConfig, images: ImageSet, chat: Chat, image: EncodedImage) -> tuple[int, int]:
    """Tokens of the prompt that is longest with its answer, and those of the answer. Every image counts as this one,
    every example and every answer by likelihood has the longest class name."""
    questions = config.question_set(images.classes, images.names, images.several)
    named = zip(questions.class_names, questions.classes, strict=True)
    name, label = max(named, key=lambda pair: len(chat.tokenizer(pair[0])["input_ids"]))
    lengths = []
    for question, prompt in asked_prompts(config, images, label):
        path = chat.answered(prompt.messages, [image] * len(prompt.images), name)
        new = question.answer.max_new_tokens if isinstance(question.answer, Generated) else 0
        lengths.append((path.answer_start, new or len(path.tokens) - path.answer_start))
    return max(lengths, key=sum)


def asked_prompts(config: RunConfig, images: ImageSet, label: str) -> Iterator[tuple[Question, Prompt]]:
    """Every question of the config with its prompt about the first image, each example of the class `label`."""
    questions = config.question_set(images.classes, images.names, images.several)
    asked, shots = config.asked(images.samples[:1]), config.evaluation.shots
    examples = {sample.id: ((sample, label),) * shots for sample in asked if shots}
    for question in questions_behind(config, questions, examples, seed=0):
        yield from ((question, question.prompt(sample)) for sample in asked)


def some_sizes(data: DataConfig, images: ImageSet) -> list[tuple[int, int]]:
    """Width and height of some of the images, from their headers."""
    if data.drawn is not None:
        return [(data.drawn.size, data.drawn.size)]
    sizes = []
    for sample in images.samples[:: max(1, len(images.samples) // SAMPLED_IMAGES)]:
        # `data check` names the unreadable
        with contextlib.suppress(OSError), Image.open(sample.path) as image:
            sizes.append(image.size)
    return sizes
