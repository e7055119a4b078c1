"""Smoothing noise: the two distributions, and streams that are a function of their key alone.

Every draw that enters a certificate is PRF(seed, purpose, split, example id, block): no two purposes share a stream, and batch
size, sharding, resume and the order of the examples change no sample.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from scipy.special import ndtri

from ddrs.errors import DdrsError
from ddrs.noise.norms import NORMS, Law, Norm
from ddrs.noise.streams import BlockSource


class Noise(BlockSource, Protocol):
    """A smoothing distribution with scale sigma (lambda for uniform noise), in units of the [0,1] pixel scale. `fill` is at scale 1."""

    name: str
    base: Law  # the continuous law behind it
    norm: Norm

    def at(self, sigma: float) -> "Sampler":
        """What draws at one scale; its preparation costs little, but do it once per image."""
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


class Sampler(BlockSource, Protocol):
    """Draws a noise at one scale and makes noisy copies of an image of it."""

    def place(self, out: torch.Tensor, image: torch.Tensor) -> None:
        """Turn noise (m, d) into m noisy copies of an image (d,), in place."""
        ...

    def deviation(self, device: torch.device) -> float | None:
        """A proven bound on how far a coordinate's law is from the true one, in total variation, on that device; None if none is proven."""
        ...


@dataclass(frozen=True)
class Scaled:
    """A continuous law at one scale: x + sigma * noise in float32.

    Draws are float32, so their law is discrete: its total variation from the continuous one is 1. From that one rounded to float32 it is
    at least 1.1e-7 a value of a Gaussian on a CPU (NumPy's ziggurat has 23 bits: P(0) = 2^-23), and no upper bound is proven.
    """

    noise: "Gaussian | Uniform"
    sigma: float

    def generator(self, key: int) -> np.random.Generator:
        return self.noise.generator(key)

    def fill(self, out: torch.Tensor, generator: np.random.Generator | torch.Generator) -> None:
        self.noise.fill(out, generator)

    def place(self, out: torch.Tensor, image: torch.Tensor) -> None:
        values, pixels = in_place(out), in_place(image)
        values *= self.sigma
        values += pixels

    def deviation(self, device: torch.device) -> None:
        """None: certificates with continuous noise take the draws as if they were of the true law."""


class Gaussian:
    """N(0, sigma^2 I), certifying l2 balls (Cohen et al. 2019).

    What float32 samplers are proven to lose is the tail: 2.5e-16 a value beyond 8.2 sigma, the end of NumPy's ziggurat with 24-bit tails;
    4.2e-11 beyond 6.6 sigma, that of CUDA's Box-Muller of 32-bit words. That bounds nothing else of their law (see `Scaled`).
    """

    name: str = "gaussian"
    base: Law = "gaussian"
    norm: Norm = NORMS["gaussian"]

    def at(self, sigma: float) -> Sampler:
        return Scaled(self, sigma)

    def generator(self, key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=key))

    def fill(self, out: torch.Tensor, generator: np.random.Generator | torch.Generator) -> None:
        if isinstance(generator, torch.Generator):
            out.normal_(generator=generator)
        else:
            generator.standard_normal(out=out.numpy(), dtype=np.float32)

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
    """U[-lambda, lambda]^d, certifying l1 balls (Yang et al. 2020); `sigma` is lambda."""

    name: str = "uniform"
    base: Law = "uniform"
    norm: Norm = NORMS["uniform"]

    def at(self, sigma: float) -> Sampler:
        return Scaled(self, sigma)

    def generator(self, key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=key))

    def fill(self, out: torch.Tensor, generator: np.random.Generator | torch.Generator) -> None:
        if isinstance(generator, torch.Generator):
            out.uniform_(-1.0, 1.0, generator=generator)
        else:
            generator.random(out=out.numpy(), dtype=np.float32)
            out.mul_(2.0).sub_(1.0)

    def radius(self, p_lower: np.ndarray | float, sigma: np.ndarray | np.floating | float) -> np.ndarray:
        """R = 2 lambda (p_lower - 1/2), in float64 (Yang et al. 2020)."""
        return 2 * np.asarray(sigma, np.float64) * (np.asarray(p_lower, np.float64) - 0.5)

    def joint_radius(self, p_lower: float, p_upper: float, sigma: float) -> float:
        """R = lambda (p_lower - p_upper) (Yang et al. 2020)."""
        return float(sigma) * (p_lower - p_upper)

    def objective(self, top: torch.Tensor, runner_up: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Equation 4 of the paper."""
        return sigma * (top - runner_up)


def in_place(values: torch.Tensor) -> Any:
    """A view on which `+=` runs in the calling thread alone: NumPy's on the CPU, where torch would start threads of its own."""
    return values.numpy() if values.device.type == "cpu" else values


NOISES: dict[str, Noise] = {"gaussian": Gaussian(), "uniform": Uniform()}  # what models are trained with and sigma is searched with


def get_noise(name: str) -> Noise:
    """The continuous noise of that name, or a DdrsError that lists the names."""
    if name not in NOISES:
        raise DdrsError(f"noise {name!r}: unknown; known are {', '.join(NOISES)}")
    return NOISES[name]


def check_sigma(sigma: float) -> None:
    """DdrsError unless sigma is a finite number > 0."""
    if not (np.isfinite(sigma) and sigma > 0):
        raise DdrsError(f"sigma = {sigma}: must be a finite number > 0")
