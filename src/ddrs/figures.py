"""Figures: certified accuracy against radius (Figures 3, 4 and 5 of the paper)."""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from ddrs.cells import row_of
from ddrs.certification.records import Log, read_log
from ddrs.envelope import check_comparable
from ddrs.errors import DdrsError
from ddrs.files import write_bytes
from ddrs.norms import norm_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.artist import Artist
from matplotlib.axes import Axes

# the paper's order of curves; colours that stay apart in print and for colour-blind readers (Okabe and Ito)
STYLES = {"fs": ("#000000", "--"), "ds": ("#0072B2", "-"), "ds2": ("#D55E00", "-")}


def certified_accuracy_figure(paths: Sequence[Path], pdf: Path, png: Path) -> None:
    """A panel per training sigma and one for the envelope, a row of panels per dataset, a curve per row of the table.

    A panel's DS curve is the best over K at each radius, the envelope the best over sigma and K: both chosen on the same images.
    """
    logs = [read_log(path) for path in paths]
    for log in logs:
        if log.constant("method") is None:
            raise DdrsError(f"{log.name}: has no column 'method'; figures need logs written by ddrs certify")
        row_of(str(log.constant("method")))
    datasets = list(dict.fromkeys(str(log.constant("dataset")) for log in logs))
    for name in datasets:
        check_comparable([log for log in logs if log.constant("dataset") == name])
    panels = {name: sorted({float(str(log.constant("sigma0"))) for log in logs if log.constant("dataset") == name}) for name in datasets}
    width = max(len(sigmas) for sigmas in panels.values()) + 1
    figure, axes = plt.subplots(
        len(datasets), width, figsize=(3.0 * width, 2.7 * len(datasets) + 0.4), sharey="row", squeeze=False, layout="constrained"
    )
    handles: dict[str, Artist] = {}
    for line, name in zip(axes, datasets, strict=True):
        own = [log for log in logs if log.constant("dataset") == name]
        end = max(float((log.radius * log.correct).max()) for log in own) * 1.05 + 1e-6
        for axis, sigma in zip(line, [*panels[name], None], strict=False):
            for label in dict.fromkeys(str(log.constant("method")) for log in own):
                curve = [log for log in own if log.constant("method") == label and (sigma is None or float(str(log.constant("sigma0"))) == sigma)]
                if curve:
                    handles[label] = _draw(axis, curve, label, end)
            axis.set_title("envelope" if sigma is None else f"$\\sigma = {sigma:.2f}$", fontsize=10)
            axis.set_xlim(0, end)
            axis.set_ylim(0, 100)
            axis.grid(alpha=0.3, linewidth=0.5)
            axis.set_xlabel({"l1": "$\\ell_1$ radius", "l2": "$\\ell_2$ radius"}[norm_of(own[0].constant("noise"), own[0].name)])
        for axis in line[len(panels[name]) + 1 :]:
            axis.set_visible(False)
        line[0].set_ylabel(f"{name}\ncertified accuracy (%)")
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=len(handles), frameon=False)
    for path, form, facts in ((pdf, "pdf", {"CreationDate": None}), (png, "png", {"Software": None})):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=form, dpi=160, metadata=facts)
        write_bytes(path, drawn.getvalue())
    plt.close(figure)


def _draw(axis: Axes, logs: Sequence[Log], label: str, end: float) -> Artist:
    grid = np.linspace(0, end, 1001)
    share = np.max([[np.mean(log.correct & (log.radius >= radius)) for radius in grid] for log in logs], axis=0)
    colour, dashes = STYLES[row_of(label)]
    (line,) = axis.plot(grid, 100 * share, color=colour, linestyle=dashes, linewidth=1.5)
    return line
