"""Noise streams are a function of their key alone, and the radii are those of the papers."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import combinations, product

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import kstest, norm, uniform

from ddrs.errors import DdrsError
from ddrs.noise.laws import CERTIFIABLE, check_sigma, get_noise
from ddrs.noise.streams import BLOCK, NoiseStream, example_digest, example_keys, stream_key, torch_generator
from ddrs.statistics.bounds import lower_confidence_bound
from tests.unit.noise.exact import KERNELS, drawn_by

PURPOSES = ("train", "search", "select-class", "pilot", "estimate", "falsify-search", "falsify-confirm")


def stream(seed: int = 0, purpose: str = "estimate", split: str = "test", example: object = 7, noise: str = "gaussian", shape=(3,)) -> NoiseStream:
    return NoiseStream(CERTIFIABLE[noise].at(1.0), shape, seed, purpose, split, example)  # type: ignore[arg-type]


def test_no_two_keys_share_a_sample():
    """Every seed, purpose, split and example has samples of its own, and every sample its values."""
    keys = list(product((0, 1), PURPOSES, ("test", "validation"), (0, 1, 10)))
    samples = torch.stack([stream(*key, shape=(8,)).draw(BLOCK + 1) for key in keys])
    assert len(torch.unique(samples.flatten(0, 1), dim=0)) == (BLOCK + 1) * len(keys), "nor within a stream"


def test_streams_of_two_purposes_are_uncorrelated():
    draws = [stream(purpose=purpose, shape=(40,)).draw(500).flatten() for purpose in PURPOSES]
    for a, b in combinations(draws, 2):
        assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 5 / np.sqrt(len(a))


def test_keys_have_128_bits_and_keep_their_parts_apart():
    keys = {stream_key(0, "train", *parts) for parts in (("a", 1, 2), ("a", 12), ("a1", 2), (1, "a", 2), ("a", 1), ())}
    assert len(keys) == 6
    assert max(stream_key(0, "train", i) for i in range(100)) > 2**120


@pytest.mark.parametrize("noise", list(CERTIFIABLE))
def test_the_same_key_repeats(noise: str):
    assert torch.equal(stream(noise=noise).draw(250), stream(noise=noise).draw(250))


@pytest.mark.parametrize("noise", list(CERTIFIABLE))
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 5, 7), (2, 8, 8)])
@pytest.mark.parametrize("pieces", [[1] * 230, [99, 1, 1, 99, 30], [7] * 32 + [6], [100, 130], [101, 129], [30, 200]])
def test_pieces_of_any_size_give_the_same_samples(noise: str, shape: tuple[int, ...], pieces: list[int]):
    """Also where a sample ends within a block of bits."""
    whole, reader = stream(noise=noise, shape=shape).draw(230), stream(noise=noise, shape=shape)
    assert torch.equal(torch.cat([reader.draw(count) for count in pieces]), whole)
    assert whole.shape == (230, *shape) and whole.dtype == torch.float32


Reads = list[Callable[[], None]]


def call(reads: Reads) -> None:
    for read in reads:
        read()


def call_in_threads(reads: Reads) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda read: read(), reads))


ORDERS: dict[str, Callable[[Reads], None]] = {
    "in order": call,
    "backwards": lambda reads: call(reads[::-1]),
    "shuffled": lambda reads: call([reads[i] for i in np.random.default_rng(0).permutation(len(reads))]),
    "threads": call_in_threads,
}


@pytest.mark.parametrize("noise", list(CERTIFIABLE))
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("order", list(ORDERS))
def test_reads_in_any_order_give_what_fill_gives(noise: str, kernel: str, order: str):
    """Of a sampler, of one stream for several images each, cut anywhere, with the samples taken in order and read in any, in any thread."""
    sampler = CERTIFIABLE[noise].at(0.25)
    whole = [NoiseStream(sampler, (5,), 0, "estimate", "test", example).draw(1230) for example in range(3)]
    readers = [NoiseStream(sampler, (5,), 0, "estimate", "test", example) for example in range(3)]
    found = torch.full((3, 1230, 5), float("nan"))
    reads: Reads = []
    for count in (30, 170, 1, 20, 509, 500):
        for example, reader in enumerate(readers):
            start = reader.take(count)
            reads.append(partial(reader.read, found[example, start : start + count], start))
    with drawn_by(kernel):
        ORDERS[order](reads)
    assert torch.equal(found, torch.stack(whole))


def test_reading_does_not_move_the_position_and_taking_draws_nothing():
    reader, whole = stream(), stream().draw(30)
    assert (reader.take(10), reader.take(5), reader.position) == (0, 10, 15)
    out = torch.empty(5, 3)
    reader.read(out, 3)
    assert torch.equal(out, whole[3:8]) and torch.equal(reader.draw(15), whole[15:])


def test_copies_of_an_image_are_of_its_own_values_in_any_batch_of_a_stream():
    """An image and the noise alone use the same i."""
    image = torch.tensor([0.2, 0.4, 1.0])
    for noise in CERTIFIABLE:
        sampler = CERTIFIABLE[noise].at(0.5)
        copies = NoiseStream(sampler, (3,), 0, "estimate", "", 1, image).draw(200)
        torch.testing.assert_close(copies - NoiseStream(sampler, (3,), 0, "estimate", "", 1).draw(200), image.expand(200, 3), atol=2e-3, rtol=0)


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


def test_two_images_share_no_id():
    """Ids are keys as text; equal images may share one, as they get the same noise with a digest for a key too."""
    images = torch.tensor([[0.0, 0.5], [0.0, 0.25], [-0.0, 0.5]])
    assert example_keys(images, [7, 8, "7"]) == [7, 8, "7"]
    assert len(set(example_keys(images, None))) == 2
    for ids in ([1, "1", 2], [1, 2, 2], torch.tensor([3, 3, 3]), np.array([1, 1, 2]), [None, "None", 0]):
        with pytest.raises(DdrsError, match=r"^example_ids: '\w+' stands for two different images, which would get the same noise$"):
            example_keys(images, ids)
    close = torch.tensor([[0.1], [0.1 + 1e-12]], dtype=torch.float64)
    assert example_keys(close, ["a", "a"]) == ["a", "a"], "both are certified as the same float32 image"
    assert len(set(example_keys(close, None))) == 1


@pytest.mark.parametrize(("noise", "law", "variance"), [("gaussian", norm(), 1.0), ("uniform", uniform(-1, 2), 1 / 3)])
def test_law_of_the_noise(noise: str, law, variance: float):
    """Moments, range and distribution of 60,000 values, and independence of neighbours and samples. (To the last bit: test_exact_law.py.)"""
    values = stream(noise=noise, shape=(60,)).draw(1000).double().numpy()
    assert abs(values.mean()) < 4 * np.sqrt(variance / values.size)
    assert values.var() == pytest.approx(variance, rel=0.02)
    assert kstest(values.ravel(), law.cdf).pvalue > 0.01
    for a, b in ((values[:, 1:], values[:, :-1]), (values[1:], values[:-1]), (values[BLOCK:], values[:-BLOCK])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4 / np.sqrt(a.size)
    if noise == "uniform":
        assert -1 <= values.min() < -0.999 and 0.999 < values.max() <= 1
    trained = torch.empty(60_000)
    get_noise(noise).draw(trained, torch_generator(0, "train", 1))
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
