"""The losses and the attack, against literal restatements, and augmentation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddrs.models.architectures import build_model
from ddrs.training import augmentation
from ddrs.training.losses import cohen, smoothadv


@pytest.fixture
def noisy_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(6, 1, 28, 28, generator=generator)
    y = torch.randint(0, 10, (6,), generator=generator)
    return x, y, 0.25 * torch.randn(6, 2, 1, 28, 28, generator=generator)


def test_the_cohen_loss_is_the_cross_entropy_on_noisy_images(noisy_batch):
    x, y, noise = noisy_batch
    model = build_model("small_cnn", (1, 28, 28), 10).eval()
    loss, scores = cohen.loss(model, x, y, noise[:, :1], torch.full((6,), 0.25), cohen.Settings())
    expected = model(x + noise[:, 0])
    assert torch.equal(loss, F.cross_entropy(expected, y))
    assert torch.equal(scores, expected) and not scores.requires_grad
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert cohen.noise_samples(cohen.Settings()) == 1


def slow_attack(weight: torch.Tensor, x: torch.Tensor, y: int, noise: torch.Tensor, epsilon: float, steps: int) -> torch.Tensor:
    """SmoothAdv_PGD for one image (d,) and a linear model, with the gradient of -log mean softmax written out."""
    delta = torch.zeros_like(x)
    for _ in range(steps):
        gradient, mean = torch.zeros_like(x), 0.0
        for one in noise:
            p = torch.softmax(weight @ (x + delta + one), 0)
            mean = mean + p[y] / len(noise)
            gradient = gradient + p[y] * (weight[y] - p @ weight) / len(noise)
        gradient = -gradient / mean
        delta = delta + 2 * epsilon / steps * gradient / gradient.norm()
        delta = torch.minimum(torch.maximum(x + delta, torch.tensor(0.0)), torch.tensor(1.0)) - x
        if delta.norm() > epsilon:
            delta = delta * epsilon / delta.norm()
    return x + delta


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("m", [1, 3])
def test_the_attack_is_its_literal_restatement_for_a_linear_model(steps: int, m: int):
    generator = torch.Generator().manual_seed(steps)
    weight = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    x = torch.rand(5, 8, generator=generator, dtype=torch.float64)
    noise = 0.5 * torch.randn(5, m, 8, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    model = nn.Linear(8, 3, bias=False).double()
    model.weight.data = weight
    settings = smoothadv.Settings(epsilon=0.6, attack_steps=steps, noise_samples=m)
    found = smoothadv.attack(model, x, y, noise, settings)
    expected = torch.stack([slow_attack(weight, x[i], int(y[i]), noise[i], 0.6, steps) for i in range(5)])
    assert torch.allclose(found, expected, atol=1e-10)
    assert not torch.allclose(found, x, atol=1e-2)


def test_the_attack_stays_in_its_ball_and_in_the_pixel_range_and_raises_the_loss(noisy_batch):
    x, y, noise = noisy_batch
    torch.manual_seed(0)
    model = build_model("small_cnn", (1, 28, 28), 10).eval()
    for epsilon in (0.1, 1.0, 4.0):
        found = smoothadv.attack(model, x, y, noise, smoothadv.Settings(epsilon=epsilon, attack_steps=4, noise_samples=2))
        assert (found - x).flatten(1).norm(dim=1).max() <= epsilon * (1 + 1e-5)
        assert found.min() >= -1e-6 and found.max() <= 1 + 1e-6

        def loss_at(images: torch.Tensor) -> torch.Tensor:
            scores = model((images[:, None] + noise).flatten(0, 1)).softmax(1).unflatten(0, (6, 2)).mean(1)
            return -scores.gather(1, y[:, None])[:, 0].log()

        with torch.no_grad():
            assert torch.all(loss_at(found) > loss_at(x))
    assert (found - x).flatten(1).norm(dim=1).max() > 1.0, "a large ball is used"


def test_the_attack_leaves_statistics_modes_and_gradients_alone(noisy_batch):
    x, y, noise = noisy_batch
    model = build_model("small_cnn", (1, 28, 28), 10).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = smoothadv.attack(model, x, y, noise, smoothadv.Settings(epsilon=0.5, noise_samples=2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert not found.requires_grad and x.grad is None and not x.requires_grad


def test_a_flat_loss_gives_no_nan_and_moves_within_the_ball(noisy_batch):
    x, y, noise = noisy_batch
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    nn.init.zeros_(model[1].weight)
    found = smoothadv.attack(model, x, y, noise, smoothadv.Settings(epsilon=0.5, noise_samples=2))
    assert (found - x).flatten(1).norm(dim=1).min() > 0 and (found - x).flatten(1).norm(dim=1).max() <= 0.5 * (1 + 1e-5)


def test_the_smoothadv_loss_is_the_cross_entropy_on_attacked_images_under_the_same_noise(noisy_batch):
    x, y, noise = noisy_batch
    model = build_model("small_cnn", (1, 28, 28), 10).eval()
    settings = smoothadv.Settings(epsilon=0.5, attack_steps=2, noise_samples=2)
    loss, scores = smoothadv.loss(model, x, y, noise, torch.full((6,), 0.25), settings)
    attacked = smoothadv.attack(model, x, y, noise, settings)
    terms = [F.cross_entropy(model(attacked[i : i + 1] + noise[i, j]), y[i : i + 1]) for i in range(6) for j in range(2)]
    assert torch.allclose(loss, torch.stack(terms).mean(), atol=1e-6)
    assert scores.shape == (12, 10) and not scores.requires_grad
    assert smoothadv.noise_samples(settings) == 2


# augmentation


def test_no_augmentation_returns_the_images(noisy_batch):
    assert augmentation.augment(noisy_batch[0], "none", torch.Generator()) is noisy_batch[0]


@pytest.mark.parametrize("kind", ["flip", "crop-flip"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 24)], ids=str)
def test_augmentation_repeats_from_a_generator_and_varies(kind: str, shape: tuple[int, int, int]):
    x = torch.rand(64, *shape)
    first, second = (augmentation.augment(x, kind, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == x.shape and first.dtype == x.dtype
    assert torch.equal(first, second)
    assert not torch.equal(first, augmentation.augment(x, kind, torch.Generator().manual_seed(2)))


def test_flips_mirror_about_half_of_the_images_left_to_right():
    x = torch.rand(400, 1, 4, 6)
    found = augmentation.augment(x, "flip", torch.Generator().manual_seed(0))
    same = (found == x).flatten(1).all(1)
    mirrored = (found == x.flip(-1)).flatten(1).all(1)
    assert torch.all(same ^ mirrored) and 150 < int(mirrored.sum()) < 250


def test_crops_are_windows_of_the_padded_image_all_offsets_occur():
    x = torch.rand(2000, 1, 5, 7) + 0.1
    found = augmentation.augment(x, "crop-flip", torch.Generator().manual_seed(0))
    padded = F.pad(x, (4, 4, 4, 4))
    offsets = set()
    for i in range(len(x)):
        matches = [
            (row, column)
            for row in range(9)
            for column in range(9)
            for window in [padded[i, :, row : row + 5, column : column + 7]]
            if torch.equal(found[i], window) or torch.equal(found[i], window.flip(-1))
        ]
        assert matches
        if len(matches) == 1:
            offsets.add(matches[0])
    assert offsets == {(row, column) for row in range(9) for column in range(9)}
