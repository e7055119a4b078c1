"""The group-sequential test's level in exact arithmetic, its decisions, and the grid of radii, over random designs."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ddrs.statistics.boundaries import Boundaries, Spending, boundaries, efficacy_boundary, futility_boundary
from ddrs.statistics.sequential import GroupSequentialTest, needed, radius_of

LOOKS = st.lists(st.integers(1, 60), min_size=1, max_size=6, unique=True).map(sorted)
SPENDING = st.sampled_from(["sqrt", "log"])
CHANCES = st.integers(1, 63)  # p = c / 64 is exact in float64
ALPHAS = st.sampled_from([1e-9, 1e-4, 1e-3, 0.01, 0.1, 0.5])
SIGMAS = st.floats(0.0009765625, 64.0, width=32)
RADII = st.floats(0.0, 64.0)


def rejecting_paths(looks: list[int], boundary: list[int]) -> list[dict[int, int]]:
    """For each look the number of vote sequences that are rejected there first, by their count: vote by vote, in integers."""
    alive, rejected, n = {0: 1}, [], 0
    for look, at in zip(looks, boundary, strict=True):
        for _ in range(look - n):
            grown: dict[int, int] = {}
            for k, ways in alive.items():
                grown[k] = grown.get(k, 0) + ways
                grown[k + 1] = grown.get(k + 1, 0) + ways
            alive = grown
        n = look
        rejected.append({k: ways for k, ways in alive.items() if k >= at})
        alive = {k: ways for k, ways in alive.items() if k < at}
    return rejected


def spent(looks: list[int], rejected: list[dict[int, int]], p: Fraction) -> list[Fraction]:
    """P(rejected at a look or before), exactly."""
    total, sums = Fraction(0), []
    for n, counts in zip(looks, rejected, strict=True):
        total += sum((ways * p**k * (1 - p) ** (n - k) for k, ways in counts.items()), Fraction(0))
        sums.append(total)
    return sums


@settings(deadline=None)
@given(LOOKS, CHANCES, ALPHAS, SPENDING)
@example([10], 32, 1e-3, "sqrt")
def test_level_is_exact_for_every_p_up_to_p0(looks: list[int], chance: int, alpha: float, spending: Spending):
    boundary = efficacy_boundary(chance / 64, alpha, np.array(looks), spending).tolist()
    rejected = rejecting_paths(looks, boundary)
    for c in {1, chance // 2, chance - 1, chance} - {0}:
        assert spent(looks, rejected, Fraction(c, 64))[-1] <= Fraction(alpha)


@settings(deadline=None)
@given(LOOKS, CHANCES, ALPHAS, SPENDING)
def test_no_boundary_could_be_lower(looks: list[int], chance: int, alpha: float, spending: Spending):
    """One vote less at any one look, the earlier ones as they are, spends more than the look may (to SHAVE)."""
    boundary = efficacy_boundary(chance / 64, alpha, np.array(looks), spending).tolist()
    ends = np.array(looks)
    share = np.ones(1) if len(looks) == 1 else np.sqrt(ends / ends[-1]) if spending == "sqrt" else np.log(ends / ends[0]) / np.log(ends[-1] / ends[0])
    for j in range(len(looks)):
        lowered = [*boundary[:j], boundary[j] - 1]
        total = spent(looks[: j + 1], rejecting_paths(looks[: j + 1], lowered), Fraction(chance, 64))[-1]
        assert total > alpha * float(share[j]) * (1 - 6e-8)


@settings(deadline=None)
@given(LOOKS, CHANCES, ALPHAS, SPENDING)
def test_futility_mirrors_efficacy(looks: list[int], chance: int, beta: float, spending: Spending):
    lower = futility_boundary(chance / 64, beta, np.array(looks), spending)
    upper = efficacy_boundary(1 - chance / 64, beta, np.array(looks), spending)
    assert np.array_equal(np.array(looks) - lower, upper)
    assert np.all((lower >= -1) & (lower < looks))


@pytest.fixture(scope="module", params=["sqrt", "log"])
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Boundaries:
    """Boundaries for 2,000 samples."""
    return boundaries(1e-3, 2000, spending=request.param, beta=0.05, cache=tmp_path_factory.mktemp("cache"))


def votes_of(found: Boundaries, p: float, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return np.cumsum([rng.binomial(step, p) for step in np.diff(found.looks, prepend=0)]).tolist()


def outcome(found: Boundaries, tested: list[int], votes: list[int]) -> int | None:
    test = GroupSequentialTest(found, tested)
    for n, k in zip(found.looks.tolist(), votes, strict=True):
        assert test.next_look() == n
        if test.update(k):
            break
    return test.claimed


def claims(found: Boundaries, index: int, votes: list[int], futility: bool) -> bool:
    """One null on its own, look by look: claimed if its votes reach the upper boundary before they fall to the lower one."""
    for j, k in enumerate(votes):
        if k >= found.certify_at[index, j]:
            return True
        if futility and k <= found.give_up_at[index, j]:
            return False
    return False


NULLS = st.lists(st.integers(1, 270), max_size=8, unique=True).map(lambda indices: [0, *sorted(indices)])


@settings(deadline=None)
@given(NULLS, st.floats(0.3, 1.0), st.integers(0, 2**32))
def test_each_null_is_decided_as_if_it_were_alone(shipped: Boundaries, tested: list[int], p: float, seed: int):
    """So gatekeeping costs nothing, and futility only takes claims away from those that are sound without it."""
    votes = votes_of(shipped, p, seed)
    alone = [index for index in tested if claims(shipped, index, votes, futility=True)]
    without = [index for index in tested if claims(shipped, index, votes, futility=False)]
    claimed = outcome(shipped, tested, votes)
    assert claimed == (alone[-1] if alone else None)
    assert alone == tested[: len(alone)], "a claim of z is a claim of every smaller one"
    assert set(alone) <= set(without)


@settings(deadline=None)
@given(st.floats(0.3, 0.6), st.integers(0, 2**32))
def test_nothing_is_claimed_without_zero(shipped: Boundaries, p: float, seed: int):
    votes = votes_of(shipped, p, seed)
    if not claims(shipped, 0, votes, futility=True):
        assert outcome(shipped, list(range(len(shipped.z))), votes) is None


@given(st.lists(RADII, min_size=1, max_size=6, unique=True).map(sorted), SIGMAS)
def test_needed_is_the_smallest_that_reaches_the_radius(radii: list[float], sigma: float):
    indices = needed(radii, sigma, 10**9)
    assert np.all(np.diff(indices) >= 0)
    for radius, index in zip(radii, indices.tolist(), strict=True):
        assert radius_of(index, sigma) >= radius
        assert index == 0 or radius_of(index - 1, sigma) < radius
    assert np.array_equal(needed(radii, sigma, 100), np.minimum(indices, 100))


@given(st.integers(0, 1000), SIGMAS)
def test_radius_is_rounded_down(index: int, sigma: float):
    exact, found = Fraction(sigma) * index / 100, radius_of(index, sigma)
    assert Fraction(found) <= exact < Fraction(np.nextafter(found, np.inf))
    assert needed([found], sigma, 2000)[0] <= index, "what is certified at an index is not above it"
