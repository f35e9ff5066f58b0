"""Images on their way into the model: from memory where they were just used, from the pixel cache, else decoded.

`training` sees every image once an epoch, `evaluation` once a model: the reader holds the preprocessed tensors up to a
stated number of bytes, oldest out first, and others come back from the cache on disk. A caller that knows which images
come next calls `expect`: as many as fit into as much room again are read while the model computes.
"""

import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property

from throughline.core.errors import ThroughlineError
from throughline.domains.samples import Sample
from throughline.domains.views import load_sample
from throughline.mllm.chat import Chat, EncodedImage
from throughline.mllm.pixel_cache import PixelCache

DEFAULT_BYTES = 1 << 27
"""128 MiB: every image of a small set, some of a large one. Memory does not grow with the number of images."""


class ImageReader:
    """`encode(sample)` gives the sample's `EncodedImage`: the same tensors wherever they come from.

    For one thread of one process; processes share the `cache`, which is not needed.
    """

    def __init__(self, chat: Chat, limit_bytes: int = DEFAULT_BYTES, cache: PixelCache | None = None) -> None:
        self.chat, self.limit_bytes, self.cache = chat, limit_bytes, cache
        self._held: OrderedDict[str, EncodedImage] = OrderedDict()
        self._bytes = self._last_size = 0
        self._coming: dict[str, Future[EncodedImage]] = {}
        self._reads_in = os.getpid()

    def encode(self, sample: Sample) -> EncodedImage:
        """Raises ThroughlineError, naming the file, when the image cannot be read or the model cannot take it."""
        key = sample.image_sha256
        coming = self._coming.pop(key, None) if self._reads_in == os.getpid() else None  # a fork has no reading thread
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        encoded = coming.result() if coming is not None else self._read(sample)
        self._hold(encoded)
        return encoded

    def expect(self, samples: Sequence[Sample]) -> None:
        """Reads these in the background, in this order, as far as `limit_bytes` reach by the size of the image last
        read; what was expected before and not read since is forgotten.

        A fault is raised by `encode`, as it is without this call.
        """
        before, self._coming = self._coming, {}
        room = max(1, self.limit_bytes // self._last_size) if self._last_size else len(samples)
        for sample in samples:
            key = sample.image_sha256
            if len(self._coming) == room:
                break
            if key not in self._held and key not in self._coming:
                known = key in before
                self._coming[key] = before.pop(key) if known else self._background.submit(self._read, sample)
        for forgotten in before.values():
            forgotten.cancel()

    @cached_property
    def _background(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=1, thread_name_prefix="images")

    def _read(self, sample: Sample) -> EncodedImage:
        cached = self.cache.get(sample.image_sha256) if self.cache is not None else None
        if cached is not None:
            return cached
        image = load_sample(sample)
        try:
            encoded = self.chat.encode_image(image, sample.image_sha256)
        except ValueError as error:  # Qwen-VL: a side more than 200 times the other
            raise ThroughlineError(f"the model's processor refuses the image: {error}", sample.path) from error
        # Files are contiguous, and kernels may round by layout: tensors are laid out alike wherever they come from.
        encoded = replace(encoded, inputs={name: value.contiguous() for name, value in encoded.inputs.items()})
        if self.cache is not None:
            self.cache.put(encoded)
        return encoded

    def _hold(self, encoded: EncodedImage) -> None:
        self._held[encoded.key] = encoded
        self._last_size = _size(encoded)
        self._bytes += self._last_size
        while self._bytes > self.limit_bytes and len(self._held) > 1:
            _, oldest = self._held.popitem(last=False)
            self._bytes -= _size(oldest)


def _size(encoded: EncodedImage) -> int:
    return sum(value.nbytes for value in encoded.inputs.values())
