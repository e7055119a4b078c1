"""What is made of a model to run it fast: the same scores for any model, and nothing kept of one that has changed."""

import copy
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ddrs.certification.engine import certify
from ddrs.certification.inference import running
from ddrs.errors import DdrsError
from ddrs.models import layout
from ddrs.models.running import as_module
from tests.unit.certification.test_inference import DependsOnData, Net, used

SHAPE = (2, 8, 8)
GLOBAL = {"limit": 1e9}


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2, "left as it was"
    torch.set_num_threads(before)


class Attention(nn.Module):
    """A convolution, an encoder of torch's own, and a head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(2, 8, 2, stride=2)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


class Layered(nn.Module):
    """LayerNorm, and a residual."""

    def __init__(self):
        super().__init__()
        self.norm, self.inner, self.head = nn.LayerNorm(128), nn.Linear(128, 128), nn.Linear(128, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1)
        return self.head(x + nn.functional.gelu(self.inner(self.norm(x))))


class Scaled(nn.Module):
    """Reads what is no weight: attributes of every kind, and what lies outside of it. Limits are such that no probe comes near them."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(128, 3)
        self.norm = nn.BatchNorm1d(128)
        self.number, self.listed, self.named, self.object = 1e9, [1e9], {"limit": 1e9}, SimpleNamespace(limit=1e9)
        self.plain = torch.tensor([1e9])
        self.register_buffer("buffer", torch.tensor([1e9]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.linear(self.norm(x.flatten(1)))
        largest = x.flatten(1).amax(1, keepdim=True)
        for limit in (self.number, self.listed[0], self.named["limit"], self.object.limit, GLOBAL["limit"], self.plain, self.buffer):
            scores = torch.where(largest > limit, -scores, scores)
        return scores + torch.tensor([0.0, 0.1, 0.2])


def group_norm() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8), nn.Flatten(), nn.Linear(128, 4))


def plain_cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(72, 4))


def norm_first() -> nn.Module:
    norm = nn.BatchNorm2d(2)
    used(norm)
    return nn.Sequential(norm, nn.Conv2d(2, 8, 3, groups=2), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 4), nn.BatchNorm1d(4))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "no BatchNorm": plain_cnn,
    "GroupNorm": group_norm,
    "LayerNorm": Layered,
    "attention": Attention,
    "residual": Net,
    "BatchNorm first": norm_first,
    "untraceable": DependsOnData,
    "attributes": Scaled,
}


def model_of(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def ran(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The scores of each function that may run, of images twice as `running` takes them."""
    rows = x.permute(0, 2, 3, 1).reshape(len(x), -1).contiguous()
    with running(model, SHAPE, "float32") as functions:
        return [scores(rows) for scores in functions for _ in range(3)]


def images(count: int = 20, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3))


def assert_the_models_own(model: nn.Module, x: torch.Tensor, what: str = "") -> None:
    with torch.no_grad():
        own = model(x)
    for found in ran(model, x):
        assert float((found - own).abs().max()) <= 1e-4 * float(own.max() - own.min()), what


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch", [1, 2, 33])
def test_scores_are_the_models_own_to_rounding(name: str, batch: int):
    """At any size of a batch, in each thread, the first passes and later ones; images far beyond those of a probe."""
    model = model_of(name)
    for scale in (0.1, 1.0, 100.0):
        assert_the_models_own(model, images(batch, scale), f"{scale}")


@pytest.mark.parametrize("name", MODELS)
def test_a_model_gains_and_loses_nothing(name: str):
    """Not even constants that a trace leaves; and it can still be copied and trained."""
    model = model_of(name)
    before = [(type(module), sorted(vars(module))) for module in model.modules()]
    for _ in range(2):
        ran(model, images(4))
    assert [(type(module), sorted(vars(module))) for module in model.modules()] == before
    copy.deepcopy(model)(images(4)).sum().backward()


def test_what_is_made_is_kept_for_the_next_call(monkeypatch: pytest.MonkeyPatch):
    made: list[nn.Module] = []
    way = layout._first_alike
    monkeypatch.setattr(layout, "_first_alike", lambda model, *rest: made.append(model) or way(model, *rest))
    for name in ("residual", "attributes", "no BatchNorm"):
        model = model_of(name)
        for _ in range(3):
            ran(model, images(4))
        assert made == [model], name
        made.clear()
    untraceable = model_of("untraceable")
    for _ in range(2):
        ran(untraceable, images(4))
    assert len(made) == 2, "what nothing is known of is made anew"


def numpy_view(model: Scaled) -> None:
    view = model.linear.weight.detach().numpy()
    view[:] = -view


def swapped(model: Scaled) -> None:
    model.linear = nn.Linear(128, 3)


def patched(model: Scaled) -> None:
    model.forward = lambda x: model.linear(x.flatten(1)) * 2  # type: ignore[method-assign]


CHANGES: dict[str, Callable[[Scaled], object]] = {
    "weight": lambda model: model.linear.weight.requires_grad_(False).mul_(-1),
    "one weight, .data": lambda model: model.linear.weight.data[1, 2:4].add_(5.0),
    "NumPy view": numpy_view,
    "load_state_dict": lambda model: model.load_state_dict({name: value * 2 for name, value in model.state_dict().items()}),
    "running mean": lambda model: model.norm.running_mean.add_(1.0),
    "buffer": lambda model: model.buffer.fill_(2.0),
    "plain tensor": lambda model: model.plain.fill_(2.0),
    "number": lambda model: setattr(model, "number", 2.0),
    "list": lambda model: model.listed.__setitem__(0, 2.0),
    "dict": lambda model: model.named.update(limit=2.0),
    "object": lambda model: setattr(model.object, "limit", 2.0),
    "global": lambda model: GLOBAL.update(limit=2.0),
    "submodule": swapped,
    "forward": patched,
    "eps": lambda model: setattr(model.norm, "eps", 3.0),
    "hook": lambda model: model.linear.register_forward_hook(lambda module, given, found: torch.where(found.amax() > 5, -found, found)),
    "hook of all": lambda model: model.register_forward_hook(lambda module, given, found: torch.where(given[0].amax() > 5, -found, found)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_model_runs_as_it_is_now(name: str, monkeypatch: pytest.MonkeyPatch):
    """Whatever changed in place since the last call, though its scores of the probe be the same."""
    monkeypatch.setitem(GLOBAL, "limit", 1e9)
    torch.manual_seed(0)
    model = Scaled().eval()
    x = images(20, 3.0)
    assert_the_models_own(model, x)
    with torch.no_grad():
        before = model(x)
        CHANGES[name](model)
        after = model(x)
    assert float((after - before).abs().max()) > 0.1
    assert_the_models_own(model, x)


class Watched:
    """A plain function that keeps which threads called it, and whether two calls were ever under way together."""

    def __init__(self, net: nn.Module):
        self.net, self.threads, self.inside, self.overlapped, self.torchs = net, set(), 0, False, set()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.threads.add(threading.get_ident())
        self.torchs.add(torch.get_num_threads())
        self.inside += 1
        self.overlapped |= self.inside > 1
        time.sleep(0.002)  # so that others would come in
        found = self.net(x)
        self.inside -= 1
        return found


class Remembering(Net):
    """Remembers its passes: copies of it would each remember some."""

    seen, watched = 0, None

    def __init__(self, watched: Watched | None = None):
        super().__init__()
        self.watched = watched

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.watched(x) if self.watched else super().forward(x)


def test_who_has_a_state_or_none_to_copy_is_one_function():
    """Yielded twice, so that one batch is drawn while another is classified; of other models each thread has a copy of its own."""
    net = Net()
    for model, many in ((net, 2), (Remembering(), 1), (as_module(lambda x: net(x), torch.device("cpu")), 1), (DependsOnData(), 2)):
        with running(model.eval(), SHAPE, "float32") as functions:
            assert len(functions) == 2 and len(set(map(id, functions))) == many
    torch.set_num_threads(1)
    with running(Remembering().eval(), SHAPE, "float32") as functions:
        assert len(functions) == 1, "one thread draws and classifies"
    torch.set_num_threads(2)


@pytest.mark.parametrize("kind", ["function", "stateful model"])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_one_function_is_called_by_one_thread_and_once_at_a_time(threads: int, kind: str):
    """However many threads draw: also who is no thread-safe code of the user's is safe. It may use all threads itself."""
    net, x = Net(), images(2).abs().clamp(max=1)
    expected = certify(net, x, 0.5, 20, 500, 0.01, batch_size=50)
    torch.set_num_threads(threads)
    watched = Watched(net)
    model = Remembering(watched) if kind == "stateful model" else watched
    found = certify(model, x, 0.5, 20, 500, 0.01, batch_size=50)
    torch.set_num_threads(2)
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert not watched.overlapped and watched.torchs == {threads}
    if kind == "stateful model":
        assert model.seen > 2 * 520 // 50  # type: ignore[union-attr]
    watched.threads.discard(threading.get_ident())  # of the probe before, and of all where there is one thread
    assert len(watched.threads) == (threads > 1)


@pytest.mark.parametrize(("error", "found"), [(RuntimeError("of the user's"), DdrsError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_an_error_of_one_function_comes_out_and_leaves_no_thread(error: BaseException, found: type[BaseException]):
    calls, before = [], threading.active_count()

    def fails(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) > 10:
            raise error
        return x.flatten(1)[:, :3]

    with pytest.raises(found):
        certify(fails, images(2).abs().clamp(max=1), 0.5, 20, 500, 0.01, batch_size=50)
    assert threading.active_count() == before and len(calls) <= 12, "who had drawn a batch meanwhile may ask once more"


@pytest.mark.parametrize("name", MODELS)
def test_threads_change_no_count(name: str):
    """One, two or three copies of a model, of any kind."""
    model, x = model_of(name), images(3).abs().clamp(max=1)
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(certify(model, x, 0.5, 20, 500, 0.01, batch_size=50).counts)
    torch.set_num_threads(2)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])
