"""Smoothing noise: four names for two laws on two grids, the radius that each certifies, and the objective that a search ascends."""

from typing import Protocol

import numpy as np
import torch
from scipy.special import ndtri

from ddrs.errors import DdrsError
from ddrs.noise.norms import NORMS, Law, Norm
from ddrs.noise.samplers import FineGrid, PixelGrid, Sampler


class Noise(Protocol):
    """A smoothing distribution with scale sigma (lambda for uniform noise), in units of the [0,1] pixel scale."""

    name: str
    base: Law  # the continuous law behind it
    norm: Norm

    def at(self, sigma: float) -> Sampler:
        """What draws at one scale; its preparation costs little, but do it once per image."""
        ...

    def draw(self, out: torch.Tensor, generator: torch.Generator) -> None:
        """Fill `out`, float32, with torch's own draws of the continuous law at scale 1: for training, which proves nothing."""
        ...

    def radius(self, p_lower: np.ndarray | float, sigma: np.ndarray | np.floating | float) -> np.ndarray:
        """Certified radius of a lower bound on the top class's probability; meaningful for p_lower > 1/2."""
        ...

    def joint_radius(self, p_lower: float, p_upper: float, sigma: float) -> float:
        """Certified radius of bounds on the top class's and every other class's probability; meaningful for p_lower > p_upper."""
        ...

    def objective(self, top: torch.Tensor, runner_up: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The radius that the sigma search ascends, from the two largest mean softmax outputs."""
        ...


class Gaussian:
    """N(0, sigma^2 I), certifying l2 balls (Cohen et al. 2019), on a grid of sigma / 4096."""

    name: str = "gaussian"
    base: Law = "gaussian"
    norm: Norm = NORMS["gaussian"]

    def at(self, sigma: float) -> Sampler:
        return FineGrid(self.base, sigma)

    def draw(self, out: torch.Tensor, generator: torch.Generator) -> None:
        out.normal_(generator=generator)

    def radius(self, p_lower: np.ndarray | float, sigma: np.ndarray | np.floating | float) -> np.ndarray:
        """R = sigma * Phi^-1(p_lower), in float64 (Cohen et al. 2019, Theorem 1 with p_B = 1 - p_A)."""
        return np.asarray(sigma, np.float64) * ndtri(np.asarray(p_lower, np.float64))

    def joint_radius(self, p_lower: float, p_upper: float, sigma: float) -> float:
        """R = sigma / 2 * (Phi^-1(p_lower) - Phi^-1(p_upper)) (Cohen et al. 2019, Theorem 1)."""
        return float(sigma) / 2 * float(ndtri(p_lower) - ndtri(p_upper))

    def objective(self, top: torch.Tensor, runner_up: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Equation 1 of the paper."""
        return sigma / 2 * (torch.special.ndtri(top) - torch.special.ndtri(runner_up))


class Uniform:
    """U[-lambda, lambda]^d, certifying l1 balls (Yang et al. 2020), on a grid of lambda / 2^18; `sigma` is lambda."""

    name: str = "uniform"
    base: Law = "uniform"
    norm: Norm = NORMS["uniform"]

    def at(self, sigma: float) -> Sampler:
        return FineGrid(self.base, sigma)

    def draw(self, out: torch.Tensor, generator: torch.Generator) -> None:
        out.uniform_(-1.0, 1.0, generator=generator)

    def radius(self, p_lower: np.ndarray | float, sigma: np.ndarray | np.floating | float) -> np.ndarray:
        """R = 2 lambda (p_lower - 1/2), in float64 (Yang et al. 2020)."""
        return 2 * np.asarray(sigma, np.float64) * (np.asarray(p_lower, np.float64) - 0.5)

    def joint_radius(self, p_lower: float, p_upper: float, sigma: float) -> float:
        """R = lambda (p_lower - p_upper) (Yang et al. 2020)."""
        return float(sigma) * (p_lower - p_upper)

    def objective(self, top: torch.Tensor, runner_up: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Equation 4 of the paper."""
        return sigma * (top - runner_up)


class GaussianLattice(Gaussian):
    """Gaussian noise on the pixel grid of 1/255. Certifies images on that grid (8-bit images) only, for the classifier that rounds to it."""

    name = "lattice"
    norm: Norm = NORMS["lattice"]

    def at(self, sigma: float) -> Sampler:
        """DdrsError for a sigma above 4."""
        return PixelGrid(self.base, sigma)


class UniformLattice(Uniform):
    """Uniform noise on the pixel grid, as `GaussianLattice`."""

    name = "uniform-lattice"
    norm: Norm = NORMS["uniform-lattice"]

    def at(self, sigma: float) -> Sampler:
        """As `GaussianLattice.at`."""
        return PixelGrid(self.base, sigma)


NOISES: dict[str, Noise] = {"gaussian": Gaussian(), "uniform": Uniform()}  # what models are trained with and sigma is searched with
LATTICES: dict[str, Noise] = {"lattice": GaussianLattice(), "uniform-lattice": UniformLattice()}
CERTIFIABLE: dict[str, Noise] = {**NOISES, **LATTICES}


def get_noise(name: str) -> Noise:
    """The noise of that name that models are trained with, or a DdrsError that lists the names."""
    if name not in NOISES:
        raise DdrsError(f"noise {name!r}: unknown; known are {', '.join(NOISES)}")
    return NOISES[name]


def certifiable_noise(name: str) -> Noise:
    """The noise of that name, on either grid, or a DdrsError that lists the names."""
    if name not in CERTIFIABLE:
        raise DdrsError(f"noise {name!r}: unknown; known are {', '.join(CERTIFIABLE)}")
    return CERTIFIABLE[name]


def check_sigma(sigma: float) -> None:
    """DdrsError unless sigma is a finite number > 0."""
    if not (np.isfinite(sigma) and sigma > 0):
        raise DdrsError(f"sigma = {sigma}: must be a finite number > 0")
