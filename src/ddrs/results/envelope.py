"""Certified accuracy, average certified radius and their envelope over several logs. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ddrs.certification.records import Log, read_logs
from ddrs.errors import DdrsError
from ddrs.results.rendering import render
from ddrs.statistics.bounds import lower_confidence_bound
from ddrs.statistics.intervals import bootstrap_weights


def certified_accuracy(log: Log, radii: Sequence[float]) -> np.ndarray:
    """The share of a log's examples that are predicted correctly with at least each radius; an abstention counts as wrong."""
    return _hits([log], radii).mean(2)[:, 0]


def average_certified_radius(log: Log) -> float:
    """ACR: the mean of the radius, counted as 0 where the prediction is wrong (Zhai et al. 2020)."""
    return float((log.radius * log.correct).mean())


@dataclass(frozen=True)
class Envelope:
    """The best of several logs, per radius and for the ACR; the paper's way of choosing sigma and K.

    accuracy, chosen: (radii,), the largest certified accuracy and the index of the first log that has it. acr, acr_chosen: the same for
    the ACR. accuracy_interval (radii, 2), acr_interval (2,): 95 % percentile bootstrap over images that redoes the choice in each
    replicate, that of a share widened to at least its Clopper-Pearson interval.
    Optimistic: the choice was made on the same images. acr_oracle: mean over images of the best radius
    over the logs; not a classifier.
    """

    accuracy: np.ndarray
    chosen: np.ndarray
    accuracy_interval: np.ndarray
    acr: float
    acr_chosen: int
    acr_interval: np.ndarray
    acr_oracle: float


def envelope(logs: Sequence[Log], radii: Sequence[float], replicates: int = 1000, seed: int = 0) -> Envelope:
    """The envelope of logs of the same images.

    alpha stays that of each log, per image: a certificate of one log is false with probability at most alpha, and the best of m logs looks
    at m certificates of every image. What that choice adds is not paid for by alpha, nor by the intervals, which are of sampling images.
    DdrsError if their images, alpha, noise or protocol differ."""
    check_comparable(logs)
    hits = _hits(logs, radii)
    scores = np.stack([log.radius * log.correct for log in logs])
    images = scores.shape[1]
    weights = bootstrap_weights(images, replicates, seed)
    replicated = np.stack([(weights @ of_radius.T).max(1) for of_radius in hits])
    accuracy, acr = hits.mean(2), scores.mean(1)
    low, high = np.quantile(replicated, (0.025, 0.975), axis=1)
    best = np.rint(accuracy.max(1) * images).astype(int)
    # near 0 and 1 the bootstrap collapses: never narrower than the exact interval of the chosen configuration
    exact_low = lower_confidence_bound(best, images, 0.025)
    exact_high = 1 - np.asarray(lower_confidence_bound(images - best, images, 0.025))
    interval = np.stack([np.minimum(low, exact_low), np.maximum(high, exact_high)], axis=1)
    return Envelope(
        accuracy=accuracy.max(1),
        chosen=accuracy.argmax(1),
        accuracy_interval=interval,
        acr=float(acr.max()),
        acr_chosen=int(acr.argmax()),
        acr_interval=np.quantile((weights @ scores.T).max(1), (0.025, 0.975)),
        acr_oracle=float(scores.max(0).mean()),
    )


def check_comparable(logs: Sequence[Log]) -> None:
    """DdrsError unless there are logs, and all are of the same images, alpha, noise and protocol."""
    if not logs:
        raise DdrsError("no logs were given")
    first = logs[0]
    for log in logs[1:]:
        if not np.array_equal(log.table[["idx", "label"]].to_numpy(), first.table[["idx", "label"]].to_numpy()):
            raise DdrsError(f"{log.name}: is of other images than {first.name} (idx and label must agree line by line)")
        for column in ("dataset", "split", "data", "alpha", "noise", "protocol", "bound", "n_max"):
            ours, theirs = log.constant(column), first.constant(column)
            if None not in (ours, theirs) and ours != theirs:
                raise DdrsError(f"{log.name}: has {column} {ours}, but {first.name} has {theirs}")


def envelope_report(paths: Sequence[Path], radii: Sequence[float], form: str) -> str:
    """One line per log and one for the envelope, as csv, md or tex: certified accuracy as a fraction per radius, and ACR.

    Protocol sequential decides the radii of its grid only, so there the last column is a lower bound of the ACR and says so. Logs of other
    projects, and an envelope that has any, are called not recomputable: their radii are believed.
    """
    if form not in ("csv", "md", "tex"):
        raise DdrsError(f"format {form!r}: must be csv, md or tex")
    logs = read_logs(paths)
    best = envelope(logs, radii, replicates=1)
    believed = {True: "", False: " (not recomputable)"}
    rows = [[log.name + believed[log.recomputable], *certified_accuracy(log, radii), average_certified_radius(log)] for log in logs]
    rows.append(["envelope" + believed[all(log.recomputable for log in logs)], *best.accuracy, best.acr])
    acr = "acr_lower_bound" if logs[0].constant("protocol") == "sequential" else "acr"
    table = pd.DataFrame(rows, columns=["log", *(f"{radius:g}" for radius in radii), acr])
    return render(table, form, ["%.4f"] * (len(radii) + 1))


def _hits(logs: Sequence[Log], radii: Sequence[float]) -> np.ndarray:
    """(radii, logs, images), whether each image is certified at each radius."""
    return np.stack([[log.correct & (log.radius >= radius) for log in logs] for radius in radii])
