"""ImageNet (ILSVRC 2012) from the user's own archives, prepared once into the arrays that `ddrs.data` reads.

The images take 200 GB, so they pass through in pieces: read out of the tars where they lie, resized so that the shorter side is 256, cropped
to their central 224 x 224 pixels, and appended to a file per split. What is finished stays when the process is killed, and the next one
goes on behind it. Images are in the order of torchvision's ImageFolder, class by class, so that every 100th test image is that of other
projects' logs.
"""

import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from ddrs.data.requests import FetchRequest, Say, Source, check_hold_out, manifest_of, mask_held_out
from ddrs.data.resumable import SplitToWrite, Written, save_array, write_splits
from ddrs.errors import DdrsError
from ddrs.files import write_text
from ddrs.provenance.code import code_digest

NAME = "imagenet"
SHAPE, CLASSES = (3, 224, 224), 1000
SHORTER_SIDE = 256
ENTRY = np.dtype([("label", np.int64), ("name", "S64"), ("offset", np.int64), ("size", np.int64)])  # of one image in an archive
UNREADABLE = (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, tarfile.TarError, zlib.error)


def prepare(request: FetchRequest) -> dict:
    """Write the three splits beside the manifest, or finish what a killed call began. Returns the manifest.

    Its source is the folder with the three archives of ILSVRC 2012, checked against their published MD5. Test is the validation set of ILSVRC
    2012, whose own test set has no public labels. Errors: DdrsError for an archive that is missing, truncated or corrupt; what was there
    before then stays.
    """
    out, validation, say = request.out, request.held_out, request.say
    datasets, archives = _archives(request.source)
    partial = out.parent / "partial"
    progress = Written(partial / "progress.json", _made_from(archives, validation), say)
    if not progress.resumed:
        _verify(datasets, archives, say)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        progress.save()
    indices = [partial / f"{archive}.npy" for archive in ("val", "train")]
    if not all(progress.keeps(index) for index in indices):
        say("listing the images")
        _index(datasets, archives, partial)
        for index in indices:
            progress.keep(index)
    test, pool = (np.load(index) for index in indices)
    check_hold_out(request, len(pool))
    out.unlink(missing_ok=True)  # of an earlier dataset, whose arrays are replaced from here on: there may be no room for both
    held = mask_held_out(pool["label"], validation, seed=0)
    with open(archives["val"], "rb") as val, open(archives["train"], "rb") as train:
        of_test = SplitToWrite(test, test["label"], lambda entry: _image(val, archives["val"], entry))
        of_pool = {
            split: SplitToWrite(pool[mask], pool["label"][mask], lambda entry: _image(train, archives["train"], entry))
            for split, mask in (("validation", held), ("train", ~held))
        }
        facts = write_splits(out.parent, SHAPE, {"test": of_test, **of_pool}, progress, say)
    manifest = manifest_of(request, facts, SHAPE, CLASSES, validation)
    write_text(out, json.dumps(manifest, indent=2) + "\n")
    shutil.rmtree(partial)
    return manifest


def _archives(source: Path | None) -> tuple[ModuleType, dict[str, Path]]:
    from ddrs.vision import torchvision_datasets

    datasets = torchvision_datasets()
    names = {key: name for key, (name, _) in datasets.imagenet.ARCHIVE_META.items()}
    if source is None:
        raise DdrsError(f"dataset {NAME!r}: needs a source, a folder of yours with {', '.join(names.values())}; it is not downloaded")
    for name in names.values():
        if not (source / name).is_file():
            raise DdrsError(f"{source}: has no {name}; dataset {NAME!r} needs {', '.join(names.values())}")
    return datasets, {key: source / name for key, name in names.items()}


def _made_from(archives: dict[str, Path], validation: int) -> dict[str, Any]:
    found = {key: [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for key, path in archives.items()}
    versions = {name: metadata.version(name) for name in ("pillow", "torchvision")}  # which decode and resize
    return {"archives": found, "validation": validation, "versions": versions, "code": code_digest(__name__)}


def _verify(datasets: ModuleType, archives: dict[str, Path], say: Say) -> None:
    for key in ("devkit", "val", "train"):  # the smallest first
        md5 = datasets.imagenet.ARCHIVE_META[key][1]
        say(f"checking {archives[key]}")
        if not datasets.utils.check_integrity(archives[key], md5):
            raise DdrsError(f"{archives[key]}: does not have the MD5 {md5} of the original: truncated or corrupt")


def _index(datasets: ModuleType, archives: dict[str, Path], folder: Path) -> None:
    """Where each image of both archives lies, as an array of ENTRY in ImageFolder's order: by class, then by name."""
    reading = archives["devkit"]
    try:
        datasets.imagenet.parse_devkit_archive(folder, str(reading.resolve()))  # leaves what it finds in `folder`
        classes, of_val = datasets.imagenet.load_meta_file(folder)
        label_of = {wnid: label for label, wnid in enumerate(sorted(classes))}
        reading = archives["val"]
        with tarfile.open(reading, "r:") as tar:
            val = sorted(_members(tar, 0))
        if len(val) != len(of_val):
            raise DdrsError(f"{reading}: has {len(val)} images, where {archives['devkit'].name} has {len(of_val)} labels")
        rows = {"val": [(label_of[wnid], *entry) for wnid, entry in zip(of_val, val, strict=True)], "train": []}
        reading = archives["train"]
        with tarfile.open(reading, "r:") as outer:
            for member in outer:
                with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as tar:
                    label = label_of[Path(member.name).stem]
                    rows["train"] += [(label, *entry) for entry in _members(tar, member.offset_data)]
    except UNREADABLE as error:
        if isinstance(error, DdrsError):
            raise
        raise DdrsError(f"{reading}: truncated or corrupt ({' '.join(repr(error).split())[:200]})") from None
    for key, found in rows.items():
        save_array(folder / f"{key}.npy", np.sort(np.array(found, ENTRY), order=("label", "name")))


def _members(tar: tarfile.TarFile, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset in the outermost archive and size of each file of a tar that begins at `start`."""
    for member in tar:
        if member.isfile():
            yield Path(member.name).name.encode(), start + member.offset_data, member.size


def _image(tar: BinaryIO, archive: Path, entry: np.void) -> np.ndarray:
    """One image as certified: uint8 (3, 224, 224), resized and cropped by torchvision as other projects do."""
    from PIL import Image

    try:
        data = os.pread(tar.fileno(), entry["size"], entry["offset"])
        with Image.open(BytesIO(data)) as image:
            pixels = np.asarray(_cropped()(image.convert("RGB")))
    except UNREADABLE as error:
        raise DdrsError(f"{archive}: {entry['name'].decode()}: no readable image ({' '.join(str(error).split())})") from None
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


@cache
def _cropped() -> Callable[[Any], Any]:
    from torchvision import transforms

    return transforms.Compose([transforms.Resize(SHORTER_SIDE), transforms.CenterCrop(SHAPE[1:])])


SOURCE = Source(None, SHAPE, CLASSES, prepare, sizes={"train": 1_281_167, "test": 50_000})
