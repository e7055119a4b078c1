"""The protocols: how many samples are drawn for an image, and for what.

A protocol is a generator. It yields what it needs next, one or two of (purpose, number of samples), gets the votes of exactly these samples,
int64 (classes,) each, and returns the Votes from which a certificate concludes. So the statistics here and the sampling in engine.py know
nothing of each other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtri

from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.task import Drawing, Task, Votes
from ddrs.statistics.boundaries import look_schedule
from ddrs.statistics.bounds import lower_confidence_bound, smallest_n
from ddrs.statistics.sequential import GroupSequentialTest, needed


def fixed(task: Task, sigma: np.float32) -> Drawing[Votes]:
    """Cohen et al. (2019), CERTIFY: n0 samples pick the class, n fresh ones bound its probability."""
    selection, counts = yield ("select-class", task.settings.n0), ("estimate", task.settings.n)
    return Votes(int(selection.argmax()), counts)


def two_stage(task: Task, sigma: np.float32) -> Drawing[Votes]:
    """A pilot of n0 samples picks the class and how many fresh samples bound its probability, at full alpha: the pilot is not counted."""
    (pilot,) = yield (("pilot", task.settings.n0),)
    picked = int(pilot.argmax())
    (counts,) = yield (("estimate", planned_n(int(pilot[picked]), task.settings)),)
    return Votes(picked, counts)


def sequential(task: Task, sigma: np.float32) -> Drawing[Votes]:
    """The group-sequential test of every radius in settings.radii, all at one alpha (see sequential.py)."""
    assert task.boundaries is not None
    limits, offset = task.boundaries, task.offset
    (selection,) = yield (("select-class", task.settings.n0),)
    picked = int(selection.argmax())
    places = needed([radius + task.off_grid for radius in task.settings.radii], float(sigma), len(limits.z)) + offset
    test = GroupSequentialTest(limits, np.unique([0, offset, *places[places < len(limits.z)]]))
    counts, drawn, decided = np.zeros((), np.int64), 0, False
    while not decided:
        look = test.next_look()
        (more,) = yield (("estimate", look - drawn),)
        counts, drawn = counts + more, look
        decided = test.update(int(counts[picked]))
    return Votes(picked, counts, test.claimed)


PROTOCOLS: dict[str, Callable[[Task, np.float32], Drawing[Votes]]] = {"fixed": fixed, "two-stage": two_stage, "sequential": sequential}


def planned_n(votes: int, settings: ImageCertificateSettings) -> int:
    """The smallest n whose radius is at most `radius_loss` sigma below that of the largest n, if the pilot's share is the truth.

    Any rule is sound: it sees the pilot only. votes: for the class that leads, among n0.
    """
    candidates = look_schedule(settings.n, first=max(100, smallest_n(settings.alpha)))
    share = votes / settings.n0
    p_lower = lower_confidence_bound(np.floor(share * candidates).astype(np.int64), candidates, settings.alpha)
    z = np.maximum(ndtri(p_lower), 0.0)
    return int(candidates[np.argmax(z[-1] - z <= settings.radius_loss)])
