"""The group-sequential test's level, and what it costs beside other tests at the same alpha and N.

    python bench/sequential.py > bench/sequential.md

Takes about ten minutes of one core. The other tests are written from their papers' formulas: Clopper and Pearson at a fixed N; Horvath et al.
(2022), stages with fresh samples at alpha / s; Voracek (2024), a union bound over looks, and betting with the Krichevsky-Trofimov mixture.
"""

import csv
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from floor import Radius, floor, ours
from scipy.special import betaln, ndtr, ndtri
from scipy.stats import binom

from ddrs.statistics.boundaries import Boundaries, boundaries, look_schedule
from ddrs.statistics.bounds import lower_confidence_bound
from ddrs.statistics.sequential import GroupSequentialTest, needed

ALPHA, N, SEED = 1e-3, 100_000, 20260
PATHS, CHUNK, REPLICATES = 1_000_000, 250_000, 100
RADII = [0.25 * i for i in range(11)]
LOGS = Path(__file__).parents[1] / "tests" / "data" / "locuslab"
FOLDER = tempfile.TemporaryDirectory()
CACHE = Path(FOLDER.name)
CHOICES = [(spending, beta) for spending in ("sqrt", "log") for beta in (1e-3, 1e-2, 5e-2)]
CASES = [
    (0.5, (0.7015, 0.7215, 0.7615, 0.6815, 0.6615)),
    (1.0, (0.8513, 0.8713, 0.9413, 0.8313, 0.8113)),
    (2.0, (0.9802, 0.9872, 0.9952, 0.9742, 0.9672)),
]


def row(*fields: object) -> None:
    print("|", " | ".join(str(field) for field in fields), "|", flush=True)


def head(*fields: object) -> None:
    print()
    row(*fields)
    row(*["---"] * len(fields))


def play(looks: np.ndarray, upper: np.ndarray, lower: np.ndarray, p: float) -> tuple[float, float]:
    """Exact mean samples and P(certify) of a test that certifies at `upper` votes or more and gives up at `lower` or fewer."""
    alive, low, mean, certified, before = np.ones(1), 0, 0.0, 0.0, 0
    for n, certify_at, give_up_at in zip(looks.tolist(), upper.tolist(), lower.tolist(), strict=True):
        step, half = n - before, 12 * np.sqrt((n - before) * p * (1 - p)) + 30
        first, last = max(0, int(step * p - half)), min(step, int(step * p + half))
        alive, low, before = np.convolve(alive, binom.pmf(np.arange(first, last + 1), step, p)), low + first, n
        counts = low + np.arange(len(alive))
        up, down = counts >= certify_at, (counts <= give_up_at) & (counts < certify_at)
        certified += alive[up].sum()
        mean += n * alive[up | down].sum()
        kept = ~(up | down) & (alive > 1e-18)
        if not kept.any():
            return mean, certified
        start, stop = np.flatnonzero(kept)[[0, -1]]
        alive, low = alive[start : stop + 1], low + start
    return mean + N * alive.sum(), certified


def paths(looks: np.ndarray, p: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Votes at the looks, int64 (len(p), J), of independent inputs with the probabilities p."""
    return np.cumsum([rng.binomial(step, p) for step in np.diff(looks, prepend=0)], axis=0).T


def decide(found: Boundaries, index: int, votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each path claims one null, and the look at which it is decided. The class decides each null as if it were alone."""
    claim, give_up = votes >= found.certify_at[index], votes <= found.give_up_at[index]
    last = len(found.looks) - 1
    claim_at = np.where(claim.any(1), claim.argmax(1), last + 1)
    give_up_at = np.where(give_up.any(1), give_up.argmax(1), last + 1)
    return (claim_at <= give_up_at) & (claim_at <= last), np.minimum(np.minimum(claim_at, give_up_at), last)


def replay(found: Boundaries, tested: list[int], votes: np.ndarray) -> None:
    """Stop the benchmark unless the class itself decides these paths as `decide` does."""
    single = [decide(found, index, votes) for index in tested]
    count, last = np.sum([claimed for claimed, _ in single], axis=0), np.max([look for _, look in single], axis=0)
    for i, path in enumerate(votes.tolist()):
        test = GroupSequentialTest(found, tested)
        look = next(j for j, k in enumerate(path) if test.update(k))
        assert (look, test.claimed) == (last[i], tested[count[i] - 1] if count[i] else None)


def level() -> None:
    print(f"""
## 1. Level

The shipped boundaries (monotone in z), without futility. Exact: a dynamic program with its own binomial law (scipy.stats). Simulated:
{PATHS:,} paths for each p0, standard error in brackets. The exact level must be at most alpha = {ALPHA:g}, and a simulated one within its
error of the exact one.""")
    tables = {spending: boundaries(ALPHA, N, spending=spending, cache=CACHE) for spending in ("sqrt", "log")}
    rng = np.random.default_rng(SEED)
    head("z", "p0", "sqrt, exact", "sqrt, simulated", "log, exact", "log, simulated")
    for index in (0, 50, 100, 200, 300):
        p, fields = tables["sqrt"].p0[index], []
        rates = dict.fromkeys(tables, 0)
        simulated = index in (0, 100, 200)
        for _ in range(PATHS // CHUNK if simulated else 0):
            votes = paths(tables["sqrt"].looks, np.full(CHUNK, p), rng)
            for spending, found in tables.items():
                rates[spending] += int((votes >= found.certify_at[index]).any(1).sum())
        for spending, found in tables.items():
            fields.append(f"{play(found.looks, found.certify_at[index], np.full(len(found.looks), -1), p)[1]:.4e}")
            rate = rates[spending] / PATHS
            fields.append(f"{rate:.3e} ({np.sqrt(rate * (1 - rate) / PATHS):.0e})" if simulated else "")
        row(f"{index / 100:.2f}", f"{p:.6f}", *fields)
    tested = needed(RADII, 0.5, len(tables["sqrt"].z))
    tested = [int(index) for index in tested if index < len(tables["sqrt"].z)]
    print(f"\nThe whole table grid, z = {', '.join(f'{index / 100:g}' for index in tested)}, by gatekeeping and with futility (beta = 0.05):")
    print(f"the rate of any claim of a z with p0(z) >= p, {PATHS:,} paths each.")
    head("p", "sqrt", "log")
    for name, p in (
        ("Phi(1) (a radius of the grid)", ndtr(1.0)),
        ("Phi(0.99)", ndtr(0.99)),
        ("Phi(0.9)", ndtr(0.9)),
        ("Phi(0.75) (midway)", ndtr(0.75)),
    ):
        rates = dict.fromkeys(tables, 0)
        for chunk in range(PATHS // CHUNK):
            votes = paths(tables["sqrt"].looks, np.full(CHUNK, p), rng)
            for spending, found in tables.items():
                if chunk == 0:
                    replay(found, tested, votes[:300])
                false = [index for index in tested if found.p0[index] >= p]
                rates[spending] += int(np.any([decide(found, index, votes)[0] for index in false], axis=0).sum())
        row(name, *(f"{rate / PATHS:.3e} ({np.sqrt(rate) / PATHS:.0e})" for rate in rates.values()))


UNION_LOOKS = (1.1 ** np.arange(12, 135)).astype(np.int64)


def union_bound(p0: float, looks: np.ndarray) -> np.ndarray:
    """Fewest votes that certify at each count: looks at 1.1^k from 1.1^12, the t-th at 5 alpha / ((t + 4)(t + 5)), the least of all later bounds."""
    own = np.unique(UNION_LOOKS)
    t = np.arange(1, len(own) + 1)
    bound = binom.ppf(1 - 5 * ALPHA / ((t + 4) * (t + 5)), own, p0).astype(np.int64) + 1
    later = np.minimum.accumulate(bound[::-1])[::-1]
    return later[np.searchsorted(own, looks)]


def betting(p0: float, looks: np.ndarray) -> np.ndarray:
    """Fewest votes k >= n p0 at each count with a KT mixture's likelihood ratio to p0 of 1 / alpha (Ville's inequality), by bisection."""
    low, high = np.ceil(looks * p0).astype(np.int64), looks + 1
    for _ in range(20):
        k = (low + high) // 2
        log_ratio = betaln(k + 0.5, np.maximum(looks - k, 0) + 0.5) - betaln(0.5, 0.5) - k * np.log(p0) - (looks - k) * np.log1p(-p0)
        enough = (k > looks) | (log_ratio >= np.log(1 / ALPHA))
        low, high = np.where(enough | (low >= high), low, k + 1), np.where(enough, k, high)
    return high


def horvath(p0: float, p: float) -> tuple[float, float]:
    """Mean samples and P(certify): stages with fresh samples, certified by CP at alpha / 3, given up by CP at beta / 2, beta = 1e-4."""
    mean, certified, going_on = 0.0, 0.0, 1.0
    for n in (1000, 10_000, N):
        mean += going_on * n
        up = binom.sf(binom.ppf(1 - ALPHA / 3, n, p0), n, p)
        down = 0.0 if n == N else binom.cdf(binom.ppf(1e-4 / 2, n, p0) - 1, n, p)
        certified += going_on * up
        going_on *= 1 - up - down
    return mean, certified


def comparison() -> None:
    dense = np.unique(np.round(1.01 ** np.arange(0, 1158)).astype(np.int64))
    dense = np.union1d(dense, UNION_LOOKS)
    dense = np.append(dense[dense < N], N)
    print(f"""
## 2. One null: mean samples, and P(certify) in brackets

Exact, by dynamic programming. alpha = {ALPHA:g}, N = {N:,}. A p below p0 is to be refused. Horvath et al.: stages of 1,000, 10,000 and 100,000
samples, fresh in each; the samples that choose the class are left out. UB-CS: beta = 1.1; betting: threshold ln(1 / alpha); both in both
directions, each at alpha. These two are looked at on a dense geometric schedule (ratio 1.01, and UB-CS's own looks; {len(dense)} in all), not
after each sample: that adds at most 1 % to their samples, or one. Ours: beta = 1e-3 and 0.05, of P(giving up) where the last look alone claims
with probability 1 - beta or more: what it would hardly claim is given up sooner, which theirs, made for any N, cannot.""")
    head("r / sigma", "p0", "p", "fixed N (CP)", "Horvath et al.", "UB-CS", "betting", "ours, sqrt", "ours, log", "ours, sqrt, beta = 0.05")
    ours = [boundaries(ALPHA, N, spending=spending, beta=beta, cache=CACHE) for spending, beta in (("sqrt", 1e-3), ("log", 1e-3), ("sqrt", 5e-2))]
    for z, chances in CASES:
        p0, index = float(ndtr(z)), round(100 * z)
        for p in chances:
            cells = [(float(N), float(binom.sf(binom.ppf(1 - ALPHA, N, p0), N, p))), horvath(p0, p)]
            for sequence in (union_bound, betting):
                cells.append(play(dense, sequence(p0, dense), dense - sequence(1 - p0, dense), p))
            cells += [play(found.looks, found.certify_at[index], found.give_up_at[index], p) for found in ours]
            row(f"{z:g}", f"{p0:.4f}", p, *(f"{mean:,.0f} ({power:.3f})" for mean, power in cells))


def logs() -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """For each log: sigma, and of each image whether its class is the label, and the share of votes that its radius follows from."""
    votes = np.arange(N // 2, N + 1)
    bounds = lower_confidence_bound(votes, np.full_like(votes, N), ALPHA)
    for path in sorted(LOGS.glob("*.tsv")):
        sigma = float(path.stem.rsplit("_", 1)[1])
        with open(path) as file:
            lines = list(csv.DictReader(file, delimiter="\t"))
        p_lower = ndtr([float(line["radius"]) / sigma for line in lines])
        nearest = np.clip(np.searchsorted(bounds, p_lower), 1, len(bounds) - 1)
        nearest -= p_lower - bounds[nearest - 1] < bounds[nearest] - p_lower
        abstained = np.array([line["predict"] == "-1" for line in lines])
        yield sigma, np.array([line["correct"] == "1" for line in lines]), np.where(abstained, 0.45, votes[nearest] / N)


def share(looks: np.ndarray) -> str:
    return f"{100 * looks.mean() / N:.2f}"


def released_logs() -> None:
    print(f"""
## 3. Released certification logs

`tests/data/locuslab`: 500 CIFAR-10 images each. An image's p is the share of votes that its radius follows from; where the log abstains,
p = 0.45. {REPLICATES} replicates of each log ({500 * REPLICATES:,} paths); `fixed` (CP at N = {N:,}) sees the same samples. Radii 0, 0.25, ..., 2.5;
those beyond the cap of their sigma are certified by neither, and are not tested. Samples in % of N. `r alone`: stops as soon as r is
decided; `0 and r`: z = 0 is tested too, as `GroupSequentialTest` does. Difference: certified accuracy minus that of `fixed`, in points.""")
    rng = np.random.default_rng(SEED + 1)
    tables = {choice: boundaries(ALPHA, N, spending=choice[0], beta=choice[1], cache=CACHE) for choice in CHOICES}
    summary, columns = [], []
    radius_of_votes = ndtri(lower_confidence_bound(np.arange(N + 1), np.full(N + 1, N), ALPHA))
    for sigma, correct, p in logs():
        scale = float(np.float32(sigma))
        looks = next(iter(tables.values())).looks
        votes, right = paths(looks, np.tile(p, REPLICATES), rng), np.tile(correct, REPLICATES)
        fixed = [right & (scale * radius_of_votes[votes[:, -1]] >= radius) for radius in RADII]
        for choice, found in tables.items():
            indices = needed(RADII, scale, len(found.z))
            replay(found, [int(index) for index in indices if index < len(found.z)], votes[:500])
            ends = np.zeros(len(votes), np.int64)
            worst_alone, worst_pair, differences = 0.0, 0.0, []
            for radius, index, by_fixed in zip(RADII, indices.tolist(), fixed, strict=True):
                if index == len(found.z):
                    differences.append(-100 * by_fixed.mean())
                    columns.append((choice, sigma, radius, by_fixed, differences[-1], "", ""))
                    continue
                claimed, look = decide(found, index, votes)
                if radius == 0:
                    zero = look
                pair = found.looks[np.maximum(look, zero)]
                ends = np.maximum(ends, look)
                worst_alone, worst_pair = max(worst_alone, found.looks[look].mean()), max(worst_pair, pair.mean())
                differences.append(100 * ((claimed & right).mean() - by_fixed.mean()))
                columns.append((choice, sigma, radius, by_fixed, differences[-1], share(found.looks[look]), share(pair)))
            whole = found.looks[ends]
            shares = [100 * samples / N for samples in (whole.mean(), np.median(whole), worst_alone, worst_pair)]
            summary.append((choice, sigma, *shares, 100 * (whole == N).mean(), min(differences), max(differences)))
    print("\nThe whole grid at once, and the dearest single radius:")
    head(
        "spending",
        "beta",
        "sigma",
        "whole grid",
        "median",
        "dearest r alone",
        "dearest 0 and r",
        "images that reach N, %",
        "difference, least",
        "greatest",
    )
    for choice, sigma, *shares, least, greatest in sorted(summary, key=lambda one: CHOICES.index(one[0])):
        row(*choice, f"{sigma:.2f}", *(f"{one:.2f}" for one in shares), f"{least:+.3f}", f"{greatest:+.3f}")
    print("\nOver the four logs: the means, the dearest, and the least difference of all columns:")
    head("spending", "beta", "whole grid, mean", "whole grid, dearest", "0 and r, dearest", "difference, least")
    for choice in CHOICES:
        whole, pairs, least = np.array([(one[2], one[5], one[7]) for one in summary if one[0] == choice]).T
        row(*choice, f"{whole.mean():.2f}", f"{whole.max():.2f}", f"{pairs.max():.2f}", f"{least.min():+.3f}")
    print("\nThe defaults, sqrt and beta = 0.05, were chosen on a spread of p like that of section 4, not on these logs: log is cheaper where an")
    print("answer is clear, and further above the floor next to a radius, as it loses more claims there.")
    print("\nEach radius, with the defaults (sqrt, beta = 0.05):")
    head("sigma", "radius", "fixed, certified accuracy in %", "difference", "r alone", "0 and r")
    for choice, sigma, radius, by_fixed, difference, alone, pair in columns:
        if choice == ("sqrt", 5e-2) and alone:
            row(f"{sigma:.2f}", f"{radius:.2f}", f"{100 * by_fixed.mean():.2f}", f"{difference:+.3f}", alone, pair)


REACH = (0.05, 0.5, 0.95, 0.9999)  # the floor keeps to our power where `fixed` has these


def beside_the_floor(found: Boundaries, tested: list[int], p: np.ndarray) -> np.ndarray:
    """Our mean samples at each p and the floor, (len(p), 2). The floor keeps to the two nulls next to p: to drop others only lowers it."""
    up, down, p0 = found.certify_at[tested], found.give_up_at[tested], found.p0[tested]
    fixed = binom.ppf(1 - ALPHA, N, p0) + 1
    reach = [[float(lower_confidence_bound(int(k), N, power)) for power in REACH] for k in fixed]
    power = [[ours(found.looks, up, down, q)[1][r] for q in row] for r, row in enumerate(reach)]
    columns = []
    for one in p.tolist():
        mean, claims = ours(found.looks, up, down, one)
        above = int(np.searchsorted(p0, one))
        radii = []
        for r in range(max(0, above - 1), min(len(tested), above + 1)):
            least = [(q, min(b, 1 - 1e-6)) for q, b in zip(reach[r], power[r], strict=True) if q > one]
            if r < above:
                least.append((one, min(claims[r], 1 - 1e-6)))
            radii.append(Radius(((min(one, float(p0[r])), ALPHA),), tuple(least)))
        columns.append((mean, floor(one, radii, N, horizon=int(15 * mean) + 500)))
    return np.array(columns)


def floors() -> None:
    print(f"""
## 4. The floor

The fewest mean samples of any test, even of one that is made for the image's p, that claims a radius falsely with probability at most alpha, and
claims each radius at least as often as ours does, at p itself and where `fixed` claims it with probability {", ".join(map(str, REACH))};
it may look after every sample, up to N. A lower bound by duality (`bench/floor.py` states the theorem), for all radii at once, as ours. Ours: the
defaults, exact, by dynamic programming. Logs: all images of section 3, their radii. Spread: 101 p with Phi^-1(p) evenly from -0.3 to 3.7, radii 0,
0.5, ..., 3.5 sigma, at sigma = 1. The samples that choose the class are left out.
Ratio: of the means; and the quartiles and the largest of the images' own ratios.""")
    head("images", "sigma", "ours", "floor", "ratio", "quartiles of ratios", "largest", "ours, % of N")
    found = boundaries(ALPHA, N, cache=CACHE)

    def line(name: str, sigma: str, tested: list[int], p: np.ndarray) -> np.ndarray:
        different, place = np.unique(p, return_inverse=True)
        both = beside_the_floor(found, tested, different)[place]
        ratios = both[:, 0] / both[:, 1]
        mean, least = both.mean(0)
        quartiles = ", ".join(f"{one:.2f}" for one in np.quantile(ratios, (0.25, 0.5, 0.75)))
        row(name, sigma, f"{mean:,.0f}", f"{least:,.0f}", f"{mean / least:.3f}", quartiles, f"{ratios.max():.2f}", f"{100 * mean / N:.2f}")
        return both

    every = []
    for sigma, _, p in logs():
        tested = [int(i) for i in needed(RADII, float(np.float32(sigma)), len(found.z)) if i < len(found.z)]
        every.append(line("log", f"{sigma:.2f}", tested, p))
    mean, least = np.concatenate(every).mean(0)
    row("all logs", "", f"{mean:,.0f}", f"{least:,.0f}", f"{mean / least:.3f}", "", "", f"{100 * mean / N:.2f}")
    line("spread", "1.00", list(range(0, 351, 50)), ndtr(np.linspace(-0.3, 3.7, 101)))


def main() -> None:
    started = time.process_time()
    looks = len(look_schedule(N))
    print(f"""# The group-sequential test

`python bench/sequential.py > bench/sequential.md`, alpha = {ALPHA:g}, N = {N:,}, looks at 100 samples, then at steps of 5 %,
at least 25 ({looks} in all). NumPy's default generator, seeds {SEED} (section 1) and {SEED + 1} (section 3); section 4 draws nothing.""")
    level()
    comparison()
    released_logs()
    floors()
    print(f"{time.process_time() - started:.0f} s of processor time", file=sys.stderr)


if __name__ == "__main__":
    main()
