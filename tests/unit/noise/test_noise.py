"""Noise streams are a function of their key alone, and the radii are those of the papers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import kstest, norm, uniform

from ddrs.errors import DdrsError
from ddrs.noise.lattice import CERTIFIABLE
from ddrs.noise.laws import NOISES, check_sigma, get_noise
from ddrs.noise.streams import BLOCK, NoiseStream, example_digest, stream_key, torch_generator
from ddrs.statistics.bounds import lower_confidence_bound

PURPOSES = ("train", "search", "select-class", "pilot", "estimate", "falsify-search", "falsify-confirm")


def stream(seed: int = 0, purpose: str = "estimate", split: str = "test", example: object = 7, noise: str = "gaussian", shape=(3,)) -> NoiseStream:
    return NoiseStream(get_noise(noise), shape, seed, purpose, split, example)


def test_no_two_keys_share_a_sample():
    """Every seed, purpose, split, example and block has samples of its own."""
    keys = list(product((0, 1), PURPOSES, ("test", "validation"), (0, 1, 10)))
    samples = torch.stack([stream(*key).draw(BLOCK + 1) for key in keys])  # the last sample is of the second block
    values = samples[:, [0, BLOCK]].flatten(0, 1)
    assert len(torch.unique(values, dim=0)) == 2 * len(keys)
    assert all(len(torch.unique(one, dim=0)) == BLOCK + 1 for one in samples), "no sample repeats within a stream"


def test_streams_of_two_purposes_are_uncorrelated():
    draws = [stream(purpose=purpose, shape=(40,)).draw(500).flatten() for purpose in PURPOSES]
    for a, b in combinations(draws, 2):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 5 / np.sqrt(len(a))


def test_keys_have_128_bits_and_keep_their_parts_apart():
    keys = {stream_key(0, "train", *parts) for parts in (("a", 1, 2), ("a", 12), ("a1", 2), (1, "a", 2), ("a", 1), ())}
    assert len(keys) == 6
    assert max(stream_key(0, "train", i) for i in range(100)) > 2**120


@pytest.mark.parametrize("noise", list(NOISES))
def test_the_same_key_repeats(noise: str):
    assert torch.equal(stream(noise=noise).draw(250), stream(noise=noise).draw(250))


@pytest.mark.parametrize("noise", list(NOISES))
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 5, 7)])
@pytest.mark.parametrize("pieces", [[1] * 230, [99, 1, 1, 99, 30], [7] * 32 + [6], [100, 130], [101, 129], [30, 200]])
def test_pieces_of_any_size_give_the_same_samples(noise: str, shape: tuple[int, ...], pieces: list[int]):
    """Also across the borders of blocks, and for odd sizes of a sample."""
    whole, reader = stream(noise=noise, shape=shape).draw(230), stream(noise=noise, shape=shape)
    assert torch.equal(torch.cat([reader.draw(count) for count in pieces]), whole)
    assert whole.shape == (230, *shape) and whole.dtype == torch.float32


Draws = list[Callable[[], None]]


def call(groups: list[Draws]) -> None:
    for group in groups:
        for draw in group:
            draw()


def call_in_threads(groups: list[Draws]) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda group: call([group]), groups))


ORDERS: dict[str, Callable[[list[Draws]], None]] = {
    "in order": call,
    "backwards": lambda groups: call(groups[::-1]),
    "shuffled": lambda groups: call([groups[i] for i in np.random.default_rng(0).permutation(len(groups))]),
    "threads": call_in_threads,
}


@pytest.mark.parametrize("noise", list(CERTIFIABLE))
@pytest.mark.parametrize("order", list(ORDERS))
def test_blocks_in_any_order_give_what_fill_gives(noise: str, order: str):
    """Of a sampler, for several images at once, asked for in calls that end inside blocks and at their borders, all before any is drawn."""
    sampler = CERTIFIABLE[noise].at(0.25)
    whole = [NoiseStream(sampler, (5,), 0, "estimate", "test", example).draw(1230) for example in range(3)]
    readers = [NoiseStream(sampler, (5,), 0, "estimate", "test", example) for example in range(3)]
    found = torch.full((3, 1230, 5), float("nan"))
    blocks: dict[tuple[int, int], Draws] = {}
    done = 0
    for count in (30, 170, 1, 20, 509, 500):
        for example, reader in enumerate(readers):
            pieces = reader.pieces(found[example, done : done + count])
            assert sum(len(part) for _, part, _ in pieces) == count
            for block, _, draw in pieces:
                blocks.setdefault((example, block), []).append(draw)
        done += count
    assert len(blocks) == 3 * 13 and max(map(len, blocks.values())) == 3
    ORDERS[order](list(blocks.values()))
    assert torch.equal(found, torch.stack(whole))


def test_pieces_fill_nothing_before_they_are_called():
    """And leave their neighbours alone."""
    out = torch.zeros(250, 3)
    (_, first, _), (block, second, draw), _ = stream().pieces(out)
    draw()
    assert block == 1 and not out[:100].any() and not out[200:].any() and torch.equal(second, stream().draw(200)[100:])
    assert first.data_ptr() == out.data_ptr() and second.data_ptr() == out[100:].data_ptr()


def test_two_readers_do_not_disturb_each_other():
    a, b, alone = stream(example=1), stream(example=2), stream(example=1).draw(150)
    parts = []
    for _ in range(5):
        parts.append(a.draw(30))
        b.draw(17)
    assert torch.equal(torch.cat(parts), alone)


def test_the_default_key_of_an_image_is_its_values():
    x = torch.tensor([0.0, 0.25, 1.0])
    assert example_digest(x) == example_digest(x.clone().double()) == example_digest(torch.tensor([-0.0, 0.25, 1.0]))
    assert example_digest(x) == example_digest(torch.stack([x, x], 1)[:, 0]), "memory layout does not matter"
    assert example_digest(x) != example_digest(x.flip(0))
    assert example_digest(x) != example_digest(torch.tensor([0.0, np.nextafter(np.float32(0.25), np.float32(1)), 1.0]))


@pytest.mark.parametrize(("noise", "law", "variance"), [("gaussian", norm(), 1.0), ("uniform", uniform(-1, 2), 1 / 3)])
def test_law_of_the_noise(noise: str, law, variance: float):
    """Moments, range and distribution of 60,000 values, and independence of neighbours, samples and blocks."""
    values = stream(noise=noise, shape=(60,)).draw(1000).double().numpy()
    assert abs(values.mean()) < 4 * np.sqrt(variance / values.size)
    assert values.var() == pytest.approx(variance, rel=0.02)
    assert kstest(values.ravel(), law.cdf).pvalue > 0.01
    for a, b in ((values[:, 1:], values[:, :-1]), (values[1:], values[:-1]), (values[BLOCK:], values[:-BLOCK])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)
    if noise == "uniform":
        assert -1 <= values.min() < -0.999 and 0.999 < values.max() <= 1
    trained = torch.empty(60_000)
    get_noise(noise).fill(trained, torch_generator(0, "train", 1))
    assert kstest(trained.numpy(), law.cdf).pvalue > 0.01, "the generator of training has the same law"


def test_training_generators_follow_their_key():
    a, b, c = (torch.randn(4, generator=torch_generator(0, "train", epoch)) for epoch in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_gaussian_radius():
    """R = sigma * Phi^-1(p_lower), an l2 radius."""
    noise = get_noise("gaussian")
    p, sigma = np.array([0.5, norm.cdf(1.0), norm.cdf(-2.0)]), np.array([1.0, 0.25, 0.5])
    np.testing.assert_allclose(noise.radius(p, sigma), [0.0, 0.25, -1.0], rtol=1e-14)
    assert noise.norm == "l2"
    assert noise.radius(0.9, np.float32(0.1)) == np.float64(np.float32(0.1)) * ndtri(0.9), "float64, from the float32 sigma"
    assert noise.radius(lower_confidence_bound(100_000, 100_000, 0.001), 1.0) == pytest.approx(3.81145656339, rel=1e-11)


def test_uniform_radius():
    """R = 2 * lambda * (p_lower - 1/2), an l1 radius; with n = 100,000 it stays below .99987 lambda."""
    noise = get_noise("uniform")
    np.testing.assert_allclose(noise.radius(np.array([0.5, 0.75, 1.0]), np.array([1.0, 0.5, 0.25])), [0.0, 0.25, 0.25], rtol=1e-15)
    assert noise.norm == "l1"
    assert noise.radius(lower_confidence_bound(100_000, 100_000, 0.001), 1.0) == pytest.approx(0.99986184966602, rel=1e-13)


def test_objectives_are_the_papers():
    """Equation 1: sigma/2 * (Phi^-1(top) - Phi^-1(runner-up)); Equation 4: lambda * (top - runner-up)."""
    top, second, sigma = torch.tensor([norm.cdf(1.0)]), torch.tensor([norm.cdf(-2.0)]), torch.tensor([0.5])
    assert get_noise("gaussian").objective(top, second, sigma).item() == pytest.approx(0.75, rel=1e-5)
    assert get_noise("uniform").objective(torch.tensor([0.7]), torch.tensor([0.2]), sigma).item() == pytest.approx(0.25, rel=1e-6)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(DdrsError, match=r"'laplace'.*gaussian, uniform"):
        get_noise("laplace")
    with pytest.raises(DdrsError, match=r"'certify'.*select-class, pilot, estimate"):
        stream(purpose="certify").draw(1)
    with pytest.raises(DdrsError, match="'certify'"):
        torch_generator(0, "certify")


@pytest.mark.parametrize("sigma", [0.0, -0.25, float("nan"), float("inf")])
def test_check_sigma_refuses(sigma: float):
    check_sigma(0.25)
    with pytest.raises(DdrsError, match="finite number > 0"):
        check_sigma(sigma)
