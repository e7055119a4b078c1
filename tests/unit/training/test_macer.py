"""The MACER loss against a slow, literal re-statement of its formula, and where its arithmetic is fragile."""

import math
from statistics import NormalDist

import pytest
import torch
from torch import nn

from ddrs.errors import DdrsError
from ddrs.training.losses import macer
from ddrs.training.settings import TrainSettings

B, K, CLASSES, PIXELS = 5, 6, 4, 7
SETTINGS = macer.Settings(k=K, beta=2.0)
PPF, PDF = NormalDist().inv_cdf, NormalDist().pdf


def linear(weight: torch.Tensor) -> nn.Linear:
    model = nn.Linear(PIXELS, CLASSES, bias=False, dtype=weight.dtype)
    model.weight.data = weight.clone()
    return model


@pytest.fixture
def batch() -> tuple[torch.Tensor, ...]:
    """weight, x, y, eps and sigma, in float64; of the five images some count in the hinge and some do not."""
    generator = torch.Generator().manual_seed(11)
    weight = torch.randn(CLASSES, PIXELS, generator=generator, dtype=torch.float64)
    x = torch.rand(B, PIXELS, generator=generator, dtype=torch.float64)
    eps = torch.randn(B, K, PIXELS, generator=generator, dtype=torch.float64)
    y = (x @ weight.T).argmax(1)
    y[-1] = (y[-1] + 1) % CLASSES
    return weight, x, y, eps, torch.tensor([0.1, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)


def softmax(scores: list[float], beta: float = 1.0) -> list[float]:
    raised = [math.exp(beta * score) for score in scores]
    return [one / sum(raised) for one in raised]


def literal(weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor, eps: torch.Tensor, sigma: torch.Tensor, s: macer.Settings):
    """The loss of a linear model and its gradient in the weights, with every sum a loop and every derivative written out.

    Returns loss, gradient (classes, pixels) and how many images count in the hinge.
    """
    loss, gradient, counted = 0.0, [[0.0] * PIXELS for _ in range(CLASSES)], 0
    for i in range(len(x)):
        label = int(y[i])
        inputs = [[float(x[i, d] + sigma[i] * eps[i, j, d]) for d in range(PIXELS)] for j in range(s.k)]
        scores = [[sum(float(weight[c, d]) * one[d] for d in range(PIXELS)) for c in range(CLASSES)] for one in inputs]
        plain, sharp = [softmax(one) for one in scores], [softmax(one, s.beta) for one in scores]
        mean = [sum(one[c] for one in plain) / s.k for c in range(CLASSES)]
        z = [sum(one[c] for one in sharp) / s.k for c in range(CLASSES)]
        loss += -math.log(mean[label]) / len(x)
        other = max((c for c in range(CLASSES) if c != label), key=lambda c: z[c])
        # d loss / d z: of the two entries that the hinge looks at
        slopes = {label: 0.0, other: 0.0}
        if z[label] > z[other] and z[other] > 0 and z[label] < 1:
            xi = PPF(z[label]) - PPF(z[other])
            if xi <= s.gamma:
                counted += 1
                scale = s.weight * float(sigma[i]) / 2 / len(x)
                loss += scale * max(s.gamma - xi, 0)
                slopes = {label: -scale / PDF(PPF(z[label])), other: scale / PDF(PPF(z[other]))}
        for j in range(s.k):
            for c in range(CLASSES):
                # d mean_label / d score_c and d z_entry / d score_c
                slope = -plain[j][label] * ((c == label) - plain[j][c]) / (s.k * mean[label] * len(x))
                for entry, of_z in slopes.items():
                    slope += of_z * s.beta * sharp[j][entry] * ((c == entry) - sharp[j][c]) / s.k
                for d in range(PIXELS):
                    gradient[c][d] += slope * inputs[j][d]
    return loss, torch.tensor(gradient, dtype=torch.float64), counted


def found(weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor, eps: torch.Tensor, sigma: torch.Tensor, settings: macer.Settings = SETTINGS):
    """The loss and its gradient in the weights, of the code."""
    model = linear(weight)
    loss, scores = macer.loss(model, x, y, eps * sigma.view(-1, 1, 1), sigma, settings)
    assert scores.shape == (B * K, CLASSES) and not scores.requires_grad
    loss.backward()
    return loss.item(), model.weight.grad


@pytest.mark.parametrize(
    ("settings", "counted"),
    [
        (SETTINGS, 4),
        (macer.Settings(k=K, beta=2.0, gamma=3.0), 3),
        (macer.Settings(k=K, beta=16.0, gamma=8.0, **{"lambda": 3.0}), 2),
        (macer.Settings(k=K, beta=2.0, gamma=1e-3), 0),
        (macer.Settings(k=K, beta=2.0, **{"lambda": 0.0}), 4),
    ],
    ids=["defaults", "small gamma", "sharp", "none counts", "no hinge"],
)
def test_value_and_gradient_are_those_of_the_literal_restatement(settings: macer.Settings, counted: int, batch: tuple):
    value, gradient, images = literal(*batch, settings)
    assert images == counted, "the case is what its name says"
    loss, own = found(*batch, settings)
    assert loss == pytest.approx(value, rel=1e-12)
    assert torch.allclose(own, gradient, rtol=1e-9, atol=1e-12)


def test_in_float32_the_loss_is_the_same_to_rounding(batch: tuple):
    value, gradient, _ = literal(*batch, SETTINGS)
    weight, x, y, eps, sigma = batch
    loss, own = found(weight.float(), x.float(), y, eps.float(), sigma.float())
    assert own.dtype == torch.float32
    assert loss == pytest.approx(value, rel=1e-5)
    assert torch.allclose(own.double(), gradient, rtol=1e-4, atol=1e-5)


def test_each_image_has_its_own_sigma_in_noise_and_hinge(batch: tuple):
    """Permuting the images with all that is theirs changes nothing; sigmas given to other images change value and gradient."""
    weight, x, y, eps, sigma = batch
    order = torch.tensor([3, 0, 4, 1, 2])
    loss, gradient = found(*batch)
    same, same_gradient = found(weight, x[order], y[order], eps[order], sigma[order])
    assert same == pytest.approx(loss, rel=1e-12) and torch.allclose(same_gradient, gradient, rtol=1e-9)
    other, other_gradient = found(weight, x, y, eps, sigma[order])
    assert abs(other - loss) > 0.01 and (other_gradient - gradient).abs().max() > 0.01
    model = linear(weight)
    swapped, _ = macer.loss(model, x, y, eps * sigma.view(-1, 1, 1), sigma[order], SETTINGS)
    assert abs(swapped.item() - loss) > 0.01, "the hinge weighs each image with its own sigma"


def test_the_scores_are_image_by_image(batch: tuple):
    weight, x, y, eps, sigma = batch
    _, scores = macer.loss(linear(weight), x, y, eps * sigma.view(-1, 1, 1), sigma, SETTINGS)
    expected = torch.stack([weight @ (x[i] + sigma[i] * eps[i, j]) for i in range(B) for j in range(K)])
    assert torch.allclose(scores, expected)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_scores_give_finite_losses_and_gradients(scale: float, dtype: torch.dtype):
    """Mean softmax of exactly 0 and 1, ties and wrong classes: each is left out of the hinge before Phi^-1 is differentiated."""
    scores = scale * torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0], [0.0, 0.0, 0.0], [1.0, 1.0, -1.0]], dtype=dtype)[:, None].repeat(1, 3, 1)
    scores.requires_grad_(True)
    sigma = torch.full((4,), 0.5, dtype=dtype)
    value = macer.hinge(scores, torch.zeros(4, dtype=torch.int64), sigma, macer.Settings(k=3))
    (gradient,) = torch.autograd.grad(value, scores)
    assert torch.isfinite(value) and torch.isfinite(gradient).all() and value.dtype == dtype
    assert not gradient[1].any(), "a wrong image has no part in the hinge"
    tied = 0.5 / 2 * 8 / 4  # xi = 0 where the label ties with another class
    assert value.item() >= 2 * tied - 1e-6
    if scale >= 30:
        assert value.item() == pytest.approx(2 * tied) and not gradient[0].any(), "a certain image is beyond gamma"


def test_a_batch_in_which_no_image_counts_is_the_cross_entropy_of_the_smoothed_classifier(batch: tuple):
    weight, x, _, eps, sigma = batch
    wrong = (x @ weight.T).argmin(1)
    loss, _ = found(weight, x, wrong, eps, sigma)
    mean = torch.stack([torch.softmax((x[i] + sigma[i] * eps[i]) @ weight.T, 1).mean(0)[wrong[i]] for i in range(B)])
    assert loss == pytest.approx(float(-mean.log().mean()), rel=1e-12)


def test_a_label_without_probability_has_a_finite_cross_entropy():
    """log(mean softmax) by logsumexp: the softmax itself is 0 in float32."""
    model = nn.Linear(1, 2, bias=False)
    model.weight.data = torch.tensor([[500.0], [-500.0]])
    loss, _ = macer.loss(model, torch.ones(1, 1), torch.tensor([1]), torch.zeros(1, 2, 1), torch.ones(1), macer.Settings(k=2))
    loss.backward()
    assert loss.item() == pytest.approx(1000.0) and torch.isfinite(model.weight.grad).all()


def test_the_settings_are_the_paper_s_symbols_and_values():
    settings = TrainSettings(epochs=1).loss_settings("macer")
    assert settings.model_dump(by_alias=True) == {"k": 64, "lambda": 12.0, "gamma": 8.0, "beta": 16.0}
    assert macer.noise_samples(settings) == 64
    assert TrainSettings(epochs=1, loss={"k": 8, "lambda": 3}).loss_settings("macer").weight == 3.0
    for loss, message in (
        ({"weight": 3}, r"unknown setting 'weight' of macer; allowed are k, lambda, gamma, beta"),
        ({"lamda": 3}, r"'lamda' of macer \(did you mean 'lambda'\?\)"),
        ({"lambda": -1}, "loss of macer: lambda: Input should be greater than or equal to 0"),
        ({"k": 0}, "loss of macer: k: Input should be greater than or equal to 1"),
    ):
        with pytest.raises(DdrsError, match=message):
            TrainSettings(epochs=1, loss=loss).loss_settings("macer")
