"""What all images of a run share, and what is found of one of them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from ddrs.certification.settings import ImageCertificateSettings
from ddrs.sections import Section
from ddrs.statistics.boundaries import Boundaries, priced_boundaries

if TYPE_CHECKING:
    from ddrs.noise.laws import Noise
    from ddrs.noise.streams import Purpose


@dataclass(frozen=True)
class Votes:
    """What a protocol drew for an image: int64 (classes,) votes of the estimation samples, for the class that other samples picked.

    claimed: of protocol sequential, the place in the grid of the largest null that its test claimed, if any.
    """

    picked: int
    counts: np.ndarray
    claimed: int | None = None


@dataclass(frozen=True)
class Outcome:
    """One image's result. counts: the votes of all estimation samples; n_top: those for the class picked, n_second: for its strongest rival.
    z: the claimed null of protocol sequential, else NaN. off_grid: what the radius lost for the image's distance to the noise's grid.
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
    off_grid: float


Found = TypeVar("Found")
# What yields what it needs next, one or two of (purpose, number of samples), gets the votes of exactly these, int64 (classes,) each, and returns
# what it found.
Requests: TypeAlias = "tuple[tuple[Purpose, int], ...]"
Drawing: TypeAlias = "Generator[Requests, list[np.ndarray], Found]"
Steps: TypeAlias = "Generator[Requests, list[np.ndarray], Outcome]"


@dataclass(frozen=True)
class Task:
    """What all images of a run have in common, and how far one of them is from the noise's grid.

    deviation: a proven bound on how far the sampler's law of a whole image is from the true one, in total variation, by which bounds are
    moved. certificate_settings: those that only the certificate has. boundaries, offset: of protocol sequential. offset: how many steps of the
    grid a claim is taken back, as the price of a sampler that is slightly off: 0 where alpha pays for it. off_grid: what a radius at the
    point of the grid loses at the image: the distance of the two, in the norm of the certificate.
    """

    settings: ImageCertificateSettings
    noise: Noise
    deviation: float
    certificate_settings: Section
    boundaries: Boundaries | None = None
    offset: int = 0
    off_grid: float = 0.0


def make_task(settings: ImageCertificateSettings, noise: Noise, deviation: float) -> Task:
    """The task, with the boundaries that protocol sequential needs."""
    certificate_settings = settings.of_certificate()
    if settings.protocol != "sequential":
        return Task(settings, noise, deviation, certificate_settings)
    found, offset = priced_boundaries(settings.alpha, settings.n, settings.spending, noise.base, deviation)
    return Task(settings, noise, deviation, certificate_settings, found, offset)
