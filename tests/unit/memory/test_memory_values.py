"""The memory keeps the values that came in: nothing is certified of what they round to."""

import numpy as np
import pytest
import torch

from ddrs.errors import DdrsError
from ddrs.memory.memory import Memory, as_values

A, B = 1, 2


def test_a_float64_query_inside_a_ball_gets_its_class():
    """As a float32 it is 0.1000000015, outside."""
    memory = Memory()
    memory.insert(np.array([0.0]), A, 0.1)
    label, radius = memory.insert(np.array([0.0999999999]), B, 0.05)
    assert label == A and radius == 0.1 - 0.0999999999


def test_a_float64_query_outside_a_ball_does_not_shrink_to_nothing():
    """The other way round: 0.1 + 1e-10 rounds to the float32 that 0.1 does."""
    memory = Memory()
    memory.insert(np.array([np.float32(0.1)], np.float64), A, 1e-10)
    label, radius = memory.insert(np.array([0.1]), B, 1.0)
    assert label == B and radius == pytest.approx(abs(float(np.float32(0.1)) - 0.1) - 1e-10, rel=1e-6)
    assert len(memory) == 2, "another point, so another entry"


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_float64_after_float32_changes_no_entry(norm: str):
    """Entries of both kinds, beyond the first allocation, against all distances."""
    generator = np.random.Generator(np.random.Philox(key=3))
    points = generator.random((200, 5))
    points[:100] = points[:100].astype(np.float32)
    memory = Memory(norm)
    stored: list[tuple[np.ndarray, int, float]] = []
    for i, x in enumerate(points):
        label, radius = int(generator.integers(3)), float(generator.random() * 0.4)
        distances = [float(np.linalg.norm(x - y, ord=1 if norm == "l1" else 2)) for y, *_ in stored]
        inside = [one for one, d in zip(stored, distances, strict=True) if d < one[2] and one[1] != label]
        found = memory.insert(x.astype(np.float32) if i < 100 else x, label, radius)
        if inside:
            label, radius = inside[0][1], min(radius, max(r - d for (_, c, r), d in zip(stored, distances, strict=True) if c == inside[0][1]))
        else:
            radius = min([radius, *(max(d - r, 0.0) for (_, c, r), d in zip(stored, distances, strict=True) if c != label)])
        assert found == (label, pytest.approx(radius, abs=1e-12))
        stored.append((x, label, found[1]))


def test_equal_values_of_any_dtype_are_one_entry():
    memory = Memory()
    memory.insert(np.array([0.5, -0.0]), A, 0.1)
    for x in ([0.5, 0], torch.tensor([0.5, 0.0]), np.array([0.5, 0], np.float16), np.array([0.5, 0], np.longdouble), torch.tensor([0.5, 0]).double()):
        assert memory.insert(x, B, 1.0) == (A, 0.1)  # type: ignore[arg-type]
    assert len(memory) == 1


def test_float32_values_are_kept_in_float32():
    assert as_values(np.array([0.5, 2.0**24])).dtype == np.float32 and as_values(np.array([0.1])).dtype == np.float64


@pytest.mark.parametrize(
    "x",
    [
        [2.0**60 + 256, 1e300],
        [5e-324],
        [1e-200],
        np.array([2**53 + 1]),
        np.array([np.iinfo(np.int64).max]),
        np.array([1j]),
        np.array(["1"]),
        np.array([None]),
        [[1.0, 2.0], [3.0]],
        [],
        torch.tensor([1.0], requires_grad=True),
        torch.tensor([1.0], dtype=torch.bfloat16),
        np.array([np.longdouble(1) + np.finfo(np.longdouble).eps]) if np.finfo(np.longdouble).eps < 1e-17 else [np.nan],
        [np.nan],
        [-np.inf],
    ],
)
def test_what_cannot_be_kept_exactly_is_one_line(x: object):
    memory = Memory()
    with pytest.raises(DdrsError) as error:
        memory.insert(x, A, 0.5)  # type: ignore[arg-type]
    assert str(error.value).startswith("memory: ") and "\n" not in str(error.value) and len(memory) == 0


@pytest.mark.parametrize(("label", "radius"), [("1", 0.5), (1, "0.5"), (10**25, 0.5), (0.5, 0.5), (float("nan"), 0.5)])
def test_a_label_or_radius_that_is_none_is_one_line(label: object, radius: object):
    with pytest.raises(DdrsError, match=r"^memory: (label|radius) "):
        Memory().insert(np.zeros(2), label, radius)  # type: ignore[arg-type]
