"""The law of the noise counted by other means than the samplers', and samplers fed with bits that were chosen beforehand."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from ddrs.noise import kernels
from ddrs.noise.laws import CERTIFIABLE, LATTICES
from ddrs.noise.norms import Law
from ddrs.noise.samplers import FineGrid, Lookup, PixelGrid, lookup

BITS = 200  # of the exact thresholds below, as integers
SIGMAS = [0.001, 0.05, 0.25, 1.0, 4.0]
ON_PIXELS = [*(("lattice", sigma) for sigma in SIGMAS), *(("uniform-lattice", sigma) for sigma in (0.001, 0.25, 1.0))]
SCALES = [*ON_PIXELS, ("gaussian", 0.25), ("uniform", 0.25)]
KERNELS = ["plain", "compiled"]


@contextmanager
def drawn_by(kernel: str) -> Iterator[Any]:
    """Samplers draw by this kernel; `compiled` is not replaced by the other where numba fails."""
    found = kernels.PLAIN if kernel == "plain" else kernels._compiled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "chosen", lambda values: found)
        yield found


def sampler(name: str, sigma: float) -> PixelGrid | FineGrid:
    found = CERTIFIABLE[name].at(sigma)
    assert isinstance(found, PixelGrid if name in LATTICES else FineGrid)
    return found


def table_of(source: PixelGrid | FineGrid) -> Lookup:
    return source.table if isinstance(source, PixelGrid) else lookup(source.base, source.scale, 1.0)


def first_bits(source: PixelGrid | FineGrid) -> int:
    """How many bits of a value are drawn at once; 64 more where these do not decide."""
    return 16 if isinstance(source, PixelGrid) else 32


def integers(source: PixelGrid | FineGrid, copies: torch.Tensor) -> np.ndarray:
    """i of copies of 0, int64."""
    if isinstance(source, PixelGrid):
        return np.rint(copies.numpy().astype(np.float64) * 255).astype(np.int64)
    found = np.rint(copies.numpy().astype(np.float64) / float(source.step)).astype(np.int64)
    assert np.array_equal(found.astype(np.float32) * source.step, copies.numpy()), "multiples of the step"
    return found


def exact(table: Lookup) -> list[int]:
    """F((i + 1/2) / (levels * sigma)) * 2^200, rounded down, for every i of the table, computed by another formula and to more digits."""
    return _exact(table.base, table.levels, table.sigma, table.smallest, len(table.thresholds))


@lru_cache
def _exact(base: Law, levels: int, sigma: float, smallest: int, count: int) -> list[int]:
    edges = range(smallest, smallest + count)
    if base == "uniform":
        scale = 2 * levels * Fraction(sigma)
        above, below = scale.numerator, scale.denominator
        return [min(max(((above + (2 * i + 1) * below) << (BITS - 1)) // above, 0), 2**BITS) for i in edges]
    with mpmath.workdps(75):
        unit = 1 / (2 * levels * mpmath.mpf(sigma) * mpmath.sqrt(2))
        tail = [mpmath.erfc(-(2 * i + 1) * unit) / 2 for i in edges if i < 0]
        assert len(edges) == 2 * len(tail), "the edges are symmetric"
        return [int(mpmath.floor(p * 2**BITS)) for p in [*tail, *(1 - p for p in reversed(tail))]]


@lru_cache
def _probabilities(base: Law, levels: int, sigma: float, smallest: int, count: int) -> np.ndarray:
    law = [0, *_exact(base, levels, sigma, smallest, count), 2**BITS]
    return np.array([float(b - a) / 2.0**BITS for a, b in pairwise(law)])


def probabilities(table: Lookup) -> np.ndarray:
    """P(i) for every i of the table."""
    return _probabilities(table.base, table.levels, table.sigma, table.smallest, len(table.thresholds))


def first_at_or_above(threshold: int, bits: int) -> int:
    """The smallest u with u / 2^bits >= the threshold."""
    return -(-threshold >> (BITS - bits))


class Given:
    """Bits of values that were chosen beforehand, for samples of one value each: the first `first` bits, and 64 more where they are asked for."""

    def __init__(self, values: list[int], first: int):
        self.first = np.array([value >> 64 for value in values], np.uint64)
        self.rest = np.array([value & (2**64 - 1) for value in values], np.uint64)
        self.bits, self.asked = first, 0

    def words(self, first: int, count: int) -> np.ndarray:
        blocks = np.full((count, 16), 0xA5, np.uint8)  # what lies beyond the first value of a block is not read
        blocks[:, : self.bits // 8] = self.first[first : first + count].astype(f"<u{self.bits // 8}")[:, None].view(np.uint8)
        return blocks.reshape(-1)

    def of_places(self, first: int, further: np.ndarray) -> np.ndarray:
        self.asked += len(further)
        return self.rest[first + further]


def drawn_from(source: PixelGrid | FineGrid, values: list[int]) -> tuple[np.ndarray, int]:
    """The integers that `copies` makes of U = value / 2^(80 or 96), and of how many it asked for all bits."""
    given: Any = Given(values, first_bits(source))
    out = torch.empty(len(values), 1)
    source.copies(out, source.place(torch.zeros(1)), given, 0)
    return integers(source, out)[:, 0], given.asked


def some_places(table: Lookup, count: int = 120) -> list[int]:
    """Up to `count` places of thresholds: tails, where a cell of 16 bits holds several, and the middle, where one holds at most one."""
    rng, last = np.random.default_rng(0), len(table.thresholds) - 1
    places = np.concatenate([rng.normal(last / 2, last / 24, 2 * count // 3), rng.normal(last / 2, last / 8, count // 3)])
    return np.unique(np.clip(places.round().astype(int), 0, last)).tolist()


def p_value(values: np.ndarray, smallest: int, law: np.ndarray) -> float:
    """Of the chi-square test that integers have a law. values: (n,), or how often each was drawn if there are as many as the law has."""
    counts = np.bincount(values.ravel() - smallest, minlength=len(law))
    return p_value_of_counts(counts, law)


def p_value_of_counts(counts: np.ndarray, law: np.ndarray) -> float:
    """As `p_value`. Neighbours of few expected values are one bin together."""
    expected = law * counts.sum()
    assert not counts[expected < 1e-9].any(), "nothing is drawn that has no probability"
    starts, waiting = [0], 0.0
    for i, one in enumerate(expected.tolist()):
        if waiting >= 20:
            starts.append(i)
            waiting = 0.0
        waiting += one
    starts = starts if waiting >= 20 else starts[:-1]
    found, wanted = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)
    return 1.0 if len(found) == 1 else float(chisquare(found, wanted * (found.sum() / wanted.sum())).pvalue)
