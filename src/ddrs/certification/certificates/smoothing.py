"""Randomised smoothing (Cohen et al. 2019): the radius within which the classifier smoothed with this sigma answers the same."""

from __future__ import annotations

import numpy as np

from ddrs.certification.checks import ABSTAIN
from ddrs.certification.protocols import PROTOCOLS
from ddrs.certification.task import Outcome, Steps, Task, Votes
from ddrs.sections import Section
from ddrs.statistics.bounds import lower_confidence_bound, upper_confidence_bound
from ddrs.statistics.sequential import radius_of

PROMISE = "Within the certified radius, the classifier that is smoothed with the sigma of that image keeps its class."
STATELESS = True  # of a fixed sigma; with a sigma per image only the memory, which is beside this, makes one classifier of them


class Settings(Section):
    """None: n0, n, alpha and the bound are those of all certificates."""


def steps(task: Task, sigma: np.float32) -> Steps:
    """What the votes of the task's protocol prove of an image, at its sigma.

    Guarantee: with probability at least 1 - alpha over the samples, the class is abstained from, or the classifier smoothed with this sigma
    everywhere has it on the open ball of the radius (l2 for Gaussian noise, l1 for uniform).
    """
    votes = yield from PROTOCOLS[task.settings.protocol](task, sigma)
    return concluded(task, sigma, votes)


def concluded(task: Task, sigma: np.float32, votes: Votes) -> Outcome:
    """The certificate of votes that the task's protocol drew."""
    if task.settings.protocol == "sequential":
        return _of_test(task, sigma, votes)
    return _of_n(task, sigma, votes.picked, votes.counts)


def _of_test(task: Task, sigma: np.float32, votes: Votes) -> Outcome:
    """The certificate of the null that the group-sequential test claimed, taken back by the task's offset."""
    assert task.boundaries is not None
    picked, counts, limits = votes.picked, votes.counts, task.boundaries
    n, top = int(counts.sum()), int(counts[picked])
    found = {"counts": counts, "n": n, "n_top": top, "n_second": _second(counts, picked), "p_upper": float("nan"), "off_grid": task.off_grid}
    place = -1 if votes.claimed is None else votes.claimed - task.offset
    radius = radius_of(place, float(sigma)) - task.off_grid if place >= 0 else -1.0
    if radius < 0:
        return Outcome(prediction=ABSTAIN, radius=0.0, p_lower=0.0, z=float("nan"), **found)
    return Outcome(prediction=picked, radius=radius, p_lower=float(limits.p0[place]), z=float(limits.z[place]), **found)


def _of_n(task: Task, sigma: np.float32, picked: int, counts: np.ndarray) -> Outcome:
    """The certificate of n votes, n chosen before they were seen."""
    n, alpha = int(counts.sum()), task.settings.alpha
    top, second = int(counts[picked]), _second(counts, picked)
    if task.settings.bound == "binary":
        p_lower = max(0.0, float(lower_confidence_bound(top, n, alpha)) - task.deviation)
        p_upper = 1 - p_lower
        radius = float(task.noise.radius(p_lower, sigma)) if p_lower > 0.5 else 0.0
    else:
        # the class was picked by other samples, so its strongest rival is one fixed class and its votes at most the largest count
        p_lower = max(0.0, float(lower_confidence_bound(top, n, alpha / 2)) - task.deviation)
        p_upper = min(float(upper_confidence_bound(second, n, alpha / 2)) + task.deviation, 1 - p_lower)
        radius = task.noise.joint_radius(p_lower, p_upper, float(sigma)) if p_lower > p_upper else 0.0
    radius -= task.off_grid
    prediction = picked if radius > 0 else ABSTAIN
    return Outcome(prediction, max(radius, 0.0), counts, n, top, second, p_lower, p_upper, float("nan"), task.off_grid)


def _second(counts: np.ndarray, picked: int) -> int:
    return int(np.delete(counts, picked).max())
