"""Results of another config, put where this one's lie, are found by what they say of themselves."""

import json
import sys
from base64 import urlsafe_b64encode
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from ddrs.certification.certificates import CERTIFICATES
from ddrs.certification.records import memory_digest, run_digest
from ddrs.errors import DdrsError
from ddrs.experiment.config import Config
from ddrs.experiment.graph import Graph
from ddrs.experiment.jobs import Jobs
from ddrs.experiment.load import load
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import save_model
from ddrs.operations.fitting import check_fitting, misfits
from ddrs.operations.overlays import merge, read_all
from ddrs.provenance.digests import file_digest
from ddrs.registry import Folder
from ddrs.rows import KINDS, Kind, Row, Run
from ddrs.training.regimes import REGIMES
from tests.unit.helpers import write_log
from tests.unit.test_plugins import put

ROOT = Path(__file__).parents[3]
LOG = "results/certificates/mnist5k/validation/cohen/fs/sigma_0.25.tsv"
MODEL = "results/models/mnist5k/cohen/fs/sigma_0.25.safetensors"


def config(cohen: dict | None = None, parts: dict | None = None, **changes: object) -> Config:
    """That of tests/configs/tiny.yaml, with train.mnist5k.cohen and certify.mnist5k changed, and parts laid over it."""
    raw = merge(yaml.safe_load((ROOT / "config.yaml").read_text()), read_all([ROOT / "tests/configs/tiny.yaml"]))
    raw["train"]["mnist5k"]["cohen"] |= cohen or {}
    raw["certify"]["mnist5k"] |= changes
    return load(merge(raw, parts or {}))


def family(**qcrs: object) -> Config:
    """With configs/family.yaml, its search by QCRS changed."""
    parts = read_all([ROOT / "configs/family.yaml"])
    parts["search"]["mnist5k"]["strategies"]["qcrs"] |= qcrs
    return config(parts=parts)


def make_model(settings: Config, seed: int = 0, sigma: str = "0.25", regime: str = "fs") -> Path:
    """A model of cohen as `ddrs train` and `ddrs finetune` write it with a config's settings."""
    path = Path(f"results/models/mnist5k/cohen/{regime}/sigma_{sigma}.safetensors")
    torch.manual_seed(seed)
    facts = {"architecture": "small_cnn", "shape": [1, 28, 28], "classes": 10, "dataset": "mnist5k", "method": "cohen", "regime": regime}
    run = settings.train["mnist5k"]["cohen"]
    facts |= {"sigma": float(sigma), "noise": "gaussian", "seed": settings.seed, "settings": run.model_dump(), "data": "d"}
    if regime != "fs":
        branch = Path(f"results/models/mnist5k/cohen/fs/sigma_{sigma}.branch.pt")
        branch.write_bytes(b"state")
        step = settings.regime_on("mnist5k", "cohen", regime).at_sigma(sigma).of_regime()
        facts |= {"step": step.model_dump(), "start": file_digest(branch)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, build_model("small_cnn", (1, 28, 28), 10), facts)
    return path


def make_search(settings: Config, run: Run) -> Path:
    """A search of a model of cohen on the test images, as `ddrs sigma` writes it with a config's settings."""
    graph = Graph(settings)
    path, search = Path(graph.sigmas("mnist5k", "test", "cohen", run)), graph.searching("mnist5k", "cohen", run).of_strategy()
    facts = {"settings": search.model_dump(), "seed": settings.seed, "split": "test", "dataset": "mnist5k", "sigma0": float(run.sigma)}
    facts["model"] = file_digest(Path(graph.model("mnist5k", "cohen", run)))
    table = pa.table({"sigma_star": np.full(4 * (search.k_max + 1), 0.3, np.float32)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"ddrs": json.dumps(facts)}), path)
    return path


def make_log(settings: Config, path: str = LOG, images: int = 2, **other: object) -> Path:
    """A log of cohen as `ddrs certify` writes it with a config's settings."""
    split, run = path.split("/")[3], Run.parse("/".join(Path(path).with_suffix("").parts[-2:]))
    graph = Graph(settings)
    sampling, model = Jobs(graph).sampling("mnist5k", "cohen", split, run), Path(graph.model("mnist5k", "cohen", run))
    searched = Path(graph.sigmas("mnist5k", split, "cohen", run)) if run.kind.strategy else None
    sigmas = file_digest(searched) if searched and searched.exists() else f"{float(run.sigma):.9g}"
    inputs = {"model": file_digest(model) if model.exists() else "m", "data": "d", "sigmas": sigmas}
    own = sampling.model_dump(exclude={"radii", "n", "certificate", "set"})
    own |= {"n_max": sampling.n, "spending": "", "looks": "", "noise": "lattice", "method": Row("cohen", run.kind).label}
    named = run_digest(sampling.model_dump(), "lattice", settings.seed, split, run.logged, inputs)
    own |= {"dataset": "mnist5k", "split": split, "data": "d", "sigma0": float(run.sigma), "K": run.logged}
    constant = {**own, "seed": settings.seed, "digest": named, **other}
    return write_log(Path(path), [(i, 1, 1, 0.1) for i in range(images)], **constant)


def make_searched(settings: Config, run: Run) -> tuple[Path, Path, Path]:
    """A search on the test images, and its log before and after the memory."""
    graph = Graph(settings)
    sigmas, log = make_search(settings, run), make_log(settings, graph.log("mnist5k", "cohen", run, before_memory=True), 4)
    return sigmas, log, make_log(settings, graph.log("mnist5k", "cohen", run), 4, memory="kept", digest=memory_digest(log, "l2"))


def make_cell(place: str, logs: list[Path], **other: object) -> Path:
    """A cell of some test logs, at TABLE/DATASET/LABEL."""
    cell = {"n_max": 200, "alpha": 0.001, "seed": 0, "digests_before_memory": {}, "digests": {log.name: file_digest(log) for log in logs}, **other}
    path = Path(f"results/cells/{place}/acr.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(cell))
    return path


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
    before = make_log(config(), f"results/certificates/{place}", images=4)
    made = {"memory": "kept", "digest": memory_digest(before, "l2")}
    make_log(config(), f"results/memory/{place}", images=4, **made)
    assert found(config()) == {}
    make_log(config(), f"results/certificates/{place}", images=4, p_lower=0.7)
    assert found(config()) == {f"results/memory/{place}": f"it was made from another results/certificates/{place}"}


def test_a_cell_is_held_against_its_logs() -> None:
    logs = [make_log(config(), f"results/certificates/mnist5k/test/cohen/fs/sigma_{sigma}.tsv", 4) for sigma in ("0.25", "0.50")]
    path = make_cell("table1/mnist5k/cohen", logs)
    assert str(path) not in found(config())
    assert found(config(n=300))[str(path)] == "n_max = 200, not 300"
    make_log(config(), str(logs[0]), 4, p_lower=0.7)
    assert found(config())[str(path)] == f"it was made from another {logs[0]}"


def test_what_the_config_does_not_make_is_passed_over() -> None:
    make_log(config(n_validation=110), "results/certificates/mnist5k/validation/cohen/fs/sigma_0.75.tsv")
    make_log(config(n_validation=110), "results/certificates/other/validation/cohen/fs/sigma_0.25.tsv")
    assert found(config()) == {}


def test_a_selected_cell_is_held_against_the_logs_that_chose_as_well() -> None:
    test, validation = (
        [make_log(config(), f"results/certificates/mnist5k/{split}/cohen/fs/sigma_{sigma}.tsv", images) for sigma in ("0.25", "0.50")]
        for split, images in (("test", 4), ("validation", 2))
    )
    path = make_cell("table1_selected/mnist5k/cohen", test, validation_digests={log.name: file_digest(log) for log in validation})
    assert found(config()) == {}
    validation[0].write_bytes(validation[0].read_bytes() + b"\n")
    assert found(config())[str(path)] == f"it was made from another {validation[0]}"


def test_a_search_that_is_one_k_is_held_against_the_settings_of_its_strategy() -> None:
    make_model(family(), sigma="0.50")
    made = [make_searched(family(), Run(KINDS["qcrs"], sigma, "6")) for sigma in ("0.25", "0.50")]
    cell = make_cell("family/mnist5k/cohen-qcrs", [after for _, _, after in made])
    assert found(family()) == {}
    check_fitting(family(), True, lambda kind, at: "", print, print)
    assert found(config()) == {}, "without the table and the strategy none of them is the config's"
    assert found(family(k_max=7)) == {str(cell): "it is the best of another choice of sigma and K"}, "searches of another K are passed over"
    others = {"low": {0.25: 0.1, 0.50: 0.12, 1.00: 0.2}, "samples": 100}
    assert found(family(**others)) == {str(made[0][0]): "samples = 500, not 100; low = 0.08, not 0.1", str(made[1][0]): "samples = 500, not 100"}
    made[0][0].rename(made[1][0])
    assert found(family())[str(made[1][0])] == "sigma0 = 0.25, not 0.5"


def test_a_search_of_figure_8_is_held_against_the_grid_of_its_points() -> None:
    panel = {"dataset": "mnist5k", "method": "cohen", "k": 4, "samples": [1, 2]}
    settings = config(parts={"figures": {"figure8": [panel]}})
    made = make_searched(settings, Run(KINDS["gds"], "0.25", "4"))
    assert found(settings) == found(config()) == {}
    other = config(parts={"figures": {"figure8": [{**panel, "k": 6, "samples": [3]}]}})
    assert found(other) == {str(made[0]): "samples = 2, not 3"}
    make_search(config(), Run(KINDS["ds"], "0.25", "4")).rename(made[0])
    assert found(settings)[str(made[0])] == "strategy = ascent, not grid"


def test_a_trajectory_is_held_against_the_search_that_holds_every_k() -> None:
    made = make_searched(config(), Run(KINDS["ds"], "0.25", "5"))
    assert found(config()) == {}
    assert found(config(parts={"search": {"mnist5k": {"k_max": 30}}})) == {str(made[0]): "k_max = 20, not 30"}
    make_log(config(), str(made[1]), 4, K=20)
    assert found(config())[str(made[1])] == "K = 20, not 5"


OWN = """
from ddrs.{base} import {name} as Base
from pydantic import Field

class Settings(Base):
    every: int = Field(ge=1, description="of its own")
"""


def put_own(folder: Folder, name: str, base: tuple[str, str], kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in with a setting of its own, and a kind of row that stands on it."""
    put(sys.modules[folder.package], name, OWN.format(base=base[0], name=base[1]), tmp_path, monkeypatch)
    monkeypatch.setitem(KINDS, kind.name, kind)


def test_a_model_of_a_third_regime_is_held_against_the_settings_of_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_own(REGIMES, "doubling", ("sigma.settings", "StepSettings"), Kind("ds3", ("DS3", "FS"), trained="doubling"), tmp_path, monkeypatch)

    def doubling(every: int, **more: int) -> Config:
        return config(parts={"finetune": {"mnist5k": {"cohen": {"regimes": {"doubling": {"every": {0.25: every, 0.50: 9, 1.00: 9}, **more}}}}}})

    model = make_model(doubling(2, samples=3), regime="doubling")
    make_log(doubling(2, samples=3), "results/certificates/mnist5k/validation/cohen/ds3/sigma_0.25.tsv")
    assert found(doubling(2, samples=3)) == {}
    assert found(doubling(4)) == {str(model): "samples = 3, not 1; every = 2, not 4"}
    ds2 = make_model(config(), regime="ds2")
    assert found(doubling(2, samples=3)) == {}
    ds2.rename(model)
    assert found(doubling(2, samples=3))[str(model)] == "regime = ds2, not doubling"


def test_a_log_is_held_against_the_certificate_of_its_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_own(CERTIFICATES, "dual", ("sections", "Section"), Kind("dual", ("FS", "FS, dual"), certificate="dual"), tmp_path, monkeypatch)

    def dual(every: int) -> Config:
        return config(certificates={"dual": {"every": {0.25: every, 0.50: 9, 1.00: 9}}})

    path = LOG.replace("/fs/", "/dual/")
    make_log(dual(2), path)
    assert found(dual(2)) == {}
    check_fitting(dual(2), True, lambda kind, at: "", print, print)
    assert found(dual(3)) == {path: f"it was certified with another {MODEL} or settings of dual"}
    Path(path).write_bytes(Path(LOG).read_bytes())
    assert found(dual(2)) == {path: "method = cohen, not cohen-dual"}


@pytest.mark.parametrize("damaged", [MODEL, LOG])
def test_a_damaged_result_is_made_again(damaged: str) -> None:
    Path(damaged).write_bytes(b"\xff\x00")
    assert "damaged or of another form" in found(config())[damaged]
