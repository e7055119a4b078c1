"""Noise on both grids over random scales, bits and cuts."""

from typing import Any

import mpmath
import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ddrs.noise.laws import CERTIFIABLE, LATTICES, Gaussian, certifiable_noise
from ddrs.noise.norms import FINE
from ddrs.noise.samplers import LEVELS, largest
from ddrs.noise.streams import NoiseStream
from tests.unit.noise.exact import KERNELS, drawn_by, drawn_from, sampler

NAMES = st.sampled_from(list(CERTIFIABLE))
SIGMAS = st.floats(2.0**-12, 4.0, width=32)
FRACTIONS = st.integers(0, 2**96 - 1)
IN_A_TAIL = st.integers(16, 95).flatmap(lambda bits: st.integers(0, 2**bits)).flatmap(lambda u: st.sampled_from([u, 2**96 - 1 - u]))


def below(name: str, scale: Any, i: int) -> mpmath.mpf:
    """F((i + 1/2) / scale), the noise's sigma being so many steps, to 60 digits."""
    z = mpmath.mpf(2 * i + 1) / (2 * scale)
    if certifiable_noise(name).base == "gaussian":
        return mpmath.erfc(-z / mpmath.sqrt(2)) / 2
    return min(max((z + 1) / 2, mpmath.mpf(0)), mpmath.mpf(1))


@settings(deadline=None)
@given(NAMES, st.floats(2.0**-12, 1.0, width=32), FRACTIONS | IN_A_TAIL, st.sampled_from(KERNELS))
def test_inverts_the_distribution_function(name: str, sigma: float, fraction: int, kernel: str):
    """F((i - 1/2) / scale) <= U < F((i + 1/2) / scale), but for the last integer, which takes what is left of the tail."""
    assume(name != "gaussian" or 2**52 < fraction < 2**96 - 2**52)  # beyond, a value takes a second: test_exact_law.py has a few
    total = 80 if name in LATTICES else 96
    base, bits = certifiable_noise(name).base, fraction >> (96 - total)
    scale = LEVELS * mpmath.mpf(sigma) if name in LATTICES else FINE[base]
    with drawn_by(kernel):
        ((i,), _), reach = drawn_from(sampler(name, sigma), [bits]), largest(base, float(scale))
    assert abs(i) <= reach
    with mpmath.workdps(60):
        u = mpmath.mpf(bits) / 2**total
        assert i == -reach or below(name, scale, int(i) - 1) <= u
        assert i == reach or u < below(name, scale, int(i))


@settings(deadline=None)
@given(NAMES, SIGMAS, st.integers(1, 40), st.lists(st.integers(1, 130), min_size=1, max_size=6), st.integers(0, 2**32), st.randoms())
def test_cuts_and_order_change_nothing(name: str, sigma: float, values: int, counts: list[int], seed: int, random: Any):
    """Samples of any size, a multiple of what a block of bits holds or not, read in pieces in any order, by either kernel."""
    whole, reader = (NoiseStream(sampler(name, sigma), (values,), seed, "estimate", "test", 1) for _ in range(2))
    pieces = [(reader.take(count), count) for count in counts]
    out = torch.empty(sum(counts), values)
    for start, count in random.sample(pieces, len(pieces)):
        with drawn_by(random.choice(KERNELS)):
            reader.read(out[start : start + count], start)
    assert torch.equal(out, whole.draw(sum(counts)))


@settings(deadline=None)
@given(NAMES, SIGMAS, st.integers(-(10**4), 10**4), st.integers(-(10**4), 10**4), st.integers(0, 2**32))
def test_a_copy_tells_the_sum_alone(name: str, sigma: float, k: int, other: int, seed: int):
    """Copies of two images that fall on the same k + i are the same float, to the last bit; so no mantissa tells k."""
    source = sampler(name, sigma)
    step = np.float32(1) / np.float32(LEVELS) if name in LATTICES else source.step  # type: ignore[union-attr]
    images = [torch.full((50,), float(np.float32(one) / np.float32(LEVELS) if name in LATTICES else one * step)) for one in (k, other)]
    floats: dict[int, set[bytes]] = {}
    for image, at in zip(images, (k, other), strict=True):
        assert source.place(image).tolist() == [at] * 50
        for value in NoiseStream(source, (50,), seed, "estimate", "test", 1, image).draw(20).numpy().ravel():
            floats.setdefault(int(np.rint(np.float64(value) / np.float64(step))), set()).add(value.tobytes())
    assert all(len(one) == 1 for one in floats.values())


@settings(deadline=None)
@given(SIGMAS, st.floats(0.0, 1.0))
def test_radius_is_the_gaussians(sigma: float, p: float):
    assert certifiable_noise("lattice").radius(p, sigma) == Gaussian().radius(p, sigma)
