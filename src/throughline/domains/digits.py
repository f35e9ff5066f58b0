"""Real images nobody here drew: scikit-learn's handwriting scans as RotatedMNIST- and ColoredMNIST-like
domains.

`throughline data digits` calls this. The images are dealt out to the domains as in DomainBed's
`MultipleEnvironmentMNIST`: shuffled once, then every n-th one (`i::n`); rotation and colour follow its
`RotatedMNIST` and `ColoredMNIST` (facebookresearch/DomainBed, `domainbed/datasets.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from throughline.core.errors import ThroughlineError
from throughline.core.files import readable_os_errors, whole_folder
from throughline.core.seeding import generator
from throughline.domains.images import image_bytes

Shift = Literal["rotation", "colour"]

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ANGLES = (0, 15, 30, 45, 60, 75)  # degrees, counter-clockwise
# Domain name and the share of images whose colour disagrees with the (noisy) label.
COLOUR_DOMAINS = (("colour_plus90", 0.1), ("colour_plus80", 0.2), ("colour_minus90", 0.9))
LABEL_NOISE = 0.25
IMAGE_SIZE = 64  # pixels; what the pocket checkpoints see
# The scan's side on the black ground: its diagonal (62 pixels) fits, so no rotation cuts anything off.
SCAN_SIZE = 44


def write_digits(out: Path, shift: Shift, seed: int = 0) -> int:
    """Writes `<domain>/<class>/<number>.png` for all 1,797 scans and returns their count.

    "rotation": domains `rotation_00` to `rotation_75` (degrees), classes "zero" to "nine". "colour": domains
    `colour_plus90`, `colour_plus80`, `colour_minus90`, classes "low" (digit below 5) and "high", a quarter of
    the labels flipped, "low" mostly green and "high" mostly red but in the last domain, where it is the
    other way round. `number` is the scan's position in `sklearn.datasets.load_digits`. `out` must be absent
    or empty; it appears whole or not at all. Raises a ThroughlineError for another `shift` or a place that
    cannot be written.
    """
    if shift not in get_args(Shift):
        raise ThroughlineError(f"no shift named {shift}", do=f"the shifts are {', '.join(get_args(Shift))}")
    from sklearn.datasets import load_digits

    scans = load_digits()
    digits: NDArray[np.int64] = scans.target
    with whole_folder(out) as folder:
        for number, domain, label, image in _shifted(scans.images, digits, shift, seed):
            path = folder / domain / label / f"{number:04d}.png"
            with readable_os_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image_bytes(image))
    return len(digits)


def _shifted(
    values: NDArray[np.float64], digits: NDArray[np.int64], shift: Shift, seed: int
) -> Iterator[tuple[int, str, str, Image.Image]]:
    """Number, domain, class and image of every scan; `values` `(scans, 8, 8)` from 0 to 16."""
    order = generator(seed, "digits", "order").permutation(len(digits))
    if shift == "rotation":
        for index, angle in enumerate(ANGLES):
            for number in order[index :: len(ANGLES)]:
                image = _scan(values[number]).rotate(angle, resample=Image.Resampling.BILINEAR, fillcolor=0)
                yield number, f"rotation_{angle:02d}", DIGIT_NAMES[digits[number]], image
        return
    flipped = generator(seed, "digits", "label noise").random(len(digits)) < LABEL_NOISE
    low = (digits < 5) ^ flipped
    chance = generator(seed, "digits", "colour").random(len(digits))
    for index, (domain, disagreement) in enumerate(COLOUR_DOMAINS):
        for number in order[index :: len(COLOUR_DOMAINS)]:
            green = low[number] ^ (chance[number] < disagreement)
            ink, black = _scan(values[number]), Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
            image = Image.merge("RGB", (black, ink, black) if green else (ink, black, black))
            yield number, domain, "low" if low[number] else "high", image


def _scan(values: NDArray[np.float64]) -> Image.Image:
    """One 8 x 8 scan (0 to 16) as white on black, enlarged and centred."""
    small = Image.fromarray(np.rint(values * (255 / 16)).astype(np.uint8))
    image = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
    margin = (IMAGE_SIZE - SCAN_SIZE) // 2
    image.paste(small.resize((SCAN_SIZE, SCAN_SIZE), Image.Resampling.BICUBIC), (margin, margin))
    return image
