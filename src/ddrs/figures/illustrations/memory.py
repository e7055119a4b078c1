"""Figure 2: what the memory (Algorithm 3) does with a new input whose ball meets that of a stored one."""

from dataclasses import dataclass

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddrs.certification.records import round_down
from ddrs.figures.illustrations._plane import ALPHA, COLOURS, EDGES, N, Plane, draw_ball, draw_regions
from ddrs.memory.memory import Memory

CAPTION = (
    "The three cases of the memory (Algorithm 3), met by a classifier in two dimensions with sigma* per input. Left: balls of one class "
    "overlap, and both are kept. Middle: the new input lies in the ball of another class; it takes that class, and the largest ball inside. "
    "Right: it lies outside, but the balls overlap; it keeps its class, and its radius shrinks to where the balls touch. Dotted: the "
    f"certificate before (n = {N:,}, alpha = {ALPHA:g} per input)."
)
TITLES = {
    "kept": "same class:\nboth are kept",
    "adopted": "inside the ball of another class:\nadopts that class, stays inside",
    "shrunk": "outside the ball of another class:\nshrinks until the balls touch",
}


@dataclass(frozen=True)
class Meeting:
    """Two inputs by their place, the class and radius of each certificate, and what the memory stored for the second."""

    first: int
    second: int
    classes: tuple[int, int]
    radii: tuple[float, float]
    stored: tuple[int, float]


def draw(plane: Plane) -> Figure:
    """A panel per case, each a fresh memory that sees two inputs, with the certificates of their own sigma."""
    cases = three_cases(plane)
    figure, axes = plt.subplots(1, 3, figsize=(11.5, 4.2), layout="constrained")
    for axis, (case, meeting) in zip(axes, cases.items(), strict=True):
        _panel(axis, plane, meeting, TITLES[case])
    return figure


def three_cases(plane: Plane) -> dict[str, Meeting]:
    """Of all pairs of inputs, earlier first, whose certified balls meet: per case the one that shows it best, with the largest least part of
    what is drawn. If the balls are of one class neither input lies in the other's, or they would look like the second case."""
    classes, radii = plane.certificates(plane.sigmas)
    x = plane.x.numpy()
    distances = np.linalg.norm(x[:, None].astype(np.float64) - x[None], axis=2)
    pairs = np.argwhere(np.triu(distances < radii[:, None] + radii[None], 1) & (classes >= 0)[:, None] & (classes >= 0)[None])
    cases: dict[str, list[Meeting]] = {case: [] for case in TITLES}
    for i, j in pairs:
        memory = Memory()
        memory.insert(x[i], int(classes[i]), float(radii[i]))
        stored = memory.insert(x[j], int(classes[j]), float(radii[j]))
        case = "adopted" if memory.adopted else "shrunk" if memory.shrunk else "kept"
        if case != "kept" or distances[i, j] > max(radii[i], radii[j]):
            cases[case].append(Meeting(int(i), int(j), (int(classes[i]), int(classes[j])), (float(radii[i]), float(radii[j])), stored))
    return {case: plane.first(sorted(met, key=_least_part, reverse=True), f"pair of inputs that is {case}") for case, met in cases.items()}


def _least_part(meeting: Meeting) -> float:
    """The smallest of both radii as stored and, where the second one shrank, what it lost."""
    lost = meeting.radii[1] - meeting.stored[1]
    return min(meeting.radii[0], meeting.stored[1], lost if meeting.stored != (meeting.classes[1], meeting.radii[1]) else np.inf)


def _panel(axis: Axes, plane: Plane, meeting: Meeting, title: str) -> None:
    first, second = plane.x.numpy()[[meeting.first, meeting.second]]
    largest = max(meeting.radii)
    low, high = (bound(np.stack([first, second]), 0) for bound in (np.min, np.max))
    centre, half = (low + high) / 2, (high - low).max() / 2 + 1.08 * largest
    draw_regions(axis, plane, (centre[0] - half, centre[0] + half, centre[1] - half, centre[1] + half))
    axis.set_title(title, fontsize=10)
    draw_ball(axis, first, meeting.radii[0], COLOURS[meeting.classes[0]], EDGES[meeting.classes[0]])
    draw_ball(axis, second, meeting.radii[1], COLOURS[meeting.classes[1]], ":", 1.3)
    draw_ball(axis, second, meeting.stored[1], COLOURS[meeting.stored[0]], EDGES[meeting.stored[0]])
    asked, met, kept = (round_down(radius, 2) for radius in (*meeting.radii, meeting.stored[1]))
    texts = [
        f"$x_1$: class {meeting.classes[0]}, $R = {asked}$",
        f"$x_2$: class {meeting.classes[1]}, $R = {met}$ → class {meeting.stored[0]}, $R = {kept}$",
    ]
    for name, x in (("$x_1$", first), ("$x_2$", second)):
        axis.plot(*x, "o", color="black", markersize=4)
        axis.annotate(name, x, xytext=(5, 5), textcoords="offset points", fontsize=10)
    axis.set_xlabel("\n".join(texts), fontsize=9)
