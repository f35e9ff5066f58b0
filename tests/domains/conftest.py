import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.domains.small_archives import Server

Paint = Callable[[Path], Path]


@pytest.fixture
def paint() -> Paint:
    """Writes a small image whose pixels depend on nothing but its path's last three parts; returns the path."""

    def write(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = sum(ord(letter) * (place + 1) for place, letter in enumerate("/".join(path.parts[-3:])))
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, "JPEG" if path.suffix.lower() in (".jpg", ".jpeg") else "PNG")
        return path

    return write


@pytest.fixture
def tree(tmp_path: Path, paint: Paint) -> Path:
    """Three domains, two classes, six images in each folder."""
    root = tmp_path / "images"
    for domain in ("photo", "art", "sketch"):
        for label in ("dog", "cat"):
            for number in range(6):
                paint(root / domain / label / f"{number}.png")
    return root


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server({})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
