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
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import metadata
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from ddrs.data import SPLITS
from ddrs.errors import DdrsError
from ddrs.files import atomic, naming, write_text
from ddrs.provenance import code_digest, file_digest
from ddrs.sources import image_digest, manifest_of, mask_held_out

NAME = "imagenet"
SHAPE = (3, 224, 224)
SHORTER_SIDE = 256
PIECE = 1024  # images that are held in memory, written and recorded at once
ENTRY = np.dtype([("label", np.int64), ("name", "S64"), ("offset", np.int64), ("size", np.int64)])  # of one image in an archive
UNREADABLE = (RuntimeError, OSError, EOFError, ValueError, KeyError, IndexError, TypeError, tarfile.TarError, zlib.error)


def prepare(out: Path, source: Path | None, validation: int, say: Callable[[str], None]) -> dict:
    """Write the three splits beside the manifest `out`, or finish what a killed call began. Returns the manifest.

    source: the folder with the three archives of ILSVRC 2012, checked against their published MD5. validation: how many training images to
    hold out, stratified by class. Test is the validation set of ILSVRC 2012, whose own test set has no public labels. Errors: DdrsError for
    an archive that is missing, truncated or corrupt; what was there before then stays.
    """
    datasets, archives = _archives(source)
    partial = out.parent / "partial"
    progress = _Progress(partial / "progress.json", _made_from(archives, validation))
    if not progress.resumed:
        _verify(datasets, archives, say)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        progress.save()
    indices = [partial / f"{archive}.npy" for archive in ("val", "train")]
    if not all(index.exists() for index in indices):
        say("listing the images")
        _index(datasets, archives, partial)
    test, pool = (np.load(index) for index in indices)
    if not 0 <= validation < len(pool):
        raise DdrsError(f"validation = {validation}: must be below the {len(pool)} training images of {NAME}")
    out.unlink(missing_ok=True)  # of an earlier dataset, whose arrays are replaced from here on: there may be no room for both
    held = mask_held_out(pool["label"], validation, seed=0)
    splits = {"test": (archives["val"], test), "validation": (archives["train"], pool[held]), "train": (archives["train"], pool[~held])}
    seen: set[bytes] = set()
    facts: dict[str, dict] = {}
    for split, (archive, entries) in splits.items():
        paths = {part: out.parent / f"{split}.{part}.npy" for part in ("images", "labels")}
        _write_images(paths["images"], split, archive, entries, seen, progress, say)
        dropped = progress.dropped(split)
        _save(paths["labels"], np.delete(entries["label"], dropped))
        if split != "train":
            seen.update(map(image_digest, np.load(paths["images"], mmap_mode="r")))
        say(f"{split}: reading it back for its checksum")
        files = {part: {"file": path.name, "sha256": file_digest(path)} for part, path in paths.items()}
        facts[split] = {"count": len(entries) - len(dropped), "dropped_duplicates": len(dropped), **files}
    manifest = manifest_of(NAME, {split: facts[split] for split in SPLITS})
    write_text(out, json.dumps(manifest, indent=2) + "\n")
    shutil.rmtree(partial)
    return manifest


class _Progress:
    """How many images of each split are done, and which of them were dropped as duplicates; on disk, and void if made from anything else."""

    def __init__(self, path: Path, made_from: dict[str, Any]):
        self.path, self._state = path, {"made_from": made_from, "splits": {}}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self.resumed = found["made_from"] == made_from
        except (OSError, ValueError, KeyError, TypeError):
            self.resumed = False
        if self.resumed:
            self._state = found

    def done(self, split: str) -> int:
        return self._state["splits"].get(split, {}).get("done", 0)

    def dropped(self, split: str) -> list[int]:
        return list(self._state["splits"].get(split, {}).get("dropped", []))

    def record(self, split: str, done: int, dropped: list[int]) -> None:
        self._state["splits"][split] = {"done": done, "dropped": dropped}
        self.save()

    def save(self) -> None:
        write_text(self.path, json.dumps(self._state))


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
    return {"archives": found, "validation": validation, "versions": versions, "code": code_digest("imagenet.py")}


def _verify(datasets: ModuleType, archives: dict[str, Path], say: Callable[[str], None]) -> None:
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
        _save(folder / f"{key}.npy", np.sort(np.array(found, ENTRY), order=("label", "name")))


def _save(path: Path, array: np.ndarray) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def _members(tar: tarfile.TarFile, start: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset in the outermost archive and size of each file of a tar that begins at `start`."""
    for member in tar:
        if member.isfile():
            yield Path(member.name).name.encode(), start + member.offset_data, member.size


def _write_images(
    path: Path, split: str, archive: Path, entries: np.ndarray, seen: set[bytes], progress: _Progress, say: Callable[[str], None]
) -> None:
    """Append the images that are not done yet, but for those whose digest was `seen` in another split; the count in the header comes last.

    Written as a file, not through a memory map, on which a full disk is a signal that kills the process instead of an error.
    """
    done, dropped = progress.done(split), progress.dropped(split)
    size, start = int(np.prod(SHAPE)), len(_header(0))
    if not done:
        path.unlink(missing_ok=True)  # whoever has an earlier one mapped keeps it
    with naming(path), open(path, "r+b" if done else "wb") as file, open(archive, "rb") as tar, ThreadPoolExecutor(_cores()) as threads:
        end = start + (done - len(dropped)) * size
        if done and os.fstat(file.fileno()).st_size < end:
            raise DdrsError(f"{path}: is shorter than {progress.path} says; delete both to begin again")
        file.truncate(end)  # what a killed process wrote and did not record
        file.seek(end)
        while done < len(entries):
            piece = entries[done : done + PIECE]
            for place, image in enumerate(threads.map(lambda entry: _image(tar, archive, entry), piece), done):
                if image_digest(image) in seen:
                    dropped.append(place)
                else:
                    file.write(image.tobytes())
            file.flush()
            os.fsync(file.fileno())
            done += len(piece)
            progress.record(split, done, dropped)
            say(f"{split}: {done:,} of {len(entries):,} images")
        file.seek(0)
        file.write(_header(done - len(dropped)))


def _header(count: int) -> bytes:
    """The head of an .npy file, padded by NumPy so that it is as long for any count."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *SHAPE)})
    return file.getvalue()


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


def _cores() -> int:
    """The cores that this process may use: bytes do not depend on how many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
