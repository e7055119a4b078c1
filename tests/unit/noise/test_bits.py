"""Random bits: AES-128 of counters that never repeat, the same with or without the processor's AES, and kernels that give the same bytes."""

import builtins
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ddrs.errors import DdrsError, DdrsWarning
from ddrs.noise import kernels
from ddrs.noise.bits import BYTES, Bits
from ddrs.noise.laws import CERTIFIABLE
from ddrs.noise.streams import NoiseStream
from tests.unit.noise.exact import SCALES, drawn_by, sampler

KEY = bytes.fromhex("000102030405060708090a0b0c0d0e0f")  # FIPS-197, C.1
DS = [1, 7, 8, 9, 65_537]


def of_key(key: bytes) -> Bits:
    return Bits(int.from_bytes(key, "little"))


def test_blocks_are_aes_of_counters():
    """The all-zero block of the known-answer tests of AES, and others as AES has them one by one: big-endian counters, places from 2^127 on."""
    assert Bits(0).words(0, 1).tobytes() == bytes.fromhex("66e94bd4ef8a2c3b884cfa59ca342b2e")
    aes = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor()
    assert aes.update(bytes.fromhex("00112233445566778899aabbccddeeff")) == bytes.fromhex("69c4e0d86a7b0430d8cdb78070b4c55a"), "FIPS-197"
    for first in (0, 255, 2**32 - 1, 2**64 - 3):
        blocks = [aes.update((first + i).to_bytes(16, "big")) for i in range(3)]
        assert of_key(KEY).words(first, 3).tobytes() == b"".join(blocks)
        halves = [aes.update((2**127 + first + i).to_bytes(16, "big"))[:8] for i in (2, 0, 1)]
        assert of_key(KEY).of_places(first, np.array([2, 0, 1])).tolist() == [int.from_bytes(half, "little") for half in halves]


def test_the_key_is_of_128_bits_and_every_bit_of_it_counts():
    found = {Bits(key).words(0, 1).tobytes() for key in [0, *(1 << bit for bit in range(128))]}
    assert len(found) == 129


@pytest.mark.parametrize("first", [0, 1, 5, 2**32 - 3, 2**63 - 3, 2**64 - 10])
def test_any_cut_gives_the_same_words(first: int):
    bits = of_key(KEY)
    whole = bits.words(first, 10).reshape(10, BYTES)
    for i in range(10):
        assert np.array_equal(bits.words(first + i, 1), whole[i])
    places = bits.of_places(first, np.arange(10))
    assert np.array_equal(np.concatenate([bits.of_places(first + i, np.array([0])) for i in range(10)]), places)
    assert len(np.unique(places)) == 10 and len(np.unique(whole, axis=0)) == 10


@pytest.mark.parametrize(("first", "count"), [(2**64 - 3, 4), (2**64, 1), (-1, 2), (2**70, 1)])
def test_a_counter_that_would_wrap_is_an_error(first: int, count: int):
    bits = of_key(KEY)
    for call in (lambda: bits.words(first, count), lambda: bits.of_places(first, np.arange(count))):
        with pytest.raises(DdrsError, match=r"^noise: block -?\d+ of one key; there are 2\^64, after which samples would repeat$"):
            call()


@pytest.mark.parametrize("name", list(CERTIFIABLE))
def test_a_stream_that_has_no_more_samples_is_an_error(name: str):
    """Not a sample that was drawn before. The last ones there are still differ; of many, places end before words do."""
    stream, out = NoiseStream(sampler(name, 0.25), (9,), 0, "estimate", "", 0), torch.empty(1000, 9)
    last = 2**64 // 9 - 1000  # of the 9 values of each sample there are 2^64 places
    stream.read(out, last)
    assert len(torch.unique(out, dim=0)) == 1000
    with pytest.raises(DdrsError, match=r"2\^64"):
        stream.read(out, 2**64 - 5)


class Counters(Bits):
    """Keeps the counters of all blocks, of words and of places."""

    def __init__(self):
        super().__init__(0)
        self.of_words: list[int] = []
        self.places: list[int] = []

    def words(self, first: int, count: int) -> np.ndarray:
        self.of_words += range(first, first + count)
        return super().words(first, count)

    def of_places(self, first: int, further: np.ndarray) -> np.ndarray:
        self.places += (first + further).tolist()
        return super().of_places(first, further)


@pytest.mark.parametrize("d", [1, 7, 8, 9, 500])
@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_no_block_is_encrypted_twice(name: str, sigma: float, d: int):
    """Neither within the bits that all values have, nor in those of the open ones; read in pieces, out of order."""
    source, bits = sampler(name, sigma), Counters()
    placed = source.place(torch.zeros(d))
    for start, count in ((700, 300), (0, 40), (40, 1), (41, 659)):
        source.copies(torch.empty(count, d), placed, bits, start)
    per_value = 2 if name in ("lattice", "uniform-lattice") else 4
    assert sorted(bits.of_words) == list(range(1000 * -(-d * per_value // BYTES)))
    assert len(set(bits.places)) == len(bits.places) and set(bits.places) <= set(range(1000 * d))


# ---- the kernels


@pytest.mark.parametrize("d", DS)
@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_both_kernels_give_the_same_bytes(name: str, sigma: float, d: int):
    source, image = sampler(name, sigma), torch.rand(d, generator=torch.Generator().manual_seed(d))
    image = (image * 255).round() / 255
    found = {}
    for kernel in ("plain", "compiled"):
        with drawn_by(kernel):
            stream = NoiseStream(source, (d,), 3, "estimate", "", 0, image)
            found[kernel] = stream.draw(max(2, 300_000 // d)).numpy()
    assert found["plain"].tobytes() == found["compiled"].tobytes()
    assert len(np.unique(found["plain"])) > 1 or 255 * sigma < 0.5, "less than half a step of uniform noise is none"


@pytest.mark.parametrize("sigma", [1e-30, 0.1, 1e30])
def test_both_kernels_give_the_same_bytes_at_the_limit_of_what_is_certified(sigma: float):
    """Where k + i has more than 24 bits, so that float32 rounds it; -0.0 is no other float of the same grid point."""
    for name in ("gaussian", "uniform"):
        source = sampler(name, sigma)
        limit = float(np.float32(sigma)) * (2**16 if name == "gaussian" else 2**10)
        image = torch.tensor([limit, -limit, 0.0, -0.0, limit / 3], dtype=torch.float32)
        found = []
        for kernel in ("plain", "compiled"):
            with drawn_by(kernel):
                found.append(NoiseStream(source, (5,), 3, "estimate", "", 0, image).draw(2000).numpy())
        assert found[0].tobytes() == found[1].tobytes() and np.isfinite(found[0]).all()
        assert not (np.signbit(found[0]) & (found[0] == 0)).any()


@pytest.mark.parametrize("name", list(CERTIFIABLE))
def test_the_samples_do_not_change_where_the_compiled_kernel_takes_over(name: str, monkeypatch: pytest.MonkeyPatch):
    """Within a call after so many values; in one stream."""
    monkeypatch.setattr(kernels, "_loaded", None)
    monkeypatch.setattr(kernels, "_drawn", 0)
    monkeypatch.setattr(kernels, "AFTER", 5000)
    stream = NoiseStream(sampler(name, 0.25), (40,), 0, "estimate", "", 0)
    parts = [stream.draw(100) for _ in range(3)]
    assert kernels._loaded is not None and kernels._loaded is not kernels.PLAIN
    with drawn_by("plain"):
        assert torch.equal(torch.cat(parts), NoiseStream(sampler(name, 0.25), (40,), 0, "estimate", "", 0).draw(300))


@pytest.mark.parametrize("error", [ImportError("no module\nnamed numba"), RuntimeError("cannot cache function: no locator available")])
def test_without_numba_the_same_is_drawn_and_one_line_says_so_once(error: Exception, monkeypatch: pytest.MonkeyPatch):
    """Also in several threads."""
    usual = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name.split(".")[0] == "numba":
            raise error
        return usual(name, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(kernels, "_loaded", None)
    monkeypatch.setattr(kernels, "_drawn", kernels.AFTER)

    def draw(start: int) -> torch.Tensor:
        out = torch.empty(50, 100)
        NoiseStream(sampler("gaussian", 0.25), (100,), 0, "estimate", "", 0).read(out, start)
        return out

    with warnings.catch_warnings(record=True) as said, ThreadPoolExecutor(4) as pool:
        warnings.simplefilter("always")
        parts = list(pool.map(draw, range(0, 400, 50)))
    texts = [str(one.message) for one in said if issubclass(one.category, DdrsWarning)]
    assert len(texts) == 1 and texts[0].startswith("numba: ") and "\n" not in texts[0]
    with drawn_by("plain"):
        assert torch.equal(torch.cat(parts), NoiseStream(sampler("gaussian", 0.25), (100,), 0, "estimate", "", 0).draw(400))


def test_without_the_processors_aes_the_same_is_drawn():
    """In a process of its own, as OpenSSL looks at the processor once."""
    code = (
        "import hashlib, torch; from ddrs.noise.laws import CERTIFIABLE; from ddrs.noise.streams import NoiseStream\n"
        "for n in CERTIFIABLE.values():\n"
        "    print(hashlib.sha256(NoiseStream(n.at(0.25), (301,), 1, 'estimate', 'test', 7).draw(200).numpy().tobytes()).hexdigest())"
    )
    found = [
        subprocess.run([sys.executable, "-c", code], env=os.environ | more, capture_output=True, text=True, check=True).stdout
        for more in ({}, {"OPENSSL_ia32cap": "~0x200000200000000"})
    ]
    assert found[0] == found[1] and len(set(found[0].split())) == 4
