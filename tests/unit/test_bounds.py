"""The Clopper-Pearson bound against exact values, and what it refuses."""

import csv
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from scipy.special import ndtri
from statsmodels.stats.proportion import proportion_confint

from ddrs.certification.bounds import check_n, lower_confidence_bound, smallest_n
from ddrs.errors import DdrsError
from tests.unit.helpers import upper_tail

with open(Path(__file__).parents[1] / "data" / "clopper_pearson.csv") as file:
    EXACT = [(int(row["k"]), int(row["n"]), float(row["alpha"]), row["p_lower"], row["radius_over_sigma"]) for row in csv.DictReader(file)]


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
