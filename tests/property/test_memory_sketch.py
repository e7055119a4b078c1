"""The memory's filter by sums: the same answers, bit by bit, as from all distances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddrs.memory.memory import Memory
from ddrs.memory.sketch import Sketch
from ddrs.noise.norms import Norm

NORMS = st.sampled_from(["l2", "l1"])
SHAPES = st.sampled_from([(1,), (3,), (70,), (2, 3), (9, 20), (1, 5, 5), (3, 8, 8), (2, 11, 9), (2, 1, 3, 4)])
SCALES = st.sampled_from([1.0, 1 / 255, 2.0**-140, 1e-30, 1e30, 2.0**120])
Entry = tuple[np.ndarray, int, float]


class AllDistances:
    """Algorithm 3 as the design states it: float64 distances to all entries, one by one. Where balls touch, the oldest answers."""

    def __init__(self, norm: str):
        self.norm = norm
        self.entries: list[Entry] = []
        self.adopted = self.shrunk = 0

    def insert(self, x: np.ndarray, label: int, radius: float) -> tuple[int, float]:
        point = x.astype(np.float64).ravel()
        for xi, ci, ri in self.entries:
            if np.array_equal(point, xi):
                return ci, ri
        slacks = [(ci, ri - distance(self.norm, xi, point)) for xi, ci, ri in self.entries if ci != label]
        inside = [(ci, slack) for ci, slack in slacks if slack > 0]
        if inside:
            label = inside[0][0]
            radius = min(radius, max(slack for ci, slack in inside if ci == label))
            self.adopted += 1
        else:
            free = min((max(0.0, -slack) for _, slack in slacks), default=radius)
            self.shrunk += free < radius
            radius = min(radius, free)
        self.entries.append((point, label, radius))
        return label, radius


def distance(norm: str, x: np.ndarray, y: np.ndarray) -> float:
    difference = (x - y)[None]
    return float(np.abs(difference).sum(1)[0] if norm == "l1" else np.sqrt(np.square(difference).sum(1))[0])


@st.composite
def images(draw: st.DrawFn, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Flat ones, on which the bound is as tight as rounding lets it be; the next float32 to it;
    noise; and flat ones with one other pixel. -0.0 among them."""
    level = draw(st.integers(-3, 3)) * draw(st.sampled_from([1.0, 0.1, -0.0]))
    kind = draw(st.sampled_from(["flat", "next", "noise", "pixel"]))
    x = np.full(shape, level)
    if kind == "noise":
        x = x + np.random.default_rng(draw(st.integers(0, 5))).integers(-128, 128, shape) / 255
    elif kind == "pixel":
        x.flat[draw(st.integers(0, x.size - 1))] += 0.5
    x = (x * scale).astype(np.float32)
    return np.nextafter(x, np.float32(np.inf)) if kind == "next" else x


@st.composite
def queries(draw: st.DrawFn, norm: str) -> list[Entry]:
    shape, scale = draw(SHAPES), draw(SCALES)
    found: list[Entry] = []
    for _ in range(draw(st.integers(1, 12))):
        x = draw(images(shape, scale))
        radius = scale * draw(st.sampled_from([0.0, 1e-3, 0.25, 1.0, 10.0, 1e6]))
        if found and draw(st.booleans()):  # as far as another point, or as its ball: touching, or a bit more or less
            xi, _, ri = draw(st.sampled_from(found))
            reach = distance(norm, x.astype(np.float64).ravel(), xi.astype(np.float64).ravel())
            radius = max(0.0, draw(st.sampled_from([reach, reach - ri, np.nextafter(reach, np.inf), np.nextafter(reach - ri, np.inf)])))
        label = draw(st.integers(-1, 2))
        found.append((x, label, 0.0 if label == -1 else float(radius)))
    return found


@given(NORMS, st.data())
def test_answers_are_those_of_all_distances(norm: Norm, data: st.DataObject):
    memory, literal = Memory(norm), AllDistances(norm)
    for x, label, radius in data.draw(queries(norm)):
        assert memory.insert(x, label, radius) == literal.insert(x, label, radius)
    assert (len(memory), memory.adopted, memory.shrunk) == (len(literal.entries), literal.adopted, literal.shrunk)


@given(NORMS, SHAPES, SCALES, st.data())
def test_a_bound_is_never_above_the_distance(norm: Norm, shape: tuple[int, ...], scale: float, data: st.DataObject):
    sketch = Sketch(shape, norm)
    x, y = (data.draw(images(shape, scale)).ravel().astype(np.float64) for _ in range(2))
    (sums, error), (others, errors) = sketch.of(x), sketch.of(y)
    assert sketch.bounds(sums, error, others[None], np.array([errors]))[0] <= distance(norm, x, y)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_rounding_is_subtracted(norm: Norm):
    """Flat images that differ by float32's last bit: there the distance of the sums is the distance, but for rounding either way."""
    above = 0
    for size in range(65, 200):
        sketch = Sketch((size,), norm)
        x = np.full(size, 0.1, np.float32)
        (sums, error), (others, errors) = (sketch.of(one.astype(np.float64)) for one in (x, np.nextafter(x, np.float32(1))))
        exact = distance(norm, x.astype(np.float64), np.nextafter(x, np.float32(1)).astype(np.float64))
        bound = sketch.bounds(sums, error, others[None], np.array([errors]))[0]
        assert 0.999 * exact < bound <= exact
        above += bound + error + errors > exact
    assert above or norm == "l1", "there float64 adds such numbers without rounding"


def test_the_sums_are_of_blocks():
    """8 x 8 blocks for each channel, whatever the size divides by."""
    image = np.random.default_rng(0).integers(0, 256, (2, 16, 24)).astype(np.float64)
    blocks = image.reshape(2, 8, 2, 8, 3).sum((2, 4))
    assert np.array_equal(Sketch(image.shape, "l1").of(image.ravel())[0], blocks.ravel())
    assert np.allclose(Sketch(image.shape, "l2").of(image.ravel())[0], blocks.ravel() / np.sqrt(6))
    assert [len(Sketch(shape, "l2").starts) for shape in ((100,), (7,), (3, 3, 3), (1, 28, 28), (3, 224, 224))] == [64, 7, 27, 64, 192]


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_few_distances_are_looked_at(norm: Norm, monkeypatch: pytest.MonkeyPatch):
    """Of 200 random images only a near copy's, whose ball is reached: the 199 others are told apart by their sums."""
    looked: list[int] = []
    distances = Memory._distances
    monkeypatch.setattr(Memory, "_distances", lambda self, point, places: looked.extend(places) or distances(self, point, places))
    memory, rng = Memory(norm), np.random.default_rng(0)
    pictures = rng.integers(0, 256, (200, 3, 32, 32)) / np.float32(255)
    for i, picture in enumerate(pictures):
        memory.insert(picture, i % 10, 1.0)
    near = pictures[7].copy()
    near[0, 0, 0] += 0.5
    assert memory.insert(near, 0, 1.0) == (7, pytest.approx(0.5, abs=1e-6)) and looked == [7]
