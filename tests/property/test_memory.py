"""The memory's invariant over random sequences, and the memory against a slow restatement of Algorithm 3."""

import math

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from ddrs.memory.memory import Memory

Query = tuple[tuple[float, ...], int, float]
NORMS = st.sampled_from(["l2", "l1"])
GRID = st.integers(-8, 8).map(lambda i: i / 4)  # exact in float32, and so are the sums of squares: balls touch and points repeat
FINE = st.floats(-2, 2, width=32)


def query(dimension: int, coordinate: st.SearchStrategy[float], radius: st.SearchStrategy[float]) -> st.SearchStrategy[Query]:
    point = st.tuples(*[coordinate] * dimension)
    return st.integers(-1, 2).flatmap(lambda label: st.tuples(point, st.just(label), st.just(0.0) if label == -1 else radius))


def sequences(coordinate: st.SearchStrategy[float] = FINE, radius: st.SearchStrategy[float] | None = None) -> st.SearchStrategy[list[Query]]:
    radius = st.floats(0, 3) if radius is None else radius
    return st.integers(1, 3).flatmap(lambda dimension: st.lists(query(dimension, coordinate, radius), min_size=1, max_size=15))


GRID_SEQUENCES = sequences(GRID, st.integers(0, 12).map(lambda i: i / 4))


def distance(norm: str, x: tuple[float, ...], y: tuple[float, ...]) -> float:
    differences = [abs(a - b) for a, b in zip(x, y, strict=True)]
    return sum(differences) if norm == "l1" else math.sqrt(sum(one * one for one in differences))


def run(norm: str, queries: list[Query]) -> tuple[Memory, dict[tuple[float, ...], tuple[int, float]]]:
    """A memory after a sequence, and what it stored per input."""
    memory = Memory(norm)  # type: ignore[arg-type]
    stored = {}
    for x, label, radius in queries:
        stored[tuple(one + 0.0 for one in x)] = memory.insert(np.array(x), label, radius)
    return memory, stored


class Literal:
    """Algorithm 3 as the design states it, one entry at a time."""

    def __init__(self, norm: str):
        self.norm = norm
        self.entries: list[tuple[tuple[float, ...], int, float]] = []

    def insert(self, x: tuple[float, ...], label: int, radius: float) -> tuple[int, float]:
        for xi, ci, ri in self.entries:
            if xi == x:
                return ci, ri
        containing = []
        for xi, ci, ri in self.entries:
            if ci != label and distance(self.norm, x, xi) < ri:
                containing.append((ci, ri - distance(self.norm, x, xi)))
        if containing:
            assert len({ci for ci, _ in containing}) == 1
            label = containing[0][0]
            radius = min(radius, max(room for _, room in containing))
        else:
            for xi, ci, ri in self.entries:
                if ci != label:
                    radius = min(radius, max(0.0, distance(self.norm, x, xi) - ri))
        self.entries.append((x, label, radius))
        return label, radius


@given(NORMS, GRID_SEQUENCES)
def test_agrees_with_the_algorithm_as_stated(norm: str, queries: list[Query]):
    memory, literal = Memory(norm), Literal(norm)  # type: ignore[arg-type]
    for x, label, radius in queries:
        assert memory.insert(np.array(x), label, radius) == literal.insert(x, label, radius)
    assert len(memory) == len(literal.entries)


@given(NORMS, GRID_SEQUENCES | sequences())
def test_balls_of_different_classes_are_disjoint(norm: str, queries: list[Query]):
    """Up to float64's rounding; an abstention is a class of its own, and lies in no ball."""
    entries = list(run(norm, queries)[1].items())
    for i, (x, (label, radius)) in enumerate(entries):
        for y, (other, reach) in entries[:i]:
            assert label == other or radius + reach <= distance(norm, x, y) + 1e-12


@given(NORMS, GRID_SEQUENCES | sequences())
def test_a_radius_never_grows_and_a_class_changes_only_inside_a_ball(norm: str, queries: list[Query]):
    memory, stored = Memory(norm), {}  # type: ignore[arg-type]
    for x, label, radius in queries:
        answer = memory.insert(np.array(x), label, radius)
        key = tuple(one + 0.0 for one in x)
        if key in stored:
            assert answer == stored[key]
            continue
        assert 0 <= answer[1] <= radius
        assert answer[0] == label or any(c == answer[0] and distance(norm, x, y) < r for y, (c, r) in stored.items())
        stored[key] = answer


@given(NORMS, sequences(), st.data())
def test_a_later_query_inside_a_ball_gets_its_class(norm: str, queries: list[Query], data: st.DataObject):
    """Whatever class and radius the certifier finds there."""
    memory, stored = run(norm, queries)
    balls = [(x, label, radius) for x, (label, radius) in stored.items() if radius > 1e-3]
    assume(balls)
    for _ in range(4):
        x, label, radius = data.draw(st.sampled_from(balls))
        step = np.array(data.draw(st.tuples(*[st.floats(-1, 1, width=16)] * len(x))))
        length = distance(norm, tuple(step), (0.0,) * len(x))
        share = data.draw(st.floats(0, 0.999))
        inside = np.array(x, np.float32) if length == 0 else (np.array(x) + share * radius * step / length).astype(np.float32)
        assume(distance(norm, tuple(inside.tolist()), x) < radius * (1 - 1e-9))
        found = data.draw(st.integers(-1, 3))
        answer, _ = memory.insert(inside, found, 0.0 if found == -1 else data.draw(st.floats(0, 3)))
        assert answer == label
