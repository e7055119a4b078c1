"""Figures 6 and 9: test images with noise at the fixed sigma and at the sigma of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from ddrs.certification.checks import ABSTAIN
from ddrs.certification.records import Log, read_log, round_down
from ddrs.data.splits import Split, as_float, load_split
from ddrs.errors import DdrsError
from ddrs.figures.drawing import save
from ddrs.noise.laws import certifiable_noise, get_noise
from ddrs.noise.norms import norm_of
from ddrs.noise.streams import NoiseStream
from ddrs.results.captions import NO_CAPTION, Caption, logs_caption
from ddrs.results.envelope import check_comparable
from ddrs.rows import FIXED, Row

CAPTION = (
    "Test images, clean, with noise at the fixed sigma and with the same noise at the image's own sigma*. They are the images at fixed "
    "quantiles of sigma* (0 is the smallest) among those whose data-dependent certificate is correct, the lower index first where sigma* is "
    "equal: {rule}. Above each: its class, or sigma with the certified prediction and radius, rounded down. Pixels are clipped to [0, 1] "
    "for display only. Certificates at sigma* are after the memory pass; the noise that is shown is not that of the certificates."
)
NEEDS = ("dataset", "split", "method", "sigma0", "noise", "sigma")


@dataclass(frozen=True)
class Panel:
    """A log with a sigma per image, its dataset, the log of the same model at its fixed sigma, and which images are shown."""

    log: Path
    data: Path
    fixed: Path
    quantiles: Sequence[float]


def examples_figure(panels: Sequence[Panel], pdf: Path, png: Path, seed: int, caption: Caption = NO_CAPTION) -> None:
    """Three columns per panel: the image, the same with noise at the fixed sigma, and with the same noise scaled to sigma*_x.

    A line per quantile of sigma*_x, see `chosen`. The noise is for looking at only, of a stream that no search or certificate draws
    from; what leaves [0, 1] is clipped. Errors: DdrsError if the two logs of a panel are not of one model and the same images.
    """
    shown = [_shown(panel) for panel in panels]
    height = max(len(rows) for _, _, _, rows in shown)
    figure = plt.figure(figsize=(5.4 * len(panels), 2.15 * height + 0.3), layout="constrained")
    for place, (split, searched, fixed, rows) in zip(figure.subfigures(1, len(panels), wspace=0.04, squeeze=False)[0], shown, strict=True):
        place.suptitle(f"{split.dataset}, {searched.constant('method')}, K = {searched.constant('K')}", fontsize=10)
        axes = place.subplots(height, 3, squeeze=False)
        for axis in axes.flat:
            axis.set_axis_off()
        for line, row in zip(axes, rows, strict=False):
            for axis, (image, title) in zip(line, _pictures(split, searched, fixed, row, seed), strict=True):
                axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axis.set_title(title, fontsize=9)
    logs = [searched for _, searched, _, _ in shown]
    save(figure, pdf, png, logs_caption(logs))
    rules = [
        f"{', '.join(f'{one:g}' for one in panel.quantiles)} at sigma {float(str(log.constant('sigma0'))):.2f}"
        for panel, log in zip(panels, logs, strict=True)
    ]
    caption.write(CAPTION.format(rule="; ".join(rules)), logs)


def chosen(log: Log, quantiles: Sequence[float]) -> list[int]:
    """The rows of the log at quantiles of sigma among its correctly certified images: of m, in the order of sigma and then idx, the one at
    place q * (m - 1), rounded down. DdrsError if none is certified."""
    table = log.table.loc[log.correct & (log.radius > 0)].sort_values(by=["sigma", "idx"])
    if table.empty:
        raise DdrsError(f"{log.name}: no image is certified correctly, so there is none to show")
    return [int(table.index[int(quantile * (len(table) - 1))]) for quantile in quantiles]


def _shown(panel: Panel) -> tuple[Split, Log, Log, list[int]]:
    """A panel's images, its two logs, and the rows that it shows."""
    searched, fixed = read_log(panel.log), read_log(panel.fixed)
    for log in (searched, fixed):
        for column in NEEDS:
            if column not in log.table:
                raise DdrsError(f"{log.name}: has no column {column!r}; figures need logs written by ddrs certify")
    check_comparable([searched, fixed])
    (label, sigma0), (method, sigma) = ((str(log.constant("method")), float(str(log.constant("sigma0")))) for log in (searched, fixed))
    row = Row.parse(label)
    of_one_model = (row.method, row.kind.trained) == (method, FIXED.trained) and row.kind.strategy is not None
    if not of_one_model or sigma0 != sigma:
        both = f"is of {label} from sigma {sigma0:g}, but {fixed.name} of {method} at {sigma:g}"
        raise DdrsError(f"{searched.name}: {both}; one model is needed, as -ds and fixed")
    split = load_split(panel.data, str(searched.constant("split")))
    if split.dataset != searched.constant("dataset"):
        raise DdrsError(f"{searched.name}: is of {searched.constant('dataset')}, but {panel.data} is {split.dataset}")
    last = int(searched.table["idx"].to_numpy().max())
    if last >= len(split.labels):
        raise DdrsError(f"{searched.name}: idx {last} is outside {split.dataset} {split.split}, which has {len(split.labels)} images")
    return split, searched, fixed, chosen(searched, panel.quantiles)


def _pictures(split: Split, searched: Log, fixed: Log, row: int, seed: int) -> list[tuple[np.ndarray, str]]:
    """The image as it is and with the two noises, each (H, W) or (H, W, 3), with its title."""
    ours, theirs = searched.table.loc[row], fixed.table.loc[row]
    clean = as_float(split.images[int(ours["idx"])])
    noise = get_noise(certifiable_noise(str(searched.constant("noise"))).base).at(1.0)
    noise = NoiseStream(noise, clean.shape, seed, "illustrate", split.split, int(ours["idx"])).draw(1)[0].numpy()
    symbol = {"l2": "\\sigma", "l1": "\\lambda"}[norm_of(searched.constant("noise"), searched.name)]
    answers = [
        f"class {one['predict']}, $R = {round_down(float(one['radius']), 2)}$" if one["predict"] != ABSTAIN else "abstains" for one in (theirs, ours)
    ]
    shown = [
        (clean, f"clean\nclass {ours['label']}"),
        (clean + float(theirs["sigma"]) * noise, f"${symbol} = {float(theirs['sigma']):.3f}$\n{answers[0]}"),
        (clean + float(ours["sigma"]) * noise, f"${symbol}^*_x = {float(ours['sigma']):.3f}$\n{answers[1]}"),
    ]
    return [(_picture(image), title) for image, title in shown]


def _picture(image: np.ndarray) -> np.ndarray:
    """(C, H, W) as a picture: (H, W) for one channel, else (H, W, C), clipped to [0, 1]."""
    picture = np.clip(image, 0, 1).transpose(1, 2, 0)
    return picture[:, :, 0] if picture.shape[2] == 1 else picture
