"""Figures: certified accuracy against radius (Figures 3, 4, 5, 7 and 8 of the paper)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddrs.certification.records import Log, read_logs
from ddrs.errors import DdrsError
from ddrs.figures.drawing import Style, save
from ddrs.noise.norms import norm_of
from ddrs.results.captions import NO_CAPTION, Caption, logs_caption
from ddrs.results.envelope import check_comparable
from ddrs.results.selection import numbered
from ddrs.rows import FIXED, KINDS, STEPS, Curves, Kind, Row, label_of, spelled

SERIES: list[Style] = [  # of curves that differ by a number: the grids of Figure 8 by n, the steps of Figure 7 by K > 0
    ("#E69F00", (0, (1, 1))),
    ("#56B4E9", (0, (4, 1, 1, 1))),
    ("#009E73", (0, (6, 2))),
    ("#CC79A7", (0, (4, 1, 1, 1, 1, 1))),
    ("#D55E00", (0, (9, 1))),
    ("#0072B2", "-"),
]
PANELS_SIDE_BY_SIDE = 4  # panels side by side in Figure 7
CAPTIONS: dict[Curves, str] = {
    "rows": "Certified accuracy against radius, a panel per training sigma and one for the envelope over all. A data-dependent curve is the best "
    "over K at each radius, an envelope the best over sigma and K, both chosen on these same images: optimistic.",
    "searches": "Certified accuracy against radius of a fixed sigma, of Algorithm 1, and of grid search (GDS) with n samples per point, the searches "
    "at the same budget of {evaluations}evaluations of the model per image: a step of Algorithm 1 is two for each sample, a forward and a backward "
    "pass. Samples that fix the class before a search are beside the budget, as many for all. A panel per training sigma and one for the envelope, "
    "the best over sigma, chosen on these same images: optimistic.",
    "steps": "Certified accuracy against radius for growing K, a panel per model. The K of a panel are points of one stored trajectory of the "
    "search; K = 0 is its start, the training sigma: of a DS model this is row FS, which needs no memory.",
}


def certified_accuracy_figure(
    paths: Sequence[Path], pdf: Path, png: Path, kind: Curves = "rows", evaluations: int | None = None, caption: Caption = NO_CAPTION
) -> None:
    """Certified accuracy against radius.

    kind: "rows" (Figures 3 to 5), a panel per training sigma and one for the envelope, a line of panels per dataset, a curve per row of the
    table: the best over K at each radius, the envelope the best over sigma and K, both chosen on the same images. "searches" (Figure 8), the
    same with a curve per row and K; a grid search is named by its n = evaluations / K. "steps" (Figure 7), a panel per model and a curve
    per K; a log of a fixed sigma is K = 0 of the DS row beside it. Errors: DdrsError for logs that are not of `ddrs certify`, or not of the same
    images within a dataset or panel, or of a fixed sigma alone.
    """
    logs = [_of_certify(log) for log in read_logs(paths)]
    if kind == "rows":
        figure = _by_sigma(logs, _label, row_styles)
    elif kind == "searches":
        figure = _by_sigma(logs, lambda log: _search_name(log, evaluations), _search_styles)
    elif kind == "steps":
        figure = _by_steps(logs)
    else:
        raise DdrsError(f"kind {kind!r}: must be rows, searches or steps")
    save(figure, pdf, png, logs_caption(logs))
    caption.write(CAPTIONS[kind].format(evaluations="" if evaluations is None else f"{evaluations} "), logs)


def _of_certify(log: Log) -> Log:
    if log.constant("method") is None:
        raise DdrsError(f"{log.name}: has no column 'method'; figures need logs written by ddrs certify")
    _kind(log)
    return log


def _label(log: Log) -> str:
    return str(log.constant("method"))


def _kind(log: Log) -> Kind:
    return Row.parse(_label(log)).kind


def row_styles(labels: Sequence[str]) -> dict[str, Style]:
    """Colour and dashes of each row: of its kind; where rows are of several methods, the colour tells the methods apart."""
    rows = {label: Row.parse(label) for label in labels}
    methods = dict.fromkeys(row.method for row in rows.values())
    colours = {method: SERIES[i % len(SERIES)][0] for i, method in enumerate(methods)}
    return {label: (row.kind.colour if len(methods) == 1 else colours[row.method], row.kind.dashes) for label, row in rows.items()}


def _sigma0(log: Log) -> float:
    return float(str(log.constant("sigma0")))


def _steps(log: Log) -> int:
    """K; 0 of a fixed sigma, where every search starts. DdrsError for a log of another knob."""
    knob, number = numbered(log)
    if knob != STEPS:
        raise DdrsError(f"{log.name}: is of {knob} {spelled(number)}, where the figure shows K")
    return int(number)


def _search_name(log: Log, evaluations: int | None) -> str:
    kind = _kind(log)
    if kind.strategy is None:
        return _label(log)
    if kind.strategy != "grid":
        knob, number = numbered(log)
        return f"{_label(log)}, {knob} = {spelled(number)}"
    if evaluations is None or evaluations % _steps(log):
        raise DdrsError(f"{log.name}: a grid of {_steps(log)} points needs --evaluations, a multiple of it")
    return f"{_label(log)}, n = {evaluations // _steps(log)}"


def _search_styles(names: Sequence[str]) -> dict[str, Style]:
    kinds = {name: Row.parse(name.partition(",")[0]).kind for name in names}
    grids = [name for name in names if kinds[name].strategy == "grid"]
    return {name: SERIES[grids.index(name) % len(SERIES)] if name in grids else (kind.colour, kind.dashes) for name, kind in kinds.items()}


def _by_sigma(logs: Sequence[Log], name_of: Callable[[Log], str], styles_of: Callable[[Sequence[str]], dict[str, Style]]) -> Figure:
    datasets = list(dict.fromkeys(str(log.constant("dataset")) for log in logs))
    for name in datasets:
        check_comparable([log for log in logs if log.constant("dataset") == name])
    names = list(dict.fromkeys(map(name_of, logs)))
    styles = styles_of(names)
    panels = {name: sorted({_sigma0(log) for log in logs if log.constant("dataset") == name}) for name in datasets}
    width = max(len(sigmas) for sigmas in panels.values()) + 1
    figure, axes = plt.subplots(
        len(datasets), width, figsize=(3.0 * width, 2.7 * len(datasets) + 0.4), sharey="row", squeeze=False, layout="constrained"
    )
    handles: dict[str, Artist] = {}
    for line, dataset in zip(axes, datasets, strict=True):
        logs_of_dataset = [log for log in logs if log.constant("dataset") == dataset]
        for axis, sigma in zip(line, [*panels[dataset], None], strict=False):
            for name in names:
                curve = [log for log in logs_of_dataset if name_of(log) == name and (sigma is None or _sigma0(log) == sigma)]
                if curve:
                    handles[name] = _draw(axis, curve, styles[name], _end(logs_of_dataset))
            _frame(axis, logs_of_dataset, "envelope" if sigma is None else f"$\\sigma = {sigma:.2f}$")
        for axis in line[len(panels[dataset]) + 1 :]:
            axis.set_visible(False)
        line[0].set_ylabel(f"{dataset}\ncertified accuracy (%)")
    _legend(figure, handles)
    return figure


def _by_steps(logs: Sequence[Log]) -> Figure:
    panels: dict[tuple[str, str, float], list[Log]] = {}
    for log in logs:
        panels.setdefault(_panel(log, logs), []).append(log)
    for (_, label, sigma), panel_logs in panels.items():
        check_comparable(panel_logs)
        if all(_label(log) != label for log in panel_logs):
            raise DdrsError(f"{panel_logs[0].name}: has no K, and no log of {label} at sigma {sigma:g} stands beside it, of which it would be K = 0")
    ks = sorted({_steps(log) for log in logs})
    positive = [k for k in ks if k]
    start = (FIXED.colour, FIXED.dashes)
    styles = {k: SERIES[(positive.index(k) - len(positive)) % len(SERIES)] if k else start for k in ks}  # the largest K is the solid curve
    width = min(PANELS_SIDE_BY_SIDE, len(panels))
    height = -(-len(panels) // width)
    figure, axes = plt.subplots(height, width, figsize=(3.0 * width, 2.7 * height + 0.4), sharey=True, squeeze=False, layout="constrained")
    handles: dict[str, Artist] = {}
    for axis, ((dataset, label, sigma), panel_logs) in zip(axes.flat, panels.items(), strict=False):
        for log in sorted(panel_logs, key=_steps):
            handles[f"K = {_steps(log)}"] = _draw(axis, [log], styles[_steps(log)], _end(panel_logs))
        symbol = {"l1": "\\lambda", "l2": "\\sigma"}[norm_of(panel_logs[0].constant("noise"), panel_logs[0].name)]
        _frame(axis, panel_logs, f"{dataset}, {label}\n${symbol}_0 = {sigma:.2f}$")
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("certified accuracy (%)")
    _legend(figure, {f"K = {k}": handles[f"K = {k}"] for k in ks})
    return figure


def _panel(log: Log, logs: Sequence[Log]) -> tuple[str, str, float]:
    """Dataset, row and sigma. A log of a fixed sigma is of the row beside it whose trajectories start from the same model: without any, of ds."""
    dataset, sigma = str(log.constant("dataset")), _sigma0(log)
    if _kind(log) is not FIXED:
        return dataset, _label(log), sigma
    starts = [kind for kind in KINDS.values() if kind.trajectory and kind.trained == FIXED.trained]
    there = {_label(other) for other in logs if (str(other.constant("dataset")), _sigma0(other)) == (dataset, sigma)}
    labels = [label_of(_label(log), kind) for kind in starts]
    return dataset, next((label for label in labels if label in there), labels[0]), sigma


def _end(logs: Sequence[Log]) -> float:
    return max(float((log.radius * log.correct).max()) for log in logs) * 1.05 + 1e-6


def _frame(axis: Axes, logs: Sequence[Log], title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlim(0, _end(logs))
    axis.set_ylim(0, 100)
    axis.grid(alpha=0.3, linewidth=0.5)
    axis.set_xlabel({"l1": "$\\ell_1$ radius", "l2": "$\\ell_2$ radius"}[norm_of(logs[0].constant("noise"), logs[0].name)])


def _legend(figure: Figure, handles: dict[str, Artist]) -> None:
    """One legend below all panels, in as many lines as its names take."""
    inches = 0.9 + 0.075 * max(map(len, handles))  # of a name at this font size, with its line
    columns = min(len(handles), max(1, int(figure.get_figwidth() / inches)))
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False)


def _draw(axis: Axes, logs: Sequence[Log], style: Style, end: float) -> Artist:
    grid = np.linspace(0, end, 1001)
    share = np.max([[np.mean(log.correct & (log.radius >= radius)) for radius in grid] for log in logs], axis=0)
    colour, dashes = style
    (line,) = axis.plot(grid, 100 * share, color=colour, linestyle=dashes, linewidth=1.5)
    return line
