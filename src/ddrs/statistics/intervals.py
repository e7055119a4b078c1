"""Intervals of shares, of means and of their differences; the bootstrap over images."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

Z = 1.959963984540054  # of a two-sided 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its own 95 % interval."""

    value: float
    low: float
    high: float


def share(percent: float, images: int) -> Estimate:
    """A binomial share in percent, with Wilson's interval, which does not collapse at 0 and 100."""
    p = percent / 100
    centre, scale = p + Z * Z / (2 * images), 1 + Z * Z / images
    half = Z * sqrt(p * (1 - p) / images + Z * Z / (4 * images * images))
    low, high = max(0.0, 100 * (centre - half) / scale), min(100.0, 100 * (centre + half) / scale)  # rounding may leave [0, 100]
    return Estimate(percent, min(percent, low), max(percent, high))


def mean(value: float, deviation: float, images: int) -> Estimate:
    """A mean over images, with the normal interval."""
    half = Z * deviation / sqrt(images)
    return Estimate(value, value - half, value + half)


def bootstrap_weights(images: int, replicates: int, seed: int) -> np.ndarray:
    """How much each image weighs in each replicate of a bootstrap over images: (replicates, images), each row adds up to 1."""
    return np.random.Generator(np.random.Philox(key=seed)).multinomial(images, np.full(images, 1 / images), size=replicates) / images


def difference(plus: Sequence[Estimate], minus: Sequence[Estimate]) -> Estimate:
    """The sum of some independent estimates minus that of others.

    The distance from the value to each end is the root of the summed squares of the terms' distances towards that end: for two shares
    this is Newcombe's interval (1998, his method 10), for means the normal one. Terms that rise and fall together, as two rows on the
    same images do, have a narrower interval than this.
    """
    value = sum(one.value for one in plus) - sum(one.value for one in minus)
    below = sqrt(sum((one.value - one.low) ** 2 for one in plus) + sum((one.high - one.value) ** 2 for one in minus))
    above = sqrt(sum((one.high - one.value) ** 2 for one in plus) + sum((one.value - one.low) ** 2 for one in minus))
    return Estimate(value, value - below, value + above)


def verdict(found: Estimate) -> str:
    """within if the interval of a difference contains 0, else above or below."""
    return "within" if found.low <= 0 <= found.high else "above" if found.low > 0 else "below"
