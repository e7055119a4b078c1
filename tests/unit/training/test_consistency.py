"""The consistency loss against a slow, literal re-statement of its formula."""

import math

import pytest
import torch
from torch import nn

from ddrs.errors import DdrsError
from ddrs.training.losses import consistency
from ddrs.training.settings import TrainSettings

B, M, CLASSES, PIXELS = 4, 3, 5, 6
SETTINGS = consistency.Settings.model_validate({"m": M, "lambda": 10.0, "eta": 0.5})


def batch() -> tuple[nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    model = nn.Linear(PIXELS, CLASSES, bias=False, dtype=torch.float64)
    model.weight.data = 2 * torch.randn(CLASSES, PIXELS, generator=generator, dtype=torch.float64)
    x = torch.rand(B, PIXELS, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.1, 0.25, 0.5, 1.0], dtype=torch.float64)
    noise = sigma[:, None, None] * torch.randn(B, M, PIXELS, generator=generator, dtype=torch.float64)
    return model, x, torch.tensor([0, 4, 2, 2]), noise, sigma


def literal(weight: list[list[float]], x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor, weigh: float, eta: float) -> float:
    """The formula with every sum a loop."""
    total = 0.0
    for i in range(B):
        p = []
        for j in range(M):
            scores = [sum(w * float(x[i, d] + noise[i, j, d]) for d, w in enumerate(row)) for row in weight]
            raised = [math.exp(score) for score in scores]
            p.append([one / sum(raised) for one in raised])
        mean = [sum(p[j][c] for j in range(M)) / M for c in range(CLASSES)]
        total += sum(-math.log(p[j][int(y[i])]) for j in range(M)) / M
        total += weigh * sum(mean[c] * (math.log(mean[c]) - math.log(p[j][c])) for j in range(M) for c in range(CLASSES)) / M
        total += eta * -sum(one * math.log(one) for one in mean)
    return total / B


def test_is_the_literal_formula_and_its_gradient():
    model, x, y, noise, sigma = batch()
    value, scores = consistency.loss(model, x, y, noise, sigma, SETTINGS)
    value.backward()
    weight = model.weight.detach().tolist()
    assert value.item() == pytest.approx(literal(weight, x, y, noise, 10.0, 0.5), rel=1e-12)
    assert scores.shape == (B * M, CLASSES)
    for c, d in ((0, 0), (2, 3), (4, 5)):  # the mean is differentiated too: by differences of the whole formula
        ends = []
        for h in (1e-6, -1e-6):
            moved = [row.copy() for row in weight]
            moved[c][d] += h
            ends.append(literal(moved, x, y, noise, 10.0, 0.5))
        assert float(model.weight.grad[c, d]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)  # type: ignore[index]


def test_without_its_weights_it_is_cross_entropy():
    model, x, y, noise, sigma = batch()
    plain = consistency.Settings.model_validate({"m": M, "lambda": 0.0, "eta": 0.0})
    value, scores = consistency.loss(model, x, y, noise, sigma, plain)
    assert value.item() == pytest.approx(nn.functional.cross_entropy(scores, y.repeat_interleave(M)).item(), rel=1e-12)


def test_copies_that_agree_cost_no_distance():
    model, x, y, noise, sigma = batch()
    same = noise[:, :1].expand(-1, M, -1)
    heavy = consistency.Settings.model_validate({"m": M, "lambda": 1e6, "eta": 0.0})
    plain = consistency.Settings.model_validate({"m": M, "lambda": 0.0, "eta": 0.0})
    assert consistency.loss(model, x, y, same, sigma, heavy)[0].item() == pytest.approx(
        consistency.loss(model, x, y, same, sigma, plain)[0].item(), abs=1e-8
    )


def test_saturated_scores_leave_a_finite_gradient():
    model, x, y, noise, sigma = batch()
    model.weight.data *= 1e4  # probabilities of 0, whose logarithm is not finite
    value, _ = consistency.loss(model, x, y, noise, sigma, SETTINGS)
    value.backward()
    assert math.isfinite(value.item()) and bool(torch.isfinite(model.weight.grad).all())  # type: ignore[arg-type]


def test_its_settings_are_the_configs():
    run = TrainSettings.checked(epochs=1, batch_size=2, learning_rate=0.1, loss={"m": 4, "lambda": {0.25: 10, 0.5: 20}})
    assert run.at_sigma("0.50").loss_settings("consistency").model_dump() == {"m": 4, "weight": 20.0, "eta": 0.5}
    with pytest.raises(DdrsError, match="unknown setting 'gamma' of consistency"):
        TrainSettings.checked(epochs=1, batch_size=2, learning_rate=0.1, loss={"gamma": 8}).loss_settings("consistency")
