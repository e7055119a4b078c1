"""MACER (Zhai et al. 2020): cross-entropy of the smoothed classifier, and a hinge on its certified radius."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from ddrs.training.losses import LossSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

NOISE = "gaussian"  # what the method trains with, and so what its models are searched and certified with


class Settings(LossSettings):
    """The paper's values are the defaults; the config's names are its symbols."""

    k: int = Field(64, ge=1, description="noise samples per image")
    weight: float = Field(12.0, alias="lambda", ge=0, allow_inf_nan=False, description="weight of the hinge")
    gamma: float = Field(8.0, gt=0, allow_inf_nan=False, description="the hinge pushes 2 R / sigma up to this")
    beta: float = Field(16.0, gt=0, allow_inf_nan=False, description="inverse temperature of the softmax behind the radius")


def noise_samples(settings: Settings) -> int:
    """How many noise samples per image a step uses."""
    return settings.k


def loss(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, sigma: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Mean over the batch of -log mean softmax of the label, plus the hinge (Zhai et al. 2020, Section 4.2; the paper, Section 4.3).

    x: images (B, ...). y: labels (B,). noise: (B, k, ...), already scaled by sigma (B,), which the hinge weighs each image with. Returns
    the loss and the scores (B * k, classes) on the noisy images, image by image.
    """
    import torch.nn.functional as F

    scores = model((x[:, None] + noise).flatten(0, 1))
    by_image = scores.unflatten(0, noise.shape[:2])
    log_mean = by_image.log_softmax(2).logsumexp(1) - math.log(settings.k)
    return F.nll_loss(log_mean, y) + settings.weight * hinge(by_image, y, sigma, settings), scores.detach()


def hinge(scores: Tensor, y: Tensor, sigma: Tensor, settings: Settings) -> Tensor:
    """(1/B) sum of sigma/2 * max(gamma - xi, 0) over the images that count, with xi = Phi^-1(z_y) - Phi^-1(max of the others) = 2 R / sigma.

    scores: (B, k, classes); z is their mean softmax at inverse temperature beta. An image counts if z is largest at its label, and xi is
    finite and at most gamma. The others are left out before Phi^-1 is differentiated: its slope is infinite at 0 and 1, and 0 times that
    is no number.
    """
    import torch

    z = (settings.beta * scores.double()).softmax(2).mean(1)  # float64: near 1, float32 has too few digits left for Phi^-1
    top = z.gather(1, y[:, None])[:, 0]
    others = z.scatter(1, y[:, None], -1.0).amax(1)
    with torch.no_grad():
        xi = torch.special.ndtri(top) - torch.special.ndtri(others)
        counts = (z.argmax(1) == y) & (xi <= settings.gamma)  # where z is 0 or 1, xi is infinite: beyond gamma, or a wrong image
    xi = torch.special.ndtri(top[counts]) - torch.special.ndtri(others[counts])
    return (sigma[counts] / 2 * (settings.gamma - xi)).sum().to(scores.dtype) / len(y)
