"""Monte Carlo certification of a smoothed classifier: votes of noisy copies of many images, counted in batches of one fixed shape."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch

from ddrs.certification.certificates import CERTIFICATES
from ddrs.certification.inference import Scores, best_batch_size, flat, running
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.task import Outcome, Steps, make_task
from ddrs.errors import DdrsError
from ddrs.models.rowwise import ROWS, check_rows_alone
from ddrs.models.running import UNDECIDED, as_batch, as_module, can_decide, device_of, usual_torch
from ddrs.noise.lattice import LATTICES, certifiable_noise, check_on_grid, check_on_scale
from ddrs.noise.laws import Noise, Sampler
from ddrs.noise.streams import NoiseStream, Purpose, check_seed, example_keys, number, whole

SMALLEST_REQUEST = 25  # samples between two looks: how many images must be under way to fill a batch
WORTH_A_PROBE = 100_000  # samples in all, below which a probe of the batch size costs more than it saves
UNPROBED = {"cpu": 128, "cuda": 1024}


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
        z: float64 (B,), for protocol sequential the largest claimed radius in units of sigma, else NaN.
    """

    prediction: np.ndarray | np.integer
    radius: np.ndarray | np.floating
    counts: np.ndarray
    n: np.ndarray | np.integer
    n_top: np.ndarray | np.integer
    p_lower: np.ndarray | np.floating
    p_upper: np.ndarray | np.floating
    z: np.ndarray | np.floating


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
    noise: str = "gaussian",
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
        noise: "gaussian" and "uniform" take the float32 draws as if they were of the true law, of which nothing is proven, and ignore that
            float32 sums round; "lattice" and "uniform-lattice" do neither: they certify the classifier after rounding its input to multiples
            of 1/255, and p_lower is lowered by a proven bound on the sampler's error.
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
    model, ids = as_module(model, images.device), example_keys(images, example_ids)
    found: dict[int, Outcome] = dict(
        certify_each(model, images, sigma, settings, noise=certifiable_noise(noise), seed=seed, split=split, example_ids=ids, batch_size=batch_size)
    )
    columns = {one.name: np.stack([np.asarray(getattr(found[i], one.name)) for i in range(len(images))]) for one in fields(Certificate)}
    return Certificate(**{name: value[0] if single else value for name, value in columns.items()})


def certify_each(
    model: torch.nn.Module,
    images: torch.Tensor,
    sigma: float | torch.Tensor | np.ndarray,
    settings: ImageCertificateSettings,
    *,
    noise: Noise,
    seed: int,
    split: str,
    example_ids: Sequence[object],
    batch_size: int | None,
) -> Iterator[tuple[int, Outcome]]:
    """`certify`, yielding (place in the batch, outcome) as each image is finished, in no promised order."""
    check_seed(seed)
    device, shape = device_of(model), tuple(images.shape[1:])
    sigmas = _sigma_vector(sigma, len(images))
    for i, image in enumerate(images):
        _check_image(image, noise, float(sigmas[i]), f"image {example_ids[i]}")
    steps = CERTIFICATES.module(settings.certificate).steps
    # also an error, before any work, for the largest sigma
    task = make_task(settings, noise, image_deviation(noise, float(sigmas.max()), device, images[0].numel()))
    if batch_size is not None and whole("batch_size", batch_size) < 1:
        raise DdrsError(f"batch_size = {batch_size}: must be at least 1")

    def jobs() -> Iterator[_Job]:
        for i, image in enumerate(images):
            key = (seed, split, example_ids[i])
            yield _Job(i, flat(image).to(device), noise.at(float(sigmas[i])), key, steps(task, sigmas[i]))

    with running(model, shape, settings.precision) as scores:
        if batch_size is None:
            worth = len(images) * settings.n >= WORTH_A_PROBE
            batch_size = best_batch_size(scores[0], images[0].numel(), device) if worth else UNPROBED.get(device.type, UNPROBED["cpu"])
        probes = torch.stack([flat(image) for image in images[:ROWS]]).to(device)
        check_rows_alone(scores[0], probes, batch_size, coarse=settings.precision != "float32")
        yield from serve(jobs(), scores, batch_size, images[0].numel(), device)


def image_deviation(noise: Noise, sigma: float, device: torch.device, values: int) -> float:
    """The proven bound on how far the law of an image of so many values is from the true one, in total variation, up to that sigma.

    0 with continuous noise: there none is proven, and the certificate takes the draws as exact.
    """
    proven = noise.at(sigma).deviation(device)
    return 0.0 if proven is None else proven * values


@dataclass
class _Job:
    """One image under way: its protocol, what it is waiting for, and its streams."""

    place: int
    image: torch.Tensor  # (d,) on the device
    sampler: Sampler
    key: tuple[int, str, object]
    steps: Steps
    purpose: Purpose = "estimate"
    missing: int = 0  # samples of the present request that are not drawn yet
    slot: int = -1
    streams: dict[Purpose, NoiseStream] = field(default_factory=dict)

    def advance(self, votes: np.ndarray | None) -> Outcome | None:
        """Hand the protocol the votes that it asked for (at first None); its next request is taken down, or its outcome returned."""
        try:
            self.purpose, self.missing = next(self.steps) if votes is None else self.steps.send(votes)
        except StopIteration as finished:
            return finished.value
        return None

    def stream(self) -> NoiseStream:
        """The noise of the present purpose, read on from where it stopped."""
        if self.purpose not in self.streams:
            seed, split, example = self.key
            self.streams[self.purpose] = NoiseStream(self.sampler, self.image.shape, seed, self.purpose, split, example)
        return self.streams[self.purpose]


Draw = tuple[_Job, torch.Tensor, Callable[[], None]]
Draws = dict[tuple[int, int], list[Draw]]  # by stream and block


def serve(jobs: Iterator[_Job], scores: list[Scores], batch_size: int, values: int, device: torch.device) -> Iterator[tuple[int, Outcome]]:
    """Run jobs to their end, filling every batch with samples of as many of them as it takes.

    Samples are a function of their keys, so neither the batch size nor which images share a batch changes a count, but for a tie of two
    scores that kernels may round differently. Only a job that has all its samples makes the host wait for the device.
    scores: what classifies a batch; several run side by side, each in a thread and on a batch of its own.
    """
    slots = 1 + -(-batch_size * len(scores) // SMALLEST_REQUEST)
    batches = [_Batch(one, torch.zeros(batch_size, values, device=device), slots) for one in scores]
    active: list[_Job] = []
    free = list(range(slots))
    threads = max(len(scores), torch.get_num_threads()) if device.type == "cpu" else 1
    with ThreadPoolExecutor(threads) as pool:
        run = pool.map if threads > 1 else map
        more = True
        while True:
            while more and free:
                job = next(jobs, None)
                if job is None:
                    more = False
                    break
                job.slot = free.pop()
                job.advance(None)
                active.append(job)
            if not active:
                return
            draws: Draws = {}
            for batch in batches:
                batch.assign(active, draws)
            _all(run(_draw, draws.values()))
            _all(run(_Batch.count, batches))
            for job in [job for job in active if not job.missing]:
                outcome = job.advance(np.sum([batch.take(job.slot) for batch in batches if batch.counts is not None], axis=0))
                if outcome is not None:
                    active.remove(job)
                    free.append(job.slot)
                    yield job.place, outcome


def _draw(pieces: list[Draw]) -> None:
    for job, part, draw in pieces:
        draw()
        job.sampler.place(part, job.image)


def _all(results: Iterable[None]) -> None:
    for _ in results:
        pass


class _Batch:
    """Noisy copies, whose they are, and a histogram of their classes for each slot; all on the device."""

    def __init__(self, scores: Scores, images: torch.Tensor, slots: int):
        self.scores, self.images, self.slots = scores, images, slots
        self.slot_of_row = np.zeros(len(images), np.int64)
        self.rows = 0
        self.counts: torch.Tensor | None = None
        self.decided = torch.ones((), dtype=torch.bool, device=images.device)

    def assign(self, jobs: list[_Job], draws: Draws) -> None:
        """Give rows to jobs, the first ones first; what is to be drawn goes into `draws`, by stream block: one block is drawn in one thread."""
        self.rows = 0
        for job in jobs:
            take = min(job.missing, len(self.images) - self.rows)
            if take:
                stream = job.stream()
                for block, part, draw in stream.pieces(self.images[self.rows : self.rows + take]):
                    draws.setdefault((id(stream), block), []).append((job, part, draw))
                self.slot_of_row[self.rows : self.rows + take] = job.slot
                self.rows, job.missing = self.rows + take, job.missing - take

    def count(self) -> None:
        """Classify the batch and count the votes of its rows. Those that no job took hold what was there: every pass has the same shape."""
        if not self.rows:
            return
        scores = self.scores(self.images)
        classes = scores.shape[1]
        if self.counts is None:
            self.counts = torch.zeros(self.slots * classes, dtype=torch.int64, device=scores.device)
        self.decided &= can_decide(scores[: self.rows])
        slots = self.slot_of_row[: self.rows]
        place = int(slots[0]) if (slots == slots[0]).all() else torch.from_numpy(slots).to(scores.device)
        self.counts += torch.bincount(place * classes + scores[: self.rows].argmax(1), minlength=self.slots * classes)

    def take(self, slot: int) -> np.ndarray:
        """The votes of a slot, int64 (classes,), which starts again at 0. DdrsError if the scores of a row so far did not decide its class."""
        assert self.counts is not None
        if not bool(self.decided):
            raise DdrsError(UNDECIDED)
        mine = self.counts.view(self.slots, -1)[slot]
        found = mine.cpu().numpy().copy()
        mine.zero_()
        return found


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
