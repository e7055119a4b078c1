"""Whether the rows of a certification log follow from their own counts: every bound and radius computed once more. No torch.

It defends against mistakes, bit rot and edits by hand, not against someone who draws up counts to fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from ddrs.noise.norms import FINE, ON_GRID, Law, norm_of
from ddrs.statistics.boundaries import look_schedule, priced_boundaries
from ddrs.statistics.bounds import lower_confidence_bound, smallest_n, upper_confidence_bound
from ddrs.statistics.sequential import radius_of

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, np.ndarray]
ABSTAIN = -1  # the prediction of an example on which the certifier abstains
PROTOCOLS, BOUNDS, CHANGES = ("fixed", "two-stage", "sequential"), ("binary", "joint"), ("kept", "adopted", "shrunk", "repeated")
OFF = 1.01e-12  # by how much a bound of 12 decimals, rounded to the safe side, may differ: one of the last, and rounding of float64
RADIUS_OFF = 1.001e-6  # the same of a radius of 6 decimals


def problems(log: pd.DataFrame) -> list[str]:
    """What is wrong with each row of a log of ours, "" where nothing is; the columns of one run are taken from the first row.

    A row passes if n is what its protocol draws, p_lower (and p_upper) is the bound of its counts, the radius that of the bound, it
    abstains where the bound says so, and `correct` is (predict == label). After the memory, class and radius are what it may make of that.
    """
    found = _Found(len(log))
    table: Columns = {str(name): log[name].to_numpy() for name in log}
    run: dict[str, Any] = {name: column[0] for name, column in table.items()}
    for name, known in (("protocol", PROTOCOLS), ("bound", BOUNDS)):
        if run[name] not in known:
            return [f"{name} = {run[name]!r}: must be {', '.join(known)}"] * len(log)
    found.note((table["protocol"] == "sequential") & (table["bound"] == "joint"), "protocol sequential has no bound joint")
    found.note((table["idx"] < 0) | (table["idx"] >= run["split_images"]), "idx is outside its split, which has {} images", table["split_images"])
    found.note(table["label"] < 0, "label = {} is no class", table["label"])
    found.note(table["predict"] < ABSTAIN, f"predict = {{}} is neither a class nor {ABSTAIN}", table["predict"])
    right = (table["predict"] == table["label"]) & (table["predict"] != ABSTAIN)
    found.note(table["correct"] != right, "correct = {}, but predict and label say otherwise", table["correct"])
    if run["K"] == "":
        sigma0 = np.float32(run["sigma0"])
        found.note(table["sigma"].astype(np.float32) != sigma0, f"sigma = {{}} is not the fixed sigma, {sigma0:.9g}", table["sigma"])
    found.note(table["sigma"] <= 0, "sigma = {}: must be > 0", table["sigma"])
    farthest = _farthest(table, run)
    found.note(
        ~((table["off_grid"] >= 0) & (table["off_grid"] <= farthest)),
        "off_grid = {}, but no image is farther than {} from the noise's grid",
        table["off_grid"],
        farthest,
    )
    found.note((table["n"] < 1) | (table["n"] > run["n_max"]), f"n = {{}} is not within 1 and n_max = {run['n_max']}", table["n"])
    found.note(table["n_top"] > table["n"], "n_top = {} is above n", table["n_top"])
    if not any(found.texts):  # else there may be nothing to compute the bounds of
        radius, abstains, unsure = (_sequential if run["protocol"] == "sequential" else _votes)(table, run, found)
        if "memory" in table:
            _remembered(table, radius, abstains, unsure, found)
        else:
            found.note(~unsure & ((table["predict"] == ABSTAIN) != abstains), "predict = {}, but the bound says otherwise", table["predict"])
            found.note(np.abs(table["radius"] - radius) > RADIUS_OFF, "radius = {}, but the bound gives {}", table["radius"], radius)
    return found.texts


def _farthest(table: Columns, run: dict[str, Any]) -> np.ndarray:
    """How far an image can be from the grid at most: half a step in each of its values; those on the pixel grid not at all."""
    law: Law = "uniform" if norm_of(run["noise"], "log") == "l1" else "gaussian"
    step = 0.0 if run["noise"] in ON_GRID.values() else table["sigma"].astype(np.float32).astype(np.float64) / FINE[law]
    half = step / 2 * (run["d"] if law == "uniform" else np.sqrt(run["d"]))
    return np.where(table["sigma"] > 0, half * (1 + 1e-8) + OFF * (half > 0), np.inf)


class _Found:
    """The first problem of each row."""

    def __init__(self, rows: int):
        self.texts = [""] * rows

    def note(self, wrong: np.ndarray, text: str, *values: np.ndarray) -> None:
        for i in np.flatnonzero(wrong):
            self.texts[i] = self.texts[i] or text.format(*(value[i] for value in values))


def _numbers(table: Columns, name: str, wanted: bool, found: _Found) -> np.ndarray:
    """A column that may be empty, NaN where it is; it is full where the bound or protocol fills it, and else empty."""
    found.note((table[name] != "") != wanted, f"{name} = {{!r}}: must {'not ' if wanted else ''}be empty with this protocol and bound", table[name])
    return np.array([float(text or "nan") for text in table[name]])


def _votes(table: Columns, run: dict[str, Any], found: _Found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The radius and abstention that the votes of each row give, and where float64 can't tell whether it abstains."""
    alpha, deviation, joint = float(run["alpha"]), float(run["deviation"]), run["bound"] == "joint"
    planned = [run["n_max"]]
    if run["protocol"] == "two-stage":
        planned = look_schedule(int(run["n_max"]), first=max(100, smallest_n(alpha))).tolist()
    found.note(~np.isin(table["n"], planned), f"n = {{}} is none that protocol {run['protocol']} draws", table["n"])
    _numbers(table, "z", False, found)
    second, upper = (_numbers(table, name, joint, found) for name in ("n_second", "p_upper"))
    n, top, sigma = table["n"], table["n_top"], table["sigma"].astype(np.float32).astype(np.float64)
    low = np.maximum(0.0, _each(lower_confidence_bound, top, n, alpha / 2 if joint else alpha) - deviation)
    high = 1 - low
    if joint:
        fits = np.isfinite(second) & (second % 1 == 0) & (second <= n - top)
        found.note(~fits, "n_second = {!r} is no number of votes for another class", table["n_second"])
        rival = np.where(fits, second, 0).astype(np.int64)
        high = np.minimum(_each(upper_confidence_bound, rival, n, alpha / 2) + deviation, high)
        found.note(~(np.abs(upper - high) <= OFF), "p_upper = {}, but the bound of n_second and n is {}", table["p_upper"], high)
    found.note(np.abs(table["p_lower"] - low) > OFF, "p_lower = {}, but the bound of n_top, n and alpha is {}", table["p_lower"], low)
    if norm_of(run["noise"], "log") == "l1":
        radius = sigma * (low - high)
    else:
        with np.errstate(invalid="ignore"):  # two infinite quantiles of a bound that is 0 or 1
            radius = sigma / 2 * (ndtri(low) - ndtri(high)) if joint else sigma * ndtri(low)
    left = np.where(low > high, radius - table["off_grid"], -np.inf)
    unsure = (np.abs(low - high) <= 2 * OFF) | (table["off_grid"] > 0) & (np.abs(left) < RADIUS_OFF)
    return np.maximum(left, 0.0), left <= 0, unsure


def _each(bound: Callable[..., Any], k: np.ndarray, n: np.ndarray, alpha: float) -> np.ndarray:
    """The bound of each row at alpha per image, computed once for equal counts."""
    pairs, place = np.unique(np.stack([k, n], 1), axis=0, return_inverse=True)
    return np.asarray(bound(pairs[:, 0], pairs[:, 1], alpha))[place.ravel()]


def _sequential(table: Columns, run: dict[str, Any], found: _Found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_votes`: the claimed null's radius, where a look up to the last one can have reached its boundary."""
    law: Law = "uniform" if norm_of(run["noise"], "log") == "l1" else "gaussian"
    limits, offset = priced_boundaries(float(run["alpha"]), int(run["n_max"]), run["spending"], law, float(run["deviation"]))
    for name in ("n_second", "p_upper"):
        _numbers(table, name, False, found)
    n, top, abstains = table["n"], table["n_top"], table["z"] == ""
    found.note(~np.isin(n, limits.looks), "n = {} is no look of protocol sequential", n)
    last = np.searchsorted(limits.looks, n, side="right")
    radius, low = np.zeros(len(n)), np.zeros(len(n))
    z = np.array([float(text or 0) for text in table["z"]])
    place = np.rint(100 * np.minimum(z, 1e6)).astype(np.int64)  # no grid reaches so far
    known = place + offset < len(limits.z)
    found.note((np.abs(100 * z - place) > 1e-6) | ~known, "z = {} is no null of the grid", table["z"])
    for i in np.flatnonzero(known):
        # the votes at an earlier look are not in the log: at most n_top, and at most its samples
        boundary = limits.certify_at[place[i] + offset, : last[i]]
        reached = bool(np.any(boundary <= np.minimum(top[i], limits.looks[: last[i]])))
        if not abstains[i]:
            radius[i], low[i] = radius_of(int(place[i]), float(np.float32(table["sigma"][i]))) - table["off_grid"][i], limits.p0[place[i]]
            if not reached:
                found.note(np.arange(len(n)) == i, "z = {}, whose boundary n_top = {} votes never reached", table["z"], top)
        elif not offset and not table["off_grid"][i] and last[i] and top[i] >= boundary[-1]:
            found.note(np.arange(len(n)) == i, "n_top = {} votes of {} reach a boundary, but nothing is claimed", top, n)
    found.note(np.abs(table["p_lower"] - low) > OFF, "p_lower = {}, but that of z is {}", table["p_lower"], low)
    return radius, abstains, np.zeros(len(n), bool)


def _remembered(table: Columns, radius: np.ndarray, abstains: np.ndarray, unsure: np.ndarray, found: _Found) -> None:
    """Class and radius after the memory: kept as certified, or no larger; a repeated image has those of an earlier one."""
    change = table["memory"]
    found.note(~np.isin(change, CHANGES), "memory = {!r}: must be " + ", ".join(CHANGES), change)
    kept, repeated = change == "kept", change == "repeated"
    found.note(kept & (np.abs(table["radius"] - radius) > RADIUS_OFF), "radius = {}, but the bound gives {}", table["radius"], radius)
    larger = ~repeated & (table["radius"] > radius + RADIUS_OFF - 1e-6)
    found.note(larger, "radius = {} is above {}, which the bound gives", table["radius"], radius)
    follows = ~unsure & np.isin(change, ("kept", "shrunk"))
    found.note(follows & ((table["predict"] == ABSTAIN) != abstains), "predict = {}, but the bound says otherwise", table["predict"])
    answers: set[tuple[int, float]] = set()
    order = np.argsort(table["idx"], kind="stable")
    unknown = np.zeros(len(change), bool)
    for i in order:
        answer = (int(table["predict"][i]), float(table["radius"][i]))
        unknown[i] = repeated[i] and answer not in answers
        answers.add(answer)
    found.note(unknown, "is repeated, but no image before it has radius {}", table["radius"])
