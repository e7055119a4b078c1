"""Protocol two-stage beside designs that know p.

    python bench/two_stage.py > bench/two_stage.md

Exact over the pilot's votes; the radius of n samples is taken at n p votes, as the plan takes it.
"""

import csv
from pathlib import Path

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri
from scipy.stats import binom

from ddrs.certification.protocols import planned_n
from ddrs.certification.settings import ImageCertificateSettings

ALPHA, N, LOSS = 1e-3, 100_000, 0.02
LOGS = Path(__file__).parents[1] / "tests" / "data" / "locuslab"
COUNTS = np.unique(np.round(np.geomspace(10, N, 3000)).astype(np.int64))


def z_at(p: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Radius / sigma of n samples of which n p are votes; p = 1: all of them."""
    return np.maximum(0.0, ndtri(betaincinv(np.maximum(p * n, 1e-9), (1 - p) * n + 1, ALPHA)))


def shares(path: Path) -> np.ndarray:
    """Of each image the p at which N samples give its radius; 0.45 of an abstention."""
    sigma = float(path.stem.rsplit("_", 1)[1])
    with open(path) as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    p_lower = ndtr([float(line["radius"]) / sigma for line in lines])
    low, high = np.zeros(len(lines)), np.ones(len(lines))
    for _ in range(50):
        p = (low + high) / 2
        below = betaincinv(p * N, (1 - p) * N + 1, ALPHA) < p_lower
        low, high = np.where(below, p, low), np.where(below, high, p)
    return np.where([line["predict"] == "-1" for line in lines], 0.45, np.minimum(high, 1.0))


def planned(p: np.ndarray, n0: int, losses: np.ndarray) -> tuple[float, float]:
    """Mean samples, the pilot's included, and mean loss of the shipped plan."""
    settings = ImageCertificateSettings(alpha=ALPHA, n=N, n0=n0, protocol="two-stage", radius_loss=LOSS)
    n = np.array([planned_n(k, settings) for k in range(n0 + 1)])
    law = binom.pmf(np.arange(n0 + 1), n0, p[:, None])
    loss = np.array([np.interp(n, COUNTS, row) for row in losses])
    return n0 + float((law * n).sum(1).mean()), float((law * loss).sum(1).mean())


def same_loss(losses: np.ndarray, wanted: float) -> float:
    """Fewest mean samples of designs n(p) whose mean loss is at most `wanted`: by the multiplier of the loss, from below (duality)."""
    best = 0.0
    for multiplier in np.geomspace(1e3, 1e9, 400):
        best = max(best, float((COUNTS + multiplier * losses).min(1).mean()) - multiplier * wanted)
    return best


def main() -> None:
    print(f"""# Protocol two-stage beside designs that know p

`python bench/two_stage.py > bench/two_stage.md`, alpha = {ALPHA:g}, N = {N:,}, radius_loss = {LOSS}. All images of the logs in
`tests/data/locuslab`. A sample count includes the pilot's n0. Loss: mean over the images of (radius at N) - (radius at n), in sigma.
Oracle: the smallest n whose radius at the true p is at most {LOSS} sigma below that at N, no pilot. Floor: the fewest mean samples of all designs
that know p, need no pilot and lose no more than ours on average, by duality; no (pilot, n) design of that loss takes fewer, as its n is one of
them, drawn by lot.

| sigma | n0 | ours | loss | oracle | loss | ours / oracle | floor at our loss | ours / floor |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |""")
    for path in sorted(LOGS.glob("*.tsv")):
        p = shares(path)
        losses = np.array([z_at(one, np.array(N)) - z_at(one, COUNTS) for one in p])
        first = (losses <= LOSS).argmax(1)
        oracle, oracle_loss = COUNTS[first].mean(), losses[np.arange(len(p)), first].mean()
        for n0 in (100, 300, 1000):
            mean, loss = planned(p, n0, losses)
            least = same_loss(losses, loss)
            cells = [f"{n0:,}", f"{mean:,.0f}", f"{loss:.4f}", f"{oracle:,.0f}", f"{oracle_loss:.4f}", f"{mean / oracle:.3f}", f"{least:,.0f}"]
            print("|", " | ".join([path.stem.rsplit("_", 1)[1], *cells, f"{mean / least:.3f}"]), "|", flush=True)


if __name__ == "__main__":
    main()
