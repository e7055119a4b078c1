"""GDS, the baseline of the paper's Appendix B: the best of an even grid of sigmas, for each image on its own.

Budget: K points with n samples each are K*n evaluations of the model per image. K steps of Algorithm 1 are 2*K*n, as each has a forward and
a backward pass: its K = 100 with n = 1 is worth K = 200 points here with n = 1, or 20 with n = 10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddrs.sigma.settings import SearchSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ddrs.noise.laws import Noise
    from ddrs.noise.streams import NoiseStream
    from ddrs.sigma.objective import Trajectory

END = 1.0  # of the grid, in units of the [0,1] pixel scale


class Settings(SearchSettings):
    """Those of all searches, of which a grid reads no step_size."""


def evaluations(settings: SearchSettings) -> tuple[int, int]:
    """Of the model, per image: forward passes, and passes back to sigma. A point is a forward pass of each of its samples."""
    return settings.k_max * settings.samples, 0


def search(
    model: torch.nn.Module,
    images: torch.Tensor,
    sigma0: float,
    streams: list[NoiseStream],
    noise: Noise,
    settings: SearchSettings,
    progress: Callable[[int], None] = lambda done: None,
) -> Trajectory:
    """The best of the first k points of {1/K, 2/K, ..., 1}, K = settings.k_max, for every k from 1 to K; sigma0 itself at k = 0.

    images: (B, ...), each with its own sigma and noise stream. A point is worth the objective of Algorithm 1, of settings.samples fresh
    samples at that sigma; of equal points the smallest sigma wins. Points outside [sigma_min, sigma_max] are moved to the bound. sigma0
    decides the class where objective_class is fixed, and nothing else. Source: the paper, Equation 5.
    """
    import torch

    from ddrs.models.layout import laid_out
    from ddrs.models.running import as_it_was, device_of
    from ddrs.sigma.objective import Trajectory, noise_of_steps, objective, start

    images, sigma, classes = start(model, images, sigma0, streams, settings)
    device, trajectory = device_of(model), [sigma]
    best = torch.full_like(sigma, -torch.inf)
    points = (END * torch.arange(1, settings.k_max + 1) / settings.k_max).clamp(settings.sigma_min, settings.sigma_max).tolist()
    with as_it_was(model), torch.no_grad():
        net = laid_out(model, tuple(images.shape[1:]), device.type == "cpu")
        for k, eps in enumerate(noise_of_steps(streams, settings, device), 1):
            point = torch.full_like(sigma, points[k - 1])
            found = objective(net, images, point, eps, noise, classes)
            sigma, best = torch.where(found > best, point, sigma), torch.maximum(found, best)
            trajectory.append(sigma)
            progress(k)
    return Trajectory.of(trajectory, settings)
