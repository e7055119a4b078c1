"""What captions say of how a config's models and sigmas are made."""

import inspect
import sys
from pathlib import Path

import pytest
import yaml

from ddrs.experiment.config import Config
from ddrs.experiment.load import load
from ddrs.experiment.recipes import CLASS_SAMPLES, about, recipe, shown_figures
from ddrs.operations.overlays import merge, read, read_all
from ddrs.rows import DS, DS2, FS, QCRS, Kind, kinds_of
from ddrs.sigma.objective import mean_class
from ddrs.training.regimes import REGIMES

ROOT = Path(__file__).parents[3]


def config(*overlays: str) -> Config:
    return load(merge(read(ROOT / "config.yaml"), read_all([ROOT / "configs" / name for name in overlays])))


def test_the_embedded_suite_says_where_it_is_smaller_than_the_paper():
    text = recipe(config(), "mnist5k", "macer", kinds_of("table3", "macer"))
    assert text == (
        "Models: small_cnn, 8 epochs (the paper's on CIFAR-10: 200), k = 8, lambda = 12 / 4 / 2, gamma = 8, beta = 16 (the paper: k = 64, "
        "lambda = 12); DS2 training: 4 epochs more, one sigma step of 0.038 (the paper: 0.0001) with n = 8 in each. Search: up to K = 1500 steps "
        "of 0.0001 with n = 1 (the paper: 8), the class fixed at the start by 100 samples (Equation 3; Algorithm 1 picks it again in each step)"
    )
    branched = recipe(config(), "mnist5k", "cohen", [DS2])
    assert "DS2 training: from epoch 4 of them on, one sigma step of 0.019 (the paper: 0.0001) with n = 1 in each" in branched
    assert "DS2" not in recipe(config(), "mnist5k", "yang", kinds_of("table4", "yang")), "it has no such row"
    assert inspect.signature(mean_class).parameters["samples"].default == CLASS_SAMPLES


@pytest.mark.parametrize(("dataset", "methods"), [("cifar10", ("cohen", "smoothadv", "macer", "yang")), ("imagenet", ("cohen", "smoothadv", "yang"))])
def test_the_papers_own_settings_differ_from_nothing(dataset: str, methods: tuple[str, ...]):
    for method in methods:
        assert "the paper" not in recipe(config("paper.yaml"), dataset, method, [FS, DS] if method == "yang" else [FS, DS, DS2])


def test_published_models_are_said_to_be_others():
    text = recipe(config("pretrained.yaml"), "cifar10", "smoothadv", [DS2])
    assert text.startswith("Models: resnet110 as published by others; DS2 training: 30 epochs more, one sigma step of 0.0001 with n = 1 in each. ")


def test_rows_say_what_is_done_for_them_and_nothing_else():
    family = config("family.yaml")
    assert recipe(family, "mnist5k", "cohen", kinds_of("family", "cohen")) == (
        "Models: small_cnn, 15 epochs (the paper's on CIFAR-10: 200). Search by qcrs: K = 6, n = 500, "
        "low = 0.08 / 0.12 / 0.2, high = 0.9 / 1.7 / 2, h = 0.075 / 0.15 / 0.2"
    )
    assert recipe(family, "mnist5k", "cohen", [FS]) == "Models: small_cnn, 15 epochs (the paper's on CIFAR-10: 200)"
    both = recipe(family, "mnist5k", "cohen", [QCRS, DS])
    assert both.count(". Search by qcrs: ") == both.count(". Search: up to K = 1500 steps ") == 1 and "DS2" not in both
    assert recipe(family, "mnist5k", "consistency", kinds_of("family", "consistency")).startswith(
        "Models: small_cnn, 15 epochs (the paper's on CIFAR-10: 200), m = 2, lambda = 10 / 5 / 5, eta = 0.5; DS2 training: from epoch 4 of them on, "
    )


def test_another_regime_says_its_settings_by_sigma(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "doubling.py").write_text(
        "from ddrs.sigma.settings import StepSettings\n\nclass Settings(StepSettings):\n    every_epoch: int = 3\n    unset: float | None = None\n"
    )
    monkeypatch.setattr(sys.modules[REGIMES.package], "__path__", [*sys.modules[REGIMES.package].__path__, str(tmp_path)])
    raw = merge(
        read(ROOT / "config.yaml"), {"finetune": {"mnist5k": {"cohen": {"regimes": {"doubling": {"every_epoch": {0.25: 2, 0.5: 4, 1.0: 4}}}}}}}
    )
    text = recipe(load(raw), "mnist5k", "cohen", [Kind("doubled", ("Doubled", "FS"), trained="doubling")])
    assert text.endswith("; doubling training: from epoch 4 of them on, step size = 0.019, n = 1, every epoch = 2 / 4 / 4")


def test_the_first_page_says_what_is_certified_and_how():
    first, _, figures = about(config()).rpartition("\n\n")
    assert figures == "Figures: 1, 2, 3, 4, 5, 6, 7, 8, 9."
    assert first.startswith(
        "On mnist5k, certified on 100 test images, protocol fixed, n0 = 100, n = 2,500, alpha = 0.001 per image and log, noise on the pixel"
    )
    assert (
        "sigma and K chosen once on the test images, as in the paper, and once on 50 validation images at n = 1,000.\n\n- Table 1: cohen at" in first
    )
    cifar, imagenet = about(config("paper.yaml")).split("On ")[1:]
    for words in (
        "once on every second test image, the others being reported.",
        "- Table 1: cohen at sigma 0.12, 0.25, 0.50. Models: resnet18, 200 epochs;",
        "- Table 4: yang at lambda 0.25, 0.50, 1.00. Models: wide_resnet40_2, 200 epochs.",
    ):
        assert words in cifar
    assert "Table 3" not in imagenet and "500 test images" in imagenet


def test_a_total_alpha_is_said_per_image():
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    raw["certify"]["mnist5k"]["alpha"] = {"total": 0.05}
    assert "alpha = 0.0005 per image and log" in about(load(raw))


def test_only_figures_that_have_something_are_shown():
    assert shown_figures(config("selection.yaml", "paper.yaml")) == list(range(1, 10))
    assert shown_figures(config("paper.yaml", "selection.yaml")) == [1, 2, 3, 4, 5]
    assert shown_figures(config("pretrained.yaml")) == [1, 2, 3, 4]
