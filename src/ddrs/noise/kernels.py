"""The inner loops of the samplers: random bits in, noisy copies out, in one pass over memory where numba is there, in a few by NumPy elsewhere.

Both give the same bytes. numba takes half a second to load, so NumPy draws until that has paid (AFTER values in a process).
Whatever the loops do not decide they leave open, by its index in `open_`, for `settle` and 64 more bits.
"""

import threading
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from ddrs.errors import DdrsWarning

LEVELS = np.float32(255)
FLAG = np.float32(2**24)  # in the table of a pixel grid: the 16 bits do not yet decide
CLOSE = 2.0**-45  # float64 decides no comparison that is closer than this: thresholds are off by 2^-50 at most, U by 2^-53
AFTER = 5 * 10**8
_drawn = 0
_loaded: Any = None
_loading = threading.Lock()


def _pixel(words: np.ndarray, table: np.ndarray, placed: np.ndarray, out: np.ndarray, open_: np.ndarray) -> int:
    """(k + i) / 255, i as a table has it of 16 bits.

    words: uint16 (m, at least d). table: float32 (65536,). placed: float32 (d,), k. out: float32 (m, d). Returns how many are open.
    """
    np.take(table, words[:, : out.shape[1]], out=out, mode="wrap")
    found = np.flatnonzero(out == FLAG)
    open_[: len(found)] = found
    out += placed
    out /= LEVELS
    return len(found)


def _fine(
    words: np.ndarray,
    at: np.ndarray,
    width: np.ndarray,
    shift: int,
    margin: int,
    placed: np.ndarray,
    step: np.float32,
    out: np.ndarray,
    open_: np.ndarray,
) -> int:
    """(k + i) * step, i interpolated between cells of the first 16 of 32 bits: p = at + width * low / 65536 in units of 2^-shift, i = floor(p).

    words: uint32 (m, at least d). at: int32 (65536,). width: uint16 (65536,). margin: in these units, how far p may be off: where a whole number
    is as near as that, i is open. placed: int32 (d,), k. out: float32 (m, d). Returns how many are open.
    """
    bits = words[:, : out.shape[1]]
    cell = bits >> np.uint32(16)
    place = np.take(width, cell, mode="wrap").astype(np.uint32)
    place *= bits & np.uint32(0xFFFF)
    place >>= np.uint32(16)
    place = place.view(np.int32)
    place += np.take(at, cell, mode="wrap")
    count = 0
    if margin:
        found = np.flatnonzero(((place + np.int32(margin)) & np.int32((1 << shift) - 1)) < 2 * margin)
        count = len(found)
        open_[:count] = found
    place >>= np.int32(shift)
    place += placed
    np.multiply(place.astype(np.float32), step, out=out)
    return count


def _settle(
    open_: np.ndarray,
    words: np.ndarray,
    total: int,
    rest: np.ndarray,
    surely: np.ndarray,
    perhaps: np.ndarray,
    thresholds: np.ndarray,
    smallest: int,
    placed: np.ndarray,
    step: np.float32,
    out: np.ndarray,
) -> np.ndarray:
    """Put in what was left open: i = smallest + how many thresholds are at or below U, the first bits and 64 more.

    open_: int64 (n,), rest: uint64 (n,), the bits; of the first there are `total`. words, out: as the other kernels had them. placed: k, float32
    on a pixel grid, where step is 0, else int32. surely, perhaps: int32 (65536,), how many thresholds are at or below the beginning and the
    end of a cell of 16 bits. thresholds: float64, increasing. Returns which of `open_` float64 can't tell, int64.
    """
    d = out.shape[1]
    first = words[open_ // d, open_ % d]
    values = (first + rest * 2.0**-64) * 2.0**-total
    count = np.searchsorted(thresholds, values, side="right")
    below, above = np.abs(values - thresholds[np.maximum(count - 1, 0)]), np.abs(values - thresholds[np.minimum(count, len(thresholds) - 1)])
    out.reshape(-1)[open_] = copies_of(count + smallest, placed[open_ % d], step)
    return np.flatnonzero(np.minimum(below, above) < CLOSE)


def copies_of(i: np.ndarray, placed: np.ndarray, step: np.float32) -> np.ndarray:
    """(k + i) / 255 where step is 0, else (k + i) * step; float32."""
    total = (i + placed).astype(np.float32)
    return total * step if step else total / LEVELS


PLAIN = SimpleNamespace(pixel=_pixel, fine=_fine, settle=_settle)


def chosen(values: int) -> Any:
    """The kernels to draw so many further values with."""
    global _drawn, _loaded
    _drawn += values
    if _loaded is None:
        if _drawn < AFTER:
            return PLAIN
        with _loading:
            _loaded = _loaded or load()
    return _loaded


def load() -> Any:
    """The compiled kernels, or the plain ones and a warning of one line where numba can't be had."""
    try:
        return _tried(_compiled())
    except Exception as error:  # an import that fails, or a processor or NumPy that numba does not know
        warnings.warn(
            DdrsWarning(f"numba: {' '.join(str(error).split())[:200]}; noise is drawn by NumPy instead: the same, more slowly"), stacklevel=2
        )
        return PLAIN


def _tried(kernels: Any) -> Any:
    """The kernels, after a call of each, at which numba compiles them or finds them compiled."""
    out, open_, one = np.zeros((1, 1), np.float32), np.zeros(1, np.int64), np.zeros(65536, np.int32)
    kernels.pixel(np.zeros((1, 1), np.uint16), np.zeros(65536, np.float32), out[0], out, open_)
    kernels.fine(np.zeros((1, 1), np.uint32), one, np.zeros(65536, np.uint16), 10, 0, one[:1], np.float32(1), out, open_)
    for words, placed in ((np.zeros((1, 1), np.uint16), out[0]), (np.zeros((1, 1), np.uint32), one[:1])):
        kernels.settle(open_, words, 8 * words.itemsize, np.zeros(1, np.uint64), one, one, np.ones(1), 0, placed, np.float32(0), out)
    return kernels


def _compiled() -> Any:
    import numba

    def compiled(function: Callable) -> Any:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)

    return SimpleNamespace(pixel=compiled(_pixel_loop), fine=compiled(_fine_loop), settle=compiled(_settle_loop))


def _pixel_loop(words, table, placed, out, open_):
    """As `_pixel`."""
    count = 0
    for row in range(out.shape[0]):
        for i in range(out.shape[1]):
            value = table[words[row, i]]
            out[row, i] = value
            if value == FLAG:
                open_[count] = row * out.shape[1] + i
                count += 1
        for i in range(out.shape[1]):  # in a loop of its own, which processors divide in by eight
            out[row, i] = (out[row, i] + placed[i]) / LEVELS
    return count


def _fine_loop(words, at, width, shift, margin, placed, step, out, open_):
    """As `_fine`."""
    count, rest = 0, np.int32((1 << shift) - 1)
    for row in range(out.shape[0]):
        for i in range(out.shape[1]):
            bits = words[row, i]
            cell = bits >> np.uint32(16)
            place = at[cell] + np.int32((np.uint32(width[cell]) * (bits & np.uint32(0xFFFF))) >> np.uint32(16))
            if ((place + margin) & rest) < 2 * margin:
                open_[count] = row * out.shape[1] + i
                count += 1
            out[row, i] = np.float32(np.int32((place >> shift) + placed[i])) * step
    return count


def _settle_loop(open_, words, total, rest, surely, perhaps, thresholds, smallest, placed, step, out):
    """As `_settle`."""
    d, close, left = out.shape[1], np.empty(len(open_), np.int64), 0
    for one in range(len(open_)):
        row, column = open_[one] // d, open_[one] % d
        first = words[row, column]
        cell = np.int64(first) >> (total - 16)
        value = (first + rest[one] * 2.0**-64) * 2.0**-total
        low, high = np.int64(surely[cell]), np.int64(perhaps[cell])
        while low < high:
            middle = (low + high) // 2
            if thresholds[middle] <= value:
                low = middle + 1
            else:
                high = middle
        if (low > 0 and value - thresholds[low - 1] < CLOSE) or (low < len(thresholds) and thresholds[low] - value < CLOSE):
            close[left] = one
            left += 1
        sum_ = np.float32(low + smallest + placed[column])
        out[row, column] = sum_ * step if step else sum_ / LEVELS
    return close[:left]
