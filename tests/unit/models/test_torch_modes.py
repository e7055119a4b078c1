"""A call's result is the same whatever mode of torch the caller is in, and the caller's modes are left as they were."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from torch import nn

import ddrs
from ddrs.errors import DdrsError


def net() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


IMAGES = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def matmul_precision() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


MODES: dict[str, Callable[[], AbstractContextManager]] = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": default_dtype,
    "default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "matmul precision": matmul_precision,
}


def state() -> tuple:
    return (
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
    )


@pytest.fixture(params=list(MODES))
def mode(request: pytest.FixtureRequest) -> Callable[[], AbstractContextManager]:
    return MODES[request.param]


def test_certify_is_the_same_in_every_mode(mode: Callable[[], AbstractContextManager]):
    seen = set()
    model = net()
    model.register_forward_hook(lambda module, given, scores: seen.add((scores.dtype, torch.is_autocast_enabled("cpu"))))
    expected = ddrs.certify(net(), IMAGES, 0.5, 20, 1000, 0.01)
    with mode():
        before = state()
        found = ddrs.certify(model, IMAGES, 0.5, 20, 1000, 0.01)
        assert state() == before
    assert (found.counts == expected.counts).all() and (found.radius == expected.radius).all()
    assert seen == {(torch.float32, False)}


@pytest.mark.parametrize("strategy", ["ascent", "grid"])
def test_the_search_is_the_same_in_every_mode(mode: Callable[[], AbstractContextManager], strategy: str):
    model, expected = net(), ddrs.optimize_sigma(net(), IMAGES, 0.5, 0.1, 4, 8, strategy=strategy)
    with mode():
        before = state()
        found = ddrs.optimize_sigma(model, IMAGES.clone(), 0.5, 0.1, 4, 8, strategy=strategy)
        assert state() == before
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_a_model_that_inference_mode_made_is_certified():
    expected = ddrs.certify(net(), IMAGES, 0.5, 20, 1000, 0.01)
    with torch.inference_mode():
        model, images = net(), IMAGES.clone()
        assert (ddrs.certify(model, images, 0.5, 20, 1000, 0.01).counts == expected.counts).all()


def test_an_error_leaves_the_modes_as_they_were(mode: Callable[[], AbstractContextManager]):
    model = net()
    with mode():
        before = state()
        with pytest.raises(DdrsError):
            ddrs.certify(model, IMAGES, -1.0)
        with pytest.raises(DdrsError):
            ddrs.optimize_sigma(model, IMAGES, -1.0)
        assert state() == before
