"""The protocols: what is drawn for an image, and what is concluded from the votes.

A protocol is a generator. It yields what it needs next, (purpose, number of samples), gets the votes of exactly these samples, int64
(classes,), and returns an Outcome. So the statistics here and the sampling in engine.py know nothing of each other.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from ddrs.certification.bounds import lower_confidence_bound, smallest_n, upper_confidence_bound
from ddrs.certification.records import ABSTAIN
from ddrs.certification.sequential import Boundaries, GroupSequentialTest, look_schedule, needed, priced_boundaries, radius_of
from ddrs.config import SampleSettings
from ddrs.noise import Noise, Purpose


@dataclass(frozen=True)
class Outcome:
    """One image's result. counts: the votes of all estimation samples; n_top: those for the class picked, n_second: for its strongest rival.
    z: the claimed null of protocol sequential, else NaN.
    """

    prediction: int
    radius: float
    counts: np.ndarray
    n: int
    n_top: int
    n_second: int
    p_lower: float
    p_upper: float
    z: float


Steps = Generator[tuple[Purpose, int], np.ndarray, Outcome]


@dataclass(frozen=True)
class Task:
    """What all images of a run have in common.

    deviation: a proven bound on how far the sampler's law of a whole image is from the true one, in total variation, by which bounds are
    moved; 0 with continuous noise, where none is proven and the draws are taken as exact. boundaries, offset: of protocol sequential; a
    claim of the null at place i + offset is a claim of the one at place i.
    """

    settings: SampleSettings
    noise: Noise
    deviation: float
    boundaries: Boundaries | None = None
    offset: int = 0


def make_task(settings: SampleSettings, noise: Noise, deviation: float) -> Task:
    """The task, with the boundaries that protocol sequential needs."""
    if settings.protocol != "sequential":
        return Task(settings, noise, deviation)
    found, offset = priced_boundaries(settings.alpha, settings.n, settings.spending, noise.base, deviation)
    return Task(settings, noise, deviation, found, offset)


def fixed(task: Task, sigma: np.float32) -> Steps:
    """Cohen et al. (2019), CERTIFY: n0 samples pick the class, n fresh ones bound its probability."""
    picked = int((yield "select-class", task.settings.n0).argmax())
    counts = yield "estimate", task.settings.n
    return _concluded(task, sigma, picked, counts)


def two_stage(task: Task, sigma: np.float32) -> Steps:
    """A pilot of n0 samples picks the class and how many fresh samples bound its probability, at full alpha: the pilot is not counted."""
    pilot = yield "pilot", task.settings.n0
    picked = int(pilot.argmax())
    counts = yield "estimate", planned_n(int(pilot[picked]), task.settings)
    return _concluded(task, sigma, picked, counts)


def sequential(task: Task, sigma: np.float32) -> Steps:
    """The group-sequential test of every radius in settings.radii, all at one alpha (see sequential.py)."""
    assert task.boundaries is not None
    limits, offset = task.boundaries, task.offset
    picked = int((yield "select-class", task.settings.n0).argmax())
    places = needed(task.settings.radii, float(sigma), len(limits.z)) + offset
    test = GroupSequentialTest(limits, np.unique([0, offset, *places[places < len(limits.z)]]))
    counts, drawn, decided = np.zeros((), np.int64), 0, False
    while not decided:
        look = test.next_look()
        counts = counts + (yield "estimate", look - drawn)
        drawn = look
        decided = test.update(int(counts[picked]))
    found = {"counts": counts, "n": drawn, "n_top": int(counts[picked]), "n_second": _second(counts, picked), "p_upper": float("nan")}
    if test.claimed is None or test.claimed < offset:
        return Outcome(prediction=ABSTAIN, radius=0.0, p_lower=0.0, z=float("nan"), **found)
    place = test.claimed - offset
    return Outcome(prediction=picked, radius=radius_of(place, float(sigma)), p_lower=float(limits.p0[place]), z=float(limits.z[place]), **found)


PROTOCOLS: dict[str, Callable[[Task, np.float32], Steps]] = {"fixed": fixed, "two-stage": two_stage, "sequential": sequential}


def planned_n(votes: int, settings: SampleSettings) -> int:
    """The smallest n whose radius is at most `radius_loss` sigma below that of the largest n, if the pilot's share is the truth.

    Any rule is sound: it sees the pilot only. votes: for the class that leads, among n0.
    """
    candidates = look_schedule(settings.n, first=max(100, smallest_n(settings.alpha)))
    share = votes / settings.n0
    p_lower = lower_confidence_bound(np.floor(share * candidates).astype(np.int64), candidates, settings.alpha)
    z = np.maximum(ndtri(p_lower), 0.0)
    return int(candidates[np.argmax(z[-1] - z <= settings.radius_loss)])


def _concluded(task: Task, sigma: np.float32, picked: int, counts: np.ndarray) -> Outcome:
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
    prediction = picked if radius > 0 else ABSTAIN
    return Outcome(prediction, max(radius, 0.0), counts, n, top, second, p_lower, p_upper, float("nan"))


def _second(counts: np.ndarray, picked: int) -> int:
    return int(np.delete(counts, picked).max())
