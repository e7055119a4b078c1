"""Monte Carlo certification of a smoothed classifier: `ddrs.certify`, and what a run of many images calls."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from ddrs.certification.certificates import CERTIFICATES
from ddrs.certification.inference import best_batch_size, flat, running, usual_batch_size
from ddrs.certification.serving import Job, serve
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.task import Outcome, make_task
from ddrs.errors import DdrsError
from ddrs.models.rowwise import PASSES, ROWS, check_rows_alone
from ddrs.models.running import as_batch, as_module, device_of, usual_torch
from ddrs.noise.lattice import best_noise, check_on_grid, check_on_scale
from ddrs.noise.laws import LATTICES, Noise, certifiable_noise
from ddrs.noise.streams import check_seed, example_keys, number, whole

WORTH_A_PROBE = 100_000  # samples in all, from which on a probe of the batch size is less than 2 % of the work


@dataclass(frozen=True)
class Certificate:
    """What `certify` found, for B images; every field is a scalar (counts: a vector) if one image was given.

    Args:
        prediction: int64 (B,), the certified class or ABSTAIN (-1).
        radius: float64 (B,), in units of the [0,1] pixel scale, 0 for an abstention.
        counts: int64 (B, classes), the votes of the estimation samples.
        n: int64 (B,), the number of estimation samples.
        n_top: int64 (B,), their votes for the class picked beforehand.
        p_lower: float64 (B,), lower confidence bound on that class's probability.
        p_upper: float64 (B,), upper bound on any other class's: 1 - p_lower, smaller with bound "joint"; NaN for protocol sequential.
        z: float64 (B,), for protocol sequential the largest claimed null in units of sigma, else NaN.
        off_grid: float64 (B,), what the radius lost for the image's distance to the noise's grid: 0 with noise on the pixel grid.
        noise: str (B,), the name of the noise.
    """

    prediction: np.ndarray | np.integer
    radius: np.ndarray | np.floating
    counts: np.ndarray
    n: np.ndarray | np.integer
    n_top: np.ndarray | np.integer
    p_lower: np.ndarray | np.floating
    p_upper: np.ndarray | np.floating
    z: np.ndarray | np.floating
    off_grid: np.ndarray | np.floating
    noise: np.ndarray | np.str_


@usual_torch()
def certify(
    model: torch.nn.Module | Callable[[torch.Tensor], Any],
    x: torch.Tensor | np.ndarray,
    sigma: float | torch.Tensor | np.ndarray,
    n0: int = 100,
    n: int = 100_000,
    alpha: float = 0.001,
    *,
    protocol: str = "fixed",
    radii: Sequence[float] | None = None,
    bound: str = "binary",
    noise: str | None = None,
    precision: str = "float32",
    spending: str = "sqrt",
    radius_loss: float = 0.02,
    seed: int = 0,
    split: str = "",
    example_ids: Sequence[object] | None = None,
    batch_size: int | None = None,
) -> Certificate:
    """Certify the smoothed classifier g(x) = argmax_c P(model(x + noise) = c) at each image.

    Guarantee:
        Per image, with probability at least 1 - alpha over the noise: either the prediction is ABSTAIN, or g is constant and equal to the
        prediction on the open ball of that radius around x (l2 for Gaussian noise, l1 for uniform). It speaks of the classifier smoothed with
        *this* sigma everywhere; where sigma was chosen per input, only the memory makes the answers of different inputs consistent (see `Memory`).

    Args:
        model: a module or function that maps (batch, ...) float32 to (batch, classes) scores, a tensor or an object with it as `.logits`; run in
            eval mode and left as it was; -inf is a score, NaN and inf are not. The certificate is for the function that ran.
        x: one image (C, H, W) or vector (d,), or a batch of them, two axes always being a batch of vectors; a tensor or NumPy array, rounded to
            float32 before use; pixels in [0, 1].
        sigma: noise scale (lambda for uniform noise), one or one per image, in units of the [0,1] pixel scale, rounded to float32 before use.
        n0: samples that pick the class.
        n: samples that estimate its probability, fresh ones; the most that are drawn where the protocol chooses how many.
        alpha: the failure probability of each image by itself; of a batch of B all are right together with probability at least 1 - B * alpha,
            so for 1 - alpha together pass alpha / B. Another call, with another model or sigma, spends its own alpha.
        protocol: "fixed", n0 and then n samples; "sequential", as many as it takes, n at most, to decide each of `radii`: the radius is the
            largest of them that is claimed, rounded up to a grid of 0.01 sigma; "two-stage", the n0 samples also plan how many fresh ones are
            drawn, n at most, so that by plan the radius loses at most radius_loss * sigma.
        radii: for "sequential" alone: which radii are asked, increasing.
        bound: "binary" (p_B = 1 - p_A) or "joint", a bound of its own for the runner-up.
        noise: by default "lattice" for an image whose values are multiples of 1/255, as 8-bit images have, else "gaussian"; "uniform-lattice"
            and "uniform" are the same for uniform noise. All are exact in floating point: each certifies the classifier that rounds its input to
            a grid, of 1/255 or of sigma / 4096 (lambda / 2^18), the radius less the image's distance to that grid, and p_lower
            is lowered by a proven bound on the sampler's error.
        precision: of the forward pass: float32, tf32, bfloat16 or float16, each also with -compiled: through torch.compile.
        spending: for "sequential": how alpha is spent over the looks, "sqrt" or "log".
        radius_loss: for "two-stage", in units of sigma.
        seed: with split and example_ids, what keys each image's noise.
        split: any text, as the name of the images' split.
        example_ids: one per image, by default a digest of the image, never its place in the batch: an image gets the same samples alone and in
            any batch.
        batch_size: samples per forward pass, by default the fastest of a short probe; every pass has that shape.

    Returns:
        A Certificate: arrays of length B, or scalars for one image.

    Raises:
        DdrsError: for arguments out of range, or for a model that returns NaN or another shape or whose scores of an image are not a function of
            that image alone (see `ddrs.models.rowwise`).

    Source:
        Cohen et al. (2019), CERTIFY; uniform noise: Yang et al. (2020); sequential: docs/certification.md.
    """
    single, images = as_batch(x)
    settings = ImageCertificateSettings.checked(
        n0=whole("n0", n0),
        n=whole("n", n),
        alpha=number("alpha", alpha),
        protocol=protocol,
        radii=_radii(radii, protocol),
        bound=bound,
        precision=precision,
        spending=spending,
        radius_loss=number("radius_loss", radius_loss),
    )
    model, ids, sigmas = as_module(model, images.device), example_keys(images, example_ids), _sigma_vector(sigma, len(images))
    names = [noise or best_noise(image, "gaussian", float(scale)) for image, scale in zip(images, sigmas, strict=True)]
    noises = [certifiable_noise(name) for name in names]
    found = dict(certify_each(model, images, sigmas, settings, noises=noises, seed=seed, split=split, example_ids=ids, batch_size=batch_size))
    of_outcome = [one.name for one in fields(Certificate) if one.name != "noise"]
    columns = {name: np.stack([np.asarray(getattr(found[i], name)) for i in range(len(images))]) for name in of_outcome}
    return Certificate(**{name: value[0] if single else value for name, value in {**columns, "noise": np.array(names)}.items()})


def certify_each(
    model: torch.nn.Module,
    images: torch.Tensor,
    sigmas: np.ndarray,
    settings: ImageCertificateSettings,
    *,
    noises: Sequence[Noise],
    seed: int,
    split: str,
    example_ids: Sequence[object],
    batch_size: int | None,
) -> Iterator[tuple[int, Outcome]]:
    """`certify`, yielding (place in the batch, outcome) as each image is finished, in no promised order.

    sigmas: float32 (B,). noises: one per image, all of one law.
    """
    check_seed(seed)
    device, shape = device_of(model), tuple(images.shape[1:])
    for image, noise, sigma, example in zip(images, noises, sigmas, example_ids, strict=True):
        _check_image(image, noise, float(sigma), f"image {example}")
    steps = CERTIFICATES.module(settings.certificate).steps
    largest = {noise: float(sigmas[[one is noise for one in noises]].max()) for noise in set(noises)}
    # also an error, before any work, for a sigma that is too large
    deviation = max(image_deviation(noise, sigma, device, images[0].numel()) for noise, sigma in largest.items())
    task = make_task(settings, noises[0], deviation)
    if batch_size is not None:
        batch_size = whole("batch_size", batch_size)  # a plain int, as the numbers of samples are made from it
        if batch_size < 1:
            raise DdrsError(f"batch_size = {batch_size}: must be at least 1")

    def jobs() -> Iterator[Job]:
        for i, image in enumerate(images):
            pixels, sampler = flat(image).to(device), noises[i].at(float(sigmas[i]))
            off_grid = sampler.off_grid(pixels)
            yield Job(i, pixels, sampler, (seed, split, example_ids[i]), steps(replace(task, off_grid=off_grid), sigmas[i]))

    with running(model, shape, settings.precision) as scores:
        if batch_size is None:
            worth = len(images) * settings.n >= WORTH_A_PROBE
            batch_size = (best_batch_size if worth else usual_batch_size)(scores[0], images[0].numel(), device)
        probes = torch.stack([flat(image) for image in images[:ROWS]]).to(device)
        rows = batch_size if PASSES * batch_size <= len(images) * settings.n / 50 else ROWS
        check_rows_alone(scores[0], probes, rows, coarse=settings.precision != "float32")
        yield from serve(jobs(), scores, batch_size, images[0].numel(), device)


def image_deviation(noise: Noise, sigma: float, device: torch.device, values: int) -> float:
    """The proven bound on how far the law of an image of so many values is from the true one, in total variation, at that sigma."""
    return noise.at(sigma).deviation(device) * values


def _check_image(image: torch.Tensor, noise: Noise, sigma: float, what: str) -> None:
    if image.ndim == 3 and not bool(((image >= 0) & (image <= 1)).all()):
        raise DdrsError(f"{what}: holds values outside [0, 1], the scale of sigma and radius; put any other scaling into the model")
    if not bool(torch.isfinite(image.to(torch.float32)).all()):
        raise DdrsError(f"{what}: holds NaN or infinite values")
    check_on_scale(image, noise, sigma, what)
    if noise.name in LATTICES:
        check_on_grid(image, what)


def _radii(radii: object, protocol: str) -> list[float]:
    if radii is None:
        return []
    if protocol != "sequential":
        raise DdrsError(f"radii: are for protocol sequential; protocol {protocol!r} takes none")
    values = radii.tolist() if isinstance(radii, torch.Tensor | np.ndarray) else radii
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise DdrsError(f"radii: {radii!r}; must be a list of numbers")
    return [number("radii", radius) for radius in values]


def _sigma_vector(sigma: object, count: int) -> np.ndarray:
    """Float32 (count,). Numbers of half precision are refused: 0.1 in bfloat16 is 0.1001."""
    try:
        values = np.asarray(sigma.detach().cpu().numpy() if isinstance(sigma, torch.Tensor) else sigma)
    except (TypeError, ValueError, RuntimeError):  # bfloat16 and sparse tensors, and ragged lists
        values = np.asarray(None)
    if not np.issubdtype(values.dtype, np.integer) and values.dtype not in (np.float32, np.float64):
        shown = f"{sigma.dtype}, {sigma.layout}" if isinstance(sigma, torch.Tensor) else " ".join(repr(sigma).split())[:80]
        raise DdrsError(f"sigma ({shown}): must be a number or one number per image ({count}), float32, float64 or integer")
    if values.ndim > 1 or (values.ndim == 1 and len(values) != count):
        raise DdrsError(f"sigma of shape {values.shape}: must be one number or one per image ({count})")
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if not np.all(np.isfinite(rounded)) or np.any(rounded <= 0):
        raise DdrsError("sigma: must be a finite number > 0, also as a float32")
    return np.broadcast_to(rounded, (count,))
