"""Vectors far from 0 or not finite: float32 can not hold their noisy copies, so nothing is certified of them."""

import numpy as np
import pytest
import torch

import ddrs
from ddrs.errors import DdrsError
from ddrs.noise.lattice import check_on_grid, check_on_scale
from ddrs.noise.laws import CERTIFIABLE, LATTICES
from ddrs.noise.samplers import FINE, LARGEST, FineGrid, PixelGrid, largest
from tests.conftest import HalfSpace


@pytest.mark.parametrize("noise", list(CERTIFIABLE))
@pytest.mark.parametrize("value", [2.0**24, -(2.0**24), 3e38])
def test_a_vector_whose_noise_float32_loses_is_refused(noise: str, value: float):
    """At 2^24 float32 steps are 2: the exact probability of x + noise >= 2^24 is .5, the votes were 98 %."""
    with pytest.raises(DdrsError, match=r"^image 7: holds a value of size .* too coarse") as refused:
        ddrs.certify(HalfSpace([1.0, 0.0], value), torch.tensor([value, 0.0]), 0.25, 10, 100, 0.01, noise=noise, example_ids=[7])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("noise", list(CERTIFIABLE))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_a_vector_that_is_not_finite_in_float32_is_refused_before_the_model_runs(noise: str, value: float):
    seen = []
    model = torch.nn.Identity()
    model.register_forward_hook(lambda *given: seen.append(given))
    with pytest.raises(DdrsError, match=r"^image 7: holds NaN or infinite values$"):
        ddrs.certify(model, torch.tensor([0.0, value], dtype=torch.float64), 0.25, 10, 100, 0.01, noise=noise, example_ids=[7])
    assert not seen


@pytest.mark.parametrize("name", list(LATTICES))
@pytest.mark.parametrize("sigma", [0.25, 4.0])
def test_the_largest_vector_on_the_grid_that_passes_has_every_copy_at_2_to_the_24_at_most(name: str, sigma: float):
    noise = LATTICES[name]
    sampler = noise.at(sigma)
    assert isinstance(sampler, PixelGrid)
    k = 2**24 + sampler.table.smallest
    at_limit = torch.tensor([-k, k], dtype=torch.float64) / 255
    check_on_scale(at_limit, noise, sigma, "x")
    with pytest.raises(DdrsError, match="too coarse"):
        check_on_scale(torch.tensor([k + 1], dtype=torch.float64) / 255, noise, sigma, "x")
    sums = np.float32(k) + np.arange(sampler.table.smallest, -sampler.table.smallest + 1, dtype=np.float32)
    assert (np.diff(sums.astype(np.float64)) == 1).all()


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
@pytest.mark.parametrize("sigma", [0.25, 0.1, 1e-20, 1e20])
def test_the_largest_vector_on_a_fine_grid_has_float32_steps_of_a_small_part_of_sigma(noise: str, sigma: float):
    """And every k + i fits an int32, so that none wraps round, whatever the scale."""
    law, rounded = CERTIFIABLE[noise], float(np.float32(sigma))
    limit = LARGEST[law.base] * rounded
    at_limit = torch.tensor([-limit, limit], dtype=torch.float64)
    check_on_scale(at_limit, law, rounded, "x")
    with pytest.raises(DdrsError, match="too coarse"):
        check_on_scale(1.01 * at_limit, law, rounded, "x")
    assert float(np.spacing(np.nextafter(np.float32(limit), np.float32(0)))) / 2 <= rounded / 256
    sampler = law.at(rounded)
    assert isinstance(sampler, FineGrid)
    k = sampler.place(at_limit)
    assert k.dtype == torch.int32 and k.tolist() == [-(2**28), 2**28] and 2**28 + largest(law.base, FINE[law.base]) < 2**29
    assert sampler.off_grid(at_limit) == 0.0


def test_moderate_vectors_still_pass():
    values = torch.arange(-70_000, 70_000).float() / 255
    check_on_grid(values, "x")
    check_on_scale(values, LATTICES["lattice"], 0.25, "x")
