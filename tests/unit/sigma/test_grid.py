"""GDS, the grid search of Appendix B: a literal re-statement, its budget beside Algorithm 1's, ties, bounds and files."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import norm
from torch import nn

from ddrs.certification.records import read_log
from ddrs.certification.run import certify
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.shards import Shard
from ddrs.errors import DdrsError
from ddrs.models.checkpoints import load_model, read_facts, save_model
from ddrs.models.devices import Runtime
from ddrs.models.rowwise import PASSES, ROWS
from ddrs.noise.laws import Noise, get_noise
from ddrs.noise.streams import NoiseStream
from ddrs.sigma.run import search
from ddrs.sigma.search import optimize_sigma
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.stored import read_sigmas
from ddrs.sigma.strategies import ascent, grid

GAUSSIAN, UNIFORM = get_noise("gaussian"), get_noise("uniform")


def streams(count: int, shape: tuple[int, ...], noise: Noise = GAUSSIAN) -> list[NoiseStream]:
    return [NoiseStream(noise.at(1.0), shape, 0, "search", "test", i) for i in range(count)]


def on_grid(points: int, samples: int, **more: object) -> SearchSettings:
    return SearchSettings.checked(strategy="grid", k_max=points, samples=samples, **more)


def linear(classes: int = 4, inputs: int = 6) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, classes)


def equation_5(model: nn.Module, x: torch.Tensor, eps: np.ndarray, points: int, fixed: int | None, noise: Noise) -> tuple[float, list[float]]:
    """The argmax over {1/points, ..., 1} and every point's value, for one image; eps: (points, n, d)."""
    values = []
    for i in range(points):
        sigma = (i + 1) / points
        psi = np.zeros(4)
        for one in eps[i]:
            scores = model(x + torch.tensor(sigma * one, dtype=torch.float32)).detach().double().numpy()
            psi += np.exp(scores) / np.exp(scores).sum() / len(eps[i])
        c = int(psi.argmax()) if fixed is None else fixed
        top, other = np.clip(psi[c], 0.02, 0.98), np.clip(np.delete(psi, c).max(), 0.02, 0.98)
        values.append(sigma / 2 * (norm.ppf(top) - norm.ppf(other)) if noise is GAUSSIAN else sigma * (top - other))
    return (int(np.argmax(values)) + 1) / points, values


@pytest.mark.parametrize("noise", [GAUSSIAN, UNIFORM], ids=["gaussian", "uniform"])
@pytest.mark.parametrize("objective_class", ["current", "fixed"])
@pytest.mark.parametrize(("points", "samples"), [(20, 1), (7, 3)])
def test_is_the_literal_equation_of_the_paper(points: int, samples: int, objective_class: str, noise: Noise):
    model, x = linear(), torch.rand(5, 6, generator=torch.Generator().manual_seed(3)) * 4
    found = grid.search(model, x, 0.5, streams(5, (6,), noise), noise, on_grid(points, samples, objective_class=objective_class))
    assert found.sigma.shape == (points + 1, 5) and found.sigma.dtype == torch.float32
    assert torch.equal(found.sigma[0], torch.full((5,), 0.5))
    answers = set()
    for i, stream in enumerate(streams(5, (6,), noise)):
        fixed = None
        if objective_class == "fixed":
            fixed = int(model(x[i] + 0.5 * stream.draw(100)).softmax(1).mean(0).argmax())
        eps = stream.draw(points * samples).unflatten(0, (points, samples)).numpy()
        expected, values = equation_5(model, x[i], eps, points, fixed, noise)
        assert found.sigma[-1, i].item() == pytest.approx(expected, abs=1e-6)
        for k in range(1, points + 1):
            assert found.sigma[k, i].item() == pytest.approx((int(np.argmax(values[:k])) + 1) / points, abs=1e-6), "the best of the first k"
        answers.add(expected)
    assert len(answers) > 1


class Counter(nn.Module):
    """Counts the images of every forward and backward pass through a model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.evaluations = model, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.evaluations += len(x)
        scores = self.model(x)
        if scores.requires_grad:
            scores.register_hook(self.backward)
        return scores

    def backward(self, gradient: torch.Tensor) -> None:
        self.evaluations += len(gradient)


@pytest.mark.parametrize("objective_class", ["current", "fixed"])
def test_both_strategies_spend_the_same_evaluations(objective_class: str):
    """A forward and a backward pass are two: 100 steps with n = 1 are 200 per image, and so is every grid of the paper."""
    model, x = Counter(linear()), torch.rand(3, 6)
    shared = {"objective_class": objective_class}
    ascent.search(model, x, 0.5, streams(3, (6,)), GAUSSIAN, SearchSettings.checked(k_max=100, **shared))
    tried = PASSES * ROWS + 5 * (objective_class == "fixed")  # before any work; where classes are looked for, on a probe of 5 images as well
    spent = model.evaluations - tried
    assert spent == 3 * (200 + (100 if objective_class == "fixed" else 0)), "to which a fixed class adds its 100 samples, for both"
    for samples in (1, 2, 4, 10):
        model.evaluations = 0
        grid.search(model, x, 0.5, streams(3, (6,)), GAUSSIAN, on_grid(200 // samples, samples, **shared))
        assert model.evaluations - tried - 5 == spent


def test_of_equal_points_the_smallest_sigma_wins():
    """A model that never decides is worth 0 at every sigma; one that is sure everywhere is worth more at a larger one."""

    class Constant(nn.Module):
        def __init__(self, gap: float):
            super().__init__()
            self.gap = gap

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, self.gap]]).expand(len(x), 2)

    x = torch.rand(2, 6)
    for gap, best in ((0.0, 0.1), (50.0, 1.0)):
        assert torch.allclose(grid.search(Constant(gap), x, 0.5, streams(2, (6,)), GAUSSIAN, on_grid(10, 2)).sigma[-1], torch.tensor(best))


def test_sigma_stays_within_its_bounds_and_hits_are_counted():
    class Ridge(nn.Module):  # sure far to the right, else the surer the nearer to the origin
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gap = torch.where(x[:, 0] > 10, 50.0, (3.0 - 10 * x.norm(dim=1)).clamp_min(0.0))
            return torch.stack([gap, 0 * gap], 1)

    model, x = Ridge(), torch.tensor([[50.0, 0.0], [0.0, 0.0]])
    found = grid.search(model, x, 0.5, streams(2, (2,)), GAUSSIAN, on_grid(50, 40, sigma_min=0.05, sigma_max=0.6))
    assert found.sigma.min() >= np.float32(0.05) and found.sigma.max() <= np.float32(0.6)
    assert found.sigma[-1, 0] == np.float32(0.6) and 0.05 < found.sigma[-1, 1] < 0.5
    assert (found.at_min, found.at_max) == (2, 1), "the points 1/50 and 2/50 are moved to 0.05"
    with pytest.raises(DdrsError, match=r"sigma0 = 0.7: must be within \[0.001, 0.6\]"):
        grid.search(model, x, 0.7, streams(2, (2,)), GAUSSIAN, on_grid(50, 4, sigma_max=0.6))


def test_the_search_leaves_model_and_gradients_alone():
    model = nn.Sequential(nn.BatchNorm1d(6), linear()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    grid.search(model, torch.rand(3, 6), 0.5, streams(3, (6,)), GAUSSIAN, on_grid(5, 2))
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_optimize_sigma_takes_a_strategy_by_name():
    model, x = linear(), torch.rand(3, 6)
    found = optimize_sigma(model, x, 0.5, iterations=8, n=4, strategy="grid")
    assert found.shape == (3,) and torch.equal(found * 8, torch.round(found * 8))
    alone = torch.stack([optimize_sigma(model, one, 0.5, iterations=8, n=4, strategy="grid") for one in x])
    assert torch.equal(found, alone)
    with pytest.raises(DdrsError, match="strategy: unknown strategy 'gird' \\(did you mean 'grid'\\?\\); known are ascent, grid"):
        optimize_sigma(model, x, 0.5, strategy="gird")


def test_files_keep_their_columns_and_certificates_get_the_row_gds(trained: Path, small_mnist: Path, tmp_path: Path):
    out, log = tmp_path / "s.parquet", tmp_path / "log.tsv"
    runtime, quiet = Runtime(scratch=tmp_path), lambda line: None
    search(trained, small_mnist, out, on_grid(10, 2, batch_size=2), "test", 3, 0, runtime, quiet)
    table = pq.read_table(out)
    assert table.schema.names == ["idx", "K", "sigma_star"] and table["K"].to_pylist() == [*range(11)] * 3
    assert json.loads(table.schema.metadata[b"ddrs"])["settings"]["strategy"] == "grid"
    found, sigma0, strategy = read_sigmas(out, 10, np.array([0, 10, 20]), {})
    assert (sigma0, strategy) == (0.25, "grid") and all(round(10 * value, 5) == int(10 * value + 0.5) for value in found.values())
    sampling = ImageCertificateSettings(n0=10, n=50)
    certify(trained, small_mnist, log, sampling, None, out, 10, "test", 3, Shard(), None, None, 0, runtime, quiet)
    assert read_log(log).constant("method") == "cohen-gds" and read_log(log).constant("K") == "10"


def test_a_grid_on_a_ds2_model_is_no_row_of_the_paper(trained: Path, small_mnist: Path, tmp_path: Path):
    model, out, log = tmp_path / "ds2.safetensors", tmp_path / "s.parquet", tmp_path / "log.tsv"
    save_model(model, load_model(trained), {**read_facts(trained), "regime": "ds2"})
    for settings, label in ((on_grid(4, 1), "cohen-ds2-gds"), (SearchSettings(k_max=4), "cohen-ds2")):
        search(model, small_mnist, out, settings, "test", 2, 0, Runtime(scratch=tmp_path), lambda line: None)
        sampling = ImageCertificateSettings(n0=10, n=50)
        certify(model, small_mnist, log, sampling, None, out, 4, "test", 2, Shard(), None, None, 0, Runtime(scratch=tmp_path), lambda line: None)
        assert read_log(log).constant("method") == label
