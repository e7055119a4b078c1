"""What is asked of a source of images, what it gives, and what a manifest says of both."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ddrs.data.splits import SPLITS
from ddrs.errors import DdrsError
from ddrs.sections import count_of

Say = Callable[[str], None]
NAMES = r"[a-z][a-z0-9_-]*"  # of datasets, which stand in paths
HOLD_OUT = 5000  # training images that are held out unless asked otherwise
CHANNELS = (1, 3)  # of images: grey, RGB


@dataclass(frozen=True)
class Pool:
    """uint8 images (N, C, H, W) and int64 labels (N,) as a source delivers them."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class FetchRequest:
    """What `fetch` was asked for. classes and shape are given for a folder of images, whose classes are its sub-folders.

    images: how many a split must have at least.
    """

    name: str
    kind: str
    out: Path
    source: Path | None = None
    validation: int | None = None
    classes: tuple[str, ...] = ()
    shape: tuple[int, int, int] | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    say: Say = lambda line: None

    @property
    def held_out(self) -> int:
        """How many training images to hold out."""
        return HOLD_OUT if self.validation is None else self.validation


@dataclass(frozen=True)
class Source:
    """How to get a kind of dataset: its pools (train and test, or all three splits), image shape and number of classes.

    prepare, in place of pools, where a dataset is larger than memory: it writes what `fetch` writes, and returns the manifest. shape and
    classes are None where the user gives them. own_validation: it comes with a validation split, so that nothing is held out of train.
    sizes: how many images of each split it delivers, where that is known of the kind (without a validation split, that is held out of train);
    count, in its place, looks into a folder with sub-folders of these classes.
    """

    pools: Callable[[Path | None, Path], dict[str, Pool]] | None
    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    prepare: Callable[[FetchRequest], dict] | None = None
    own_validation: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    count: Callable[[Path, tuple[str, ...]], dict[str, int]] | None = None


def parse_shape(text: str) -> tuple[int, int, int]:
    """(C, H, W) of "3,64,64"."""
    sizes = [count_of(part) for part in text.split(",")]
    if len(sizes) != 3 or not all(sizes):
        raise DdrsError(f"--shape {text[:40]!r}: must be C,H,W, as 3,64,64")
    channels, height, width = (size or 0 for size in sizes)
    return channels, height, width


def parse_images(pairs: Sequence[str]) -> dict[str, int]:
    """Counts by split of texts like test=100."""
    counts = {}
    for pair in pairs:
        split, _, text = pair.partition("=")
        count = count_of(text)
        if split not in SPLITS or count is None:
            raise DdrsError(f"--images {pair[:40]!r}: must be SPLIT=COUNT, as test=100, the split one of {', '.join(SPLITS)}")
        counts[split] = count
    return counts


def check_classes(classes: Sequence[str]) -> None:
    """DdrsError unless they can be the names of the sub-folders."""
    if len(classes) < 2 or len(set(classes)) != len(classes) or any(name in ("", ".", "..") or "/" in name for name in classes):
        raise DdrsError(f"classes {', '.join(map(repr, classes))}: must be two or more different names of sub-folders, without /")


def check_shape(shape: Sequence[int]) -> None:
    """DdrsError unless images can be read as such: (C, H, W)."""
    if len(shape) != 3 or shape[0] not in CHANNELS or min(shape) < 1:
        raise DdrsError(f"shape {list(shape)}: must be [C, H, W], with C = 1 (grey) or 3 (RGB)")


def hold_out(pool: Pool, count: int, seed: int) -> tuple[Pool, Pool]:
    """Split off `count` images, stratified by class, by a fixed seed; both parts keep the pool's order."""
    held = mask_held_out(pool.labels, count, seed)
    return Pool(pool.images[~held], pool.labels[~held]), Pool(pool.images[held], pool.labels[held])


def mask_held_out(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which of the images with these labels (N,) are held out: bool (N,) with `count` set, stratified by class."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(labels))
    # rank each image within its class along the random order; the lowest ranks over all classes are held out
    rank = np.empty(len(order), np.float64)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    held = np.zeros(len(order), bool)
    held[order[np.argsort(rank[order], kind="stable")[:count]]] = True
    return held


def image_digest(image: np.ndarray) -> bytes:
    """What two images have in common only if all their pixels are equal."""
    return hashlib.sha256(image.tobytes()).digest()


def check_hold_out(request: FetchRequest, images: int) -> None:
    """DdrsError unless some of a dataset's training images are left."""
    if not 0 <= request.held_out < images:
        default = ", the default" if request.validation is None else ""
        raise DdrsError(f"hold_out (--validation) = {request.held_out}{default}: must be below the {images} training images of {request.name}")


def check_images(name: str, splits: Mapping[str, Mapping[str, Any]], images: Mapping[str, int]) -> None:
    """DdrsError if a split of a manifest has fewer images than asked."""
    for split, asked in images.items():
        count, dropped = splits[split]["count"], splits[split]["dropped_duplicates"]
        if count < asked:
            left = f"; {dropped} were dropped, as they equal images of another split" if dropped else ""
            at_most = f"set images.{split} to {count} or fewer" if count else f"leave images.{split} away"
            raise DdrsError(f"dataset {name!r}: {asked} {split} images are asked for, and there are {count}{left}; {at_most}")


def manifest_of(request: FetchRequest, splits: dict[str, dict], shape: tuple[int, int, int], classes: int, held_out: int | None) -> dict:
    """The manifest of a dataset, from what there is to say of each split: its counts, files and their checksums.

    held_out: how many training images became the validation split, None if the dataset has one of its own. Of a folder of images it also holds
    what was asked for: the folder, and how many images to hold out, had it no validation/. Errors: DdrsError for fewer images than asked.
    """
    check_images(request.name, splits, request.images)
    named = {}
    if request.classes:  # the only kind whose data depends on the folder: the others' is checked against published checksums
        named = {"class_names": list(request.classes), "path": str(request.source), "asked_hold_out": request.held_out}
    facts = {"dataset": request.name, "kind": request.kind, "hold_out": held_out, "shape": list(shape), "classes": classes, **named}
    return {**facts, "splits": {split: splits[split] for split in SPLITS}}


def where(source: Path | None) -> str:
    """Where a dataset was read, for errors."""
    return f"source {source}" if source else "download"


def reason(error: BaseException) -> str:
    """What a library says of what it could not read, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
