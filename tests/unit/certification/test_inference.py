"""How a model is run: folded, in a stated precision, and always the same function as the user's, which is left as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ddrs.certification.engine import Certificate, certify
from ddrs.certification.inference import running
from ddrs.models.rowwise import PASSES, ROWS
from tests.conftest import HalfSpace


class Hidden(nn.Module):
    """A model as a function that nothing can look into: what is certified is what it computes."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = [inner]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner[0](x)


def used(norm: nn.Module) -> None:
    """Give a BatchNorm statistics and weights that change what it does."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for values, low, high in ((norm.running_mean, -1, 1), (norm.running_var, 0.2, 3), (norm.weight, 0.5, 2), (norm.bias, -1, 1)):
            values.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)


class Net(nn.Module):
    """Two convolutions with BatchNorm and a residual; classes are balanced on noise."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.second, self.other = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 64, 4)
        used(self.norm)
        used(self.other)
        self.eval()
        with torch.no_grad():
            self.head.bias -= self(torch.rand(500, 2, 8, 8)).mean(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(x + self.other(self.second(x))).flatten(1))


class OneConvolutionTwice(nn.Module):
    """One convolution that two BatchNorms follow: it cannot be folded into both. Scores are as small as `scale`."""

    def __init__(self, scale: float):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.first, self.second, self.head = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.Linear(128, 4)
        used(self.first)
        with torch.no_grad():
            self.second.running_mean.fill_(-1.0)
            self.second.running_var.fill_(4.0)
        self.scale = 1.0
        self.eval()
        with torch.no_grad():
            self.head.bias -= self(0.5 + 0.5 * torch.randn(500, 2, 8, 8)).mean(0)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.head(self.second(self.conv(torch.relu(self.first(self.conv(x))))).flatten(1))


class DependsOnData(Net):
    """Python branches on the values of the batch, as torch.fx cannot trace."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = super().forward(x)
        return scores if float(x.mean()) > -10 else -scores


class Counting(Net):
    """Counts its calls in Python, and answers the other way from the 16th on: a trace would hold one branch for good."""

    def __init__(self):
        self.calls = 0
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        scores = super().forward(x)
        return -scores if self.calls > 15 else scores


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def found(model: nn.Module, images: torch.Tensor, **more: object) -> Certificate:
    return certify(model, images, 0.5, **{"n0": 50, "n": 1000, "alpha": 0.01, "batch_size": 50, **more})  # type: ignore[arg-type]


def spread(counts: np.ndarray) -> bool:
    """Several classes get votes, so equal counts are no accident."""
    return bool(((counts > 50).sum(1) > 1).all())


# ---- the same function


def test_folding_changes_no_vote_and_few_bits_of_a_score(images: torch.Tensor):
    model = Net()
    folded, direct = found(model, images), found(Hidden(model), images)
    assert spread(direct.counts)
    np.testing.assert_array_equal(folded.counts, direct.counts)
    with running(model, (2, 8, 8), "float32") as functions:
        (scores,) = functions
        x = torch.randn(64, 2, 8, 8)
        flat = x.permute(0, 2, 3, 1).reshape(64, -1).contiguous()
        torch.testing.assert_close(scores(flat), model(x), rtol=1e-4, atol=1e-4)


def test_batch_norm_is_folded(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    """What runs holds no BatchNorm: none is ever called with a batch of the run."""
    model, sizes, forward = Net(), [], nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: sizes.append(len(x)) or forward(self, x))
    folded = found(model, images)
    assert 5 in sizes and 50 not in sizes, "a BatchNorm ran"
    np.testing.assert_array_equal(folded.counts, found(Hidden(Net()), images).counts)
    assert 50 in sizes


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_convolution_of_two_batch_norms_is_run_as_it_is(scale: float, images: torch.Tensor):
    """However small the scores are: votes are those of the model, not of a copy that is close to it in absolute terms."""
    model = OneConvolutionTwice(scale)
    direct = found(Hidden(model), images)
    assert spread(direct.counts)
    np.testing.assert_array_equal(found(model, images).counts, direct.counts)


def test_a_model_that_cannot_be_traced_is_run_as_it_is(images: torch.Tensor):
    direct = found(Hidden(DependsOnData()), images)
    assert spread(direct.counts)
    np.testing.assert_array_equal(found(DependsOnData(), images).counts, direct.counts)


def test_a_model_with_a_state_in_python_keeps_it(images: torch.Tensor):
    """It turns round after 15 of 63 batches, or three earlier, as probes may count too; a trace would never turn round."""
    traced, direct, never = found(Counting(), images), found(Hidden(Counting()), images), found(Hidden(Net()), images)
    assert np.abs(direct.counts - never.counts).sum(1).max() > 400
    assert np.abs(traced.counts - direct.counts).sum(1).max() <= 2 * 3 * 50


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_folded_model_runs_at_any_batch_size(batch_size: int, images: torch.Tensor):
    small = {"n0": 10, "n": 60, "batch_size": batch_size}
    np.testing.assert_array_equal(found(Net(), images, **small).counts, found(Net(), images, n0=10, n=60).counts)


# ---- the user's model


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [Net, DependsOnData])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_untouched(kind: type[Net], precision: str, training: bool, images: torch.Tensor):
    """Modes, values, dtypes, memory formats, identity and usability of every parameter and buffer."""
    model = kind().train(training)
    model.norm.eval()
    before = copy.deepcopy(model)
    own = {name: (id(value), value.data_ptr(), value.stride()) for name, value in model.state_dict(keep_vars=True).items()}
    found(model, images, precision=precision)
    after = model.state_dict(keep_vars=True)
    assert {name: (id(value), value.data_ptr(), value.stride()) for name, value in after.items()} == own
    for name, value in before.state_dict().items():
        assert torch.equal(after[name], value) and after[name].dtype == value.dtype and not after[name].is_inference()
    assert [module.training for module in model.modules()] == [module.training for module in before.modules()]
    assert [type(module) for module in model.modules()] == [type(module) for module in before.modules()]
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters()), "it can still be trained"


# ---- precision


def test_precision_is_of_the_forward_pass_and_noise_stays_float32(images: torch.Tensor):
    """In bfloat16 the model sees the float32 noisy copies rounded, and its votes are those of the rounded model."""
    seen: list[torch.Tensor] = []

    class Seen(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x.detach().clone())
            return super().forward(x)

    # a model without a trace, so that its own Python runs
    model = Hidden(Seen())
    low = model.inner[0].to(torch.bfloat16)
    seen.clear()
    coarse = found(model, images, precision="bfloat16")
    of_run = 3 * 1050 // 50  # batches after the checks
    assert {x.dtype for x in seen[-of_run:]} == {torch.bfloat16}
    rounded = torch.cat(seen[-of_run:])
    seen.clear()
    model.inner[0].to(torch.float32)
    fine = found(model, images)
    assert {x.dtype for x in seen[-of_run:]} == {torch.float32}
    assert torch.equal(torch.cat(seen[-of_run:]).to(torch.bfloat16), rounded), "the same samples, rounded once"
    assert low is model.inner[0] and coarse.counts.sum() == fine.counts.sum()


def test_bfloat16_votes_are_of_the_rounded_model(images: torch.Tensor):
    model = Net()
    rounded = copy.deepcopy(model).to(torch.bfloat16)
    coarse, fine = found(model, images, precision="bfloat16"), found(model, images)
    direct = found(Hidden(rounded), images, precision="bfloat16")
    assert (coarse.counts != fine.counts).any(), "eight bits of mantissa do change some vote"
    assert np.abs(coarse.counts - fine.counts).max() < 50 and np.abs(coarse.counts - direct.counts).max() < 50


def test_bfloat16_runs_a_model_without_batch_norm():
    model = HalfSpace([1.0, 0.0])
    found_ = certify(model, torch.tensor([0.5, 0.0]), 0.5, 10, 1000, 0.01, precision="bfloat16")
    assert found_.prediction == 1 and model.w.dtype == torch.float32


# ---- the check of its rows


@pytest.mark.parametrize(("n", "checked"), [(3999, [ROWS] * PASSES), (4000, [20] * PASSES)])
def test_rows_are_checked_in_whole_batches_where_that_costs_little(n: int, checked: list[int]):
    """Up to a 50th of the samples; else in batches that are just large enough."""
    sizes = []
    certify(lambda x: sizes.append(len(x)) or torch.stack([-x[:, 0], x[:, 0]], 1), torch.zeros(1, 2), 0.5, 20, n, 0.01, batch_size=20)
    of_run = -(-(20 + n) // 20)
    assert sizes[-of_run - PASSES : -of_run] == checked and set(sizes[-of_run:]) == {20}
