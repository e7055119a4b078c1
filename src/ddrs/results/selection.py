"""The honest choice: some images choose sigma and K, and others say what that choice is worth. No torch.

The images that choose are those of the validation split. Where a model has seen all training images there are none: then every second test
image chooses, and the numbers are of the others. In the memory one of the others may change an image that chooses, if it came before it: so
rows with a memory choose on their logs from before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ddrs.certification.records import Log
from ddrs.errors import DdrsError
from ddrs.results.envelope import average_certified_radius, certified_accuracy, check_comparable
from ddrs.rows import ALTERNATE, Chooser, read_logged, spelled
from ddrs.statistics.bounds import lower_confidence_bound, upper_confidence_bound
from ddrs.statistics.intervals import bootstrap_weights

Configuration = tuple[float, float]  # sigma0 and its second number: K, which is 0 for a fixed sigma, or that of the row's knob
TIES: dict[Chooser, str] = {  # by what chooses; {knob} is open
    "validation": "ties: the larger ACR on validation, then the smaller sigma, then the smaller {knob}",
    ALTERNATE: "ties: the larger ACR on those that choose, then the smaller sigma, then the smaller {knob}",
}
CHOOSERS: dict[Chooser, str] = {"validation": "the validation images", ALTERNATE: "every second image"}


@dataclass(frozen=True)
class Choice:
    """What some images chose: a configuration per radius and one for the ACR, and what each is worth on them (shares, ACR).

    on: which images.
    """

    per_radius: list[Configuration]
    accuracy: np.ndarray
    for_acr: Configuration
    acr: float
    on: Chooser


@dataclass(frozen=True)
class Selected:
    """The test images' numbers of what was chosen elsewhere.

    accuracy, chosen: (radii,), certified accuracy and the index of the log that was chosen. accuracy_interval: (radii, 2), exact 95 %
    (Clopper-Pearson), as nothing was maximised on these images. acr, acr_chosen, acr_interval: of the one configuration chosen for the ACR,
    95 % percentile bootstrap over images.
    """

    accuracy: np.ndarray
    chosen: np.ndarray
    accuracy_interval: np.ndarray
    acr: float
    acr_chosen: int
    acr_interval: np.ndarray


def configuration(log: Log) -> Configuration:
    """Where a log's sigma starts, and the steps of its search, or the number of its row's knob."""
    return float(str(log.constant("sigma0"))), numbered(log)[1]


def numbered(log: Log) -> tuple[str, float]:
    """The knob of a log and its number: K = 0 of a fixed sigma, and of a log that says none."""
    return read_logged(str(log.constant("K") or ""))


def named(log: Log, one: Configuration) -> str:
    """A configuration in words, its second number called as that of a log of its row."""
    return f"sigma {one[0]:g} and {numbered(log)[0]} {spelled(one[1])}"


def halves(logs: Sequence[Log]) -> tuple[list[Log], list[Log]]:
    """The logs of every second image in ascending idx, from the first on, which choose; and those of the other images, which are reported.

    It is the place of an image among those that were certified that decides, not its idx: where all images of a split are certified both are
    the same, but every 100th image has an even idx. Errors: DdrsError for logs of fewer than two images, or of different ones.
    """
    check_comparable(logs)
    if len(logs[0].table) < 2:
        raise DdrsError(f"{logs[0].name}: is of one image; two are needed for one to choose sigma and K and another to be reported")
    ordered = [(log.name, log.table.sort_values("idx")) for log in logs]
    return [Log(name, table.iloc[::2]) for name, table in ordered], [Log(name, table.iloc[1::2]) for name, table in ordered]


def choose(choosers: Sequence[Log], radii: Sequence[float], on: Chooser = "validation") -> Choice:
    """Per radius the configuration of the largest certified accuracy on the images that choose, and that of the largest ACR.

    on: "validation", or "even" for the first of `halves`. Of equals, which a few dozen images often give: the one with the larger ACR, then
    the smaller sigma, then the smaller second number; so the order of the logs does not matter. Errors: DdrsError for a log of another split, or two
    of one configuration.
    """
    check_comparable(choosers)
    found: dict[Configuration, tuple[np.ndarray, float]] = {}
    for log in choosers:
        if on == "validation" and log.constant("split") != "validation":
            raise DdrsError(f"{log.name}: is of split {log.constant('split')}; sigma and K are chosen on split validation only")
        if configuration(log) in found:
            raise DdrsError(f"{log.name}: has {named(log, configuration(log))}, as another of the logs has")
        found[configuration(log)] = certified_accuracy(log, radii), average_certified_radius(log)
    ranked = sorted(found, key=lambda one: (-found[one][1], one))
    per_radius = [max(ranked, key=lambda one: found[one][0][i]) for i in range(len(radii))]  # max takes the first of equals
    accuracy = np.array([found[one][0][i] for i, one in enumerate(per_radius)])
    return Choice(per_radius, accuracy, ranked[0], found[ranked[0]][1], on)


def selected(logs: Sequence[Log], choice: Choice, radii: Sequence[float], replicates: int = 1000, seed: int = 0) -> Selected:
    """What a choice is worth on logs of other images.

    alpha stays that of the logs, per image. The choice does not see these images, so for each column, which is of one log, a certificate is
    false with probability at most alpha; a row's columns may be of several logs.
    DdrsError for validation logs, or if none is of a chosen configuration.
    """
    check_comparable(logs)
    if logs[0].constant("split") == "validation":
        raise DdrsError(f"{logs[0].name}: is of the validation images, which chose sigma and K; their worth is measured on others")
    places = {configuration(log): i for i, log in enumerate(logs)}
    for one in (*choice.per_radius, choice.for_acr):
        if one not in places:
            raise DdrsError(f"{logs[0].name}: no log beside it has {named(logs[0], one)}, which {CHOOSERS[choice.on]} chose")
    chosen = np.array([places[one] for one in choice.per_radius], dtype=int)
    images = len(logs[0].table)
    accuracy = np.array([certified_accuracy(logs[place], [radius])[0] for place, radius in zip(chosen, radii, strict=True)])
    hits = np.rint(accuracy * images).astype(int)
    exact = np.stack([lower_confidence_bound(hits, images, 0.025), upper_confidence_bound(hits, images, 0.025)], axis=1)
    scores = logs[places[choice.for_acr]].radius * logs[places[choice.for_acr]].correct
    weights = bootstrap_weights(images, replicates, seed)
    return Selected(
        accuracy=accuracy,
        chosen=chosen,
        accuracy_interval=exact,
        acr=float(scores.mean()),
        acr_chosen=places[choice.for_acr],
        acr_interval=np.quantile(weights @ scores, (0.025, 0.975)),
    )
