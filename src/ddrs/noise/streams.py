"""Samples of noise as a function of a key: seed, purpose, split, image and block."""

import hashlib
import json
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch

from ddrs.errors import DdrsError

Purpose = Literal["train", "search", "select-class", "pilot", "estimate", "falsify-search", "falsify-confirm", "illustrate"]
BLOCK = 100  # samples per block; part of the law that maps a key to samples, so changing it changes every result


class BlockSource(Protocol):
    """What a stream draws blocks from."""

    def generator(self, key: int) -> Any:
        """The CPU's generator of one block."""
        ...

    def fill(self, out: torch.Tensor, generator: Any) -> None:
        """Fill `out` (float32, contiguous). With a generator of the CPU, cutting a call in two changes nothing."""
        ...


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
    """The samples 0, 1, 2, ... of one (seed, purpose, split, example id), read in order, in pieces of any size.

    Block b holds samples b*BLOCK to (b+1)*BLOCK - 1 and is a function of the key and b alone. On the CPU a block comes from NumPy's
    counter-based Philox generator with a 128-bit key, on CUDA from the device's own generator with a 64-bit seed. Other devices get the CPU's,
    as nothing is known of the law of their own.
    """

    def __init__(self, noise: BlockSource, shape: tuple[int, ...], seed: int, purpose: Purpose, split: str, example_id: object):
        self.noise, self.shape = noise, tuple(shape)
        self.key = (seed, purpose, split, example_id)
        self.position = 0
        self._generator: Any = None
        self._block: torch.Tensor | None = None

    def fill(self, out: torch.Tensor) -> None:
        """Fill `out`, float32 of shape (m, *shape), with the next m samples of scale 1 (of a sampler: as it draws them)."""
        for _, _, draw in self.pieces(out):
            draw()

    def draw(self, count: int, device: torch.device | str = "cpu") -> torch.Tensor:
        """The next `count` samples, as a new float32 tensor of shape (count, *shape)."""
        out = torch.empty(count, *self.shape, device=device)
        self.fill(out)
        return out

    def pieces(self, out: torch.Tensor) -> list[tuple[int, torch.Tensor, Callable[[], None]]]:
        """The block, part of `out` and filler of each piece. Pieces of one block are filled in order, those of different ones in any, on the
        CPU in any thread.
        """
        parts, done = [], 0
        while done < len(out):
            block, offset = divmod(self.position, BLOCK)
            take = min(len(out) - done, BLOCK - offset)
            part = out[done : done + take]
            parts.append((block, part, self._piece(part, block, offset)))
            done += take
            self.position += take
        return parts

    def _piece(self, out: torch.Tensor, block: int, offset: int) -> Callable[[], None]:
        if out.device.type != "cuda":
            # NumPy's generators give the same numbers however the calls are cut, so the block needs no buffer.
            if offset == 0:
                self._generator = self.noise.generator(stream_key(*self.key, block))
            generator = self._generator
            return lambda: self._fill_from_cpu(out, generator)
        return lambda: self._fill_on_device(out, block, offset)

    def _fill_from_cpu(self, out: torch.Tensor, generator: Any) -> None:
        if out.device.type == "cpu":
            self.noise.fill(out, generator)
        else:
            drawn = torch.empty(out.shape)
            self.noise.fill(drawn, generator)
            out.copy_(drawn)

    def _fill_on_device(self, out: torch.Tensor, block: int, offset: int) -> None:
        # torch's generators repeat only for calls of the same shape: always draw the whole block.
        seed = stream_key(*self.key, block) & (2**64 - 1)
        if len(out) == BLOCK:
            self.noise.fill(out, torch.Generator(device=out.device).manual_seed(seed))
            return
        if offset == 0 or self._block is None:
            self._block = torch.empty(BLOCK, *self.shape, device=out.device)
            self.noise.fill(self._block, torch.Generator(device=out.device).manual_seed(seed))
        out.copy_(self._block[offset : offset + len(out)])


def example_keys(images: torch.Tensor, example_ids: object) -> list[object]:
    """What keys the noise of each image: the ids that are given, one per image, or a digest of each."""
    if example_ids is None:
        return [example_digest(image) for image in images]
    given = example_ids.tolist() if isinstance(example_ids, torch.Tensor | np.ndarray) else example_ids
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise DdrsError(f"example_ids: {type(example_ids).__name__}; must be a list of one id per image")
    if len(given) != len(images):
        raise DdrsError(f"example_ids: {len(given)} ids for {len(images)} images")
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
