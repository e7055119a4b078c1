"""The search for a sigma per input. A strategy is a module with `search` and the `ROW` of its certificates, and one line here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


STRATEGIES = {
    "ascent": "ddrs.sigma.ascent",
    "grid": "ddrs.sigma.grid",
}


def optimize_sigma(
    model: torch.nn.Module,
    x: torch.Tensor,
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

    model: maps (batch, ...) to (batch, classes) scores; run in eval mode and left as it was. x: one image (C, H, W) or vector, or
    a batch of them. sigma0: where every image starts, in units of the [0,1] pixel scale. n: noise samples per step. Returns float32
    (B,), or a scalar tensor for one image, within [1e-3, sigma_max]. strategy: "ascent", where a saturated step moves sigma by about
    2.05 lr, or "grid", the best of {1/iterations, ..., 1}, which reads no lr (Appendix B). The noise is keyed by
    example_ids (default: a digest of each image) under the purpose "search", so `certify` never sees it; in another batch
    sigma differs by rounding at most.
    Guarantee: none by itself; certify with the sigma that comes out, at an alpha that is per image whatever the batch, and that the search
    spends nothing of: it takes none (lr is what the paper's Algorithm 1 calls alpha). Source: the paper, Algorithm 1.
    """
    from ddrs.config import SearchSettings
    from ddrs.errors import DdrsError
    from ddrs.models import as_batch, usual_torch
    from ddrs.noise import NoiseStream, example_digest, get_noise
    from ddrs.registry import load

    with usual_torch():
        single, images = as_batch(x)
        ids = [example_digest(image) for image in images] if example_ids is None else list(example_ids)
        if len(ids) != len(images):
            raise DdrsError(f"example_ids: {len(ids)} ids for {len(images)} images")
        for name, value, allowed in (("lr", lr, lr > 0), ("iterations", iterations, iterations >= 1), ("n", n, n >= 1)):
            if not allowed:
                raise DdrsError(f"{name} = {value}: must be {'a number > 0' if name == 'lr' else 'an integer of at least 1'}")
        settings = SearchSettings.checked(
            strategy=strategy, step_size=lr, k_max=iterations, samples=n, objective_class=objective_class, sigma_max=sigma_max
        )
        law = get_noise(noise)
        streams = [NoiseStream(law, tuple(images.shape[1:]), seed, "search", split, one) for one in ids]
        search = load("strategy", STRATEGIES, strategy).search
        sigma = search(model, images, sigma0, streams, law, settings).sigma[-1]
        return sigma[0] if single else sigma
