"""Random bits as a function of a key and a place: AES-128 of counters, so that any sample is drawn in any thread and in any order."""

from functools import lru_cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ddrs.errors import DdrsError

BYTES = 16  # of a block
PLACES = 2**127  # from here on counters are of single places, below of bits that are read one after the other


class Bits:
    """The random bits of one key (128 bits): AES in counter mode (NIST SP 800-38A), each block of a counter that is used once.

    As random as AES is a good pseudo-random permutation, but that no two blocks are alike, which 2^32 random ones would be with probability
    2^-65. OpenSSL uses the processor's AES instructions; without them the same bits take longer. Threads share none of these objects: each makes
    its own, of the same key.
    """

    def __init__(self, key: int):
        self._key = algorithms.AES(key.to_bytes(BYTES, "little"))

    def words(self, first: int, count: int) -> np.ndarray:
        """The blocks of the counters first, ..., first + count - 1, uint8 (count * 16,)."""
        _check_last(first, first + count - 1)
        found = np.empty((count + 1) * BYTES, np.uint8)
        Cipher(self._key, modes.CTR(first.to_bytes(BYTES, "big"))).encryptor().update_into(_zeros(count), found.data)
        return found[: count * BYTES]

    def of_places(self, first: int, further: np.ndarray) -> np.ndarray:
        """64 bits for each place first + further (int64, >= 0), uint64 (n,): the first half of the block of the counter 2^127 + place."""
        _check_last(first, first + int(further.max()))
        counters = np.empty((len(further), 2), ">u8")
        counters[:, 0] = PLACES >> 64
        counters[:, 1] = np.uint64(first) + further.astype(np.uint64)
        found = np.empty((len(further) + 1) * BYTES, np.uint8)
        Cipher(self._key, modes.ECB()).encryptor().update_into(counters.data.cast("B"), found.data)
        return found[:-BYTES].view("<u8")[::2].astype(np.uint64)


def _check_last(first: int, last: int) -> None:
    if first < 0 or last >= 2**64:
        raise DdrsError(f"noise: block {last if first >= 0 else first} of one key; there are 2^64, after which samples would repeat")


@lru_cache(maxsize=8)
def _zeros(count: int) -> memoryview:
    """So many blocks that counter mode turns into its own."""
    return np.zeros(count * BYTES, np.uint8).data
