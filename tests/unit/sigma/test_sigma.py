"""The sigma search (Algorithm 1): what it ascends, what it draws, and what it leaves alone."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ddrs.data.splits import load_split
from ddrs.errors import DdrsError
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import load_model
from ddrs.models.rowwise import PASSES
from ddrs.models.tangents import tangents_of
from ddrs.noise.laws import get_noise
from ddrs.noise.streams import NoiseStream
from ddrs.sigma import objective
from ddrs.sigma.search import optimize_sigma
from ddrs.sigma.settings import SearchSettings, StepSettings
from ddrs.sigma.strategies import ascent, grid
from tests.conftest import HalfSpace

GAUSSIAN, UNIFORM = get_noise("gaussian"), get_noise("uniform")


def streams(count: int, shape: tuple[int, ...], seed: int = 0, noise=GAUSSIAN) -> list[NoiseStream]:
    return [NoiseStream(noise.at(1.0), shape, seed, "search", "test", i) for i in range(count)]


class Recorder(nn.Module):
    """Passes its input on to a model and keeps it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.inputs = model, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inputs.append(x.detach().clone())
        return self.model(x)


def linear(classes: int = 4, inputs: int = 6, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, classes)


# the objective


def test_the_objective_is_the_literal_equation():
    model, generator = linear(), torch.Generator().manual_seed(1)
    x, sigma, eps = torch.rand(3, 6, generator=generator), torch.tensor([0.3, 0.6, 1.2]), torch.randn(3, 5, 6, generator=generator)
    found = objective.objective(model, x, sigma, eps, GAUSSIAN, None)
    normal = torch.distributions.Normal(0.0, 1.0)
    for i in range(3):
        psi = torch.stack([torch.softmax(model(x[i] + sigma[i] * eps[i, j]), 0) for j in range(5)]).mean(0).sort(descending=True).values
        assert 0.02 < psi[1] < psi[0] < 0.98
        assert found[i].item() == pytest.approx((sigma[i] / 2 * (normal.icdf(psi[0]) - normal.icdf(psi[1]))).item(), rel=1e-4)


def test_softmax_is_averaged_not_logits():
    """Two samples with opposite scores, one ten times as sure: the mean softmax is a draw, the mean logit is not."""
    model = nn.Linear(1, 2, bias=False)
    model.weight.data = torch.tensor([[20.0], [-20.0]])
    eps = torch.tensor([[[1.0], [-10.0]]])
    found = objective.objective(model, torch.zeros(1, 1), torch.tensor([1.0]), eps, GAUSSIAN, None)
    assert abs(found.item()) < 1e-5


@pytest.mark.parametrize("noise", [GAUSSIAN, UNIFORM], ids=["gaussian", "uniform"])
@pytest.mark.parametrize("fixed", [False, True], ids=["current", "fixed"])
def test_the_gradient_is_the_finite_difference_under_the_same_noise(noise, fixed: bool):
    model, generator = linear().double(), torch.Generator().manual_seed(2)
    x = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    eps = torch.randn(4, 7, 6, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([0.2, 0.5, 0.9, 1.4], dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 3]) if fixed else None
    settings = StepSettings(step_size=0.01, sigma_min=1e-6, sigma_max=100.0)
    gradient = (objective.step(model, x, sigma, eps, noise, settings, classes) - sigma) / 0.01
    h = 1e-6
    with torch.no_grad():
        up, down = (objective.objective(model, x, sigma + d, eps, noise, classes) for d in (h, -h))
    assert torch.allclose(gradient, (up - down) / (2 * h), atol=1e-6)
    assert gradient.abs().min() > 1e-3


def test_both_probabilities_are_clamped_to_002_and_098(half_space: HalfSpace):
    x = torch.tensor([[5.0, 0.0]])
    found = objective.objective(half_space, x, torch.tensor([0.5]), torch.zeros(1, 3, 2), GAUSSIAN, None)
    assert found.item() == pytest.approx(0.5 * 2.0537489, rel=1e-5)


def test_a_saturated_step_moves_sigma_by_2e_4_at_step_1e_4(half_space: HalfSpace):
    x = torch.tensor([[50.0, 0.0], [-50.0, 3.0]])
    found = ascent.search(half_space, x, 0.25, streams(2, (2,)), GAUSSIAN, SearchSettings(k_max=10))
    assert torch.allclose(found.sigma.diff(dim=0), torch.tensor(2.0537e-4), atol=1e-7)


def test_the_uniform_objective_is_lambda_times_the_gap():
    model, generator = linear(), torch.Generator().manual_seed(1)
    x, sigma, eps = torch.rand(3, 6, generator=generator), torch.tensor([0.3, 0.6, 1.2]), torch.rand(3, 5, 6, generator=generator) * 2 - 1
    found = objective.objective(model, x, sigma, eps, UNIFORM, None)
    for i in range(3):
        psi = torch.stack([torch.softmax(model(x[i] + sigma[i] * eps[i, j]), 0) for j in range(5)]).mean(0).sort(descending=True).values
        assert found[i].item() == pytest.approx((sigma[i] * (psi[0] - psi[1])).item(), rel=1e-4)


def test_a_saturated_uniform_step_moves_lambda_by_096_of_the_step(half_space: HalfSpace):
    found = ascent.search(half_space, torch.tensor([[50.0, 0.0]]), 0.5, streams(1, (2,), noise=UNIFORM), UNIFORM, SearchSettings(k_max=5))
    assert torch.allclose(found.sigma.diff(dim=0), torch.tensor(0.96e-4), atol=1e-7)


def test_the_fixed_class_may_have_a_negative_objective():
    model = nn.Linear(1, 3)
    model.weight.data, model.bias.data = torch.zeros(3, 1), torch.tensor([2.0, 1.0, 0.0])
    arguments = (model, torch.zeros(1, 1), torch.tensor([1.0]), torch.zeros(1, 1, 1), GAUSSIAN)
    current = objective.objective(*arguments, None)
    assert torch.allclose(objective.objective(*arguments, torch.tensor([0])), current) and current > 0
    assert torch.allclose(objective.objective(*arguments, torch.tensor([1])), -current)
    assert objective.objective(*arguments, torch.tensor([2])) < -current


# the search


@pytest.mark.parametrize("noise", [GAUSSIAN, UNIFORM], ids=["gaussian", "uniform"])
def test_noise_is_drawn_at_the_current_sigma_and_fresh_in_each_step(noise, half_space: HalfSpace):
    """The paper's official code scales by sigma once, before the loop; then the inputs would not spread with sigma."""
    model, x, k, n = Recorder(half_space), torch.tensor([[50.0, 1.0], [-80.0, 2.0]]), 40, 3
    settings = SearchSettings(k_max=k, step_size=0.05, samples=n, sigma_max=100.0)
    found = ascent.search(model, x, 0.25, streams(2, (2,), noise=noise), noise, settings)
    assert found.sigma[-1].min() > 1.5
    del model.inputs[:PASSES]  # of the check before any work
    assert len(model.inputs) == k
    for i, stream in enumerate(streams(2, (2,), noise=noise)):
        eps = stream.draw(k * n).unflatten(0, (k, n))
        for step in range(k):
            seen = model.inputs[step].unflatten(0, (2, n))[i]
            assert torch.allclose(seen, x[i] + found.sigma[step, i] * eps[step], atol=1e-5)


def test_every_step_is_the_step_from_the_last_sigma():
    model, x, settings = linear(), torch.rand(3, 6), SearchSettings(k_max=130, step_size=0.01, samples=2)
    found = ascent.search(model, x, 0.5, streams(3, (6,)), GAUSSIAN, settings).sigma
    assert found.shape == (131, 3) and found.dtype == torch.float32
    assert torch.equal(found[0], torch.full((3,), 0.5))
    eps, sigma = torch.stack([stream.draw(260) for stream in streams(3, (6,))]).unflatten(1, (130, 2)), found[0]
    for step in range(130):
        sigma = objective.step(model, x, sigma, eps[:, step], GAUSSIAN, settings)
        assert torch.equal(sigma, found[step + 1])


@pytest.mark.parametrize("noise", [GAUSSIAN, UNIFORM], ids=["gaussian", "uniform"])
@pytest.mark.parametrize(("objective_class", "samples"), [("current", 1), ("fixed", 1), ("fixed", 3)])
def test_the_trajectory_is_that_of_algorithm_1_step_by_step(objective_class: str, samples: int, noise, trained: Path, small_mnist: Path):
    """Each image alone, in a plain loop with a backward pass through the model as it was trained."""
    model, k = load_model(trained).eval(), 40
    images = torch.tensor(load_split(small_mnist, "test").images[:10] / np.float32(255))
    settings = SearchSettings.checked(k_max=k, step_size=0.005, samples=samples, objective_class=objective_class)
    assert tangents_of(model, tuple(images.shape[1:])) is not None
    found = ascent.search(model, images, 0.25, streams(10, (1, 28, 28), noise=noise), noise, settings).sigma
    normal, saturated = torch.distributions.Normal(0.0, 1.0), 0
    for i, stream in enumerate(streams(10, (1, 28, 28), noise=noise)):
        sigma = torch.tensor(0.25)
        fixed = int(model(images[i] + sigma * stream.draw(100)).softmax(1).mean(0).argmax()) if objective_class == "fixed" else None
        for step in range(k):
            sigma = sigma.detach().requires_grad_(True)
            psi = model(images[i] + sigma * stream.draw(samples)).softmax(1).mean(0)
            c = int(psi.argmax()) if fixed is None else fixed
            top, other = psi[c].clamp(0.02, 0.98), torch.cat([psi[:c], psi[c + 1 :]]).max().clamp(0.02, 0.98)
            value = sigma / 2 * (normal.icdf(top) - normal.icdf(other)) if noise is GAUSSIAN else sigma * (top - other)
            value.backward()
            saturated += top.item() == pytest.approx(0.98) and other.item() == pytest.approx(0.02)
            assert sigma.grad is not None
            sigma = (sigma.detach() + 0.005 * sigma.grad).clamp(1e-3, 2.0)
            assert found[step + 1, i].item() == pytest.approx(sigma.item(), abs=1e-5)
    assert 0 < saturated < 10 * k, "images of both kinds: that are passed a second time, and that are not"


@pytest.mark.parametrize("strategy", [ascent, grid])
def test_a_model_that_overflows_only_far_from_the_images_is_an_error(strategy):
    """The check before any work does not see it; which step does is looked at now and then only."""
    model = nn.Sequential(nn.Linear(2, 3))
    model[0].weight.data, model[0].bias.data = torch.zeros(3, 2), torch.zeros(3)
    model[0].weight.data[0, 0] = 1e38
    assert tangents_of(model, (2,)) is not None
    settings = SearchSettings.checked(strategy=strategy.__name__.rpartition(".")[2], k_max=70)
    with pytest.raises(DdrsError, match="NaN or infinite"):
        strategy.search(model, torch.full((4, 2), 2.0), 1.0, streams(4, (2,)), GAUSSIAN, settings)


def test_noise_is_drawn_in_parts_that_memory_holds(monkeypatch: pytest.MonkeyPatch):
    settings = SearchSettings(k_max=23, samples=2)
    whole = torch.stack(list(objective.noise_of_steps(streams(3, (6,)), settings, torch.device("cpu"))))
    monkeypatch.setattr(objective, "BUFFERED", 5 * 3 * 2 * 6)
    assert torch.equal(torch.stack(list(objective.noise_of_steps(streams(3, (6,)), settings, torch.device("cpu")))), whole)


@pytest.mark.parametrize("samples", [1, 8, 150])
@pytest.mark.parametrize("objective_class", ["current", "fixed"])
def test_a_longer_run_contains_the_shorter_one(samples: int, objective_class: str):
    model, x = linear(), torch.rand(3, 6)
    paths = [
        ascent.search(
            model,
            x,
            0.5,
            streams(3, (6,)),
            GAUSSIAN,
            SearchSettings(k_max=k, step_size=0.01, samples=samples, objective_class=objective_class),
        ).sigma
        for k in (10, 20)
    ]
    assert torch.equal(paths[1][:11], paths[0])


class Crossing(nn.Module):
    """Scores for x in one dimension: class 0 is ahead below 1, class 1 above, class 2 never."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return torch.cat([1.0 - x, x - 1.0, -4 + 0 * x], 1)


def test_the_class_of_the_objective_is_current_or_that_at_sigma0():
    x = torch.tensor([[1.0]])
    both = {}
    for objective_class in ("current", "fixed"):
        model = Recorder(Crossing())
        settings = SearchSettings(k_max=30, step_size=0.02, objective_class=objective_class)
        both[objective_class] = ascent.search(model, x, 0.5, streams(1, (1,)), GAUSSIAN, settings).sigma
        del model.inputs[:PASSES]  # of the check before any work
        if objective_class == "fixed":
            del model.inputs[0]  # of the probe, which shows that the model remembers its passes
            assert len(model.inputs[0]) == 100, "the class at sigma_0 is picked by samples of its own"
            assert not torch.isin(model.inputs[1], model.inputs[0]).any(), "which the steps do not see again"
        else:
            assert [len(inputs) for inputs in model.inputs] == [1] * 30
    assert not torch.equal(both["current"], both["fixed"])
    psi_of_steps = streams(1, (1,))[0].draw(30)
    assert (psi_of_steps > 0).any() and (psi_of_steps < 0).any(), "the current class does change along this stream"


def test_mean_class_is_the_argmax_of_the_mean_softmax():
    """Most samples are slightly of class 0, some of class 1 for sure: votes would say 0, the mean softmax says 1."""

    class Lopsided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sure = x.flatten(1) > 0.3
            return torch.cat([torch.full_like(sure, 0.05, dtype=torch.float32), torch.where(sure, 20.0, 0.0)], 1)

    found = objective.mean_class(Lopsided(), torch.zeros(2, 1), torch.ones(2), streams(2, (1,)))
    assert found.tolist() == [1, 1]


def test_sigma_stays_within_its_bounds_and_hits_are_counted(half_space: HalfSpace):
    x = torch.tensor([[50.0, 0.0], [60.0, 0.0], [0.3, 0.0]])
    settings = SearchSettings(k_max=200, step_size=0.05, sigma_min=0.2, sigma_max=0.6)
    found = ascent.search(half_space, x, 0.5, streams(3, (2,)), GAUSSIAN, settings)
    assert found.sigma.min() >= np.float32(0.2) and found.sigma.max() <= np.float32(0.6)
    assert torch.equal(found.sigma[-1, :2], torch.tensor([0.6, 0.6]))
    touched = (found.sigma[1:] >= np.float32(0.6)).any(0)
    assert found.at_max == int(touched.sum()) >= 2

    class Falling(nn.Module):  # surer the nearer to the origin
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gap = 3.0 - 10 * x.flatten(1).norm(dim=1)
            return torch.stack([gap.clamp_min(0.1), 0 * gap], 1)

    down = ascent.search(Falling(), torch.zeros(2, 2), 0.25, streams(2, (2,)), GAUSSIAN, settings.model_copy(update={"samples": 10}))
    assert down.at_min == 2 and down.at_max == 0
    assert torch.equal(down.sigma.min(0).values, torch.tensor([0.2, 0.2]))


def test_an_image_has_the_same_sigma_alone_and_in_any_batch(trained: Path, small_mnist: Path):
    model = load_model(trained)
    images = torch.tensor(load_split(small_mnist, "test").images[:6] / np.float32(255))
    together = optimize_sigma(model, images, 0.25, lr=0.01, iterations=12, n=2)
    backwards = optimize_sigma(model, images.flip(0), 0.25, lr=0.01, iterations=12, n=2).flip(0)
    alone = torch.stack([optimize_sigma(model, image, 0.25, lr=0.01, iterations=12, n=2) for image in images])
    assert together.shape == (6,) and together.unique().numel() > 1
    assert torch.allclose(together, backwards, atol=1e-6) and torch.allclose(together, alone, atol=1e-6)
    linear_model = nn.Sequential(nn.Flatten(), linear(10, 784))
    together = optimize_sigma(linear_model, images, 0.25, lr=0.01, iterations=12)
    assert torch.allclose(together[3], optimize_sigma(linear_model, images[3], 0.25, lr=0.01, iterations=12), atol=1e-6)


def test_noise_is_keyed_by_seed_split_and_example_id():
    model, x = linear(), torch.rand(2, 6)
    same = x[:1].expand(2, 6)

    def sigma(images: torch.Tensor = x, **more: object) -> torch.Tensor:
        return optimize_sigma(model, images, 0.5, lr=0.01, iterations=5, **more)

    base = sigma()
    assert torch.equal(sigma(), base)
    assert not torch.equal(sigma(seed=1), base) and not torch.equal(sigma(split="test"), base)
    assert sigma(same).unique().numel() == 1, "equal images are keyed by their content"
    assert sigma(same, example_ids=["a", "b"]).unique().numel() == 2
    assert torch.equal(sigma(x.flip(0), example_ids=["b", "a"]).flip(0), sigma(x, example_ids=["a", "b"]))


def test_optimize_sigma_gives_a_scalar_for_one_image_and_a_vector_for_a_batch():
    model = nn.Sequential(nn.Flatten(), linear(3, 12))
    assert optimize_sigma(model, torch.rand(3, 2, 2), 0.5, iterations=1).shape == ()
    assert optimize_sigma(model, torch.rand(5, 3, 2, 2), 0.5, iterations=1).shape == (5,)
    assert optimize_sigma(linear(), torch.rand(6), 0.5, iterations=1).shape == ()
    assert optimize_sigma(linear(), torch.rand(1, 6), 0.5, iterations=1).shape == (1,)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sigma0": 3.0}, r"sigma0 = 3.0: must be within \[0.001, 2.0\]"),
        ({"sigma0": 0.0}, r"sigma0 = 0.0: must be within"),
        ({"sigma0": math.nan}, r"sigma0 = nan: must be within"),
        ({"lr": 0.0}, "lr = 0"),
        ({"iterations": 0}, "iterations = 0"),
        ({"n": 0}, "n = 0"),
        ({"objective_class": "best"}, "objective_class: Input should be 'current' or 'fixed'"),
        ({"noise": "laplace"}, "noise 'laplace': unknown; known are gaussian, uniform"),
        ({"example_ids": ["a"]}, "example_ids: 1 ids for 2 images"),
    ],
)
def test_arguments_out_of_range_are_one_line(more: dict, message: str):
    with pytest.raises(DdrsError, match=message) as error:
        optimize_sigma(linear(), torch.rand(2, 6), **{"sigma0": 0.5, "iterations": 1, **more})
    assert "\n" not in str(error.value)


def test_the_model_is_left_as_it_was():
    torch.manual_seed(0)
    model = build_model("small_cnn", (1, 28, 28), 10).train()
    model[1].eval()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes, needs = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    x = torch.rand(3, 1, 28, 28)
    before = x.clone()
    for objective_class in ("current", "fixed"):
        optimize_sigma(model, x, 0.25, lr=0.01, iterations=3, objective_class=objective_class)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == needs
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(x, before) and not x.requires_grad


def test_the_search_runs_in_eval_mode():
    modes = []

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.append(self.training)
            return x.flatten(1)[:, :3]

    optimize_sigma(Spy(), torch.rand(2, 6), 0.5, iterations=2, objective_class="fixed")
    assert modes and not any(modes)


def test_the_callers_gradient_mode_does_not_matter():
    model, x = linear(), torch.rand(2, 6)
    expected = optimize_sigma(model, x, 0.5, lr=0.01, iterations=3)
    with torch.no_grad():
        assert torch.equal(optimize_sigma(model, x, 0.5, lr=0.01, iterations=3), expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_that_returns_no_numbers_is_an_error_and_put_back(bad: float):
    model = linear().train()
    model.bias.data[2] = bad
    with pytest.raises(DdrsError, match="NaN or infinite") as error:
        optimize_sigma(model, torch.rand(2, 6), 0.5, iterations=3)
    assert "\n" not in str(error.value) and model.training
