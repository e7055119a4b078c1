"""Confidence bounds on a binomial proportion, exact and in float64."""

import math

import numpy as np
from scipy.special import betainc, betaincc, betainccinv, betaincinv

from ddrs.errors import DdrsError


def lower_confidence_bound(k: np.ndarray | int, n: np.ndarray | int, alpha: float) -> np.ndarray | float:
    """One-sided Clopper-Pearson lower bound on p, given k successes among n independent trials.

    Guarantee:
        P(bound > p) <= alpha, for every p and n, if n and alpha were chosen before the trials were seen. The bound is the alpha quantile of
        Beta(k, n - k + 1), 0 at k = 0 and alpha^(1/n) at k = n, lowered by a few parts in 1e15 so that rounding never lifts it above the
        exact value.

    Args:
        k: successes, an integer or an array of them, 0 <= k <= n.
        n: trials, an integer or an array that broadcasts with k, n >= 1.
        alpha: the failure probability of each bound by itself: of an array of B bounds all hold together with probability at least 1 - B * alpha.

    Returns:
        float64 of the broadcast shape, a float for scalars.

    Raises:
        DdrsError: if k, n or alpha is out of range.

    Source:
        Clopper and Pearson (1934); Cohen et al. (2019), LowerConfBound.
    """
    check_alpha(alpha)
    k_, n_ = np.broadcast_arrays(np.asarray(k), np.asarray(n))
    if not (np.issubdtype(k_.dtype, np.integer) and np.issubdtype(n_.dtype, np.integer)):
        raise DdrsError("lower_confidence_bound: k and n must be integers")
    if np.any(n_ < 1) or np.any(k_ < 0) or np.any(k_ > n_):
        raise DdrsError("lower_confidence_bound: needs n >= 1 and 0 <= k <= n")
    kf, nf = k_.astype(np.float64), n_.astype(np.float64)
    inner = (k_ > 0) & (k_ < n_)
    a, b = np.where(inner, kf, 1.0), np.where(inner, nf - kf + 1.0, 1.0)
    # solve for the smaller of the bound p and 1 - p, which keeps its digits for any n
    low = betainc(a, b, 0.5) >= alpha
    x = _solve(np.where(low, a, b), np.where(low, b, a), alpha, low)
    p = np.where(low, x, 1.0 - x)
    p = np.where(k_ == n_, np.exp(math.log(alpha) / nf), p)
    p = np.where(k_ == 0, 0.0, p * (1 - 8 * np.finfo(np.float64).eps))  # what the functions above may themselves be off by
    return float(p) if p.ndim == 0 else p


def upper_confidence_bound(k: np.ndarray | int, n: np.ndarray | int, alpha: float) -> np.ndarray | float:
    """One-sided Clopper-Pearson upper bound on p: 1 minus the lower bound of the failures, rounded up; 1 at k = n.

    Guarantee: P(bound < p) <= alpha, of each bound by itself. Arguments, errors and source as `lower_confidence_bound`.
    """
    bound = np.minimum(np.nextafter(1 - np.asarray(lower_confidence_bound(np.asarray(n) - np.asarray(k), n, alpha)), 2.0), 1.0)
    return float(bound) if bound.ndim == 0 else bound


def _solve(first: np.ndarray, second: np.ndarray, alpha: float, low: np.ndarray) -> np.ndarray:
    """x with tail(x) = alpha, that of each bound by itself, from the safe side.

    Where `low`, that is p with the rising tail betainc, else 1 - p with the falling tail betaincc. SciPy's inverses are only a start: they
    are far off at some arguments (where one is 1000, up to a level of 1e5 alpha), its forward functions are not. So the safe side is found
    by steps that double, and closed in on by bisection.
    """
    start = np.where(low, betaincinv(first, second, alpha), betainccinv(first, second, alpha))
    epsilon = np.finfo(np.float64).eps

    def safe(x: np.ndarray) -> np.ndarray:
        return np.where(low, betainc(first, second, x), betaincc(first, second, x)) <= alpha

    def bracket(side: int) -> np.ndarray:
        """A point on the safe side of the solution (side 1) or on the other (side -1)."""
        end, step = start, np.full(start.shape, 4 * epsilon)
        while True:
            wrong = safe(end) != (side > 0)
            if not wrong.any():
                return end
            step = np.where(wrong, step * 2, step)
            factor = (1 + step) ** side
            end = np.where(wrong, np.where(low, start / factor, np.minimum(start * factor, 1.0)), end)

    good, bad = bracket(1), bracket(-1)
    while True:
        middle = (good + bad) / 2
        if np.all((middle == good) | (middle == bad)):
            return np.where(low, good, good * (1 + 8 * epsilon))
        fine = safe(middle)
        good, bad = np.where(fine, middle, good), np.where(fine, bad, middle)


def check_alpha(alpha: float) -> None:
    """DdrsError unless alpha, a failure probability, is in 0 < alpha < 1."""
    if not (isinstance(alpha, int | float | np.floating) and 0.0 < alpha < 1.0):
        raise DdrsError(f"alpha {alpha!r}: must be a number between 0 and 1")


def smallest_n(alpha: float) -> int:
    """The smallest n with which n votes out of n certify a positive radius: alpha^(1/n) > 1/2. alpha: of one image."""
    check_alpha(alpha)
    n = max(1, math.floor(math.log(alpha) / math.log(0.5)))
    while lower_confidence_bound(n, n, alpha) <= 0.5:
        n += 1
    return n


def check_n(n: int, alpha: float) -> None:
    """DdrsError unless n can certify anything at level alpha, the failure probability of one image."""
    if not isinstance(n, int | np.integer):
        raise DdrsError(f"n = {n!r}: must be an integer")
    least = smallest_n(alpha)
    if n < least:
        raise DdrsError(f"n = {n} is too small to certify anything at alpha = {alpha:g}; at least {least} is needed")
