"""What all styles draw on and with: an oversampled surface, hand-bent outlines, colours made stronger."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from throughline.core.seeding import generator
from throughline.drawn.placement import Colour
from throughline.drawn.scenes import Scene, lightness

OVERSAMPLING = 3  # canvas pixels per image pixel and axis; polygons have no smooth edges of their own
Pixels = NDArray[np.float32]  # (size, size, 3), 0..255


class Canvas:
    """An oversampled drawing surface; all lengths given to it are in pixels of the final image. `unit` is a pixel of an
    image of 64 px."""

    def __init__(self, size: int, colour: Colour) -> None:
        self.fine, self.unit = size * OVERSAMPLING, size / 64
        self.image = Image.new("RGB", (self.fine, self.fine), colour)
        self.pen = ImageDraw.Draw(self.image)

    def fill(self, points: NDArray[np.float64], colour: Colour) -> None:
        """A polygon (points, 2) in one colour."""
        self.pen.polygon((points * OVERSAMPLING).ravel().tolist(), fill=colour)

    def mask(self, points: NDArray[np.float64]) -> Image.Image:
        """Which of the surface's own pixels the polygon covers, mode 1."""
        covered = Image.new("1", self.image.size)
        ImageDraw.Draw(covered).polygon((points * OVERSAMPLING).ravel().tolist(), fill=1)
        return covered

    def outline(self, points: NDArray[np.float64], colour: Colour, wide: float) -> None:
        """The polygon's outline, `wide` px, half of it outside."""
        closed = np.concatenate([points, points[:2]]) * OVERSAMPLING
        self.pen.line(closed.ravel().tolist(), fill=colour, width=max(1, round(wide * OVERSAMPLING)), joint="curve")

    def reduced(self, blur: float = 0.0) -> Pixels:
        """The drawing at the image's size, blurred over so many px."""
        sharp = self.image.reduce(OVERSAMPLING)
        return np.asarray(sharp.filter(ImageFilter.BoxBlur(blur)) if blur else sharp, dtype=np.float32)


def to_image(pixels: Pixels) -> Image.Image:
    """Rounded and clipped to 8 bits."""
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8), mode="RGB")


def shift_of(scene: Scene, purpose: str) -> tuple[int, int]:
    """Where in a noise bank this scene's noise begins."""
    down, across = generator(scene.seed, "texture", purpose).integers(0, 512, 2)
    return int(down), int(across)


def saturated(colour: Colour, factor: float) -> Colour:
    """A colour of the same lightness, stronger (above 1) or weaker."""
    grey = lightness(colour)
    red, green, blue = (min(255, max(0, round(grey + (value - grey) * factor))) for value in colour)
    return red, green, blue


def densified(points: NDArray[np.float64], longest: float) -> NDArray[np.float64]:
    """The same outline with no side longer than `longest` px, so that it can be bent."""
    following = np.roll(points, -1, axis=0)
    steps = np.maximum(1, np.ceil(np.hypot(*(following - points).T) / longest)).astype(int)
    index = np.repeat(np.arange(len(points)), steps)
    share = (np.arange(len(index)) - np.repeat(np.cumsum(steps) - steps, steps)) / steps[index]
    return np.asarray(points[index] + (following - points)[index] * share[:, None])


WOBBLE = 0.8  # px at 64 px: how far a drawn line strays


def wobbled(points: NDArray[np.float64], scene: Scene, size: int) -> NDArray[np.float64]:
    """Outlines bent as by a hand: a displacement that depends on the place alone, so parts cannot touch others."""
    dense = densified(points, size / 16)
    phase = 2 * np.pi * (np.array([scene.seed % 997, scene.seed % 1009]) / 1000)
    long, short = 2 * np.pi * 4.3 / size, 2 * np.pi * 6.1 / size
    wave = np.sin(dense[:, ::-1] * long + phase) + np.sin(dense * short + phase[::-1])
    return np.asarray(dense + wave * (WOBBLE / 2 * size / 64))
