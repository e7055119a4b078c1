"""ImageNet from tiny archives in the original's format: tars in a tar, the devkit's meta.mat and ground truth, and torchvision as the oracle."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ddrs.data import resumable
from ddrs.data.fetch import fetch
from ddrs.data.requests import Pool, Source
from ddrs.data.sources import imagenet
from ddrs.data.splits import SPLITS, load_split
from ddrs.errors import DdrsError
from ddrs.vision import torchvision_datasets

WNIDS = ["n03000000", "n01000000", "n02000000"]  # by ILSVRC2012_ID 1, 2, 3, which is not the order of labels
TRAIN, VAL = 6, 5  # images of a class, and of all classes
NAMES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar", "devkit": "ILSVRC2012_devkit_t12.tar.gz"}


def jpeg(seed: int, size: tuple[int, int], mode: str = "RGB", form: str = "JPEG") -> bytes:
    """A picture of a few colours with edges, so that resizing and cropping matter."""
    channels = {"RGB": 3, "L": 1, "CMYK": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 4, channels), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode).resize(size, Image.Resampling.NEAREST).save(file, form)
    return file.getvalue()


def tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def devkit(labels: list[int]) -> bytes:
    """meta.mat with the three classes and a parent of them, and the ILSVRC2012_ID of each image of the validation set."""
    rows = [(i + 1, wnid, f"thing {i}, object {i}", "a gloss", 0) for i, wnid in enumerate(WNIDS)] + [(4, "n00000001", "entity", "all", 3)]
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children")
    file = io.BytesIO()
    savemat(file, {"synsets": np.array(rows, [(name, object) for name in fields]).reshape(-1, 1)})
    truth = "".join(f"{label}\n" for label in labels).encode()
    root = "ILSVRC2012_devkit_t12/data"
    return gzip.compress(tar({f"{root}/meta.mat": file.getvalue(), f"{root}/ILSVRC2012_validation_ground_truth.txt": truth}))


def contents() -> dict[str, bytes]:
    """The three archives. One training image is also in the validation set and one in two classes; there are a grey, a CMYK and a PNG."""
    val = {f"ILSVRC2012_val_{i:08d}.JPEG": jpeg(100 + i, (300 + 20 * i, 256 + i)) for i in range(1, VAL + 1)}
    classes = {}
    for c, wnid in enumerate(WNIDS):
        pictures = [jpeg(10 * c + i, (260 + 7 * i, 300 - 30 * c)) for i in range(TRAIN)]
        pictures[1] = [jpeg(7, (90, 400), "L"), jpeg(8, (300, 280), "CMYK"), jpeg(9, (226, 224), form="PNG")][c]
        pictures[3 + c] = val["ILSVRC2012_val_00000002.JPEG"] if c == 2 else jpeg(99, (256, 256))
        names = [f"{wnid}_{i}.JPEG" for i in (10, 9, 100, 1, 20, 2)]  # neither in the order of text nor of numbers
        classes[f"{wnid}.tar"] = tar(dict(zip(names, pictures, strict=True)))
    return {"train": tar(classes), "val": tar(dict(reversed(val.items()))), "devkit": devkit([2, 1, 3, 3, 2])}


Write = Callable[..., Path]


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write the archives into a folder, with changes; torchvision takes their MD5 for the published ones, but for those in `published`."""

    def write(published: tuple[str, ...] = (), **changes: bytes) -> Path:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        meta = {}
        for key, data in {**contents(), **changes}.items():
            (folder / NAMES[key]).write_bytes(data)
            meta[key] = (NAMES[key], torchvision_datasets().imagenet.ARCHIVE_META[key][1] if key in published else hashlib.md5(data).hexdigest())
        monkeypatch.setattr(torchvision_datasets().imagenet, "ARCHIVE_META", meta)
        return folder

    return write


def refusal(*arguments: object) -> str:
    with pytest.raises(DdrsError) as error:
        fetch(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_what_is_written_is_what_torchvision_reads_through_the_path_of_the_other_datasets(
    archives: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its ImageNet class extracts the archives and reads them as ImageFolder, as other projects do; pools in memory are split by `fetch` itself."""
    source = archives()
    before = files(source)
    manifests = {held: fetch("imagenet", tmp_path / f"{held}" / "manifest.json", source, held) for held in (0, 3, 5, 17)}
    assert files(source) == before and {path.name for path in source.iterdir()} == set(NAMES.values()), "the source folder was written to"

    transforms = import_module("torchvision.transforms")  # which loads where its datasets have
    prepared = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])
    pools = {}
    for split, part in (("train", "train"), ("test", "val")):
        images, labels = zip(*torchvision_datasets().ImageNet(source, part, transform=prepared), strict=True)
        pools[split] = Pool(np.stack([image.numpy() for image in images]), np.array(labels, np.int64))
    assert pools["test"].labels.tolist() == [0, 0, 1, 1, 2] and np.bincount(pools["train"].labels).tolist() == [TRAIN] * 3
    monkeypatch.setattr(imagenet, "SOURCE", Source(lambda source, download: dict(pools), (3, 224, 224), 1000))
    for held, manifest in manifests.items():
        assert fetch("imagenet", tmp_path / "memory" / "manifest.json", None, held) == manifest
        assert files(tmp_path / "memory") == files(tmp_path / f"{held}")
    dropped = [tuple(one["dropped_duplicates"] for one in manifest["splits"].values()) for manifest in manifests.values()]
    assert {"train", "validation"} == {split for one in dropped for split, count in zip(SPLITS, one, strict=True) if count}
    assert isinstance(load_split(tmp_path / "5" / "manifest.json", "test").images, np.memmap)


@pytest.mark.parametrize("killed_at", [2, 5, 9, 15, 23, 24])
def test_a_killed_preparation_goes_on_where_it_was(killed_at: int, archives: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In pieces of two, of 23 images; at 24, before the manifest. What was written without being recorded is written again: the bytes are those
    of an undisturbed run."""
    source = archives()
    monkeypatch.setattr(resumable, "IMAGES_AT_ONCE", 2)
    fetch("imagenet", tmp_path / "whole" / "manifest.json", source, 5)
    read, calls = imagenet._image, []

    def counted(*arguments: object) -> np.ndarray:
        calls.append(None)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(imagenet, "_image", counted)
    monkeypatch.setattr(resumable, "_cores", lambda: 1)
    out = tmp_path / "out" / "manifest.json"
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(imagenet, "manifest_of", lambda *arguments: counted())
        fetch("imagenet", out, source, 5)
    assert not out.exists() and len(calls) >= killed_at
    splits = json.loads((out.parent / "partial" / "progress.json").read_text())["splits"]
    done = sum(one["done"] for one in splits.values())
    assert killed_at - 3 <= done < killed_at
    last = [split for split in ("test", "validation", "train") if (out.parent / f"{split}.images.npy").exists()][-1]
    with open(out.parent / f"{last}.images.npy", "ab") as file:
        file.write(b"half a picture")
    calls.clear()
    calls += [None] * 100
    monkeypatch.setattr(torchvision_datasets().utils, "check_integrity", lambda *arguments: pytest.fail("the archives were read again"))
    fetch("imagenet", out, source, 5)
    assert len(calls) - 100 == 5 + 18 - done
    assert files(out.parent) == files(tmp_path / "whole")
    assert not (out.parent / "partial").exists()


def test_another_hold_out_or_changed_archives_begin_again(archives: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, out = archives(), tmp_path / "out" / "manifest.json"
    monkeypatch.setattr(imagenet, "manifest_of", lambda *arguments: 1 / 0)  # as if killed at the very end
    with pytest.raises(ZeroDivisionError):
        fetch("imagenet", out, source, 5)
    monkeypatch.undo()
    source = archives()
    splits = fetch("imagenet", out, source, 7)["splits"]
    assert splits["validation"]["count"] + splits["validation"]["dropped_duplicates"] == 7
    changed = archives(train=tar({"n01000000.tar": tar({f"n01000000_{i}.JPEG": jpeg(i, (230, 240)) for i in range(4)})}))
    assert fetch("imagenet", out, changed, 1)["splits"]["train"]["count"] == 3
    assert all(load_split(out, split).labels.max() <= 2 for split in SPLITS)


def test_images_cut_short_behind_its_back_are_written_again(archives: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, out = archives(), tmp_path / "out" / "manifest.json"
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(imagenet, "manifest_of", lambda *arguments: 1 / 0)
        fetch("imagenet", out, source, 5)
    with open(out.parent / "train.images.npy", "r+b") as file:
        file.truncate(1000)
    said: list[str] = []
    fetch("imagenet", out, source, 5, said.append)
    assert any("train.images.npy: is damaged: its bytes are not those that were written; writing it again from image 0 on" in line for line in said)
    fetch("imagenet", tmp_path / "whole" / "manifest.json", source, 5)
    assert files(out.parent) == files(tmp_path / "whole")


def test_it_needs_a_source(tmp_path: Path, ddrs_cli: Callable[..., tuple[int, str, str]]):
    code, out, err = ddrs_cli("fetch", "imagenet", "--out", tmp_path / "manifest.json")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert "'imagenet'" in err and "source" in err and all(name in err for name in NAMES.values())


@pytest.mark.parametrize("missing", NAMES)
def test_a_missing_archive_is_named(missing: str, archives: Write, tmp_path: Path):
    source = archives()
    (source / NAMES[missing]).unlink()
    assert f"{source}: has no {NAMES[missing]}" in refusal("imagenet", tmp_path / "manifest.json", source, 5)


@pytest.mark.parametrize("changed", NAMES)
def test_an_archive_without_the_published_checksum_is_refused(changed: str, archives: Write, tmp_path: Path):
    """The checksums are torchvision's own; a dataset that was there before stays."""
    source, out = archives((changed,)), tmp_path / "out" / "manifest.json"
    out.parent.mkdir()
    out.write_text("before")
    text = refusal("imagenet", out, source, 5)
    assert f"{source / NAMES[changed]}: does not have the MD5 " in text and "truncated or corrupt" in text
    assert files(out.parent) == {"manifest.json": b"before"}


def test_the_published_checksums_are_those_of_ilsvrc_2012():
    assert {key: md5 for key, (_, md5) in torchvision_datasets().imagenet.ARCHIVE_META.items()} == {
        "train": "1d675b47d978889d74fa0da5fadfb00e",
        "val": "29b22e2961454d5413ddabcf34fc5622",
        "devkit": "fa75699e90414af021442c21a62c3abf",
    }


@pytest.mark.parametrize(
    ("key", "data", "words"),
    [
        ("train", contents()["train"][:30_000], ["img_train.tar: truncated or corrupt"]),
        ("train", tar({"n01000000.tar": b"no tar"}), ["img_train.tar: truncated or corrupt"]),
        ("train", tar({"n09000000.tar": tar({"n09000000_1.JPEG": jpeg(0, (9, 9))})}), ["img_train.tar: truncated or corrupt", "n09000000"]),
        (
            "train",
            tar({"n01000000.tar": tar({f"n01000000_{i}.JPEG": b"text" for i in range(9)})}),
            ["img_train.tar: n01000000_", "no readable"],
        ),
        ("val", contents()["val"][:4000], ["img_val.tar: truncated or corrupt"]),
        ("val", b"", ["img_val.tar: truncated or corrupt"]),
        ("devkit", devkit([1, 2]), ["img_val.tar: has 5 images", "devkit_t12.tar.gz has 2 labels"]),
        ("devkit", devkit([1, 2, 3, 1, 9]), ["devkit_t12.tar.gz: truncated or corrupt"]),
        ("devkit", gzip.compress(b"no tar"), ["devkit_t12.tar.gz: truncated or corrupt"]),
    ],
    # an archive holds the second in which it was made, and a test must have one name in all processes
    ids=["train cut", "no tar in train", "unknown class", "no image", "val cut", "val empty", "too few labels", "label beyond", "no tar in devkit"],
)
def test_an_archive_that_cannot_be_read_is_one_line(key: str, data: bytes, words: list[str], archives: Write, tmp_path: Path):
    text = refusal("imagenet", tmp_path / "manifest.json", archives(**{key: data}), 5)
    assert all(word in text for word in words), text


def test_validation_must_leave_training_images(archives: Write, tmp_path: Path):
    assert "hold_out (--validation) = 18: must be below the 18 training images" in refusal("imagenet", tmp_path / "manifest.json", archives(), 18)
