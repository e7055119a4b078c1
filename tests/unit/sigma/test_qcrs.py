"""QCRS: a literal re-statement of its bisection, a classifier whose best sigma is known, its bounds, and files."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import beta, norm

from ddrs import optimize_sigma
from ddrs.errors import DdrsError
from ddrs.noise.laws import get_noise
from ddrs.noise.streams import NoiseStream
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.strategies import qcrs

GAUSSIAN = get_noise("gaussian")


class Slab(torch.nn.Module):
    """Class 0 where |x_0| < half, class 1 to its right, class 2 to its left."""

    half = 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x.flatten(1)[:, 0]
        return torch.stack([self.half - first.abs(), first - self.half, -first - self.half], 1)


def streams(count: int, shape: tuple[int, ...] = (2,)) -> list[NoiseStream]:
    return [NoiseStream(GAUSSIAN.at(1.0), shape, 0, "search", "test", i) for i in range(count)]


def settings(k: int, n: int = 500, h: float = 0.15, low: float = 0.12, high: float = 1.7) -> qcrs.Settings:
    found = SearchSettings.checked(strategy="qcrs", k_max=k, samples=n, set={"h": h, "low": low, "high": high}).of_strategy()
    assert isinstance(found, qcrs.Settings)
    return found


def literal(x: np.ndarray, sigma0: float, stream: NoiseStream, s: qcrs.Settings) -> list[float]:
    """Step by step as core_qcrs.py does it, on one image of a Slab, with both sigmas kept within the interval: the middles and the end."""

    def counts(sigma: float) -> np.ndarray:
        moved = torch.tensor(x, dtype=torch.float32) + sigma * stream.draw(s.samples, torch.device("cpu"))
        return np.bincount(Slab()(moved).argmax(1).numpy(), minlength=3)

    def radius(sigma: float, reference: int | None) -> float:
        found = counts(sigma)
        k = int(found.max())
        lower = float(beta.ppf(0.001, k, s.samples - k + 1))
        return sigma * float(norm.ppf(lower)) if lower >= 0.5 and reference in (None, int(found.argmax())) else 0.0

    reference = int(counts(sigma0).argmax())
    low, high, direction, path = float(s.low or 0), float(s.high or 0), 0, [sigma0]
    for _ in range(s.k_max):
        middle = (low + high) / 2
        plus, minus = min(middle + s.h, s.high), max(middle - s.h, s.low)
        g = radius(plus, reference) - radius(minus, reference)
        if g > 0:
            low, direction = middle, 1
        elif g < 0 or direction in (0, 1):
            high, direction = middle, -1
        else:
            low, direction = middle, 1
        path.append((low + high) / 2)
    end = float(np.float32(path[-1]))
    if radius(sigma0, None) >= radius(end, None):
        path[-1] = sigma0
    return path


@pytest.mark.parametrize("n", [50, 500])
def test_is_the_literal_bisection(n: int):
    x = np.array([[0.0, 0.3], [0.3, 0.0], [0.49, 0.1], [1.0, 1.0], [0.55, 0.2], [-3.0, 0.0]])
    wanted = [literal(one, 0.5, stream, settings(6, n)) for one, stream in zip(x, streams(len(x)), strict=True)]
    found = qcrs.search(Slab(), torch.tensor(x, dtype=torch.float32), 0.5, streams(len(x)), GAUSSIAN, settings(6, n))
    np.testing.assert_allclose(found.sigma.numpy(), np.array(wanted).T, rtol=1e-6)
    assert len(np.unique(found.sigma[-1])) > 2  # the images differ, and so do their sigmas


def test_finds_the_best_sigma_of_a_known_classifier():
    """In the middle of the slab p(sigma) = 2 Phi(half / sigma) - 1; a radius of n votes rises with sigma as long as all votes agree."""
    n = 20_000

    def negative_radius(sigma: float) -> float:
        p = 2 * norm.cdf(Slab.half / sigma) - 1
        return -sigma * norm.ppf(beta.ppf(0.001, p * n, n - p * n + 1))

    best = minimize_scalar(negative_radius, bounds=(0.05, 0.6), method="bounded").x
    found = qcrs.search(Slab(), torch.zeros(3, 2), 0.4, streams(3), GAUSSIAN, settings(7, n, h=0.03, low=0.05, high=0.6))
    assert np.abs(found.sigma[-1].numpy() - best).max() < 0.03


class Told(Slab):
    """A classifier that notes the sigma of each batch: its stream's noise is 1 everywhere, and so sigma what an image of zeros is moved by."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn, self.sigmas = False, []
        self.register_forward_hook(lambda *_: None)  # so that no copy of it runs

    def draw(self, n: int, device: torch.device) -> torch.Tensor:
        self.drawn = True
        return torch.ones(n, 2, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sigmas += [x[0, 0].item()] if self.drawn else []
        self.drawn = False
        return super().forward(x)


def test_sigmas_stay_within_their_bounds_and_none_is_probed_outside():
    """As in the authors' settings h is above the smallest sigma: middle - h would be negative."""
    model = Told()
    found = qcrs.search(model, torch.zeros(1, 2), 0.2, [model], GAUSSIAN, settings(8, 100, h=0.5, low=0.1, high=0.3))
    assert bool(((found.sigma >= 0.1 - 1e-7) & (found.sigma <= 0.3 + 1e-7)).all())
    assert len(model.sigmas) == 2 * 8 + 3 and (min(model.sigmas), max(model.sigmas)) == pytest.approx((0.1, 0.3))
    stated = SearchSettings.checked(strategy="qcrs", k_max=2, samples=50, sigma_min=0.1, sigma_max=0.3).of_strategy()
    assert bool((qcrs.search(Slab(), torch.zeros(4, 2), 0.2, streams(4), GAUSSIAN, stated).sigma <= 0.3 + 1e-7).all())
    with pytest.raises(DdrsError, match=r"must be within \[0.1, 0.3\]"):
        qcrs.search(Slab(), torch.zeros(1, 2), 0.5, streams(1), GAUSSIAN, stated)


def test_an_end_that_is_no_better_is_given_up_for_the_sigma_of_training():
    """Far from the border all votes agree at any sigma, so the radius rises up to the bound, where training was: it is not left."""
    high = settings(3, 200, low=0.1, high=0.3)
    assert qcrs.search(Slab(), torch.tensor([[-9.0, 0.0]]), 0.3, streams(1), GAUSSIAN, high).sigma[-1].item() == pytest.approx(0.3)


def test_the_api_takes_it():
    found = optimize_sigma(Slab(), torch.zeros(2, 2), 0.5, lr=0.15, iterations=5, n=100, strategy="qcrs")
    again = optimize_sigma(Slab(), torch.zeros(2, 2), 0.5, lr=0.15, iterations=5, n=100, strategy="qcrs")
    assert bool((found == again).all()) and found.shape == (2,)
    assert bool(((found - 0.22).abs() < 0.1).all()), "found, and not the 0.5 of training: see the best sigma of the slab"
