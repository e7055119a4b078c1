"""Where training gets its images: on the device or from a file, with equal bits; and how much memory that takes."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from ddrs.data.splits import Split, as_float
from ddrs.errors import DdrsError
from ddrs.models.devices import Runtime
from ddrs.training import batches
from ddrs.training.batches import Resident, Streamed, to_float, training_images
from ddrs.training.run import train
from ddrs.training.settings import TrainSettings

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
ORDER = (torch.tensor([7, 0, 3]), torch.tensor([5, 5, 1]), torch.tensor([9]))


def split_of(pixels: np.ndarray, folder: Path) -> Split:
    np.save(folder / "images.npy", pixels)
    labels = np.zeros(len(pixels), np.int64)
    return Split("synthetic", "train", np.load(folder / "images.npy", mmap_mode="r"), labels, 2, "0" * 16)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Ten images that hold all 256 levels."""
    pixels = np.random.default_rng(0).permutation(np.arange(10 * 3 * 6 * 5) % 256).astype(np.uint8)
    return split_of(pixels.reshape(10, 3, 6, 5), tmp_path)


@pytest.mark.parametrize("device", DEVICES)
def test_every_level_is_the_float_that_certification_sees(device: str) -> None:
    levels = np.arange(256, dtype=np.uint8)
    found = to_float(torch.tensor(levels, device=device)).cpu().numpy()
    assert found.dtype == np.float32 and np.array_equal(found, as_float(levels))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "streamed"])
def test_batches_are_the_images_of_the_order(resident: bool, device: str, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "RESIDENT_UP_TO", split.images.nbytes if resident else split.images.nbytes - 1)
    with training_images(split, torch.device(device)) as images:
        assert isinstance(images, Resident if resident else Streamed)
        for _ in range(2):
            found = list(images.batches(ORDER))
            assert len(found) == len(ORDER) and all(one.device.type == device and one.dtype == torch.float32 for one in found)
            assert all(np.array_equal(one.cpu().numpy(), as_float(split.images[index.numpy()])) for one, index in zip(found, ORDER, strict=True))
        assert list(images.batches(())) == []


def test_float_images_are_handed_out_as_they_are() -> None:
    pixels = torch.rand(10, 1, 2, 2)
    (found,) = Resident(pixels).batches([ORDER[0]])
    assert torch.equal(found, pixels[ORDER[0]])


def test_one_batch_is_read_ahead_in_another_thread(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "RESIDENT_UP_TO", 0)
    begun: list[int] = []
    arrived = threading.Event()
    read = Streamed._read

    def recorded(self: Streamed, index: torch.Tensor) -> torch.Tensor:
        assert threading.current_thread() is not threading.main_thread()
        begun.append(int(index[0]))
        arrived.set()
        return read(self, index)

    monkeypatch.setattr(Streamed, "_read", recorded)
    order = [torch.tensor([i]) for i in range(6)]
    with training_images(split, torch.device("cpu")) as images:
        for place, _ in enumerate(images.batches(order)):
            if place < 5:
                while place + 1 not in begun:
                    assert arrived.wait(60), "the next batch is being read while this one is in use"
                    arrived.clear()
            assert begun == list(range(min(place + 2, 6))), "and no more than that"


@pytest.mark.parametrize("left", [0, 100], ids=["none of it", "a part"])
def test_a_file_that_was_cut_short_is_named(left: int, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "RESIDENT_UP_TO", 0)
    path = Path(split.images.filename)
    with training_images(split, torch.device("cpu")) as images:
        os.truncate(path, split.images.offset + 5 * 90 + left % 90)
        with pytest.raises(DdrsError, match=r"images\.npy: ends before image 7; fetch the dataset again"):
            list(images.batches(ORDER))


def test_where_images_lie_changes_no_byte_of_the_model(small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainSettings(epochs=2, batch_size=48, augment="crop-flip")
    models = []
    for name, limit in (("resident", 2**31), ("streamed", 0)):
        monkeypatch.setattr(batches, "RESIDENT_UP_TO", limit)
        folder = tmp_path / name
        runtime = Runtime(scratch=folder / "scratch")
        train(small_mnist, folder / "m.safetensors", None, "cohen", "small_cnn", 0.25, settings, 0, runtime, lambda line: None)
        models.append((folder / "m.safetensors").read_bytes())
    assert models[0] == models[1]


MEASURE = """
import sys
import numpy as np, torch
from ddrs.data.splits import Split
from ddrs.training.batches import training_images

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

torch.set_num_threads(1)
pixels = np.load(sys.argv[1], mmap_mode="r")
split = Split("synthetic", "train", pixels, np.zeros(len(pixels), np.int64), 2, "")
order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0)).split(32)[:200]
with training_images(split, torch.device("cpu")) as images:
    batches = images.batches(order)
    for _ in range(50):
        next(batches)  # by when the allocator has settled
    before = peak()
    assert all(float(batch.sum()) == 0 for batch in batches)
print(peak() - before, sum(map(len, order[50:])) * pixels[0].nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory as Linux tells it")
def test_an_epoch_over_a_large_file_takes_the_memory_of_a_few_batches(tmp_path: Path) -> None:
    """A sparse file of 3 GB, a third of it read: a mapped one would have grown the process by as much, float32 images by four times."""
    path = tmp_path / "images.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (20_000, 3, 224, 224)})
        file.truncate(file.tell() + 20_000 * 3 * 224 * 224)
    try:
        # The allocator gives a freed batch back at once: else what it keeps, by chance of two threads, is up to 130 MB.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
        done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True, env=environment)
    finally:
        path.unlink()
    grown, read = map(int, done.stdout.split())
    assert read > 7e8 and grown < 50e6
