"""Derivatives along a direction by a second forward pass: those of the backward pass, of every architecture here, or none at all."""

import copy

import pytest
import torch
from torch import nn

from ddrs.models.architectures import build_model
from ddrs.models.preprocessing import with_preprocessing
from ddrs.models.running import Scored
from ddrs.models.tangents import tangents_of


def built(architecture: str, shape: tuple[int, int, int]) -> nn.Module:
    """In eval mode, with BatchNorm statistics that are none of a new one's."""
    torch.manual_seed(0)
    model = build_model(architecture, shape, 10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.bias, std=0.1)
    return model


@pytest.mark.parametrize("preprocessing", [None, {"kind": "normalize", "mean": [0.4] * 3, "sd": [0.2] * 3}, {"kind": "center", "mean": [0.5] * 3}])
@pytest.mark.parametrize("architecture", ["small_cnn", "resnet18_ddrs", "wide_resnet40_2"])
def test_scores_and_derivatives_are_those_of_the_model(architecture: str, preprocessing: dict | None):
    """resnet18_ddrs has a maximum pool and sums, wide_resnet40_2 BatchNorm that can not be folded."""
    model = with_preprocessing(built(architecture, (3, 32, 32)), preprocessing, 3)
    x, direction = torch.rand(2, 6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    made = tangents_of(model, (3, 32, 32))
    assert made is not None
    with torch.no_grad():
        expected, slope = torch.func.jvp(copy.deepcopy(model).double(), (x.double(),), (direction.double(),))
    scores, found = made.scores(x), made.along(direction)
    assert torch.allclose(scores.double(), expected, atol=1e-4 * float(expected.abs().max()))
    assert torch.allclose(found.double(), slope, atol=2e-3 * float(slope.abs().max())), "float32 may find an image on another side of a kink"
    rows = torch.tensor([4, 0, 1])
    assert torch.allclose(made.along(direction[rows], rows), found[rows], atol=1e-4 * float(slope.abs().max()))


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * torch.sigmoid(x)).flatten(1)[:, :3]


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :3] if x.sum() > 0 else x.flatten(1)[:, 3:6]


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return x.flatten(1)[:, :3]


class Detached(nn.Linear):
    """Its scores are right, and its derivative by the rules here is; its backward pass has another."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + (x.detach().flatten(1)[:, :3] - x.flatten(1)[:, :3])


@pytest.mark.parametrize("model", [Swish(), Branching(), Counting(), Detached(8, 3), Scored(lambda x: x.flatten(1)[:, :3])])
def test_a_model_without_a_rule_is_refused_and_left_as_it_was(model: nn.Module):
    assert tangents_of(model.eval(), (8,)) is None
    assert not isinstance(model, Counting) or model.passes == 0


def test_the_model_keeps_its_weights_its_flags_and_its_layers():
    model = built("small_cnn", (1, 28, 28))
    model[0].weight.requires_grad_(False)
    state, flags, layers = {k: v.clone() for k, v in model.state_dict().items()}, [p.requires_grad for p in model.parameters()], list(model)
    made = tangents_of(model, (1, 28, 28))
    assert made is not None
    made.along(torch.rand_like(made.scores(torch.rand(2, 1, 28, 28)).new_empty(2, 1, 28, 28)))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags and all(p.grad is None for p in model.parameters())
    assert list(model) == layers
