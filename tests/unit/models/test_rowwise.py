"""A model whose scores of an image are no function of that image alone is refused before any work, wherever one comes in, and said why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddrs.certification.engine import certify
from ddrs.errors import DdrsError
from ddrs.models.architectures import build_model
from ddrs.models.rowwise import check_rows_alone
from ddrs.sigma.search import optimize_sigma

SHAPE = (1, 6, 6)
DICE, COMPANY, PLACE = "differently each time", "depend on the other images of its batch", "depend on its place in the batch"


class Net(nn.Module):
    """A small network with `touch` between its layers, which sees the features (batch, 24) and the module."""

    def __init__(self, touch: Callable[[torch.Tensor, Any], torch.Tensor]):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.touch = nn.Linear(36, 24), nn.Linear(24, 3), touch
        self.register_buffer("seen", torch.zeros(()))
        self.hidden = [nn.Dropout(0.2)]  # in a list: eval() does not reach it
        self.norm, self.bare = nn.BatchNorm1d(24), nn.BatchNorm1d(24, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.touch(torch.relu(self.first(x.flatten(1))), self))


def by_seed(x: torch.Tensor, net: Any) -> torch.Tensor:
    torch.manual_seed(5)
    return x + torch.randn_like(x)


def counted(x: torch.Tensor, net: Any) -> torch.Tensor:
    net.seen = net.seen + len(x)
    return x


def rebuilt(x: torch.Tensor, net: Any) -> torch.Tensor:
    return x * (1 + 0.1 * net.seen.add_(1))


def paired(x: torch.Tensor, net: Any) -> torch.Tensor:
    return x + 0.1 * x.view(len(x) // 2, 2, -1).flip(1).reshape(x.shape)


def in_halves(x: torch.Tensor, net: Any) -> torch.Tensor:
    return x + 0.1 * x.roll(len(x) // 2, 0)


REFUSED = {
    "batch mean": (lambda x, net: x + 0.05 * x.mean(0), COMPANY),
    "batch maximum": (lambda x, net: x / x.amax(), COMPANY),
    "functional batch norm": (lambda x, net: F.batch_norm(x, None, None, training=True), COMPANY),
    "train() inside forward": (lambda x, net: net.norm.train()(x), COMPANY),
    "no running statistics": (lambda x, net: net.bare(x), COMPANY),
    "softmax over the batch": (lambda x, net: x + x.softmax(0), COMPANY),
    "the neighbour": (lambda x, net: x + 0.1 * x.roll(1, 0), COMPANY),
    "pairs": (paired, COMPANY),
    "half a batch away": (in_halves, COMPANY),
    "a row that all read": (lambda x, net: x + 0.1 * x[3:4], f"{COMPANY}|{PLACE}"),
    "dropout": (lambda x, net: F.dropout(x, 0.1), DICE),
    "rare dropout": (lambda x, net: F.dropout(x, 0.02), DICE),
    "dropout in a list": (lambda x, net: net.hidden[0](x), DICE),
    "added noise": (lambda x, net: x + 0.01 * torch.randn_like(x), DICE),
    "one dice for all": (lambda x, net: x + torch.rand(1), DICE),
    "a state that moves": (rebuilt, DICE),
    "noise of a fixed seed": (by_seed, f"{PLACE}|{DICE}"),  # a trace, which certification may run, seeds once
}
PASSED = {
    "nothing": lambda x, net: x,
    "batch norm in eval mode": lambda x, net: net.norm(x),
    "layer norm": lambda x, net: F.layer_norm(x, (24,)),
    "dropout in eval mode": lambda x, net: F.dropout(x, 0.5, training=net.training),
    "a count": counted,
    "large scores": lambda x, net: x + 1e6,
    "masked": lambda x, net: x.masked_fill(x < 0.1, -torch.inf).softmax(1),
}


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("batch_size", [1, 64])
def test_it_is_not_certified(name: str, batch_size: int):
    touch, why = REFUSED[name]
    with pytest.raises(DdrsError, match=why) as error:
        certify(Net(touch), images(), 0.25, n0=10, n=50, batch_size=batch_size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("strategy", ["ascent", "grid"])
def test_no_sigma_is_searched_for_it(name: str, strategy: str):
    touch, why = REFUSED[name]
    with pytest.raises(DdrsError, match=why):
        optimize_sigma(Net(touch), images(1), 0.25, iterations=2, strategy=strategy)


@pytest.mark.parametrize("name", PASSED)
def test_a_function_of_the_image_is_certified_and_searched(name: str):
    model = Net(PASSED[name])
    certify(model, images(), 0.25, n0=10, n=50)
    optimize_sigma(model, images(), 0.25, iterations=2)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_less_than_float32_is_checked_too(precision: str):
    certify(Net(PASSED["layer norm"]), images(), 0.25, n0=10, n=50, precision=precision)
    for name in ("functional batch norm", "dropout", "noise of a fixed seed"):
        touch, why = REFUSED[name]
        with pytest.raises(DdrsError, match=why):
            certify(Net(touch), images(), 0.25, n0=10, n=50, precision=precision)


@pytest.mark.parametrize("architecture", ["small_cnn", "resnet18"])
def test_a_known_architecture_passes_at_several_batch_sizes(architecture: str):
    model = build_model(architecture, (1, 28, 28) if architecture == "small_cnn" else (3, 32, 32), 10).eval()
    for batch in (16, 33):
        check_rows_alone(model, torch.rand(2, *((1, 28, 28) if architecture == "small_cnn" else (3, 32, 32))), batch)


def test_a_model_of_the_users_own_is_refused_as_training_builds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    text = "from torch import nn\n\n\ndef build(shape, classes):\n    return nn.Sequential(nn.Flatten(), {}nn.Linear(36, classes))\n"
    for module, layer in (("alone_for_rowwise", ""), ("joined_for_rowwise", "nn.BatchNorm1d(36, track_running_stats=False), ")):
        (tmp_path / f"{module}.py").write_text(text.format(layer))
    build_model("alone_for_rowwise:build", SHAPE, 3)
    with pytest.raises(DdrsError, match=f"architecture 'joined_for_rowwise:build': the model's scores of an image {COMPANY}"):
        build_model("joined_for_rowwise:build", SHAPE, 3)


def test_torchs_defaults_do_not_matter():
    model, x = Net(PASSED["nothing"]).eval(), images()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            check_rows_alone(model, x)
    finally:
        torch.set_default_dtype(torch.float32)


def test_torchs_own_dice_are_not_touched_whether_it_is_refused_or_not():
    for touch in (PASSED["nothing"], REFUSED["dropout"][0], by_seed):
        model = Net(touch)
        before = torch.get_rng_state()
        try:
            check_rows_alone(model.eval(), images())
        except DdrsError:
            assert touch is not PASSED["nothing"]
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("touch", [counted, lambda x, net: x + 0 * net.seen.add_(1), lambda x, net: x + 0 * net.norm.train()(x)])
def test_buffers_that_move_in_forward_are_where_they_were(touch: Callable):
    model = Net(touch).train()
    model.norm.eval()
    buffers, modes = dict(model.named_buffers()), [module.training for module in model.modules()]
    content = {name: held.clone() for name, held in buffers.items()}
    certify(model, images(), 0.25, n0=10, n=50)
    for strategy in ("ascent", "grid"):
        optimize_sigma(model, images(), 0.25, iterations=2, strategy=strategy, objective_class="fixed")
    with pytest.raises(DdrsError):
        certify(model, images(), 0.25, n0=10, n=50, batch_size=0)
    assert all(held is buffers[name] and torch.equal(held, content[name]) for name, held in model.named_buffers())
    assert [module.training for module in model.modules()] == modes


def test_the_check_changes_no_certificate():
    model, x = Net(PASSED["nothing"]), images()
    found = [certify(model, x, 0.25, n0=10, n=200, batch_size=size) for size in (1, 16, 128)]
    assert all(np.array_equal(one.counts, found[0].counts) for one in found)
