"""Images and models of other float types: certified as the float32 numbers that they are, or refused."""

import pytest
import torch
from torch import nn

import ddrs
from ddrs.errors import DdrsError
from ddrs.noise.lattice import check_on_grid

ON_GRID = torch.arange(256).float() / 255


def test_what_the_grid_takes_is_the_exact_float32_in_every_dtype():
    check_on_grid(ON_GRID, "x")
    check_on_grid(ON_GRID.double(), "x")
    check_on_grid(torch.tensor([0.0, 1.0], dtype=torch.bfloat16), "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("noise", ["lattice", "uniform-lattice"])
def test_an_image_on_the_grid_of_its_own_dtype_is_refused(dtype: torch.dtype, noise: str):
    """(k / 255) in half precision is up to .002 off k / 255, in float64 2^-26: a radius there would be claimed at another point."""
    image = (torch.arange(256, dtype=torch.float64) / 255).to(dtype)
    with pytest.raises(DdrsError, match=r"^image seven: holds .* no multiple of 1/255, in float32.*round it first") as refused:
        ddrs.certify(nn.Identity(), image, 0.5, 10, 100, 0.01, noise=noise, example_ids=["seven"])
    assert "\n" not in str(refused.value)
    check_on_grid((255 * image.float()).round() / 255, "what the message says")


def net(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 3)).eval().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_of_another_dtype_is_certified_as_its_float32_copy(dtype: torch.dtype, precision: str):
    model, image = net(dtype), torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1))
    found = ddrs.certify(model, image, 0.5, 20, 400, 0.01, precision=precision)
    assert (found.counts == ddrs.certify(net(dtype).float(), image, 0.5, 20, 400, 0.01, precision=precision).counts).all()
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {dtype}


def test_a_model_that_casts_for_itself_runs_as_it_is():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.seen = net(torch.float64), set()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.add(next(self.parameters()).dtype)
            return self.inner(x.double())

    model = Inside()
    ddrs.certify(model, torch.rand(2, 8, 8), 0.5, 20, 400, 0.01)
    assert model.seen == {torch.float64}
