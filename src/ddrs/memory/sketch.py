"""Bounds on distances between images from few numbers each, so that a memory looks at few of its entries."""

from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

from ddrs.noise.norms import Norm

METRIC: dict[Norm, Literal["euclidean", "cityblock"]] = {"l2": "euclidean", "l1": "cityblock"}  # SciPy's names of the norms
CUTS = 8  # into how many the last two axes of an input are cut, so that an image has 8 x 8 blocks for each channel; a vector into CUTS^2


class Sketch:
    """Lower bounds of distances, from the sums of the values of each of a few groups (blocks of neighbouring pixels).

    Guarantee: for float64 points x, y with values in [SMALLEST, LARGEST] or 0, of either sign, `bounds` is at most the distance that float64
    makes of them, its rounding included. In l1 the sums differ by at most ||x - y||_1 in all; in l2 so do the sums over the square root of a
    group's size (Cauchy-Schwarz). Rounding, with u = 2^-53 and d values: the sums of x err by at most (d + 4) u ||x||, a distance of sums by
    (d + 4) u of itself, and that of the points, a sum of d non-negative terms, by (d + 10) u of itself. As no distance exceeds ||x|| + ||y||,
    all of it is below 4 (d + 50) u times that. Within those limits no difference, sum or square overflows or underflows.
    """

    def __init__(self, shape: tuple[int, ...], norm: Norm):
        parts = CUTS**2 if len(shape) == 1 else CUTS
        group = np.zeros((1,) * len(shape), np.int64)
        for axis, size in enumerate(shape):
            count = size if axis < len(shape) - 2 else min(size, parts)
            place = np.arange(size) * count // size
            group = group * count + place.reshape(-1, *[1] * (len(shape) - 1 - axis))
        self.order = np.argsort(group, axis=None, kind="stable")
        sizes = np.unique(group, return_counts=True)[1]
        self.starts = np.cumsum(sizes) - sizes
        self.norm: Norm = norm
        self.weights = 1 / np.sqrt(sizes) if norm == "l2" else np.ones(len(sizes))
        self.margin = (len(self.order) + 50) * 2.0**-51

    def of(self, point: np.ndarray) -> tuple[np.ndarray, float]:
        """The weighted sums of a point (d,), and its share of the error of a bound."""
        size = np.abs(point).sum() if self.norm == "l1" else np.sqrt(np.square(point).sum())
        return np.add.reduceat(point[self.order], self.starts) * self.weights, float(size) * self.margin

    def bounds(self, sums: np.ndarray, error: float, others: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """Lower bounds of the distances between a point and others, (n,), from what `of` said of them."""
        return cdist(sums[None], others, METRIC[self.norm])[0] - (errors + error)
