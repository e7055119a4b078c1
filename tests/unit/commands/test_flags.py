"""Settings as the flags of the verbs: what config.yaml says arrives, and each malformed flag is one line."""

from pathlib import Path

import pytest
import yaml

from ddrs.certification.settings import ImageCertificateSettings
from ddrs.experiment.load import load
from ddrs.provenance.digests import digest
from ddrs.sections import Section, flags
from ddrs.sigma.settings import SearchSettings
from ddrs.training.settings import RegimeSettings, TrainSettings

ROOT = Path(__file__).parents[3]
SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))


FILES = ["--data", "d", "--out", "o"]
TRAIN_WORDS = ["train", *FILES, "--architecture", "small_cnn", "--sigma", "0.50"]
FINETUNE_WORDS, SIGMA_WORDS = ["finetune", *FILES, "--model", "m"], ["sigma", *FILES, "--model", "m"]
CERTIFY_WORDS = ["certify", *FILES, "--model", "m", "--sigma", "0.50"]


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple]:
    """What the verbs pass on, in place of running: verb -> positional arguments."""
    import ddrs.certification.run
    import ddrs.sigma.run
    import ddrs.training.run

    calls: dict[str, tuple] = {}
    for module, name in (
        (ddrs.training.run, "train"),
        (ddrs.training.run, "finetune"),
        (ddrs.sigma.run, "search"),
        (ddrs.certification.run, "certify"),
    ):
        monkeypatch.setattr(module, name, lambda *given, name=name: calls.update({name: given}))
    return calls


TRAIN = [
    TrainSettings(epochs=1),
    TrainSettings(
        epochs=90,
        batch_size=256,
        optimizer="adam",
        learning_rate=1e-5,
        momentum=0.0,
        weight_decay=0.0,
        schedule="multistep",
        milestones=[30, 60],
        gamma=0.123456789012345,
        augment="crop-flip",
        branch_epoch=50,
        loss={"epsilon": 0.1, "attack_steps": 10, "noise_samples": 2},
    ),
]


@pytest.mark.parametrize("settings", TRAIN, ids=["defaults", "all changed"])
def test_train_settings_survive_the_way_through_the_flags(settings: TrainSettings, captured: dict, ddrs_cli):
    assert ddrs_cli(*TRAIN_WORDS, "--method", "smoothadv", *flags(settings).split())[0] == 0
    assert [one for one in captured["train"] if isinstance(one, TrainSettings)] == [settings]


def test_settings_have_the_same_digest_from_flags_and_from_python(captured: dict, ddrs_cli):
    ddrs_cli(*TRAIN_WORDS, "--method", "smoothadv", *flags(TRAIN[1]).split())
    (found,) = [one for one in captured["train"] if isinstance(one, TrainSettings)]
    assert digest(found.model_dump()) == digest(TRAIN[1].model_dump())


@pytest.mark.parametrize(
    "step",
    [RegimeSettings(), RegimeSettings(step_size=1e-3, samples=8, sigma_min=0.1, sigma_max=3.0, regime="fs", set={"every": 5, "rate": 0.1})],
    ids=["defaults", "changed"],
)
def test_finetune_settings_survive_the_way_through_the_flags(step: RegimeSettings, captured: dict, ddrs_cli):
    assert ddrs_cli(*FINETUNE_WORDS, *flags(TRAIN[1]).split(), *flags(step).split())[0] == 0
    assert [one for one in captured["finetune"] if isinstance(one, Section)][:2] == [TRAIN[1], step]


@pytest.mark.parametrize(
    "settings",
    [
        SearchSettings(k_max=7),
        SearchSettings(k_max=900, step_size=3e-7, samples=8, sigma_max=3, objective_class="fixed", batch_size=9, set={"low": 0.1}),
    ],
    ids=["defaults", "changed"],
)
def test_search_settings_survive_the_way_through_the_flags(settings: SearchSettings, captured: dict, ddrs_cli):
    assert ddrs_cli(*SIGMA_WORDS, *flags(settings).split())[0] == 0
    assert [one for one in captured["search"] if isinstance(one, SearchSettings)] == [settings]


@pytest.mark.parametrize(
    "settings",
    [
        ImageCertificateSettings(),
        ImageCertificateSettings(
            n0=7, n=12345, alpha=1e-4, protocol="two-stage", bound="joint", noise="lattice", precision="bfloat16", radius_loss=0.1
        ),
        ImageCertificateSettings(n=12345, protocol="sequential", radii=[0.0, 0.25, 1 / 3], spending="log"),
    ],
    ids=["defaults", "changed", "sequential"],
)
def test_certify_settings_survive_the_way_through_the_flags(settings: ImageCertificateSettings, captured: dict, ddrs_cli):
    assert ddrs_cli(*CERTIFY_WORDS, *flags(settings).split())[0] == 0
    assert [one for one in captured["certify"] if isinstance(one, ImageCertificateSettings)] == [settings]


def test_the_flags_of_every_part_of_the_shipped_config_are_accepted(captured: dict, ddrs_cli):
    settings = load(SHIPPED)
    for method in SHIPPED["train"]["mnist5k"]:
        run = settings.train["mnist5k"][method].at_sigma("0.50")
        code, _, err = ddrs_cli(*TRAIN_WORDS, "--method", method, *flags(run).split())
        assert (code, err) == (0, "") and run in captured["train"]
        search = settings.search_on("mnist5k", method)
        assert ddrs_cli(*SIGMA_WORDS, *flags(search).split())[0] == 0
        assert search in captured["search"]
    for method, own in settings.finetune["mnist5k"].items():
        run = settings.finetune_settings("mnist5k", method).at_sigma("0.50")
        assert ddrs_cli(*FINETUNE_WORDS, *flags(run).split(), *flags(own.step).split())[0] == 0
        assert run in captured["finetune"] and settings.regime_on("mnist5k", method) in captured["finetune"]
    sampling = settings.certify["mnist5k"].sampling(100, settings.datasets["mnist5k"].radii)
    assert ddrs_cli(*CERTIFY_WORDS, *flags(sampling).split())[0] == 0
    assert sampling in captured["certify"]


@pytest.mark.parametrize(("text", "parts"), [("epsilon", ["'epsilon'", "NAME=VALUE"]), ("epsilon=big", ["loss", "'big'"])])
def test_a_malformed_loss_flag_is_one_line(text: str, parts: list[str], captured: dict, ddrs_cli):
    code, _, err = ddrs_cli(*TRAIN_WORDS, "--method", "smoothadv", "--epochs", "1", "--loss", text)
    assert code != 0 and err.count("\n") == 1 and captured == {}
    assert [part for part in parts if part not in err] == [], err


@pytest.mark.parametrize("schedule", ["constant", "step", "multistep", "cosine"])
def test_what_a_schedule_does_not_read_is_no_flag(schedule: str):
    """So that Snakemake trains nothing again for another value of it."""
    said = [flags(TrainSettings(epochs=2, schedule=schedule, milestones=[9], gamma=gamma)) for gamma in (0.1, 0.2)]  # type: ignore[arg-type]
    assert (said[0] != said[1]) == (schedule in ("step", "multistep")) == ("--milestones 9" in said[0])
