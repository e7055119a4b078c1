"""config.yaml: what is accepted, and that each mistake is one line that names the key and what is allowed."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ddrs.certification.settings import ImageCertificateSettings
from ddrs.errors import DdrsError
from ddrs.experiment import load as experiment_load
from ddrs.experiment.config import Config
from ddrs.experiment.load import load
from ddrs.sections import Section
from ddrs.sigma.settings import SearchSettings, StepSettings
from ddrs.training.settings import TrainSettings

ROOT = Path(__file__).parents[3]
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
REMOVED = object()


def unaliased(value: Any) -> Any:
    """A deep copy in which what YAML's aliases share is apart."""
    if isinstance(value, dict):
        return {name: unaliased(one) for name, one in value.items()}
    return [unaliased(one) for one in value] if isinstance(value, list) else value


def changed(place: str, value: object, base: dict = SHIPPED) -> dict:
    """A copy of the shipped config with the key at a dotted place set, or removed."""
    raw = unaliased(base)
    *parents, last = place.split(".")
    at: Any = raw
    for name in parents:
        at = at[name]
    if value is REMOVED:
        del at[last]
    else:
        at[last] = value
    return raw


def refusal(raw: object) -> str:
    with pytest.raises(DdrsError) as error:
        load(raw)  # type: ignore[arg-type]
    text = str(error.value)
    assert text.startswith("config: ") and "\n" not in text
    return text


def test_the_shipped_config_loads():
    settings = load(SHIPPED)
    assert settings.device == "cpu" and settings.tables == {f"table{number}": ["mnist5k"] for number in (1, 2, 3, 4)}
    assert settings.sigma_texts("mnist5k", "cohen") == ["0.25", "0.50", "1.00"]
    assert settings.search["mnist5k"].k_max >= max(settings.certify["mnist5k"].k)


def test_a_method_may_search_with_its_own_samples():
    settings = load(changed("search.mnist5k.methods", {"macer": {"samples": 8}, "cohen": {}}))
    ours, theirs = settings.search_on("mnist5k", "cohen"), settings.search_on("mnist5k", "macer")
    assert type(ours) is SearchSettings and ours == load(SHIPPED).search_on("mnist5k", "cohen")
    assert theirs == ours.model_copy(update={"samples": 8})


def test_the_tests_overlay_loads_over_the_shipped_config():
    def merge(base: dict, over: dict) -> dict:
        return {**base, **{k: merge(base.get(k, {}), v) if isinstance(v, dict) else v for k, v in over.items()}}

    overlay = yaml.safe_load((ROOT / "tests" / "configs" / "tiny.yaml").read_text(encoding="utf-8"))
    assert load(merge(SHIPPED, overlay)).datasets["mnist5k"].images == {"test": 4, "validation": 2}


def test_the_schema_file_is_that_of_the_model(tmp_path: Path):
    path = ROOT / "workflow" / "schemas" / "config.schema.json"
    assert path.read_text(encoding="utf-8") == experiment_load.json_schema(), "run ddrs.experiment.load.write_json_schema"
    experiment_load.write_json_schema(tmp_path / "schema.json")
    assert json.loads((tmp_path / "schema.json").read_text())["properties"].keys() == Config.model_fields.keys()


def test_every_setting_is_described():
    def sections(model: type[Section]) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"

    for model in (TrainSettings, StepSettings, SearchSettings, ImageCertificateSettings):
        sections(model)


MISTAKES: list[tuple[str, object, list[str]]] = [
    # unknown and misspelt names
    ("sead", 1, ["unknown key 'sead'", "did you mean 'seed'?", "allowed are seed, device"]),
    ("datasets.mnist5k.sigma", [0.25], ["datasets.mnist5k", "'sigma'", "did you mean 'sigmas'?"]),
    ("train.mnist5k.cohen.learning_rat", 0.1, ["train.mnist5k.cohen", "did you mean 'learning_rate'?"]),
    ("search.mnist5k.kmax", 10, ["search.mnist5k", "did you mean 'k_max'?"]),
    ("search.mnist5k.methods", {"macr": {}}, ["search.mnist5k.methods", "unknown method 'macr'", "did you mean 'macer'?"]),
    ("search.mnist5k.methods", {"macer": {"k_max": 9}}, ["search.mnist5k.methods.macer", "unknown key 'k_max'", "allowed are samples"]),
    ("search.mnist5k.methods", {"macer": {"samples": 0}}, ["search.mnist5k.methods.macer.samples", "greater than or equal to 1"]),
    (
        "certify.mnist5k.zzz",
        10,
        [
            "certify.mnist5k",
            "unknown key 'zzz'",
            "allowed are n0, n, protocol, bound, noise, precision, spending, radius_loss, alpha, n_validation, k, shards",
        ],
    ),
    ("datasets.mnist5k.architecture", "small_cn", ["datasets.mnist5k.architecture", "did you mean 'small_cnn'?", "resnet18"]),
    ("datasets.mnst5k", {}, ["unknown dataset 'mnst5k'", "did you mean 'mnist5k'?", "cifar10, fashion_mnist"]),
    ("tables.table1", ["mnist"], ["tables.table1", "'mnist' has no datasets.mnist"]),
    ("tables.table9", ["mnist5k"], ["tables.table9", "table1, table2, table3, table4"]),
    ("datasets.mnist5k.uniform.images", {}, ["datasets.mnist5k.uniform", "unknown key 'images'", "allowed are architecture, sigmas, radii"]),
    ("datasets.mnist5k.uniform.architecture", "wrn", ["datasets.mnist5k.uniform.architecture", "unknown architecture 'wrn'", "wide_resnet40_2"]),
    ("train.mnist5k.cohn", {"epochs": 1}, ["unknown method 'cohn'", "did you mean 'cohen'?"]),
    ("device", "gpu", ["device", "cpu", "cuda"]),
    ("search.mnist5k.objective_class", "best", ["search.mnist5k.objective_class", "current", "fixed"]),
    ("finetune.mnist5k.cohen.start", "scratch", ["finetune.mnist5k.cohen.start", "trained", "branch"]),
    ("train.mnist5k.cohen.optimizer", "sdg", ["train.mnist5k.cohen.optimizer", "sgd", "adam"]),
    ("train.mnist5k.cohen.schedule", "cos", ["train.mnist5k.cohen.schedule", "cosine"]),
    ("datasets.mnist5k.images", {"tset": 4}, ["datasets.mnist5k.images", "validation", "test"]),
    # numbers out of range
    ("datasets.mnist5k.sigmas", [-0.25], ["datasets.mnist5k.sigmas.0", "greater than 0", "-0.25"]),
    ("datasets.mnist5k.sigmas", [0.0, 0.25], ["datasets.mnist5k.sigmas.0", "greater than 0"]),
    ("datasets.mnist5k.sigmas", ["small"], ["datasets.mnist5k.sigmas.0", "number", "'small'"]),
    ("datasets.mnist5k.sigmas", [float("nan")], ["datasets.mnist5k.sigmas.0", "finite number"]),
    ("datasets.mnist5k.sigmas", [float("inf")], ["datasets.mnist5k.sigmas.0", "finite number"]),
    ("datasets.mnist5k.sigmas", [0.125], ["datasets.mnist5k.sigmas.0", "at most two decimals", "0.125"]),
    ("datasets.mnist5k.sigmas", [], ["datasets.mnist5k.sigmas", "at least 1 item"]),
    ("datasets.mnist5k.sigmas", 0.25, ["datasets.mnist5k.sigmas", "list"]),
    ("datasets.mnist5k.sigmas", [0.5, 0.25], ["datasets.mnist5k.sigmas: must be increasing", "[0.5, 0.25]"]),
    ("datasets.mnist5k.sigmas", [0.25, 0.25], ["datasets.mnist5k.sigmas: must be increasing"]),
    ("datasets.mnist5k.sigmas", [0.25, 2.5], ["datasets.mnist5k.sigmas: 2.5 is outside search.mnist5k's [0.001, 2.0]"]),
    ("datasets.mnist5k.uniform.sigmas", [0.25, 2.5], ["datasets.mnist5k.uniform.sigmas: 2.5 is outside search.mnist5k's [0.001, 2.0]"]),
    ("datasets.mnist5k.uniform.sigmas", [], ["datasets.mnist5k.uniform.sigmas", "at least 1 item"]),
    ("datasets.mnist5k.uniform.radii", [0.5, 0.25], ["datasets.mnist5k.uniform.radii: must be increasing"]),
    ("datasets.mnist5k.radii", [-0.5, 0.0], ["datasets.mnist5k.radii.0", "greater than or equal to 0"]),
    ("datasets.mnist5k.radii", [0.0, "far"], ["datasets.mnist5k.radii.1", "number"]),
    ("datasets.mnist5k.radii", [0.5, 0.0], ["datasets.mnist5k.radii: must be increasing"]),
    ("datasets.mnist5k.images", {"test": 1}, ["datasets.mnist5k.images: needs test, for tables.table1, and 2 or more of them without validation"]),
    ("datasets.mnist5k.images", {"validation": 4}, ["datasets.mnist5k.images: needs test, for tables.table1"]),
    ("certify.mnist5k.n_validation", 9, ["certify.mnist5k", "n = 9 is too small", "alpha = 0.001", "at least 10 is needed"]),
    ("certify.mnist5k.n_validation", 0, ["certify.mnist5k.n_validation", "greater than or equal to 1"]),
    ("datasets.mnist5k.images.test", 0, ["datasets.mnist5k.images.test", "greater than or equal to 1"]),
    ("certify.mnist5k.alpha", 0.0, ["certify.mnist5k.alpha: must be a number between 0 and 1"]),
    ("certify.mnist5k.alpha", 1.0, ["certify.mnist5k.alpha: must be a number between 0 and 1"]),
    ("certify.mnist5k.alpha", -0.1, ["certify.mnist5k.alpha: must be a number between 0 and 1"]),
    ("certify.mnist5k.n", 9, ["certify.mnist5k", "n = 9 is too small", "alpha = 0.001", "at least 10 is needed"]),
    ("certify.mnist5k.n", 0, ["certify.mnist5k.n", "greater than or equal to 1"]),
    ("certify.mnist5k.n", 1000.5, ["certify.mnist5k.n", "integer", "1000.5"]),
    ("certify.mnist5k.n0", 0, ["certify.mnist5k.n0", "greater than or equal to 1"]),
    ("certify.mnist5k.k", [300, 1501], ["certify.mnist5k.k: 1501 is beyond search.mnist5k.k_max = 1500"]),
    ("certify.mnist5k.k", [900, 300], ["certify.mnist5k.k: must be increasing, got [900, 300]"]),
    ("certify.mnist5k.k", [0], ["certify.mnist5k.k.0", "greater than or equal to 1"]),
    ("certify.mnist5k.k", [], ["certify.mnist5k.k", "at least 1 item"]),
    ("certify.mnist5k.shards", 0, ["certify.mnist5k.shards", "greater than or equal to 1"]),
    ("certify.mnist5k.shards", 10_000, ["certify.mnist5k.shards: 10000 is above the", "images of a split"]),
    ("certify.mnist5k.protocol", "sequentiel", ["certify.mnist5k.protocol", "sequential", "two-stage"]),
    ("certify.mnist5k.bound", "upper", ["certify.mnist5k.bound", "binary", "joint"]),
    ("certify.mnist5k.noise", "laplace", ["certify.mnist5k.noise", "gaussian", "uniform", "lattice"]),
    ("certify.mnist5k.precision", "float8", ["certify.mnist5k.precision", "float32", "bfloat16"]),
    ("certify.mnist5k.spending", "linear", ["certify.mnist5k.spending", "sqrt", "log"]),
    ("certify.mnist5k.radius_loss", -0.1, ["certify.mnist5k.radius_loss", "greater than or equal to 0"]),
    ("search.mnist5k.k_max", 0, ["search.mnist5k.k_max", "greater than or equal to 1"]),
    ("search.mnist5k.step_size", 0, ["search.mnist5k.step_size", "greater than 0"]),
    ("search.mnist5k.sigma_max", 0.001, ["search.mnist5k", "sigma_min = 0.001 must be below sigma_max = 0.001"]),
    ("train.mnist5k.cohen.branch_epoch", 16, ["train.mnist5k.cohen", "branch_epoch = 16 is beyond epochs = 15"]),
    ("train.mnist5k.cohen.epochs", 0, ["train.mnist5k.cohen.epochs", "greater than or equal to 1"]),
    ("train.mnist5k.cohen.learning_rate", -1, ["train.mnist5k.cohen.learning_rate", "greater than 0"]),
    ("train.mnist5k.cohen.momentum", 1.0, ["train.mnist5k.cohen.momentum", "less than 1"]),
    ("train.mnist5k.cohen.gamma", 0, ["train.mnist5k.cohen.gamma", "greater than 0"]),
    ("train.mnist5k.cohen.milestones", [], ["train.mnist5k.cohen", "milestones"]),
    ("train.mnist5k.cohen.milestones", [10, 5], ["train.mnist5k.cohen", "milestones", "increasing"]),
    ("train.mnist5k.yang", {"epochs": 15, "milestones": [5, 10]}, ["train.mnist5k.yang", "milestones = [5, 10]", "step takes one, its period"]),
    ("train.mnist5k.cohen.precision", "tf32", ["train.mnist5k.cohen.precision: tf32 needs device: cuda"]),
    ("finetune.mnist5k.smoothadv.train.precision", "tf32", ["finetune.mnist5k.smoothadv.train.precision: tf32 needs device: cuda"]),
    ("certify.mnist5k.precision", "tf32-compiled", ["certify.mnist5k.precision: tf32-compiled needs device: cuda"]),
    ("finetune.mnist5k.smoothadv.train.branch_epoch", 2, ["finetune.mnist5k.smoothadv", "train.branch_epoch", "must be null"]),
    ("seed", -1, ["seed", "greater than or equal to 0"]),
    # losses
    ("train.mnist5k.cohen.loss", {"epsilon": 0.5}, ["train.mnist5k.cohen.loss", "'epsilon' of cohen", "allowed are none"]),
    ("train.mnist5k.smoothadv.loss.epsilo", 1.0, ["train.mnist5k.smoothadv.loss", "did you mean 'epsilon'?", "attack_steps"]),
    ("train.mnist5k.smoothadv.loss.epsilon", -1.0, ["train.mnist5k.smoothadv.loss of smoothadv: epsilon", "greater than 0"]),
    ("train.mnist5k.smoothadv.loss.attack_steps", 1.5, ["train.mnist5k.smoothadv.loss of smoothadv: attack_steps", "integer"]),
    ("train.mnist5k.smoothadv.loss", {}, ["train.mnist5k.smoothadv.loss of smoothadv: epsilon", "required"]),
    ("train.mnist5k.smoothadv.loss.epsilon", {"0.25": 0.5, "0.50": 1.0}, ["train.mnist5k.smoothadv.loss", "epsilon has no value for sigma 1.00"]),
    ("train.mnist5k.smoothadv.loss.epsilon", "big", ["train.mnist5k.smoothadv.loss.epsilon", "'big' must be a number"]),
    ("train.mnist5k.smoothadv.loss.epsilon", {"small": 1.0}, ["train.mnist5k.smoothadv.loss.epsilon", "mapping from sigma to a number"]),
    ("train.mnist5k.smoothadv.loss.epsilon", {0.25: 1, 0.5: 1, 1.0: -1}, ["train.mnist5k.smoothadv.loss", "epsilon", "greater than 0"]),
    ("finetune.mnist5k.smoothadv.train.loss.epsilon", 0, ["finetune.mnist5k.smoothadv", "epsilon", "greater than 0"]),
    # sections
    ("datasets", REMOVED, ["datasets", "required"]),
    ("certify", REMOVED, ["certify", "required"]),
    ("search.mnist5k", REMOVED, ["tables.table1", "'mnist5k' has no search.mnist5k"]),
    ("train.mnist5k.smoothadv", REMOVED, ["tables.table2", "'smoothadv' has no train.mnist5k.smoothadv"]),
    ("finetune.mnist5k.cohen", REMOVED, ["tables.table1", "'cohen' has no finetune.mnist5k.cohen"]),
    ("finetune.mnist5k.macer", REMOVED, ["tables.table3", "'macer' has no finetune.mnist5k.macer"]),
    ("train.mnist5k.yang", REMOVED, ["tables.table4", "'yang' has no train.mnist5k.yang"]),
    ("train.mnist5k.macer.loss.lambda", {0.25: 12, 0.5: 4}, ["train.mnist5k.macer.loss", "lambda has no value for sigma 1.00"]),
    ("finetune.mnist5k.smoothadv.train", REMOVED, ["finetune.mnist5k.smoothadv", "train is needed with start: trained"]),
    ("finetune.mnist5k.cohen.train", {"epochs": 3}, ["finetune.mnist5k.cohen", "not allowed with start: branch"]),
    ("train", None, ["train", "dictionary"]),
    ("search.mnist5k", 5, ["search.mnist5k"]),
    ("train.mnist5k.cohen.branch_epoch", None, ["mnist5k.cohen", "branch_epoch"]),  # a branch at the end leaves nothing to fine-tune
    ("train.mnist5k.cohen.branch_epoch", 15, ["mnist5k.cohen", "branch_epoch"]),
    ("finetune.mnist5k.cohen.step.sigma_max", 0.5, ["finetune.mnist5k.cohen.step", "[0.001, 0.5]"]),  # training starts at sigma 1.00
]


@pytest.mark.parametrize(("place", "value", "parts"), MISTAKES, ids=[f"{place}={'-' if v is REMOVED else v}"[:70] for place, v, _ in MISTAKES])
def test_each_mistake_is_one_line_that_names_the_key_and_what_is_allowed(place: str, value: object, parts: list[str]):
    text = refusal(changed(place, value))
    assert [part for part in parts if part not in text] == [], text


@pytest.mark.parametrize("raw", [None, [], {}, {1: 2}, "text", {"seed": 0}], ids=str)
def test_what_is_no_config_is_one_line(raw: object):
    refusal(raw)


def test_all_mistakes_of_one_config_are_told_at_once():
    text = refusal(changed("certify.mnist5k.alpha", 2, changed("seed", -1)))
    assert "seed" in text and "certify.mnist5k.alpha" in text


@pytest.mark.parametrize("sigmas", [("0.25", "0.50", "1.00"), (0.25, 0.5, 1.0), ("0.25", ".5", 1)], ids=["text", "numbers", "mixed"])
def test_a_loss_setting_may_differ_by_sigma_in_any_spelling(sigmas: tuple):
    values = dict(zip(sigmas, [0.5, 1.0, 2.0], strict=True))
    settings = load(changed("train.mnist5k.smoothadv.loss.epsilon", values)).train["mnist5k"]["smoothadv"]
    assert [settings.at_sigma(sigma).loss["epsilon"] for sigma in ("0.25", "0.50", "1.00")] == [0.5, 1.0, 2.0]
    assert settings.at_sigma("0.50").loss["attack_steps"] == SHIPPED["train"]["mnist5k"]["smoothadv"]["loss"]["attack_steps"]


def test_finetuning_from_a_branch_ends_the_training_run():
    settings = load(SHIPPED)
    assert settings.finetune_settings("mnist5k", "cohen") == settings.train["mnist5k"]["cohen"]
    assert settings.finetune_settings("mnist5k", "smoothadv").epochs == SHIPPED["finetune"]["mnist5k"]["smoothadv"]["train"]["epochs"]


def test_uniform_noise_may_have_a_grid_and_a_network_of_its_own():
    """Only what it says differs, and only for methods with that noise."""
    raw = {**changed("datasets.mnist5k.uniform", {"architecture": "wide_resnet40_2", "sigmas": [0.1]}), "figures": {}}
    settings = load(raw)
    yang, macer = settings.on("mnist5k", "yang"), settings.on("mnist5k", "macer")
    assert macer == settings.datasets["mnist5k"]
    assert (yang.architecture, yang.radii, yang.images) == ("wide_resnet40_2", macer.radii, macer.images)
    assert settings.sigma_texts("mnist5k", "yang") == ["0.10"] and settings.sigma_texts("mnist5k", "macer") == ["0.25", "0.50", "1.00"]
    settings = load(changed("datasets.mnist5k.uniform", REMOVED))
    assert settings.on("mnist5k", "yang") == settings.on("mnist5k", "macer")


def test_settings_do_not_change_after_they_were_checked():
    settings = load(SHIPPED)
    with pytest.raises(ValueError, match="frozen"):
        settings.seed = 3


@pytest.mark.parametrize("alpha", [0.5, 0.25, 0.125, 0.05, 0.01, 0.001, 1e-6, 1e-9, 0.999])
def test_the_smallest_n_of_a_config_is_that_of_the_bound(alpha: float):
    from ddrs.statistics.bounds import smallest_n

    least = smallest_n(alpha)
    assert ImageCertificateSettings(n=least, alpha=alpha).n == least
    if least > 1:
        with pytest.raises(DdrsError, match=f"at least {least} is needed"):
            ImageCertificateSettings.checked(n=least - 1, alpha=alpha)


def test_joint_with_sequential_is_one_line():
    text = refusal(changed("certify.mnist5k.bound", "joint", changed("certify.mnist5k.protocol", "sequential")))
    assert "certify.mnist5k" in text and "bound: joint is for protocols fixed and two-stage" in text


@pytest.mark.parametrize("place", ["spending", "radius_loss", "radii"])
def test_a_setting_that_a_protocol_does_not_read_triggers_nothing(place: str):
    """The flags of a job, and so its digest, stay the same."""
    settings, radii = load(SHIPPED).certify["mnist5k"], [0.0, 0.25]
    assert settings.protocol == "fixed"
    changes = {"spending": {"spending": "log"}, "radius_loss": {"radius_loss": 0.5}, "radii": {}}[place]
    found = settings.model_copy(update=changes).sampling(100, [0.0, 0.5] if place == "radii" else radii)
    assert found == settings.sampling(100, radii) and found.radii == []
    sequential = settings.model_copy(update={"protocol": "sequential"})
    found = sequential.model_copy(update=changes).sampling(100, [0.0, 0.5] if place == "radii" else radii)
    assert (found == sequential.sampling(100, radii)) == (place == "radius_loss")


def test_validation_images_may_have_an_n_of_their_own():
    """By default that of the test images; a protocol's other settings are shared."""
    certify = load(changed("certify.mnist5k.n_validation", 400)).certify["mnist5k"]
    test, validation = certify.sampling(100, [0.5]), certify.sampling(50, [0.5], "validation")
    assert (test.n, validation.n) == (SHIPPED["certify"]["mnist5k"]["n"], 400)
    assert validation.model_copy(update={"n": test.n}) == test
    certify = load(changed("certify.mnist5k.n_validation", REMOVED)).certify["mnist5k"]
    assert certify.sampling(50, [0.5], "validation") == certify.sampling(50, [0.5])


def test_alpha_for_all_images_together_is_shared_equally():
    """`alpha: {total: 0.001}` over 100 images is 1e-5 each, and must still be possible with n."""
    settings = load(changed("certify.mnist5k.alpha", {"total": 0.001})).certify["mnist5k"]
    assert settings.sampling(100, []).alpha == pytest.approx(1e-5) and settings.sampling(100, []).n == settings.n
    text = refusal(changed("certify.mnist5k.n", 12, changed("certify.mnist5k.alpha", {"total": 0.001})))
    assert "certify.mnist5k" in text and "n = 12 is too small" in text
    assert "total" in refusal(changed("certify.mnist5k.alpha", {"total": 2}))
