"""Algorithm 1 of the paper: stochastic gradient ascent on the radius, over sigma, for each image on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddrs.sigma.settings import SearchSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ddrs.noise.laws import Noise
    from ddrs.noise.streams import NoiseStream
    from ddrs.sigma.objective import Trajectory


class Settings(SearchSettings):
    """Those of all searches, and no more."""


def evaluations(settings: SearchSettings) -> tuple[int, int]:
    """Of the model, per image: forward passes, and passes back to sigma. A step has one back for each of its samples."""
    return 0, settings.k_max * settings.samples


def search(
    model: torch.nn.Module,
    images: torch.Tensor,
    sigma0: float,
    streams: list[NoiseStream],
    noise: Noise,
    settings: SearchSettings,
    progress: Callable[[int], None] = lambda done: None,
) -> Trajectory:
    """The whole trajectory of k_max steps from sigma0, for a batch of images (B, ...), each with its own sigma and noise stream."""
    from ddrs.models.running import as_it_was, device_of
    from ddrs.models.tangents import tangents_of
    from ddrs.sigma.objective import Trajectory, check_decided, noise_of_steps, start, step

    images, sigma, classes = start(model, images, sigma0, streams, settings)
    trajectory = [sigma]
    with as_it_was(model):
        net = tangents_of(model, tuple(images.shape[1:])) or model
        for k, eps in enumerate(noise_of_steps(streams, settings, device_of(model)), 1):
            sigma = step(net, images, sigma, eps, noise, settings, classes)
            check_decided(sigma, k, settings)
            trajectory.append(sigma)
            progress(k)
    return Trajectory.of(trajectory, settings)
