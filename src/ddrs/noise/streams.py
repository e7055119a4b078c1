"""Samples of noise as a function of a key: seed, purpose, split, image and block."""

import hashlib
import json
import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Literal, get_args

import numpy as np
import torch

from ddrs.errors import DdrsError
from ddrs.noise.bits import Bits
from ddrs.noise.samplers import Sampler

Purpose = Literal["train", "search", "select-class", "pilot", "estimate", "falsify-search", "falsify-confirm", "illustrate"]
BLOCK = 100  # samples that a GPU draws at once; part of the law that maps a key to its samples, so changing it changes its results


def stream_key(seed: int, purpose: Purpose, *parts: object) -> int:
    """128 bits from a seed, a purpose and further parts (split, example id, block)."""
    if purpose not in get_args(Purpose):
        raise DdrsError(f"noise purpose {purpose!r}: unknown; known are {', '.join(get_args(Purpose))}")
    check_seed(seed)
    text = json.dumps([int(seed), purpose, *map(str, parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def example_digest(image: torch.Tensor) -> str:
    """A digest of an image's float32 values: the default key of its noise."""
    values = image.detach().to("cpu", torch.float32).contiguous() + 0.0  # -0.0 becomes 0.0
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=16).hexdigest()


def torch_generator(seed: int, purpose: Purpose, *parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for training. (On the CPU torch keeps 32 bits of a seed: too few for certificates, which use streams.)"""
    return torch.Generator(device=device).manual_seed(stream_key(seed, purpose, *parts) & (2**64 - 1))


class NoiseStream:
    """The samples 0, 1, 2, ... of one (seed, purpose, split, example id), as noisy copies of an image.

    On the CPU sample s is a function of the key and s alone: its random bits are AES-128 of counters, under the 128 bits of the key. On
    CUDA the same holds of a block of BLOCK samples, from the device's own generator with a 64-bit seed. Other devices get the CPU's, as nothing
    is known of the law of their own.
    """

    def __init__(
        self, sampler: Sampler, shape: tuple[int, ...], seed: int, purpose: Purpose, split: str, example_id: object, image: torch.Tensor | None = None
    ):
        """image: (d,), d values of `shape`, on the device of the copies; without one, the noise itself, on any device."""
        self.sampler, self.shape = sampler, tuple(shape)
        self.key = (seed, purpose, split, example_id)
        self.position = 0
        self._bits_key = stream_key(*self.key)
        self._placed = sampler.place(torch.zeros(math.prod(self.shape)) if image is None else image)
        self._block: tuple[int, torch.Tensor] | None = None

    def take(self, count: int) -> int:
        """Reserve the next `count` samples; the number of the first."""
        self.position += count
        return self.position - count

    def fill(self, out: torch.Tensor) -> None:
        """Fill `out`, float32 of shape (m, *shape), with the next m samples."""
        self.read(out, self.take(len(out)))

    def draw(self, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """The next `count` samples, as a new float32 tensor of shape (count, *shape)."""
        out = torch.empty(count, *self.shape, device=device)
        self.fill(out)
        return out

    def read(self, out: torch.Tensor, start: int) -> None:
        """Fill `out` (m, *shape), contiguous, with the samples start, start + 1, ...; on the CPU in any thread."""
        rows = out.view(len(out), -1)
        if out.device.type == "cuda":
            self._read_on_device(rows, start)
        elif out.device.type == "cpu":
            self.sampler.copies(rows, self._placed, Bits(self._bits_key), start)
        else:
            drawn = torch.empty(rows.shape)
            self.sampler.copies(drawn, self._placed.cpu(), Bits(self._bits_key), start)
            rows.copy_(drawn)

    def _read_on_device(self, rows: torch.Tensor, start: int) -> None:
        # torch's generators repeat only for calls of the same shape: always draw the whole block
        self._placed = self._placed.to(rows.device)
        done = 0
        while done < len(rows):
            number, offset = divmod(start + done, BLOCK)
            part = rows[done : done + min(len(rows) - done, BLOCK - offset)]
            if len(part) == BLOCK:
                self._draw_block(part, number)
            else:
                if self._block is None or self._block[0] != number:
                    self._block = number, torch.empty(BLOCK, rows.shape[1], device=rows.device)
                    self._draw_block(self._block[1], number)
                part.copy_(self._block[1][offset : offset + len(part)])
            done += len(part)

    def _draw_block(self, out: torch.Tensor, number: int) -> None:
        generator = torch.Generator(device=out.device).manual_seed(stream_key(*self.key, number) & (2**64 - 1))
        self.sampler.copies_on_device(out, self._placed, generator)


def example_keys(images: torch.Tensor, example_ids: object) -> list[object]:
    """What keys the noise of each image: the ids that are given, one per image, or a digest of each.

    DdrsError for ids of which two are the same text, as keys are made of it, and their images are not the same in float32.
    """
    if example_ids is None:
        return [example_digest(image) for image in images]
    given = example_ids.tolist() if isinstance(example_ids, torch.Tensor | np.ndarray) else example_ids
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise DdrsError(f"example_ids: {type(example_ids).__name__}; must be a list of one id per image")
    if len(given) != len(images):
        raise DdrsError(f"example_ids: {len(given)} ids for {len(images)} images")
    first: dict[str, torch.Tensor] = {}
    for image, example in zip(images, given, strict=True):
        other = first.setdefault(str(example), image)
        if other is not image and not torch.equal(other.to(torch.float32), image.to(torch.float32)):
            raise DdrsError(f"example_ids: {str(example)!r} stands for two different images, which would get the same noise")
    return list(given)


def check_seed(seed: object) -> None:
    """DdrsError unless the seed is an integer of 64 bits: another one would silently be the stream of its neighbour."""
    if not 0 <= whole("seed", seed) < 2**64:
        raise DdrsError(f"seed = {seed}: must be at least 0 and below 2^64")


def whole(name: str, value: object) -> int:
    """The value as an int, or a DdrsError if it is none: text, a fraction, a truth value."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise DdrsError(f"{name}: must be an integer (got {value!r})")
    return int(value)


def number(name: str, value: object) -> float:
    """The value as a float, or a DdrsError if it is no real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise DdrsError(f"{name}: must be a number (got {value!r})")
    return float(value)
