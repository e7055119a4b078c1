"""A folder of the user's own images: what is read from it, what is refused and how, and what a kill leaves."""

import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddrs.data import resumable
from ddrs.data.fetch import fetch
from ddrs.data.sources import imagefolder
from ddrs.data.splits import SPLITS, load_split
from ddrs.errors import DdrsError
from ddrs.operations.plan import Command, KnownFiles

CLASSES = ("cat", "dog", "a bird")
SHAPE = (3, 8, 8)
Cli = Callable[..., tuple[int, str, str]]


def picture(seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    channels = {"RGB": 3, "L": 1, "RGBA": 4}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(), mode)


def write_folder(root: Path, splits: tuple[str, ...] = ("train", "test"), count: int = 4) -> Path:
    """PNGs of 8 x 8, `count` of each class and split, all different."""
    for i, split in enumerate(splits):
        for c, name in enumerate(CLASSES):
            (root / split / name).mkdir(parents=True)
            for j in range(count):
                picture(1000 * i + 100 * c + j).save(root / split / name / f"{j}.png")
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets")


def fetched(source: Path, out: Path, validation: int | None = 3, shape: tuple[int, int, int] = SHAPE, **more: object) -> dict:
    return fetch("pets", out, source, validation, kind="imagefolder", classes=CLASSES, shape=shape, **more)  # type: ignore[arg-type]


def refusal(source: Path, out: Path, **more: object) -> str:
    with pytest.raises(DdrsError) as error:
        fetched(source, out, **more)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


DDS = b"DDS " + struct.pack("<7I", 124, 0, 8, 8, 0, 0, 0) + bytes(44) + struct.pack("<2I4s5I", 32, 4, b"ZZZZ", 0, 0, 0, 0, 0) + bytes(20)


def png(depth: int, colour: int, channels: int) -> bytes:
    """A black 8 x 8 PNG of a bit depth and colour type."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0)
    pixels = zlib.compress(bytes(8 * (1 + channels * depth)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_its_pixels_and_labels_are_those_of_the_files(source: Path, tmp_path: Path):
    before = files(source)
    manifest = fetched(source, tmp_path / "out" / "manifest.json")
    facts = {"dataset": "pets", "kind": "imagefolder", "hold_out": 3, "shape": [3, 8, 8], "classes": 3, "class_names": list(CLASSES)}
    facts |= {"path": str(source), "asked_hold_out": 3}
    assert facts.items() <= manifest.items() and list(manifest["splits"]) == list(SPLITS)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    splits = {name: load_split(tmp_path / "out" / "manifest.json", name) for name in SPLITS}
    assert {name: np.bincount(split.labels).tolist() for name, split in splits.items()} == {
        "train": [3, 3, 3],
        "validation": [1, 1, 1],
        "test": [4, 4, 4],
    }
    for image, path in zip(splits["test"].images, [source / "test" / name / f"{j}.png" for name in CLASSES for j in range(4)], strict=True):
        assert np.array_equal(image, np.asarray(Image.open(path)).transpose(2, 0, 1))
    pool = {np.asarray(Image.open(p)).transpose(2, 0, 1).tobytes(): CLASSES.index(p.parent.name) for p in source.glob("train/*/*.png")}
    both = [
        (image.tobytes(), label) for name in ("train", "validation") for image, label in zip(splits[name].images, splits[name].labels, strict=True)
    ]
    assert dict(both) == pool and len(both) == 12
    assert files(source) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        ["manifest.json", *(f"{s}.{p}.npy" for s in SPLITS for p in ("images", "labels"))]
    )


def test_a_validation_folder_is_the_validation_split(tmp_path: Path):
    source = write_folder(tmp_path / "pets", ("train", "validation", "test"))
    manifest = fetched(source, tmp_path / "manifest.json", None)
    assert (manifest["hold_out"], manifest["asked_hold_out"]) == (None, 5000) and {
        name: facts["count"] for name, facts in manifest["splits"].items()
    } == dict.fromkeys(SPLITS, 12)
    assert "nothing is held out" in refusal(source, tmp_path / "manifest.json", validation=2)


def test_nothing_held_out_leaves_all_of_train(source: Path, tmp_path: Path):
    manifest = fetched(source, tmp_path / "manifest.json", 0)
    assert [manifest["splits"][name]["count"] for name in SPLITS] == [12, 0, 12] and manifest["hold_out"] == 0


def test_images_are_scaled_to_cover_the_shape_and_cropped_to_their_centre(source: Path, tmp_path: Path):
    """Of a wide picture of three stripes the middle one is left, a little wider than a square, as scaling mixes neighbours. Grey, RGBA and
    folders below are read too."""
    folder = source / "test" / "cat"
    shutil.rmtree(folder)
    (folder / "below").mkdir(parents=True)
    stripes = np.zeros((30, 90, 3), np.uint8)
    stripes[:, 27:63] = (10, 200, 30)
    Image.fromarray(stripes).save(folder / "1.png")
    Image.fromarray(np.full((4, 4), 77, np.uint8)).save(folder / "2.bmp")
    Image.fromarray(np.full((9, 9, 4), 5, np.uint8)).save(folder / "below" / "3.PNG")
    (folder / "notes.txt").write_text("no image")
    fetched(source, tmp_path / "manifest.json")
    test = load_split(tmp_path / "manifest.json", "test")
    found = test.images[test.labels == 0]
    assert [np.unique(image.reshape(3, -1), axis=1).T.tolist() for image in found] == [[[10, 200, 30]], [[77, 77, 77]], [[5, 5, 5]]]
    fetched(source, tmp_path / "grey" / "manifest.json", shape=(1, 6, 12))
    assert load_split(tmp_path / "grey" / "manifest.json", "test").shape == (1, 6, 12)


def test_colours_of_8_bits_are_read_from_any_format(source: Path, tmp_path: Path):
    """BMP also has 16 bits per pixel, which are fewer than 8 per channel."""
    folder = source / "test" / "cat"
    (folder / "a.png").write_bytes(png(8, 2, 3))
    (folder / "b.ppm").write_bytes(b"P6 8 8 100\n" + bytes(192))
    head = struct.pack("<2sIHHI", b"BM", 182, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 8, 8, 1, 16, 0, 128, 0, 0, 0, 0)
    (folder / "c.bmp").write_bytes(head + bytes(128))
    fetched(source, tmp_path / "manifest.json")
    assert not load_split(tmp_path / "manifest.json", "test").images[4:7].any()


def test_images_behind_links_are_read_and_other_files_are_counted(source: Path, tmp_path: Path):
    shutil.move(source / "train" / "cat", tmp_path / "cats")
    (source / "train" / "cat").mkdir()
    (source / "train" / "cat" / "more").symlink_to(tmp_path / "cats")
    (source / "train" / "dog" / "linked.png").symlink_to(tmp_path / "cats" / "0.png")
    for name in ("1.jfif", "2.jfif", ".DS_Store"):
        (source / "test" / "dog" / name).write_bytes(b"")
    said: list[str] = []
    splits = fetched(source, tmp_path / "out" / "manifest.json", 0, say=said.append)["splits"]
    assert splits["train"]["count"] == 13
    assert said[0].startswith(f"{source}: 3 files are skipped (2 .jfif, 1 .DS_Store); read are .jpg, .jpeg, .png")


def test_duplicates_are_dropped_and_counted(source: Path, tmp_path: Path):
    shutil.copyfile(source / "test" / "cat" / "0.png", source / "train" / "dog" / "9.png")
    manifest = fetched(source, tmp_path / "manifest.json", 0)
    assert manifest["splits"]["train"] | {"dropped_duplicates": 1, "count": 12} == manifest["splits"]["train"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: shutil.rmtree(root / "test"), ["pets: has no test/; it needs train/ and test/", "sub-folder"]),
        (lambda root: [shutil.rmtree(root / split) for split in ("train", "test")], ["has no train/ and no test/"]),
        (lambda root: shutil.rmtree(root / "train" / "dog"), ["train/dog: no such folder", "cat, dog, a bird"]),
        (lambda root: [path.unlink() for path in (root / "test" / "a bird").iterdir()], ["test/a bird: has no images (.jpg"]),
        (lambda root: (root / "train" / "fish").mkdir(), ["train/fish: is none of the classes cat, dog, a bird"]),
        (lambda root: (root / "train" / "cat" / "x.jpg").write_bytes(b"text"), ["train/cat/x.jpg: no readable image"]),
        (lambda root: (root / "train" / "cat" / "x.jpg").write_bytes(b""), ["train/cat/x.jpg: no readable image (of no format that Pillow knows)"]),
        (lambda root: (root / "train" / "cat" / "x.jpg").write_bytes(DDS), ["train/cat/x.jpg: no readable image (Unimplemented pixel format"]),
        *(
            (lambda root, data=data: (root / "train" / "dog" / "x.png").write_bytes(data), ["dog/x.png: has more than 8 bits per channel"])
            for data in (png(16, 0, 1), png(16, 2, 3), png(16, 6, 4), b"P6 8 8 65535\n" + bytes(384))
        ),
        (lambda root: (root / "train" / "cat" / "zz.png").symlink_to("nowhere.png"), ["train/cat/zz.png: no file that can be read; a broken link?"]),
        (lambda root: (root / "train" / "cat" / "more").symlink_to("nowhere"), ["train/cat/more: no file that can be read; a broken link?"]),
        (lambda root: (root / "train" / "cat" / "more").symlink_to("."), ["train/cat/more: links to a folder that it is in"]),
    ],
)
def test_what_is_wrong_with_a_folder_is_named_and_what_was_there_stays(spoil: Callable, words: list[str], source: Path, tmp_path: Path):
    out = tmp_path / "out" / "manifest.json"
    fetched(source, out)
    before = files(out.parent)
    spoil(source)
    text = refusal(source, out)
    assert all(word in text for word in words), text
    assert {name: data for name, data in files(out.parent).items() if not name.startswith("partial")} == before


def test_a_truncated_image_is_named(source: Path, tmp_path: Path):
    path = source / "test" / "dog" / "big.jpg"
    picture(1, (200, 100)).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    assert f"{path}: no readable image" in refusal(source, tmp_path / "manifest.json")
    path.unlink()
    assert fetched(source, tmp_path / "manifest.json")["splits"]["test"]["count"] == 12


def test_too_many_held_out(source: Path, tmp_path: Path):
    default = refusal(source, tmp_path / "manifest.json", validation=None)
    assert "hold_out (--validation) = 5000, the default: must be below the 12 training images of pets" in default
    assert "hold_out (--validation) = 12: must be below the 12" in refusal(source, tmp_path / "manifest.json", validation=12)


def test_fewer_images_than_asked_fail_the_fetch_and_what_was_prepared_is_kept(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copyfile(source / "test" / "cat" / "0.png", source / "train" / "cat" / "0.png")
    out = tmp_path / "out" / "manifest.json"
    text = refusal(source, out, validation=11, images={"validation": 11})
    assert "11 validation images are asked for, and there are 10; 1 were dropped" in text and "set images.validation to 10 or fewer" in text
    assert not out.exists()
    monkeypatch.setattr(imagefolder, "read_image", None)  # all are read
    assert fetched(source, out, validation=11, images={"validation": 10})["splits"]["validation"]["count"] == 10


@pytest.mark.parametrize("killed_at", [2, 7, 14, 24])
def test_a_killed_preparation_goes_on_where_it_was(killed_at: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resumable, "IMAGES_AT_ONCE", 2)
    monkeypatch.setattr(resumable, "_cores", lambda: 1)
    fetched(source, tmp_path / "whole" / "manifest.json")
    out, read, calls = tmp_path / "out" / "manifest.json", imagefolder.read_image, []

    def counted(*arguments: object) -> np.ndarray:
        calls.append(None)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(imagefolder, "read_image", counted)
    with pytest.raises(KeyboardInterrupt):
        fetched(source, out)
    assert not out.exists()
    done = sum(one["done"] for one in json.loads((out.parent / "partial" / "progress.json").read_text())["splits"].values())
    calls[:] = [None] * 100
    fetched(source, out)
    assert len(calls) - 100 == 24 - done and done >= killed_at - 3
    assert files(out.parent) == files(tmp_path / "whole")


def test_killed_while_the_arrays_are_put_in_place_begins_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out" / "manifest.json"
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(imagefolder, "write_text", lambda *arguments: 1 / 0)
        fetched(source, out)
    fetched(source, tmp_path / "whole" / "manifest.json")
    fetched(source, out)
    assert files(out.parent) == files(tmp_path / "whole")


def test_the_verb(source: Path, tmp_path: Path, ddrs_cli: Cli):
    words = ["fetch", "pets", "--out", tmp_path / "manifest.json", "--kind", "imagefolder", "--source", source, "--validation", 3]
    classes = [word for name in CLASSES for word in ("--classes", name)]
    assert ddrs_cli(*words, *classes, "--shape", "3,8,8")[0] == 0
    assert load_split(tmp_path / "manifest.json", "train").dataset == "pets"
    for more, part in (
        ([*classes], "kind imagefolder needs shape"),
        (["--shape", "3,8,8"], "kind imagefolder needs classes"),
        ([*classes, "--shape", "3,8"], "--shape '3,8': must be C,H,W"),
        ([*classes, "--shape", "2,8,8"], "with C = 1 (grey) or 3 (RGB)"),
        (["--classes", "cat", "--shape", "3,8,8"], "two or more different names"),
        ([*classes, "--shape", "3,8,8", "--images", "test=13"], "13 test images are asked for, and there are 12; set images.test to 12 or fewer"),
        ([*classes, "--shape", "3,8,8", "--images", "13"], "--images '13': must be SPLIT=COUNT, as test=100"),
        (["--kind", "imagefoldr"], "'imagefoldr': unknown (did you mean 'imagefolder'?); known are cifar10"),
        (["--kind", "mnist5k"], "takes no source folder"),
    ):
        held = words[:-2] if part.startswith("takes") else words
        code, _, err = ddrs_cli(*held, *more)
        assert code == 2 and err.count("\n") == 1 and part in err, err
    for name, more, part in (
        ("Pets", ["--kind", "mnist5k"], "lower-case"),
        ("mnist5k", ["--validation", 3], "has a validation split of its own"),
        ("mnist", ["--classes", "a"], "kind mnist takes no classes"),
        ("pets", ["--kind", "imagefolder", *classes, "--shape", "3,8,8"], "kind imagefolder needs a source"),
    ):
        code, _, err = ddrs_cli("fetch", name, "--out", tmp_path / "other.json", *more)
        assert code == 2 and err.count("\n") == 1 and part in err, err


def test_a_plan_counts_the_images_of_a_folder_that_is_not_fetched_yet(source: Path, tmp_path: Path):
    flags = {"name": "pets", "kind": "imagefolder", "source": source, "classes": list(CLASSES), "shape": "3,8,8", "validation": 3}
    files = KnownFiles([Command("fetch", {**flags, "out": tmp_path / "manifest.json"})])
    assert files.split(tmp_path / "manifest.json", "train") == (SHAPE, 3, 9)
    assert files.split(tmp_path / "manifest.json", "validation") == (SHAPE, 3, 3)
