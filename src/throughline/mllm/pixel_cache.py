"""Preprocessed images on disk, so that an image is decoded once and not once for every unit, epoch and way of asking.

One safetensors file an image, in 256 folders by the first digits of the image's hash. Files rather than segments with
an index: a rename makes one whole, an unlink removes one, and the file system keeps the time of its last use. So any
number of processes share the folder without a lock, and there is no index to repair after a kill. `images.ImageReader`
reads and fills it. It changes no number: what comes back is what went in, bit for bit, aligned as torch aligns memory
(kernels may add up data that is not in another order).
"""

import contextlib
import json
import logging
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from throughline.core.errors import ThroughlineError
from throughline.core.files import canonical_json, content_hash, write_atomically
from throughline.mllm.chat import Chat, EncodedImage

VERSION = 2
"""Raised when the same image would give other tensors (`domains.images`), or a file has another layout."""

LIBRARIES = ("transformers", "torch", "torchvision", "pillow", "numpy")
"""What decodes and resizes: another version may round differently."""

MARGIN = 20
"""A process may write a twentieth of the limit before it scans for what others wrote; no image may be larger than
that."""

KEPT_FREE = 1 << 30
"""Bytes of the disk that stay free: checkpoints and results need them more."""

TORN_SECONDS = 3600.0
"""Age from which an unfinished file counts as left by a killed writer."""

File = tuple[int, int, str]
"""Nanosecond of the last use, bytes, path."""

logger = logging.getLogger(__name__)


def processor_settings(chat: Chat) -> str:
    """Hash of all that an encoded image depends on besides the image: the processor, the tiles, the libraries."""
    parts = chat.processor, chat.processor.image_processor
    return content_hash(
        {
            "version": VERSION,
            "classes": [f"{type(part).__module__}.{type(part).__qualname__}" for part in parts],
            "settings": [json.loads(part.to_json_string()) for part in parts],
            "special_tokens": {name: str(token) for name, token in chat.tokenizer.special_tokens_map.items()},
            "tiles": chat.tiles,
            "libraries": {name: version(name) for name in LIBRARIES},
        }
    )


class PixelCache:
    """`EncodedImage`s by image hash and processor settings, at most about `limit_bytes` of them.

    When the limit is reached, the least recently used leave. The folder is scanned a few times while it fills, and once
    for as many images as half of it holds when it is full: a few `stat` calls an image, however many there are. Each of
    P processes that fill it at once, up to eight, scans for itself, so that the limit may be exceeded by (P - 1) / 20.
    A file that is absent, torn or damaged is a miss. Where nothing can be written, one log line says so and nothing
    more is stored.
    """

    def __init__(self, folder: Path, limit_bytes: int, settings: str) -> None:
        self.folder, self.limit_bytes, self.settings = folder, limit_bytes, settings
        self._closed = False
        self._bytes = 0  # in the folder: by the last scan, and what this process wrote and removed since
        self._written, self._scan_after = 0, 0.0  # bytes since the last scan; from how many on to scan again
        self._oldest: deque[File] = deque()  # by the last scan, in the order in which they leave

    def get(self, key: str) -> EncodedImage | None:
        """The image whose content hash is `key`, or None."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                inputs = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except (OSError, RuntimeError, SafetensorError):  # torch raises RuntimeError when another process removes it
            return None
        if metadata.pop("checksum", None) != _checksum(path.name, metadata, inputs):
            return None
        with contextlib.suppress(OSError):  # another process may just have removed it
            os.utime(path)
        return EncodedImage(key, inputs, metadata["placeholder"], int(metadata["placeholder_tokens"]))

    def put(self, encoded: EncodedImage) -> None:
        """Stores an image whose tensors are contiguous."""
        if self._closed:
            return
        path = self._path(encoded.key)
        metadata = {"placeholder": encoded.placeholder, "placeholder_tokens": str(encoded.placeholder_tokens)}
        metadata["checksum"] = _checksum(path.name, metadata, encoded.inputs)
        content = save(dict(encoded.inputs), metadata)
        if len(content) > self.limit_bytes // MARGIN:
            return  # it would push out many others
        try:
            self._make_room(len(content))
            write_atomically(path, content, durable=False)
        except (ThroughlineError, OSError) as error:
            self._closed = True
            logger.warning("%s: no more images are kept there, and none is lost (%s)", self.folder, error)
            return
        self._bytes += len(content)
        self._written += len(content)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}-{self.settings[:16]}.safetensors"

    def _make_room(self, size: int) -> None:
        """Removes the least recently used files until `size` bytes more are within the limit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.folder).free < KEPT_FREE:
            raise OSError(f"less than {KEPT_FREE / 1e9:.1f} GB are free")
        if self._written >= self._scan_after:
            self._scan()
        while self._bytes + size > self.limit_bytes and (self._oldest or self._scan()):
            last_use, bytes_of_file, path = self._oldest.popleft()
            with contextlib.suppress(FileNotFoundError):  # another process removed it, for an image of its own
                if (file := Path(path)).stat().st_mtime_ns == last_use:  # else used since
                    file.unlink()
                    self._bytes -= bytes_of_file

    def _scan(self) -> bool:
        """Counts what all processes wrote; whether there is any file. Near the limit that need not be repeated: from
        then on every process removes as much as it writes."""
        files = sorted(self._files())
        self._bytes, self._written = sum(size for _, size, _ in files), 0
        self._oldest = deque(files[: len(files) // 2 + 1])
        margin, left = self.limit_bytes / MARGIN, self.limit_bytes - self._bytes
        self._scan_after = max(margin, left / 8) if left > margin else float("inf")
        return bool(files)

    def _files(self) -> Iterator[File]:
        """Every whole file; unfinished ones of killed writers are removed."""
        torn = (time.time() - TORN_SECONDS) * 1e9
        for part in os.scandir(self.folder):
            if not part.is_dir():
                continue
            for entry in os.scandir(part.path):
                with contextlib.suppress(OSError):  # another process may just have removed it
                    stat = entry.stat()
                    if not entry.name.startswith("."):
                        yield stat.st_mtime_ns, stat.st_size, entry.path
                    elif stat.st_mtime_ns < torn:
                        Path(entry.path).unlink()


def _checksum(name: str, metadata: Mapping[str, str], inputs: Mapping[str, torch.Tensor]) -> str:
    """Of file name, metadata and tensors: safetensors notices a torn file, but no wrong bit."""
    checksum = zlib.crc32(f"{name} {canonical_json(metadata)}".encode())
    for key in sorted(inputs):
        value = inputs[key]
        checksum = zlib.crc32(f"{key} {value.dtype} {tuple(value.shape)}".encode(), checksum)
        checksum = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"
