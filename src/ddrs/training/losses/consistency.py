"""Consistency regularisation (Jeong and Shin 2020): cross-entropy on noisy copies, and how far their predictions are from their mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from ddrs.training.losses import LossSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

NOISE = "gaussian"  # what the method trains with, and so what its models are searched and certified with


class Settings(LossSettings):
    """The defaults are those of the paper's code; the config's names are its symbols. Its lambda on CIFAR-10 is 10 or 20, by sigma."""

    m: int = Field(2, ge=1, description="noise samples per image")
    weight: float = Field(20.0, alias="lambda", ge=0, allow_inf_nan=False, description="weight of the distance to the mean prediction")
    eta: float = Field(0.5, ge=0, allow_inf_nan=False, description="weight of the mean prediction's entropy, not multiplied by lambda")


def noise_samples(settings: Settings) -> int:
    """How many noise samples per image a step uses."""
    return settings.m


def loss(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, sigma: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Mean over the batch of (1/m) sum CE_i + lambda (1/m) sum KL(p || p_i) + eta H(p), with p the mean of the m softmax outputs p_i.

    x: images (B, ...). y: labels (B,). noise: (B, m, ...), already scaled by sigma (B,). The mean is differentiated too. Returns the loss
    and the scores (B * m, classes) on the noisy images, image by image. Source: Jeong and Shin, Consistency Regularization for Certified
    Robustness of Smoothed Classifiers, NeurIPS 2020, Equations 9 and 10, with the code's eta.
    """
    import torch.nn.functional as F

    scores = model((x[:, None] + noise).flatten(0, 1))
    log_p = scores.unflatten(0, noise.shape[:2]).log_softmax(2)
    log_mean = log_p.logsumexp(1) - math.log(settings.m)
    mean = log_mean.exp()
    entropy = -(mean * log_mean).sum(1)
    divergence = -entropy - (mean[:, None] * log_p).sum(2).mean(1)  # (1/m) sum KL(p || p_i) = -H(p) - (1/m) sum of p log p_i
    return (
        F.cross_entropy(scores, y.repeat_interleave(settings.m)) + (settings.weight * divergence + settings.eta * entropy).mean(),
        scores.detach(),
    )
