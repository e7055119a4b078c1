"""The search for a sigma per image, as a function: `ddrs.optimize_sigma`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ddrs.errors import DdrsError
from ddrs.models.running import Scored, as_batch, as_it_was, as_module, taking_float32, usual_torch
from ddrs.noise.laws import get_noise
from ddrs.noise.streams import NoiseStream, check_seed, example_keys, number, whole
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.strategies import STRATEGIES


def optimize_sigma(
    model: torch.nn.Module | Callable[[torch.Tensor], Any],
    x: torch.Tensor | np.ndarray,
    sigma0: float,
    lr: float = 1e-4,
    iterations: int = 900,
    n: int = 1,
    *,
    strategy: str = "ascent",
    seed: int = 0,
    noise: str = "gaussian",
    objective_class: str = "current",
    sigma_max: float = 2.0,
    split: str = "",
    example_ids: Sequence[object] | None = None,
    settings: Mapping[str, float] | None = None,
) -> torch.Tensor:
    """The sigma of each image after `iterations` steps of gradient ascent on its radius (Algorithm 1), or on a grid of so many points.

    Guarantee:
        None by itself. Certify with the sigma that comes out, at an alpha that is per image whatever the batch, and that the search spends
        nothing of: it takes none (lr is what the paper's Algorithm 1 calls alpha), and `certify` never sees its noise.

    Args:
        model: maps (batch, ...) to (batch, classes) scores, as for `certify`; run in eval mode and left as it was.
        x: one image (C, H, W) or vector (d,), or a batch of them, rounded to float32, as for `certify`.
        sigma0: where every image starts, in units of the [0,1] pixel scale.
        lr: step size; a saturated step moves sigma by about 2.05 lr. Not read by a grid.
        iterations: number of steps, or of the grid's points.
        n: noise samples per step.
        strategy: "ascent"; "grid", the best of {1/iterations, ..., 1} (Appendix B); "qcrs", so many halvings of an interval.
        seed: with split and example_ids, what keys each image's noise, under the purpose "search".
        noise: "gaussian" or "uniform": the law that the model was trained with.
        objective_class: whose radius is ascended: "current", the class of each step, or "fixed", the one of sigma0.
        sigma_max: the largest sigma, in units of the [0,1] pixel scale.
        split: any text, as the name of the images' split.
        example_ids: one per image, by default a digest of the image. In another batch an image's sigma differs by rounding at most.
        settings: the strategy's own, by name: low, high and h of "qcrs".

    Returns:
        float32 tensor (B,), or a scalar tensor for one image, within [1e-3, sigma_max].

    Raises:
        DdrsError: for arguments out of range, images that are not finite, or a model that returns another shape or NaN.

    Source:
        The paper, Algorithm 1; the grid: its Appendix B; QCRS: Kung and Chen, AAAI 2024.
    """
    with usual_torch():
        single, images = as_batch(x)
        images = images.to(torch.float32)
        if not bool(torch.isfinite(images).all()):
            raise DdrsError("x: holds NaN or infinite values")
        ids = example_keys(images, example_ids)
        check_seed(seed)
        sigma0, lr = number("sigma0", sigma0), number("lr", lr)
        iterations, n = whole("iterations", iterations), whole("n", n)
        for name, value, allowed in (("lr", lr, lr > 0), ("iterations", iterations, iterations >= 1), ("n", n, n >= 1)):
            if not allowed:
                raise DdrsError(f"{name} = {value}: must be {'a number > 0' if name == 'lr' else 'an integer of at least 1'}")
        shared = {"objective_class": objective_class, "sigma_max": number("sigma_max", sigma_max), "set": dict(settings or {})}
        search = SearchSettings.checked(strategy=strategy, step_size=lr, k_max=iterations, samples=n, **shared).of_strategy()
        law, shape = get_noise(noise), tuple(images.shape[1:])
        streams = [NoiseStream(law.at(1.0), shape, seed, "search", split, one) for one in ids]
        module = as_module(model, images.device)
        with as_it_was(module):
            sigma = STRATEGIES.module(strategy).search(Scored(taking_float32(module, shape)), images, sigma0, streams, law, search).sigma[-1]
        return sigma[0] if single else sigma
