"""Cohen et al. (2019): cross-entropy on noisy images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddrs.training.losses import LossSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

NOISE = "gaussian"  # what the method trains with, and so what its models are searched and certified with


class Settings(LossSettings):
    """This loss has no settings of its own."""


def loss(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, sigma: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy on x + noise.

    x: images (B, ...). y: labels (B,). noise: (B, 1, ...), already scaled by sigma (B,). Returns the loss and the scores (B, classes) on
    the noisy images.
    """
    import torch.nn.functional as F

    scores = model(x + noise[:, 0])
    return F.cross_entropy(scores, y), scores.detach()


def noise_samples(settings: Settings) -> int:
    """How many noise samples per image a step uses."""
    return 1
