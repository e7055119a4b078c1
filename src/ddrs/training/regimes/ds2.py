"""DS2 (Algorithm 2 of the paper): before each batch one ascent step, from the sigma that each example had in the last epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddrs.sigma.settings import StepSettings

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from ddrs.noise.laws import Noise


class Settings(StepSettings):
    """Those of the step, and no more."""


def image_gradients(settings: StepSettings) -> int:
    """Passes back to the image for each image in an epoch: one for each noise sample of the step."""
    return settings.samples


def sigmas(model: nn.Module, x: Tensor, y: Tensor, sigma: Tensor, settings: StepSettings, noise: Noise, generator: Generator, epoch: int) -> Tensor:
    """One ascent step on the radius at each image: the new sigma (B,), on the model's device.

    x: the batch as the loss will see it (B, C, H, W), float32. y: its labels (B,), which the step does not look at. sigma: (B,), in units of
    the [0,1] pixel scale. generator: what the samples of the step are drawn from, and nothing else. epoch: the one under way, from 0.
    Source: the paper, Algorithm 2.
    """
    import torch

    from ddrs.models.running import evaluating
    from ddrs.sigma.objective import step

    eps = torch.empty(len(x), settings.samples, *x.shape[1:], device=x.device)
    noise.draw(eps, generator)
    with evaluating(model):
        return step(model, x, sigma, eps, noise, settings)
