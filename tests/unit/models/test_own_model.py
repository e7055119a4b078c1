"""A model of the user's own by package.module:factory: built, recorded, loaded and certified through its name; every mistake is one line."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from ddrs.errors import DdrsError
from ddrs.experiment.load import load
from ddrs.models import own
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import load_model, read_facts, save_model
from ddrs.models.devices import Runtime
from ddrs.training.run import train
from ddrs.training.settings import TrainSettings
from tests.unit.helpers import certify_files

ROOT = Path(__file__).parents[3]
MODULE = '''"""A linear model."""
from torch import nn


def net(shape, classes):
    """Its docstring."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


def deaf(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 3))


def shy(shape, classes):
    return nn.Linear(5, classes)


def broken(shape, classes):
    raise RuntimeError("no such\\nweights")


def words(shape, classes):
    return "no module"


number = 5
'''
NOISY = """

class Noisy(nn.Module):
    def forward(self, x):
        return x + x.new_zeros(x.shape).normal_()
"""
Write = Callable[[str, str], Path]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module into the current folder; what was imported is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        importlib.invalidate_caches()
        return path

    write("mine_for_tests.py", MODULE)
    yield write
    for name in set(sys.modules) - before:
        if "for_tests" in name:
            del sys.modules[name]


def test_it_is_built_recorded_and_loaded_by_its_name(module: Write, tmp_path: Path):
    model = build_model("mine_for_tests:net", (1, 4, 4), 3)
    facts = {"architecture": "mine_for_tests:net", "shape": [1, 4, 4], "classes": 3, "method": "cohen", "regime": "fs", "sigma": 0.5}
    save_model(tmp_path / "m.safetensors", model, {**facts, "noise": "gaussian"})
    x = torch.rand(5, 1, 4, 4)
    assert torch.equal(load_model(tmp_path / "m.safetensors", architecture="mine_for_tests:net")(x), model(x)) and model.training
    with pytest.raises(DdrsError, match="holds architecture 'mine_for_tests:net', not 'small_cnn'"):
        load_model(tmp_path / "m.safetensors", architecture="small_cnn")


def test_it_is_trained_and_certified(module: Write, small_mnist: Path, tmp_path: Path):
    settings, out = TrainSettings(epochs=1, batch_size=50), tmp_path / "model.safetensors"
    train(small_mnist, out, None, "cohen", "mine_for_tests:net", 0.25, settings, 0, Runtime(scratch=tmp_path / "scratch"), lambda line: None)
    assert read_facts(out)["architecture"] == "mine_for_tests:net"
    assert len(certify_files(out, small_mnist, tmp_path, architecture="mine_for_tests:net").read_text().splitlines()) == 7


def test_checking_it_draws_no_random_numbers(module: Write):
    drawing = MODULE.replace("nn.Flatten(),", "nn.Flatten(), Noisy(),") + NOISY
    module("drawing_for_tests.py", drawing)
    torch.manual_seed(3)
    with pytest.raises(DdrsError, match="'drawing_for_tests:net': the model answers the same images differently each time"):
        build_model("drawing_for_tests:net", (1, 4, 4), 3)
    after = torch.rand(1)
    torch.manual_seed(3)
    torch.nn.Linear(16, 3)
    assert torch.equal(after, torch.rand(1))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere_for_tests:net", ["module nowhere_for_tests can not be imported: ModuleNotFoundError: No module named 'nowhere_for_tests'"]),
        ("mine_for_tests.deeper:net", ["module mine_for_tests.deeper can not be imported"]),
        ("wrong_for_tests:net", ["module wrong_for_tests can not be imported: SyntaxError"]),
        ("leaving_for_tests:net", ["module leaving_for_tests can not be imported: SystemExit: 3"]),
        ("mine_for_tests:nett", ["mine_for_tests.py has no function nett(shape, classes)"]),
        ("mine_for_tests:number", ["has no function number(shape, classes)"]),
        ("mine_for_tests:deaf", ["maps images (2, 1, 28, 28) to (2, 3); (2, 10) is needed"]),
        ("mine_for_tests:shy", ["its model fails on images (2, 1, 28, 28): RuntimeError: mat1 and mat2"]),
        ("mine_for_tests:broken", ["broken((1, 28, 28), 10) failed: RuntimeError: no such weights"]),
        ("mine_for_tests:words", ["words returned str, not a torch.nn.Module"]),
    ],
)
def test_what_is_wrong_with_it_is_one_line(name: str, words: list[str], module: Write, small_mnist: Path, tmp_path: Path, ddrs_cli):
    module("wrong_for_tests.py", "def net(:\n")
    module("leaving_for_tests.py", "import sys\n\nsys.exit(3)\n")
    out = tmp_path / "m.safetensors"
    words_of = ["train", "--data", small_mnist, "--out", out, "--method", "cohen", "--architecture", name, "--sigma", 0.25, "--epochs", 1]
    code, _, err = ddrs_cli(*words_of)
    assert code == 2 and err.count("\n") == 1 and all(word in err for word in [f"architecture '{name}'", *words]), err
    assert not out.exists()


@pytest.mark.parametrize(("shape", "classes"), [([["rm", "-rf", "x"]] * 3, 3), ([1, 4, 4], "3"), ([1, 4, -4], 3), ([True, 4, 4], 3)])
def test_a_checkpoint_calls_nothing_but_with_a_shape_and_a_number(shape: list, classes: object, module: Write, tmp_path: Path):
    facts = {
        "architecture": "subprocess:call",
        "shape": shape,
        "classes": classes,
        "method": "cohen",
        "regime": "fs",
        "sigma": 1,
        "noise": "gaussian",
    }
    save_model(tmp_path / "m.safetensors", torch.nn.Linear(1, 1), facts)
    with pytest.raises(DdrsError, match="must be positive integers"):
        load_model(tmp_path / "m.safetensors")


def test_its_digest_is_of_its_code_and_imports_nothing(module: Write):
    packaged = module("pack_for_tests/nets.py", MODULE)
    module("pack_for_tests/__init__.py", "raise RuntimeError('imported')\n")
    name = "pack_for_tests.nets:net"
    first = own.code(name)
    assert len(first) == 16 and "pack_for_tests" not in sys.modules
    assert own.code("mine_for_tests:net") != "" and own.code("small_cnn") == own.code("nowhere_for_tests:net") == ""
    packaged.write_text("# a comment\n" + MODULE.replace("Its docstring", "Another"))
    assert own.code(name) == first
    packaged.write_text(MODULE.replace("nn.Flatten()", "nn.Flatten(1)"))
    assert own.code(name) != first
    packaged.write_text("def net(:\n")
    with pytest.raises(DdrsError, match=r"nets\.py: SyntaxError"):
        own.code(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine:net", None),
        ("package.module:factory", None),
        ("mine:", "must be a name, or package.module:factory"),
        ("a b:net", "must be a name, or package.module:factory"),
        ("a.:net", "must be a name, or package.module:factory"),
        ("a;b:net", "must be a name, or package.module:factory"),
        ("mine.net", "unknown architecture 'mine.net'; known are small_cnn"),
    ],
)
def test_the_config_checks_its_form_only(name: str, message: str | None):
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    raw["datasets"]["mnist5k"]["architecture"] = name
    if message is None:
        assert load(raw).on("mnist5k", "cohen").architecture == name
        return
    with pytest.raises(DdrsError) as error:
        load(raw)
    text = str(error.value)
    assert text.startswith("config: datasets.mnist5k.architecture: ") and message in text and "\n" not in text
