"""Preprocessing inside a model: recorded with the checkpoint, the same through every way of running it, and of no effect where none was recorded."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ddrs.certification.inference import flat, running
from ddrs.errors import DdrsError
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import load_model, read_facts, save_model
from ddrs.models.preprocessing import Preprocessed, with_preprocessing

SHAPE = (3, 32, 32)
NORMALIZE = {"kind": "normalize", "mean": [0.4914, 0.4822, 0.4465], "sd": [0.2023, 0.1994, 0.201]}
CENTER = {"kind": "center", "mean": [0.4914, 0.4822, 0.4465]}
FACTS = {"architecture": "resnet18_ddrs", "shape": [3, 32, 32], "classes": 10, "method": "cohen", "regime": "fs", "sigma": 0.25, "noise": "gaussian"}


def network(architecture: str = "resnet18_ddrs") -> nn.Module:
    """With BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(0)
    net = build_model(architecture, SHAPE, 10).train()
    with torch.no_grad():
        net(torch.rand(8, *SHAPE))
    return net.eval()


def saved(path: Path, recorded: dict | None) -> nn.Module:
    model = with_preprocessing(network(), recorded, 3)
    save_model(path, model, FACTS if recorded is None else {**FACTS, "preprocessing": recorded})
    return model


@pytest.mark.parametrize("recorded", [NORMALIZE, CENTER])
@torch.no_grad()
def test_a_loaded_model_is_behind_what_was_recorded(recorded: dict, tmp_path: Path) -> None:
    saved(tmp_path / "m.safetensors", recorded)
    x = torch.rand(4, *SHAPE)
    mean, sd = (torch.tensor(recorded.get(name, [1.0] * 3)).view(1, 3, 1, 1) for name in ("mean", "sd"))
    assert torch.equal(load_model(tmp_path / "m.safetensors")(x), network()((x - mean) / sd))
    assert not torch.allclose(load_model(tmp_path / "m.safetensors")(x), network()(x), atol=1e-3)
    assert read_facts(tmp_path / "m.safetensors")["preprocessing"] == recorded


@pytest.mark.parametrize("recorded", [None, {"kind": "none"}])
@torch.no_grad()
def test_without_preprocessing_it_is_the_network_itself(recorded: dict | None, tmp_path: Path) -> None:
    saved(tmp_path / "m.safetensors", recorded)
    x, loaded = torch.rand(4, *SHAPE), load_model(tmp_path / "m.safetensors")
    assert torch.equal(loaded(x), network()(x)) and not isinstance(loaded, Preprocessed)


@pytest.mark.parametrize(
    "recorded",
    [
        {"kind": "whiten"},
        {},
        {"kind": "center"},
        {**CENTER, "sd": [1.0] * 3},
        {"kind": "normalize", "mean": [0.5], "sd": [1.0]},
        "none",
        {"kind": ["center"], "mean": [0.5] * 3},
        {"kind": "center", "mean": 5},
        {"kind": "center", "mean": ["a", "b", "c"]},
    ],
    ids=["unknown", "empty", "no mean", "mean and sd of a center", "too few channels", "a word", "a list", "a number", "words"],
)
def test_an_unknown_preprocessing_is_refused(recorded: object, tmp_path: Path) -> None:
    save_model(tmp_path / "m.safetensors", network(), {**FACTS, "preprocessing": recorded})
    with pytest.raises(DdrsError, match=r"m\.safetensors: preprocessing .*: must be none, center with a mean or normalize") as error:
        load_model(tmp_path / "m.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("architecture", ["resnet18_ddrs", "resnet110"])
@pytest.mark.parametrize("recorded", [NORMALIZE, CENTER])
@torch.no_grad()
def test_a_preprocessed_model_is_folded_and_gives_the_same_scores(architecture: str, recorded: dict) -> None:
    model = with_preprocessing(network(architecture), recorded, 3)
    x = torch.rand(16, *SHAPE)
    expected = model(x)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with running(model, SHAPE, "float32") as scores:
            assert len(scores) == 2  # a model that can not be folded runs as it is, once
    finally:
        torch.set_num_threads(threads)
    with running(model, SHAPE, "float32") as (scores,):
        found = scores(torch.stack([flat(image) for image in x]))
    assert (found - expected).abs().max() <= 1e-4 * (expected.max() - expected.min())
    assert (found - expected).abs().max() < (network(architecture)(x) - expected).abs().max() / 100


def test_the_gradient_that_moves_sigma_goes_through_it() -> None:
    """By the chain rule, a normalised image's gradient is the network's over sd."""
    x, net = torch.rand(1, *SHAPE), network()
    images = [x.clone().requires_grad_(True), ((x - torch.tensor(NORMALIZE["mean"]).view(3, 1, 1)) / torch.tensor(NORMALIZE["sd"]).view(3, 1, 1))]
    images[1].requires_grad_(True)
    whole, inner = (torch.autograd.grad(f(z)[0, 3], z)[0] for f, z in zip((with_preprocessing(net, NORMALIZE, 3), net), images, strict=True))
    assert torch.allclose(whole, inner / torch.tensor(NORMALIZE["sd"]).view(3, 1, 1), rtol=1e-4, atol=1e-8)
