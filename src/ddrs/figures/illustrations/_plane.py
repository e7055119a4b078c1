"""A problem in two dimensions that shows what the method is for: a classifier, and inputs with a sigma of their own.

Inputs are vectors in the plane, in the units of the picture; nothing here needs them in [0, 1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Circle
from torch import nn

from ddrs.certification.engine import certify
from ddrs.errors import DdrsError
from ddrs.models.running import evaluating
from ddrs.noise.streams import torch_generator
from ddrs.sigma.search import optimize_sigma

T = TypeVar("T")
SIGMA0 = 0.05  # where each search starts: so small that smoothing hardly changes a class ("sigma_0 can be zero", Section 3.4)
N, ALPHA = 5_000, 0.001
INPUTS = 150
COLOURS = ("#0072B2", "#D55E00")  # of the classes (Okabe and Ito)
FILLS = ("#B5D3E8", "#FCEFE4")  # one clearly darker, also in grey print
EDGES = {0: "-", 1: "--"}  # of balls, so that grey print tells the classes apart


@dataclass(frozen=True)
class Plane:
    """A classifier of the plane and its inputs. x: float32 (INPUTS, 2); labels: int64 (INPUTS,); sigmas: float32 (INPUTS,), sigma* of each."""

    model: nn.Module
    x: torch.Tensor
    labels: np.ndarray
    sigmas: np.ndarray
    seed: int

    def certificates(self, sigma: float | np.ndarray, inputs: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Certified class and radius of some inputs (default: all), at one sigma or one each."""
        x = self.x if inputs is None else self.x[torch.from_numpy(inputs)]
        certified = certify(self.model, x, sigma, n=N, alpha=ALPHA, seed=self.seed, batch_size=1000)
        return np.asarray(certified.prediction), np.asarray(certified.radius)

    def first(self, ranked: Sequence[T], what: str) -> T:
        """The first of some candidates for a picture, or a DdrsError that says what this run lacks."""
        if not len(ranked):
            raise DdrsError(f"illustrate: with seed {self.seed} there is no {what}; try another seed")
        return ranked[0]


def truth(x: torch.Tensor) -> torch.Tensor:
    """The true class: 1 right of a line, but for a tongue of class 0 that tapers to the right."""
    return ((x[:, 0] > 0) & (x[:, 1].abs() > 0.6 - 0.35 * x[:, 0])).long()


def make_plane(seed: int) -> Plane:
    """Train a small network on points of the plane, without noise, and search the sigma of new inputs with Algorithm 1."""
    points = _points(2000, (6.0, 4.0), seed, "points")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(300):
        loss = nn.functional.cross_entropy(model(points), truth(points))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    x = _points(INPUTS, (3.4, 2.6), seed, "inputs")
    sigmas = optimize_sigma(model, x, SIGMA0, lr=0.01, iterations=50, n=64, objective_class="fixed", seed=seed)
    return Plane(model, x, truth(x).numpy(), sigmas.numpy(), seed)


def _points(count: int, size: tuple[float, float], seed: int, what: str) -> torch.Tensor:
    """Uniform in a rectangle around the origin."""
    return (torch.rand(count, 2, generator=torch_generator(seed, "illustrate", what)) - 0.5) * torch.tensor(size)


def draw_regions(axis: Axes, plane: Plane, limits: tuple[float, float, float, float]) -> None:
    """The classifier's regions as the background of a panel; limits: left, right, bottom, top."""
    left, right, bottom, top = limits
    rows, columns = torch.linspace(bottom, top, 400), torch.linspace(left, right, 400)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    with evaluating(plane.model), torch.no_grad():
        classes = plane.model(grid.flatten(0, 1)).argmax(1).unflatten(0, (400, 400))
    axis.imshow(classes.numpy(), origin="lower", extent=limits, cmap=ListedColormap(FILLS), vmin=0, vmax=1, interpolation="nearest")
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])


def draw_ball(axis: Axes, centre: np.ndarray, radius: float, colour: str, dashes: str, width: float = 1.6) -> None:
    axis.add_patch(Circle((float(centre[0]), float(centre[1])), radius, fill=False, edgecolor=colour, linestyle=dashes, linewidth=width))
