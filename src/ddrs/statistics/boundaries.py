"""An exact group-sequential binomial test of a whole grid of radii, at one alpha.

Votes for a class are counted at a fixed schedule of looks, and a null hypothesis p <= p0 is rejected at the first look where they reach
its boundary. Boundaries spend alpha over the looks, and are computed by dynamic programming over the exact law of the count, so no
union bound is paid. Sources: Lan and DeMets (1983) for alpha spending; the text at `GroupSequentialTest` for the grid.
"""

import hashlib
import io
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from scipy.special import ndtr

from ddrs.errors import DdrsError, DdrsWarning
from ddrs.files import cache_folder, write_bytes
from ddrs.noise.norms import Law
from ddrs.statistics.bounds import check_alpha, check_n, lower_confidence_bound

Spending = Literal["sqrt", "log"]


FIRST, RATIO, STEP = 100, 1.05, 25  # the shipped schedule of looks; smaller steps would leave batches half empty
TRIM = 1e-20  # probability left outside each window of counts, and added to what is spent
SHAVE = 3e-8  # relative reserve of alpha: more than all rounding errors of the computation together (see efficacy_boundary) ...
LARGEST = 10**7  # ... up to this many samples
CACHE_FORM = 2  # of a file of the cache: goes up with what it holds, so that files of another form are left alone
CACHED = ("looks", "certify_at", "give_up_at")  # of a file of the cache
ALGORITHM = "group-sequential boundaries 2"  # goes up with every change that can move a boundary, so that old caches are left alone


def look_schedule(n_max: int, first: int = FIRST, ratio: float = RATIO, step: int = STEP) -> np.ndarray:
    """Sample counts of the looks, int64 (J,), increasing: the first, each next one larger by the ratio and at least by step, and n_max itself."""
    if not (isinstance(n_max, int | np.integer) and n_max >= 1 and isinstance(first, int | np.integer) and first >= 1):
        raise DdrsError(f"looks: n_max = {n_max!r} and first = {first!r} must be integers >= 1")
    if not (math.isfinite(ratio) and ratio > 1):
        raise DdrsError(f"looks: ratio = {ratio!r} must be a finite number > 1")
    if not (isinstance(step, int | np.integer) and step >= 1):
        raise DdrsError(f"looks: step = {step!r} must be an integer >= 1")
    looks, look = [], first
    while look < n_max:
        looks.append(look)
        look = max(round(look * ratio), look + step)
    return np.array([*looks, n_max], np.int64)


def efficacy_boundary(p0: float, alpha: float, looks: np.ndarray, spending: Spending) -> np.ndarray:
    """Smallest vote count that rejects p <= p0 at each look, int64 (J,); looks[j] + 1 where no count does.

    Guarantee: for every p <= p0, votes reach the boundary at any of the looks with probability at most alpha. At p0 the probability is
    computed by convolving the law of the counts that have not yet been rejected with the binomial law of the next increment. The event
    only grows when a vote is added, so it is rarer for p < p0. Nothing is assumed about a futility boundary. Where every count that is
    still possible goes on, the boundary is the next higher one: it rejects nobody here, and keeps neighbouring nulls' boundaries alike.

    Float64 cannot lift the level above alpha: every number added is positive, so relative errors add up, to less than 8 J W eps for
    windows of W counts (1.4e-8 for n = 1e7); and an error of p0 in its last two units moves the level by at most 2.2e-16 n / p0 of
    itself (5e-9 for n = 1e7), as its derivative is the mean of (K - n p) / (p (1 - p)) <= n / p over the rejected paths. SHAVE covers both.
    alpha: per image, of all its looks together, in (0, 1). looks: (J,) increasing integers, the last
    at most LARGEST. Errors: DdrsError if an argument is out of range.
    """
    looks = _checked_looks(looks)
    check_alpha(alpha)
    if not 0.0 < p0 < 1.0:
        raise DdrsError(f"p0 = {p0!r}: must be a number between 0 and 1")
    targets = _spent(alpha, looks, spending) * (1 - SHAVE)
    boundary = looks + 1
    alive, low = np.ones(1), 0  # P(count = low + i, not rejected so far)
    spent = 2 * len(looks) * TRIM  # two windows per look, each leaves out at most TRIM
    for j, step in enumerate(np.diff(looks, prepend=0)):
        steps, step_low = _binomial(int(step), p0)
        alive, low = np.convolve(alive, steps), low + step_low
        lowest, highest = _window(int(looks[j]), p0)
        cut = max(0, lowest - low)
        alive, low = alive[cut : highest - low + 1], low + cut
        tails = np.cumsum(alive[::-1])  # of the top 1, 2, ... counts
        rejected = int(np.searchsorted(tails, targets[j] - spent, side="right"))
        if targets[j] > spent:
            boundary[j] = low + len(alive) - rejected
        if rejected:
            spent += tails[rejected - 1]
            alive = alive[:-rejected]
    return boundary


def futility_boundary(p0: float, beta: float, looks: np.ndarray, spending: Spending) -> np.ndarray:
    """Largest vote count at which to give up on p0 at each look, int64 (J,); -1 where none.

    The mirrored test: a class with p >= p0 is given up at any of the looks with probability at most beta. It enters no guarantee.
    """
    return looks - efficacy_boundary(1.0 - p0, beta, looks, spending)


def _checked_looks(looks: np.ndarray) -> np.ndarray:
    looks = np.asarray(looks)
    if looks.ndim != 1 or not len(looks) or not np.issubdtype(looks.dtype, np.integer) or looks[0] < 1 or np.any(np.diff(looks) < 1):
        raise DdrsError("looks: must be increasing integers >= 1, at least one")
    if looks[-1] > LARGEST:
        raise DdrsError(f"looks: {looks[-1]} samples are more than {LARGEST}, up to which rounding is accounted for")
    return looks.astype(np.int64)


def _spent(alpha: float, looks: np.ndarray, spending: Spending) -> np.ndarray:
    """The alpha of one image spent up to each look, float64 (J,), alpha at the last."""
    if spending not in get_args(Spending):
        raise DdrsError(f"spending {spending!r}: unknown; known are {', '.join(get_args(Spending))}")
    if len(looks) == 1:
        return np.array([alpha])
    share = np.sqrt(looks / looks[-1]) if spending == "sqrt" else np.log(looks / looks[0]) / np.log(looks[-1] / looks[0])
    return alpha * share


def _window(n: int, p: float) -> tuple[int, int]:
    """The lowest and highest count of an interval with P(Binomial(n, p) outside) <= TRIM, by Bernstein's inequality."""
    log_term = math.log(2 / TRIM)
    half = log_term / 3 + math.sqrt(log_term**2 / 9 + 2 * log_term * n * p * (1 - p))
    return max(0, math.floor(n * p - half)), min(n, math.ceil(n * p + half))


def _binomial(n: int, p: float) -> tuple[np.ndarray, int]:
    """P(Binomial(n, p) = low + i) for the counts of its window, and low: ratios multiplied outward from the mode, then normalised."""
    low, high = _window(n, p)
    mode = min(max(math.floor((n + 1) * p), low), high)
    up, down = np.arange(mode, high, dtype=np.float64), np.arange(mode, low, -1, dtype=np.float64)
    above = np.cumprod((n - up) / (up + 1) * (p / (1 - p)))
    below = np.cumprod(down / (n - down + 1) * ((1 - p) / p))
    law = np.concatenate([below[::-1], [1.0], above])
    return law / law.sum(), low


@dataclass(frozen=True)
class Key:
    """All that the boundaries of a grid depend on. alpha: of one image, for all its looks and radii together."""

    alpha: float
    n_max: int
    spending: Spending
    first: int
    ratio: float
    beta: float
    law: Law


@dataclass(frozen=True, eq=False)
class Boundaries:
    """The boundaries of all nulls p <= p0(z), z = 0, 0.01, ..., z_max: the largest z that n_max votes of n_max certify.

    z = radius / sigma; p0 = Phi(z) for Gaussian noise, 1/2 + z/2 for uniform noise (sigma is lambda).
    looks: int64 (J,). z, p0: float64 (Z,). certify_at, give_up_at: int64 (Z, J), non-decreasing in z; see the boundary functions.
    """

    key: Key
    looks: np.ndarray
    z: np.ndarray
    p0: np.ndarray
    certify_at: np.ndarray
    give_up_at: np.ndarray

    def __post_init__(self) -> None:
        for array in (self.looks, self.z, self.p0, self.certify_at, self.give_up_at):
            array.flags.writeable = False  # they are shared by all users of a process


def _grid(key: Key) -> tuple[np.ndarray, np.ndarray]:
    """z and p0 of the nulls that n_max votes reject in a test with n_max samples and one look: none beyond can be rejected at all."""
    z = np.arange(100 if key.law == "uniform" else 1000) / 100
    p0 = 0.5 + z / 2 if key.law == "uniform" else ndtr(z)
    certifiable = int(np.searchsorted(p0, key.alpha ** (1 / key.n_max), side="right"))
    certifiable = min(certifiable, int(np.searchsorted(p0, 1.0)))
    return z[:certifiable], p0[:certifiable]


def _assemble(key: Key, certify_at: np.ndarray, give_up_at: np.ndarray) -> Boundaries:
    looks = look_schedule(key.n_max, key.first, key.ratio)
    z, p0 = _grid(key)
    count = len(certify_at)
    return Boundaries(key, looks, z[:count].copy(), p0[:count].copy(), certify_at, give_up_at)


def _compute(key: Key) -> Boundaries:
    looks = look_schedule(key.n_max, key.first, key.ratio)
    p0 = _grid(key)[1]
    # Monotone in z, which the raw ones are but for a vote now and then: nested nulls then have nested claims. A higher certify_at rejects
    # less, so the level stands; give_up_at enters no guarantee.
    certify_at = np.maximum.accumulate([efficacy_boundary(p, key.alpha, looks, key.spending) for p in p0.tolist()], axis=0)
    count = int(np.count_nonzero(certify_at[:, -1] <= key.n_max))
    if not count:  # check_n knows of no SHAVE
        raise DdrsError(f"n = {key.n_max} is too small to certify anything at alpha = {key.alpha:g}")
    certify_at = certify_at[:count].copy()
    # The p that the last look alone claims with probability 1 - beta: waiting for a smaller one takes most of the samples, and gains next to nothing.
    within_reach = np.asarray(lower_confidence_bound(certify_at[:, -1], key.n_max, 1 - key.beta))
    give_up_at = np.maximum.accumulate([futility_boundary(p, key.beta, looks, key.spending) for p in within_reach.tolist()], axis=0)
    return _assemble(key, certify_at, np.minimum(give_up_at, certify_at - 1))


def boundaries(
    alpha: float, n_max: int, *, spending: Spending = "sqrt", law: Law = "gaussian", beta: float = 0.05, cache: Path | None = None
) -> Boundaries:
    """The boundaries for at most n_max samples, computed once (2 s for n_max = 1e5, 2 min for 1e7) and kept in `cache`, and in this process.

    alpha: P(any claim above the true radius) <= alpha, per image: of m images that is m tests, each at alpha, so alpha * m of their
    certificates are false on average at most. beta: P(giving up z) <= beta for every p at which the last
    look alone claims z with probability 1 - beta or more. It enters no guarantee.
    cache: default $DDRS_CACHE, else $XDG_CACHE_HOME/ddrs, else ~/.cache/ddrs. A folder that cannot be written to is done without. A file
    whose content is not what its digest says, or of another key, is told of in a warning, computed again and replaced.
    Errors: DdrsError if an argument is out of range.
    """
    check_alpha(alpha)
    check_n(n_max, alpha)
    if spending not in get_args(Spending):
        raise DdrsError(f"spending {spending!r}: unknown; known are {', '.join(get_args(Spending))}")
    if law not in get_args(Law):
        raise DdrsError(f"law {law!r}: unknown; known are {', '.join(get_args(Law))}")
    if not (isinstance(beta, float | np.floating) and 0.0 < beta < 1.0):
        raise DdrsError(f"beta {beta!r}: must be a number between 0 and 1")
    key = Key(float(alpha), int(n_max), spending, FIRST, RATIO, float(beta), law)
    return _boundaries(key, Path(cache) if cache is not None else cache_folder())


def priced_boundaries(alpha: float, n_max: int, spending: Spending, law: Law, deviation: float) -> tuple[Boundaries, int]:
    """The boundaries for a sampler whose law of a whole image is up to `deviation` off, and by how many places a claim moves down the grid.

    alpha: per image, as of `boundaries`. n samples are n * deviation off: where alpha can pay for that it does, else a step of the grid: a
    claim of the null at place i + 1 is a claim of the one at place i. Errors: as `boundaries`, and DdrsError where a step is smaller than deviation.
    """
    price = n_max * deviation
    if price <= alpha / 100:
        return boundaries(alpha - price, n_max, spending=spending, law=law), 0
    found = boundaries(alpha, n_max, spending=spending, law=law)
    if np.diff(found.p0).min() < deviation:
        raise DdrsError(f"protocol sequential: this device's sampler is off by up to {deviation:.1e} per image, more than a step of the grid")
    return found, 1


@lru_cache
def _boundaries(key: Key, cache: Path) -> Boundaries:
    path = cache / f"boundaries-{hashlib.sha256(_identity(key).encode()).hexdigest()[:16]}.npz"
    try:
        return _read(path, key)
    except FileNotFoundError:
        found = _compute(key)
    except DdrsError as error:
        warnings.warn(DdrsWarning(f"boundaries {path}: {error}; they are computed again"), stacklevel=3)
        found = _compute(key)
    except OSError:
        return _compute(key)
    content, tables = io.BytesIO(), (found.looks, found.certify_at, found.give_up_at)
    np.savez(content, identity=_identity(key), content=_content(key, tables), **dict(zip(CACHED, tables, strict=True)))
    try:
        write_bytes(path, content.getvalue())
    except OSError:
        return found
    return found


def _identity(key: Key) -> str:
    """What a file of the cache must say of itself: its key and form, and a digest of the algorithm's version."""
    return json.dumps({**asdict(key), "form": CACHE_FORM, "algorithm": hashlib.sha256(ALGORITHM.encode()).hexdigest()[:16]})


def _content(key: Key, tables: Sequence[np.ndarray]) -> str:
    """The SHA-256 of a file's tables and of all that they depend on, in hex."""
    found = hashlib.sha256(_identity(key).encode())
    for table in tables:
        found.update(f"{table.dtype.str}{table.shape}".encode() + table.tobytes())
    return found.hexdigest()


def _read(path: Path, key: Key) -> Boundaries:
    """The boundaries in a file of the cache. DdrsError, which says what it is instead, unless it is as it was written for this key."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as content:
            identity, expected, tables = str(content["identity"]), str(content["content"]), [content[name] for name in CACHED]
    except Exception:  # zipfile and NumPy's reader of headers raise a dozen kinds, depending on the byte that is wrong
        raise DdrsError("damaged") from None
    if identity != _identity(key):
        raise DdrsError("made for another key")
    if expected != _content(key, tables):
        raise DdrsError("changed after they were written")
    return _assemble(key, tables[1], tables[2])
