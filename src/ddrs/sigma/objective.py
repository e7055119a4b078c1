"""What searches for a sigma per image have in common: the radius that Algorithm 1 ascends, a step on it, its noise, and the way that was gone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch

from ddrs.errors import DdrsError
from ddrs.models.layout import laid_out
from ddrs.models.rowwise import check_rows_alone
from ddrs.models.running import UNDECIDED, as_it_was, checked_scores, device_of
from ddrs.models.tangents import Tangents
from ddrs.noise.laws import Noise
from ddrs.noise.streams import BLOCK, NoiseStream
from ddrs.sigma.settings import SearchSettings, StepSettings

CLAMP = (0.02, 0.98)  # of the two probabilities, as in the paper's listing
CHECKED = 50
BUFFERED = 2**23  # values of noise that are drawn at once on a CPU, so that they take 32 MiB


@dataclass(frozen=True)
class Trajectory:
    """sigma: float32 (K+1, B), the start and the value after every step. at_min, at_max: how many images ever touched a bound."""

    sigma: torch.Tensor
    at_min: int
    at_max: int

    @classmethod
    def of(cls, steps: list[torch.Tensor], settings: StepSettings) -> Self:
        path = torch.stack(steps).cpu()
        return cls(path, int((path[1:] <= settings.sigma_min).any(0).sum()), int((path[1:] >= settings.sigma_max).any(0).sum()))


def noisy(x: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """x + sigma * eps of every sample, (B * n, ...). x: (B, ...); sigma: (B,); eps: (B, n, ...), noise of scale 1."""
    return (x[:, None] + sigma.view(-1, *[1] * (eps.ndim - 1)) * eps).flatten(0, 1)


def radius(scores: torch.Tensor, sigma: torch.Tensor, noise: Noise, classes: torch.Tensor | None) -> torch.Tensor:
    """The radius that Algorithm 1 ascends, (B,), differentiable in sigma (B,) and in the scores (B * n, classes) of its noisy images.

    psi is the mean *softmax* over the n samples; its two largest entries, or that of `classes` (B,) and the largest other, are clamped to
    [0.02, 0.98].
    """
    psi = scores.softmax(1)
    if len(scores) != len(sigma):
        psi = psi.unflatten(0, (len(sigma), -1)).mean(1)
    if classes is None:
        top, runner_up = psi.topk(2, dim=1).values.unbind(1)
    else:
        top = psi.gather(1, classes[:, None])[:, 0]
        runner_up = psi.scatter(1, classes[:, None], -1.0).amax(1)
    return noise.objective(top.clamp(*CLAMP), runner_up.clamp(*CLAMP), sigma)


def objective(
    net: torch.nn.Module | Tangents, x: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor, noise: Noise, classes: torch.Tensor | None
) -> torch.Tensor:
    """`radius` of the net at `noisy` images; DdrsError where a module can't decide, NaN where `Tangents` can't."""
    images = noisy(x, sigma, eps)
    scores = net.scores(images) if isinstance(net, Tangents) else checked_scores(net(images), len(images))
    return radius(scores, sigma, noise, classes)


def step(
    net: torch.nn.Module | Tangents,
    x: torch.Tensor,
    sigma: torch.Tensor,
    eps: torch.Tensor,
    noise: Noise,
    settings: StepSettings,
    classes: torch.Tensor | None = None,
) -> torch.Tensor:
    """One ascent step from `sigma` (B,), with noise at the *current* sigma, projected to [sigma_min, sigma_max]. A module is in eval mode."""
    if isinstance(net, Tangents):
        gradient = _forward(net, x, sigma, eps, noise, classes)
    else:
        with torch.enable_grad():
            at = sigma.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(net, x, at, eps, noise, classes).sum(), at)
    return (sigma.detach() + settings.step_size * gradient).clamp_(settings.sigma_min, settings.sigma_max)


def _forward(net: Tangents, x: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor, noise: Noise, classes: torch.Tensor | None) -> torch.Tensor:
    """The gradient of `objective` in sigma, (B,): d/dsigma of the scores at x + sigma * eps is their derivative along eps.

    Where both probabilities are clamped the radius does not depend on the scores. A CPU passes only the other images a second time; a GPU, which
    would have to be waited for to know them, all.
    """
    scores, at = net.scores(noisy(x, sigma, eps)).requires_grad_(True), sigma.detach().requires_grad_(True)
    with torch.enable_grad():
        of_scores, gradient = torch.autograd.grad(radius(scores, at, noise, classes).sum(), (scores, at))
    direction = eps.flatten(0, 1)
    if direction.device.type == "cpu":
        open_ = of_scores.any(1)
        # up to a multiple of 8, by images that add 0: kernels are made for each batch size anew
        rows = open_.to(torch.uint8).argsort(descending=True, stable=True)[: -(-int(open_.sum()) // 8) * 8]
        if len(rows):
            change = (of_scores[rows] * net.along(direction[rows], rows)).sum(1)
            gradient = gradient.index_add(0, rows // eps.shape[1], change)
    else:
        gradient = gradient + (of_scores * net.along(direction)).sum(1).unflatten(0, eps.shape[:2]).sum(1)
    return gradient


def check_decided(values: torch.Tensor, k: int, settings: SearchSettings) -> None:
    """DdrsError where a value that the search carries on, and that stays NaN once it is, is NaN: the model could not decide.

    Looked at after each CHECKED steps, and after the last, as a look waits for a GPU.
    """
    if (k % CHECKED == 0 or k == settings.k_max) and not bool(torch.isfinite(values).all()):
        raise DdrsError(UNDECIDED)


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
    n, shape = settings.samples, streams[0].shape
    buffered = max(1, BLOCK // n)  # steps whose noise is drawn at once
    if device.type == "cpu":
        buffered = min(buffered, max(1, BUFFERED // (len(streams) * n * math.prod(shape))))
    for first in range(0, settings.k_max, buffered):
        steps = min(buffered, settings.k_max - first)
        eps = torch.empty(len(streams), steps * n, *shape, device=device)
        for stream, out in zip(streams, eps, strict=True):
            stream.fill(out)
        yield from eps.unflatten(1, (steps, n)).unbind(1)


@torch.no_grad()
def mean_class(model: torch.nn.Module, images: torch.Tensor, sigma: torch.Tensor, streams: list[NoiseStream], samples: int = BLOCK) -> torch.Tensor:
    """The class of the largest mean softmax at each image's sigma, (B,), from the next `samples` of its own stream."""
    found = []
    with as_it_was(model):
        net = laid_out(model, tuple(images.shape[1:]), images.device.type == "cpu")
        for image, scale, stream in zip(images, sigma, streams, strict=True):
            scores = checked_scores(net(image + scale * stream.draw(samples, images.device)), samples)
            found.append(scores.softmax(1).mean(0).argmax())
    return torch.stack(found)
