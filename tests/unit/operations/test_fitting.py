"""Results of another config, put where this one's lie, are found by what they say of themselves."""

import json
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest
import torch
import yaml

from ddrs.certification.records import memory_digest, run_digest
from ddrs.errors import DdrsError
from ddrs.experiment.config import Config
from ddrs.experiment.load import load
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import save_model
from ddrs.operations.fitting import check_fitting, misfits
from ddrs.operations.overlays import merge, read_all
from ddrs.provenance.digests import file_digest
from tests.unit.helpers import write_log

ROOT = Path(__file__).parents[3]
LOG = "results/certificates/mnist5k/validation/cohen/fs/sigma_0.25.tsv"
MODEL = "results/models/mnist5k/cohen/fs/sigma_0.25.safetensors"


def config(cohen: dict | None = None, **changes: object) -> Config:
    """That of tests/configs/tiny.yaml, with train.mnist5k.cohen and certify.mnist5k changed."""
    raw = merge(yaml.safe_load((ROOT / "config.yaml").read_text()), read_all([ROOT / "tests/configs/tiny.yaml"]))
    raw["train"]["mnist5k"]["cohen"] |= cohen or {}
    raw["certify"]["mnist5k"] |= changes
    return load(raw)


def make_model(settings: Config, seed: int = 0) -> Path:
    path = Path(MODEL)
    torch.manual_seed(seed)
    facts = {"architecture": "small_cnn", "shape": [1, 28, 28], "classes": 10, "dataset": "mnist5k", "method": "cohen", "regime": "fs"}
    run = settings.train["mnist5k"]["cohen"]
    facts |= {"sigma": 0.25, "noise": "gaussian", "seed": settings.seed, "settings": run.model_dump(), "data": "d"}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, build_model("small_cnn", (1, 28, 28), 10), facts)
    return path


def make_log(settings: Config, path: str = LOG, images: int = 2, **other: object) -> Path:
    """A log as `ddrs certify` writes it with a config's settings."""
    split = path.split("/")[3]
    sampling = settings.certify["mnist5k"].sampling(2, [], split)
    inputs = {"model": file_digest(Path(MODEL)), "data": "d", "sigmas": "0.25"}
    own = sampling.model_dump() | {"n_max": sampling.n, "spending": "", "looks": "", "noise": "lattice"}
    own.pop("radii")
    own.pop("n")
    named = run_digest(sampling.model_dump(), "lattice", settings.seed, split, None, inputs)
    constant = {**own, "dataset": "mnist5k", "split": split, "data": "d", "sigma0": 0.25, "K": "", "seed": settings.seed, "digest": named, **other}
    return write_log(Path(path), [(i, 1, 1, 0.1) for i in range(images)], **constant)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(config())
    make_log(config())


def found(settings: Config) -> dict[str, str]:
    return {str(one.path): one.what for one in misfits(settings)}


def test_results_of_the_config_fit() -> None:
    assert found(config()) == {}


def test_logs_of_110_samples_are_not_taken_for_those_of_100() -> None:
    """As `dvc exp apply` brings them, behind the back of Snakemake's records; nor is what they are of recorded by a touch."""
    make_log(config(n_validation=110))
    assert found(config()) == {LOG: "n_max = 110, not 100"}
    assert found(config(n_validation=110)) == {}
    with pytest.raises(DdrsError, match="n_max = 110, not 100; check out the config that made it, or delete it"):
        check_fitting(config(), True, lambda kind, at: "", print, print)


@pytest.mark.parametrize(("recorded", "again"), [("--n 100", [LOG]), ("--n 110", []), (None, [])])
def test_what_snakemake_believes_is_made_again_and_what_it_makes_again_itself_is_left(recorded: str | None, again: list[str]) -> None:
    """(None: without any record it is not for this check to say whose a result is.)"""
    make_log(config(n_validation=110))
    if recorded:
        record = Path(".snakemake/metadata", urlsafe_b64encode(LOG.encode()).decode())
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"params": [repr(recorded), "'code'"]}))
    marked, said = [], []
    check_fitting(
        config(), False, lambda kind, at: f"--n {100 if kind == 'certificates' and at['split'] == 'validation' else 0}", said.append, marked.append
    )
    assert marked == again and len(said) == len(again)
    check_fitting(config(), False, lambda kind, at: f"--n {100 if kind == 'certificates' and at['split'] == 'validation' else 0}", said.append, None)
    assert marked == again and len(said) == 2 * len(again), "a dry run says the same and marks nothing"
    assert all("n_max = 110, not 100" in line and "ddrs sync --no-pull" in line and "\n" not in line for line in said)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"alpha": 0.01}, "alpha = 0.001, not 0.01"),
        ({"n0": 50}, "n0 = 100, not 50"),
        ({"noise": "gaussian"}, "noise = lattice, not gaussian"),
        ({"bound": "joint"}, "bound = binary, not joint"),
        ({"protocol": "sequential"}, "protocol = fixed, not sequential"),
        ({"alpha": {"total": 0.1}}, "alpha = 0.001, not 0.05"),
    ],
)
def test_each_setting_of_a_log_is_compared(changed: dict, what: str) -> None:
    assert what in found(config(**changed))[LOG]


def test_a_log_of_another_number_of_images_does_not_fit() -> None:
    make_log(config(), images=1)
    assert found(config()) == {LOG: "images = 1, not 2"}


def test_a_log_of_another_model_does_not_fit() -> None:
    make_model(config(), seed=1)
    assert found(config()) == {LOG: f"it was certified with another {MODEL}"}


def test_a_model_of_other_settings_does_not_fit_and_what_the_schedule_leaves_unread_is_no_setting() -> None:
    assert found(config({"epochs": 3})) == {MODEL: "epochs = 2, not 3"}
    unread = {"milestones": [5], "gamma": 0.5}
    assert found(config(unread)) == {}
    assert found(config({**unread, "schedule": "step"})) == {MODEL: "schedule = cosine, not step; milestones = [30], not [5]; gamma = 0.1, not 0.5"}


def test_a_log_after_the_memory_is_held_against_the_one_before() -> None:
    place = "mnist5k/test/cohen/ds/sigma_0.25.K_5.tsv"
    before = make_log(config(), f"results/certificates/{place}", images=4, K="5")
    made = {"K": "5", "memory": "kept", "digest": memory_digest(before, "l2")}
    make_log(config(), f"results/memory/{place}", images=4, **made)
    assert found(config()) == {}
    make_log(config(), f"results/certificates/{place}", images=4, K="5", p_lower=0.7)
    assert found(config()) == {f"results/memory/{place}": f"it was made from another results/certificates/{place}"}


def test_a_cell_is_held_against_its_logs() -> None:
    logs = [make_log(config(), f"results/certificates/mnist5k/test/cohen/fs/sigma_{sigma}.tsv", 4, sigma0=sigma) for sigma in ("0.25", "0.50")]
    cell = {"n_max": 200, "alpha": 0.001, "seed": 0, "digests_before_memory": {}, "digests": {log.name: file_digest(log) for log in logs}}
    path = Path("results/cells/table1/mnist5k/cohen/acr.json")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(cell))
    assert str(path) not in found(config())
    assert found(config(n=300))[str(path)] == "n_max = 200, not 300"
    make_log(config(), str(logs[0]), 4, p_lower=0.7)
    assert found(config())[str(path)] == f"it was made from another {logs[0]}"


def test_what_the_config_does_not_make_is_passed_over() -> None:
    make_log(config(n_validation=110), "results/certificates/mnist5k/validation/cohen/fs/sigma_0.75.tsv")
    make_log(config(n_validation=110), "results/certificates/other/validation/cohen/fs/sigma_0.25.tsv")
    assert found(config()) == {}


@pytest.mark.parametrize("damaged", [MODEL, LOG])
def test_a_damaged_result_is_made_again(damaged: str) -> None:
    Path(damaged).write_bytes(b"\xff\x00")
    assert "damaged or of another form" in found(config())[damaged]
