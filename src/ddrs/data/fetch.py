"""`ddrs fetch`: get a dataset from its source, check it, and write the manifest and arrays that `ddrs.data` reads."""

import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from ddrs.data.requests import NAMES, FetchRequest, Pool, Say, check_hold_out, hold_out, image_digest, manifest_of
from ddrs.data.sources import source_of
from ddrs.data.splits import SPLITS
from ddrs.errors import DdrsError
from ddrs.files import atomic, cache_folder, naming
from ddrs.provenance.digests import digest, file_digest


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

    name: what it is called in paths and logs. kind: a file of `ddrs.data.sources`; default: the name. source: a folder with the dataset's own
    files, used instead of the network. validation: how many training images to hold out (default 5,000) where the dataset has no
    validation split of its own; 0 leaves none. classes and shape (C, H, W): of kind imagefolder. Images of train or validation whose
    pixels equal those of a test image (or, in train, of a validation image) are dropped and counted. say: told of the progress, where it
    takes long. images: how many a split must have at least when duplicates are dropped.
    Errors: DdrsError for a missing, truncated or corrupt source, for what does not go
    with the kind, or for fewer images; no manifest is written then.
    """
    request = FetchRequest(name, kind or name, Path(out), source, validation, tuple(classes), shape, dict(images or {}), say)
    _check_request(request)
    dataset = source_of(request.kind)
    if dataset.pools is None:
        assert dataset.prepare is not None
        with _alone(request):
            return dataset.prepare(request)
    with tempfile.TemporaryDirectory(prefix="ddrs-fetch-") as download:
        pools = dataset.pools(source, Path(download))
    for split, pool in pools.items():
        _check_pool(request.kind, split, pool)
    if not dataset.own_validation:
        check_hold_out(request, len(pools["train"].labels))
        pools["train"], pools["validation"] = hold_out(pools["train"], request.held_out, seed=0)
    seen: set[bytes] = set()
    dropped = {}
    for split in reversed(SPLITS):
        hashes = [image_digest(image) for image in pools[split].images]
        keep = np.array([one not in seen for one in hashes], bool)
        dropped[split] = int((~keep).sum())
        pools[split] = Pool(pools[split].images[keep], pools[split].labels[keep])
        seen.update(hashes)
    return write_pools(request, pools, dropped)


@contextmanager
def _alone(request: FetchRequest) -> Iterator[None]:
    """Wait until no other process of this user writes that dataset: of two that write in pieces each would cut off the other's."""
    folder = cache_folder() / "fetch"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{digest(str(request.out.resolve()))}.lock")  # released with the process, however that ends
    try:
        lock.acquire(blocking=False)
    except Timeout:
        request.say(f"{request.out}: another process is writing it; waiting for its end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_request(request: FetchRequest) -> None:
    asked = source_of(request.kind)
    if not re.fullmatch(NAMES, request.name):
        raise DdrsError(f"dataset {request.name!r}: a name must be lower-case letters, digits, _ and -, the first a letter, as it stands in paths")
    if request.source is not None and not request.source.is_dir():
        raise DdrsError(f"dataset {request.name!r}: source {request.source} is not a folder")
    if asked.own_validation and request.validation is not None:
        raise DdrsError(f"dataset {request.name!r}: {request.kind} has a validation split of its own; nothing is held out of its training images")
    for given, flag in ((request.classes, "classes"), (request.shape, "shape")):
        if bool(given) != (asked.classes is None):
            state = "needs" if asked.classes is None else "takes no"
            raise DdrsError(f"dataset {request.name!r}: kind {request.kind} {state} {flag}")


def _check_pool(kind: str, split: str, pool: Pool) -> None:
    source, images, labels = source_of(kind), pool.images, pool.labels
    assert source.classes is not None
    if images.shape[1:] != source.shape or images.dtype != np.uint8:
        raise DdrsError(f"dataset {kind!r}: {split} has {images.dtype} images of shape {images.shape[1:]}, not uint8 {source.shape}")
    if len(images) != len(labels) or not len(labels):
        raise DdrsError(f"dataset {kind!r}: {split} has {len(images)} images and {len(labels)} labels")
    if labels.min() < 0 or labels.max() >= source.classes:
        raise DdrsError(f"dataset {kind!r}: {split} has labels {labels.min()} to {labels.max()}; 0 to {source.classes - 1} are allowed")


def write_pools(request: FetchRequest, pools: dict[str, Pool], dropped: dict[str, int]) -> dict:
    """Write the splits of pools and their manifest beside each other, all or none; `dropped`: how many duplicates of each are left out already."""
    out, source = request.out, source_of(request.kind)
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
        manifest = manifest_of(request, splits, source.shape, source.classes, None if source.own_validation else request.held_out)
        with naming(out):
            manifest_file.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest
