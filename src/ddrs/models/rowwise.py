"""Whether a model's scores of an image are a function of that image: the classifier that is smoothed, and every certificate, stand on it."""

from collections.abc import Callable

import torch

from ddrs.errors import DdrsError
from ddrs.models.running import UNDECIDED, can_decide

ROWS = 16  # the fewest images of the check
PASSES = 4  # of the model
# What the images of the other half become, as factor and summand: darker, brighter, inverted, far off, so that an extreme moves too.
CHANGES = ((0.0, 0.0), (-1.0, 1.0), (3.0, 0.0), (1.0, -2.0))
NOISE = 0.25  # standard deviation of what is added to the images
ROUNDING = 1e-5  # of the scores' spread, by which kernels may round anew; in another place of the batch ten times as much
COARSE = 1e-2  # the same, of passes in less than float32


def check_rows_alone(scores: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, batch: int = ROWS, coarse: bool = False) -> None:
    """DdrsError, which says why, unless an image's scores are the same each time, in any company and at any place of the batch.

    scores: what is asked, of images (batch, ...) to scores (batch, classes); it is called PASSES times. images: (k, ...), on its device, such
    as it will be asked about; noise is added, by a generator of its own: torch's global ones are left as they were. batch: images of
    a pass; never fewer than ROWS, as one image alone shows nothing. coarse: the passes are not in full float32.
    Guarantee: none for what is rarer than a few images in `batch`, or smaller than rounding. Other shapes than (batch, classes) pass: whoever
    reads the scores refuses them.
    """
    rows = torch.empty(max(batch, ROWS), *images.shape[1:], dtype=images.dtype, device=images.device)
    rows.normal_(generator=torch.Generator(rows.device).manual_seed(0)).mul_(NOISE)  # in place: a batch may fill the device
    used = images[:ROWS]
    for start, image in enumerate(used):
        rows[start :: len(used)] += image
    # in no pattern, so that rows that are joined by any are in both halves
    watched, others = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0), device="cpu").to(rows.device).chunk(2)
    devices = [rows.device] if rows.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        first, again = _scored(scores, rows), _scored(scores, rows)
        if first is None or again is None:
            return
        if not bool(can_decide(first)):
            raise DdrsError(UNDECIDED)
        allowed = _rounding(first, COARSE if coarse else ROUNDING)
        if not _equal(first, again, allowed):
            raise DdrsError("the model answers the same images differently each time (dropout, random layers?); nothing holds of it")
        for i, (factor, summand) in enumerate(CHANGES):
            changed = others[i :: len(CHANGES)]
            rows[changed] = rows[changed] * factor + summand
        beside = _scored(scores, rows)
        if beside is None or not _equal(first[watched], beside[watched], allowed):
            raise DdrsError("the model's scores of an image depend on the other images of its batch (batch statistics?); nothing holds of it")
        rows[:] = rows.roll(1, 0)
        moved = _scored(scores, rows)
        if moved is None or not _equal(beside[watched], moved.roll(-1, 0)[watched], 10 * allowed):
            why = "random numbers of a fixed seed, a row that all read?"
            raise DdrsError(f"the model's scores of an image depend on its place in the batch ({why}); nothing holds of it")


def _scored(scores: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor | None:
    found = scores(rows)
    return found.float().clone() if isinstance(found, torch.Tensor) and found.ndim == 2 and len(found) == len(rows) else None


def _rounding(scores: torch.Tensor, share: float) -> float:
    """How far scores of one image may be apart by rounding: a share of their spread, or what float32 resolves of the largest."""
    finite = scores[scores.isfinite()]
    if not len(finite):
        return 0.0
    return max(share * float(finite.max() - finite.min()), 8 * torch.finfo(torch.float32).eps * float(finite.abs().max()))


def _equal(one: torch.Tensor, other: torch.Tensor, allowed: float) -> bool:
    """Whether scores are equal to rounding, where infinite or NaN exactly."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0.0, atol=allowed, equal_nan=True)
