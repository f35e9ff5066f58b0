"""Conversations as a model's own processor renders them, cut where the answer begins.

Everything that reaches a model passes through here: `training` and `evaluation` give messages, images and an answer and
get a `Path`, which `tree.merge_paths` merges with others. Chat template, tokenizer, image processor and positions are
the checkpoint's; nothing here knows a family by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import pad

from throughline.core.errors import ThroughlineError
from throughline.core.files import canonical_json
from throughline.mllm.checkpoints import no_chat_template

Message = dict[str, Any]
"""One turn in the transformers chat format: `{"role": ..., "content": [{"type": "image"}, {"type": "text", ...}]}`."""

_TEXT_INPUTS = ("token_type_ids", "mm_token_type_ids", "text_replacement_offsets", "num_patches", "labels")
"""What a processor gives besides image inputs and what its tokenizer names."""

_OPEN_THOUGHT = re.compile(r"<(think|thinking)>\s*$")
"""How the generation prompt of a thinking template ends."""

PositionsOf = Callable[[torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]
"""`(1, tokens)` ids and the image inputs → `(axes, tokens)` positions; axes is 1, or 3 with multimodal RoPE."""


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image as the vision tower takes it; `placeholder` is the text that stands for it in a prompt."""

    key: str
    inputs: dict[str, torch.Tensor] = field(repr=False)
    placeholder: str = field(repr=False)
    placeholder_tokens: int


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A conversation up to where the model speaks, and its images in the order of their places, any number of them."""

    messages: Sequence[Message]
    images: Sequence[EncodedImage] = ()
    begun: str = ""
    """What the answer begins with."""

    def path(self, chat: Chat) -> Path:
        """Rendered up to where the model speaks, or goes on."""
        if self.begun:
            return chat.begun(self.messages, self.images, self.begun)
        return chat.prompt(self.messages, self.images)

    def answered(self, chat: Chat, answer: str) -> Path:
        """Rendered with an answer behind it."""
        return chat.answered(self.messages, self.images, answer)

    def without_last_image(self) -> EncodedPrompt:
        """The same words, the image asked about left out."""
        *_, shown = (at for at, turn in enumerate(self.messages) for part in turn["content"] if part["type"] == "image")
        messages = list(self.messages)
        content = list(messages[shown]["content"])
        content.pop(max(place for place, part in enumerate(content) if part["type"] == "image"))
        messages[shown] = {**messages[shown], "content": content}
        return EncodedPrompt(messages, self.images[:-1])


@dataclass(frozen=True, eq=False)
class Path:
    """One whole root-to-leaf sequence.

    tokens `(n,)`; positions `(axes, n)`; `images` in the order of their placeholders; `answer_start` is the index of
    the answer's first token (`n` when the path ends with the prompt).
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    images: tuple[EncodedImage, ...]
    answer_start: int


def user_turn(text: str, images: int = 1) -> list[Message]:
    """A single question about `images` images, images first, as both papers ask it."""
    pictures = [{"type": "image"} for _ in range(images)]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


class Chat:
    """Renders messages, images and answers of one loaded checkpoint into `Path`s."""

    def __init__(
        self, processor: Any, image_token_id: int, positions_of: PositionsOf | None = None, tiles: int = 1
    ) -> None:
        if not getattr(processor, "chat_template", None):
            raise no_chat_template()
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token_id = image_token_id
        self.tiles = tiles
        self.image_options = _tile_options(processor, tiles)
        """Options of the image processor for every image: how many tiles it may cut."""
        self._positions_of = positions_of
        self._prompt_text = lru_cache(maxsize=4096)(self._render_prompt)
        self._prompt_tokens = lru_cache(maxsize=256)(self._tokens_of)
        self._lead, self.end_of_turn = self._find_ends_of_turn()
        self.end_of_turn_id: int = self.tokenizer(self.end_of_turn, add_special_tokens=False)["input_ids"][0]
        pad = self.tokenizer.pad_token_id
        self.special_ids = frozenset[int](self.tokenizer.all_special_ids)
        self.pad_id: int = pad if pad is not None else self.end_of_turn_id

    # images -----------------------------------------------------------------------------------------------------

    def encode_image(self, image: Image.Image, key: str) -> EncodedImage:
        """Preprocesses one RGB image; `key` names its content (its SHA-256), two images of one key are the same.

        The processor itself is called: it knows arguments of its image processor that nobody else does.
        """
        token = self.processor.image_token
        options = {"return_tensors": "pt", "return_text_replacement_offsets": True, **self.image_options}
        processed = self.processor(images=[image], text=[token], **options)
        placeholder = processed["text_replacement_offsets"][0][0]["replacement"]
        of_text = {*_TEXT_INPUTS, *self.tokenizer.model_input_names}
        inputs = {name: torch.as_tensor(value) for name, value in processed.items() if name not in of_text}
        return EncodedImage(key, inputs, placeholder, placeholder.count(token))

    # text -------------------------------------------------------------------------------------------------------

    def prompt(self, messages: Sequence[Message], images: Sequence[EncodedImage]) -> Path:
        """The conversation up to where the model speaks."""
        return self.answered(messages, images, None)

    def begun(self, messages: Sequence[Message], images: Sequence[EncodedImage], words: str) -> Path:
        """The conversation with the first words of the answer behind it, from which the model goes on."""
        whole = self.answered(messages, images, words)
        end = len(whole.tokens) - len(self.tokenizer(self.end_of_turn, add_special_tokens=False)["input_ids"])
        return Path(whole.tokens[:end], whole.positions[:, :end], whole.images, end)

    def answered(self, messages: Sequence[Message], images: Sequence[EncodedImage], answer: str | None) -> Path:
        """The conversation with `answer` and the end of the turn behind it; the answer starts at `answer_start`.

        Prompt and answer are tokenised together, as an ordinary rendering would be, so that merges across the
        boundary fall where they fall in training of any other tool.
        """
        bare = self._prompt_text(canonical_json(list(messages)))
        text = self._with_images(bare, images)
        prompt = self._prompt_tokens(text)
        if answer is None:
            tokens, start = prompt, len(prompt)
        else:
            # Image placeholders are special tokens: what follows the prompt does not depend on how many there are.
            spoken = self._lead + answer + self.end_of_turn
            alone, whole = self._prompt_tokens(bare), self._tokens_of(bare + spoken)
            if whole[: len(alone)] == alone:
                tokens, start = prompt + whole[len(alone) :], len(prompt)
            else:  # a merge runs across the boundary: render the whole and take the common prefix
                tokens = self._tokens_of(text + spoken)
                start = _common_prefix(prompt, tokens)
        ids = np.asarray(tokens, dtype=np.int64)
        return Path(ids, self._positions(ids, images), tuple(images), start)

    def rendered(self, messages: Sequence[Message], answer: str) -> tuple[str, bool]:
        """What `answered` tokenises, with one image token an image; whether the tokenizer adds its opening token."""
        text = self._prompt_text(canonical_json(list(messages))) + self._lead + answer + self.end_of_turn
        return text, not self._opened(text)

    def answer_spans(self, messages: Sequence[Message], answer: str) -> list[tuple[int, int]]:
        """For every token of the answer, as `answered` has them, the characters of `answer` where it begins and ends.

        The end of the turn lies behind the answer: its span is empty. A token that merged with the prompt's last
        characters begins at 0. ThroughlineError for a tokenizer without offsets.
        """
        bare = self._prompt_text(canonical_json(list(messages)))
        text, opens = self.rendered(messages, answer)
        try:
            encoding = self.tokenizer(text, add_special_tokens=opens, return_offsets_mapping=True)
        except (NotImplementedError, ValueError):  # tokenizers in Python
            raise ThroughlineError(
                f"{type(self.tokenizer).__name__} does not say which characters belong to a token",
                do="use a checkpoint with a fast tokenizer (tokenizer.json)",
            ) from None
        start = _common_prefix(self._prompt_tokens(bare), encoding["input_ids"])
        first = len(bare) + len(self._lead)

        def within(place: int) -> int:
            return min(max(place - first, 0), len(answer))

        return [(within(begin), within(end)) for begin, end in encoding["offset_mapping"][start:]]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of generated tokens: special tokens and outer white space left out, all else as it came."""
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip()

    # inside -----------------------------------------------------------------------------------------------------

    def _render_prompt(self, messages_json: str) -> str:
        """The template's generation prompt; where that opens a thought, the thought is closed, since what is asked,
        trained and scored are answers."""
        text = self._render(json.loads(messages_json), add_generation_prompt=True)
        thought = _OPEN_THOUGHT.search(text)
        return f"{text.rstrip()}\n\n</{thought[1]}>\n\n" if thought else text

    def _render(self, messages: list[Message], add_generation_prompt: bool) -> str:
        rendered = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return str(rendered)

    def _with_images(self, text: str, images: Sequence[EncodedImage]) -> str:
        token = self.processor.image_token
        pieces = text.split(token)
        if len(pieces) - 1 != len(images):
            raise ThroughlineError(
                f"the prompt names {len(pieces) - 1} images, {len(images)} are given",
                do="pass one image for every image part of the messages",
            )
        out = pieces[0]
        for image, piece in zip(images, pieces[1:], strict=True):
            out += image.placeholder + piece
        return out

    def _tokens_of(self, text: str) -> list[int]:
        """As the processor tokenises a rendering: with the opening token, unless the template wrote it already."""
        return list(self.tokenizer(text, add_special_tokens=not self._opened(text))["input_ids"])

    def _opened(self, text: str) -> bool:
        return self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)

    def _positions(self, ids: NDArray[np.int64], images: Sequence[EncodedImage]) -> NDArray[np.int64]:
        if self._positions_of is None:
            return np.arange(len(ids), dtype=np.int64)[None]
        with torch.no_grad():
            positions = self._positions_of(torch.from_numpy(ids)[None], join_inputs(images))
        return np.asarray(positions.cpu().numpy(), dtype=np.int64)

    def _find_ends_of_turn(self) -> tuple[str, str]:
        """What the template writes around an assistant's words: white space between the generation prompt and them
        (LLaVA: a space), and what closes them, e.g. `<|im_end|>`, or the end-of-sequence token if nothing does."""
        word = "throughline"
        question = user_turn("?", images=0)
        answer = {"role": "assistant", "content": [{"type": "text", "text": word}]}
        before, _, after = self._render([*question, answer], add_generation_prompt=False).rpartition(word)
        prompt = self._render(question, add_generation_prompt=True)
        lead = before[len(prompt) :] if before.startswith(prompt) else ""
        return lead if lead.isspace() else "", after.strip() or str(self.tokenizer.eos_token)


def join_inputs(images: Sequence[EncodedImage]) -> dict[str, torch.Tensor]:
    """Image inputs of several images behind one another on the first axis, e.g. pixel_values `(tiles, 3, H, W)`. Where
    they differ in other axes, the smaller end in zeros, as processors pad images of several sizes."""
    if len(images) < 2:  # no copy of what may be large
        return dict(images[0].inputs) if images else {}
    return {name: torch.cat(_padded([image.inputs[name] for image in images])) for name in images[0].inputs}


def _padded(values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors made alike in all axes but the first."""
    largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    lacking = [[most - size for most, size in zip(largest, value.shape[1:], strict=True)] for value in values]
    return [
        pad(value, [n for lack in reversed(lacks) for n in (0, lack)]) if any(lacks) else value
        for value, lacks in zip(values, lacking, strict=True)
    ]


def _tile_options(processor: Any, tiles: int) -> dict[str, Any]:
    if hasattr(processor.image_processor, "crop_to_patches"):
        return {"crop_to_patches": tiles > 1, "max_patches": tiles}
    if tiles > 1:
        raise ThroughlineError(
            f"{type(processor).__name__} does not cut images into tiles",
            do="leave tiles at 1 for this checkpoint",
        )
    return {}


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    different = (index for index, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return next(different, min(len(a), len(b)))
