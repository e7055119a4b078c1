"""The attack's step: of full length for any gradient that is not zero, in a random direction for one that is."""

import pytest
import torch
from torch import nn

from ddrs.training.losses import smoothadv

SETTINGS = smoothadv.Settings(epsilon=0.25, attack_steps=1, noise_samples=1, warmup=1)  # one step, twice epsilon long, cut to the ball


class Confident(nn.Module):
    """Two classes whose scores differ by gap + the first value, which moves the lower one: the gradient is about exp(-gap)."""

    def __init__(self, gap: float):
        super().__init__()
        self.gap = gap

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.gap + 0 * x[:, 0], -x[:, 0]], 1)


class Constant(nn.Module):
    """Scores that depend on no value."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([1 + 0 * x[:, 0], 0 * x[:, 0]], 1)


def attacked(model: nn.Module, noise: torch.Tensor) -> torch.Tensor:
    """By how much the attack moves grey images under that noise."""
    x = torch.full((len(noise), noise.shape[2]), 0.5)
    return smoothadv.attack(model, x, torch.zeros(len(noise), dtype=torch.int64), noise, SETTINGS) - x


@pytest.mark.parametrize("gap", [0.0, 20.0, 27.0, 40.0, 60.0, 80.0, 100.0])
def test_a_tiny_gradient_moves_an_image_as_far_as_a_large_one(gap: float):
    moved = attacked(Confident(gap), 0.1 * torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(moved[:, 0], torch.tensor(-0.25)) and not moved[:, 1:].any()


def test_a_zero_gradient_moves_an_image_as_far_in_a_direction_that_the_seeded_noise_gives():
    def moved(seed: int) -> torch.Tensor:
        return attacked(Constant(), 0.1 * torch.randn(200, 2, 8, generator=torch.Generator().manual_seed(seed)))

    found = moved(1)
    assert torch.allclose(found.norm(dim=1), torch.tensor(0.25), atol=1e-6)
    assert found.mean(0).norm() < 0.05  # no direction is preferred: the mean of 200 has length 0.018 or so
    assert torch.equal(found, moved(1)) and not torch.equal(found, moved(2))


@pytest.mark.parametrize("exponent", [0, -40, -90, -130, -148])
def test_a_unit_vector_of_any_vector_is_the_plain_quotient_where_floats_hold_its_norm(exponent: int):
    vectors = torch.randn(50, 784, generator=torch.Generator().manual_seed(5)) * 2.0**exponent
    vectors[:, 0] = 2.0**exponent  # not zero, where the others round to it
    found = smoothadv.unit(vectors)
    assert torch.allclose(found.norm(dim=1), torch.ones(50))
    if exponent > -50:
        assert torch.equal(found, vectors / vectors.norm(dim=1, keepdim=True))  # to the bit: trained models stay what they are
