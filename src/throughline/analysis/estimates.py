"""Means over tokens with intervals over images: the one way in which this room says how sure it is."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughline.metrics.intervals import Interval, bootstrap_generator, clustered_interval


def over_images(values: ArrayLike, images: ArrayLike) -> Interval:
    """Mean of `values` `(tokens,)`; `images` `(tokens,)` says whose each is."""
    _, image = np.unique(np.asarray(images), return_inverse=True)
    sums = np.bincount(image, weights=np.asarray(values, dtype=np.float64))
    return clustered_interval(sums, np.bincount(image), bootstrap_generator())


def through(estimate: Interval, function: np.ufunc) -> Interval:
    """The estimate of a growing function of what was estimated: the interval's ends go with it."""
    return Interval(*(float(function(value)) for value in (estimate.mean, estimate.low, estimate.high)))


def by_image(values: ArrayLike, images: ArrayLike) -> NDArray[np.float64]:
    """`(images,)` mean of each image's values, images in sorted order."""
    _, image = np.unique(np.asarray(images), return_inverse=True)
    means: NDArray[np.float64] = np.bincount(image, weights=np.asarray(values, dtype=np.float64)) / np.bincount(image)
    return means
