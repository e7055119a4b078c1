"""The Clopper-Pearson bounds' order and level, over random counts."""

from decimal import Decimal

from hypothesis import example, given
from hypothesis import strategies as st

from ddrs.statistics.bounds import lower_confidence_bound, upper_confidence_bound
from tests.unit.helpers import upper_tail

COUNTS = st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
MANY = st.integers(9_999_990, 10**10).flatmap(lambda n: st.tuples(st.integers(n - 200, n), st.just(n)))
SMALL = st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n)))
ALPHAS = st.floats(1e-9, 0.5)


@given(COUNTS, ALPHAS)
def test_lies_below_the_share(counts: tuple[int, int], alpha: float):
    k, n = counts
    assert 0.0 <= lower_confidence_bound(k, n, alpha) < max(k / n, 1e-300)


@given(COUNTS, ALPHAS)
def test_one_more_vote_raises_it(counts: tuple[int, int], alpha: float):
    k, n = counts
    assert lower_confidence_bound(k, n, alpha) < lower_confidence_bound(k + 1, n + 1, alpha)
    if k < n:
        assert lower_confidence_bound(k, n, alpha) < lower_confidence_bound(k + 1, n, alpha)


@given(COUNTS.filter(lambda counts: counts[0] > 0), ALPHAS)
def test_one_more_miss_lowers_it(counts: tuple[int, int], alpha: float):
    k, n = counts
    assert lower_confidence_bound(k, n + 1, alpha) < lower_confidence_bound(k, n, alpha)


@given(COUNTS.filter(lambda counts: counts[0] > 0), ALPHAS, ALPHAS)
def test_a_larger_alpha_raises_it(counts: tuple[int, int], alpha: float, other: float):
    low, high = sorted((alpha, other))
    assert lower_confidence_bound(*counts, low) <= lower_confidence_bound(*counts, high)


@given(SMALL, ALPHAS)
@example((2, 3), 2.6255021917269365e-09)
def test_fails_with_at_most_alpha(counts: tuple[int, int], alpha: float):
    """If p is the bound, then k or more votes have probability alpha: no more (in exact arithmetic, to 1e-14 of p), and not much less."""
    k, n = counts
    found = Decimal(lower_confidence_bound(k, n, alpha))
    assert upper_tail(k, n, found * (1 - Decimal("1e-14"))) <= Decimal(alpha) < upper_tail(k, n, found * (1 + Decimal("1e-13")))


@given(SMALL, ALPHAS)
def test_upper_fails_with_at_most_alpha(counts: tuple[int, int], alpha: float):
    """If p is the bound, then as many misses or more, out of n, have probability alpha: no more, and not much less."""
    misses, n = counts
    found = 1 - Decimal(upper_confidence_bound(n - misses, n, alpha))
    assert upper_tail(misses, n, found) <= Decimal(alpha) < upper_tail(misses, n, found * (1 + Decimal("1e-13")) + Decimal("4e-15"))


@given(MANY, ALPHAS)
def test_of_many_samples_fails_with_at_most_alpha(counts: tuple[int, int], alpha: float):
    k, n = counts
    found = 1 - Decimal(lower_confidence_bound(k, n, alpha))
    closer = found * (1 - Decimal("4e-9")) - Decimal("4e-15")
    assert upper_tail(k, n, 1 - found) <= Decimal(alpha) < upper_tail(k, n, 1 - closer)


@given(COUNTS, ALPHAS)
def test_the_two_bounds_enclose_the_share(counts: tuple[int, int], alpha: float):
    k, n = counts
    assert lower_confidence_bound(k, n, alpha) < k / n < upper_confidence_bound(k, n, alpha) or k in (0, n)
    assert 0.0 <= lower_confidence_bound(k, n, alpha) <= k / n <= upper_confidence_bound(k, n, alpha) <= 1.0


@given(COUNTS, ALPHAS)
def test_one_more_vote_raises_the_upper_bound(counts: tuple[int, int], alpha: float):
    k, n = counts
    if k < n:
        assert upper_confidence_bound(k, n, alpha) < upper_confidence_bound(k + 1, n, alpha)
