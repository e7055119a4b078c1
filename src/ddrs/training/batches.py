"""Training images as float32 batches on a device, whether or not they fit into memory."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ddrs.data.splits import Split
from ddrs.errors import DdrsError

RESIDENT_UP_TO = 2 * 2**30  # bytes of uint8 images that are kept on the device: CIFAR-10 has 0.15 GB, ImageNet 190 GB


class BatchSource(Protocol):
    """Where the batches of an epoch come from."""

    def batches(self, order: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """float32 (B, C, H, W) on the device for each int64 (B,) of image indices, in their order; the values are those of `as_float`."""
        ...


@contextmanager
def training_images(split: Split, device: torch.device) -> Iterator[BatchSource]:
    """The images of a memory-mapped split: on the device where they are small, else read from their file. Both give equal bits."""
    if split.images.nbytes <= RESIDENT_UP_TO:
        yield Resident(torch.tensor(split.images, device=device))
        return
    if not isinstance(split.images, np.memmap) or split.images.filename is None:
        raise TypeError("images that do not fit on the device must be a memory-mapped file")
    with open(split.images.filename, "rb", buffering=0) as file:
        yield Streamed(file.fileno(), split.images.offset, split.images.shape, device, Path(split.images.filename))


class Resident:
    """Images that lie on the device: uint8, which become float32 batch by batch, or float32, which stay as they are."""

    def __init__(self, pixels: torch.Tensor):
        self.pixels = pixels

    def batches(self, order: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        for index in order:
            found = self.pixels[index.to(self.pixels.device)]
            yield found if found.is_floating_point() else to_float(found)


class Streamed:
    """uint8 images (N, C, H, W) in a file from `offset` on, read one batch ahead by a thread: at most three batches are in memory.

    They are read, not mapped, as the pages of a mapped file count as memory of the process. A batch is read in ascending order.
    """

    def __init__(self, descriptor: int, offset: int, shape: tuple[int, ...], device: torch.device, path: Path):
        self.descriptor, self.offset, self.shape, self.device, self.path = descriptor, offset, shape, device, path
        self.bytes_per_image = int(np.prod(shape[1:]))

    def batches(self, order: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        with ThreadPoolExecutor(1) as reader:
            ahead = [reader.submit(self._read, index) for index in order[:1]]
            for place in range(len(order)):
                pixels = ahead.pop().result()
                ahead += [reader.submit(self._read, index) for index in order[place + 1 : place + 2]]
                yield to_float(pixels.to(self.device, non_blocking=True))

    def _read(self, index: torch.Tensor) -> torch.Tensor:
        """uint8 (B, C, H, W) on the CPU, in pinned memory where the device is a GPU: only from there a copy runs beside the GPU's work."""
        images = index.numpy()
        pixels = torch.empty(len(images), *self.shape[1:], dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        rows = pixels.numpy().reshape(len(images), -1)
        for place in np.argsort(images):
            left, at = rows[place].data, self.offset + int(images[place]) * self.bytes_per_image
            while left:
                count = os.preadv(self.descriptor, [left], at)
                if not count:
                    raise DdrsError(f"{self.path}: ends before image {images[place]}; fetch the dataset again")
                left, at = left[count:], at + count
        return pixels


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 images as float32 in [0, 1] on their device, equal in every bit to `ddrs.data.splits.as_float`.

    The divisor is a tensor there: by a Python number CUDA multiplies with 1/255 instead, which is another float at half of the levels.
    """
    return pixels.to(torch.float32).div_(torch.full((), 255.0, device=pixels.device))
