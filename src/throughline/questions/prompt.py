"""A prompt: a conversation up to where the model speaks, with any number of images at any place in it.

Its images are samples, that is files; an `ImageReader` turns it into what the model room renders. Training, evaluation,
self-labelling and analyses all ask with one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from throughline.domains.samples import Sample

if TYPE_CHECKING:  # brings torch
    from throughline.mllm.chat import EncodedPrompt, Message
    from throughline.mllm.images import ImageReader


@dataclass(frozen=True)
class Prompt:
    """Messages in the transformers chat format, `{"role": ..., "content": [{"type": "image"}, {"type": "text", ...}]}`,
    and their images in the order of the image parts."""

    messages: tuple[Message, ...]
    images: tuple[Sample, ...] = ()
    begun: str = ""
    """What the model's answer begins with, whatever it would say; an endpoint is not sent it."""

    @property
    def text(self) -> str:
        """Its texts, a line each."""
        return "\n".join(part["text"] for turn in self.messages for part in turn["content"] if part["type"] == "text")

    def with_urls(self, urls: Sequence[str]) -> list[Message]:
        """The messages as OpenAI's API takes them, `urls` in the places of the images."""
        places = iter(urls)
        return [
            {
                **turn,
                "content": [
                    {"type": "image_url", "image_url": {"url": next(places)}} if part["type"] == "image" else part
                    for part in turn["content"]
                ],
            }
            for turn in self.messages
        ]

    def encode(self, reader: ImageReader) -> EncodedPrompt:
        """With its images as the model takes them; ThroughlineError, naming the file, for one that cannot be read."""
        from throughline.mllm.chat import EncodedPrompt

        return EncodedPrompt(self.messages, tuple(map(reader.encode, self.images)), self.begun)


def user_prompt(*parts: str | Sample) -> Prompt:
    """A single turn of the user: texts and images in the order given."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
    images = tuple(part for part in parts if isinstance(part, Sample))
    return Prompt(({"role": "user", "content": content},), images)


PromptMaker = Callable[[Sample], Prompt]
"""Makes the prompt about a sample. Questions with the same maker, or equal ones, share their prompts."""


@dataclass(frozen=True)
class ImageThenText:
    """Makes the prompt about one sample: its image, then the same text for all, as both papers ask. Equal ones make
    equal prompts, which are rendered once for all questions that share them."""

    text: str

    def __call__(self, sample: Sample) -> Prompt:
        """The sample's prompt."""
        return user_prompt(sample, self.text)
