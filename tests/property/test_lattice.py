"""Lattice noise over random scales, bits and cuts."""

import math

import mpmath
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddrs.noise.lattice import LATTICES, GridSampler, certifiable_noise
from ddrs.noise.laws import Gaussian
from ddrs.noise.streams import NoiseStream

NAMES = st.sampled_from(list(LATTICES))
SIGMAS = st.floats(2.0**-12, 4.0, width=32)
UNIFORM = st.integers(0, 2**80 - 1)
IN_A_TAIL = st.integers(0, 79).flatmap(lambda bits: st.integers(0, 2**bits)).flatmap(lambda u: st.sampled_from([u, 2**80 - 1 - u]))


class Word:
    """A generator of one word."""

    def __init__(self, word: int):
        self.word = word

    def random_raw(self, size: int | tuple[int, ...]) -> np.ndarray:
        return np.full(size, self.word, np.uint64)


def drawn(name: str, sigma: float, bits: int) -> int:
    """The integer that `fill` makes of U = bits / 2^80."""
    out = torch.empty(1, 1)
    certifiable_noise(name).at(sigma).fill(out, (Word(bits >> 64), Word(bits & (2**64 - 1))))
    return int(out)


def below(name: str, sigma: float, i: int) -> mpmath.mpf:
    """F((i + 1/2) / 255), to 60 digits."""
    z = mpmath.mpf(2 * i + 1) / (510 * mpmath.mpf(sigma))
    if certifiable_noise(name).base == "gaussian":
        return mpmath.erfc(-z / mpmath.sqrt(2)) / 2
    return min(max((z + 1) / 2, mpmath.mpf(0)), mpmath.mpf(1))


@settings(deadline=None)
@given(NAMES, st.floats(2.0**-12, 1.0, width=32), UNIFORM | IN_A_TAIL)
def test_inverts_the_distribution_function(name: str, sigma: float, bits: int):
    """F((i - 1/2) / 255) <= U < F((i + 1/2) / 255), but for the last integer, which takes what is left of the tail."""
    i, reach = drawn(name, sigma, bits), math.ceil((10.4 if certifiable_noise(name).base == "gaussian" else 1.0) * 255 * sigma) + 1
    assert abs(i) <= reach
    with mpmath.workdps(60):
        u = mpmath.mpf(bits) / 2**80
        assert i == -reach or below(name, sigma, i - 1) <= u
        assert i == reach or u < below(name, sigma, i)


@settings(deadline=None)
@given(NAMES, SIGMAS, st.integers(1, 40), st.lists(st.integers(1, 130), min_size=1, max_size=6), st.integers(0, 2**32))
def test_cuts_change_nothing(name: str, sigma: float, values: int, counts: list[int], seed: int):
    """Of a stream, and of one block's generator; samples of any size, a multiple of the four that a word holds or not."""
    sampler = certifiable_noise(name).at(sigma)
    whole, reader = (NoiseStream(sampler, (values,), seed, "estimate", "test", 1) for _ in range(2))
    assert torch.equal(torch.cat([reader.draw(count) for count in counts]), whole.draw(sum(counts)))
    once, cut = torch.empty(sum(counts), values), torch.empty(sum(counts), values)
    sampler.fill(once, sampler.generator(seed))
    generator = sampler.generator(seed)
    for part in cut.split(counts):
        sampler.fill(part, generator)
    assert torch.equal(once, cut)


@settings(deadline=None)
@given(SIGMAS, st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32))
def test_a_copy_tells_the_sum_alone(sigma: float, k: int, other: int, seed: int):
    """Copies of two grey levels that fall on the same k + i are the same float, to the last bit; so no mantissa tells k."""
    sampler = certifiable_noise("lattice").at(sigma)
    assert isinstance(sampler, GridSampler)
    noise = NoiseStream(sampler, (50,), seed, "estimate", "test", 1).draw(20)
    one, moved = noise.clone(), noise + (k - other)
    sampler.place(one, torch.full((50,), k) / 255)
    sampler.place(moved, torch.full((50,), other) / 255)
    assert torch.equal(one.view(torch.int32), moved.view(torch.int32))


@settings(deadline=None)
@given(SIGMAS, st.floats(0.0, 1.0))
def test_radius_is_the_gaussians(sigma: float, p: float):
    assert certifiable_noise("lattice").radius(p, sigma) == Gaussian().radius(p, sigma)
