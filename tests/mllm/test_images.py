"""An image is the same wherever it comes from: decoded, from memory, from the cache, read in the background."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from throughline.core.errors import ThroughlineError
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.views import View, load_sample, view_of
from throughline.mllm.chat import EncodedImage
from throughline.mllm.images import ImageReader
from throughline.mllm.load import Mllm
from throughline.mllm.pixel_cache import PixelCache, processor_settings


@pytest.fixture
def samples(tiny_images: ImageSet, tmp_path: Path) -> list[Sample]:
    """Six images in a folder of this test's own."""
    root = tmp_path / "own"
    shutil.copytree(tiny_images.root, root)
    return [replace(sample, root=root) for sample in tiny_images.samples[:6]]


def cache_at(mllm: Mllm, folder: Path) -> PixelCache:
    return PixelCache(folder, 1 << 30, processor_settings(mllm.chat))


def pixels(encoded: EncodedImage) -> torch.Tensor:
    return encoded.inputs["pixel_values"]


def test_an_image_that_is_cached_is_not_decoded_again(tiny_mllm: Mllm, samples: list[Sample], tmp_path: Path) -> None:
    plain = [ImageReader(tiny_mllm.chat).encode(sample) for sample in samples]
    first = ImageReader(tiny_mllm.chat, cache=cache_at(tiny_mllm, tmp_path / "cache"))
    second = ImageReader(tiny_mllm.chat, cache=cache_at(tiny_mllm, tmp_path / "cache"))
    filled = [first.encode(sample) for sample in samples]
    shutil.rmtree(samples[0].root)
    for sample, decoded, stored in zip(samples, plain, filled, strict=True):
        for found in (stored, first.encode(sample), second.encode(sample)):
            assert torch.equal(pixels(found), pixels(decoded))
            assert found.placeholder == decoded.placeholder
    with pytest.raises(ThroughlineError):
        ImageReader(tiny_mllm.chat).encode(samples[0])


def test_views_of_an_image_are_kept_apart_in_memory_and_in_the_cache(
    tiny_mllm: Mllm, samples: list[Sample], tmp_path: Path
) -> None:
    asked = (View("glitched", 3), View("glitched", 5), View("glitched", 3, seed=1), View("occlusion_grey", 0.5))
    shown = [samples[0], *(view_of(samples[0], view) for view in asked)]
    first = ImageReader(tiny_mllm.chat, cache=cache_at(tiny_mllm, tmp_path / "cache"))
    first.expect(shown)
    found = [first.encode(sample) for sample in shown]
    shutil.rmtree(samples[0].root / "painting")
    again = ImageReader(tiny_mllm.chat, cache=cache_at(tiny_mllm, tmp_path / "cache"))
    assert not any(torch.equal(pixels(a), pixels(b)) for i, a in enumerate(found) for b in found[:i])
    for sample, encoded in zip(shown, found, strict=True):
        assert torch.equal(pixels(again.encode(sample)), pixels(encoded))


def test_the_model_is_shown_the_view(tiny_mllm: Mllm, samples: list[Sample]) -> None:
    view = view_of(samples[0], View("glitched", 3))
    plain = tiny_mllm.chat.encode_image(load_sample(view), "a name")
    assert torch.equal(pixels(ImageReader(tiny_mllm.chat).encode(view)), pixels(plain))


def test_a_damaged_file_in_the_cache_is_decoded_and_mended(
    tiny_mllm: Mllm, samples: list[Sample], tmp_path: Path
) -> None:
    expected = ImageReader(tiny_mllm.chat, cache=cache_at(tiny_mllm, tmp_path / "cache")).encode(samples[0])
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    found = ImageReader(tiny_mllm.chat, cache=cache_at(tiny_mllm, tmp_path / "cache")).encode(samples[0])
    assert torch.equal(pixels(found), pixels(expected))
    assert path.stat().st_size == len(whole)


def test_memory_holds_the_latest_images_and_no_more_than_its_limit(tiny_mllm: Mllm, samples: list[Sample]) -> None:
    one = pixels(ImageReader(tiny_mllm.chat).encode(samples[0])).nbytes
    reader = ImageReader(tiny_mllm.chat, limit_bytes=3 * one)
    for sample in samples:
        reader.encode(sample)
    for sample in samples[3:]:
        sample.path.unlink()
        reader.encode(sample)
    samples[0].path.unlink()
    with pytest.raises(ThroughlineError):
        reader.encode(samples[0])


def test_what_is_expected_is_the_same_image_and_the_same_fault(tiny_mllm: Mllm, samples: list[Sample]) -> None:
    samples[2].path.write_bytes(b"no picture")
    samples[2] = replace(samples[2], image_sha256="another")
    reader = ImageReader(tiny_mllm.chat)
    reader.expect(samples[:4])
    reader.expect([*samples[1:], samples[1]])  # the first is forgotten, one is named twice
    for sample in (*samples, samples[1]):
        if sample is samples[2]:
            with pytest.raises(ThroughlineError, match="not an image"):
                reader.encode(sample)
        else:
            assert torch.equal(pixels(reader.encode(sample)), pixels(ImageReader(tiny_mllm.chat).encode(sample)))


def test_what_is_expected_is_read_before_it_is_asked_for(tiny_mllm: Mllm, samples: list[Sample]) -> None:
    reader = ImageReader(tiny_mllm.chat)
    reader.expect(samples)
    reader._background.shutdown(wait=True)
    shutil.rmtree(samples[0].root)
    assert len([reader.encode(sample) for sample in samples]) == 6
