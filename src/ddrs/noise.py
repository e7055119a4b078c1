"""Smoothing noise: the two distributions, and streams that are a function of their key alone.

Every draw that enters a certificate is PRF(seed, purpose, split, example id, block): no two purposes share a stream, and batch
size, sharding, resume and the order of the examples change no sample.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from scipy.special import ndtri

from ddrs.errors import DdrsError
from ddrs.norms import NORMS, Norm

Purpose = Literal["train", "search", "select-class", "pilot", "estimate", "falsify-search", "falsify-confirm", "illustrate"]
Law = Literal["gaussian", "uniform"]
BLOCK = 100  # samples per block; part of the law that maps a key to samples, so changing it changes every result


class Source(Protocol):
    """What a stream draws blocks from."""

    def generator(self, key: int) -> Any:
        """The CPU's generator of one block."""
        ...

    def fill(self, out: torch.Tensor, generator: Any) -> None:
        """Fill `out` (float32, contiguous). With a generator of the CPU, cutting a call in two changes nothing."""
        ...


class Noise(Source, Protocol):
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


class Sampler(Source, Protocol):
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


def stream_key(seed: int, purpose: Purpose, *parts: object) -> int:
    """128 bits from a seed, a purpose and further parts (split, example id, block)."""
    if purpose not in get_args(Purpose):
        raise DdrsError(f"noise purpose {purpose!r}: unknown; known are {', '.join(get_args(Purpose))}")
    check_seed(seed)
    text = json.dumps([int(seed), purpose, *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def example_digest(image: torch.Tensor) -> str:
    """A digest of an image's float32 values: the default key of its noise."""
    values = image.detach().to("cpu", torch.float32).contiguous() + 0.0  # -0.0 becomes 0.0
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=16).hexdigest()


def torch_generator(seed: int, purpose: Purpose, *parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for training. (On the CPU torch keeps 32 bits of a seed: too few for certificates, which use streams.)"""
    return torch.Generator(device=device).manual_seed(stream_key(seed, purpose, *parts) & (2**64 - 1))


class NoiseStream:
    """The samples 0, 1, 2, ... of one (seed, purpose, split, example id), read in order, in pieces of any size.

    Block b holds samples b*BLOCK to (b+1)*BLOCK - 1 and is a function of the key and b alone. On the CPU a block comes from NumPy's
    counter-based Philox generator with a 128-bit key, on CUDA from the device's own generator with a 64-bit seed. Other devices get the CPU's,
    as nothing is known of the law of their own.
    """

    def __init__(self, noise: Source, shape: tuple[int, ...], seed: int, purpose: Purpose, split: str, example_id: object):
        self.noise, self.shape = noise, tuple(shape)
        self.key = (seed, purpose, split, example_id)
        self.position = 0
        self._generator: Any = None
        self._block: torch.Tensor | None = None

    def fill(self, out: torch.Tensor) -> None:
        """Fill `out`, float32 of shape (m, *shape), with the next m samples of scale 1 (of a sampler: as it draws them)."""
        for _, _, draw in self.pieces(out):
            draw()

    def draw(self, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """The next `count` samples, as a new float32 tensor of shape (count, *shape)."""
        out = torch.empty(count, *self.shape, device=device)
        self.fill(out)
        return out

    def pieces(self, out: torch.Tensor) -> list[tuple[int, torch.Tensor, Callable[[], None]]]:
        """The block, part of `out` and filler of each piece. Pieces of one block are filled in order, those of different ones in any, on the
        CPU in any thread.
        """
        parts, done = [], 0
        while done < len(out):
            block, offset = divmod(self.position, BLOCK)
            take = min(len(out) - done, BLOCK - offset)
            part = out[done : done + take]
            parts.append((block, part, self._piece(part, block, offset)))
            done += take
            self.position += take
        return parts

    def _piece(self, out: torch.Tensor, block: int, offset: int) -> Callable[[], None]:
        if out.device.type != "cuda":
            # NumPy's generators give the same numbers however the calls are cut, so the block needs no buffer.
            if offset == 0:
                self._generator = self.noise.generator(stream_key(*self.key, block))
            generator = self._generator
            return lambda: self._fill_from_cpu(out, generator)
        return lambda: self._fill_on_device(out, block, offset)

    def _fill_from_cpu(self, out: torch.Tensor, generator: Any) -> None:
        if out.device.type == "cpu":
            self.noise.fill(out, generator)
        else:
            drawn = torch.empty(out.shape)
            self.noise.fill(drawn, generator)
            out.copy_(drawn)

    def _fill_on_device(self, out: torch.Tensor, block: int, offset: int) -> None:
        # torch's generators repeat only for calls of the same shape: always draw the whole block.
        seed = stream_key(*self.key, block) & (2**64 - 1)
        if len(out) == BLOCK:
            self.noise.fill(out, torch.Generator(device=out.device).manual_seed(seed))
            return
        if offset == 0 or self._block is None:
            self._block = torch.empty(BLOCK, *self.shape, device=out.device)
            self.noise.fill(self._block, torch.Generator(device=out.device).manual_seed(seed))
        out.copy_(self._block[offset : offset + len(out)])


def example_keys(images: torch.Tensor, example_ids: object) -> list[object]:
    """What keys the noise of each image: the ids that are given, one per image, or a digest of each."""
    if example_ids is None:
        return [example_digest(image) for image in images]
    given = example_ids.tolist() if isinstance(example_ids, torch.Tensor | np.ndarray) else example_ids
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise DdrsError(f"example_ids: {type(example_ids).__name__}; must be a list of one id per image")
    if len(given) != len(images):
        raise DdrsError(f"example_ids: {len(given)} ids for {len(images)} images")
    return list(given)


def check_seed(seed: object) -> None:
    """DdrsError unless the seed is an integer of 64 bits: another one would silently be the stream of its neighbour."""
    if not 0 <= whole("seed", seed) < 2**64:
        raise DdrsError(f"seed = {seed}: must be at least 0 and below 2^64")


def whole(name: str, value: object) -> int:
    """The value as an int, or a DdrsError if it is none: text, a fraction, a truth value."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise DdrsError(f"{name}: must be an integer (got {value!r})")
    return int(value)


def number(name: str, value: object) -> float:
    """The value as a float, or a DdrsError if it is no real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise DdrsError(f"{name}: must be a number (got {value!r})")
    return float(value)


def check_sigma(sigma: float) -> None:
    """DdrsError unless sigma is a finite number > 0."""
    if not (np.isfinite(sigma) and sigma > 0):
        raise DdrsError(f"sigma = {sigma}: must be a finite number > 0")
