"""Preprocessed images on disk, so that an image is decoded once and not once for every unit, epoch and way of asking.

One safetensors file an image, mapped into memory when it is read, in 256 folders by the first digits of the image's
hash. Files rather than segments with an index: a rename makes one whole, an unlink takes one out, the file system keeps
the time of its last use, and so any number of processes share the folder without a lock or an index to repair after a
kill. `images.ImageReader` reads and fills it; it changes no number, since what comes back is what went in, bit for bit.
"""

from __future__ import annotations

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

VERSION = 1
"""Raised when the same image would give other tensors (`domains.images`), or a file has another layout."""

LIBRARIES = ("transformers", "torch", "torchvision", "pillow", "numpy")
"""What decodes and resizes: another version may round differently."""

MARGIN = 20
"""For a twentieth of the limit a process does not look what others wrote; no image may be larger than that."""

KEPT_FREE = 1 << 30
"""Bytes of the disk that are not taken: checkpoints and results need them more."""

ALIGNMENT = 64
"""Bytes: where vector units want their data, and where memory that torch allocates begins. Kernels may add up data that
lies elsewhere in another order."""

SMALL = 1 << 20
"""Bytes below which a tensor is copied: the system allows a process 65,530 maps, and one costs more than the copy."""

TORN_SECONDS = 3600.0
"""Age at which a file that is not whole was left by a kill."""

File = tuple[int, int, str]
"""Nanosecond of the last use, bytes, path."""

logger = logging.getLogger(__name__)


def processor_settings(chat: Chat) -> str:
    """Hash of all that an encoded image depends on besides the image: the processor, the tiles, the libraries."""
    processor = chat.processor
    return content_hash(
        {
            "version": VERSION,
            "classes": [_name(processor), _name(processor.image_processor)],
            "processor": json.loads(processor.to_json_string()),
            "image_processor": json.loads(processor.image_processor.to_json_string()),
            "special_tokens": {name: str(token) for name, token in processor.tokenizer.special_tokens_map.items()},
            "tiles": chat.tiles,
            "libraries": {name: version(name) for name in LIBRARIES},
        }
    )


class PixelCache:
    """`EncodedImage`s by image hash and processor settings, at most about `limit_bytes` of them.

    When the limit is reached, those whose last use lies longest ago leave. All files are only looked at a few times
    while it fills, and once for as many images as half of it holds when it is full: a few `stat`s an image, however
    many there are. Each of P processes that fill it at once, up to eight, looks for itself, so that the limit may be
    exceeded by (P - 1) / 20. A file that is absent, torn or damaged is a miss; where nothing can be written, one log
    line says so and nothing more is stored.
    """

    def __init__(self, folder: Path, limit_bytes: int, settings: str) -> None:
        self.folder, self.limit_bytes, self.settings = folder, limit_bytes, settings
        self._closed = False
        self._bytes = 0  # in the folder: found at the last look, and what this process wrote and took out since
        self._written, self._look_after = 0, 0.0  # since the last look; when to look again
        self._oldest: deque[File] = deque()  # found at the last look, in the order in which they leave

    def get(self, key: str) -> EncodedImage | None:
        """The image whose content hash is `key`, or None. Large tensors lie in the file until they are used."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                facts, names = file.metadata() or {}, file.keys()
                inputs = {name: file.get_tensor(name) for name in names}
        except (OSError, RuntimeError, SafetensorError):  # torch says RuntimeError when another process takes it out
            return None
        if facts.pop("checksum", None) != _checksum(path.name, facts, inputs):
            return None
        with contextlib.suppress(OSError):  # another process may just have taken it out
            os.utime(path)
        inputs = {name: _usable(value) for name, value in inputs.items()}
        return EncodedImage(key, inputs, facts["placeholder"], int(facts["placeholder_tokens"]))

    def put(self, encoded: EncodedImage) -> None:
        """Stores an image whose tensors are contiguous."""
        if self._closed:
            return
        path = self._path(encoded.key)
        content = _serialised(path.name, encoded)
        if len(content) > self.limit_bytes // MARGIN:
            return  # it would push out what serves many
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
        """Takes out the files whose use lies longest ago until `size` bytes more are within the limit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self.folder).free < KEPT_FREE:
            raise OSError(f"less than {KEPT_FREE / 1e9:.1f} GB are free")
        if self._written >= self._look_after:
            self._look()
        while self._bytes + size > self.limit_bytes:
            if not self._oldest:
                self._look()
                if not self._oldest:
                    return
            last_use, its_size, path = self._oldest.popleft()
            with contextlib.suppress(FileNotFoundError):  # another process took it out, for an image of its own
                if (file := Path(path)).stat().st_mtime_ns == last_use:  # else used since
                    file.unlink()
                    self._bytes -= its_size

    def _look(self) -> None:
        """Counts what is there, from whomever. Near the limit that need not be repeated: from then on every process
        takes out what it brings in."""
        found = sorted(self._files())
        self._bytes, self._written = sum(size for _, size, _ in found), 0
        self._oldest = deque(found[: len(found) // 2 + 1])
        margin, left = self.limit_bytes / MARGIN, self.limit_bytes - self._bytes
        self._look_after = max(margin, left / 8) if left > margin else float("inf")

    def _files(self) -> Iterator[File]:
        """Every whole file; what a killed writer left is removed."""
        torn = (time.time() - TORN_SECONDS) * 1e9
        for part in os.scandir(self.folder):
            if not part.is_dir():
                continue
            for entry in os.scandir(part.path):
                with contextlib.suppress(OSError):  # another process may just have taken it out
                    stat = entry.stat()
                    if not entry.name.startswith("."):
                        yield stat.st_mtime_ns, stat.st_size, entry.path
                    elif stat.st_mtime_ns < torn:
                        Path(entry.path).unlink()


def _serialised(name: str, encoded: EncodedImage) -> bytes:
    """A safetensors file whose data begin at a multiple of `ALIGNMENT`: its header may end in spaces."""
    facts = {"placeholder": encoded.placeholder, "placeholder_tokens": str(encoded.placeholder_tokens)}
    checked = facts | {"checksum": _checksum(name, facts, encoded.inputs)}
    whole = memoryview(save(dict(encoded.inputs), checked))
    length = int.from_bytes(whole[:8], "little")
    spaces = -(8 + length) % ALIGNMENT
    return b"".join(
        ((length + spaces).to_bytes(8, "little"), whole[8 : 8 + length], b" " * spaces, whole[8 + length :])
    )


def _checksum(name: str, facts: Mapping[str, str], inputs: Mapping[str, torch.Tensor]) -> str:
    """Over everything that is read back: safetensors notices a torn file, and no wrong bit."""
    found = zlib.crc32(f"{name} {canonical_json(facts)}".encode())
    for key in sorted(inputs):
        value = inputs[key]
        found = zlib.crc32(f"{key} {value.dtype} {tuple(value.shape)}".encode(), found)
        found = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _usable(value: torch.Tensor) -> torch.Tensor:
    return value.clone() if value.nbytes < SMALL or value.data_ptr() % ALIGNMENT else value


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
