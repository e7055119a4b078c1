"""Noise as integers with an exact law, and noisy copies of images that tell nothing of the image but that law.

Every noise here is rounded. A copy of an image x is step * (k + i): step * k = q(x) is the point of a grid next to x, and i an integer drawn with
P(i) = F((i + 1/2) step) - F((i - 1/2) step), F the distribution function of the continuous noise. That is the exact law of q(q(x) + noise). So
the theorem for the continuous noise holds at q(x), for the classifier that reads its input rounded to the grid; which float32 number stands
for a point of the grid is a function of k + i alone, and so a part of that classifier. A float32 sum x + noise instead tells x in its
low mantissa bits (Voracek and Hein 2023), and the weights exp(-i^2 / 2 s^2) would be another law, for which the theorem does not hold.

Two grids: multiples of 1/255 (`PixelGrid`), where 8-bit images lie, so that nothing is lost; and multiples of a small part of the noise's scale
(`FineGrid`), for every image, whose radius is smaller by its distance to the grid.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol

import mpmath
import numpy as np
import torch
from scipy.special import ndtr, ndtri

from ddrs.errors import DdrsError
from ddrs.noise import kernels
from ddrs.noise.bits import BYTES, Bits
from ddrs.noise.kernels import CLOSE, FLAG
from ddrs.noise.norms import FINE, Law

LEVELS = 255  # of a pixel
MAX_SIGMA = 4.0  # of noise on the pixel grid
LARGEST = {"gaussian": 2.0**16, "uniform": 2.0**10}  # the largest values on a fine grid, in sigma: k + i stays below 2^29
REACH = 10.4  # of Gaussian noise, in sigma: 2^-82 lies beyond
PRECISION = 140  # bits of mpmath's
AT_ONCE = 2**16  # values that are drawn between two looks at memory, so that they stay in a cache
SHIFT, MARGIN = 13, 36  # of the interpolation of Gaussian noise: see `_interpolation`


class Sampler(Protocol):
    """Draws a noise at one scale, as noisy copies of an image."""

    def place(self, image: torch.Tensor) -> torch.Tensor:
        """The integers k of the point of the grid next to an image (d,), on its device."""
        ...

    def copies(self, out: torch.Tensor, placed: torch.Tensor, bits: Bits, start: int) -> None:
        """Fill `out` (m, d), float32, contiguous and on the CPU, with the copies start, start + 1, ... of these bits. In any thread."""
        ...

    def copies_on_device(self, out: torch.Tensor, placed: torch.Tensor, generator: torch.Generator) -> None:
        """The same law on a GPU, by its own generator."""
        ...

    def off_grid(self, image: torch.Tensor) -> float:
        """No less than the distance of an image (d,) to the point of the grid next to it, in the norm of the noise's certificates."""
        ...

    def deviation(self, device: torch.device) -> float:
        """A proven bound on how far i's law is from the rounded continuous noise's, in total variation, per coordinate."""
        ...


@dataclass(frozen=True, eq=False)
class Lookup:
    """The law of i at one scale. i = smallest + number of thresholds at or below U, U uniform on [0, 1)."""

    base: Law
    levels: int
    sigma: float  # the noise's scale is levels * sigma steps
    smallest: int
    thresholds: np.ndarray  # float64, F((j + 1/2) / (levels * sigma)) for j = smallest, smallest + 1, ...
    surely: np.ndarray  # int32 (65536,): thresholds surely at or below every U with these first 16 bits
    perhaps: np.ndarray  # int32 (65536,): thresholds perhaps at or below one of them

    def exact(self, place: int) -> Any:
        """The threshold of that place to PRECISION bits."""
        with mpmath.workprec(PRECISION):
            edge = mpmath.mpf(2 * (self.smallest + place) + 1) / (2 * self.levels * mpmath.mpf(self.sigma))
            return mpmath.ncdf(edge) if self.base == "gaussian" else min(max((edge + 1) / 2, mpmath.mpf(0)), mpmath.mpf(1))

    def count(self, bits: int, total: int) -> int:
        """How many thresholds are at or below bits / 2^total, decided exactly where float64 can not."""
        u = bits / 2**total
        low, high = np.searchsorted(self.thresholds, [u - CLOSE, u + CLOSE])
        value = Fraction(bits, 2**total)
        with mpmath.workprec(PRECISION):
            u_exact = mpmath.mpf(value.numerator) / value.denominator
            return int(low) + sum(self.exact(place) <= u_exact for place in range(int(low), int(high)))

    def settle(
        self, kernel: Any, open_: np.ndarray, words: np.ndarray, bits: Bits, first: int, placed: np.ndarray, step: np.float32, out: np.ndarray
    ) -> None:
        """Put the values into copies that their first bits left open: see `kernels`. first: the number of the first copy."""
        rest = bits.of_places(first * out.shape[1], open_)
        total = 8 * words.itemsize
        left = kernel.settle(open_, words, total, rest, self.surely, self.perhaps, self.thresholds, self.smallest, placed, step, out)
        for one in left.tolist():
            row, column = divmod(int(open_[one]), out.shape[1])
            i = self.count((int(words[row, column]) << 64) | int(rest[one]), total + 64) + self.smallest
            out[row, column] = kernels.copies_of(np.array(i), placed[column], step)


def largest(base: Law, scale: float) -> int:
    """The largest |i| that is ever drawn, of a noise whose sigma is so many steps."""
    return math.ceil((REACH if base == "gaussian" else 1.0) * scale) + 1


@lru_cache(maxsize=64)
def lookup(base: Law, levels: int, sigma: float) -> Lookup:
    """The law on a grid of `levels` steps in 1, at that sigma."""
    most = largest(base, levels * sigma)
    edges = (np.arange(-most, most) + 0.5) / (levels * sigma)
    thresholds = ndtr(edges) if base == "gaussian" else np.clip((edges + 1) / 2, 0.0, 1.0)

    def counts(values: np.ndarray) -> np.ndarray:
        """How many values are at or below c / 65536, for c = 0 .. 65536."""
        return np.cumsum(np.bincount(np.clip(np.ceil(values * 65536), 0, 65536).astype(np.int64), minlength=65537)).astype(np.int32)

    return Lookup(base, levels, sigma, -most, thresholds, counts(thresholds + CLOSE)[:-1], counts(thresholds - CLOSE)[1:])


@lru_cache(maxsize=64)
def _thresholds_of_63_bits(table: Lookup) -> torch.Tensor:
    """The thresholds for a GPU, int64, from those above one half: that at place -1 - i is 1 minus that at place i."""
    with mpmath.workprec(PRECISION):
        upper = [table.exact(place) for place in range(len(table.thresholds) // 2, len(table.thresholds))]
        values = [min(int(mpmath.floor(one * 2**63)), 2**63 - 1) for one in [*(1 - one for one in reversed(upper)), *upper]]
    return torch.tensor(values, dtype=torch.int64)


def _integers_on_device(out: torch.Tensor, table: Lookup, generator: torch.Generator) -> torch.Tensor:
    """i for each of `out`, int64, from 63 bits each."""
    u = torch.empty(out.shape, dtype=torch.int64, device=out.device).random_(generator=generator)
    return torch.bucketize(u, _on_device(table, out.device), right=True) + table.smallest


@lru_cache(maxsize=64)
def _on_device(table: Lookup, device: torch.device) -> torch.Tensor:
    return _thresholds_of_63_bits(table).to(device)


def _rows_at_once(out: np.ndarray) -> range:
    return range(0, len(out), max(1, AT_ONCE // out.shape[1]))


class PixelGrid:
    """Copies (k + i) / 255 from 80 random bits a value: 16 by a table, and 64 more where those do not decide. On a GPU, from 63 bits.

    Nothing is clipped: float32 holds every k + i exactly, as these are at most 2^24 (`check_on_scale`).
    """

    def __init__(self, base: Law, sigma: float):
        """DdrsError for a sigma above 4, beyond which the bound on the sampler's error ends."""
        if sigma > MAX_SIGMA:
            raise DdrsError(f"noise on the pixel grid: sigma = {sigma!r}: must be at most {MAX_SIGMA:g}")
        self.table = lookup(base, LEVELS, float(sigma))
        self._by_16_bits = np.where(self.table.surely == self.table.perhaps, (self.table.surely + self.table.smallest).astype(np.float32), FLAG)

    def place(self, image: torch.Tensor) -> torch.Tensor:
        return torch.round(image * LEVELS)

    def copies(self, out: torch.Tensor, placed: torch.Tensor, bits: Bits, start: int) -> None:
        values, k = out.numpy(), placed.numpy()
        d, kernel = values.shape[1], kernels.chosen(out.numel())
        blocks, open_ = -(-2 * d // BYTES), np.empty(max(AT_ONCE, d), np.int64)
        rows = _rows_at_once(values)
        for row in rows:
            part, first = values[row : row + rows.step], start + row
            words = bits.words(first * blocks, len(part) * blocks).view("<u2").reshape(len(part), -1)
            if count := kernel.pixel(words, self._by_16_bits, k, part, open_):
                self.table.settle(kernel, open_[:count], words, bits, first, k, np.float32(0), part)

    def copies_on_device(self, out: torch.Tensor, placed: torch.Tensor, generator: torch.Generator) -> None:
        # by a Python number CUDA multiplies with 1/255 instead, which is another float at half of the levels
        out.copy_(_integers_on_device(out, self.table, generator)).add_(placed).div_(levels(placed))

    def off_grid(self, image: torch.Tensor) -> float:
        """0: other images are refused (`check_on_grid`)."""
        return 0.0

    def deviation(self, device: torch.device) -> float:
        """At most 2^15 thresholds, each off by at most the last of 80 (a GPU: 63) bits, half of which is total variation; less beyond the reach."""
        return 2.0**-49 if device.type == "cuda" else 2.0**-66


class FineGrid:
    """Copies (k + i) * sigma / 4096 (of uniform noise, lambda / 2^18) from 96 random bits a value: 32, and 64 more where those do not decide.

    On a GPU, from 63 bits. The float32 product rounds: a function of k + i, and so a part of the classifier that is certified.
    """

    def __init__(self, base: Law, sigma: float):
        self.base, self.scale = base, FINE[base]
        self.step = np.float32(sigma) / np.float32(self.scale)  # exact: a power of two
        if not self.step >= np.finfo(np.float32).tiny:
            raise DdrsError(f"sigma = {sigma!r}: must be at least {float(np.finfo(np.float32).tiny) * self.scale:.3g}")

    def place(self, image: torch.Tensor) -> torch.Tensor:
        return torch.round(image.double() / float(self.step)).to(torch.int32)

    def copies(self, out: torch.Tensor, placed: torch.Tensor, bits: Bits, start: int) -> None:
        values, k = out.numpy(), placed.numpy()
        d, kernel = values.shape[1], kernels.chosen(out.numel())
        blocks, open_ = -(-4 * d // BYTES), np.empty(max(AT_ONCE, d), np.int64)
        at, width, shift, margin = _interpolation(self.base)
        rows = _rows_at_once(values)
        for row in rows:
            part, first = values[row : row + rows.step], start + row
            words = bits.words(first * blocks, len(part) * blocks).view("<u4").reshape(len(part), -1)
            if count := kernel.fine(words, at, width, shift, margin, k, self.step, part, open_):
                lookup(self.base, self.scale, 1.0).settle(kernel, open_[:count], words, bits, first, k, self.step, part)

    def copies_on_device(self, out: torch.Tensor, placed: torch.Tensor, generator: torch.Generator) -> None:
        if self.base == "uniform":  # 2^19 thresholds, all of them multiples of 2^-20
            u = torch.empty(out.shape, dtype=torch.int32, device=out.device).random_(0, 2**20, generator=generator)
            i = ((u + 1) >> 1) - self.scale
        else:
            i = _integers_on_device(out, lookup(self.base, self.scale, 1.0), generator)
        out.copy_(placed + i).mul_(float(self.step))

    def off_grid(self, image: torch.Tensor) -> float:
        """In float64, where every k * sigma / 4096 is exact, with more than its rounding errors added: below 1e-9 of it, for 10^6 values."""
        apart = (image.double() - self.place(image).double() * float(self.step)).cpu().numpy()
        return float(np.linalg.norm(apart, 2 if self.base == "gaussian" else 1)) * (1 + 1e-9)

    def deviation(self, device: torch.device) -> float:
        """At most 2^17 thresholds, each off by at most the last of 96 (a GPU: 63) bits, half of which is total variation; less beyond the reach."""
        return 2.0**-47 if device.type == "cuda" else 2.0**-66


@lru_cache
def _interpolation(base: Law) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Where i + 1/2 stands at the beginning of each cell of 16 bits, int32, and how far it goes within, uint16; their unit and how far they are off.

    i is the largest integer at or below p(U) = scale * F^-1(U) + 1/2. Between the ends of a cell p is interpolated, in units of 2^-shift: that
    is off by at most p'' / 8 of the cell's width squared (where x = F^-1(U), p'' = scale x / phi(x)^2, largest at the outer end). Cells
    where that is above 32 units, or that are too wide, have place and width 0: 0 is a whole number, so their values are always open. MARGIN
    is more than 32 units, two roundings of half a unit, one that is cut off, and the bits after the 32nd, which move p by less than one.
    For uniform noise p is linear, and 20 bits decide.
    """
    cells, scale = np.arange(65537), FINE[base]
    if base == "uniform":  # in units of 2^-10: p = 2^19 U - 2^18 + 1/2
        return ((cells[:-1] << 13) + 512 - 2**28).astype(np.int32), np.full(65536, 2**13, np.uint16), 10, 0
    x = ndtri(cells / 65536)
    ends = (scale * x + 0.5) * 2**SHIFT
    with np.errstate(over="ignore", invalid="ignore"):
        bend = np.abs(x) * 2 * np.pi * np.exp(x**2) * scale * 2.0 ** (SHIFT - 32) / 8
        width = np.rint(np.diff(ends))
        plain = (np.maximum(bend[:-1], bend[1:]) <= 32) & (width < 65536)
    at = np.where(plain, np.rint(np.where(plain, ends[:-1], 0.0)), 0.0)
    return at.astype(np.int32), np.where(plain, width, 0.0).astype(np.uint16), SHIFT, MARGIN


def levels(image: torch.Tensor) -> torch.Tensor:
    """255 as a tensor, to divide by."""
    return torch.tensor(float(LEVELS), dtype=image.dtype, device=image.device)
