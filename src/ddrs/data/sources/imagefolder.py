"""A folder of the user's own images, prepared once into the arrays that `ddrs.data` reads.

The layout is that of torchvision's ImageFolder in each of `train/` and `test/`, and of `validation/` where there is one: a sub-folder per
class, with images in it or in folders below it. Images are taken in the order of their classes and then of their paths, scaled so that
they cover the asked height and width, and cropped to their centre. Like ImageNet they pass through in pieces, which survive a kill.
"""

import json
import os
import shutil
from collections import Counter
from contextlib import nullcontext
from importlib import metadata
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ddrs.data.requests import FetchRequest, Say, Source, check_classes, check_hold_out, check_shape, manifest_of, mask_held_out
from ddrs.data.resumable import SplitToWrite, Written, write_splits
from ddrs.errors import DdrsError
from ddrs.files import write_text
from ddrs.provenance.code import code_digest
from ddrs.provenance.digests import digest

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's ImageFolder: others are skipped
MODES = {1: "L", 3: "RGB"}  # of Pillow, by the number of channels
DEEP = ("I", "F")  # modes of more than 8 bits: I, F, and all whose name starts with `I;`
SIDE_BY_SIDE = 2**24  # pixels of an image up to which each thread decodes its own, in 0.2 GB at most; larger ones are decoded one at a time, ...
LARGEST = 178_956_970  # ... in up to 1.5 GB: the most pixels that Pillow reads before it takes a file for an attack
ALONE = Lock()  # of the one larger image that is being decoded
LAYOUT = "it needs train/ and test/ (and may have validation/), each with a sub-folder of images for each class"


def prepare(request: FetchRequest) -> dict:
    """Write the three splits beside the manifest, or finish what a killed call began. Returns the manifest.

    Without a `validation/` folder, images of train are held out, stratified by class. Errors: DdrsError for a folder of another layout, a
    class that is missing, empty or not in `classes`, or an image that cannot be read; what was there before then stays.
    """
    source, shape = _source(request), request.shape
    assert shape is not None
    try:
        check_shape(shape)
    except DdrsError as error:
        raise DdrsError(f"dataset {request.name!r}: {error}") from None
    found = listing(source, request.classes, request.say)
    if "validation" in found and request.validation is not None:
        raise DdrsError(f"{source / 'validation'}: is the validation split; nothing is held out of train, so leave hold_out away or move that folder")
    labels = {split: np.array([label for label, _ in images], np.int64) for split, images in found.items()}
    held_out = None if "validation" in found else request.held_out
    if held_out is not None:
        check_hold_out(request, len(found["train"]))
    partial = request.out.parent / "partial"
    progress = Written(partial / "progress.json", _made_from(request, found), request.say)
    if not progress.resumed:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        progress.save()

    def read(path: Path) -> np.ndarray:
        return read_image(path, shape)

    def part(split: str, chosen: np.ndarray) -> SplitToWrite:
        return SplitToWrite([found[split][i][1] for i in np.flatnonzero(chosen)], labels[split][chosen], read)

    every = {split: np.ones(len(images), bool) for split, images in found.items()}
    if held_out is None:
        parts = {split: part(split, every[split]) for split in ("test", "validation", "train")}
    else:
        held = mask_held_out(labels["train"], held_out, seed=0)
        parts = {"test": part("test", every["test"]), "validation": part("train", held), "train": part("train", ~held)}
    facts = write_splits(partial, shape, parts, progress, request.say)
    manifest = manifest_of(request, facts, shape, len(request.classes), held_out)
    progress.path.unlink()  # killed from here on, the next call begins again
    request.out.unlink(missing_ok=True)  # of an earlier dataset, whose arrays are replaced
    for files in facts.values():
        for name in ("images", "labels"):
            os.replace(partial / files[name]["file"], request.out.parent / files[name]["file"])
    write_text(request.out, json.dumps(manifest, indent=2) + "\n")
    shutil.rmtree(partial)
    return manifest


def listing(source: Path, classes: tuple[str, ...], say: Say = lambda line: None) -> dict[str, list[tuple[int, Path]]]:
    """The images of each split that the folder has, each with its label: the place of its class in `classes`.

    Links are followed. say: told how many files of other kinds are skipped. DdrsError that names the first folder that is missing, empty or
    of no class, or the first broken link.
    """
    check_classes(classes)
    splits = [split for split in ("train", "validation", "test") if (source / split).is_dir()]
    if not {"train", "test"} <= set(splits):
        missing = [f"{split}/" for split in ("train", "test") if split not in splits]
        raise DdrsError(f"{source}: has no {' and no '.join(missing)}; {LAYOUT}")
    found: dict[str, list[tuple[int, Path]]] = {}
    skipped: Counter[str] = Counter()
    for split in splits:
        folder = source / split
        for extra in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            if extra.name not in classes:
                raise DdrsError(f"{extra}: is none of the classes {', '.join(classes)}; add it to them, or move the folder away")
        found[split] = []
        for label, name in enumerate(classes):
            if not (folder / name).is_dir():
                raise DdrsError(f"{folder / name}: no such folder; each of the classes {', '.join(classes)} needs one")
            paths = _files(folder / name)
            images = sorted(path for path in paths if path.suffix.lower() in EXTENSIONS)
            skipped.update(path.suffix.lower() or path.name for path in paths if path.suffix.lower() not in EXTENSIONS)
            if not images:
                raise DdrsError(f"{folder / name}: has no images ({', '.join(EXTENSIONS)})")
            found[split] += [(label, path) for path in images]
    if skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common(10))
        say(f"{source}: {skipped.total()} files are skipped ({kinds}); read are {', '.join(EXTENSIONS)}")
    return found


def _files(folder: Path, above: tuple[Path, ...] = ()) -> list[Path]:
    """The files in a folder and in those below it, also behind links."""
    here = folder.resolve()
    if here in above:
        raise DdrsError(f"{folder}: links to a folder that it is in")
    found = []
    for path in folder.iterdir():
        if path.is_dir():
            found += _files(path, (*above, here))
        elif path.is_file():
            found.append(path)
        else:
            raise DdrsError(f"{path}: no file that can be read; a broken link?")
    return found


def read_image(path: Path, shape: tuple[int, int, int]) -> np.ndarray:
    """An image file as uint8 (C, H, W): scaled to cover H x W (bilinear), cropped to its centre. One that is H x W already keeps its pixels.

    Images of more than SIDE_BY_SIDE pixels are decoded one at a time, whatever the number of threads.
    Errors: DdrsError that names a file that cannot be read, has more than LARGEST pixels, or more than 8 bits per channel, which no
    certificate here is for.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    channels, height, width = shape
    try:
        with Image.open(BytesIO(path.read_bytes())) as image:
            if _is_deep(image):
                raise DdrsError(f"{path}: has more than 8 bits per channel; convert it to 8 bits")
            with ALONE if image.width * image.height > SIDE_BY_SIDE else nullcontext():
                pixels = np.asarray(ImageOps.fit(image.convert(MODES[channels]), (width, height), Image.Resampling.BILINEAR))
    except DdrsError:
        raise
    except Image.DecompressionBombError:
        raise DdrsError(f"{path}: has more than {LARGEST:,} pixels, the most that are read; scale it down") from None
    except UnidentifiedImageError:
        raise DdrsError(f"{path}: no readable image (of no format that Pillow knows)") from None
    except (OSError, ValueError, SyntaxError, EOFError, RuntimeError) as error:  # what Pillow's readers raise
        raise DdrsError(f"{path}: no readable image ({' '.join(str(error).split())[:200]})") from None
    return np.ascontiguousarray(pixels.reshape(height, width, channels).transpose(2, 0, 1))


def _is_deep(image: Any) -> bool:
    """Whether an image that Pillow opened, and has not read yet, has more than 8 bits per channel.

    Of colours Pillow keeps the upper 8 bits and its mode does not say so. What it will decode does: RGB;16B, or of a PPM the largest value.
    """
    if image.mode in DEEP or image.mode.startswith("I;"):
        return True
    decoded = [one for tile in image.tile for one in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    if image.format == "PPM":
        return any(one > 255 for one in decoded if isinstance(one, int))
    return image.format in ("PNG", "TIFF") and any(";16" in one for one in decoded if isinstance(one, str))


def _source(request: FetchRequest) -> Path:
    if request.source is None:
        raise DdrsError(f"dataset {request.name!r}: kind imagefolder needs a source, the folder of the images; {LAYOUT}")
    return request.source


def _made_from(request: FetchRequest, found: dict[str, list[tuple[int, Path]]]) -> dict:
    """What the arrays depend on. Every file by its path, size and time, as reading them all is the work itself."""
    files = [[str(path), (status := path.stat()).st_size, status.st_mtime_ns] for images in found.values() for _, path in images]
    asked = {"classes": list(request.classes), "shape": list(request.shape or ()), "validation": request.validation}
    return {**asked, "files": digest(files), "pillow": metadata.version("pillow"), "code": code_digest(__name__)}


def _count(folder: Path, classes: tuple[str, ...]) -> dict[str, int]:
    return {split: len(images) for split, images in listing(folder, classes).items()}


SOURCE = Source(None, prepare=prepare, count=_count)
