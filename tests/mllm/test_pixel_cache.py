"""The cache on disk gives back what the processor gave, bit for bit, or nothing; and stays within its limit."""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.forks import InsteadOfSpawn
from tests.mllm.tiny import image_of

from throughline.mllm import pixel_cache
from throughline.mllm.chat import EncodedImage
from throughline.mllm.load import Mllm, load_mllm
from throughline.mllm.pixel_cache import MARGIN, PixelCache, processor_settings

ROOM = 1 << 30


def same(first: EncodedImage | None, second: EncodedImage) -> bool:
    """Bit for bit, types and shapes included."""
    return (
        first is not None
        and (first.key, first.placeholder, first.placeholder_tokens)
        == (second.key, second.placeholder, second.placeholder_tokens)
        and first.inputs.keys() == second.inputs.keys()
        and all(
            first.inputs[name].dtype == value.dtype and torch.equal(first.inputs[name], value)
            for name, value in second.inputs.items()
        )
    )


def noise(number: int, values: int = 1000) -> EncodedImage:
    """An image of 4 kB, always the same for one number."""
    drawn = torch.randn(1, values, generator=torch.Generator().manual_seed(number))
    return EncodedImage(f"{number:064x}"[::-1], {"pixel_values": drawn}, "<image>", 1)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.safetensors") if not path.name.startswith("."))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


# what comes back --------------------------------------------------------------------------------------------------


def test_it_gives_what_the_processor_gave(mllm: Mllm, tmp_path: Path) -> None:
    settings = processor_settings(mllm.chat)
    images = [mllm.chat.encode_image(image_of(n, 40 + 20 * n, 32), f"{n:064x}") for n in range(3)]
    for image in images:
        PixelCache(tmp_path, ROOM, settings).put(image)
    for image in images:
        assert same(PixelCache(tmp_path, ROOM, settings).get(image.key), image)
    assert PixelCache(tmp_path, ROOM, settings).get("never stored") is None


def test_other_settings_of_the_processor_are_other_images(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    chats = [load_mllm(str(checkpoints["internvl"]), tiles=tiles).chat for tiles in (1, 4, 1)]
    chats[2].processor.image_processor.image_mean = [0.5, 0.5, 0.5]
    caches = [PixelCache(tmp_path, ROOM, processor_settings(chat)) for chat in chats]
    encoded = [chat.encode_image(image_of(0, 90, 30), "0" * 64) for chat in chats]
    for cache, one in zip(caches, encoded, strict=True):
        assert cache.get(one.key) is None
        cache.put(one)
    for cache, one in zip(caches, encoded, strict=True):
        assert same(cache.get(one.key), one)
    again = load_mllm(str(checkpoints["internvl"])).chat
    assert processor_settings(again) == processor_settings(chats[0])


@pytest.mark.parametrize("harm", ["cut", "emptied", "one bit", "placeholder", "another image's"])
def test_a_damaged_file_is_a_miss_and_can_be_written_again(tmp_path: Path, harm: str) -> None:
    cache = PixelCache(tmp_path, ROOM, "settings")
    one, other = noise(1), noise(2)
    cache.put(other)
    others = files(tmp_path)[0].read_bytes()
    cache.put(one)
    (path,) = [path for path in files(tmp_path) if one.key in path.name]
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-100],
            "emptied": b"",
            "one bit": whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:],
            "placeholder": whole.replace(b"<image>", b"<imagf>"),
            "another image's": others,
        }[harm]
    )
    assert cache.get(one.key) is None
    cache.put(one)
    assert same(cache.get(one.key), one)


def test_no_wrong_byte_anywhere_gives_a_wrong_image(tmp_path: Path) -> None:
    cache, one, chance = PixelCache(tmp_path, ROOM, "settings"), noise(1, 50), random.Random(0)
    cache.put(one)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        harmed = bytearray(whole)
        harmed[place] ^= chance.randrange(1, 256)
        path.write_bytes(harmed)
        found = cache.get(one.key)
        assert found is None or same(found, one)


def test_a_tensor_is_aligned_as_torch_allocates_it_and_outlives_its_file(tmp_path: Path) -> None:
    """Kernels may add up data that is not aligned in another order."""
    cache, images = PixelCache(tmp_path, ROOM, "settings"), (noise(1, 1 << 19), noise(2))
    for image in images:
        cache.put(image)
    read = [cache.get(image.key) for image in images]
    shutil.rmtree(tmp_path)
    for encoded, image in zip(read, images, strict=True):
        assert same(encoded, image)
        assert encoded is not None and encoded.inputs["pixel_values"].data_ptr() % 64 == 0


# room -------------------------------------------------------------------------------------------------------------


def test_those_not_used_for_longest_leave(tmp_path: Path) -> None:
    PixelCache(tmp_path, ROOM, "settings").put(noise(0))
    limit = 100 * size(tmp_path)
    cache = PixelCache(tmp_path, limit, "settings")
    for number in range(1, 60):
        cache.put(noise(number))
    past = time.time() - 1000
    for path in files(tmp_path):
        os.utime(path, (past, past))
    assert cache.get(noise(7).key) is not None  # used just now
    for number in range(60, 150):
        cache.put(noise(number))
        assert size(tmp_path) <= limit
    kept = {number for number in range(150) if cache.get(noise(number).key) is not None}
    assert {7, *range(60, 150)} <= kept
    assert 95 <= len(kept) <= 100


def test_the_files_are_not_counted_for_every_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, scans = PixelCache(tmp_path, 500_000, "settings"), []
    files_of = cache._files
    monkeypatch.setattr(cache, "_files", lambda: scans.append(1) or files_of())
    for number in range(600):  # more than four times the limit
        cache.put(noise(number))
    assert 1 < len(scans) < 30
    assert size(tmp_path) <= 500_000


def test_an_image_that_would_fill_it_is_not_stored(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, 50_000, "settings")
    cache.put(noise(0))
    assert not files(tmp_path)


def test_where_nothing_can_be_written_it_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    cache = PixelCache(in_the_way / "cache", ROOM, "settings")
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            cache.put(noise(number))
            assert cache.get(noise(number).key) is None
    assert len(caplog.records) == 1
    caplog.clear()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, 1 << 20))
    almost_full = PixelCache(tmp_path / "cache", ROOM, "settings")
    for number in range(3):
        almost_full.put(noise(number))
    assert len(caplog.records) == 1
    assert not files(tmp_path)


# several processes ------------------------------------------------------------------------------------------------


def use(folder: str, limit: int, seed: int, rounds: int, wrong: multiprocessing.Queue[int]) -> None:
    """Reads images in an order of its own, stores what it does not find, counts what differs from what it should be."""
    order = torch.Generator().manual_seed(seed)
    cache, differing = PixelCache(Path(folder), limit, "settings"), 0
    for _ in range(rounds):
        for number in torch.randperm(60, generator=order).tolist():
            one = noise(number)
            found = cache.get(one.key)
            if found is None:
                cache.put(one)
            else:
                differing += not same(found, one)
    wrong.put(differing)


@pytest.mark.slow
def test_processes_share_it_and_one_is_killed(tmp_path: Path) -> None:
    limit = 40 * 4400
    wrong = InsteadOfSpawn.Queue()
    killed = InsteadOfSpawn.Process(target=use, args=(str(tmp_path), limit, 9, 1_000_000, wrong))
    killed.start()
    others = [InsteadOfSpawn.Process(target=use, args=(str(tmp_path), limit, seed, 5, wrong)) for seed in range(2)]
    for process in others:
        process.start()
    deadline = time.monotonic() + 60
    while not files(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    assert [wrong.get(timeout=120) for _ in others] == [0, 0]
    for process in (killed, *others):
        process.join()
    assert 0 < size(tmp_path) <= limit * (1 + 3 / MARGIN)
    cache = PixelCache(tmp_path, limit, "settings")
    assert any(same(cache.get(noise(n).key), noise(n)) for n in range(60))


def test_a_file_that_another_process_takes_out_while_it_is_opened_is_a_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors looks at the file, then torch maps it: in between it may go."""
    cache = PixelCache(tmp_path, ROOM, "settings")
    cache.put(noise(0))

    def gone(*_: Any, **__: Any) -> Any:
        raise RuntimeError("unable to open file in read-only mode: No such file or directory (2)")

    monkeypatch.setattr(pixel_cache, "safe_open", gone)
    assert cache.get(noise(0).key) is None


def test_what_a_killed_writer_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    cache = PixelCache(tmp_path, ROOM, "settings")
    cache.put(noise(0))
    folder = files(tmp_path)[0].parent
    old, new = folder / ".half.safetensors.abcdefgh", folder / ".other.safetensors.abcdefgh"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    PixelCache(tmp_path, ROOM, "settings").put(noise(1))
    assert not old.exists()
    assert new.exists()
