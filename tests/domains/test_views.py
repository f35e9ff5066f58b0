"""Views of images: what they are called, that they are drawn alike always, and that they show what they say."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from throughline.cli.main import main
from throughline.core.errors import ThroughlineError
from throughline.core.seeding import seed_of
from throughline.domains import views
from throughline.domains.checks import check_images
from throughline.domains.corruptions import CORRUPTIONS, corrupt
from throughline.domains.distortions import DISTORTIONS, REMOVALS
from throughline.domains.folders import read_images
from throughline.domains.images import ImageError, load_image
from throughline.domains.samples import ImageSet, Sample
from throughline.domains.views import KINDS, View, load_sample, readable, view_of
from throughline.drawn.world import write_world

COMPILED = "glass_blur"
"""Its first call in a process compiles for seconds."""
QUICK = ("fog", "gaussian_noise", "impulse_noise", "spatter", "frost", "pixelate", *DISTORTIONS, *REMOVALS)
SEEDED_BY_NUMPY = [kind for kind in CORRUPTIONS if kind not in ("impulse_noise", COMPILED)]

NOT_BY_SEVERITY = ("saturate", "glass_blur", "frost", "fog", "glitched", "crop")
"""`saturate` changes direction. The others change in several numbers at once, and not every step is further away: on
glass at severity 2, frost at 4, fog at 4, glitches at 5, by turns that come round again; a crop by where it is."""


def strength(kind: str, level: int = 3) -> float:
    """A severity of 1 to 5 as the kind has it."""
    return level / 5 if kind in REMOVALS else level


def pixels(sample: Sample) -> NDArray[np.int16]:
    return np.asarray(load_sample(sample)).astype(np.int16)


def shown(sample: Sample, kind: str, level: int = 3, seed: int = 0) -> NDArray[np.int16]:
    return pixels(view_of(sample, View(kind, strength(kind, level), seed)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    root = tmp_path_factory.mktemp("world") / "drawn"
    write_world(root, per_class=1, seed=3, styles=("photo", "cartoon"))
    return read_images(root)


@pytest.fixture
def sample_of(tmp_path: Path) -> Callable[..., Sample]:
    """A sample of these pixels; the hash is given, so that the same draws fall on several files."""

    def sample_of(content: Image.Image | NDArray[np.uint8], name: str = "a.png", **options: object) -> Sample:
        image = content if isinstance(content, Image.Image) else Image.fromarray(content)
        image.save(tmp_path / name, **options)
        return Sample(name, tmp_path, "photo", ("cat",), "the same")

    return sample_of


# what a view is ------------------------------------------------------------------------------------------------------


def test_a_view_keeps_the_id_and_names_its_parent(images: ImageSet) -> None:
    sample = images.samples[0]
    fog = view_of(sample, View("fog", 3))
    assert (fog.id, fog.parent_id, fog.label, fog.path) == (sample.id, sample.id, sample.label, sample.path)
    assert [View(*v).name for v in (("fog", 3), ("fog", 3.0, 7), ("occlusion_grey", 0.25))] == [
        *("fog-3", "fog-3"),
        "occlusion_grey-0.25",
    ]
    with pytest.raises(ValueError, match=r"a view already: fog-3"):
        view_of(fog, View("snow", 1))


def test_hashes_differ_by_kind_severity_seed_image_and_version(
    images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = images.samples[:2]
    asked: list[tuple[str, float, int]] = [
        ("fog", 3, 0),
        ("fog", 3, 1),
        ("fog", 4, 0),
        ("snow", 3, 0),
        ("occlusion_grey", 0, 0),
    ]
    asked += [("occlusion_grey", 0.1234567, 0), ("occlusion_grey", 0.1234568, 0)]  # alike in six digits
    found = [view_of(sample, View(*view)).image_sha256 for sample in (one, other) for view in asked]
    monkeypatch.setattr(views, "VERSION", views.VERSION + 1)
    found += [view_of(one, View(*view)).image_sha256 for view in asked]
    assert len({one.image_sha256, other.image_sha256, *found}) == 2 + 3 * len(asked)
    assert view_of(one, View("fog", 3)) == view_of(one, View("fog", 3.0))


def test_sets_without_views_have_the_fingerprint_they_had() -> None:
    samples = (
        Sample("art/cat/0.png", Path("x"), "art", ("cat",), "bytes of art"),
        Sample("photo/cat/0.png", Path("x"), "photo", ("cat",), "bytes of photo", "single", "g", "art/cat/0.png"),
    )
    images = ImageSet("n", Path("x"), ("art", "photo"), ("cat",), samples)
    assert images.fingerprint() == "6c71667971cad810e5dbaa39b87dc284f510a338d4074b21d0a6a5d695d176f2"
    foggy = replace(images, samples=tuple(view_of(sample, View("fog", 1)) for sample in samples))
    assert foggy.fingerprint() != images.fingerprint()


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (("fgo", 3), "did you mean fog?"),
        (("fog", 0), "fog has no severity 0: give 1, 2, 3, 4 or 5"),
        (("fog", 2.5), "no severity 2.5"),
        (("occlusion_grey", 1.01), "give a share from 0 to 1"),
        (("occlusion_noise", float("nan")), "no severity nan"),
    ],
)
def test_a_view_that_there_is_not_is_one_line(view: tuple[str, float], said: str) -> None:
    with pytest.raises(ThroughlineError) as error:
        View(*view)
    assert said in str(error.value) and "\n" not in str(error.value)


# the same pixels always ----------------------------------------------------------------------------------------------


def test_pixels_are_the_same_in_another_order_and_in_threads(images: ImageSet) -> None:
    asked = [view_of(s, View(kind, strength(kind))) for kind in QUICK for s in images.samples[:2]]
    drawn = [pixels(view) for view in asked]
    backwards = [pixels(view) for view in reversed(asked)][::-1]
    with ThreadPoolExecutor(4) as pool:
        in_threads = list(pool.map(pixels, asked))
    for view, first, second, third in zip(asked, drawn, backwards, in_threads, strict=True):
        assert np.array_equal(first, second) and np.array_equal(first, third), (view.view, view.id)


PRINT_HASHES = """
import hashlib, sys
from throughline.domains.folders import read_images
from throughline.domains.views import View, load_sample, view_of
sample = read_images(sys.argv[1]).samples[1]
for asked in sys.argv[2:]:
    kind, severity = asked.split("-")
    image = load_sample(view_of(sample, View(kind, float(severity))))
    print(hashlib.sha256(image.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_pixels_are_the_same_in_a_fresh_process(images: ImageSet) -> None:
    asked = [View(kind, strength(kind)) for kind in KINDS]
    here = [load_sample(view_of(images.samples[1], view)) for view in reversed(asked)][::-1]
    command = [sys.executable, "-c", PRINT_HASHES, str(images.root), *(view.name for view in asked)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert ended.stdout.split() == [hashlib.sha256(image.tobytes()).hexdigest() for image in here]


def test_another_seed_and_another_image_draw_otherwise(images: ImageSet) -> None:
    sample = images.samples[0]
    same_pixels = replace(sample, image_sha256="another")
    for kind in (kind for kind in QUICK if kind not in ("vertical_lines", "pixelate")):
        first = shown(sample, kind)
        assert not np.array_equal(first, shown(sample, kind, seed=1)), kind
        assert not np.array_equal(first, shown(same_pixels, kind)), kind


def test_numpys_generator_is_left_as_it_was(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def state() -> str:
        return json.dumps([part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()])

    np.random.standard_normal(3)  # one of a pair is kept for the next call
    before = state()
    for kind in QUICK:
        shown(images.samples[0], kind)
    assert state() == before

    def fail(*_: object) -> None:
        np.random.random()
        raise RuntimeError("in the library")

    monkeypatch.setattr("imagecorruptions.corrupt", fail)
    with pytest.raises(RuntimeError):
        shown(images.samples[0], "fog")
    assert state() == before


# as the library draws ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SEEDED_BY_NUMPY)
def test_corruptions_agree_bit_for_bit_with_a_plain_call_under_the_same_state(images: ImageSet, kind: str) -> None:
    import imagecorruptions

    for level, sample in enumerate(images.samples[:5], start=1):
        view = view_of(sample, View(kind, level, seed=4))
        np.random.seed(seed_of(4, "view", view.image_sha256) % 2**32)
        plain = imagecorruptions.corrupt(np.asarray(load_image(sample.path)), level, kind)
        assert np.array_equal(pixels(view), plain), level


@pytest.mark.parametrize("kind", ["impulse_noise", pytest.param(COMPILED, marks=pytest.mark.slow)])
def test_the_two_that_ignore_numpys_seed_agree_with_a_call_that_names_it(images: ImageSet, kind: str) -> None:
    import imagecorruptions

    sample = images.samples[0]
    view = view_of(sample, View(kind, 3, seed=4))
    seed = seed_of(4, "view", view.image_sha256) % 2**32
    original = np.asarray(load_image(sample.path))
    assert np.array_equal(pixels(view), imagecorruptions.corrupt(original, 3, kind, seed=seed))
    plain = []
    for _ in range(2):
        np.random.seed(seed)
        plain.append(imagecorruptions.corrupt(original, 3, kind))
    assert not np.array_equal(*plain)  # what is mended


def test_where_no_drop_falls_the_image_stays_as_it_is(sample_of: Callable[..., Sample]) -> None:
    import imagecorruptions

    small, seed = np.full((32, 32, 3), 200, np.uint8), 35
    np.random.seed(seed)
    with np.errstate(invalid="ignore"):
        assert imagecorruptions.corrupt(small, 1, "spatter").max() == 0  # what is mended
    assert np.array_equal(np.asarray(corrupt(Image.fromarray(small), "spatter", 1, seed)), small)


def test_a_missing_package_is_one_line(images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ThroughlineError, match=r"fog is drawn by imagecorruptions.*: install the extra corr"):
        shown(images.samples[0], "fog")
    assert shown(images.samples[0], "occlusion_grey").shape == (64, 64, 3)


def test_the_library_names_these_corruptions() -> None:
    import imagecorruptions

    assert sorted(imagecorruptions.get_corruption_names("all")) == sorted(CORRUPTIONS)


# what is seen --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in NOT_BY_SEVERITY])
def test_a_higher_severity_is_further_from_the_image(images: ImageSet, kind: str) -> None:
    chosen = images.samples[::4]
    distances = [
        np.mean([np.sqrt(np.mean((shown(s, kind, level) - pixels(s)) ** 2.0)) for s in chosen]) for level in range(1, 6)
    ]
    assert distances == sorted(distances) and distances[0] > 0


@pytest.mark.parametrize("size", [(70, 33), (33, 121)])
def test_every_kind_keeps_the_size(sample_of: Callable[..., Sample], size: tuple[int, int]) -> None:
    sample = sample_of(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    for kind in (kind for kind in KINDS if kind != COMPILED):
        for level in (1, 5):
            assert shown(sample, kind, level).shape == (*size, 3), kind


@pytest.mark.parametrize("kind", ["gaussian_noise", "glitched", "occlusion_noise"])
def test_a_view_is_of_the_image_as_it_is_loaded(sample_of: Callable[..., Sample], kind: str) -> None:
    colour = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    expected = shown(sample_of(colour), kind)
    turned, exif = Image.fromarray(np.rot90(colour)), Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    assert np.array_equal(shown(sample_of(turned, "turned.png", exif=exif), kind), expected)
    opaque = Image.fromarray(np.dstack([colour, np.full((40, 60), 255, np.uint8)]))
    assert np.array_equal(shown(sample_of(opaque, "alpha.png"), kind), expected)
    grey = sample_of(colour[..., 0], "grey.png")
    assert np.array_equal(shown(grey, kind), shown(sample_of(np.dstack([colour[..., 0]] * 3), "rgb.png"), kind))
    invisible = sample_of(Image.new("RGBA", (60, 40), (9, 9, 9, 0)), "invisible.png")
    white = sample_of(np.full((40, 60, 3), 255, np.uint8), "white.png")
    assert np.array_equal(shown(invisible, kind), shown(white, kind))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.25, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("size", [(64, 64), (31, 200)])
def test_occlusion_covers_its_share_of_the_image(
    sample_of: Callable[..., Sample], size: tuple[int, int], share: float
) -> None:
    sample = sample_of(np.full((*size, 3), 250, np.uint8))
    for seed in range(3):
        covered = pixels(view_of(sample, View("occlusion_grey", share, seed))) == 127
        assert covered.any(axis=2).sum() == round(share * size[0] * size[1])
        noisy = (pixels(view_of(sample, View("occlusion_noise", share, seed))) != 250).any(axis=2)
        assert noisy.mean() == pytest.approx(share, abs=0.001)  # a random pixel is seldom as it was


def test_the_share_is_covered_by_rectangles(sample_of: Callable[..., Sample]) -> None:
    """Most covered pixels have covered neighbours above and beside them."""
    sample = sample_of(np.full((100, 100, 3), 250, np.uint8))
    covered = (pixels(view_of(sample, View("occlusion_grey", 0.3))) == 127).all(axis=2)
    assert (covered[1:, 1:] & covered[:-1, 1:] & covered[1:, :-1]).sum() > 0.8 * covered.sum()


@pytest.mark.parametrize("kind", ["occlusion_grey", "occlusion_noise", "crop", "diffusion_noise"])
def test_taking_nothing_away_leaves_the_image(sample_of: Callable[..., Sample], kind: str) -> None:
    sample = sample_of(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    assert (pixels(view_of(sample, View(kind, 0))) == pixels(sample)).all()


@pytest.mark.parametrize("share", [0.36, 0.75, 0.99])
def test_a_crop_shows_the_rest_of_the_image_as_large_as_the_whole(
    sample_of: Callable[..., Sample], share: float
) -> None:
    across = np.broadcast_to(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], (100, 200, 3))
    sample = sample_of(across)
    for seed in range(3):
        seen = pixels(view_of(sample, View("crop", share, seed)))[..., 0].astype(int)
        assert seen.shape == (100, 200)
        assert (seen[:, -1] - seen[:, 0]).mean() == pytest.approx(255 * (1 - share) ** 0.5, abs=4)


def test_diffusion_noise_keeps_what_its_step_keeps(sample_of: Callable[..., Sample]) -> None:
    """The slope of the noisy pixels over the true ones is the root of the product of 1 - beta."""
    true = np.random.default_rng(1).integers(100, 156, (200, 200, 3), dtype=np.uint8)
    seen = pixels(view_of(sample_of(true), View("diffusion_noise", 0.05))).astype(float)
    kept = 1.0
    for step in range(50):
        kept *= 1 - (1e-4 + (0.02 - 1e-4) * step / 999)
    slope = np.polyfit(true.ravel().astype(float), seen.ravel(), 1)[0]
    assert slope == pytest.approx(kept**0.5, abs=0.03)
    assert np.std(seen - slope * true) == pytest.approx(127.5 * (1 - kept) ** 0.5, rel=0.05)


def test_the_checkerboard_brightens_and_darkens_by_turns_within_its_bounds(sample_of: Callable[..., Sample]) -> None:
    sample = sample_of(np.full((224, 224, 3), 127, np.uint8))
    change = shown(sample, "luminance_checkerboard", 2)[..., 0] - 127
    fields = change.reshape(16, 14, 16, 14).transpose(0, 2, 1, 3).reshape(16, 16, -1)
    assert (fields.min(axis=2) == fields.max(axis=2)).all()
    assert ((np.abs(fields) >= 50) & (np.abs(fields) <= 100)).all()
    assert (np.sign(fields[:-1]) == -np.sign(fields[1:])).all() and len(np.unique(np.abs(fields))) > 30


def test_shapes_cover_more_with_every_severity_and_scale_with_the_image(sample_of: Callable[..., Sample]) -> None:
    def share(side: int, level: int) -> float:
        white = sample_of(np.full((side, side, 3), 255, np.uint8), f"{side}.png")
        return float((shown(white, "geometric_shapes", level) != 255).any(axis=2).mean())

    shares = [share(224, level) for level in range(1, 6)]
    assert shares == sorted(shares) and shares[0] < 0.4 and shares[-1] > 0.8
    assert share(448, 2) == pytest.approx(share(224, 2), abs=0.05)


def test_every_second_line_of_a_glitched_image_is_black_and_vertical_lines_need_no_seed(
    sample_of: Callable[..., Sample],
) -> None:
    sample = sample_of(np.random.default_rng(2).integers(1, 256, (224, 224, 3), np.uint8))
    glitched = shown(sample, "glitched", 4)
    assert glitched[::2].max() == 0 and glitched[1::2].min() > 0
    assert np.array_equal(shown(sample, "vertical_lines"), shown(sample, "vertical_lines", seed=1))


def test_images_too_small_for_a_corruption_are_one_line_and_not_readable(sample_of: Callable[..., Sample]) -> None:
    small = replace(sample_of(np.zeros((31, 64, 3), np.uint8), "small.png"), id="small.png")
    large = sample_of(np.zeros((32, 32, 3), np.uint8), "large.png")
    foggy = [view_of(sample, View("fog", 1)) for sample in (small, large)]
    with pytest.raises(ImageError, match=r"^fog needs 32 pixels a side, the image has 64 x 31 \[.*small.png\]: take"):
        load_sample(foggy[0])
    good, broken = readable(foggy)
    assert good == [foggy[1]] and list(broken) == ["small.png"] and "32 pixels" in broken["small.png"]
    assert readable([small, large]) == ([small, large], {})
    assert shown(small, "occlusion_grey").shape == (31, 64, 3)


# copies on disk ------------------------------------------------------------------------------------------------------


def corrupted(source: Path, out: Path, kind: str = "fog", severity: float = 3) -> int:
    return main(["data", "corrupt", str(source), str(out), "--kind", kind, "--severity", f"{severity:g}"])


def test_copies_show_what_views_show_and_name_their_parents(images: ImageSet, tmp_path: Path, capsys) -> None:
    out = tmp_path / "foggy"
    assert corrupted(images.root, out) == 0
    assert capsys.readouterr().out == f"24 images in {out}, fog-3; next: throughline data check {out}/images.csv\n"
    copies = read_images(out / "images.csv")
    assert [copy.parent_id for copy in copies.samples] == [sample.id for sample in images.samples]
    assert (copies.domains, copies.classes) == (images.domains, images.classes)
    for copy in copies.samples[::5]:
        view = view_of(images.by_id[copy.parent_id], View("fog", 3))
        assert np.array_equal(np.asarray(load_image(copy.path)), np.asarray(load_sample(view)))
    assert check_images(out / "images.csv").errors == () and read_images(out).classes == images.classes
    assert corrupted(images.root, out) == 1 and "not empty" in capsys.readouterr().err


def test_groups_and_names_of_classes_go_along(tree: Path, tmp_path: Path) -> None:
    rows = ["image,domain,label,group,class_name", "photo/dog/1.png,photo,dog,g1,hound|Canis"]
    (tree / "list.csv").write_text("\n".join([*rows, "art/cat/2.png,art,cat,,"]))
    assert corrupted(tree / "list.csv", tmp_path / "out", "occlusion_noise", 0.5) == 0
    copies = read_images(tmp_path / "out" / "images.csv")
    assert [(s.id, s.group, s.parent_id) for s in copies.samples] == [
        ("art/cat/2.png", None, "art/cat/2.png"),
        ("photo/dog/1.png", "g1", "photo/dog/1.png"),
    ]
    assert copies.names == {"dog": ("hound", "Canis")}


def test_a_stopped_copy_goes_on_and_ends_alike(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from throughline.domains import transfer

    whole, stopped, drawn = tmp_path / "whole", tmp_path / "stopped", []

    def draw(sample: Sample) -> Image.Image:
        drawn.append(sample.id)
        if len(drawn) == 20:
            raise KeyboardInterrupt
        return load_sample(sample)

    assert corrupted(tree, whole, "occlusion_noise", 0.5) == 0
    monkeypatch.setattr(transfer, "load_sample", draw)
    assert corrupted(tree, stopped, "occlusion_noise", 0.5) == 3
    assert not stopped.exists()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / ".stopped.partial").rglob("*.png")}
    assert len(written) == 19
    assert corrupted(tree, stopped, "occlusion_noise", 0.5) == 0
    assert read_images(stopped / "images.csv").fingerprint() == read_images(whole / "images.csv").fingerprint()
    kept = [stopped / path.relative_to(tmp_path / ".stopped.partial") for path in written]
    assert [path.stat().st_mtime_ns for path in kept] == list(written.values())


def test_what_cannot_be_drawn_is_one_line(tree: Path, tmp_path: Path, capsys) -> None:
    too_small = "needs 32 pixels a side, the image has 7 x 9"
    for kind, severity, said in (("fog", 3, too_small), ("frg", 3, "fog"), ("fog", 9, "5")):
        assert corrupted(tree, tmp_path / "out", kind, severity) == 1
        printed = capsys.readouterr().err
        assert said in printed and printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_help_names_every_kind(capsys) -> None:
    assert main(["data", "corrupt", "--help"]) == 0
    said = capsys.readouterr().out
    assert [kind for kind in KINDS if kind not in said] == []
