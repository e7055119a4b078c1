"""No file alone chooses what code is run: a checkpoint's factory is called only where its caller names it too."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ddrs.errors import DdrsError
from ddrs.models.checkpoints import load_model, save_model
from ddrs.models.devices import Runtime
from ddrs.operations.plan import KnownFiles
from ddrs.training.run import train
from ddrs.training.settings import TrainSettings

FACTS = {"shape": [1, 28, 28], "classes": 10, "dataset": "mnist5k", "method": "cohen", "regime": "fs", "sigma": 0.25, "noise": "gaussian"}
NAME = "net_for_named_code:build"
MODULE = """
from pathlib import Path

from torch import nn

Path("imported").touch()


def build(shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, classes))
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that names a factory in the current folder, whose module leaves a file where it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, NAME.partition(":")[0], raising=False)
    (tmp_path / "net_for_named_code.py").write_text(MODULE)
    torch.manual_seed(0)
    save_model(tmp_path / "m.safetensors", nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), {**FACTS, "architecture": NAME})
    return tmp_path / "m.safetensors"


VERBS = {
    "finetune": ["--epochs", "1", "--out", "o.safetensors"],
    "sigma": ["--k-max", "1", "--images", "2", "--out", "o.parquet"],
    "certify": ["--sigma", "0.25", "--n0", "10", "--n", "100", "--images", "2", "--out", "o.tsv"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_runs_the_factory_that_its_flag_names(verb: str, model: Path, small_mnist: Path, ddrs_cli):
    words = [verb, "--model", model, "--data", small_mnist, *VERBS[verb]]
    code, _, err = ddrs_cli(*words)
    assert code == 2 and err.count("\n") == 1 and f"{model}: its model is the code '{NAME}'" in err and "--architecture" in err, err
    code, _, err = ddrs_cli(*words, "--architecture", "shutil:rmtree")
    assert code == 2 and err == f"ddrs: error: {model}: holds architecture '{NAME}', not 'shutil:rmtree'\n"
    code, _, err = ddrs_cli(*words, "--architecture", "small_cnn")
    assert code == 2 and "holds architecture" in err
    assert not Path("imported").exists() and not list(Path().glob("o.*"))
    code, _, err = ddrs_cli(*words, "--architecture", NAME)
    assert code == 0 and Path("imported").exists() and list(Path().glob("o.*")), err


def test_the_api_and_the_plan_ask_for_the_name_too(model: Path):
    for load in (load_model, lambda path: KnownFiles([]).model(path, None)):
        with pytest.raises(DdrsError, match="may not have run"):
            load(model)
    assert not Path("imported").exists()
    assert KnownFiles([]).model(model, NAME)[0].architecture == NAME
    assert load_model(model, architecture=NAME)(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_flag_is_needed_for_own_models_only_and_changes_no_byte(small_mnist: Path, tmp_path: Path, ddrs_cli):
    out, settings = tmp_path / "m.safetensors", TrainSettings.checked(epochs=1, batch_size=100)
    train(small_mnist, out, None, "cohen", "small_cnn", 0.25, settings, 0, Runtime.checked(scratch=tmp_path / "scratch"), lambda line: None)
    logs = []
    for flag in ([], ["--architecture", "small_cnn"]):
        words = ["certify", "--model", out, "--data", small_mnist, *VERBS["certify"][:-1], tmp_path / "o.tsv", *flag]
        assert ddrs_cli(*words)[0] == 0
        logs.append((tmp_path / "o.tsv").read_bytes())
    assert logs[0] == logs[1]
