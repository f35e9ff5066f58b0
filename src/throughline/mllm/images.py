"""Images on their way into the model: opened once, preprocessed once, kept while there is room.

`training` sees every image once an epoch and path, `evaluation` once an answer: the reader holds the preprocessed
tensors up to a stated number of bytes, oldest out first.
"""

from __future__ import annotations

from collections import OrderedDict

from throughline.domains.images import load_image
from throughline.domains.samples import Sample
from throughline.errors import ThroughlineError
from throughline.mllm.chat import Chat, EncodedImage

DEFAULT_BYTES = 1 << 30


class ImageReader:
    """`encode(sample)` gives the sample's `EncodedImage`, from memory when it was read before."""

    def __init__(self, chat: Chat, limit_bytes: int = DEFAULT_BYTES) -> None:
        self.chat, self.limit_bytes = chat, limit_bytes
        self._held: OrderedDict[str, EncodedImage] = OrderedDict()
        self._bytes = 0

    def encode(self, sample: Sample) -> EncodedImage:
        """Raises ThroughlineError, naming the file, when the image cannot be read or the model cannot take it."""
        key = sample.image_sha256
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        image = load_image(sample.path)
        try:
            encoded = self.chat.encode_image(image, key)
        except ValueError as error:  # Qwen-VL: a side more than 200 times the other
            raise ThroughlineError(f"the model's processor refuses the image: {error}", sample.path) from error
        self._held[key] = encoded
        self._bytes += _size(encoded)
        while self._bytes > self.limit_bytes and len(self._held) > 1:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= _size(oldest)
        return encoded


def _size(encoded: EncodedImage) -> int:
    return sum(value.nbytes for value in encoded.inputs.values())
