"""Which images a noise can certify: those on the pixel grid, and those whose size float32 and the noise's grid can hold."""

import torch

from ddrs.errors import DdrsError
from ddrs.noise.laws import LATTICES, Noise
from ddrs.noise.norms import ON_GRID
from ddrs.noise.samplers import LARGEST, LEVELS, MAX_SIGMA, largest, levels


def _off_grid(image: torch.Tensor) -> torch.Tensor:
    """Which values are not exactly the float32 nearest to k / 255 for an integer k. Bool, of the image's shape.

    Not the nearest number of the image's own type: what runs is float32, so a radius would be claimed at another point than the image.
    """
    values = image.to(torch.float32)
    return (image != values) | (values != torch.round(values * LEVELS) / levels(values))


def best_noise(images: torch.Tensor, base: str, sigma: float) -> str:
    """The noise that certifies these images best: that on the pixel grid if all lie on it, which loses nothing, else that on a fine grid.

    base: the law, gaussian or uniform. sigma: the largest. Where an image is not finite or too large for the pixel grid, the fine one, which says so.
    """
    lattice = LATTICES[ON_GRID[base]]
    size = float(images.abs().max())
    on_grid = sigma <= MAX_SIGMA and size <= _limit(lattice, sigma) and not bool(_off_grid(images).any())
    return lattice.name if on_grid else base


def check_on_grid(image: torch.Tensor, what: str) -> None:
    """DdrsError unless every value of the image, of any float type, is exactly the float32 nearest to k / 255 for an integer k."""
    off = _off_grid(image)
    if bool(off.any()):
        value = float(image[off][0])
        raise DdrsError(
            f"{what}: holds {value!r}, which is no multiple of 1/255, in float32, as lattice noise needs; "
            "round it first: (255 * x.float()).round() / 255"
        )


def check_on_scale(image: torch.Tensor, noise: Noise, sigma: float, what: str) -> None:
    """DdrsError for an image (or vector) so far from 0 that its float32 noisy copies are not those of the noise's law.

    On the pixel grid every k + i must be at most 2^24 in size. On a fine grid 2^29, and float32 steps of the image's size at most sigma / 128.
    """
    size, limit = float(image.abs().max()), _limit(noise, sigma)
    if size > limit:
        raise DdrsError(
            f"{what}: holds a value of size {size:g}, where float32 steps are too coarse for {noise.name} noise of sigma {sigma:g}; "
            f"must be at most {limit:g}: rescale it, and sigma with it"
        )


def _limit(noise: Noise, sigma: float) -> float:
    """The largest size of a value that the noise certifies."""
    return (2**24 - largest(noise.base, LEVELS * sigma)) / LEVELS if noise.name in LATTICES else LARGEST[noise.base] * sigma
