"""QCRS (Kung and Chen 2024): for each image the sigma between two bounds where the radius stops rising, by bisection.

The certified radius is taken as quasiconcave in sigma. As the authors searched CIFAR-10 at sigma 0.5: 500 samples, K = 6 halvings of
[0.12, 1.7], and 0.15 to each side for the slope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from ddrs.sigma.settings import SearchSettings
from ddrs.statistics.bounds import lower_confidence_bound

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import torch

    from ddrs.noise.laws import Noise
    from ddrs.noise.streams import NoiseStream
    from ddrs.sigma.objective import Trajectory

ALPHA = 0.001  # of the lower bounds that the search compares; no certificate stands on them


class Settings(SearchSettings):
    """k_max: the number of halvings. samples: votes behind each radius. The class is that of most votes at the sigma of training."""

    low: float | None = Field(None, gt=0, description="lower end of the interval that is halved; default: sigma_min")
    high: float | None = Field(None, gt=0, description="upper end of the interval that is halved; default: sigma_max")
    h: float = Field(0.05, gt=0, description="distance to each side at which radii are compared for the sign of the slope")

    @model_validator(mode="after")
    def _can_tell(self) -> Self:
        low, high = self.ends
        if not self.sigma_min <= low < high <= self.sigma_max:
            raise ValueError(f"low = {low:g}, high = {high:g}: must be within [{self.sigma_min:g}, {self.sigma_max:g}], the first below the other")
        if lower_confidence_bound(self.samples, self.samples, ALPHA) < 0.5:
            raise ValueError(f"samples = {self.samples}: so few votes, all alike, prove no radius; 10 are the least")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """The interval that is halved."""
        return self.low or self.sigma_min, self.high or self.sigma_max


def evaluations(settings: SearchSettings) -> tuple[int, int]:
    """Of the model, per image: forward passes, and passes back to sigma. A halving is two radii; the class and the end take three more."""
    return (2 * settings.k_max + 3) * settings.samples, 0


def search(
    model: torch.nn.Module,
    images: torch.Tensor,
    sigma0: float,
    streams: list[NoiseStream],
    noise: Noise,
    settings: Settings,
    progress: Callable[[int], None] = lambda done: None,
) -> Trajectory:
    """The middle of the interval after each of K = settings.k_max halvings; in the end sigma0 where its radius is not smaller.

    images: (B, ...), each with its own noise stream. The two sigmas whose radii are compared are kept within the interval, as one of 0 or
    below has no radius; where they meet, the slope is 0, and a slope of 0 turns the search around. A radius counts only for the class of most
    votes at sigma0, but in the last comparison for the class of most votes at each sigma, as in the authors' code. Source: Kung and Chen,
    AAAI 2024; core_qcrs.py of ntuaislab/QCRS, but for the ends of the interval.
    """
    import numpy as np
    import torch

    from ddrs.models.layout import laid_out
    from ddrs.models.running import as_it_was
    from ddrs.sigma.objective import Trajectory, start

    images, sigma, _ = start(model, images, sigma0, streams, settings.model_copy(update={"objective_class": "current"}))
    lowest, highest = settings.ends
    low, high = np.full(len(images), lowest), np.full(len(images), highest)
    rising = np.zeros(len(images), dtype=bool)  # whether the last move was to the right
    trajectory = [sigma.cpu()]

    def radius(i: int, at: float, reference: int | None = None) -> float:
        counts = _votes(net, images[i], at, streams[i], settings.samples)
        top = int(counts.argmax())
        p_lower = float(lower_confidence_bound(int(counts[top]), settings.samples, ALPHA))
        return float(noise.radius(p_lower, at)) if p_lower >= 0.5 and reference in (None, top) else 0.0

    with as_it_was(model), torch.no_grad():
        net = laid_out(model, tuple(images.shape[1:]), images.device.type == "cpu")
        reference = [int(_votes(net, image, sigma0, stream, settings.samples).argmax()) for image, stream in zip(images, streams, strict=True)]
        for k in range(settings.k_max):
            for i, middle in enumerate((low + high) / 2):
                above, below = min(middle + settings.h, highest), max(middle - settings.h, lowest)
                slope = radius(i, above, reference[i]) - radius(i, below, reference[i]) if above > below else 0.0
                rising[i] = slope > 0 or (slope == 0 and k > 0 and not rising[i])
                (low if rising[i] else high)[i] = middle
            trajectory.append(torch.from_numpy((low + high) / 2).to(torch.float32))
            progress(k + 1)
        end = trajectory[-1].tolist()
        kept = torch.tensor([radius(i, sigma0) >= radius(i, one) for i, one in enumerate(end)])
        trajectory[-1] = torch.where(kept, trajectory[0], trajectory[-1])
    return Trajectory.of(trajectory, settings)


def _votes(model: torch.nn.Module, image: torch.Tensor, sigma: float, stream: NoiseStream, samples: int) -> np.ndarray:
    """How often each class has the largest score, (classes,), on the next `samples` noisy copies of an image."""
    import numpy as np

    from ddrs.models.running import checked_scores
    from ddrs.noise.streams import BLOCK

    counts = []
    for done in range(0, samples, BLOCK):
        n = min(BLOCK, samples - done)
        scores = checked_scores(model(image + sigma * stream.draw(n, image.device)), n)
        counts.append(scores.argmax(1).bincount(minlength=scores.shape[1]).cpu().numpy())
    return np.sum(counts, axis=0)
