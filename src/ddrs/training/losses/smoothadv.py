"""SmoothAdv (Salman et al. 2019): cross-entropy on adversarial examples of the smoothed classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from ddrs.training.losses import LossSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

NOISE = "gaussian"  # what the method trains with, and so what its models are searched and certified with


class Settings(LossSettings):
    """The attack inside a training step."""

    epsilon: float = Field(gt=0, allow_inf_nan=False, description="l2 radius of the attack, in units of the [0,1] pixel scale")
    attack_steps: int = Field(2, ge=1, description="PGD steps")
    noise_samples: int = Field(1, ge=1, description="noise samples per image (the paper's m)")
    warmup: int = Field(1, ge=1, description="epochs over which epsilon grows linearly to its value; 1: all of it from the first on")

    def at_epoch(self, epoch: int) -> Self:
        """With the epsilon of that epoch: (epoch + 1) / warmup of its value, at most all of it (train_pgd.py of Salman et al. 2019)."""
        return self.model_copy(update={"epsilon": self.epsilon * min(1.0, (epoch + 1) / self.warmup)})

    def image_gradients(self) -> int:
        """One for each noise sample in each step of the attack."""
        return self.noise_samples * self.attack_steps


def noise_samples(settings: Settings) -> int:
    """How many noise samples per image a step uses."""
    return settings.noise_samples


def loss(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, sigma: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy at the attacked images, under the same noise that the attack saw.

    x: images (B, ...). y: labels (B,). noise: (B, m, ...), already scaled by sigma (B,). Returns the loss and the scores (B * m, classes)
    on the noisy attacked images, image by image.
    """
    import torch.nn.functional as F

    m = noise.shape[1]
    attacked = attack(model, x, y, noise, settings)
    scores = model((attacked[:, None] + noise).flatten(0, 1))
    return F.cross_entropy(scores, y.repeat_interleave(m)), scores.detach()


def attack(model: nn.Module, x: Tensor, y: Tensor, noise: Tensor, settings: Settings) -> Tensor:
    """PGD in an l2 ball on -log mean softmax over the given noise (Salman et al. 2019, SmoothAdv_PGD), in eval mode.

    Steps have length 2 * epsilon / attack_steps, from x itself, along the gradient, however small it is, and where it is zero along the
    image's first noise sample: a random direction, as in the authors' code, of the seeded noise. Iterates stay in the ball and in [0, 1].
    """
    import torch
    import torch.nn.functional as F

    from ddrs.models.running import evaluating

    per_image = (-1, *[1] * (x.ndim - 1))
    delta = torch.zeros_like(x)
    with evaluating(model):
        for _ in range(settings.attack_steps):
            delta.requires_grad_(True)
            scores = model(((x + delta)[:, None] + noise).flatten(0, 1))
            log_mean = F.log_softmax(scores, 1).unflatten(0, noise.shape[:2]).logsumexp(1)  # up to a constant
            target = F.nll_loss(log_mean, y, reduction="sum")
            (gradient,) = torch.autograd.grad(target, delta)
            with torch.no_grad():
                gradient = gradient.flatten(1)
                zero = (gradient == 0).all(1, keepdim=True)
                direction = unit(torch.where(zero, noise[:, 0].flatten(1), gradient)).view_as(x)
                delta = delta + direction * (2 * settings.epsilon / settings.attack_steps)
                delta = (x + delta).clamp(0, 1) - x
                delta = delta * (settings.epsilon / delta.flatten(1).norm(dim=1).clamp_min(settings.epsilon)).view(per_image)
    return (x + delta).detach()


def unit(vectors: Tensor) -> Tensor:
    """Vectors (B, d), none of them zero, at length 1, however short: squares of values below 1e-23 are zero in float32."""
    import torch

    _, exponent = torch.frexp(vectors.abs().amax(1, keepdim=True))
    scaled = torch.ldexp(vectors, -exponent.clamp(min=-100))  # by a power of two that float32 holds, so without rounding
    return scaled / scaled.norm(dim=1, keepdim=True)
