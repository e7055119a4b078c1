"""Noise on the pixel grid and on a fine one: what its copies are, how far an image is from a grid, and a classifier that reads mantissas."""

from collections.abc import Callable
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from torch import nn

import ddrs
from ddrs.certification.checks import ABSTAIN
from ddrs.data.splits import as_float
from ddrs.errors import DdrsError
from ddrs.models.rowwise import PASSES
from ddrs.noise.bits import Bits
from ddrs.noise.lattice import best_noise, check_on_grid
from ddrs.noise.laws import CERTIFIABLE, LATTICES, NOISES, certifiable_noise
from ddrs.noise.samplers import FINE, LEVELS, FineGrid, PixelGrid
from ddrs.noise.streams import NoiseStream
from tests.unit.noise.exact import KERNELS, drawn_by, integers, sampler


@pytest.mark.parametrize(("name", "sigma"), [("lattice", 0.001), ("lattice", 0.25), ("lattice", 4.0), ("uniform-lattice", 1.0)])
def test_noisy_copies_are_the_floats_of_integers(name: str, sigma: float):
    """float32(k + i) / 255, exactly as an 8-bit image becomes float; beyond [0, 1] too, where a clip would tell."""
    source, levels = sampler(name, sigma), np.arange(256, dtype=np.uint8)
    i = integers(source, NoiseStream(source, (256,), 0, "estimate", "test", 0).draw(300))
    copies = NoiseStream(source, (256,), 0, "estimate", "test", 0, torch.tensor(as_float(levels))).draw(300)
    sums = levels + i
    np.testing.assert_array_equal(copies.numpy(), sums.astype(np.float32) / np.float32(255))
    inside = (sums >= 0) & (sums <= 255)
    np.testing.assert_array_equal(copies.numpy()[inside], as_float(sums[inside].astype(np.uint8)))
    assert copies.min() < 0 and copies.max() > 1


@pytest.mark.parametrize("path", [*KERNELS, "gpu"])
@pytest.mark.parametrize("name", list(NOISES))
@pytest.mark.parametrize("sigma", [0.1, 0.25, 1e-3])
def test_noisy_copies_on_a_fine_grid_are_its_floats(name: str, sigma: float, path: str):
    """float32(k + i) * step, k the integer nearest to x / step by exact arithmetic, also where float32 rounds k + i."""
    source, size = sampler(name, sigma), min(40.0, 2**10 * sigma)
    image = (torch.rand(50, generator=torch.Generator().manual_seed(0)) - 0.5) * size
    assert isinstance(source, FineGrid)
    step = Fraction(float(np.float32(sigma))) / FINE[source.base]
    assert Fraction(float(source.step)) == step
    k = np.array([round(Fraction(value) / step) for value in image.tolist()])
    assert source.place(image).tolist() == k.tolist()
    shown = [torch.zeros(50), image]
    if path == "gpu":
        i, copies = (torch.empty(200, 50) for _ in range(2))
        for out, one in zip((i, copies), shown, strict=True):
            source.copies_on_device(out, source.place(one), torch.Generator().manual_seed(3))
    else:
        with drawn_by(path):
            i, copies = (NoiseStream(source, (50,), 0, "estimate", "test", 0, one).draw(200) for one in shown)
    sums = k + integers(source, i)
    np.testing.assert_array_equal(copies.numpy(), sums.astype(np.float32) * source.step)


@pytest.mark.parametrize("name", list(NOISES))
@pytest.mark.parametrize("sigma", [1e-25, 0.1, 0.25, 7.3, 1e25])
def test_off_grid_bounds_the_exact_distance(name: str, sigma: float):
    """In the norm of the certificate, by exact arithmetic: never less, and hardly more; for images that are near a border of two grid points too."""
    source = sampler(name, sigma)
    assert isinstance(source, FineGrid)
    step = Fraction(float(source.step))
    generator = torch.Generator().manual_seed(0)
    halves = ((torch.randint(-(10**6), 10**6, (64,), generator=generator).double() + 0.5) * float(source.step)).float()
    on_it = (torch.randint(-(10**6), 10**6, (64,), generator=generator).double() * float(source.step)).float()
    for image in (torch.rand(300, generator=generator) * float(np.float32(sigma)), torch.rand(7) * 100 * sigma, halves, on_it, torch.zeros(3)):
        apart = [Fraction(value) - int(k) * step for value, k in zip(image.tolist(), source.place(image).tolist(), strict=True)]
        assert all(abs(one) <= step / 2 * (1 + Fraction(1, 2**20)) for one in apart), "the nearest point of the grid"
        found = Fraction(source.off_grid(image))
        if name == "gaussian":
            found, exact = found**2, sum(one**2 for one in apart)
        else:
            exact = sum(map(abs, apart))
        assert exact <= found <= exact * (1 + Fraction(1, 10**8))
    assert source.off_grid(torch.zeros(3)) == 0.0


def test_an_image_on_the_pixel_grid_loses_nothing():
    assert sampler("lattice", 0.25).off_grid(LEVEL_IMAGE.flatten()) == 0.0 == ddrs.certify(Recorder(), LEVEL_IMAGE, 0.25, 10, 100, 0.01).off_grid


@pytest.mark.parametrize("noise", list(NOISES))
@pytest.mark.parametrize("bound", ["binary", "joint"])
def test_a_radius_is_less_by_the_distance_to_the_grid(noise: str, bound: str):
    """What the bound gives at the point of the grid, less what the image lies off it; an abstention where nothing is left."""
    images, sigma = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)), np.float32(0.3)
    model = Recorder()
    found = ddrs.certify(model, images, float(sigma), 20, 500, 0.01, noise=noise, bound=bound)
    grid = certifiable_noise(noise).at(float(sigma))
    assert found.off_grid.tolist() == [grid.off_grid(image.permute(1, 2, 0).flatten()) for image in images] and (found.off_grid > 0).all()
    if bound == "joint":
        whole = [certifiable_noise(noise).joint_radius(a, b, float(sigma)) for a, b in zip(found.p_lower, found.p_upper, strict=True)]
    else:
        whole = np.float64(sigma) * (ndtri(found.p_lower) if noise == "gaussian" else 2 * found.p_lower - 1)
    np.testing.assert_allclose(found.radius + found.off_grid, whole, rtol=1e-14)
    few = ddrs.certify(model, images, float(sigma), 20, 10, 0.4, noise=noise, bound=bound, batch_size=10)
    assert (few.radius > 0).all(), "ten votes of ten at alpha = .4 leave more than is lost"


@pytest.mark.parametrize("noise", list(NOISES))
def test_an_image_that_lies_as_far_off_as_its_radius_is_abstained_from(noise: str):
    """10,000 values that all lie half a step off, and a bound hardly above a half."""
    step = 1.0 / FINE[noise]
    image = torch.full((40_000,), step / 2 * 0.99)
    n = {"gaussian": 200, "uniform": 60}[noise]
    found = ddrs.certify(Mostly(0.75), image, 1.0, 100, n, 0.3, noise=noise, batch_size=50, example_ids=[0])
    whole = float(certifiable_noise(noise).radius(found.p_lower, 1.0))
    assert found.off_grid == pytest.approx({"gaussian": 200, "uniform": 40_000}[noise] * step / 2 * 0.99, rel=1e-6)
    assert found.prediction == (0 if whole > found.off_grid else ABSTAIN) and found.radius == max(whole - found.off_grid, 0.0)


def test_sequential_claims_what_is_left_of_a_null_at_the_image():
    """Each radius that is asked for is tested at what covers it from the point of the grid, so claimed radii are at least those asked for."""
    images, radii = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(2)), [0.0, 0.1, 0.25, 0.3]
    found = ddrs.certify(Recorder(), images, 0.25, 20, 1000, 0.01, protocol="sequential", radii=radii, noise="gaussian")
    assert (found.off_grid > 0).all() and (found.prediction == 0).all()
    np.testing.assert_allclose(found.radius, 0.25 * found.z - found.off_grid, rtol=1e-14)
    assert (found.radius >= 0.3).all() and (found.radius < 0.3 + 2 * 0.01 * 0.25).all()


def test_certify_picks_the_noise_of_each_image_and_says_so():
    """The pixel grid where all of an image's values lie on it, and its sigma is one that it has; the outcome is that of the noise by name."""
    off, far = LEVEL_IMAGE.clone(), LEVEL_IMAGE.flatten() * 255 * 70_000
    off[0, 0, 0] = 0.001
    images, sigmas = torch.stack([LEVEL_IMAGE, off, LEVEL_IMAGE, LEVEL_IMAGE]), np.array([0.5, 0.5, 4.0, 5.0])
    found = ddrs.certify(Recorder(), images, sigmas, 20, 100, 0.01)
    assert found.noise.tolist() == ["lattice", "gaussian", "lattice", "gaussian"] and found.off_grid[[0, 2]].tolist() == [0, 0]
    for i, name in enumerate(found.noise):
        alone, named = (ddrs.certify(Recorder(), images[i], sigmas[i], 20, 100, 0.01, noise=noise) for noise in (None, str(name)))
        assert alone.noise == named.noise == name
        assert [alone.radius, alone.off_grid] == [named.radius, named.off_grid] == [found.radius[i], found.off_grid[i]]
    assert best_noise(far, "gaussian", 0.5) == "gaussian" and best_noise(torch.tensor([float("nan")]), "uniform", 0.5) == "uniform"
    assert best_noise(LEVEL_IMAGE, "uniform", 0.5) == "uniform-lattice"
    assert best_noise(LEVEL_IMAGE.double(), "gaussian", 0.5) == "lattice", "its float64 values are float32 ones"
    assert best_noise(torch.arange(256).double() / 255, "gaussian", 0.5) == "gaussian", "these are not"


class Mostly(nn.Module):
    """Votes for class 0 in that share of samples, by their first value's fraction of a small part."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = (x[:, 0] * 4096 / 64).frac().abs() < self.share
        return torch.stack([first.float(), (~first).float()], 1)


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
    seen = torch.cat(model.seen[PASSES + 1 :]).numpy()  # after the checks before any work
    assert len(seen) == 120
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
    with pytest.raises(DdrsError, match=r"^noise on the pixel grid: sigma = \S+: must be at most 4$"):
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
    "fine grid": lambda other: OnGrid(FINE["gaussian"] * 4),  # at sigma 0.25
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
def test_a_reader_of_mantissas_gets_a_false_certificate_from_a_float32_sum(noise: str, reader: str, monkeypatch: pytest.MonkeyPatch):
    """Voracek and Hein (2023): the low bits of x + noise tell what the noise was added to. So the readers are some that can."""
    kind = CERTIFIABLE[noise]

    class Summed(FineGrid):
        def place(self, image: torch.Tensor) -> torch.Tensor:
            return image

        def copies(self, out: torch.Tensor, placed: torch.Tensor, bits: Bits, start: int) -> None:
            drawn = np.random.default_rng([start, int(bits.words(0, 1)[0])]).random(out.shape, np.float32)
            if self.base == "gaussian":
                noise = np.random.default_rng([start, int(bits.words(0, 1)[0])]).standard_normal(out.shape, np.float32)
                torch.add(placed, torch.from_numpy(noise) * float(self.step) * 4096, out=out)
            else:
                torch.add(placed, torch.from_numpy(drawn) * 2 - 1, out=out)

        def off_grid(self, image: torch.Tensor) -> float:
            return 0.0

    monkeypatch.setattr(type(kind), "at", lambda self, sigma: Summed(self.base, sigma))
    assert outcome(noise, reader) == (0, 1)


@pytest.mark.parametrize(("noise", "reader"), [pair for pair in product(CERTIFIABLE, READERS) if pair != ("uniform-lattice", "cannot be")])
def test_no_reader_of_mantissas_gets_a_false_certificate(noise: str, reader: str):
    one, other = outcome(noise, reader)
    assert one == other


@pytest.mark.parametrize(("noise", "reader"), [("lattice", "cannot be"), ("lattice", "pixel grid"), ("uniform-lattice", "pixel grid")])
def test_the_readers_would_find_a_lattice_that_leaks(noise: str, reader: str, monkeypatch: pytest.MonkeyPatch):
    """Of one that adds i / 255 to the image in float32, a copy of which is not the same float for the same k + i."""
    usual = PixelGrid.copies

    def leaking(self: PixelGrid, out: torch.Tensor, placed: torch.Tensor, bits: Bits, start: int) -> None:
        usual(self, out, torch.zeros_like(placed), bits, start)
        out.add_(placed)

    monkeypatch.setattr(PixelGrid, "place", lambda self, image: image)
    monkeypatch.setattr(PixelGrid, "copies", leaking)
    assert outcome(noise, reader) == (0, 1)
