"""Reading a fetched dataset: a manifest and, per split, uint8 images and labels. No torch is needed.

manifest.json                                name, kind, hold_out, shape, classes, and per split the counts and SHA-256 of its files
{train,validation,test}.{images,labels}.npy  uint8 (N, C, H, W) and int64 (N,), memory-mappable
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddrs.errors import DdrsError
from ddrs.files import require
from ddrs.provenance.digests import digest, file_digest

SPLITS = ("train", "validation", "test")
ARRAYS = ("images", "labels")


@dataclass(frozen=True)
class Split:
    """One split of a fetched dataset: uint8 images (N, C, H, W), int64 labels (N,), and what the dataset is."""

    dataset: str
    split: str
    images: np.ndarray
    labels: np.ndarray
    classes: int
    digest: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return tuple(self.images.shape[1:])  # type: ignore[return-value]

    def subset(self, count: int | None) -> np.ndarray:
        """`count` indices, evenly spaced over the split (the field's --skip); all of them if count is None."""
        total = len(self.labels)
        if count is not None and not 1 <= count <= total:
            raise DdrsError(f"{count} images of {self.dataset} {self.split}: the split has {total}")
        return np.arange(total) if count is None else np.arange(count) * total // count


def as_float(images: np.ndarray) -> np.ndarray:
    """uint8 images as float32 in [0, 1]: the values that models see, that noise is added to, and that the memory stores.

    Args:
        images: uint8 of any shape.

    Returns:
        float32 of that shape: each value divided by 255, in float32.
    """
    return np.asarray(images).astype(np.float32) / np.float32(255)


def check_fetched(manifest: Path, asked: Mapping[str, object]) -> None:
    """DdrsError if a dataset was fetched otherwise than asked; nothing if it is not there yet.

    asked: what a manifest says, by name: dataset, kind, hold_out, shape, class_names. Data is fetched once and no change of the config fetches it
    again, so that what lies there must be compared with what the config says. A manifest of before there were kinds says less: its kind is
    its name, and its hold_out what its validation split was made of.
    """
    if not Path(manifest).is_file():
        return
    try:
        facts = json.loads(Path(manifest).read_text(encoding="utf-8"))
        held = facts["splits"]["validation"]
        facts = {"kind": facts["dataset"], "hold_out": held["count"] + held["dropped_duplicates"], **facts}
    except (OSError, ValueError, KeyError, TypeError):
        raise DdrsError(f"{manifest}: not a dataset manifest; delete its folder, so that the dataset is fetched again") from None
    for name, value in asked.items():
        if facts.get(name) != value:
            was = f"was fetched with {name} {json.dumps(facts.get(name))}, but the config says {json.dumps(value)}"
            raise DdrsError(f"{manifest}: {was}; give the dataset another name, or delete the folder {Path(manifest).parent}")


def split_digests(manifest: Path) -> dict[str, str]:
    """The digest of each split's images and labels, which is in every result that is made of them."""
    _, _, entry = _read(manifest)
    return {split: _digest(files) for split, files in entry.items()}


def load_split(manifest: Path, split: str) -> Split:
    """One split of a fetched dataset.

    Guarantee:
        Its files are those that were fetched: each is checked against the manifest's SHA-256.

    Args:
        manifest: the file that `ddrs fetch` wrote; the arrays lie beside it.
        split: "train", "validation" or "test".

    Returns:
        A Split: uint8 images (N, C, H, W), memory-mapped, int64 labels (N,), and what the dataset is.

    Raises:
        DdrsError: if a file is missing or not as fetched, or the dataset has no such split.
    """
    name, classes, entry = _read(manifest)
    if split not in entry:
        raise DdrsError(f"{manifest}: has no split {split!r}; known are {', '.join(entry)}")
    arrays = []
    for part in ARRAYS:
        file, sha256 = entry[split][part]
        path = require(manifest.parent / file, f"{part} of {name} {split}")
        if file_digest(path) != sha256:
            raise DdrsError(f"{path}: does not match its checksum in {manifest}; fetch the dataset again")
        arrays.append(np.load(path, mmap_mode="r"))
    return Split(name, split, arrays[0], np.asarray(arrays[1]), classes, _digest(entry[split]))


def _read(manifest: Path) -> tuple[str, int, dict[str, dict[str, tuple[str, str]]]]:
    """A manifest's dataset, number of classes, and for each part of each split the file and its SHA-256."""
    require(manifest, "dataset manifest")
    try:
        facts = json.loads(manifest.read_text(encoding="utf-8"))
        name, classes, splits = str(facts["dataset"]), int(facts["classes"]), facts["splits"]
        entry = {split: {part: (files[part]["file"], files[part]["sha256"]) for part in ARRAYS} for split, files in splits.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DdrsError(f"{manifest}: not a dataset manifest; fetch the dataset again") from None
    return name, classes, entry


def _digest(files: Mapping[str, tuple[str, str]]) -> str:
    return digest([files[part][1] for part in ARRAYS])
