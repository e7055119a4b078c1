"""Models and checkpoints: what is written is what is read, and what cannot be read is said in one line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ddrs.data.splits import load_split
from ddrs.errors import DdrsError
from ddrs.models.architectures import ARCHITECTURES, build_model
from ddrs.models.checkpoints import check_fits, load_model, read_facts, save_model
from ddrs.models.devices import resolve_device
from ddrs.models.running import checked_scores, evaluating
from ddrs.noise.laws import get_noise
from ddrs.sigma.settings import StepSettings
from ddrs.training import loop, state
from ddrs.training.settings import TrainSettings

SHAPES = {"small_cnn": (1, 28, 28), "resnet50": (3, 64, 64)} | dict.fromkeys(
    ("resnet18", "resnet18_ddrs", "resnet110", "wide_resnet40_2"), (3, 32, 32)
)

SAVE_ONE = """
import sys, torch
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import save_model
torch.set_num_threads(1)
torch.manual_seed(5)
model = build_model("small_cnn", (1, 28, 28), 10)
save_model(sys.argv[1], model, {"architecture": "small_cnn", "shape": [1, 28, 28], "classes": 10, "b": 1, "a": {"y": 2, "x": 0.25}})
"""


ORIGIN = {"method": "cohen", "regime": "fs", "sigma": 0.25, "noise": "gaussian"}


def facts_of(architecture: str, classes: int = 10) -> dict:
    return {"architecture": architecture, "shape": list(SHAPES[architecture]), "classes": classes, **ORIGIN, "note": "ä"}


def exercised(architecture: str, classes: int = 10) -> nn.Module:
    """A model whose BatchNorm statistics are not the initial ones."""
    torch.manual_seed(0)
    model = build_model(architecture, SHAPES[architecture], classes)
    model.train()
    with torch.no_grad():
        model(torch.rand(4, *SHAPES[architecture]))
    return model.eval()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_model(tmp_path / "model.safetensors", exercised("small_cnn"), facts_of("small_cnn"))
    return tmp_path / "model.safetensors"


def refused(path: Path, match: str, **asked: object) -> None:
    with pytest.raises(DdrsError, match=match) as error:
        load_model(path, **asked)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_model_gives_equal_logits_when_loaded(architecture: str, tmp_path: Path):
    model, x = exercised(architecture), torch.rand(2, *SHAPES[architecture])
    save_model(tmp_path / "m.safetensors", model, facts_of(architecture))
    loaded = load_model(str(tmp_path / "m.safetensors"), architecture=architecture, classes=10)
    assert not any(module.training for module in loaded.modules())
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert loaded.state_dict().keys() == model.state_dict().keys()


def test_two_processes_write_equal_bytes(tmp_path: Path):
    script = tmp_path / "save.py"
    script.write_text(SAVE_ONE)
    for name, seed in (("a", "1"), ("b", "2")):
        subprocess.run([sys.executable, script, tmp_path / name], check=True, env={"PYTHONHASHSEED": seed, "PATH": ""})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_read_facts_gives_back_what_was_recorded(checkpoint: Path):
    assert read_facts(checkpoint) == facts_of("small_cnn")


def test_saving_does_not_move_or_change_the_model(tmp_path: Path):
    model = exercised("small_cnn").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    save_model(tmp_path / "m.safetensors", model, facts_of("small_cnn"))
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_missing_checkpoint_is_named(tmp_path: Path):
    refused(tmp_path / "absent.safetensors", "no such file")


@pytest.mark.parametrize("keep", [0, 4, 100, -1], ids=lambda keep: f"{keep} bytes")
def test_a_truncated_checkpoint_is_named(keep: int, checkpoint: Path):
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    refused(checkpoint, "not a readable safetensors checkpoint")
    with pytest.raises(DdrsError):
        read_facts(checkpoint)


@pytest.mark.parametrize("contents", [b"garbage", b"\xff" * 4096, b"PK\x03\x04" + bytes(200)], ids=["text", "ones", "zip"])
def test_garbage_is_no_checkpoint(contents: bytes, checkpoint: Path):
    checkpoint.write_bytes(contents)
    refused(checkpoint, "not a readable safetensors checkpoint")


def test_another_architecture_than_asked_is_refused(checkpoint: Path):
    refused(checkpoint, "holds architecture 'small_cnn', not 'resnet18'", architecture="resnet18")


def test_another_class_count_than_asked_is_refused(checkpoint: Path):
    refused(checkpoint, "holds classes 10, not 100", classes=100)


def test_a_safetensors_file_of_someone_else_is_refused(tmp_path: Path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    refused(tmp_path / "other.safetensors", "without ddrs metadata")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", metadata={"format": "pt"})
    refused(tmp_path / "other.safetensors", "without ddrs metadata")


@pytest.mark.parametrize("metadata", ["{", "[]", "{}", json.dumps({"architecture": "small_cnn"})])
def test_broken_ddrs_metadata_is_refused(metadata: str, tmp_path: Path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "m.safetensors", metadata={"ddrs": metadata})
    refused(tmp_path / "m.safetensors", ".")


@pytest.mark.parametrize("wrong", [{"shape": [1, 28]}, {"shape": 5}, {"shape": [1, 28, -28]}, {"classes": "10"}, {"architecture": 5}], ids=str)
def test_facts_of_another_kind_are_refused(wrong: dict, tmp_path: Path):
    save_model(tmp_path / "m.safetensors", exercised("small_cnn"), {**facts_of("small_cnn"), **wrong})
    refused(tmp_path / "m.safetensors", str(next(iter(wrong.values()))))


def test_a_recorded_architecture_that_is_unknown_lists_the_known(tmp_path: Path):
    save_model(tmp_path / "m.safetensors", exercised("small_cnn"), {**facts_of("small_cnn"), "architecture": "vgg"})
    with pytest.raises(DdrsError, match="'vgg': unknown; known are small_cnn, resnet18"):
        load_model(tmp_path / "m.safetensors")


def test_weights_that_do_not_fit_the_recorded_architecture_are_refused(tmp_path: Path):
    save_model(tmp_path / "m.safetensors", exercised("small_cnn"), {**facts_of("small_cnn"), "classes": 7})
    refused(tmp_path / "m.safetensors", "weights do not fit small_cnn")


def test_a_model_for_other_images_or_classes_does_not_fit_a_dataset(small_mnist: Path):
    split = load_split(small_mnist, "test")
    check_fits(Path("m"), facts_of("small_cnn"), split)
    with pytest.raises(DdrsError, match="m: a model for classes 7, but mnist5k has 10"):
        check_fits(Path("m"), facts_of("small_cnn", classes=7), split)
    with pytest.raises(DdrsError, match=r"m: a model for image shape \(3, 32, 32\), but mnist5k has \(1, 28, 28\)"):
        check_fits(Path("m"), facts_of("resnet18"), split)


# architectures


def test_resnet18_has_the_parameters_of_its_cifar_form():
    model = build_model("resnet18", (3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    stages: dict[str, tuple[int, ...]] = {}
    for name in ("conv1", "layer1", "layer4"):
        getattr(model, name).register_forward_hook(lambda _, __, out, name=name: stages.update({name: tuple(out.shape)}))
    assert model.eval()(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    assert stages == {"conv1": (1, 64, 32, 32), "layer1": (1, 64, 32, 32), "layer4": (1, 512, 4, 4)}


def test_resnet50_is_that_of_torchvision():
    model = build_model("resnet50", (3, 224, 224), 1000)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    assert isinstance(model.maxpool, nn.MaxPool2d) and model.conv1.kernel_size == (7, 7)


def test_wide_resnet40_2_has_the_layers_of_its_name():
    """2.24 million parameters; 40 layers with weights on the longest way: 1 + 3 * 6 * 2 convolutions, a linear layer, and 2 of the 3 shortcuts'."""
    model = build_model("wide_resnet40_2", (3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 2_243_546
    kernels = [module.kernel_size for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert (kernels.count((3, 3)), kernels.count((1, 1))) == (37, 3)
    sizes: list[tuple[int, ...]] = []
    for layer in model:
        layer.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    model.eval()(torch.rand(1, 3, 32, 32))
    assert [size for i, size in enumerate(sizes) if size not in sizes[:i]] == [
        *[(16, 32, 32), (32, 32, 32), (64, 16, 16), (128, 8, 8)],
        *[(128, 1, 1), (128,), (10,)],
    ]


def test_wide_resnet_blocks_start_with_normalisation_and_add_their_input():
    """With residuals of zero a block of equal width is the identity; one that widens is the shortcut of its normalised input."""
    _, wider, equal, *_ = build_model("wide_resnet40_2", (3, 32, 32), 10).eval()
    for block in (wider, equal):
        nn.init.zeros_(block.residual[-1].weight)
    x = torch.randn(2, 16, 8, 8)
    normalised = (x / (1 + 1e-5) ** 0.5).relu()  # the statistics of a new BatchNorm in eval mode are 0 and 1
    assert torch.allclose(wider(x), nn.functional.conv2d(normalised, wider.shortcut.weight), atol=1e-5)
    assert torch.equal(equal(wider(x)), wider(x))


@pytest.mark.parametrize(("architecture", "shape"), [("wide_resnet40_2", (3, 16, 16)), ("resnet50", (3, 64, 64))])
def test_the_paper_s_architectures_take_a_training_step(architecture: str, shape: tuple[int, int, int]):
    settings = TrainSettings(epochs=1, batch_size=4)
    torch.manual_seed(0)
    run = state.start_run(build_model(architecture, shape, 10), 4, 0.25, settings, 0, torch.device("cpu"), "fs")
    before = [p.clone() for p in run.model.parameters()]
    loop.train(run, torch.rand(4, *shape), torch.arange(4), "cohen", "fs", settings, StepSettings(), get_noise("gaussian"), lambda _: None, print)
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    assert all(not torch.equal(p, old) for p, old in zip(run.model.parameters(), before, strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 30, 34)], ids=str)
def test_architectures_map_images_of_any_shape_to_scores(architecture: str, shape: tuple[int, int, int]):
    model = build_model(architecture, shape, 7).eval()
    with torch.no_grad():
        assert model(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [("small_cnn", (1, 28, 28)), ("resnet18", (3, 32, 32)), ("resnet50", (3, 224, 224)), ("wide_resnet40_2", (3, 32, 32))],
)
def test_an_architecture_costs_what_its_docstring_says(architecture: str, shape: tuple[int, int, int]):
    stated = re.search(r"([\d.]+) ([MG])MAC", ARCHITECTURES[architecture].__doc__ or "")
    assert stated is not None
    model, macs = build_model(architecture, shape, 10).eval(), []

    def count(module: nn.Module, _: object, out: torch.Tensor) -> None:
        macs.append(out.numel() * module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.zeros(1, *shape))
    assert round(sum(macs) / {"M": 1e6, "G": 1e9}[stated[2]], len(stated[1].partition(".")[2])) == float(stated[1])


def test_an_unknown_architecture_lists_the_known():
    with pytest.raises(DdrsError, match="'small_cn': unknown; known are small_cnn, resnet18"):
        build_model("small_cn", (1, 28, 28), 10)


# helpers


def test_evaluating_restores_every_module_also_after_an_exception():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    model.train()
    model[1][0].eval()  # a frozen BatchNorm inside a training model
    before = [module.training for module in model.modules()]
    assert len(set(before)) == 2
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(KeyError), evaluating(model):
        raise KeyError
    assert [module.training for module in model.modules()] == before


def test_checked_scores_passes_finite_scores_on():
    scores = torch.rand(3, 2)
    assert checked_scores(scores, 3) is scores


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_checked_scores_refuses_what_is_not_finite(bad: float):
    scores = torch.zeros(3, 4)
    scores[1, 2] = bad
    with pytest.raises(DdrsError, match="NaN or infinite") as error:
        checked_scores(scores, 3)
    assert "\n" not in str(error.value)


def test_checked_scores_takes_a_masked_class_but_no_masked_row():
    scores = torch.zeros(3, 4)
    scores[:, 2] = -torch.inf
    assert checked_scores(scores, 3) is scores
    scores[1] = -torch.inf
    with pytest.raises(DdrsError, match="NaN or infinite"):
        checked_scores(scores, 3)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (3, 1), (3, 4, 1)], ids=str)
def test_checked_scores_refuses_other_shapes(shape: tuple[int, ...]):
    with pytest.raises(DdrsError, match=r"for a batch of 3; \(batch, classes\) is needed"):
        checked_scores(torch.zeros(shape), 3)


def test_an_unknown_device_is_one_line():
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(DdrsError, match="'gpu': unknown; use cpu, cuda or cuda:N") as error:
        resolve_device("gpu")
    assert "\n" not in str(error.value)


def test_a_device_that_the_machine_lacks_is_one_line():
    """One beyond the last, whatever the machine has."""
    count = torch.cuda.device_count()
    with pytest.raises(DdrsError, match=f"'cuda:{count}': this machine has {count} usable CUDA devices"):
        resolve_device(f"cuda:{count}")
