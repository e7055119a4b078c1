"""Is a number of ours the printed one? The 95 % interval of their difference, and the one word that follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from ddrs.published import IMAGES, published
from ddrs.published.checks import ALPHA, N0, N, flaw

Z = 1.959963984540054  # of a two-sided 95 % interval
DEFINITION = (
    "A verdict is `within` if the 95 % interval of the difference (ours minus the print) contains 0, else `above` or `below`. Certified "
    "accuracies are taken as binomial shares, each at its own number of test images (the print's: 10,000 of CIFAR-10, 500 of ImageNet), with "
    "Newcombe's interval of the difference of two shares. The print gives no spread of its ACR: it is assumed that its images spread as "
    "ours do (the standard deviation of radius times correctness), and the means are taken as normal. The variance of training is not "
    "included: two trainings of one method differ by more than these intervals say. Nor is the optimism of choosing sigma and K on test "
    "images, which the print always has and `choice: test` has too. `no print`: the paper has no such number. `print inconsistent`: the "
    "printed ACR exceeds what the printed columns of its own row allow (each column's share up to the next radius, the last one up to the "
    "largest radius that n = 100,000 can certify at the largest sigma of training, or at four times that for data-dependent rows). That a "
    "search ends at four times the largest sigma at most is an assumption: ours do, and the code of the paper's authors has no such bound. "
    "`inconsistent if sigma at most doubles`: the same with twice in place of four times, which stands only on that stronger assumption. "
    "`not comparable`: with the reason."
)


@dataclass(frozen=True)
class Estimate:
    """A number with the ends of its own 95 % interval."""

    value: float
    low: float
    high: float


def share(percent: float, images: int) -> Estimate:
    """A binomial share in percent, with Wilson's interval, which does not collapse at 0 and 100."""
    p = percent / 100
    centre, scale = p + Z * Z / (2 * images), 1 + Z * Z / images
    half = Z * sqrt(p * (1 - p) / images + Z * Z / (4 * images * images))
    low, high = max(0.0, 100 * (centre - half) / scale), min(100.0, 100 * (centre + half) / scale)  # rounding may leave [0, 100]
    return Estimate(percent, min(percent, low), max(percent, high))


def mean(value: float, deviation: float, images: int) -> Estimate:
    """A mean over images, with the normal interval."""
    half = Z * deviation / sqrt(images)
    return Estimate(value, value - half, value + half)


def bootstrap_weights(images: int, replicates: int, seed: int) -> np.ndarray:
    """How much each image weighs in each replicate of a bootstrap over images: (replicates, images), each row adds up to 1."""
    return np.random.Generator(np.random.Philox(key=seed)).multinomial(images, np.full(images, 1 / images), size=replicates) / images


def difference(plus: Sequence[Estimate], minus: Sequence[Estimate]) -> Estimate:
    """The sum of some independent estimates minus that of others.

    The distance from the value to each end is the root of the summed squares of the terms' distances towards that end: for two shares
    this is Newcombe's interval (1998, his method 10), for means the normal one. Terms that rise and fall together, as two rows on the
    same images do, have a narrower interval than this.
    """
    value = sum(one.value for one in plus) - sum(one.value for one in minus)
    below = sqrt(sum((one.value - one.low) ** 2 for one in plus) + sum((one.high - one.value) ** 2 for one in minus))
    above = sqrt(sum((one.high - one.value) ** 2 for one in plus) + sum((one.value - one.low) ** 2 for one in minus))
    return Estimate(value, value - below, value + above)


def word(found: Estimate) -> str:
    """within if the interval of a difference contains 0, else above or below."""
    return "within" if found.low <= 0 <= found.high else "above" if found.low > 0 else "below"


def estimates(cell: dict, paper: float) -> tuple[Estimate, Estimate]:
    """Our value of a cell and the print's, each with its own interval."""
    theirs = IMAGES[cell["kind"]]
    if cell["column"] == "acr":
        return mean(cell["value"], cell["deviation"], cell["images"]), mean(paper, cell["deviation"], theirs)
    return share(cell["value"], cell["images"]), share(paper, theirs)


def why_not(cell: dict) -> str | None:
    """The verdict of a cell that no interval decides: no print, a flaw of the print, or another protocol of ours."""
    place = (cell["table"], cell["kind"], cell["label"], cell["column"])
    if published(*place) is None:
        return "no print"
    known = flaw(*place)
    if known:
        return known
    for name, printed in (
        ("split", "test"),
        ("protocol", "fixed"),
        ("bound", "binary"),
        ("n0", N0),
        ("n_max", N),
        ("alpha", ALPHA),
        ("precision", "float32"),
    ):
        if cell[name] != printed:
            return f"not comparable: {name} = {cell[name]}, where the print has {printed}"
    return None


def judge(cell: dict) -> dict:
    """The `paper`, `difference` (95 %) and `verdict` of a cell; the difference is None where nothing is compared.

    cell: table, kind (the dataset of the print), label, column, value, images and the protocol's fields; for an ACR also `deviation`, the
    standard deviation over the images. Accuracies are in percent.
    """
    paper = published(cell["table"], cell["kind"], cell["label"], cell["column"])
    reason = why_not(cell)
    if reason is not None or paper is None:
        return {"paper": paper, "difference": None, "verdict": reason}
    ours, theirs = estimates(cell, paper)
    found = difference([ours], [theirs])
    return {"paper": paper, "difference": [round(found.low, 6), round(found.high, 6)], "verdict": word(found)}
