import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from throughline.core.errors import ThroughlineError
from throughline.domains.images import ImageError, load_image


def pixels(path: Path) -> np.ndarray:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("ending", [".png", ".tif", ".pgm"])
def test_sixteen_bits_become_eight_by_dividing_by_257(tmp_path, ending):
    values = np.array([[0, 128, 129, 257], [32768, 65278, 65407, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep{ending}")
    expected = np.floor(values / 257 + 0.5).astype(np.uint8)
    found = pixels(tmp_path / f"deep{ending}")
    assert np.array_equal(found, np.repeat(expected[:, :, None], 3, axis=2))


def test_transparency_lies_on_white(tmp_path):
    colour = Image.new("RGBA", (3, 1))
    colour.putdata([(200, 0, 0, 255), (200, 0, 0, 0), (0, 0, 0, 51)])
    colour.save(tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").tolist() == [[[200, 0, 0], [255, 255, 255], [204, 204, 204]]]
    Image.new("LA", (1, 1), (10, 0)).save(tmp_path / "b.png")
    assert pixels(tmp_path / "b.png").tolist() == [[[255, 255, 255]]]


def test_a_palette_becomes_its_colours_and_its_transparent_entry_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    image.save(tmp_path / "plain.png")
    assert pixels(tmp_path / "plain.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    image.save(tmp_path / "clear.png", transparency=1)
    assert pixels(tmp_path / "clear.png").tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_and_grey_and_black_and_white_become_rgb(tmp_path):
    Image.new("CMYK", (1, 1), (0, 255, 255, 0)).save(tmp_path / "red.tif")
    assert pixels(tmp_path / "red.tif").tolist() == [[[255, 0, 0]]]
    Image.new("L", (1, 1), 77).save(tmp_path / "grey.png")
    assert pixels(tmp_path / "grey.png").tolist() == [[[77, 77, 77]]]
    Image.new("1", (1, 1), 1).save(tmp_path / "white.png")
    assert pixels(tmp_path / "white.png").tolist() == [[[255, 255, 255]]]


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation_is_applied(tmp_path, mode):
    upright = np.array([[0, 100], [200, 250], [50, 150]], dtype=np.uint8)
    values = np.rot90(upright).astype(np.uint16) * 257 if mode == "I;16" else np.rot90(upright)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to see it upright"
    Image.fromarray(values).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(pixels(tmp_path / "turned.png")[:, :, 0], upright)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm"])
def test_a_file_cut_in_half_is_an_error_that_names_it(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    path = tmp_path / f"cut{ending}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=path.name) as caught:
        load_image(path)
    assert caught.value.kind in ("truncated", "unreadable")
    if ending in (".png", ".jpg"):
        assert caught.value.kind == "truncated"


def test_zero_bytes_no_image_and_no_file_are_told_apart(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    for name, kind in (("empty.png", "empty"), ("text.png", "unreadable"), ("none.png", "unreadable")):
        with pytest.raises(ImageError, match=name) as caught:
            load_image(tmp_path / name)
        assert caught.value.kind == kind
        assert "\n" not in str(caught.value)


def test_more_pixels_than_the_limit_are_refused_before_decoding(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "large.png")
    assert load_image(tmp_path / "large.png", max_pixels=600).size == (30, 20)
    with pytest.raises(ImageError, match="30 x 20 has more than 599 pixels") as caught:
        load_image(tmp_path / "large.png", max_pixels=599)
    assert caught.value.kind == "too_many_pixels"


@pytest.mark.filterwarnings("error")
def test_a_bomb_is_refused_by_the_limit_of_this_project(tmp_path):
    buffer = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(buffer, "PNG")
    (tmp_path / "bomb.png").write_bytes(buffer.getvalue())
    with pytest.raises(ImageError, match="178,956,970"):
        load_image(tmp_path / "bomb.png")


def test_values_without_an_agreed_scale_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], dtype=np.int32)).save(tmp_path / "deep.tif")
    Image.fromarray(np.array([[0, 0.5]], dtype=np.float32)).save(tmp_path / "float.tif")
    for name in ("deep.tif", "float.tif"):
        with pytest.raises(ThroughlineError, match="no agreed scale"):
            load_image(tmp_path / name)
