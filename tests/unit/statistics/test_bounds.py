"""The Clopper-Pearson bound against exact values, and what it refuses."""

import csv
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtri
from statsmodels.stats.proportion import proportion_confint

from ddrs.errors import DdrsError
from ddrs.statistics.bounds import check_n, lower_confidence_bound, smallest_n, upper_confidence_bound
from tests.unit.helpers import upper_tail

with open(Path(__file__).parents[2] / "data" / "clopper_pearson.csv") as file:
    EXACT = [(int(row["k"]), int(row["n"]), float(row["alpha"]), row["p_lower"], row["radius_over_sigma"]) for row in csv.DictReader(file)]


def upper_tail_of_few_terms(k: int, n: int, p: Decimal) -> Decimal:
    """P(Binomial(n, p) >= k) in 60 digits, by summing the side of k that has fewer terms."""
    if n - k <= k:
        return upper_tail(k, n, p)
    with localcontext() as context:
        context.prec = 60
        return 1 - upper_tail(n - k + 1, n, 1 - p)


@pytest.mark.parametrize(("k", "n", "alpha", "p_lower", "radius"), EXACT)
def test_agrees_with_exact_values(k: int, n: int, alpha: float, p_lower: str, radius: str):
    """The file's decimals are rounded to 15 digits, so half a unit of the 15th is allowed."""
    found = lower_confidence_bound(k, n, alpha)
    assert isinstance(found, float)
    assert found == pytest.approx(float(p_lower), rel=5e-15, abs=0)
    assert float(ndtri(found)) == pytest.approx(float(radius), rel=1e-6, abs=1e-11)  # near p = 1/2 the decimals of p cancel


@pytest.mark.parametrize(("k", "n", "alpha"), [row[:3] for row in EXACT if row[0]])
def test_is_the_exact_bound_from_below(k: int, n: int, alpha: float):
    """By 60-digit sums of the binomial: the tail at the bound reaches alpha within float64's last digits, and is not above it."""
    found = Decimal(lower_confidence_bound(k, n, alpha))
    assert upper_tail(k, n, found * (1 - Decimal("2e-15"))) <= Decimal(alpha) < upper_tail(k, n, found * (1 + Decimal("1e-14")))


@pytest.mark.parametrize("n", [30, 100, 10_000, 100_000])
@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-9])
def test_closed_forms_at_the_ends(n: int, alpha: float):
    assert lower_confidence_bound(0, n, alpha) == 0.0
    assert upper_tail(n, n, Decimal(lower_confidence_bound(n, n, alpha))) <= Decimal(alpha), "all votes: alpha^(1/n), rounded down"
    assert lower_confidence_bound(n, n, alpha) == pytest.approx(alpha ** (1 / n), rel=1e-14)
    assert lower_confidence_bound(1, n, alpha) == pytest.approx(-np.expm1(np.log1p(-alpha) / n), rel=1e-13), "one vote: 1 - (1 - alpha)^(1/n)"


def test_agrees_with_statsmodels():
    k = np.arange(0, 1001, 7)
    oracle = proportion_confint(k, 1000, alpha=2 * 0.001, method="beta")[0]
    np.testing.assert_allclose(lower_confidence_bound(k, 1000, 0.001), np.nan_to_num(oracle), rtol=1e-12)


def test_vectorised_is_the_same_as_one_by_one():
    k, n = np.array([[0, 5, 10], [3, 99, 100]]), np.array([[10], [100]])
    found = lower_confidence_bound(k, n, 0.001)
    assert found.shape == (2, 3) and found.dtype == np.float64
    assert found.tolist() == [[lower_confidence_bound(int(a), int(b), 0.001) for a in row] for row, b in zip(k, n[:, 0], strict=True)]
    np.testing.assert_array_equal(lower_confidence_bound(100, np.array([100, 1000]), 0.001), [found[1, 2], lower_confidence_bound(100, 1000, 0.001)])


@pytest.mark.parametrize(
    ("k", "n", "alpha"),
    [
        *((143, 272, 2.0**-24), (505, 1000, 1e-3), (506, 1000, 5e-4), (9001, 10_000, 1e-9)),
        *((99_001, 100_000, 5e-4), (1000, 1_000_000, 1e-3), (999_001, 1_000_000, 1e-3)),
    ],
)
def test_is_not_above_the_exact_bound_by_a_last_digit(k: int, n: int, alpha: float):
    """Where SciPy's inverse of the incomplete beta function is off, by far more than last digits; without the 2e-15 of p allowed elsewhere."""
    found = Decimal(lower_confidence_bound(k, n, alpha))
    assert upper_tail_of_few_terms(k, n, found) <= Decimal(alpha) < upper_tail_of_few_terms(k, n, found * (1 + Decimal("1e-12")))
    above = Decimal(upper_confidence_bound(n - k, n, alpha))
    assert upper_tail_of_few_terms(k, n, 1 - above) <= Decimal(alpha), "nor is the upper bound below"


# ---- the upper bound


@pytest.mark.parametrize(("k", "n", "alpha"), [row[:3] for row in EXACT if row[0] < row[1]])
def test_upper_is_the_exact_bound_from_above(k: int, n: int, alpha: float):
    """By 60-digit sums: k or fewer votes have probability alpha at the bound, not more, and more than alpha a few 1e-15 below it."""
    found = upper_confidence_bound(k, n, alpha)
    assert isinstance(found, float)
    misses = 1 - Decimal(found)
    assert upper_tail(n - k, n, misses) <= Decimal(alpha) < upper_tail(n - k, n, misses + Decimal("1e-14"))


@pytest.mark.parametrize("n", [1, 30, 100_000, 10_000_000, 10**9])
@pytest.mark.parametrize("alpha", [0.05, 0.001, 1e-9])
def test_upper_closed_forms_at_the_ends(n: int, alpha: float):
    assert upper_confidence_bound(n, n, alpha) == 1.0, "all votes"
    none = upper_confidence_bound(0, n, alpha)
    with localcontext() as context:
        context.prec = 40
        exact = 1 - (Decimal(alpha).ln() / n).exp()
    assert exact <= Decimal(none) < exact + Decimal("4e-15"), "no vote: 1 - alpha^(1/n)"


def test_upper_is_one_minus_the_lower_bound_of_the_misses():
    k, n = np.array([[0, 5, 10], [3, 99, 100]]), np.array([[10], [100]])
    upper, mirrored = upper_confidence_bound(k, n, 0.001), 1 - np.asarray(lower_confidence_bound(n - k, n, 0.001))
    np.testing.assert_allclose(upper, mirrored, rtol=0, atol=3e-16)
    assert np.all((upper > mirrored) | (upper == 1.0)), "rounded up"


def test_upper_agrees_with_statsmodels():
    k = np.arange(0, 1001, 7)
    oracle = proportion_confint(k, 1000, alpha=2 * 0.001, method="beta")[1]
    np.testing.assert_allclose(upper_confidence_bound(k, 1000, 0.001), oracle, rtol=1e-12)


def test_upper_vectorised_is_the_same_as_one_by_one():
    k, n = np.array([[0, 5, 10], [3, 99, 100]]), np.array([[10], [10_000_000]])
    found = upper_confidence_bound(k, n, 0.001)
    assert found.shape == (2, 3) and found.dtype == np.float64
    assert found.tolist() == [[upper_confidence_bound(int(a), int(b), 0.001) for a in row] for row, b in zip(k, n[:, 0], strict=True)]
    np.testing.assert_array_equal(upper_confidence_bound(99, np.array([100, 10_000_000]), 0.001)[1], found[1, 1])


@pytest.mark.parametrize(
    ("k", "n", "alpha"), [(-1, 10, 0.001), (11, 10, 0.001), (0, 0, 0.001), (5.0, 10, 0.001), (5, 10.0, 0.001), (5, 10, 0.0), (5, 10, 1.0)]
)
def test_upper_refuses_what_is_out_of_range(k, n, alpha):
    with pytest.raises(DdrsError):
        upper_confidence_bound(k, n, alpha)


# ---- ten million samples and more: the complement form

MANY = [9_999_999, 10_000_000, 10_000_001, 10**9]


@pytest.mark.parametrize("n", MANY)
@pytest.mark.parametrize("alpha", [0.5, 0.001, 1e-9])
@pytest.mark.parametrize("misses", [0, 1, 2, 10, 999, 1000])  # 999: where SciPy's inverse of the incomplete beta function is far off
def test_of_many_samples_is_the_exact_bound_from_below(misses: int, n: int, alpha: float):
    """Near k = n, in 60 digits: never above, and 1 - p within a few parts in 1e9 and a few last digits of p."""
    found = 1 - Decimal(lower_confidence_bound(n - misses, n, alpha))
    closer = found * (1 - Decimal("4e-9")) - Decimal("4e-15")
    assert upper_tail(n - misses, n, 1 - found) <= Decimal(alpha) < upper_tail(n - misses, n, 1 - closer)


@pytest.mark.parametrize("n", MANY)
@pytest.mark.parametrize("alpha", [0.5, 0.001, 1e-9])
@pytest.mark.parametrize("k", [1, 2, 10, 999, 1000])
def test_of_few_votes_among_many_samples_is_as_close(k: int, n: int, alpha: float):
    """Near k = 0, where p itself is small: never above, and within 1 part in 1e6 of p."""
    found = lower_confidence_bound(k, n, alpha)
    assert found > 0.0
    assert upper_tail_of_few_terms(k, n, Decimal(found)) <= Decimal(alpha) < upper_tail_of_few_terms(k, n, Decimal(found) * (1 + Decimal("1e-6")))


@pytest.mark.parametrize("n", MANY)
def test_of_many_samples_vectorised_is_the_same_as_one_by_one(n: int):
    k = np.array([0, 1, n // 2, n - 1, n])
    found = lower_confidence_bound(k, n, 0.001)
    assert found.tolist() == [lower_confidence_bound(int(one), n, 0.001) for one in k]
    assert found[0] == 0.0 and np.all(np.diff(found) > 0)
    np.testing.assert_array_equal(lower_confidence_bound(90, np.array([100, n]), 0.001)[0], lower_confidence_bound(90, 100, 0.001))


def test_nothing_jumps_where_the_complement_form_begins():
    """From 9,999,999 to 10,000,000 samples, at shares from a half to one."""
    share = np.array([0.5, 0.7, 0.9, 0.99, 0.99999])
    k, n = np.round(share * 10_000_000).astype(np.int64), 10_000_000
    before, at = (lower_confidence_bound(votes, size, 0.001) for votes, size in ((k - 1, n - 1), (k, n)))
    assert np.all(at > before)
    np.testing.assert_allclose(1 - at, 1 - before, rtol=3e-7)


# ---- what is refused, and the smallest n


@pytest.mark.parametrize(
    ("k", "n", "alpha"),
    [(-1, 10, 0.001), (11, 10, 0.001), (0, 0, 0.001), (np.array([1, 11]), 10, 0.001), (5.0, 10, 0.001), (5, 10.0, 0.001)]
    + [(5, 10, alpha) for alpha in (0.0, 1.0, -0.1, 1.5, float("nan"), "0.1", None)],
)
def test_refuses_what_is_out_of_range(k, n, alpha):
    with pytest.raises(DdrsError):
        lower_confidence_bound(k, n, alpha)


@pytest.mark.parametrize(("alpha", "least"), [(0.001, 10), (0.0005, 11), (0.05, 5), (0.5, 2), (0.9, 1), (2.0**-10, 11)])
def test_smallest_n(alpha: float, least: int):
    """With one sample less even n votes of n leave the bound at 1/2 or below; at alpha = 2^-m the bound with m samples is 1/2 itself."""
    assert smallest_n(alpha) == least
    assert lower_confidence_bound(least, least, alpha) > 0.5
    assert least == 1 or lower_confidence_bound(least - 1, least - 1, alpha) <= 0.5


def test_check_n_at_the_edge():
    check_n(10, 0.001)
    with pytest.raises(DdrsError, match=r"n = 9.*at least 10"):
        check_n(9, 0.001)
