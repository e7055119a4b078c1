"""The empirical distribution of p_lower, which one number cannot replace (Sun et al. 2025, "ACR is a Poor Metric")."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from scipy.special import ndtri

from ddrs.certification.records import Log, read_logs
from ddrs.errors import DdrsError
from ddrs.figures.certified_accuracy import row_styles
from ddrs.figures.drawing import Style, save
from ddrs.results.captions import NO_CAPTION, Caption, logs_caption
from ddrs.results.envelope import check_comparable
from ddrs.results.row_cells import check_before
from ddrs.results.selection import choose, configuration, halves, numbered
from ddrs.rows import ALTERNATE, Row, spelled

TICKS = (0.5, 0.7, 0.9, 0.99, 0.999, 0.9999)
CAPTION = (
    "The empirical distribution of p_lower, a panel per training sigma: the percent of images whose lower bound on the probability of the "
    "true class is at most x. Images that are predicted wrongly, abstained on, or that adopted another entry's class in the memory count 0: "
    "their share is the height at which a curve starts. The axis is on the probit scale, on which distances are, for Gaussian noise, those "
    "of radii in units of sigma; the dotted line is the largest p_lower that n and alpha allow. A DS curve is of the K of the largest ACR "
    "at that sigma on {choosers}."
)


def p_lower_of(log: Log) -> np.ndarray:
    """(images,), each image's lower bound on the probability of its true class where that class is what the row predicts, else 0.

    So an abstention and a wrong prediction count 0, and so does an entry whose class the memory adopted from another entry: its bound is of
    the class that it had before. DdrsError if the log has no p_lower.
    """
    if "p_lower" not in log.table:
        raise DdrsError(f"{log.name}: has no column 'p_lower'; its distribution needs logs written by ddrs certify")
    not_adopted = log.table["memory"].to_numpy() != "adopted" if "memory" in log.table else np.ones(len(log.table), bool)
    return np.where(log.correct & not_adopted, log.table["p_lower"].to_numpy(np.float64), 0.0)


def p_lower_figure(
    paths: Sequence[Path],
    validation: Sequence[Path],
    pdf: Path,
    png: Path,
    even: Sequence[str] = (),
    before: Sequence[Path] = (),
    caption: Caption = NO_CAPTION,
) -> None:
    """A panel per training sigma, a line of panels per dataset, a curve per row: the percent of images with p_lower of at most x.

    A DS curve is of one K: that of the largest ACR on the validation logs among those that start at the panel's sigma. even: datasets without
    validation logs, of which every second image chooses and the others are drawn. before: of their rows with a memory, the logs that it made
    these of, on which those images choose. The axis is on the
    probit scale, where distances are those of radii in units of sigma if the noise is Gaussian. At its start, 1/2, a curve has the share of
    images that are wrong or abstained on (with bound joint also of those that were certified with less). Errors: DdrsError as for
    the other figures, and if a row lacks its validation logs, or has some although its even images choose.
    """
    logs, held_out = _read(paths), _read(validation) if validation or not even else []
    _check_even(logs, held_out, even)
    earlier = read_logs(before)
    datasets = list(dict.fromkeys(str(log.constant("dataset")) for log in logs))
    panels = {name: sorted({configuration(log)[0] for log in logs if log.constant("dataset") == name}) for name in datasets}
    width = max(len(sigmas) for sigmas in panels.values())
    figure, axes = plt.subplots(
        len(datasets), width, figsize=(max(3.2 * width, 6.4), 2.7 * len(datasets) + 0.6), sharey=True, squeeze=False, layout="constrained"
    )
    styles = row_styles([str(log.constant("method")) for log in logs])
    handles: dict[str, Artist] = {}
    drawn: list[Log] = []
    try:
        for line, name in zip(axes, datasets, strict=True):
            for axis, sigma in zip(line, panels[name], strict=False):
                panel_logs = [log for log in logs if (log.constant("dataset"), configuration(log)[0]) == (name, sigma)]
                for label in dict.fromkeys(str(log.constant("method")) for log in panel_logs):
                    row = [one for one in panel_logs if one.constant("method") == label]
                    log = _chosen_on_half(row, earlier) if name in even else _chosen(row, held_out)
                    handles[label] = _draw(axis, log, styles[label])
                    drawn.append(log)
                cap = float(ndtri(_cap(panel_logs[0])))
                handles["largest possible"] = axis.axvline(cap, color="#999999", linestyle=":", linewidth=1.2)
                _dress(axis, sigma, cap, uniform=str(panel_logs[0].constant("noise")).startswith("uniform"))
            for axis in line[len(panels[name]) :]:
                axis.set_visible(False)
            line[0].set_ylabel(f"{name}\nimages with at most\nthis p_lower (%)")
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), frameon=False)
        save(figure, pdf, png, logs_caption(drawn))
    finally:
        plt.close(figure)
    caption.write(CAPTION.format(choosers=_choosers(datasets, even)), drawn)


def _choosers(datasets: Sequence[str], even: Sequence[str]) -> str:
    """What chose K, said once for all datasets or for each."""
    words = {False: "the validation images", True: "every second test image, before the memory, and of the others"}
    ways = {name: words[name in even] for name in datasets}
    if len(set(ways.values())) == 1:
        return next(iter(ways.values()))
    return "; ".join(f"{way} ({name})" for name, way in ways.items())


def _read(paths: Sequence[Path]) -> list[Log]:
    """The logs. DdrsError if there are none, or one is not of `ddrs certify`, or a dataset's are not of the same images and protocol."""
    logs = read_logs(paths)
    if not logs:
        raise DdrsError("no logs were given")
    for log in logs:
        if log.constant("method") is None:
            raise DdrsError(f"{log.name}: has no column 'method'; figures need logs written by ddrs certify")
        Row.parse(str(log.constant("method")))
    for name in dict.fromkeys(log.constant("dataset") for log in logs):
        check_comparable([log for log in logs if log.constant("dataset") == name])
    return logs


def _check_even(logs: Sequence[Log], validation: Sequence[Log], even: Sequence[str]) -> None:
    for name in even:
        if all(log.constant("dataset") != name for log in logs):
            raise DdrsError(f"--even {name}: no log is of this dataset")
        for log in validation:
            if log.constant("dataset") == name:
                raise DdrsError(f"{log.name}: is of the validation images of {name}, but every second test image of it is to choose")


def _chosen(logs: Sequence[Log], validation: Sequence[Log]) -> Log:
    """The log of the K that validation images choose at this sigma and row."""
    one, same = logs[0], [other for other in validation if _place(other) == _place(logs[0])]
    if not same:
        raise DdrsError(f"{one.name}: no validation log of its dataset, row and sigma was given")
    wanted = choose(same, [0.0]).for_acr
    for log in logs:
        if configuration(log) == wanted:
            return log
    raise DdrsError(f"{one.name}: no log beside it has {numbered(one)[0]} {spelled(wanted[1])}, which the validation images chose")


def _chosen_on_half(logs: Sequence[Log], before: Sequence[Log]) -> Log:
    """The other images of the log of the K that every second image chooses, on the logs before the memory where the row has one."""
    earlier = [other for other in before if _place(other) == _place(logs[0])] if "memory" in logs[0].table else logs
    check_before(earlier, logs)
    wanted = choose(halves(earlier)[0], [0.0], ALTERNATE).for_acr
    return next(log for log in halves(logs)[1] if configuration(log) == wanted)


def _place(log: Log) -> tuple[object, object, float]:
    return log.constant("dataset"), log.constant("method"), configuration(log)[0]


def _cap(log: Log) -> float:
    """p_lower when all n votes agree; bound joint leaves half of alpha to the runner-up."""
    alpha, n = float(str(log.constant("alpha"))), int(str(log.constant("n_max")))
    return (alpha / 2 if log.constant("bound") == "joint" else alpha) ** (1 / n)


def _draw(axis: Axes, log: Log, style: Style) -> Artist:
    values = np.sort(p_lower_of(log))
    known = values[values > TICKS[0]]
    share = 100 * np.arange(len(values) - len(known), len(values) + 1) / len(values)
    colour, dashes = style
    x = np.concatenate([[ndtri(TICKS[0])], ndtri(known)])
    above = 2 if dashes == "-" else 3  # dashes on a solid curve show both where two coincide
    (line,) = axis.step(x, share, where="post", color=colour, linestyle=dashes, linewidth=1.5, zorder=above)
    return line


def _dress(axis: Axes, sigma: float, cap: float, uniform: bool) -> None:
    axis.set_title(f"$\\{'lambda' if uniform else 'sigma'} = {sigma:.2f}$", fontsize=10)
    shown = [tick for tick in TICKS if ndtri(tick) < cap]
    axis.set_xticks(ndtri(shown), [f"{tick:g}" for tick in shown], fontsize=8)
    axis.set_xlim(0, cap + 0.2)
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3, linewidth=0.5)
    axis.set_xlabel("p_lower of the true class")
