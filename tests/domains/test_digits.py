import errno
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from throughline.core.errors import ThroughlineError
from throughline.domains.checks import check_images
from throughline.domains.digits import DIGIT_NAMES, write_digits
from throughline.domains.folders import read_images
from throughline.domains.images import load_image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rotated(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits") / "rotation"
    assert write_digits(out, "rotation", seed=0) == 1797
    return read_images(out)


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits") / "colour"
    assert write_digits(out, "colour", seed=0) == 1797
    return read_images(out)


def scan_of(sample) -> int:
    return int(Path(sample.id).stem)


def test_every_scan_lies_in_exactly_one_rotation_under_its_own_name(rotated):
    from sklearn.datasets import load_digits

    assert rotated.domains == tuple(f"rotation_{angle:02d}" for angle in range(0, 90, 15))
    assert set(rotated.classes) == set(DIGIT_NAMES)
    assert sorted(scan_of(sample) for sample in rotated.samples) == list(range(1797))
    truth = load_digits().target
    assert all(sample.label == DIGIT_NAMES[truth[scan_of(sample)]] for sample in rotated.samples)
    assert [len(rotated.in_domain(domain)) for domain in rotated.domains] == [300, 300, 300, 299, 299, 299]


def test_the_first_domain_shows_the_scan_and_the_others_show_it_turned(rotated, coloured):
    upright = np.asarray(load_image(rotated.in_domain("rotation_00")[0].path))
    assert upright.shape == (64, 64, 3)
    # The colour set holds every scan upright: turned back, the rotated one shows the same ink.
    straight = {scan_of(sample): load_image(sample.path) for sample in coloured.samples}
    for sample in rotated.in_domain("rotation_60")[::10]:
        turned = load_image(sample.path).convert("L")
        ink = np.asarray(straight[scan_of(sample)]).max(axis=2).ravel()
        back, further = (np.corrcoef(ink, np.asarray(turned.rotate(a)).ravel())[0, 1] for a in (-60, 60))
        assert back > 0.9 and back > further


def test_a_quarter_of_the_colour_labels_are_noise_and_colour_follows_the_domain(coloured):
    from sklearn.datasets import load_digits

    truth = load_digits().target
    assert coloured.classes == ("high", "low")
    wrong = np.mean([(truth[scan_of(s)] < 5) != (s.label == "low") for s in coloured.samples])
    assert wrong == pytest.approx(0.25, abs=0.04)
    for domain, disagreement in (("colour_plus90", 0.1), ("colour_plus80", 0.2), ("colour_minus90", 0.9)):
        found = Counter()
        for sample in coloured.in_domain(domain):
            red, green, blue = np.asarray(load_image(sample.path)).reshape(-1, 3).max(axis=0)
            assert blue == 0 and (red == 0) != (green == 0)
            found[(green > 0) == (sample.label == "low")] += 1
        assert found[False] / sum(found.values()) == pytest.approx(disagreement, abs=0.05)


def test_the_written_sets_pass_the_check(rotated):
    assert check_images(rotated.root).errors == ()


def test_the_same_seed_writes_the_same_images_and_another_seed_other_ones(rotated, tmp_path):
    write_digits(tmp_path / "again", "rotation", seed=0)
    assert read_images(tmp_path / "again").fingerprint() == rotated.fingerprint()
    write_digits(tmp_path / "other", "rotation", seed=1)
    assert read_images(tmp_path / "other").fingerprint() != rotated.fingerprint()


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    real, written = Path.write_bytes, []

    def write_bytes(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(ThroughlineError, match="No space left on device"):
        write_digits(tmp_path / "digits", "rotation")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_replaced(tmp_path):
    (tmp_path / ".digits.partial" / "rotation_00").mkdir(parents=True)
    (tmp_path / ".digits.partial" / "half.png").write_bytes(b"half")
    (tmp_path / "digits").mkdir()
    write_digits(tmp_path / "digits", "colour")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits"]
    assert len(list((tmp_path / "digits").iterdir())) == 3


def test_an_unusable_place_or_shift_is_named_and_nothing_is_touched(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ThroughlineError, match="not empty"):
        write_digits(tmp_path / "full", "rotation")
    with pytest.raises(ThroughlineError, match="a file has the name of this folder"):
        write_digits(tmp_path / "full" / "mine.txt", "rotation")
    with pytest.raises(ThroughlineError, match="cannot write"):
        write_digits(tmp_path / "full" / "mine.txt" / "below", "rotation")
    with pytest.raises(ThroughlineError, match="no shift named scale"):
        write_digits(tmp_path / "new", "scale")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]
