"""Certification, with models whose smoothed probabilities are known exactly and with models that record what they see."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from torch import nn

from ddrs.certification.engine import Certificate, certify
from ddrs.errors import DdrsError
from ddrs.models.rowwise import PASSES
from ddrs.noise.laws import CERTIFIABLE, get_noise
from ddrs.noise.streams import NoiseStream, example_digest
from ddrs.statistics.bounds import lower_confidence_bound
from tests.conftest import HalfSpace

FIELDS = Certificate.__dataclass_fields__


class Recorder(nn.Module):
    """A model that keeps every batch it was given, and the training flag at that time."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.batches, self.modes = inner, [], []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(x.clone())
        self.modes.append(self.training)
        return self.inner(x)


@pytest.fixture
def cnn() -> nn.Module:
    """A network with BatchNorm whose votes are spread over several classes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)).eval()
    with torch.no_grad():
        model[-1].bias -= model(torch.rand(500, 1, 8, 8)).mean(0)
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def assert_same(a: Certificate, b: Certificate) -> None:
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


# ---- the guarantee


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_bound_and_radius_fail_at_rate_alpha(half_space: HalfSpace, noise: str, alpha: float):
    """Over 2,000 independent certificates, p_lower exceeds the exact p, and the radius the distance, in a share of at most about alpha."""
    distance, sigma, times = 0.25, 0.5, 2000
    p = ndtr(distance / sigma) if noise == "gaussian" else (1 + distance / sigma) / 2
    found = certify(
        half_space, torch.tensor([[distance, 0.3]]).repeat(times, 1), sigma, 10, 500, alpha, noise=noise, example_ids=range(times), batch_size=500
    )
    assert len(np.unique(found.n_top)) > 20, "the certificates are independent"
    beyond = found.p_lower > p
    assert alpha * times / 4 < beyond.sum() + (alpha < 0.01) <= alpha * times + 4 * np.sqrt(alpha * times)
    np.testing.assert_array_equal((found.radius > distance)[found.prediction == 1], beyond[found.prediction == 1])
    right = found.prediction == 1
    assert (found.n_top[right] / 500).mean() == pytest.approx(p, abs=0.01)


@pytest.mark.parametrize(("noise", "distances"), [("gaussian", (0.1, 0.5, 1.0)), ("uniform", (0.1, 0.25, 0.45))])
@pytest.mark.parametrize("side", [-1, 1])
def test_radius_comes_close_to_the_distance(noise: str, distances: tuple[float, ...], side: int):
    """The distance to a hyperplane: in l2 for Gaussian noise, along one axis for uniform noise."""
    model = HalfSpace([3.0, 4.0] if noise == "gaussian" else [2.0, 0.0], b=1.0)
    foot, normal = (torch.tensor([0.12, 0.16]), torch.tensor([0.6, 0.8])) if noise == "gaussian" else (torch.tensor([0.5, 0]), torch.tensor([1.0, 0]))
    model.b = float(model.w @ foot)
    x = torch.stack([foot + side * distance * normal for distance in distances])
    found = certify(model, x, 0.5, 1000, 20_000, 0.001, noise=noise, batch_size=5000)
    assert found.prediction.tolist() == [int(side > 0)] * 3
    assert (found.radius <= distances).all()
    np.testing.assert_allclose(found.radius, distances, atol=0.06)  # the bound gives up about 3 standard errors


def test_fields_follow_from_the_votes(cnn: nn.Module, images: torch.Tensor):
    """The bound of the votes for the class picked beforehand, and the radius of the bound; an abstention has radius 0."""
    found = certify(cnn, images, 0.125, n0=2000, n=300, alpha=0.01)
    assert ((found.counts > 0).sum(1) > 1).all() and found.prediction.min() == -1 < found.prediction.max(), "the images are not trivial"
    assert found.counts.sum(1).tolist() == [300] * 5 and found.n.tolist() == [300] * 5
    assert found.n_top[found.prediction >= 0].tolist() == found.counts.max(1)[found.prediction >= 0].tolist()
    assert all(top in counts for top, counts in zip(found.n_top, found.counts, strict=True)), "where two classes tie either may have been picked"
    np.testing.assert_array_equal(found.p_lower, lower_confidence_bound(found.n_top, 300, 0.01))
    np.testing.assert_array_equal(found.p_upper, 1 - found.p_lower)
    assert np.isnan(found.z).all()
    assert (found.off_grid > 0).all() and found.noise.tolist() == ["gaussian"] * 5
    radius = np.where(found.p_lower > 0.5, 0.125 * ndtri(found.p_lower) - found.off_grid, 0.0)
    np.testing.assert_array_equal(found.radius, np.maximum(radius, 0.0))
    np.testing.assert_array_equal(found.prediction, np.where(radius > 0, found.counts.argmax(1), -1))
    assert [found.prediction.dtype, found.radius.dtype, found.counts.dtype, found.p_lower.dtype] == [np.int64, np.float64, np.int64, np.float64]


def test_abstains_where_no_class_has_a_majority(half_space: HalfSpace):
    found = certify(half_space, torch.tensor([[0.0, 0.0], [5.0, 0.0]]), 0.5, 100, 1000)
    assert found.prediction.tolist() == [-1, 1]
    assert found.radius[0] == 0.0 and found.radius[1] == pytest.approx(0.5 * ndtri(0.001 ** (1 / 1000)), rel=1e-12)
    assert found.p_lower[0] <= 0.5 and found.counts[0].sum() == 1000


def test_the_class_is_not_repicked_from_the_estimation_samples(half_space: HalfSpace):
    """Where one selection sample picks the minority class, that class's bound counts: the certificate abstains."""
    times = 1000
    x = torch.tensor([[0.25, 0.0]]).repeat(times, 1)
    found = certify(half_space, x, 0.5, 1, 500, 0.001, seed=1, example_ids=range(times), batch_size=500)
    minority = found.n_top < 250
    assert minority.mean() == pytest.approx(ndtr(-0.5), abs=0.06), "one sample errs with probability .31"
    assert (found.prediction[minority] == -1).all() and (found.prediction[~minority] == 1).all()


# ---- which samples are used


@pytest.mark.parametrize("batch_size", [10, 7, 64])
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
def test_the_model_sees_the_two_streams(half_space: HalfSpace, batch_size: int, noise: str):
    """n0 samples of one stream, then n of another, none of them twice; the votes are those of exactly these, in batches of one shape."""
    model, x, sigma = Recorder(half_space), torch.tensor([0.1, 0.2]), 0.1
    found = certify(model, x, sigma, n0=20, n=130, alpha=0.01, noise=noise, seed=3, split="test", batch_size=batch_size)
    assert not any(model.modes)
    del model.batches[: PASSES + 1]  # of the checks before any work
    assert {tuple(batch.shape) for batch in model.batches} == {(batch_size, 2)}, "always the same shape: the last batch is padded"
    assert len(model.batches) == -(-150 // batch_size), "no pass waits for the selection"
    selection, estimation, _ = torch.cat(model.batches).split([20, 130, len(model.batches) * batch_size - 150])
    assert len(torch.unique(torch.cat([selection, estimation]), dim=0)) == 150, "selection and estimation share no sample"
    for seen, purpose in ((selection, "select-class"), (estimation, "estimate")):
        law = get_noise(noise).at(float(np.float32(sigma)))
        assert torch.equal(seen, NoiseStream(law, (2,), 3, purpose, "test", example_digest(x), x).draw(len(seen)))
    votes = torch.bincount(half_space(estimation).argmax(1), minlength=2)
    assert found.counts.tolist() == votes.tolist()
    assert found.n_top == votes[half_space(selection).argmax(1).bincount(minlength=2).argmax()]


def test_sigma_is_rounded_to_float32_and_that_value_is_used():
    """The noise at the origin is on the grid of float32(0.1), and the radius is of that value too, in float64."""
    model, rounded = Recorder(HalfSpace([1.0, 0.0], b=-0.1)), np.float32(0.1)
    found = certify(model, torch.zeros(2), 0.1, 10, 100, 0.01, example_ids=["a"], batch_size=10, noise="gaussian")
    seen = torch.cat(model.batches[PASSES + 2 :])
    assert torch.equal(seen, NoiseStream(get_noise("gaussian").at(float(rounded)), (2,), 0, "estimate", "", "a").draw(100))
    steps = seen.double().numpy() / (np.float64(rounded) / 4096)
    np.testing.assert_array_equal(np.rint(steps).astype(np.float32) * (rounded / np.float32(4096)), seen.numpy())
    assert found.radius == np.float64(rounded) * ndtri(found.p_lower)
    assert found.radius != 0.1 * ndtri(found.p_lower) and found.radius > 0


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_sigma_per_image_is_aligned_with_the_images(cnn: nn.Module, images: torch.Tensor, kind):
    sigmas = [0.1, 0.2, 0.3, 0.5, 1.0]
    found = certify(cnn, images, kind(sigmas), 20, 200, 0.01)
    for i, sigma in enumerate(sigmas):
        alone = certify(cnn, images[i], sigma, 20, 200, 0.01)
        assert [found.radius[i], found.counts[i].tolist()] == [alone.radius, alone.counts.tolist()]
    assert len(set(map(tuple, found.counts))) > 1


# ---- nothing but the key counts


def test_an_image_gets_the_same_votes_alone_and_in_any_batch_and_order(cnn: nn.Module, images: torch.Tensor):
    whole = certify(cnn, images, 0.5, 30, 300, 0.01)
    order = [3, 0, 4, 2, 1]
    permuted = certify(cnn, images[order], 0.5, 30, 300, 0.01)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(permuted, name), getattr(whole, name)[order])
    for i, image in enumerate(images):
        alone = certify(cnn, image, 0.5, 30, 300, 0.01)
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(alone, name), getattr(whole, name)[i])
    assert ((whole.counts > 0).sum(1) > 1).any(), "the votes are not trivial"


@pytest.mark.parametrize("batch_size", [1, 37, 400])
def test_batch_size_changes_no_count(cnn: nn.Module, images: torch.Tensor, batch_size: int):
    assert_same(certify(cnn, images[:2], 0.5, 30, 300, 0.01, batch_size=batch_size), certify(cnn, images[:2], 0.5, 30, 300, 0.01, batch_size=100))


def test_more_samples_extend_the_same_stream(half_space: HalfSpace):
    """The votes of n samples are part of the votes of more: prefixes agree, whatever n is."""
    x = torch.tensor([0.1, 0.0])
    few, more = (certify(half_space, x, 0.5, 10, n, 0.01, batch_size=50).counts for n in (130, 131))
    assert (more - few).tolist() in ([0, 1], [1, 0])


@pytest.mark.parametrize("change", [{"seed": 1}, {"split": "validation"}, {"example_ids": ["other"]}])
def test_seed_split_and_example_change_the_samples(half_space: HalfSpace, change: dict):
    x = torch.tensor([[0.1, 0.0]])
    base = {"seed": 0, "split": "test", "example_ids": ["one"]}
    first, again, changed = (certify(half_space, x, 0.5, 10, 2000, 0.01, **{**base, **one}).counts.tolist() for one in ({}, {}, change))
    assert first == again != changed


@pytest.mark.parametrize("shape", [(3,), (1, 8, 8)])
def test_a_single_input_gives_scalars(shape: tuple[int, ...]):
    model = HalfSpace([1.0] * int(np.prod(shape)))
    x = torch.rand(shape)
    one, batch = certify(model, x, 0.25, 10, 100, 0.01), certify(model, x[None], 0.25, 10, 100, 0.01)
    assert all(np.ndim(getattr(one, name)) == 0 for name in FIELDS if name != "counts") and one.counts.shape == (2,)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(batch, name)[0], getattr(one, name))
        assert len(getattr(batch, name)) == 1


# ---- the model is left as it was


PROTOCOLS = {"fixed": {}, "two-stage": {}, "sequential": {"radii": [0.0, 0.05, 0.1, 0.2, 0.4, 0.8]}}


@pytest.mark.parametrize("noise", ["gaussian", "lattice", "uniform", "uniform-lattice"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_batch_size_order_and_company_change_nothing(cnn: nn.Module, images: torch.Tensor, protocol: str, noise: str):
    """Images that share batches and finish at different times, at a sigma each, get the counts that each gets alone."""
    grid, sigmas = (images * 255).round() / 255, np.array([0.0625, 0.25, 0.5, 0.125, 0.03])
    settings = {"n0": 30, "n": 1000, "alpha": 0.01, "protocol": protocol, "noise": noise, **PROTOCOLS[protocol]}
    whole = certify(cnn, grid, sigmas, batch_size=100, **settings)
    assert len(set(whole.n)) > 1 or protocol == "fixed", "the images do not end together"
    assert ((whole.counts > 0).sum(1) > 1).sum() >= 4 and whole.radius.max() > 0, "the votes are not trivial"
    for batch_size in (7, 64, 700):
        assert_same(certify(cnn, grid, sigmas, batch_size=batch_size, **settings), whole)
    order = [3, 0, 4, 2, 1]
    shuffled = certify(cnn, grid[order], sigmas[order], batch_size=64, **settings)
    alone = [certify(cnn, image, sigma, batch_size=64, **settings) for image, sigma in zip(grid, sigmas, strict=True)]
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(whole, name)[order], err_msg=name)
        np.testing.assert_array_equal(np.stack([getattr(one, name) for one in alone]), getattr(whole, name), err_msg=name)


def test_more_images_than_fit_a_batch_are_served_in_turn(half_space: HalfSpace):
    """Many images and few samples each, in batches that hold many of them: each still gets its own."""
    x = torch.linspace(-1, 1, 60)[:, None] * torch.tensor([[1.0, 0.0]])
    ids = [f"image {i}" for i in range(60)]
    many = certify(half_space, x, 0.5, 10, 40, 0.01, example_ids=ids, batch_size=256)
    few = certify(half_space, x, 0.5, 10, 40, 0.01, example_ids=ids, batch_size=3)
    assert_same(many, few)
    for i in (0, 29, 30, 59):
        noisy = NoiseStream(CERTIFIABLE[str(many.noise[i])].at(0.5), (2,), 0, "estimate", "", ids[i], x[i]).draw(40)
        assert many.counts[i].tolist() == half_space(noisy).argmax(1).bincount(minlength=2).tolist()


@pytest.mark.parametrize("noise", ["gaussian", "lattice"])
def test_threads_change_no_count(cnn: nn.Module, images: torch.Tensor, noise: str):
    """Noise is drawn by as many threads as torch has, the parts of a batch in any order."""
    grid = (images * 255).round() / 255
    before = certify(cnn, grid, 0.5, 30, 1000, 0.01, noise=noise, batch_size=250)
    torch.set_num_threads(3)
    try:
        assert_same(certify(cnn, grid, 0.5, 30, 1000, 0.01, noise=noise, batch_size=250), before)
    finally:
        torch.set_num_threads(1)


def mixed_model(broken: bool = False) -> nn.Module:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float("nan")

    model = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Sequential(nn.Linear(8, 3), Broken() if broken else nn.Identity()))
    model[0].weight.requires_grad_(False)
    return mixed_model_modes(model)


def mixed_model_modes(model: nn.Module) -> nn.Module:
    model.train()
    model[1].eval()
    model[3].eval()
    return model


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_as_it_was(broken: bool):
    """Modes per module, parameters, BatchNorm statistics and gradients; also when certification fails half-way."""
    model = mixed_model(broken)
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    if broken:
        with pytest.raises(DdrsError, match="NaN or infinite"):
            certify(model, torch.zeros(2), 0.5, 10, 100, 0.01)
    else:
        first = certify(model, torch.zeros(3, 2), 0.5, 10, 100, 0.01)
        assert_same(first, certify(model, torch.zeros(3, 2), 0.5, 10, 100, 0.01))
        assert_same(first, certify(model.eval(), torch.zeros(3, 2), 0.5, 10, 100, 0.01))
        mixed_model_modes(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in model.parameters()) and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_modes_are_restored_after_success():
    model = mixed_model()
    modes = [module.training for module in model.modules()]
    certify(model, torch.zeros(2), 0.5, 10, 100, 0.01)
    assert [module.training for module in model.modules()] == modes == [True, True, False, True, False, False, False]


# ---- arguments


def test_radii_may_be_any_sequence(half_space: HalfSpace):
    """A list, a tuple or an array, as other people's grids are."""
    x, settings = torch.tensor([0.5, 0.0]), {"n0": 10, "n": 500, "alpha": 0.01, "protocol": "sequential"}
    found = certify(half_space, x, 0.5, radii=[0.0, 0.25], **settings)
    assert found.radius == 0.25
    assert_same(certify(half_space, x, 0.5, radii=(0.0, 0.25), **settings), found)
    assert_same(certify(half_space, x, 0.5, radii=np.array([0.0, 0.25]), **settings), found)


# ---- errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n0": 0}, r"n0: .*greater than or equal to 1 \(got 0\)"),
        ({"n0": -3}, r"n0: .*greater than or equal to 1 \(got -3\)"),
        ({"n0": 2.5}, r"n0: .*integer.*2\.5"),
        ({"n": 6}, "n = 6 is too small.*at least 7"),
        ({"n": 0}, r"n: .*greater than or equal to 1 \(got 0\)"),
        ({"alpha": 0.0}, r"alpha: .*greater than 0 \(got 0\.0\)"),
        ({"alpha": 1.0}, r"alpha: .*less than 1 \(got 1\.0\)"),
        ({"alpha": float("nan")}, r"alpha: .*finite number \(got nan\)"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": -0.5}, "sigma"),
        ({"sigma": float("nan")}, "sigma"),
        ({"sigma": float("inf")}, "sigma"),
        ({"sigma": "0.5"}, "sigma"),
        ({"sigma": [0.5, 0.5]}, "one per image"),
        ({"sigma": np.full((3, 1), 0.5)}, "one per image"),
        ({"sigma": [0.5, 0.0, 0.5]}, "sigma"),
        ({"sigma": 1e-60}, "sigma"),
        ({"sigma": 1e60}, "sigma"),
        ({"noise": "laplace"}, "laplace"),
        ({"example_ids": ["a", "b"]}, "2 ids for 3 images"),
        ({"batch_size": -1}, "batch_size = -1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"protocol": "horvath"}, "protocol: .*'fixed', 'sequential' or 'two-stage'"),
        ({"protocol": "sequential"}, "protocol sequential: needs radii"),
        ({"protocol": "sequential", "radii": [0.5, 0.25]}, r"radii: must be increasing, got \[0\.5, 0\.25\]"),
        ({"protocol": "sequential", "radii": [0.25, 0.25]}, "radii: must be increasing"),
        ({"protocol": "sequential", "radii": [-0.25, 0.25]}, r"radii\.0: .*greater than or equal to 0 \(got -0\.25\)"),
        ({"protocol": "sequential", "radii": [0.25, float("inf")]}, r"radii\.1: .*finite"),
        ({"protocol": "sequential", "radii": [0.25], "bound": "joint"}, "bound: joint is for protocols fixed and two-stage"),
        ({"bound": "joint", "n": 7}, "n = 7 is too small to certify anything at alpha = 0.005; at least 8 is needed"),
        ({"bound": "upper"}, "bound: .*'binary' or 'joint'"),
        ({"precision": "float8"}, "precision: .*'float32', 'tf32'"),
        ({"precision": "tf32"}, "precision 'tf32': needs a CUDA device"),
        ({"spending": "linear"}, "spending: .*'sqrt' or 'log'"),
        ({"radius_loss": -0.1}, "radius_loss: .*greater than or equal to 0"),
        ({"x": torch.full((3, 1, 2, 2), 1.5)}, r"outside \[0, 1\]"),
        ({"x": torch.full((3, 1, 2, 2), -0.01)}, r"outside \[0, 1\]"),
        ({"x": torch.full((3, 1, 2, 2), float("nan"))}, r"outside \[0, 1\]"),
        ({"noise": "lattice", "x": torch.full((3, 2), 0.3)}, "no multiple of 1/255.*round it first"),
        ({"x": torch.zeros(0, 2)}, "image|input"),
        ({"x": torch.tensor(0.5)}, "image|input|shape"),
    ],
    ids=lambda value: "-".join(map(str, value)) + "=" + str(next(iter(value.values())))[:18] if isinstance(value, dict) else "",
)
def test_bad_arguments_are_refused(half_space: HalfSpace, change: dict, message: str):
    """In one line; sigma is checked as the float32 that it is used as."""
    arguments = {"x": torch.zeros(3, 2), "sigma": 0.5, "n0": 10, "n": 100, "alpha": 0.01, **change}
    with pytest.raises(DdrsError, match=message) as caught:
        certify(half_space, **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (lambda x: torch.full((len(x), 3), torch.nan), "NaN"),
        (lambda x: torch.tensor([[0.0, torch.inf]]).expand(len(x), 2), "infinite"),
        (lambda x: torch.where(torch.arange(len(x))[:, None] == 3, torch.nan, torch.zeros(len(x), 2)), "NaN"),
        (lambda x: torch.zeros(len(x)), r"shape \(16,\)"),
        (lambda x: torch.zeros(len(x), 1), r"shape \(16, 1\)"),
        (lambda x: torch.zeros(len(x) - 1, 2), r"shape \(15, 2\)"),
        (lambda x: torch.zeros(len(x), 2, 1), r"shape \(16, 2, 1\)"),
    ],
    ids=["nan", "inf", "one nan", "no classes", "one class", "other batch", "too many axes"],
)
def test_bad_scores_are_refused(outcome, message: str):
    class Bad(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return outcome(x)

    with pytest.raises(DdrsError, match=message):
        certify(Bad(), torch.zeros(2), 0.5, 20, 100, 0.01, batch_size=20)


def test_a_nan_input_is_refused(half_space: HalfSpace):
    with pytest.raises(DdrsError, match="NaN"):
        certify(half_space, torch.tensor([0.1, float("nan")]), 0.5, 10, 100, 0.01)
