"""Algorithm 3 of the paper: a memory that keeps the answers of a data-dependent classifier consistent."""

from pathlib import Path

import numpy as np

from ddrs.certification.records import ABSTAIN, COLUMNS, format_line, read_log
from ddrs.data import as_float, load_split
from ddrs.errors import DdrsError
from ddrs.files import write_text
from ddrs.norms import Norm, norm_of
from ddrs.provenance import digest, file_digest


class Memory:
    """The stateful classifier "answer from memory first".

    Guarantee, by construction and at no failure probability: for every stored entry, each *later* query strictly inside its ball
    gets the entry's class. Nothing is promised about correctness, about queries made earlier, or about another order of arrival; a
    restart must reload every entry. Invariant, up to float64 rounding of the
    distances: balls of different classes are disjoint (an abstention is a class of its own, radius 0).

    norm: "l2" for certificates of Gaussian noise, "l1" for uniform noise. Distances are float64 between float32 inputs. Time and space
    per insert are O(entries * d). Source: the paper, Section 3.5 and Algorithm 3; containment is looked at before overlap.
    """

    def __init__(self, norm: Norm = "l2"):
        if norm not in ("l2", "l1"):
            raise DdrsError(f"norm {norm!r}: must be l2 or l1")
        self.norm = norm
        self.adopted = 0  # entries that took the class of a ball they lie in
        self.shrunk = 0  # entries that kept their class with a smaller radius
        self._place: dict[bytes, int] = {}
        self._points = np.empty((0, 0))
        self._labels = np.empty(0, np.int64)
        self._radii = np.empty(0)

    def __len__(self) -> int:
        return len(self._place)

    def insert(self, x: np.ndarray, label: int, radius: float) -> tuple[int, float]:
        """Answer a query from the memory and store it. Returns the class and radius that are stored.

        x: array of float32 values of any shape, the same size for all queries (a CPU tensor will do). label: the certified class, or
        -1 for an abstention, whose radius must be 0. radius: its certified radius, in the units of x. Errors: DdrsError for a radius that is
        negative or not finite, or an x that is not finite or has another size.
        """
        point, key = self._checked(x, label, radius)
        if key in self._place:
            place = self._place[key]
            return int(self._labels[place]), float(self._radii[place])
        label, radius = self._adjust(point, int(label), float(radius))
        self._store(point, key, label, radius)
        return label, radius

    def _adjust(self, point: np.ndarray, label: int, radius: float) -> tuple[int, float]:
        count = len(self)
        others = np.flatnonzero(self._labels[:count] != label)
        if not len(others):
            return label, radius
        distance = self._distances(point, others)
        slack = self._radii[others] - distance
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
            difference = self._points[places[start : start + 1024]] - point
            if self.norm == "l1":
                found[start : start + 1024] = np.abs(difference).sum(1)
            else:
                found[start : start + 1024] = np.sqrt(np.square(difference).sum(1))
        return found

    def _checked(self, x: np.ndarray, label: int, radius: float) -> tuple[np.ndarray, bytes]:
        values = np.asarray(x, np.float32).ravel() + np.float32(0)  # -0.0 becomes 0.0
        if len(self) and values.size != self._points.shape[1]:
            raise DdrsError(f"memory: an input of {values.size} values, where the stored ones have {self._points.shape[1]}")
        if not np.all(np.isfinite(values)):
            raise DdrsError("memory: the input is not finite")
        if not np.isfinite(radius) or radius < 0:
            raise DdrsError(f"memory: radius {radius}: must be a finite number >= 0")
        if label < ABSTAIN:
            raise DdrsError(f"memory: label {label}: must be a class or {ABSTAIN}")
        if int(label) != label:
            raise DdrsError(f"memory: label {label}: must be an integer")
        if label == ABSTAIN and radius != 0:
            raise DdrsError(f"memory: radius {radius} of an abstention: must be 0")
        return values.astype(np.float64), values.tobytes()

    def _store(self, point: np.ndarray, key: bytes, label: int, radius: float) -> None:
        count = len(self)
        if count == len(self._points):
            capacity = max(64, 2 * count)
            points, labels, radii = np.empty((capacity, point.size)), np.empty(capacity, np.int64), np.empty(capacity)
            if count:
                points[:count], labels[:count], radii[:count] = self._points, self._labels, self._radii
            self._points, self._labels, self._radii = points, labels, radii
        self._points[count], self._labels[count], self._radii[count] = point, label, radius
        self._place[key] = count


def remember(log: Path, data: Path, out: Path) -> dict[str, int]:
    """Pass a certification log through a new memory, in ascending idx, and write the log of the stateful classifier.

    The norm is that of the log's noise. Columns are the log's, with class, radius and `correct` as the memory answers, and
    `memory`: kept, adopted, shrunk or repeated. sigma, n_top and p_lower stay those of the certificate before. Returns how often each
    happened. Errors: DdrsError if the log does not say its dataset and noise, or the data is another.
    """
    table = read_log(log).table.sort_values("idx")
    if "memory" in table:
        raise DdrsError(f"{log}: has been through the memory already")
    if out.exists() and out.samefile(log):
        raise DdrsError(f"{log}: would be overwritten by what the memory makes of it; give another folder")
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DdrsError(f"{log}: lacks the column {missing[0]!r}, which the memory needs")
    split = load_split(data, str(table["split"].iloc[0]))
    if split.dataset != table["dataset"].iloc[0]:
        raise DdrsError(f"{log}: is of {table['dataset'].iloc[0]}, but {data} is {split.dataset}")
    indices = table["idx"].to_numpy()
    if indices.min() < 0 or indices.max() >= len(split.labels):
        outside = indices.min() if indices.min() < 0 else indices.max()
        raise DdrsError(f"{log}: idx {outside} is outside {split.dataset} {split.split}, which has {len(split.labels)} images")
    norm = norm_of(table["noise"].iloc[0], str(log))
    memory = Memory(norm)
    columns = (*COLUMNS, "memory")
    lines = ["\t".join(columns)]
    counts: dict[str, int] = dict.fromkeys(("kept", "adopted", "shrunk", "repeated"), 0)
    made = digest({"log": file_digest(log), "memory": norm})
    for row in table.to_dict("records"):
        before = (len(memory), memory.adopted, memory.shrunk)
        label, radius = memory.insert(as_float(split.images[row["idx"]]), row["predict"], row["radius"])
        after = (len(memory), memory.adopted, memory.shrunk)
        change = "repeated" if after[0] == before[0] else "adopted" if after[1] > before[1] else "shrunk" if after[2] > before[2] else "kept"
        counts[change] += 1
        answered = {"predict": label, "radius": radius, "correct": int(label == row["label"]), "memory": change, "digest": made}
        lines.append(format_line({**row, **answered}, columns))
    write_text(out, "\n".join(lines) + "\n")
    return counts
