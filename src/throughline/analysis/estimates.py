"""Means over tokens with intervals over images: the one way in which this room says how sure it is."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from throughline.analysis.records import Estimate
from throughline.metrics.intervals import bootstrap_generator, clustered_interval


def over_images(values: ArrayLike, images: ArrayLike, scale: float = 1.0) -> Estimate:
    """Mean of `values` `(tokens,)`, times `scale`; `images` `(tokens,)` says whose each is."""
    _, image = np.unique(np.asarray(images), return_inverse=True)
    sums = np.bincount(image, weights=np.asarray(values, dtype=np.float64))
    found = clustered_interval(sums, np.bincount(image), bootstrap_generator())
    return Estimate(mean=scale * found.mean, low=scale * found.low, high=scale * found.high)


def through(estimate: Estimate, function: np.ufunc) -> Estimate:
    """The estimate of a growing function of what was estimated: the interval's ends go with it."""
    mean, low, high = (float(function(value)) for value in (estimate.mean, estimate.low, estimate.high))
    return Estimate(mean=mean, low=low, high=high)


def by_image(values: NDArray[np.float64], images: NDArray[np.object_]) -> NDArray[np.float64]:
    """`(images,)` mean of each image's values, images in sorted order."""
    _, image = np.unique(images, return_inverse=True)
    means: NDArray[np.float64] = np.bincount(image, weights=values) / np.bincount(image)
    return means
