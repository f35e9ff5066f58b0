"""The 19 corruptions of ImageNet-C, drawn by the module `imagecorruptions` (package imagecorruptions-imaug 1.1.5).

Its pixels are taken as they are, but for two things. Its draws come from NumPy's global generator, and two corruptions
ignore even that: here a draw depends on its seed alone, and the global generator is left as it was. Where no drop of
`spatter` falls on a small image, it divides by zero and the image comes back black: here it comes back unchanged.

Kept, since published numbers have it: lengths (blurs, flakes, drops, the waves of `elastic_transform`) are in pixels of
the image, made for 224 of them, so that a severity is harsher on a small image and milder on a large one; `glass_blur`
copies neighbours where it should swap them; on images of 32 pixels `motion_blur` at severity 5 loses 3 % of the light;
`saturate` takes colour away at severities 1 and 2 and adds it from 3 on; `frost` crops one of six photographs at their
own scale. `elastic_transform` and `motion_blur` are not the code that made ImageNet-C.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image

from throughline.core.errors import ThroughlineError, extra

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    *("speckle_noise", "gaussian_blur", "spatter", "saturate"),
)
"""In the library's order: the 15 of ImageNet-C's test, then the four of its validation."""
SMALLEST = 32
"""Pixels that each side must have: the library refuses smaller images."""
_NOT_FROM_NUMPY = {"impulse_noise", "glass_blur"}
_numpys_generator = threading.Lock()


def corrupt(image: Image.Image, kind: str, severity: int, seed: int) -> Image.Image:
    """The RGB image with a corruption at a severity of 1 to 5, in its own size; of `seed` the lower 32 bits count.

    The same call gives the same pixels in any order, thread and process, unless another thread draws from NumPy's
    global generator meanwhile: one call at a time is drawn. Raises a ThroughlineError where the library is missing.
    """
    try:
        import imagecorruptions  # loads OpenCV and numba
    except ImportError as error:
        what = f"{kind} is drawn by imagecorruptions, which cannot be loaded ({error})"
        raise ThroughlineError(what, do=extra("corruptions")) from error
    seed %= 2**32
    options = {"seed": seed} if kind in _NOT_FROM_NUMPY else {}
    with _numpy_seeded(seed), np.errstate(invalid="raise" if kind == "spatter" else "warn"):
        try:
            pixels = imagecorruptions.corrupt(np.asarray(image), severity, kind, **options)
        except FloatingPointError:  # the brightest drop has no light: there is none
            return image.copy()
    return Image.fromarray(pixels)


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator at `seed`, and afterwards as it was."""
    with _numpys_generator:
        before = np.random.get_state()
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(before)
