"""What the test of a grid of radii costs, exactly, and the floor: fewer samples than that no test takes, not even one that knows p.

Theorem (weak duality). Take any test that looks after every sample, stops at N or before, and at given q claims a radius with probability at most
a(q), or at least b(q). For all multipliers l, m >= 0 its mean samples at p are at least

    min over all tests of  E_p[n] + sum l (P_q(claim) - a(q)) + sum m (b(q) - P_q(claim)).

That minimum is a problem of optimal stopping whose state is (samples, votes): to stop costs l dP_q/dP_p for each claim and m dP_q/dP_p for each
miss, whatever decision is cheapest; backward induction solves it. Sources: Wald (1945), of one q; Kiefer and Weiss (1957), Lorden (1976).

Samples are grouped into blocks here: the stopper sees a block to its end and pays one sample of it, which is better than any test can do; and
what lies outside the windows of counts costs nothing. Both only lower the floor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import minimize
from scipy.stats import binom

WIDTH = 7.0  # of the windows of counts, in standard deviations to either side


def window(n: int, p: float, width: float = WIDTH) -> tuple[int, int]:
    half = width * np.sqrt(n * p * (1 - p)) + 15
    return max(0, int(n * p - half)), min(n, int(n * p + half))


def ours(looks: np.ndarray, certify_at: np.ndarray, give_up_at: np.ndarray, p: float) -> tuple[float, np.ndarray]:
    """Exact mean samples of GroupSequentialTest, and P(claim) of each null, (R,). certify_at, give_up_at: (R, J), of the nulls that are tested.

    State: how many nulls are claimed, how many not given up, and the votes. What is dropped, 1e-12 at a look, would be less than 1e-4 samples.
    """
    nulls, before, mean = len(certify_at), 0, 0.0
    largest, states = np.zeros(nulls + 1), {(0, nulls): (np.ones(1), 0)}
    for j, n in enumerate(looks.tolist()):
        first, last = window(n - before, p, 9.0)
        law, before, parts = binom.pmf(np.arange(first, last + 1), n - before, p), n, {}
        for (claimed, left), (alive, low) in states.items():
            grown = np.convolve(alive, law)
            votes = low + first + np.arange(len(grown))
            up = np.maximum(claimed, np.minimum(np.searchsorted(certify_at[:, j], votes, side="right"), left))
            down = np.maximum(up, np.minimum(left, np.searchsorted(give_up_at[:, j], votes, side="left")))
            cuts = [0, *(np.flatnonzero(np.diff(up) | np.diff(down)) + 1).tolist(), len(votes)]
            for start, stop in pairwise(cuts):
                state, mass = (int(up[start]), int(down[start])), grown[start:stop].sum()
                if state[0] >= state[1] or j == len(looks) - 1:
                    mean, largest[state[0]] = mean + n * mass, largest[state[0]] + mass
                elif mass > 1e-13:
                    parts.setdefault(state, []).append((grown[start:stop], int(votes[start])))
        states = {}
        for state, pieces in parts.items():
            low, high = min(at for _, at in pieces), max(at + len(piece) for piece, at in pieces)
            alive = np.zeros(high - low)
            for piece, at in pieces:
                alive[at - low : at - low + len(piece)] += piece
            kept = np.flatnonzero(alive > 1e-16)
            if len(kept):
                states[state] = alive[kept[0] : kept[-1] + 1], low + int(kept[0])
        if not states:
            break
    return mean, np.cumsum(largest[::-1])[::-1][1:]


@dataclass(frozen=True)
class Radius:
    """What a test must keep to with one radius. most, least: pairs (q, P_q(claim) at most, or at least)."""

    most: tuple[tuple[float, float], ...]
    least: tuple[tuple[float, float], ...]


class Stopping:
    """Optimal stopping at p, for radii in increasing order, of which a decision claims the first few. horizon < n_max: the rest is free."""

    def __init__(self, p: float, radii: Sequence[Radius], n_max: int, ratio: float, horizon: int):
        terms = [(q, level, i, True) for i, one in enumerate(radii) for q, level in one.most]
        terms += [(q, 1 - power, i, False) for i, one in enumerate(radii) for q, power in one.least]
        self.free = horizon < n_max
        self.allowed = np.array([term[1] for term in terms])
        self.charged = np.array([[(i < d) == claim for d in range(len(radii) + 1)] for _, _, i, claim in terms], float)  # (terms, decisions)
        self.ends, n = [], 1
        while n < min(horizon, n_max):
            self.ends.append(n)
            n = max(n + 1, int(n * ratio))
        self.ends.append(min(horizon, n_max))
        self.paid = np.diff(self.ends, prepend=0)
        self.laws, self.lows, self.ratios = [], [], []
        for n, step in zip(self.ends, self.paid.tolist(), strict=True):
            first, last = window(step, p)
            self.laws.append((binom.pmf(np.arange(first, last + 1), step, p), first))
            low, high = window(n, p)
            k = np.arange(low, high + 1)
            self.lows.append(low)
            logs = [k * np.log(q / p) + (n - k) * np.log(max(1 - q, 1e-300) / max(1 - p, 1e-300)) for q, *_ in terms]
            self.ratios.append(np.exp(np.minimum(logs, 600.0)))

    def bound(self, multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        """The floor that these multipliers prove, and its derivative in each of them."""
        ends, stops, choices = len(self.ends), [], []
        value = law = np.zeros(0)
        first = 0
        for j in range(ends - 1, -1, -1):
            costs = (multipliers[:, None] * self.charged).T @ self.ratios[j]
            choice = costs.argmin(0)
            stop = costs[choice, np.arange(costs.shape[1])]
            if j == ends - 1:
                go_on = np.full(len(stop), 0.0 if self.free else np.inf)
            else:
                future = np.zeros(len(stop) + len(law) - 1)  # values outside the window are taken as 0
                start = self.lows[j] + first - self.lows[j + 1]
                a, b = max(0, start), min(len(value), start + len(future))
                if a < b:
                    future[a - start : b - start] = value[a:b]
                go_on = np.correlate(future, law, "valid") + self.paid[j]
            stops.append(stop <= go_on)
            choices.append(choice)
            value = np.minimum(stop, go_on)
            law, first = self.laws[j]
        at_once, start = multipliers @ self.charged, first - self.lows[0]
        sampling = 1 + float(law @ value[start : start + len(law)])
        errors = self._errors(stops[::-1], choices[::-1]) if sampling < at_once.min() else self.charged[:, at_once.argmin()]
        return min(sampling, float(at_once.min())) - float(multipliers @ self.allowed), errors - self.allowed

    def _errors(self, stops: list[np.ndarray], choices: list[np.ndarray]) -> np.ndarray:
        """What the best stopper pays for each multiplier."""
        alive, at, errors = np.ones(1), 0, np.zeros(len(self.allowed))
        for (law, first), low, ratios, stop, choice in zip(self.laws, self.lows, self.ratios, stops, choices, strict=True):
            grown, start, alive = np.convolve(alive, law), at + first, np.zeros(len(stop))
            a, b = max(low, start), min(low + len(stop), start + len(grown))
            alive[a - low : b - low] = grown[a - start : b - start]
            errors += (np.where(stop, alive, 0.0) * ratios * self.charged[:, choice]).sum(1)
            kept = np.flatnonzero(~stop & (alive > 1e-15))
            if not len(kept):
                break
            alive = np.where(stop, 0.0, alive)[kept[0] : kept[-1] + 1]
            at = low + int(kept[0])
        return errors


def floor(p: float, radii: Sequence[Radius], n_max: int, horizon: int | None = None, ratios: tuple[float, float] = (1.05, 1.01)) -> float:
    """The floor at p. Multipliers are sought with blocks of the first ratio; whatever they are, the floor of the second one holds."""
    horizon = n_max if horizon is None else min(n_max, horizon)
    rough = Stopping(p, radii, n_max, ratios[0], horizon)

    def negative(logs: np.ndarray) -> tuple[float, np.ndarray]:
        multipliers = np.exp(np.clip(logs, -20, 60))
        value, slope = rough.bound(multipliers)
        return -value / scale, -slope * multipliers / scale

    logs = np.log(100 / np.maximum(rough.allowed, 1e-9))
    scale = max(1.0, abs(rough.bound(np.exp(logs))[0]))
    logs = minimize(negative, logs, jac=True, method="L-BFGS-B", options={"maxfun": 60}).x
    return max(0.0, Stopping(p, radii, n_max, ratios[1], horizon).bound(np.exp(np.clip(logs, -20, 60)))[0])
