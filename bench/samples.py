"""The picture of docs/certification.md, samples that each protocol uses against the probability of the class, and what two-stage costs in ACR.

    python bench/samples.py docs/samples.png > bench/samples.md

Every point is the mean of 200 runs of the package's own protocols (ddrs.certification.protocols), whose votes are drawn from a binomial law with
the given probability. n = 100,000 at most, n0 = 100, alpha = 0.001; sequential: radii 0, 0.5, ..., 3 at sigma = 1.
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from scipy.special import ndtr, ndtri

from ddrs.certification.protocols import PROTOCOLS, planned_n
from ddrs.certification.records import read_log
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.task import make_task
from ddrs.files import atomic
from ddrs.noise.laws import get_noise
from ddrs.statistics.bounds import lower_confidence_bound

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RUNS, N, RADII = 200, 100_000, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
LOGS = Path(__file__).parents[1] / "tests/data/locuslab"
CURVES = {"fixed": ("#000000", "--"), "two-stage": ("#0072B2", "-."), "sequential": ("#D55E00", "-")}


def samples(protocol: str, p: float, rng: np.random.Generator) -> float:
    """Mean samples in all, those that pick the class included."""
    radii = RADII if protocol == "sequential" else []
    task = make_task(ImageCertificateSettings(n=N, protocol=protocol, radii=radii), get_noise("gaussian"), 0.0)  # pyright: ignore[reportArgumentType]
    total = 0
    for _ in range(RUNS):
        steps = PROTOCOLS[protocol](task, np.float32(1.0))
        wanted = next(steps)
        while True:
            total += wanted[1]
            votes = rng.binomial(wanted[1], p)
            try:
                wanted = steps.send(np.array([votes, wanted[1] - votes]))
            except StopIteration:
                break
    return total / RUNS


def two_stage_on(path: Path, rng: np.random.Generator) -> str:
    """A line of the table."""
    log, sigma = read_log(path), float(path.stem.rpartition("_")[2])
    share = np.where(log.table["predict"] == -1, 0.45, ndtr(log.radius / sigma))
    correct = log.correct & (log.table["predict"].to_numpy() != -1)

    def measured(settings: ImageCertificateSettings) -> tuple[float, float]:
        votes = rng.binomial(settings.n0, np.tile(share, 20))
        plan = {k: planned_n(int(k), settings) for k in np.unique(votes)}
        n = np.array([plan[k] for k in votes]) if settings.protocol == "two-stage" else np.full(len(votes), settings.n)
        p_lower = np.asarray(lower_confidence_bound(rng.binomial(n, np.tile(share, 20)), n, settings.alpha))
        radius = np.where(p_lower > 0.5, sigma * ndtri(p_lower), 0.0)
        return float((radius * np.tile(correct, 20)).mean()), float(n.mean() + settings.n0)

    acr, _ = measured(ImageCertificateSettings(n=N))
    cells = [f"{sigma:.2f}", f"{acr:.4f}"]
    for n0 in (100, 1000):
        acr, drawn = measured(ImageCertificateSettings(n=N, n0=n0, protocol="two-stage"))
        cells += [f"{acr:.4f}", f"{drawn:,.0f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    rng = np.random.default_rng(0)
    z = np.linspace(0.0, 3.7, 149)
    figure, axis = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for protocol, (colour, dashes) in CURVES.items():
        axis.plot(z, [samples(protocol, p, rng) for p in ndtr(z)], color=colour, linestyle=dashes, linewidth=1.4, label=protocol)
    for radius in RADII:
        axis.axvline(radius, color="#999999", linewidth=0.6, zorder=0)
    axis.set_xticks(RADII, [f"{p:.4g}" for p in np.round(ndtr(RADII), 4)])
    axis.set(yscale="log", xlim=(0, 3.7), ylim=(80, 2e5), xlabel="$p_A$, probability of the class under noise", ylabel="mean samples of an image")
    above = axis.secondary_xaxis("top")
    above.set_xticks(RADII, [f"{radius:g}$\\sigma$" for radius in RADII])
    above.set_xlabel("true radius")
    axis.grid(axis="y", alpha=0.3, linewidth=0.5)
    axis.legend(frameon=False, loc="lower left", ncols=3)
    print("ACR and mean samples of protocol two-stage on the logs in tests/data/locuslab (500 CIFAR-10 images each), votes drawn 20 times from each")
    print("image's share of votes, an abstention's taken as 0.45; n = 100,000 at most, radius_loss = 0.02 (`bench/samples.py`).\n")
    print("| sigma | ACR, fixed | n0 = 100: ACR | samples | n0 = 1,000: ACR | samples |\n| --- | --- | --- | --- | --- | --- |")
    for path in sorted(LOGS.glob("*.tsv")):
        print(two_stage_on(path, rng), flush=True)
    with atomic(Path(sys.argv[1])) as temporary:
        figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
