"""Noise on the pixel grid: its law to the last bit, what its copies are, and a classifier that reads mantissas."""

import math
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

import ddrs
from ddrs.certification.checks import ABSTAIN
from ddrs.data.splits import as_float
from ddrs.errors import DdrsError
from ddrs.models.rowwise import PASSES
from ddrs.noise.lattice import CERTIFIABLE, LATTICES, LEVELS, GridSampler, Lookup, certifiable_noise, check_on_grid
from ddrs.noise.streams import NoiseStream

SIGMAS = [0.001, 0.05, 0.25, 1.0, 4.0]
SCALES = [*(("lattice", sigma) for sigma in SIGMAS), *(("uniform-lattice", sigma) for sigma in (0.001, 0.25, 1.0))]
BITS = 200  # of the exact thresholds below, as integers


def sampler(name: str, sigma: float) -> GridSampler:
    found = certifiable_noise(name).at(sigma)
    assert isinstance(found, GridSampler)
    return found


@lru_cache
def exact(table: Lookup) -> list[int]:
    """F((i + 1/2) / 255) * 2^200, rounded down, for every i of the table, computed by another formula and to more digits."""
    edges = range(table.smallest, table.smallest + len(table.thresholds))
    with mpmath.workdps(75):
        unit = 1 / (510 * mpmath.mpf(table.sigma))
        if table.base == "uniform":
            return [int(mpmath.floor(min(max((2 * i + 1) * unit + 1, 0), 2) * 2 ** (BITS - 1))) for i in edges]
        tail = [mpmath.erfc(-(2 * i + 1) * unit / mpmath.sqrt(2)) / 2 for i in edges if i < 0]
        assert len(edges) == 2 * len(tail), "the edges are symmetric"
        return [int(mpmath.floor(p * 2**BITS)) for p in [*tail, *(1 - p for p in reversed(tail))]]


def probabilities(table: Lookup) -> np.ndarray:
    """P(i) for every i of the table."""
    return np.array([float(b - a) / 2.0**BITS for a, b in zip([0, *exact(table)], [*exact(table), 2**BITS], strict=True)])


def first_at_or_above(threshold: int, bits: int) -> int:
    """The smallest u with u / 2^bits >= the threshold."""
    return -(-threshold >> (BITS - bits))


class Given:
    """A generator whose words were chosen beforehand."""

    def __init__(self, words: list[int]):
        self.words = np.array(words, np.uint64)

    def random_raw(self, size: int | tuple[int, ...]) -> np.ndarray:
        taken, self.words = np.split(self.words, [math.prod(np.atleast_1d(size))])
        return taken.reshape(size)


def fill_from(source: GridSampler, values: list[int]) -> np.ndarray:
    """What `fill` makes of U = value / 2^80."""
    high, low = [value >> 64 for value in values], [value & (2**64 - 1) for value in values]
    rest = Given([b for a, b in zip(high, low, strict=True) if source.table.by_16_bits[a] == 2.0**24])
    out = torch.empty(len(values), 1)
    source.fill(out, (Given(high), rest))  # type: ignore[arg-type]
    assert not len(rest.words)
    return out.numpy().ravel()


def some_places(table: Lookup) -> np.ndarray:
    """Up to 122 places of thresholds: the ends, tails, where a cell of 16 bits holds several, and the middle, where one holds at most one."""
    rng, last = np.random.default_rng(0), len(table.thresholds) - 1
    places = np.concatenate([rng.normal(last / 2, last / 24, 80), rng.normal(last / 2, last / 8, 40)])
    return np.unique(np.clip([0, last, *places.round().astype(int)], 0, last))


@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_thresholds(name: str, sigma: float):
    table = sampler(name, sigma).table
    found = np.array([float(one) / 2.0**BITS for one in exact(table)])
    assert np.abs(table.thresholds - found).max() < 2.0**-50, "float64 decides what is 2^-45 away"
    for place in some_places(table).tolist():
        with mpmath.workprec(400):
            assert abs(table.exact(place) * 2**BITS - exact(table)[place]) <= 2.0 ** (BITS - 130)
    assert exact(table)[0] < 2 ** (BITS - 82) and exact(table)[-1] > 2**BITS - 2 ** (BITS - 82), "no more than the last of 80 bits is left out"


@pytest.mark.parametrize("sigma", SIGMAS)
def test_probabilities_are_differences_of_phi_and_no_weights(sigma: float):
    """exp(-i^2 / 2 s^2), normalised, is a different law, and not what the theorem is about."""
    table = sampler("lattice", sigma).table
    i = np.arange(table.smallest, -table.smallest + 1)
    weights = np.exp(-(i**2) / (2 * (LEVELS * sigma) ** 2))
    of_table = np.diff(table.thresholds, prepend=0.0, append=1.0)
    assert np.abs(of_table - probabilities(table)).max() < 1e-15
    assert np.abs(weights / weights.sum() - probabilities(table)).max() > 1e-12


@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_every_80_bits_give_the_right_integer(name: str, sigma: float):
    """One below, at and one above exact thresholds, and both ends of all 65,536 cells, which settles the cells that 16 bits decide."""
    source = sampler(name, sigma)
    firsts = [first_at_or_above(one, 80) for one in exact(source.table)]
    near = [firsts[place] + step for place in some_places(source.table).tolist() for step in (-1, 0, 1)]
    ends = [(cell << 64) + low for cell in range(1, 65535) for low in (0, 2**64 - 1)]
    values = [value for value in [0, *near, *ends, 2**80 - 1] if 0 <= value < 2**80]
    expected = [bisect_right(firsts, value) + source.table.smallest for value in values]
    np.testing.assert_array_equal(fill_from(source, values), expected)


@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_count_decides_at_a_threshold(name: str, sigma: float):
    table = sampler(name, sigma).table
    firsts = [first_at_or_above(one, 80) for one in exact(table)]
    for place in some_places(table)[::4].tolist():
        for value in (firsts[place] - 1, firsts[place], firsts[place] + 1):
            assert table.count(value, 80) == bisect_right(firsts, value)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_deviation_bounds_the_total_variation(name: str, sigma: float, device: str):
    """Of the law of i by 80 bits (a GPU: 63, thresholds rounded down), from the true one, whose tails beyond the table count in full."""
    source = sampler(name, sigma)
    bits = 80 if device == "cpu" else 63
    law = [0, *exact(source.table), 2**BITS]
    if device == "cpu":
        drawn = [first_at_or_above(one, bits) for one in exact(source.table)]
    else:
        drawn = [min(one >> (BITS - bits), 2**bits - 1) for one in exact(source.table)]
    grid = [one << (BITS - bits) for one in [0, *drawn, 2**bits]]
    twice = sum(abs((grid[i + 1] - grid[i]) - (law[i + 1] - law[i])) for i in range(len(law) - 1))
    deviation = source.deviation(torch.device(device))
    assert twice / 2 + 2 * law[1] <= deviation * 2.0**BITS
    assert deviation * 150_528 < 1e-9, "of an image of ImageNet's size"


@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_the_gpus_thresholds(name: str, sigma: float, monkeypatch: pytest.MonkeyPatch):
    """Its code, run on the CPU: thresholds of 63 bits, rounded down, and U at a threshold counts it."""
    source = sampler(name, sigma)
    floors = [min(one >> (BITS - 63), 2**63 - 1) for one in exact(source.table)]
    near = [floors[place] + step for place in some_places(source.table).tolist() for step in (-1, 0, 1)]
    values = [value for value in [0, *near, 2**63 - 1] if 0 <= value < 2**63]
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, generator: self.copy_(torch.tensor(values)))
    out = torch.empty(len(values))
    source.fill(out, torch.Generator())
    assert out.tolist() == [bisect_right(floors, value) + source.table.smallest for value in values]


def draws(source: GridSampler, path: str) -> np.ndarray:
    """200,000 integers."""
    if path == "cpu":
        return NoiseStream(source, (250,), 1, "estimate", "test", 7).draw(800).numpy().astype(np.int64)
    out = torch.empty(800, 250)
    source.fill(out, torch.Generator().manual_seed(1))
    return out.numpy().astype(np.int64)


def p_value(values: np.ndarray, smallest: int, law: np.ndarray) -> float:
    """Of the chi-square test that integers have a law, with the values of fewer than 10 expected in two bins for the tails."""
    counts, expected = np.bincount(values.ravel() - smallest, minlength=len(law)), law * values.size
    rare = expected < 10
    if rare.all() or not rare.any():
        assert not rare.any()
        return float(chisquare(counts, expected).pvalue)
    usual = np.flatnonzero(~rare)
    assert np.array_equal(usual, np.arange(usual[0], usual[-1] + 1))
    groups = [slice(0, usual[0]), slice(usual[-1] + 1, None)]
    pooled = [[one[group].sum() for group in groups] for one in (counts, expected)]
    found, wanted = np.append(counts[~rare], pooled[0]), np.append(expected[~rare], pooled[1])
    assert not found[wanted < 1e-9].any(), "nothing is drawn that has no probability"
    found, wanted = found[wanted >= 1e-9], wanted[wanted >= 1e-9]
    return 1.0 if len(found) == 1 else float(chisquare(found, wanted * (found.sum() / wanted.sum())).pvalue)


@pytest.mark.parametrize("path", ["cpu", "gpu"])
@pytest.mark.parametrize(("name", "sigma"), SCALES)
def test_drawn_integers_have_the_law(name: str, sigma: float, path: str):
    source = sampler(name, sigma)
    values = draws(source, path)
    assert p_value(values, source.table.smallest, probabilities(source.table)) > 0.001
    for a, b in ((values[:, 1:], values[:, :-1]), (values[1:], values[:-1]), (values[:, 4:], values[:, :-4])):
        assert values.std() == 0 or abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)


@pytest.mark.parametrize("path", ["cpu", "gpu"])
@pytest.mark.parametrize("sigma", [0.001, 0.002])
def test_drawn_integers_do_not_have_the_law_of_the_weights(sigma: float, path: str):
    source = sampler("lattice", sigma)
    i = np.arange(source.table.smallest, -source.table.smallest + 1)
    weights = np.exp(-(i**2) / (2 * (LEVELS * sigma) ** 2))
    assert p_value(draws(source, path), source.table.smallest, weights / weights.sum()) < 1e-12


def test_the_two_streams_of_a_block_share_no_word():
    source = sampler("lattice", 0.25)
    (first, rest), (again, other) = source.generator(3), source.generator(3)
    words = first.random_raw(1000)
    assert len(np.unique([words, rest.random_raw(1000)])) == 2000
    assert np.array_equal(words, again.random_raw(1000)) and not np.array_equal(words, source.generator(4)[0].random_raw(1000))
    assert np.array_equal(other.random_raw(1000), source.generator(3)[1].random_raw(1000))


@pytest.mark.parametrize(("name", "sigma"), [("lattice", 0.001), ("lattice", 0.25), ("lattice", 4.0), ("uniform-lattice", 1.0)])
def test_noisy_copies_are_the_floats_of_integers(name: str, sigma: float):
    """float32(k + i) / 255, exactly as an 8-bit image becomes float; beyond [0, 1] too, where a clip would tell."""
    source, levels = sampler(name, sigma), np.arange(256, dtype=np.uint8)
    noise = NoiseStream(source, (256,), 0, "estimate", "test", 0).draw(300)
    copies = noise.clone()
    source.place(copies, torch.tensor(as_float(levels)))
    integers = levels + noise.numpy().astype(np.int64)
    np.testing.assert_array_equal(copies.numpy(), integers.astype(np.float32) / np.float32(255))
    inside = (integers >= 0) & (integers <= 255)
    np.testing.assert_array_equal(copies.numpy()[inside], as_float(integers[inside].astype(np.uint8)))
    assert copies.min() < 0 and copies.max() > 1


class Recorder(nn.Module):
    """Votes for class 0 and keeps its inputs."""

    def __init__(self):
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x.clone())
        return torch.tensor([1.0, 0.0]).repeat(len(x), 1)


LEVEL_IMAGE = torch.tensor(as_float(np.arange(256, dtype=np.uint8))).reshape(1, 16, 16)


@pytest.mark.parametrize("name", list(LATTICES))
def test_a_model_sees_the_grid_alone(name: str):
    """Through `certify`; an image of all 256 levels is on the grid."""
    model = Recorder()
    found = ddrs.certify(model, LEVEL_IMAGE, 0.5, 20, 100, 0.01, noise=name, batch_size=20)
    assert found.prediction == 0 and found.radius > 0
    seen = torch.cat(model.seen[PASSES:]).numpy()  # after the check before any work
    integers = np.rint(seen.astype(np.float64) * 255)
    np.testing.assert_array_equal(seen, integers.astype(np.float32) / np.float32(255))
    assert integers.min() < 0 and integers.max() > 255 and len(np.unique(integers)) > 256


@pytest.mark.parametrize("name", list(LATTICES))
@pytest.mark.parametrize("level", [1, 10, 77, 254])
@pytest.mark.parametrize("side", [0.0, 1.0])
def test_an_image_off_the_grid_is_refused(name: str, level: int, side: float):
    """By a single last bit, in one line, before the model runs; the continuous noises take it."""
    model, image = Recorder(), LEVEL_IMAGE.clone()
    image[0, 3, 5] = float(np.nextafter(np.float32(level) / np.float32(255), np.float32(side)))
    with pytest.raises(DdrsError, match=r"^image seven: holds .* no multiple of 1/255, .*round") as refused:
        ddrs.certify(model, image[None], 0.5, 10, 100, 0.01, noise=name, example_ids=["seven"])
    assert "\n" not in str(refused.value) and not model.seen
    assert ddrs.certify(model, image, 0.5, 10, 100, 0.01, noise=LATTICES[name].base).prediction == 0


def test_the_grid_goes_on_outside_the_pixels():
    """Vectors need not lie in [0, 1]."""
    check_on_grid(torch.arange(-70_000, 70_000).float() / 255, "vector")
    with pytest.raises(DdrsError, match=r"vector: holds -0\.5"):
        check_on_grid(torch.tensor([1.0, -0.5]), "vector")


@pytest.mark.parametrize("name", list(LATTICES))
def test_a_sigma_above_4_is_refused(name: str):
    model, sigmas = Recorder(), np.array([0.25, np.nextafter(np.float32(4), np.float32(5))], np.float32)
    with pytest.raises(DdrsError, match=rf"^noise {name}: sigma = \S+: must be at most 4$"):
        ddrs.certify(model, torch.stack([LEVEL_IMAGE, LEVEL_IMAGE]), sigmas, 10, 100, 0.01, noise=name)
    assert not model.seen, "refused before any work"
    assert ddrs.certify(model, LEVEL_IMAGE, 4.0, 10, 100, 0.01, noise=name).prediction == 0


def test_an_unknown_noise_is_refused_with_the_known_ones():
    with pytest.raises(DdrsError, match=r"'grid': unknown; known are gaussian, uniform, lattice, uniform-lattice$"):
        certifiable_noise("grid")
    assert all(CERTIFIABLE[name].name == name for name in CERTIFIABLE)


@pytest.mark.parametrize("name", list(LATTICES))
def test_radii_are_those_of_the_continuous_noise(name: str):
    grid, continuous = LATTICES[name], CERTIFIABLE[LATTICES[name].base]
    assert grid.norm == continuous.norm
    assert grid.radius(0.9, 0.25) == continuous.radius(0.9, 0.25) and grid.joint_radius(0.6, 0.3, 0.25) == continuous.joint_radius(0.6, 0.3, 0.25)


class CannotBe(nn.Module):
    """Class 0 if some value near 0 is no float32 sum of `other` and a float32: so many bits say that the noise was added to something else.

    For |y| < other / 2 the sum y = other + n is exact in float32, and so is y - other, which therefore gives y back.
    """

    def __init__(self, other: float):
        super().__init__()
        self.other = torch.tensor(other)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        impossible = (x.abs() < self.other / 2) & ((x - self.other) + self.other != x)
        return _two_classes(impossible.flatten(1).any(1))


class OnGrid(nn.Module):
    """Class 0 if every value is the float32 of a multiple of 1 / parts."""

    def __init__(self, parts: int):
        super().__init__()
        self.parts = parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _two_classes((torch.round(x * self.parts) / self.parts == x).flatten(1).all(1))


def _two_classes(first: torch.Tensor) -> torch.Tensor:
    return torch.stack([first.float(), torch.full((len(first),), 0.5)], 1)


READERS: dict[str, Callable[[float], nn.Module]] = {
    "cannot be": CannotBe,
    "float32 grid": lambda other: OnGrid(2**23),  # NumPy's uniform float32 noise on [-1, 1) is a multiple of 2^-23
    "pixel grid": lambda other: OnGrid(LEVELS),
}
SETTINGS = {"l2": (16, 10, 0.25), "l1": (8, 3, 1.0)}  # pixels per side, grey level, sigma: the two images are 2.51 sigma, or 0.75 lambda, apart


def outcome(noise: str, reader: str) -> tuple[int, int]:
    """The certified class at a black image, whose certificate covers a dark grey one, and the certified class there, of at least 1/2.

    Both at alpha = 1e-6: if they differ, the certificate is false.
    """
    norm = CERTIFIABLE[noise].norm
    side, level, sigma = SETTINGS[norm]
    x = torch.zeros(1, side, side)
    grey = torch.full_like(x, level) / LEVELS
    model = READERS[reader](float(grey[0, 0, 0]))
    found = ddrs.certify(model, torch.stack([x, grey]), sigma, 100, 10_000, 1e-6, noise=noise)
    assert found.radius[0] > float((grey - x).norm(p=1 if norm == "l1" else 2)) > 0, "covered"
    assert ABSTAIN not in found.prediction and found.p_lower[1] > 0.5
    return int(found.prediction[0]), int(found.prediction[1])


@pytest.mark.parametrize(("noise", "reader"), [("gaussian", "cannot be"), ("uniform", "float32 grid")])
def test_a_reader_of_mantissas_gets_a_false_certificate_from_continuous_noise(noise: str, reader: str):
    """Voracek and Hein (2023): the low bits of a float32 sum tell what the noise was added to. This is what these noises ignore."""
    assert outcome(noise, reader) == (0, 1)


@pytest.mark.parametrize(
    ("noise", "reader"), [("lattice", "cannot be"), ("lattice", "pixel grid"), ("uniform-lattice", "float32 grid"), ("uniform-lattice", "pixel grid")]
)
def test_no_reader_of_mantissas_gets_a_false_certificate_from_the_lattice(noise: str, reader: str):
    one, other = outcome(noise, reader)
    assert one == other


@pytest.mark.parametrize(("noise", "reader"), [("lattice", "cannot be"), ("lattice", "pixel grid"), ("uniform-lattice", "pixel grid")])
def test_the_readers_would_find_a_lattice_that_leaks(noise: str, reader: str, monkeypatch: pytest.MonkeyPatch):
    """Of one that adds i / 255 to the image in float32, a copy of which is not the same float for the same k + i."""
    monkeypatch.setattr(GridSampler, "place", lambda self, out, image: out.div_(LEVELS).add_(image))
    assert outcome(noise, reader) == (0, 1)
