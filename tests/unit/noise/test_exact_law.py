"""The law of both grids to the last bit, counted independently, for the kernels of NumPy and the compiled ones."""

from bisect import bisect_right

import mpmath
import numpy as np
import pytest
import torch

from ddrs.noise.laws import LATTICES
from ddrs.noise.norms import Law
from ddrs.noise.samplers import FINE, LEVELS, FineGrid, _interpolation, largest, lookup
from ddrs.noise.streams import NoiseStream
from tests.unit.noise.exact import (
    BITS,
    KERNELS,
    SCALES,
    SIGMAS,
    drawn_by,
    drawn_from,
    exact,
    first_at_or_above,
    first_bits,
    integers,
    p_value,
    p_value_of_counts,
    probabilities,
    sampler,
    some_places,
    table_of,
)


@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_thresholds(name: str, sigma: float):
    table = table_of(sampler(name, sigma))
    found = np.array([float(one) / 2.0**BITS for one in exact(table)])
    assert np.abs(table.thresholds - found).max() < 2.0**-50, "float64 decides what is 2^-45 away"
    for place in [0, *some_places(table), len(table.thresholds) - 1]:
        with mpmath.workprec(400):
            assert abs(table.exact(place) * 2**BITS - exact(table)[place]) <= 2.0 ** (BITS - 130)
    assert exact(table)[0] < 2 ** (BITS - 82) and exact(table)[-1] > 2**BITS - 2 ** (BITS - 82), "no more than the last of 80 bits is left out"


@pytest.mark.parametrize("sigma", SIGMAS)
def test_probabilities_are_differences_of_phi_and_no_weights(sigma: float):
    """exp(-i^2 / 2 s^2), normalised, is a different law, and not what the theorem is about."""
    table = table_of(sampler("lattice", sigma))
    i = np.arange(table.smallest, -table.smallest + 1)
    weights = np.exp(-(i**2) / (2 * (LEVELS * sigma) ** 2))
    of_table = np.diff(table.thresholds, prepend=0.0, append=1.0)
    assert np.abs(of_table - probabilities(table)).max() < 1e-15
    assert np.abs(weights / weights.sum() - probabilities(table)).max() > 1e-12


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_all_bits_of_a_value_give_the_right_integer(name: str, sigma: float, kernel: str):
    """One below, at and one above exact thresholds, and both ends of all 65,536 cells, which settles the cells that 16 bits decide."""
    source = sampler(name, sigma)
    table, first = table_of(source), first_bits(source)
    total = first + 64
    firsts = [first_at_or_above(one, total) for one in exact(table)]
    ends_of_table = [0, len(firsts) - 1] if first == 16 else []  # on the fine grid one of them takes a second
    near = [firsts[place] + step for place in [*ends_of_table, *some_places(table)] for step in (-1, 0, 1)]
    ends = [(cell << (total - 16)) + low for cell in range(1, 65535) for low in (0, 2 ** (total - 16) - 1)]
    values = [value for value in [0, *near, *ends, 2**total - 1] if 0 <= value < 2**total]
    with drawn_by(kernel):
        found, asked = drawn_from(source, values)
    np.testing.assert_array_equal(found, [bisect_right(firsts, value) + table.smallest for value in values])
    assert asked or name == "uniform", "some of these need all their bits; of uniform noise on the fine grid none does"
    assert asked < len(values), "and some do not"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("base", ["gaussian", "uniform"])
def test_what_32_bits_decide_on_the_fine_grid_is_what_all_bits_say(base: Law, kernel: str):
    """Of words around every threshold, out to where the interpolation is sure of itself, around every end of a cell, and any others.

    A word that is decided must give the integer of both ends of what it leaves open.
    """
    wrong, decided = _decided_wrongly(base, kernel, margin=None)
    assert not wrong
    assert decided > (0.5 if base == "gaussian" else 0.9999), "else this shows nothing"


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_words_would_find_an_interpolation_that_is_too_sure(kernel: str):
    wrong, _ = _decided_wrongly("gaussian", kernel, margin=26)
    assert wrong


def _decided_wrongly(base: Law, kernel: str, margin: int | None) -> tuple[int, float]:
    """How many words are decided wrongly, and the share that is decided."""
    table = lookup(base, FINE[base], 1.0)
    low = np.array([one >> (BITS - 32) for one in exact(table)])  # floor(T 2^32), and the smallest word at or above T
    high = np.array([first_at_or_above(one, 32) for one in exact(table)])
    at, width, shift, usual = _interpolation(base)
    margin = usual if margin is None else margin
    slope = np.maximum(width[np.minimum(low >> 16, 65535)].astype(np.float64), 1.0) / 65536  # of p per word
    reach = 40 / slope if base == "gaussian" else np.full(len(low), 8.0)
    rng = np.random.default_rng(0)
    around = [low + step for step in range(-2, 3)]
    around += [low + np.rint(reach * share).astype(np.int64) for share in (-1, -0.95, -0.9, -0.85, -0.8, 0.8, 0.85, 0.9, 0.95, 1)]
    around += [low + np.rint(reach * rng.uniform(-1, 1, len(low))).astype(np.int64) for _ in range(10)]
    cells = np.arange(65536) << 16
    around += [cells, cells + 1, cells + 2**15, cells + 2**16 - 2, cells + 2**16 - 1, rng.integers(0, 2**32, 10**6)]
    words = np.concatenate(around)
    words = words[(words >= 0) & (words < 2**32)]
    out, open_ = np.empty((len(words), 1), np.float32), np.empty(len(words), np.int64)
    with drawn_by(kernel) as drawn:
        zero = np.zeros(1, np.int32)
        count = drawn.fine(words.astype(np.uint32)[:, None], at, width, shift, margin, zero, np.float32(1), out, open_)
    closed = np.ones(len(words), bool)
    closed[open_[:count]] = False
    found = out[closed, 0].astype(np.int64) - table.smallest
    first, last = (np.searchsorted(ends, words[closed], side="right") for ends in (high, low))
    return int(((found != first) | (found != last)).sum()), float(closed.mean())


@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_count_decides_at_a_threshold(name: str, sigma: float):
    source = sampler(name, sigma)
    table, total = table_of(source), first_bits(source) + 64
    firsts = [first_at_or_above(one, total) for one in exact(table)]
    for place in some_places(table)[::4]:
        for value in (firsts[place] - 1, firsts[place], firsts[place] + 1):
            assert table.count(value, total) == bisect_right(firsts, value)


def test_the_tails_of_the_fine_grid_are_counted_exactly():
    """Below 2^-45 float64 says nothing: the smallest values of all, and the largest."""
    source = sampler("gaussian", 0.25)
    firsts = [first_at_or_above(one, 96) for one in exact(table_of(source))]
    values = [0, firsts[0] - 1, firsts[0], 2**60 + 12345, 2**96 - 1 - 2**60, 2**96 - 1]
    found, asked = drawn_from(source, values)
    assert found.tolist() == [bisect_right(firsts, value) + table_of(source).smallest for value in values] and asked == len(values)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_deviation_bounds_the_total_variation(name: str, sigma: float, device: str):
    """Of the law of i by 80 or 96 bits (a GPU: 63, thresholds rounded down), from the true one, whose tails beyond the table count in full."""
    source = sampler(name, sigma)
    law = [0, *exact(table_of(source)), 2**BITS]
    bits = first_bits(source) + 64 if device == "cpu" else 63
    rounded = first_at_or_above if device == "cpu" else lambda one, bits: min(one >> (BITS - bits), 2**bits - 1)
    drawn = [rounded(one, bits) for one in law[1:-1]]
    grid = [one << (BITS - bits) for one in [0, *drawn, 2**bits]]
    twice = sum(abs((grid[i + 1] - grid[i]) - (law[i + 1] - law[i])) for i in range(len(law) - 1))
    deviation = source.deviation(torch.device(device))
    assert twice / 2 + 2 * law[1] <= deviation * 2.0**BITS
    assert deviation * 150_528 < 2e-9, "of an image of ImageNet's size"


@pytest.mark.parametrize(("name", "sigma"), [scale for scale in SCALES if scale[0] != "uniform"])
def test_the_gpus_thresholds(name: str, sigma: float, monkeypatch: pytest.MonkeyPatch):
    """Its code, run on the CPU: thresholds of 63 bits, rounded down, and U at a threshold counts it."""
    source = sampler(name, sigma)
    table = table_of(source)
    floors = [min(one >> (BITS - 63), 2**63 - 1) for one in exact(table)]
    places = range(0, len(floors), max(1, len(floors) // 5000))
    near = [floors[place] + step for place in [*places, len(floors) - 1] for step in (-1, 0, 1)]
    values = [value for value in [0, *near, 2**63 - 1] if 0 <= value < 2**63]
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, generator: self.copy_(torch.tensor(values)))
    out = torch.empty(len(values))
    source.copies_on_device(out, source.place(torch.zeros(1)), torch.Generator())
    assert integers(source, out).tolist() == [bisect_right(floors, value) + table.smallest for value in values]


def test_uniform_noise_on_the_fine_grid_of_a_gpu_takes_each_of_its_20_bits(monkeypatch: pytest.MonkeyPatch):
    """All 2^20 of them: two for each integer, but one for the first and one for the last. Exact, so that nothing deviates."""
    source = sampler("uniform", 0.25)

    def counted(self: torch.Tensor, low: int, high: int, generator: torch.Generator) -> torch.Tensor:
        return self.copy_(torch.arange(low, high))

    monkeypatch.setattr(torch.Tensor, "random_", counted)
    out = torch.empty(2**20)
    source.copies_on_device(out, source.place(torch.zeros(1)), torch.Generator())
    counts = np.bincount(integers(source, out) + 2**18)
    assert len(counts) == 2**19 + 1 and counts[0] == counts[-1] == 1 and (counts[1:-1] == 2).all()


def draws(name: str, sigma: float, path: str) -> np.ndarray:
    """200,000 integers."""
    source = sampler(name, sigma)
    out = torch.empty(800, 250)
    if path == "gpu":
        source.copies_on_device(out, source.place(torch.zeros(250)), torch.Generator().manual_seed(1))
    else:
        with drawn_by(path):
            NoiseStream(source, (250,), 1, "estimate", "test", 7).fill(out)
    return integers(source, out)


@pytest.mark.parametrize("path", [*KERNELS, "gpu"])
@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_drawn_integers_have_the_law(name: str, sigma: float, path: str):
    table, values = table_of(sampler(name, sigma)), draws(name, sigma, path)
    assert p_value(values, table.smallest, probabilities(table)) > 0.001
    for a, b in ((values[:, 1:], values[:, :-1]), (values[1:], values[:-1]), (values[:, 4:], values[:, :-4])):
        assert values.std() == 0 or abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


@pytest.mark.parametrize("path", [*KERNELS, "gpu"])
@pytest.mark.parametrize("sigma", [0.001, 0.002])
def test_drawn_integers_do_not_have_the_law_of_the_weights(sigma: float, path: str):
    table = table_of(sampler("lattice", sigma))
    i = np.arange(table.smallest, -table.smallest + 1)
    weights = np.exp(-(i**2) / (2 * (LEVELS * sigma) ** 2))
    assert p_value(draws("lattice", sigma, path), table.smallest, weights / weights.sum()) < 1e-12


@pytest.mark.parametrize(("name", "sigma"), [("gaussian", 0.25), ("lattice", 0.25)])
def test_a_hundred_million_draws_have_the_law(name: str, sigma: float):
    """Of samples of 65,536 values, as many as a large image has; on the fine grid in some 50,000 bins."""
    source, at_once = sampler(name, sigma), 16
    table = table_of(source)
    stream, out = NoiseStream(source, (65_536,), 5, "estimate", "test", 0), torch.empty(at_once, 65_536)
    counts = np.zeros(len(table.thresholds) + 1, np.int64)
    step = np.float32(255) if name == "lattice" else 1 / source.step  # type: ignore[union-attr]
    with drawn_by("compiled"):
        for _ in range(10**8 // out.numel()):
            stream.fill(out)
            counts += np.bincount((torch.round(out.mul_(float(step))).to(torch.int32).flatten() - table.smallest).numpy(), minlength=len(counts))
    assert counts.sum() > 99 * 10**6 and p_value_of_counts(counts, probabilities(table)) > 0.001
    if isinstance(source, FineGrid):
        half = probabilities(table) * np.where(np.arange(len(counts)) % 2, 1.01, 0.99)
        assert p_value_of_counts(counts, half / half.sum()) < 1e-12, "a tilt of one in a hundred shows"


@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_no_integer_is_beyond_the_reach(name: str, sigma: float):
    """Which `check_on_scale` counts on: not for the smallest and the largest of all bits."""
    source = sampler(name, sigma)
    low, high = drawn_from(source, [0, 2 ** (first_bits(source) + 64) - 1])[0]
    most = largest(table_of(source).base, LEVELS * sigma if name in LATTICES else source.scale)  # type: ignore[union-attr]
    assert -most <= low <= -0.9 * (most - 2) and 0.9 * (most - 2) <= high <= most
