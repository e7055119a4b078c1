"""The floor of bench/floor.py: solved by hand, beside Wald's formulas, and below what the shipped test costs exactly."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from floor import Radius, floor, ours
from scipy.stats import binom

from ddrs.statistics.boundaries import Boundaries, boundaries
from ddrs.statistics.sequential import GroupSequentialTest


def divergence(a: float, b: float) -> float:
    return a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Boundaries:
    """Boundaries for 2,000 samples."""
    return boundaries(1e-3, 2000, cache=tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(
    ("level", "power", "n_max", "least"),
    [
        (0.5, 0.9, 1, 1.0),  # one sample, and to claim if it is a vote, is the only test
        (0.5, 0.5, 1, 0.0),  # a coin does it without samples
        (0.25, 0.81, 2, 1.9),  # to claim if both are votes: after no vote (of probability 0.1) the second one is not needed
    ],
)
def test_solved_by_hand(level: float, power: float, n_max: int, least: float):
    assert floor(0.9, [Radius(((0.5, level),), ((0.9, power),))], n_max) == pytest.approx(least, abs=2e-3)


@pytest.mark.parametrize(("p0", "p"), [(0.5, 0.55), (0.84, 0.9), (0.977, 0.99)])
def test_is_that_of_wald_where_n_is_no_limit(p0: float, p: float):
    """At least Wald's d(power, alpha) / KL, but for blocks; at most the exact mean of the sequential probability ratio test."""
    alpha, miss = 1e-3, 0.05
    up, down = np.log(1 / alpha), np.log(miss)
    alive, mean, claimed, missed, n = np.ones(1), 0.0, 0.0, 0.0, 0
    while alive.sum() > 1e-9:
        alive, n = np.convolve(alive, [1 - p, p]), n + 1
        k = np.arange(len(alive))
        log_ratio = k * np.log(p / p0) + (n - k) * np.log((1 - p) / (1 - p0))
        over, under = log_ratio >= up, log_ratio <= down
        mean += n * alive[over | under].sum()
        claimed += (alive[over] * np.exp(-log_ratio[over])).sum()
        missed += alive[under].sum()
        alive = np.where(over | under, 0.0, alive)
    found = floor(p, [Radius(((p0, claimed),), ((p, 1 - missed),))], 20 * int(mean))
    assert 0.97 * divergence(missed, 1 - claimed) / divergence(p, p0) <= found <= mean
    assert found >= 0.97 * mean, "which is the best of its errors"


def test_the_exact_mean_is_that_of_all_paths(tmp_path: Path):
    found, tested, p = boundaries(1e-3, 140, cache=tmp_path), [0, 20, 60, 100], 0.72
    assert found.looks.tolist() == [100, 125, 140]
    steps = np.diff(found.looks, prepend=0).tolist()
    laws = [binom.pmf(np.arange(step + 1), step, p) for step in steps]
    mean, claims = 0.0, np.zeros(len(tested))
    for votes in product(range(50, 101), range(26), range(16)):  # P(fewer than 50) is 1e-6
        test, total, n, look = GroupSequentialTest(found, tested), 0, 0, 0
        while not test.decided:
            n, total, look = test.next_look(), total + votes[look], look + 1
            test.update(total)
        weight = np.prod([law[k] for law, k in zip(laws, votes, strict=True)])
        mean += n * weight
        claims += weight * (np.array(tested) <= (-1 if test.claimed is None else test.claimed))
    exact = ours(found.looks, found.certify_at[tested], found.give_up_at[tested], p)
    assert exact[0] == pytest.approx(mean, abs=1e-3)
    assert exact[1] == pytest.approx(claims, abs=1e-5)


def test_no_test_of_ours_is_below_the_floor(small: Boundaries):
    tested = [0, 50, 100]
    up, down = small.certify_at[tested], small.give_up_at[tested]
    for p in (0.47, 0.55, 0.6, 0.68, 0.76, 0.85, 0.95):
        mean, claims = ours(small.looks, up, down, p)
        radii = [
            Radius(((min(p, float(small.p0[i])), 1e-3),), ((p, claims[r]), (q, ours(small.looks, up, down, q)[1][r])))
            for r, i in enumerate(tested)
            for q in [float(small.p0[i]) + 0.05]
        ]
        found = floor(p, radii, 2000)
        assert 0.4 * mean < found <= mean
