"""A model of the user's own is stored as it is, tied weights once; one that cannot be stored is refused before it is trained."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn

from ddrs.errors import DdrsError
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import check_storable, load_model, save_model
from ddrs.models.devices import Runtime
from ddrs.training.run import finetune, train
from ddrs.training.settings import TrainSettings
from tests.unit.helpers import certify_files, one_line
from tests.unit.training.training_runs import STEP

MODULE = '''
import torch
from torch import nn


class Tied(nn.Module):
    """Two layers with one weight, a view of it, and a name for the whole of a part."""

    def __init__(self, shape, classes):
        super().__init__()
        self.a = nn.Linear(shape[1] * shape[2], shape[1] * shape[2])
        self.b = nn.Linear(shape[1] * shape[2], shape[1] * shape[2])
        self.b.weight = self.a.weight
        self.register_buffer("rows", self.a.weight.detach()[:3])
        self.register_buffer("nothing", torch.zeros(0))
        self.register_buffer("nothing_too", torch.zeros(0))
        self.end = nn.Linear(shape[1] * shape[2], classes)
        self.again = self.end

    def forward(self, x):
        return self.again(torch.relu(self.b(torch.relu(self.a(x.flatten(1))))))


class Extra(nn.Module):
    """A state beside its weights: what `kind` says."""

    def __init__(self, shape, classes, kind):
        super().__init__()
        self.end, self.kind, self.seen = nn.Linear(shape[1] * shape[2], classes), kind, None
        if kind == "sparse":
            self.register_buffer("table", torch.eye(3).to_sparse())

    def forward(self, x):
        return self.end(x.flatten(1))

    def get_extra_state(self):
        return {"version": 2} if self.kind == "dict" else torch.tensor([3, 4])

    def set_extra_state(self, state):
        if self.kind == "deaf":
            raise ValueError("no\\nthanks")
        self.seen = state


def tied(shape, classes):
    return Tied(shape, classes)


def words(shape, classes):
    return Extra(shape, classes, "dict")


def deaf(shape, classes):
    return Extra(shape, classes, "deaf")


def sparse(shape, classes):
    return Extra(shape, classes, "sparse")


def numbers(shape, classes):
    return Extra(shape, classes, "tensor")
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tied_for_tests.py").write_text(MODULE)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("tied_for_tests", None)


def facts_of(name: str) -> dict:
    more = {"method": "cohen", "regime": "fs", "sigma": 0.25, "noise": "gaussian"}
    return {"architecture": f"tied_for_tests:{name}", "shape": [1, 5, 4], "classes": 3, **more}


def test_tied_weights_are_stored_once_and_tied_again(module: None, tmp_path: Path):
    torch.manual_seed(0)
    model = build_model("tied_for_tests:tied", (1, 5, 4), 3).eval()
    save_model(tmp_path / "m", model, facts_of("tied"))
    with safe_open(tmp_path / "m", framework="pt") as file:
        assert sorted(file.keys()) == ["a.bias", "a.weight", "b.bias", "end.bias", "end.weight", "nothing", "nothing_too", "rows"]
        assert json.loads(file.metadata()["ddrs"]) == facts_of("tied"), "no new fact is needed"
    found, x = load_model(tmp_path / "m", architecture="tied_for_tests:tied"), torch.rand(6, 1, 5, 4)
    assert isinstance(found.a, nn.Module) and found.a.weight is found.b.weight and found.again is found.end
    assert torch.equal(found(x), model(x)) and torch.equal(found.rows, model.rows)
    save_model(tmp_path / "again", found, facts_of("tied"))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()


def test_a_weight_that_is_tied_no_more_is_missing_from_the_checkpoint(module: None, tmp_path: Path):
    save_model(tmp_path / "m", build_model("tied_for_tests:tied", (1, 5, 4), 3), facts_of("tied"))
    Path("tied_for_tests.py").write_text(MODULE.replace("        self.b.weight = self.a.weight\n", ""))
    del sys.modules["tied_for_tests"]
    importlib.invalidate_caches()
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        with pytest.raises(DdrsError, match=r"weights do not fit tied_for_tests:tied: .*b\.weight"):
            load_model(tmp_path / "m", architecture="tied_for_tests:tied")
    finally:
        sys.dont_write_bytecode = before


def test_a_tied_model_is_trained_tuned_and_certified(module: None, small_mnist: Path, tmp_path: Path):
    runtime, settings = Runtime(scratch=tmp_path / "scratch"), TrainSettings(epochs=2, batch_size=50, branch_epoch=1)

    def quiet(line: str) -> None:
        pass

    train(small_mnist, tmp_path / "m", tmp_path / "branch", "cohen", "tied_for_tests:tied", 0.25, settings, 0, runtime, quiet)
    finetune(small_mnist, tmp_path / "m", tmp_path / "branch", tmp_path / "ds2", settings, STEP, 0, runtime, quiet, "tied_for_tests:tied")
    assert len(certify_files(tmp_path / "ds2", small_mnist, tmp_path, architecture="tied_for_tests:tied").read_text().splitlines()) == 7


def test_a_state_of_tensors_beside_the_weights_is_stored(module: None, tmp_path: Path):
    model = build_model("tied_for_tests:numbers", (1, 5, 4), 3)
    save_model(tmp_path / "m", model, facts_of("numbers"))
    assert torch.equal(load_model(tmp_path / "m", architecture="tied_for_tests:numbers").seen, torch.tensor([3, 4]))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("words", "its model's state has _extra_state, a dict; a checkpoint holds tensors alone, so register a buffer, or leave it out of the state"),
        ("deaf", "its model cannot load what it saves (no thanks)"),
        ("sparse", "its model's state cannot be stored ("),
    ],
)
def test_what_cannot_be_stored_is_refused_before_the_first_epoch(name: str, words: str, module: None, small_mnist: Path, tmp_path: Path):
    said: list[str] = []
    runtime, settings = Runtime(scratch=tmp_path / "scratch"), TrainSettings(epochs=1, batch_size=50)
    with pytest.raises(DdrsError) as error:
        train(small_mnist, tmp_path / "m", None, "cohen", f"tied_for_tests:{name}", 0.25, settings, 0, runtime, said.append)
    assert one_line(error).startswith(f"architecture 'tied_for_tests:{name}': {words}")
    assert said == [] and not (tmp_path / "m").exists()


def test_trying_a_save_changes_nothing(module: None):
    torch.manual_seed(1)
    model = build_model("tied_for_tests:tied", (1, 5, 4), 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    check_storable(model, facts_of("tied"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random) and model.a.weight is model.b.weight
