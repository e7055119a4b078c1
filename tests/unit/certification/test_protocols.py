"""The protocols end to end, on models whose probabilities are known exactly: what is claimed, from which samples, and how often falsely."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import beta
from torch import nn

from ddrs.certification.engine import Certificate, certify
from ddrs.certification.protocols import planned_n
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.errors import DdrsError
from ddrs.noise.laws import CERTIFIABLE
from ddrs.noise.streams import NoiseStream, Purpose
from ddrs.statistics.boundaries import Boundaries, boundaries, look_schedule
from tests.conftest import HalfSpace

RADII = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2]
N = 2000
STEP = 1 / 255
LAWS: dict[str, Callable[[float], float]] = {  # of the share of a half space at a distance of u scales
    "gaussian": lambda u: float(ndtr(u)),
    "lattice": lambda u: float(ndtr(u)),
    "uniform": lambda u: (1 + u) / 2,
}


class Bands(nn.Module):
    """Class 0, 1, 2, ... by how many of the increasing limits lie below the first coordinate."""

    def __init__(self, limits: list[float]):
        super().__init__()
        self.register_buffer("limits", torch.tensor(limits))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot((x[:, :1] > self.limits).sum(1), len(self.limits) + 1).float()


def on_the_grid(distance: float) -> tuple[torch.Tensor, HalfSpace, float]:
    """A point of the pixel grid and a half space whose border lies between grid points, and their distance, near the one asked for."""
    steps = round(distance / STEP - 0.5)
    return torch.tensor([STEP * (20 + steps), 0.0]), HalfSpace([1.0, 0.0], b=19.5 * STEP), (steps + 0.5) * STEP


def nulls(radii: list[float], sigma: float, off_grid: float = 0.0) -> list[int]:
    """The smallest z = i/100 with sigma * z >= radius + off_grid, in exact arithmetic."""
    return [math.ceil(100 * (Fraction(radius) + Fraction(off_grid)) / Fraction(sigma)) for radius in radii]


def copies(noise: str, sigma: float, purpose: Purpose, example: object, x: torch.Tensor, count: int) -> torch.Tensor:
    return NoiseStream(CERTIFIABLE[noise].at(float(np.float32(sigma))), (2,), 0, purpose, "", example, x).draw(count)


def sequential(model: nn.Module, x: torch.Tensor, sigma: float | np.ndarray, **more: object) -> Certificate:
    given = {"n0": 50, "n": N, "alpha": 0.01, "protocol": "sequential", "radii": RADII, "batch_size": 500, **more}
    return certify(model, x, sigma, **given)  # type: ignore[arg-type]


# ---- sequential


@pytest.mark.parametrize("noise", LAWS)
@pytest.mark.parametrize("distance", [0.06, 0.15, 0.33, 0.45])
def test_claims_the_radii_that_it_should(noise: str, distance: float):
    """Those six standard errors inside, none beyond; the prediction is the side, and the claim is on the grid of z."""
    sigma = 0.5
    x, model, distance = on_the_grid(distance)
    found = sequential(model, x, sigma, noise=noise, n0=2000)
    p, z = LAWS[noise](distance / sigma), [i / 100 for i in nulls(RADII, sigma, found.off_grid)]
    assert (found.off_grid > 0) == (noise != "lattice") and found.off_grid < 1e-4
    sure = [r for r, one in zip(RADII, z, strict=True) if one < 1 or noise != "uniform" if p - LAWS[noise](one) > 6 * 0.5 / np.sqrt(N)]
    claimed = [r for r in RADII if r <= found.radius]
    assert claimed[: len(sure)] == sure and max(claimed) < distance
    assert found.prediction == 1 and found.z in z
    assert found.radius == pytest.approx(sigma * found.z - found.off_grid, rel=1e-14) and found.radius >= max(claimed)
    assert found.p_lower == pytest.approx(LAWS[noise](found.z), rel=1e-15) and np.isnan(found.p_upper)


def test_an_easy_image_ends_early_and_a_hard_one_never_goes_beyond_n():
    x = torch.tensor([[5.0, 0.0], [0.3 + 1e-3, 0.0], [0.0, 0.0]])
    found = sequential(HalfSpace([1.0, 0.0]), x, 0.5, radii=[0.0, 0.25, 0.3])
    looks = look_schedule(N).tolist()
    assert all(n in looks for n in found.n) and max(found.n) <= N
    assert found.n[0] == looks[0] < found.n[1], "far from every radius that is asked for, and close to one"
    assert found.prediction.tolist() == [1, 1, -1] and found.radius[2] == 0 and found.p_lower[2] == 0 and np.isnan(found.z[2])
    np.testing.assert_array_equal(found.counts.sum(1), found.n)


def by_hand(found: Boundaries, votes: np.ndarray, tested: list[int]) -> tuple[int, int | None]:
    """n and the claimed index of votes (n,) by the plain rule: look by look, null by null."""
    claimed, open_ones = -1, list(tested)
    for j, n in enumerate(found.looks):
        count = int(votes[:n].sum())
        claimed = max([claimed, *(i for i in open_ones if count >= found.certify_at[i, j])])
        lost = min([i for i in open_ones if count <= found.give_up_at[i, j] and i > claimed], default=len(found.z))
        open_ones = [i for i in open_ones if i < lost]
        if max(open_ones, default=-1) <= claimed:
            break
    return int(n), claimed if claimed >= 0 else None


@pytest.mark.parametrize("spending", ["sqrt", "log"])
def test_n_and_claim_are_those_of_the_plain_rule_on_the_estimation_stream(spending: str):
    """The n0 samples pick the class and are not counted; z and p_lower follow from the votes at the looks."""
    model, sigma = HalfSpace([1.0, 0.0]), np.float32(0.3)
    limits = boundaries(0.01 - N * 2 * 2.5e-16, N, spending=spending, law="gaussian")  # n samples of 2 coordinates each pay for the sampler
    x = torch.tensor([[d, 0.1] for d in (-0.9, -0.3, -0.05, 0.0, 0.02, 0.1, 0.21, 0.4, 0.7, 2.0)])
    ids = [f"x{i}" for i in range(len(x))]
    found = sequential(model, x, float(sigma), spending=spending, example_ids=ids, noise="gaussian")
    assert len(set(found.n)) > 2
    for i, one in enumerate(ids):
        picked = int(model(copies("gaussian", sigma, "select-class", one, x[i], 50)).argmax(1).bincount(minlength=2).argmax())
        votes = model(copies("gaussian", sigma, "estimate", one, x[i], N)).argmax(1).numpy()
        tested = [0, *(i for i in nulls(RADII, float(sigma), found.off_grid[i]) if i < len(limits.z))]
        n, claimed = by_hand(limits, votes == picked, tested)
        assert (found.n[i], found.n_top[i]) == (n, (votes[:n] == picked).sum())
        assert found.counts[i].tolist() == np.bincount(votes[:n], minlength=2).tolist()
        # what the null of radius 0 claims at the point of the grid is nothing at an image beside it
        assert found.prediction[i] == (picked if claimed is not None and sigma * claimed / 100 >= found.off_grid[i] else -1)
        if found.prediction[i] != -1:
            assert found.z[i] == claimed / 100 and found.p_lower[i] == pytest.approx(float(ndtr(claimed / 100)), rel=1e-15)


def test_the_class_is_that_of_the_selection_samples_even_where_it_is_the_minority():
    """One selection sample errs with probability .31: such an image abstains, though the other class would be claimed."""
    times = 300
    found = sequential(HalfSpace([1.0, 0.0]), torch.tensor([[0.25, 0.0]]).repeat(times, 1), 0.5, n0=1, example_ids=range(times))
    minority = found.n_top < found.n / 2
    assert minority.mean() == pytest.approx(ndtr(-0.5), abs=0.1)
    assert (found.prediction[minority] == -1).all() and (found.prediction[~minority] == 1).all()


def test_radii_beyond_the_grid_are_never_claimed_and_cost_nothing():
    found = sequential(HalfSpace([1.0, 0.0]), torch.tensor([50.0, 0.0]), 0.5, radii=[0.5, 40.0])
    alone = sequential(HalfSpace([1.0, 0.0]), torch.tensor([50.0, 0.0]), 0.5, radii=[0.5])
    assert (found.radius, found.n, found.z) == (0.5, alone.n, 1.0)


@pytest.mark.parametrize(
    ("noise", "radii"), [("gaussian", []), ("gaussian", [0.0, 0.1, 0.2, 0.3, 0.5]), ("uniform", [0.0, 0.1, 0.2, 0.3]), ("lattice", [0.0, 0.3])]
)
def test_sequential_claims_falsely_at_rate_alpha(noise: str, radii: list[float]):
    """The border is a hair nearer than a radius that is asked for: it is claimed for at most alpha of 2,000 images, and not for far fewer."""
    times, alpha = 2000, 0.05
    x, model, distance = on_the_grid(0.25)
    radii = sorted([*radii, distance + 1e-4])
    z = np.ceil(100 * (distance + 1e-4) / 0.5) / 100
    sigma = np.nextafter(np.float32((distance + 1e-4) / z), np.float32(1))  # so that the null tested is that of the radius itself
    assert LAWS[noise](z) - 1e-3 < LAWS[noise](distance / sigma) < LAWS[noise](z)
    found = certify(
        model,
        x.repeat(times, 1),
        float(sigma),
        20,
        400,
        alpha,
        protocol="sequential",
        radii=radii,
        noise=noise,
        example_ids=range(times),
        batch_size=1000,
    )
    false = (found.radius > distance) & (found.prediction == 1)
    slack = 4 * np.sqrt(alpha * (1 - alpha) / times)
    assert alpha / 3 < false.mean() <= alpha + slack
    assert ((found.prediction == 1) | (found.prediction == -1)).all()


def test_at_a_half_sequential_abstains_but_for_alpha():
    times, alpha = 2000, 0.05
    x, model = torch.zeros(times, 2), HalfSpace([1.0, 0.0])
    found = certify(model, x, 0.5, 20, 400, alpha, protocol="sequential", radii=[0.0, 0.25], example_ids=range(times), batch_size=1000)
    assert alpha / 3 < (found.prediction != -1).mean() <= alpha + 4 * np.sqrt(alpha / times)


# ---- two-stage


def test_the_pilot_plans_n_and_is_not_counted():
    """n follows from the pilot's votes alone, which come from a stream of their own; fresh samples certify."""
    model, sigma, times = HalfSpace([1.0, 0.0]), 0.5, 40
    x = torch.linspace(0.0, 1.5, times)[:, None] * torch.tensor([[1.0, 0.0]])
    settings = ImageCertificateSettings(n0=60, n=N, alpha=0.01, protocol="two-stage")
    found = certify(model, x, sigma, 60, N, 0.01, protocol="two-stage", example_ids=range(times), batch_size=500, noise="gaussian")
    assert len(set(found.n)) > 2 and max(found.n) <= N and set(found.n) <= set(look_schedule(N).tolist())
    for i in range(times):
        pilot = model(copies("gaussian", sigma, "pilot", i, x[i], 60)).argmax(1).bincount(minlength=2)
        assert found.n[i] == planned_n(int(pilot.max()), settings)
        votes = model(copies("gaussian", sigma, "estimate", i, x[i], int(found.n[i]))).argmax(1).bincount(minlength=2)
        assert found.counts[i].tolist() == votes.tolist() and found.n_top[i] == votes[pilot.argmax()]


def test_the_planned_n_loses_what_it_may():
    """By the pilot's share, one step less would lose more than radius_loss * sigma; n needs no more than the largest n."""
    for votes in (30, 40, 50, 58, 60):
        settings = ImageCertificateSettings(n0=60, n=100_000, protocol="two-stage", radius_loss=0.05)
        candidates = look_schedule(100_000).tolist()
        share = votes / 60

        def lost(n: int, share: float = share) -> float:
            return max(0.0, ndtri(beta.ppf(0.001, int(share * 1e5), 1e5 - int(share * 1e5) + 1))) - max(
                0.0, ndtri(beta.ppf(0.001, int(share * n), n - int(share * n) + 1))
            )

        n = planned_n(votes, settings)
        assert n in candidates and lost(n) <= 0.05
        assert n == candidates[0] or lost(candidates[candidates.index(n) - 1]) > 0.05


@pytest.mark.parametrize("bound", ["binary", "joint"])
def test_two_stage_fails_at_rate_alpha(bound: str):
    times, alpha = 2000, 0.05
    found = certify(
        HalfSpace([1.0, 0.0]),
        torch.tensor([[0.25, 0.0]]).repeat(times, 1),
        0.5,
        50,
        400,
        alpha,
        protocol="two-stage",
        bound=bound,
        example_ids=range(times),
        batch_size=1000,
    )
    assert len(set(found.n)) > 1
    level = alpha if bound == "binary" else alpha / 2  # of two classes, one bound fails with the other
    false = (found.radius > 0.25) & (found.prediction == 1)
    assert level / 3 < false.mean() <= level + 4 * np.sqrt(level / times)


# ---- bound: joint


def formula(noise: str, p_a: float, p_b: float, sigma: float) -> float:
    return sigma / 2 * (ndtri(p_a) - ndtri(p_b)) if noise == "gaussian" else sigma * (p_a - p_b)


@pytest.mark.parametrize("protocol", ["fixed", "two-stage"])
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_joint_is_the_formula_on_the_votes(noise: str, protocol: str):
    """p_A and p_B at alpha / 2 each, p_B at most 1 - p_A; abstain iff p_A <= p_B; p_A below 1/2 certifies."""
    model, sigma, alpha = Bands([-0.3, 0.0, 0.2]), 0.5, 0.01
    x = torch.linspace(-0.6, 0.6, 25)[:, None] * torch.tensor([[1.0, 0.0]])
    found = certify(model, x, sigma, 200, 1000, alpha, protocol=protocol, bound="joint", noise=noise, batch_size=500)
    for i in range(len(x)):
        counts, n = found.counts[i], int(found.n[i])
        (classes,) = np.nonzero(counts == found.n_top[i])
        a = int(found.prediction[i]) if found.prediction[i] >= 0 else int(classes[0])
        k_a, k_b = int(counts[a]), int(np.delete(counts, a).max())
        p_a = beta.ppf(alpha / 2, k_a, n - k_a + 1) if k_a else 0.0
        p_b = min(beta.ppf(1 - alpha / 2, k_b + 1, n - k_b) if k_b < n else 1.0, 1 - p_a)
        assert [found.p_lower[i], found.p_upper[i]] == pytest.approx([p_a, p_b], rel=1e-9, abs=1e-14)
        radius = formula(noise, p_a, p_b, sigma) - found.off_grid[i] if p_a > p_b else 0.0
        assert found.n_top[i] == k_a and (found.prediction[i] == -1) == (radius <= 0)
        assert found.radius[i] == pytest.approx(max(radius, 0.0), rel=1e-8)
    certified = found.prediction >= 0
    assert 0 < certified.sum() < len(x) and (found.p_lower[certified] < 0.5).any(), "some are certified by less than half of the votes"


def test_joint_fails_at_rate_alpha():
    """Three classes with 0.45, 0.35 and 0.2: over 2,000 images either bound is wrong in a share of at most alpha."""
    times, alpha, sigma = 2000, 0.05, 0.5
    model = Bands([-sigma * float(ndtri(0.8)), -sigma * float(ndtri(0.45))])
    found = certify(model, torch.zeros(times, 2), sigma, 400, 500, alpha, bound="joint", example_ids=range(times), batch_size=1000)
    right = found.n_top == found.counts[:, 2]
    assert right.mean() > 0.95, "400 samples nearly always pick the class of 0.45"
    wrong = right & ((found.p_lower > 0.45) | (found.p_upper < 0.35))
    assert alpha / 3 < wrong.mean() <= alpha + 4 * np.sqrt(alpha / times)
    beyond = right & (found.radius > formula("gaussian", 0.45, 0.35, sigma))
    assert beyond.mean() <= wrong.mean() and (found.prediction[right] == 2).any()


def test_joint_certifies_more_of_many_classes_and_never_less_than_its_own_binary_form():
    """With p_B = 1 - p_A at alpha / 2 the radius could only be smaller."""
    x = torch.linspace(0.25, 0.6, 8)[:, None] * torch.tensor([[1.0, 0.0]])
    model = Bands([-0.3, 0.0, 0.2])
    joint = certify(model, x, 0.5, 200, 1000, 0.01, bound="joint", batch_size=500)
    binary = certify(model, x, 0.5, 200, 1000, 0.005, batch_size=500)
    assert (joint.radius >= binary.radius).all() and (joint.radius > binary.radius).any()


# ---- the sampler's own error


def test_an_error_of_the_sampler_lowers_every_bound(monkeypatch: pytest.MonkeyPatch):
    """p_A goes down, p_B up and the sequential test's alpha down by it, or it claims a step less; a step must cover it."""
    monkeypatch.setattr("ddrs.noise.samplers.FineGrid.deviation", lambda self, device: 1e-5)
    model, x = HalfSpace([1.0, 0.0]), torch.tensor([0.4, 0.0])
    plain = {"n0": 50, "n": N, "alpha": 0.01, "batch_size": 500, "noise": "gaussian"}
    deviated = certify(model, x, 0.5, **plain)
    joint = certify(model, x, 0.5, bound="joint", **plain)
    stepped = sequential(model, x, 0.5, noise="gaussian")
    monkeypatch.undo()
    assert certify(model, x, 0.5, **plain).p_lower - deviated.p_lower == pytest.approx(2e-5, abs=1e-12)
    sound = certify(model, x, 0.5, bound="joint", **plain)
    assert sound.p_lower - joint.p_lower == pytest.approx(2e-5, abs=1e-12)
    assert joint.p_upper - sound.p_upper == pytest.approx(2e-5, abs=1e-12)
    exact = sequential(model, x, 0.5, noise="gaussian")
    assert stepped.radius <= exact.radius and round(100 * stepped.z) in nulls(RADII, 0.5, stepped.off_grid)
    monkeypatch.setattr("ddrs.noise.samplers.FineGrid.deviation", lambda self, device: 0.01)
    with pytest.raises(DdrsError, match=r"sampler is off by up to 2\.0e-02 per image, more than a step of the grid"):
        sequential(model, x, 0.5, noise="gaussian")
