"""Noise on the pixel grid: the exact law of q(x + noise), q = rounding to the nearest multiple of 1/255.

A float32 sum x + noise tells x in its low mantissa bits (Voracek and Hein 2023). Here every noisy copy is (k + i) / 255 with k = 255 x
and i an integer drawn with P(i) = F((i + 1/2) / 255) - F((i - 1/2) / 255), F the distribution function of the continuous noise: what
rounding the continuous sum would give, so the theorem for the continuous noise holds for the classifier after q. (The weights
exp(-i^2 / 2 s^2) would be another law, for which it does not.) Nothing is clipped: float32 holds every k + i exactly, as these are at most
2^24 (`check_on_scale`).
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
import torch
from scipy.special import ndtr

from ddrs.errors import DdrsError
from ddrs.noise.laws import NOISES, Gaussian, Noise, Sampler, Uniform, in_place
from ddrs.noise.norms import NORMS, Norm

LEVELS = 255
MAX_SIGMA = 4.0
REACH = 10.4  # of Gaussian noise, in sigma: 2^-82 lies beyond
FLAG = np.float32(2**24)  # in the table: the 16 bits do not yet decide
CLOSE = 2.0**-45  # float64 decides no comparison that is closer than this
PRECISION = 140  # bits of mpmath's


class GaussianLattice(Gaussian):
    """Gaussian noise, rounded to the pixel grid. Certifies images on the grid (8-bit images) only, for the classifier after q."""

    name = "lattice"
    norm: Norm = NORMS["lattice"]

    def at(self, sigma: float) -> Sampler:
        """DdrsError for a sigma above 4, beyond which the bound on the sampler's error ends."""
        return _sampler(self, sigma)


class UniformLattice(Uniform):
    """Uniform noise, rounded to the pixel grid, as `GaussianLattice`."""

    name = "uniform-lattice"
    norm: Norm = NORMS["uniform-lattice"]

    def at(self, sigma: float) -> Sampler:
        """As `GaussianLattice.at`."""
        return _sampler(self, sigma)


LATTICES: dict[str, Noise] = {"lattice": GaussianLattice(), "uniform-lattice": UniformLattice()}
CERTIFIABLE: dict[str, Noise] = {**NOISES, **LATTICES}


def _sampler(noise: Noise, sigma: float) -> "GridSampler":
    if sigma > MAX_SIGMA:
        raise DdrsError(f"noise {noise.name}: sigma = {sigma!r}: must be at most {MAX_SIGMA:g}")
    return GridSampler(_lookup(noise.base, float(sigma)))


def certifiable_noise(name: str) -> Noise:
    """The noise of that name, continuous or on the grid, or a DdrsError that lists the names."""
    if name not in CERTIFIABLE:
        raise DdrsError(f"noise {name!r}: unknown; known are {', '.join(CERTIFIABLE)}")
    return CERTIFIABLE[name]


def check_on_grid(image: torch.Tensor, what: str) -> None:
    """DdrsError unless every value of the image, of any float type, is exactly the float32 nearest to k / 255 for an integer k.

    Not the nearest number of the image's own type: what runs is float32, so a radius would be claimed at another point than the image.
    """
    values = image.to(torch.float32)
    off = (image != values) | (values != torch.round(values * LEVELS) / _levels(values))
    if bool(off.any()):
        value = float(image[off][0])
        raise DdrsError(
            f"{what}: holds {value!r}, which is no multiple of 1/255, in float32, as lattice noise needs; "
            "round it first: (255 * x.float()).round() / 255"
        )


def check_on_scale(image: torch.Tensor, noise: Noise, sigma: float, what: str) -> None:
    """DdrsError for an image (or vector) so far from 0 that its float32 noisy copies are not those of the noise's law.

    On the grid every k + i must be at most 2^24 in size. The continuous noises ignore that sums are rounded; here rounding is to be at most
    sigma / 256, half of the step between float32 numbers of the image's size.
    """
    largest = float(image.abs().max())
    # from 2^e to 2^(e + 1) the step is 2^(e - 23)
    limit = (2**24 - _largest(noise.base, sigma)) / LEVELS if noise.name in LATTICES else 2.0**16 * sigma
    if largest > limit:
        raise DdrsError(
            f"{what}: holds a value of size {largest:g}, where float32 steps are too coarse for {noise.name} noise of sigma {sigma:g}; "
            f"must be at most {limit:g}: rescale it, and sigma with it"
        )


def _largest(base: str, sigma: float) -> int:
    """The largest |i| that is ever drawn."""
    return math.ceil((REACH if base == "gaussian" else 1.0) * LEVELS * sigma) + 1


def _levels(image: torch.Tensor) -> torch.Tensor:
    """255 as a tensor: by a Python number CUDA multiplies with 1/255 instead, which is another float at half of the levels."""
    return torch.tensor(float(LEVELS), dtype=image.dtype, device=image.device)


@dataclass(frozen=True, eq=False)
class Lookup:
    """The law of i at one scale. i = smallest + number of thresholds at or below U, U uniform on [0, 1)."""

    base: str
    sigma: float
    smallest: int
    thresholds: np.ndarray  # float64, F((j + 1/2) / 255) for j = smallest, smallest + 1, ...
    by_16_bits: np.ndarray  # float32 (65536,): i as the first 16 bits of U decide it, or FLAG
    below: np.ndarray  # int64 (65536,): thresholds surely at or below every U with these 16 bits
    single: np.ndarray  # bool (65536,): one threshold at most is left to compare with

    def exact(self, place: int) -> Any:
        """The threshold of that place to PRECISION bits."""
        with mpmath.workprec(PRECISION):
            edge = mpmath.mpf(2 * (self.smallest + place) + 1) / (2 * LEVELS * mpmath.mpf(self.sigma))
            return mpmath.ncdf(edge) if self.base == "gaussian" else min(max((edge + 1) / 2, mpmath.mpf(0)), mpmath.mpf(1))

    def count(self, bits: int, total: int) -> int:
        """How many thresholds are at or below bits / 2^total, decided exactly where float64 can not."""
        u = bits / 2**total
        low, high = np.searchsorted(self.thresholds, [u - CLOSE, u + CLOSE])
        value = Fraction(bits, 2**total)
        with mpmath.workprec(PRECISION):
            u_exact = mpmath.mpf(value.numerator) / value.denominator
            return int(low) + sum(self.exact(place) <= u_exact for place in range(int(low), int(high)))


@lru_cache(maxsize=64)
def _lookup(base: str, sigma: float) -> Lookup:
    largest = _largest(base, sigma)
    edges = (np.arange(-largest, largest) + 0.5) / (LEVELS * sigma)
    thresholds = ndtr(edges) if base == "gaussian" else np.clip((edges + 1) / 2, 0.0, 1.0)

    def counts(values: np.ndarray) -> np.ndarray:
        """How many values are at or below c / 65536, for c = 0 .. 65536."""
        return np.cumsum(np.bincount(np.clip(np.ceil(values * 65536), 0, 65536).astype(np.int64), minlength=65537))

    surely, perhaps = counts(thresholds + CLOSE)[:-1], counts(thresholds - CLOSE)[1:]
    decided = np.where(surely == perhaps, (surely - largest).astype(np.float32), FLAG)
    return Lookup(base, sigma, -largest, thresholds, decided, surely, perhaps - surely == 1)


@lru_cache(maxsize=1024)
def _thresholds_of_63_bits(table: Lookup) -> torch.Tensor:
    """The thresholds for a GPU, int64, from those above one half: that at place -1 - i is 1 minus that at place i."""
    with mpmath.workprec(PRECISION):
        upper = [table.exact(place) for place in range(len(table.thresholds) // 2, len(table.thresholds))]
        values = [min(int(mpmath.floor(one * 2**63)), 2**63 - 1) for one in [*(1 - one for one in reversed(upper)), *upper]]
    return torch.tensor(values, dtype=torch.int64)


class GridSampler:
    """Draws i as float32 from 80 random bits each: 16 by a table, and 64 more where those do not decide. On a GPU, from 63 bits."""

    def __init__(self, table: Lookup):
        self.table = table
        self._on_device: torch.Tensor | None = None

    def generator(self, key: int) -> tuple[np.random.Philox, np.random.Philox]:
        """One stream for the first 16 bits of every coordinate, another for the 64 that follow where they are needed."""
        first = np.random.Philox(key=key)
        return first, first.jumped()

    def fill(self, out: torch.Tensor, generator: tuple[np.random.Philox, np.random.Philox] | torch.Generator) -> None:
        if isinstance(generator, torch.Generator):
            u = torch.empty(out.shape, dtype=torch.int64, device=out.device).random_(generator=generator)
            if self._on_device is None or self._on_device.device != out.device:
                self._on_device = _thresholds_of_63_bits(self.table).to(out.device)
            places = torch.bucketize(u, self._on_device, right=True)
            out.copy_(places).add_(self.table.smallest)
            return
        first, rest = generator
        values = out.numpy().reshape(len(out), -1)
        words = first.random_raw((len(values), -(-values.shape[1] // 4)))
        high = np.ascontiguousarray(words.astype("<u8", copy=False).view("<u2")[:, : values.shape[1]]).ravel()
        values = values.reshape(-1)
        np.take(self.table.by_16_bits, high, out=values, mode="clip")
        open_ones = np.flatnonzero(values == FLAG)
        if len(open_ones):
            values[open_ones] = self._decide(high[open_ones], rest.random_raw(len(open_ones)))

    def _decide(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        """i of coordinates that the table leaves open, from their 16 bits and 64 more."""
        table = self.table
        u = (high + low * 2.0**-64) * 2.0**-16
        count = table.below[high]
        margin = u - table.thresholds[count]
        count = count + (margin > 0)
        close = np.abs(margin) < CLOSE
        several = np.flatnonzero(~table.single[high])  # in the tails a cell of 16 bits holds several thresholds
        count[several] = np.searchsorted(table.thresholds, u[several] - CLOSE)
        close[several] = count[several] != np.searchsorted(table.thresholds, u[several] + CLOSE)
        for i in np.flatnonzero(close):
            count[i] = table.count((int(high[i]) << 64) | int(low[i]), 80)
        return count + table.smallest

    def place(self, out: torch.Tensor, image: torch.Tensor) -> None:
        """(k + i) / 255: the sum is exact in float32, the quotient the nearest float32, the same that an 8-bit image becomes."""
        values, pixels = in_place(out), in_place(torch.round(image * LEVELS))
        values += pixels
        values /= in_place(_levels(image))

    def deviation(self, device: torch.device) -> float:
        """At most 2^15 thresholds, each off by at most the last of 80 (a GPU: 63) bits, half of which is total variation; less beyond the reach."""
        return 2.0**-49 if device.type == "cuda" else 2.0**-66
