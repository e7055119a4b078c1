"""What searches for a sigma per image have in common: the radius that Algorithm 1 ascends, a step on it, its noise, and the way that was gone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch

from ddrs.errors import DdrsError
from ddrs.models.rowwise import check_rows_alone
from ddrs.models.running import as_it_was, checked_scores, device_of
from ddrs.noise.laws import Noise
from ddrs.noise.streams import BLOCK, NoiseStream
from ddrs.sigma.settings import SearchSettings, StepSettings

CLAMP = (0.02, 0.98)  # of the two probabilities, as in the paper's listing


@dataclass(frozen=True)
class Trajectory:
    """sigma: float32 (K+1, B), the start and the value after every step. at_min, at_max: how many images ever touched a bound."""

    sigma: torch.Tensor
    at_min: int
    at_max: int

    @classmethod
    def of(cls, steps: list[torch.Tensor], settings: StepSettings) -> Self:
        path = torch.stack(steps)
        return cls(path, int((path[1:] <= settings.sigma_min).any(0).sum()), int((path[1:] >= settings.sigma_max).any(0).sum()))


def objective(
    model: torch.nn.Module, x: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor, noise: Noise, classes: torch.Tensor | None
) -> torch.Tensor:
    """The radius that Algorithm 1 ascends, (B,), differentiable in sigma.

    x: (B, ...); sigma: (B,); eps: (B, n, ...), noise of scale 1. psi is the mean *softmax* over the n samples; its two largest entries,
    or that of `classes` (B,) and the largest other, are clamped to [0.02, 0.98].
    """
    noisy = x[:, None] + sigma.view(-1, *[1] * (eps.ndim - 1)) * eps
    scores = checked_scores(model(noisy.flatten(0, 1)), eps.shape[0] * eps.shape[1])
    psi = scores.softmax(1).unflatten(0, eps.shape[:2]).mean(1)
    if classes is None:
        top, runner_up = psi.topk(2, dim=1).values.unbind(1)
    else:
        top = psi.gather(1, classes[:, None])[:, 0]
        runner_up = psi.scatter(1, classes[:, None], -1.0).amax(1)
    return noise.objective(top.clamp(*CLAMP), runner_up.clamp(*CLAMP), sigma)


def step(
    model: torch.nn.Module,
    x: torch.Tensor,
    sigma: torch.Tensor,
    eps: torch.Tensor,
    noise: Noise,
    settings: StepSettings,
    classes: torch.Tensor | None = None,
) -> torch.Tensor:
    """One ascent step from `sigma` (B,), with noise at the *current* sigma, projected to [sigma_min, sigma_max]. The model is in eval mode."""
    with torch.enable_grad():
        sigma = sigma.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(model, x, sigma, eps, noise, classes).sum(), sigma)
    return (sigma.detach() + settings.step_size * gradient).clamp_(settings.sigma_min, settings.sigma_max)


def start(
    model: torch.nn.Module, images: torch.Tensor, sigma0: float, streams: list[NoiseStream], settings: SearchSettings
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """The images on the model's device, sigma0 for each, and the class of the objective: that at sigma0, or None where it is picked again."""
    if not settings.sigma_min <= sigma0 <= settings.sigma_max:
        raise DdrsError(f"sigma0 = {sigma0}: must be within [{settings.sigma_min}, {settings.sigma_max}]")
    images = images.to(device_of(model))
    with as_it_was(model):
        check_rows_alone(model, images)
    sigma = torch.full((len(images),), sigma0, device=images.device)
    return images, sigma, mean_class(model, images, sigma, streams) if settings.objective_class == "fixed" else None


def noise_of_steps(streams: list[NoiseStream], settings: SearchSettings, device: torch.device) -> Iterator[torch.Tensor]:
    """Noise of scale 1 for each of the k_max steps, (B, samples, ...): the next samples of each image's own stream."""
    n = settings.samples
    buffered = max(1, BLOCK // n)  # steps whose noise is drawn at once
    for k in range(settings.k_max):
        if k % buffered == 0:
            eps = torch.stack([stream.draw(buffered * n, device) for stream in streams]).unflatten(1, (buffered, n))
        yield eps[:, k % buffered]


@torch.no_grad()
def mean_class(model: torch.nn.Module, images: torch.Tensor, sigma: torch.Tensor, streams: list[NoiseStream], samples: int = BLOCK) -> torch.Tensor:
    """The class of the largest mean softmax at each image's sigma, (B,), from the next `samples` of its own stream."""
    found = []
    with as_it_was(model):
        for image, scale, stream in zip(images, sigma, streams, strict=True):
            scores = checked_scores(model(image + scale * stream.draw(samples, images.device)), samples)
            found.append(scores.softmax(1).mean(0).argmax())
    return torch.stack(found)
