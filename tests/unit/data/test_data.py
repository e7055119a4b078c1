"""Reading back what was fetched."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ddrs.data.splits import Split, as_float, load_split
from ddrs.errors import DdrsError
from tests.unit.helpers import one_line


@pytest.fixture
def copied(small_mnist: Path, tmp_path: Path) -> Path:
    for path in small_mnist.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / small_mnist.name


def test_a_missing_manifest_is_named(tmp_path: Path):
    with pytest.raises(DdrsError, match="no such file") as error:
        load_split(tmp_path / "manifest.json", "test")
    assert str(tmp_path / "manifest.json") in one_line(error)


@pytest.mark.parametrize(
    "contents", ["", "{", "[]", "3", "{}", '{"splits": []}', '{"splits": {"test": {}}}', '{"dataset": "a", "splits": {"test": 3}}']
)
def test_a_manifest_that_is_none_is_named(contents: str, tmp_path: Path):
    (tmp_path / "manifest.json").write_text(contents)
    with pytest.raises(DdrsError) as error:
        load_split(tmp_path / "manifest.json", "test")
    assert str(tmp_path / "manifest.json") in one_line(error)


def test_a_binary_manifest_is_named(tmp_path: Path):
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00\x93NUMPY")
    with pytest.raises(DdrsError, match="not a dataset manifest") as error:
        load_split(tmp_path / "manifest.json", "test")
    assert str(tmp_path / "manifest.json") in one_line(error)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_a_missing_array_is_named(part: str, copied: Path):
    (copied.parent / f"test.{part}.npy").unlink()
    with pytest.raises(DdrsError, match=f"test.{part}.npy: no such file") as error:
        load_split(copied, "test")
    one_line(error)
    assert len(load_split(copied, "train").labels) == 200, "other splits are still readable"


@pytest.mark.parametrize("part", ["images", "labels"])
@pytest.mark.parametrize("damage", ["one bit", "truncated"])
def test_a_changed_array_is_refused_by_its_checksum(part: str, damage: str, copied: Path):
    path = copied.parent / f"test.{part}.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data if damage == "one bit" else data[:-1])
    with pytest.raises(DdrsError, match="checksum") as error:
        load_split(copied, "test")
    assert str(path) in one_line(error)


def test_an_unknown_split_lists_the_known(copied: Path):
    with pytest.raises(DdrsError, match="'tset'; known are train, validation, test") as error:
        load_split(copied, "tset")
    one_line(error)


def test_the_digest_of_a_split_follows_its_content(copied: Path, small_mnist: Path):
    assert load_split(copied, "test").digest == load_split(small_mnist, "test").digest
    assert load_split(copied, "test").digest != load_split(copied, "validation").digest
    labels = np.load(copied.parent / "test.labels.npy")
    np.save(copied.parent / "test.labels.npy", (labels + 1) % 10)
    facts = json.loads(copied.read_text())
    facts["splits"]["test"]["labels"]["sha256"] = hashlib.sha256((copied.parent / "test.labels.npy").read_bytes()).hexdigest()
    copied.write_text(json.dumps(facts))
    assert load_split(copied, "test").digest != load_split(small_mnist, "test").digest


def test_subset_is_evenly_spaced_from_the_first_image():
    split = Split("d", "test", np.zeros((500, 1, 1, 1), np.uint8), np.zeros(500, np.int64), 10, "")
    assert split.subset(None).tolist() == list(range(500))
    assert split.subset(500).tolist() == list(range(500))
    assert split.subset(100).tolist() == list(range(0, 500, 5))
    assert split.subset(1).tolist() == [0]
    gaps = np.diff(split.subset(7))
    assert len(split.subset(7)) == 7 and set(gaps.tolist()) <= {71, 72} and split.subset(7)[-1] < 500


@pytest.mark.parametrize("count", [0, -1, 501])
def test_a_subset_outside_the_split_is_refused(count: int):
    split = Split("d", "test", np.zeros((500, 1, 1, 1), np.uint8), np.zeros(500, np.int64), 10, "")
    with pytest.raises(DdrsError, match=f"{count} images of d test: the split has 500") as error:
        split.subset(count)
    one_line(error)


def test_as_float_maps_0_to_255_onto_0_to_1_exactly_in_float32():
    values = as_float(np.arange(256, dtype=np.uint8))
    assert values.dtype == np.float32
    assert values[0] == 0.0 and values[255] == 1.0
    assert np.all(np.diff(values) > 0)
    assert np.array_equal(values, (np.arange(256) / 255).astype(np.float32))
