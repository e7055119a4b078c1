"""Monte Carlo certification of a smoothed classifier: protocol `fixed` (Cohen et al. 2019)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ddrs.certification.bounds import check_n, lower_confidence_bound
from ddrs.certification.records import ABSTAIN
from ddrs.errors import DdrsError
from ddrs.models import as_batch, checked_scores, device_of, evaluating
from ddrs.noise import Noise, NoiseStream, Purpose, example_digest, get_noise


@dataclass(frozen=True)
class Certificate:
    """What `certify` found, for B images; every field is a scalar (counts: a vector) if one image was given.

    prediction: int64 (B,), the certified class or ABSTAIN (-1). radius: float64 (B,), in units of the [0,1] pixel scale, 0 for an
    abstention. counts: int64 (B, classes), the votes of the n estimation samples. n, n_top: int64 (B,), number of estimation
    samples and votes for the class picked beforehand. p_lower: float64 (B,), lower confidence bound on that class's probability.
    """

    prediction: np.ndarray | np.integer
    radius: np.ndarray | np.floating
    counts: np.ndarray
    n: np.ndarray | np.integer
    n_top: np.ndarray | np.integer
    p_lower: np.ndarray | np.floating


def certify(
    model: torch.nn.Module,
    x: torch.Tensor,
    sigma: float | torch.Tensor | np.ndarray,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    *,
    noise: str = "gaussian",
    seed: int = 0,
    split: str = "",
    example_ids: Sequence[object] | None = None,
    batch_size: int | None = None,
) -> Certificate:
    """Certify the smoothed classifier g(x) = argmax_c P(model(x + noise) = c) at each image.

    Guarantee, per image: with probability at least 1 - alpha over the noise, either the prediction is ABSTAIN, or g is constant
    and equal to the prediction on the open ball of that radius around x (l2 for Gaussian noise, l1 for uniform). It speaks of the
    classifier smoothed with *this* sigma everywhere; where sigma was chosen per input, only the memory makes the answers of
    different inputs consistent (see `Memory`). Floating-point effects of adding noise are ignored.

    model: maps (batch, ...) float32 to (batch, classes) scores; run in eval mode and left as it was. x: one image (C, H, W) or
    vector (d,), or a batch of them, values in [0, 1] for images. sigma: noise scale (lambda for uniform noise), one or one per
    image, rounded to float32 before use. n0 samples pick the class; n fresh ones estimate its probability. seed, split,
    example_ids: what keys each image's noise; the id is by default a digest of the image, never its place in the batch: an image
    gets the same samples alone and in any batch. batch_size: samples per forward pass (default 100 on the CPU, 1000 elsewhere),
    always padded to that shape, so that results depend on nothing else. Errors: DdrsError for arguments out of range or a model
    that returns NaN or another shape.
    Source: Cohen et al. (2019), CERTIFY; uniform noise: Yang et al. (2020).
    """
    single, images = as_batch(x)
    if example_ids is not None and len(example_ids) != len(images):
        raise DdrsError(f"example_ids: {len(example_ids)} ids for {len(images)} images")
    results = list(
        certify_each(
            model, images, sigma, n0, n, alpha, noise=get_noise(noise), seed=seed, split=split, example_ids=example_ids, batch_size=batch_size
        )
    )
    fields = {name: np.stack([getattr(r, name) for r in results]) for name in Certificate.__dataclass_fields__}
    return Certificate(**{name: value[0] if single else value for name, value in fields.items()})


def certify_each(
    model: torch.nn.Module,
    images: torch.Tensor,
    sigma: float | torch.Tensor | np.ndarray,
    n0: int,
    n: int,
    alpha: float,
    *,
    noise: Noise,
    seed: int,
    split: str,
    example_ids: Sequence[object] | None,
    batch_size: int | None,
) -> Iterator[Certificate]:
    """`certify`, yielding each image's certificate (scalar fields) as it is finished."""
    check_n(n, alpha)
    if not isinstance(n0, int | np.integer) or n0 < 1:
        raise DdrsError(f"n0 = {n0!r}: must be an integer of at least 1")
    sigmas = _sigma_vector(sigma, len(images))
    device = device_of(model)
    if batch_size is None:
        batch_size = 100 if device.type == "cpu" else 1000
    if batch_size < 1:
        raise DdrsError(f"batch_size = {batch_size}: must be at least 1")
    with evaluating(model):
        for i, image in enumerate(images.to(device)):
            example = example_digest(image) if example_ids is None else example_ids[i]

            def votes(purpose: Purpose, samples: int, image=image, example=example, sigma=sigmas[i]) -> np.ndarray:
                stream = NoiseStream(noise, tuple(image.shape), seed, purpose, split, example)
                return count_votes(model, image, sigma, samples, stream, batch_size)

            picked = int(votes("select-class", n0).argmax())
            counts = votes("estimate", n)
            p_lower = lower_confidence_bound(int(counts[picked]), n, alpha)
            radius = float(noise.radius(p_lower, sigmas[i])) if p_lower > 0.5 else 0.0
            yield Certificate(
                prediction=np.int64(picked if radius > 0 else ABSTAIN),
                radius=np.float64(radius),
                counts=counts,
                n=np.int64(n),
                n_top=counts[picked],
                p_lower=np.float64(p_lower),
            )


@torch.inference_mode()
def count_votes(model: torch.nn.Module, image: torch.Tensor, sigma: np.float32, n: int, stream: NoiseStream, batch_size: int) -> np.ndarray:
    """How often each class is the argmax among n noisy copies of one image; int64 (classes,).

    Every forward pass has the same shape (the last one is padded), so kernels round alike whatever n is.
    """
    noise = torch.zeros(batch_size, *image.shape, device=image.device)
    layout = torch.channels_last if image.ndim == 3 else torch.contiguous_format
    noisy = torch.empty_like(noise, memory_format=layout)
    counts: torch.Tensor | None = None
    for start in range(0, n, batch_size):
        size = min(batch_size, n - start)
        stream.fill(noise[:size])
        torch.add(image, noise, alpha=float(sigma), out=noisy)
        scores = checked_scores(model(noisy), batch_size)[:size]
        if counts is None:
            counts = torch.zeros(scores.shape[1], dtype=torch.int64, device=image.device)
        counts += torch.bincount(scores.argmax(1), minlength=len(counts))
    assert counts is not None
    return counts.cpu().numpy()


def _sigma_vector(sigma: float | torch.Tensor | np.ndarray, count: int) -> np.ndarray:
    values = sigma.detach().cpu().numpy() if isinstance(sigma, torch.Tensor) else np.asarray(sigma)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != count):
        raise DdrsError(f"sigma of shape {values.shape}: must be one number or one per image ({count})")
    if not np.issubdtype(values.dtype, np.number):
        raise DdrsError(f"sigma {sigma!r}: must be a number")
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if not np.all(np.isfinite(rounded)) or np.any(rounded <= 0):
        raise DdrsError("sigma: must be a finite number > 0, also as a float32")
    return np.broadcast_to(rounded, (count,))
