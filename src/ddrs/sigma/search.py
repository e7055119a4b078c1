"""The search for a sigma per image, as a function: `ddrs.optimize_sigma`."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ddrs.config import SearchSettings
from ddrs.errors import DdrsError
from ddrs.models import Scored, as_batch, as_it_was, as_module, taking_float32, usual_torch
from ddrs.noise import NoiseStream, check_seed, example_keys, get_noise, number, whole
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
) -> torch.Tensor:
    """The sigma of each image after `iterations` steps of gradient ascent on its radius (Algorithm 1), or on a grid of so many points.

    model: maps (batch, ...) to (batch, classes) scores; run in eval mode and left as it was. x: one image (C, H, W) or vector, or a batch
    of them, rounded to float32 (both as `certify` takes them). sigma0: where every image starts, in units of the [0,1] pixel scale. n:
    noise samples per step. Returns float32 (B,), or a scalar tensor for one image, within [1e-3, sigma_max]. strategy: "ascent", where a
    saturated step moves sigma by about 2.05 lr, or "grid", the best of {1/iterations, ..., 1}, which reads no lr (Appendix B). The noise is
    keyed by example_ids (default: a digest of each image) under the purpose "search", so `certify` never sees it; in another batch sigma
    differs by rounding at most.
    Guarantee: none by itself; certify with the sigma that comes out, at an alpha that is per image whatever the batch, and that the search
    spends nothing of: it takes none (lr is what the paper's Algorithm 1 calls alpha). Source: the paper, Algorithm 1.
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
        settings = SearchSettings.checked(
            strategy=strategy, step_size=lr, k_max=iterations, samples=n, objective_class=objective_class, sigma_max=number("sigma_max", sigma_max)
        )
        law, shape = get_noise(noise), tuple(images.shape[1:])
        streams = [NoiseStream(law, shape, seed, "search", split, one) for one in ids]
        module = as_module(model, images.device)
        with as_it_was(module):
            sigma = STRATEGIES.module(strategy).search(Scored(taking_float32(module, shape)), images, sigma0, streams, law, settings).sigma[-1]
        return sigma[0] if single else sigma
