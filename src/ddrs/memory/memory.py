"""Algorithm 3: the memory that keeps later answers consistent with earlier ones."""

import numpy as np
from numpy.typing import ArrayLike

from ddrs.certification.checks import ABSTAIN
from ddrs.errors import DdrsError
from ddrs.memory.sketch import Sketch
from ddrs.noise.norms import Norm

LARGEST = float(np.finfo(np.float32).max)  # no larger a value is taken, so that no square overflows in float64 ...
SMALLEST = 2.0**-400  # ... and, 0 aside, no smaller one, so that no square of a difference underflows: all are multiples of 2^-452


class Memory:
    """The stateful classifier "answer from memory first".

    Inputs are kept as they came, none is rounded: in float32 while all have its values, else in float64. Distances are float64. An insert
    looks at a few sums of each entry, and at the d values of those only that may lie within both radii (`Sketch`): the answers are the same
    as from all distances.

    Guarantee:
        By construction and at no failure probability, up to float64 rounding of the distances: for every stored entry, each *later* query
        strictly inside its ball gets the entry's class. Nothing is promised about correctness, about queries made earlier, or about another
        order of arrival; a restart must reload every entry. Invariant, up to the same rounding: balls of different classes are disjoint (an
        abstention is a class of its own, radius 0). alpha enters nothing here: what may fail, with probability alpha per image, is the
        certificate that an entry came with.

    Args:
        norm: "l2" for certificates of Gaussian noise, "l1" for uniform noise.

    Raises:
        DdrsError: for another norm.

    Source:
        The paper, Section 3.5 and Algorithm 3; containment is looked at before overlap.
    """

    def __init__(self, norm: Norm = "l2"):
        if norm not in ("l2", "l1"):
            raise DdrsError(f"norm {norm!r}: must be l2 or l1")
        self.norm: Norm = norm
        self.adopted = 0  # entries that took the class of a ball they lie in
        self.shrunk = 0  # entries that kept their class with a smaller radius
        self._place: dict[bytes, int] = {}
        self._sketch: Sketch | None = None  # made for the shape of the first input
        self._points, self._sums, self._errors = np.empty((0, 0), np.float32), np.empty((0, 0)), np.empty(0)
        self._labels = np.empty(0, np.int64)
        self._radii = np.empty(0)

    def __len__(self) -> int:
        return len(self._place)

    def insert(self, x: np.ndarray, label: int, radius: float) -> tuple[int, float]:
        """Answer a query from the memory and store it.

        Args:
            x: array of numbers of any shape, the same size for all queries (a CPU tensor will do), each exactly a float64: 0 or of a magnitude in
                [SMALLEST, LARGEST].
            label: the certified class, or -1 for an abstention, whose radius must be 0.
            radius: its certified radius, in the units of x.

        Returns:
            The class and the radius that are stored.

        Raises:
            DdrsError: for a radius that is negative or not finite, or an x of other values or of another size.
        """
        values = self._checked(x, label, radius)
        key = values.tobytes()
        if key in self._place:
            place = self._place[key]
            return int(self._labels[place]), float(self._radii[place])
        if self._sketch is None:
            self._sketch = Sketch(np.shape(x), self.norm)
        point = values.astype(np.float64)
        sums, error = self._sketch.of(point)
        label, radius = self._adjust(point, self._reached(sums, error, int(label), radius), int(label), float(radius))
        self._store(values, key, sums, error, label, radius)
        return label, radius

    def _reached(self, sums: np.ndarray, error: float, label: int, radius: float) -> np.ndarray:
        """The entries of other classes that may decide, in the order of arrival: all others have R_i - d_i <= -radius, and change nothing."""
        count = len(self)
        if not count or self._sketch is None:
            return np.empty(0, np.intp)
        least = self._sketch.bounds(sums, error, self._sums[:count], self._errors[:count])
        return np.flatnonzero((self._radii[:count] - least > -radius) & (self._labels[:count] != label))

    def _adjust(self, point: np.ndarray, others: np.ndarray, label: int, radius: float) -> tuple[int, float]:
        if not len(others):
            return label, radius
        slack = self._radii[others] - self._distances(point, others)
        inside = others[slack > 0]
        if len(inside):
            # by the invariant all these balls have one class; where float64 cannot tell touching balls apart, the oldest answers
            adopted = int(self._labels[inside[0]])
            self.adopted += 1
            return adopted, min(radius, float(slack[(slack > 0) & (self._labels[others] == adopted)].max()))
        free = float(np.maximum(-slack, 0.0).min())
        if free < radius:
            self.shrunk += 1
        return label, min(radius, free)

    def _distances(self, point: np.ndarray, places: np.ndarray) -> np.ndarray:
        found = np.empty(len(places))
        for start in range(0, len(places), 1024):  # bounds the temporary to 1024 points
            difference = self._points[places[start : start + 1024]] - point  # in float64, as `point` is
            if self.norm == "l1":
                found[start : start + 1024] = np.abs(difference).sum(1)
            else:
                found[start : start + 1024] = np.sqrt(np.square(difference).sum(1))
        return found

    def _checked(self, x: ArrayLike, label: int, radius: float) -> np.ndarray:
        values = as_values(x)
        if len(self) and values.size != self._points.shape[1]:
            raise DdrsError(f"memory: an input of {values.size} values, where the stored ones have {self._points.shape[1]}")
        if isinstance(radius, str) or not np.isfinite(radius) or radius < 0:
            raise DdrsError(f"memory: radius {radius!r}: must be a finite number >= 0")
        if isinstance(label, str) or not ABSTAIN <= label < 2**63:
            raise DdrsError(f"memory: label {label!r}: must be a class below 2^63 or {ABSTAIN}")
        if int(label) != label:
            raise DdrsError(f"memory: label {label}: must be an integer")
        if label == ABSTAIN and radius != 0:
            raise DdrsError(f"memory: radius {radius} of an abstention: must be 0")
        return values

    def _store(self, values: np.ndarray, key: bytes, sums: np.ndarray, error: float, label: int, radius: float) -> None:
        count = len(self)
        if count == len(self._points):
            capacity = max(64, 2 * count)
            self._points, self._sums = _grown(self._points, (capacity, values.size)), _grown(self._sums, (capacity, sums.size))
            self._errors, self._labels, self._radii = (_grown(one, (capacity,)) for one in (self._errors, self._labels, self._radii))
        if values.dtype != self._points.dtype and values.dtype == np.float64:
            self._points = self._points.astype(np.float64)  # the first input that float32 cannot hold
        self._points[count], self._sums[count], self._errors[count] = values, sums, error
        self._labels[count], self._radii[count] = label, radius
        self._place[key] = count


def as_values(x: ArrayLike) -> np.ndarray:
    """The values of an input as they came, (d,), with -0.0 as 0.0: float32 where it holds each exactly, else float64.

    So equal inputs have equal bytes, whatever their dtypes were. Errors: DdrsError for what is no array of numbers, or has a value that is
    not finite, not exactly a float64, or outside [SMALLEST, LARGEST] in magnitude and not 0.
    """
    try:
        given = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:  # a ragged list; a tensor on a GPU, with a gradient, or of bfloat16
        raise DdrsError(f"memory: the input is no array that NumPy reads ({' '.join(str(error).split())[:200]})") from None
    if given.dtype.kind not in "biuf" or not given.size:
        raise DdrsError(f"memory: an input of dtype {given.dtype} and {given.size} values: must be real numbers, at least one")
    with np.errstate(over="ignore", invalid="ignore"):
        values = given.ravel().astype(np.float64) + 0.0
        if not np.all(np.isfinite(values)):
            raise DdrsError("memory: the input is not finite")
        if not np.array_equal(values.astype(given.dtype), given.ravel()):
            raise DdrsError(f"memory: the input has a value of {given.dtype} that is no float64; what was certified must be kept exactly")
    size = np.abs(values)
    if size.max() > LARGEST or np.any((size < SMALLEST) & (size > 0)):
        raise DdrsError(f"memory: the input has a value that is not 0 and of a magnitude outside [{SMALLEST:.3g}, {LARGEST:.3g}]")
    narrow = values.astype(np.float32)
    return narrow if np.array_equal(narrow, values) else values


def _grown(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array of a larger shape that begins with the rows of `array`."""
    larger = np.empty(shape, array.dtype)
    if len(array):
        larger[: len(array)] = array
    return larger
