"""The group-sequential test of one input, on boundaries that all inputs share."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np

from ddrs.errors import DdrsError
from ddrs.statistics.boundaries import Boundaries


def needed(radii: list[float] | np.ndarray, sigma: float, z_count: int) -> np.ndarray:
    """Index of the smallest z of the grid with sigma * z >= radius, int64 (len(radii),); z_count where that is beyond the grid.

    radii: increasing, finite, >= 0, in the units of sigma (> 0); both are taken at their exact binary values. Index i is z = i/100.
    """
    _check_scale(sigma)
    values = [float(radius) for radius in radii]
    if not all(math.isfinite(radius) and radius >= 0 for radius in values) or any(a >= b for a, b in pairwise(values)):
        raise DdrsError(f"radii {values}: must be increasing, finite and >= 0")
    scale = Fraction(float(sigma))
    return np.array([min(math.ceil(100 * Fraction(radius) / scale), z_count) for radius in values], np.int64)


def radius_of(index: int, sigma: float) -> float:
    """sigma * z of a grid index, in the units of sigma, rounded down to a float64."""
    _check_scale(sigma)
    exact = Fraction(float(sigma)) * int(index) / 100
    nearest = float(exact)
    return nearest if Fraction(nearest) <= exact else math.nextafter(nearest, -math.inf)


def _check_scale(sigma: float) -> None:
    if not (math.isfinite(sigma) and sigma > 0):
        raise DdrsError(f"sigma = {sigma}: must be a finite number > 0")


class GroupSequentialTest:
    """The test of one input: counts votes for a class that other samples chose, and claims radii.

    Guarantee: P(claimed z has p0(z) >= p) <= alpha, the boundaries' alpha, for this one input, where p is the class's true probability,
    however many radii are tested. The nulls
    p <= p0(z) are nested, and a z is claimed only if all smaller tested ones are: so a false claim needs the smallest false one claimed,
    which is one test at level alpha. Giving up can only take claims away.
    """

    def __init__(self, boundaries: Boundaries, tested: np.ndarray | list[int]):
        """tested: sorted, unique indices into the grid of z, the first one 0 (z = 0: the class wins at all)."""
        indices = np.asarray(tested)
        if indices.ndim != 1 or not len(indices) or not np.issubdtype(indices.dtype, np.integer) or np.any(np.diff(indices) < 1):
            raise DdrsError("tested: must be increasing integers")
        if indices[0] != 0 or indices[-1] >= len(boundaries.z):
            raise DdrsError(f"tested: must start with 0 and end below {len(boundaries.z)}, the number of nulls")
        self.tested = indices.astype(np.int64)
        self._looks = boundaries.looks
        self._certify_at, self._give_up_at = boundaries.certify_at[self.tested], boundaries.give_up_at[self.tested]
        self._look, self._votes = 0, 0
        self._claimed, self._open = 0, len(self.tested)  # tested[:_claimed] are claimed, tested[_open:] are given up

    @property
    def decided(self) -> bool:
        """True when every tested null is claimed or given up, or the last look is over."""
        return self._claimed >= self._open or self._look == len(self._looks)

    @property
    def claimed(self) -> int | None:
        """The largest claimed index of the grid; None: abstain."""
        return int(self.tested[self._claimed - 1]) if self._claimed else None

    def next_look(self) -> int:
        """The cumulative number of samples at which `update` wants the votes."""
        if self.decided:
            raise DdrsError("sequential test: it is decided, there is no next look")
        return int(self._looks[self._look])

    def update(self, votes: int) -> bool:
        """Take the votes among the first next_look() samples; returns `decided`."""
        n, before = self.next_look(), int(self._looks[self._look - 1]) if self._look else 0
        if not self._votes <= votes <= self._votes + n - before:
            raise DdrsError(f"sequential test: {votes} votes of {n} samples after {self._votes} of {before}")
        # Both columns are non-decreasing, so what these votes claim is a prefix and what they give up is a suffix: gatekeeping.
        reached = int(np.searchsorted(self._certify_at[:, self._look], votes, side="right"))
        self._claimed = max(self._claimed, min(reached, self._open))
        given_up = int(np.searchsorted(self._give_up_at[:, self._look], votes, side="left"))
        self._open = max(self._claimed, min(self._open, given_up))
        self._look, self._votes = self._look + 1, votes
        return self.decided
