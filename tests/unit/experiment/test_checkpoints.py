"""config.yaml's `checkpoints`: what it accepts, and that each mistake is one line that names the key and what is allowed."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ddrs.errors import DdrsError
from ddrs.experiment.config import Config
from ddrs.experiment.load import load

ROOT = Path(__file__).parents[3]


def raw() -> dict[str, Any]:
    base = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    for key, value in yaml.safe_load((ROOT / "configs/pretrained.yaml").read_text(encoding="utf-8")).items():
        base[key] = {**base[key], **value} if isinstance(value, dict) else value
    return base


def changed(place: str, value: object) -> dict[str, Any]:
    """The overlay's config with the key at a dotted place set. YAML's aliases are copied apart."""
    whole = yaml.safe_load(yaml.dump(raw(), Dumper=Apart))
    at = whole
    *parents, last = place.split("/")
    for name in parents:
        at = at[name]
    at[last] = value
    return whole


class Apart(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def settings() -> Config:
    return load(raw())


def test_the_overlay_loads_without_training_settings() -> None:
    found = settings()
    assert "cifar10" not in found.train and found.makes("train", "cifar10", "cohen") and not found.makes("train", "cifar10", "macer")
    assert not found.makes("finetune", "mnist5k", "yang") and found.makes("finetune", "cifar10", "cohen")


def test_a_sigma_stands_in_the_path_or_chooses_it() -> None:
    cifar10, imagenet = (settings().checkpoints[name] for name in ("cifar10", "imagenet"))
    assert cifar10["cohen"].path("0.50") == "checkpoints/locuslab/models/cifar10/resnet110/noise_0.50/checkpoint.pth.tar"
    folders = [imagenet["smoothadv"].path(sigma).split("/")[5] for sigma in ("0.25", "0.50", "1.00")]
    assert folders == ["eps_127", "eps_255", "eps_255"]


COHEN, SMOOTHADV = "checkpoints/cifar10/cohen", "checkpoints/cifar10/smoothadv"
FILE = {"format": "locuslab", "file": "{sigma}.pth"}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (f"{COHEN}/format", "locus", "checkpoints.cifar10.cohen.format: unknown format 'locus' (did you mean 'locuslab'?); known are locuslab, smo"),
        (f"{COHEN}/fiel", "x", "checkpoints.cifar10.cohen: unknown key 'fiel' (did you mean 'file'?)"),
        (f"{COHEN}/preprocessing", "whiten", "checkpoints.cifar10.cohen.preprocessing: Input should be 'none', 'center' or 'normalize'"),
        (f"{COHEN}/preprocessing", "center", "checkpoints.cifar10.cohen: preprocessing center: models of format locuslab for cifar10 have normalize"),
        (
            f"{SMOOTHADV}/preprocessing",
            None,
            "checkpoints.cifar10.smoothadv: preprocessing: files of format smoothing-adversarial for cifar10 do not say",
        ),
        (f"{COHEN}/file", "model.pth", "checkpoints.cifar10.cohen.file: must have {sigma} in it, or be a mapping, as sigmas 0.12, 0.25, 0.50 are"),
        (f"{COHEN}/file", {0.12: "a", 0.5: "b"}, "checkpoints.cifar10.cohen.file: has no path for sigma 0.25"),
        (f"{COHEN}/file", {"low": "a"}, "checkpoints.cifar10.cohen.file: must be a path, or a mapping from sigma to a path"),
        (f"{COHEN}/file", "{dataset}/{sigma}", "checkpoints.cifar10.cohen.file: '{dataset}/0.12' has braces; only {sigma} is filled in"),
        (
            "checkpoints/imagenet/macer",
            {**FILE, "format": "macer"},
            "checkpoints.imagenet.macer: format macer: its models are of cifar10, not of imagenet",
        ),
        ("checkpoints/mnist5k", {"cohen": FILE}, "checkpoints.mnist5k: its models saw all training images"),
        (
            "checkpoints/cifar10/yang",
            FILE,
            "checkpoints.cifar10.yang: models of format locuslab were trained with gaussian noise, yang is of another",
        ),
        ("checkpoints/cifar10", {"cohn": FILE}, "unknown method 'cohn' (did you mean 'cohen'?)"),
        (
            "datasets/cifar10",
            {"architecture": "resnet110", "sigmas": [0.12], "radii": [0.0], "images": {"test": 100, "validation": 50}},
            "checkpoints.cifar10: its models saw all training images, so none are left to choose on: datasets.cifar10.images must not have",
        ),
        (
            "finetune/cifar10/cohen",
            {"start": "branch"},
            "finetune.cifar10.cohen: start: branch needs a run to branch from; the models of checkpoints.cifar10.cohen are finished",
        ),
        (
            "datasets/cifar10/architecture",
            "small_cnn",
            "datasets.cifar10.architecture: small_cnn, but the models of checkpoints.cifar10 are of resnet110",
        ),
        ("checkpoints/cifar10", {"cohen": FILE}, "tables.table2: method 'smoothadv' has no train.cifar10.smoothadv"),
        ("checkpoints", {}, "tables.table1: dataset 'cifar10' has no train.cifar10"),
    ],
)
def test_a_mistake_is_one_line(place: str, value: object, message: str) -> None:
    with pytest.raises(DdrsError) as error:
        load(changed(place, value))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_trained_models_beside_published_ones_may_have_another_architecture() -> None:
    whole = changed("datasets/cifar10/architecture", "small_cnn")
    whole["train"]["cifar10"] = {"macer": {"epochs": 1}}
    assert load(whole).on("cifar10", "macer").architecture == "small_cnn"
    whole["train"]["cifar10"] = {"yang": {"epochs": 1}}
    assert load(whole).on("cifar10", "yang").architecture == "small_cnn"
    whole["datasets"]["cifar10"]["uniform"] = {"architecture": "wide_resnet40_2"}
    with pytest.raises(DdrsError, match=r"small_cnn, but the models of checkpoints\.cifar10 are of resnet110"):
        load(whole)
