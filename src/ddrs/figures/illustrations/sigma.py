"""Figure 1: a fixed sigma is too small for an input far from the boundary, and too large for one that is near."""

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddrs.certification.records import round_down
from ddrs.figures.illustrations._plane import ALPHA, COLOURS, N, Plane, draw_ball, draw_regions

CAPTION = (
    "Why sigma should vary with the input. A classifier in two dimensions, trained for this picture, its certificates at one fixed sigma "
    "(left) and at sigma* of Algorithm 1 (middle); right, the certified radius over sigma. x1 is the input that gains most from a larger "
    "sigma, x2 the one that gains most from a smaller sigma, x3 the one with the largest radius at sigma* among those that the fixed sigma "
    f"gets wrong. Dotted circles are sigma, the others certified balls (n = {N:,}, alpha = {ALPHA:g} per input)."
)
FIXED = 0.5
SWEEP = np.linspace(0.05, 1.1, 22)
LABELS = ((0, 8), (-4, -26), (-6, 30))  # where their names stand, in points from them
CURVES = (("#000000", "-"), ("#009E73", "--"), ("#CC79A7", ":"))  # of x1, x2, x3


def draw(plane: Plane) -> Figure:
    """Left: certificates at the fixed sigma. Middle: at sigma*. Right: the certified radius over sigma, 0 where the class is wrong."""
    three = three_inputs(plane)
    sigmas = plane.sigmas[three]
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.6), layout="constrained", width_ratios=(1.3, 1.3, 1))
    fixed = np.full(3, FIXED, np.float32)
    limits = _limits(plane, three, np.maximum(sigmas, fixed), sigmas)
    _panel(axes[0], plane, three, fixed, limits, f"fixed $\\sigma = {FIXED}$")
    _panel(axes[1], plane, three, sigmas, limits, "$\\sigma^*_x$ of each input")
    certified = [plane.certificates(float(sigma), three) for sigma in SWEEP]
    radii = np.array([radius * (predicted == plane.labels[three]) for predicted, radius in certified])
    predicted, radius = plane.certificates(sigmas, three)
    for i, (colour, dashes) in enumerate(CURVES):
        axes[2].plot(SWEEP, radii[:, i], color=colour, linestyle=dashes, linewidth=1.5, label=f"$x_{i + 1}$")
        axes[2].plot(sigmas[i], radius[i] * (predicted[i] == plane.labels[three[i]]), "*", color=colour, markersize=12)
    axes[2].plot([], [], "*", color="#777777", markersize=10, linestyle="none", label="$\\sigma^*_x$")
    axes[2].axvline(FIXED, color="#777777", linewidth=1, label=f"$\\sigma = {FIXED}$")
    axes[2].set_xlabel("$\\sigma$")
    axes[2].set_ylabel("certified radius (0: wrong class)")
    axes[2].set_xlim(0, SWEEP[-1])
    axes[2].set_ylim(0)
    axes[2].grid(alpha=0.3, linewidth=0.5)
    axes[2].legend(frameon=False, fontsize=9, loc="upper left")
    return figure


def three_inputs(plane: Plane) -> np.ndarray:
    """x1, x2, x3, of class 0 and right at sigma*. x1: the largest gain in radius from a sigma* above the fixed one. x2: the same from one below.
    x3: wrong at the fixed sigma, the largest radius at sigma*."""
    at_sigmas, radius = plane.certificates(plane.sigmas)
    at_fixed, fixed_radius = plane.certificates(FIXED)
    usable = (plane.labels == 0) & (at_sigmas == 0)
    gain = radius - fixed_radius
    candidates = [
        (usable & (at_fixed == 0) & (plane.sigmas > FIXED), gain, "input whose radius a larger sigma would raise"),
        (usable & (at_fixed == 0) & (plane.sigmas < FIXED), gain, "input whose radius a smaller sigma would raise"),
        (usable & (at_fixed == 1), radius, "input that the fixed sigma gets wrong"),
    ]
    three = []
    for which, worth, what in candidates:
        ranked = sorted(np.flatnonzero(which), key=lambda i: -worth[i])
        three.append(plane.first(ranked, what))
    return np.array(three)


def _limits(plane: Plane, inputs: np.ndarray, circles: np.ndarray, sigmas: np.ndarray) -> tuple[float, float, float, float]:
    """What both panels show: all circles of sigma, and the certified balls at sigma*, with a margin."""
    x, reach = plane.x.numpy()[inputs], np.maximum(circles, plane.certificates(sigmas, inputs)[1])[:, None] + 0.1
    (left, bottom), (right, top) = (x - reach).min(0), (x + reach).max(0)
    return float(left), float(right), float(bottom), float(top)


def _panel(axis: Axes, plane: Plane, inputs: np.ndarray, sigmas: np.ndarray, limits: tuple[float, float, float, float], title: str) -> None:
    """Regions of the classifier, the inputs, a dotted circle of radius sigma, and the certified ball in the colour of the certified class."""
    draw_regions(axis, plane, limits)
    axis.set_title(title, fontsize=10)
    predicted, radii = plane.certificates(sigmas, inputs)
    for i, x in enumerate(plane.x.numpy()[inputs]):
        draw_ball(axis, x, float(sigmas[i]), "#555555", ":", 1.0)
        if predicted[i] >= 0:
            draw_ball(axis, x, float(radii[i]), COLOURS[predicted[i]], "-" if predicted[i] == 0 else "--")
        axis.plot(*x, "o", color=COLOURS[plane.labels[inputs[i]]], markersize=4)
        verdict = (
            "abstains" if predicted[i] < 0 else f"$R = {round_down(float(radii[i]), 2)}$" if predicted[i] == plane.labels[inputs[i]] else "wrong"
        )
        axis.annotate(
            f"$x_{i + 1}$: {verdict}",
            x,
            xytext=LABELS[i],
            textcoords="offset points",
            ha="center",
            fontsize=9,
            bbox={"fc": "white", "ec": "none", "alpha": 0.7, "pad": 0.8},
        )
