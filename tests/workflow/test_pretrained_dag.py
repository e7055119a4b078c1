"""configs/pretrained.yaml: published models in the place of training, planned from files of their names; and what its keys refuse."""

import re
from pathlib import Path

import pytest
import yaml
from running import ROOT, dry, snakemake
from test_dag import planned
from test_paper_dag import commands

from ddrs.experiment.load import load
from ddrs.models.checkpoints import read_facts
from tests.unit.models.published_models import write_published

PRETRAINED = ROOT / "configs" / "pretrained.yaml"
SIGMAS, K, DATASETS, TABLES = 3, 4, 2, 2  # Tables 1 and 2, on CIFAR-10 and ImageNet
SHARDS = 5 + 4
TARGETS = ("results/table1.csv", "results/table2.csv", "results/figure3.png", "results/figure4.png")
PLANNED = {
    "import_checkpoint": DATASETS * TABLES * SIGMAS,
    "fetch": DATASETS,
    "finetune": DATASETS * TABLES * SIGMAS,
    "sigma": DATASETS * TABLES * SIGMAS * 2,  # ds and ds2
    "certify_shard": SHARDS * TABLES * SIGMAS * (1 + 2 * K),
    "merge": DATASETS * TABLES * SIGMAS * (1 + 2 * K),
    **{f"remember_{name}": TABLES * SIGMAS * 2 for name in ("cifar10", "imagenet")},
    **{f"cells_table{table}_{name}": 3 for table in (1, 2) for name in ("cifar10", "imagenet")},
    "table": 2,
    "figure": 2,
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with an empty file for each published model that the overlay names."""
    raw = yaml.safe_load((ROOT / "config.yaml").read_text())
    for key, value in yaml.safe_load(PRETRAINED.read_text()).items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) else value
    settings = load(raw)
    for name, methods in settings.checkpoints.items():
        for method, own in methods.items():
            for sigma in settings.sigma_texts(name, method):
                path = tmp_path / own.path(sigma)
                path.parent.mkdir(parents=True)
                path.touch()
    return tmp_path


def test_the_published_models_are_planned_in_place_of_training(files: Path) -> None:
    text = dry("--printshellcmds", "--", *TARGETS, folder=files, config=PRETRAINED).stdout
    assert planned(text) == PLANNED
    assert sum(PLANNED.values()) == 12 + 2 + 12 + 24 + 486 + 108 + 24 + 12 + 4 and "ddrs train " not in text and "branch" not in text
    found = {(one["dataset"][0], one["method"][0], one["sigma"][0]): one for one in commands(text, "import-checkpoint")}
    assert set(found) == {
        (name, method, sigma)
        for name, sigmas in (("cifar10", ("0.12", "0.25", "0.50")), ("imagenet", ("0.25", "0.50", "1.00")))
        for method in ("cohen", "smoothadv")
        for sigma in sigmas
    }
    for (name, method, sigma), one in found.items():
        assert one["out"] == [f"results/models/{name}/{method}/fs/sigma_{sigma}.safetensors"]
        assert (one["format"][0], one.get("preprocessing")) == (("locuslab", None) if method == "cohen" else ("smoothing-adversarial", ["center"]))
    read = dict(re.findall(r"ddrs import-checkpoint (\S+) .*--out results/models/(\S+)\.safetensors", text))
    assert all(re.search(r"noise_(\d\.\d\d)/", file)[1] == out[-4:] for file, out in read.items()) and len(read) == 12  # type: ignore[index]
    tuned = commands(text, "finetune")
    assert {one["model"][0] for one in tuned} == {one["out"][0] for one in found.values()}


def test_a_missing_file_is_named_before_any_work(files: Path) -> None:
    (lost,) = files.glob("checkpoints/locuslab/models/cifar10/*/noise_0.25/*")
    lost.unlink()
    done = snakemake("--cores", 1, "--", "results/table1.csv", folder=files, config=PRETRAINED, check=False)
    assert done.returncode != 0 and "MissingInputException" in done.stderr and "import_checkpoint" in done.stderr
    assert str(lost.relative_to(files)) in done.stderr and not (files / "results").exists()


def test_what_is_not_imported_is_trained(tmp_path: Path) -> None:
    """Of one method on a dataset the models are published, of another they are not: no rule is ambiguous, and each runs for its own."""
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "tables: {table1: [cifar10], table2: [], table3: [cifar10], table4: []}\n"
        "train: {cifar10: {macer: {epochs: 1}}}\n"
        "checkpoints: {cifar10: {cohen: {format: locuslab, file: 'my models/{sigma}.pth'}}}\n"
        "finetune: {cifar10: {macer: {start: trained, train: {epochs: 1}}}}\n"
    )
    for sigma in ("0.12", "0.25", "0.50"):
        (tmp_path / "my models").mkdir(exist_ok=True)
        (tmp_path / "my models" / f"{sigma}.pth").touch()
    text = dry("-p", "--configfile", PRETRAINED, overlay, "--", "results/table1.csv", "results/table3.csv", folder=tmp_path, config=None).stdout
    assert (planned(text)["train"], planned(text)["import_checkpoint"]) == (3, 3)
    assert {one["method"][0] for one in commands(text, "train")} == {"macer"}
    assert text.count("ddrs import-checkpoint 'my models/0.") == 3


def test_the_rule_imports_a_published_file(warm: Path, tmp_path: Path) -> None:
    """And again if the file is replaced."""
    overlay, file = tmp_path / "overlay.yaml", tmp_path / "published 0.25.pth"
    overlay.write_text("checkpoints: {cifar10: {cohen: {format: ddrs, file: 'published {sigma}.pth'}}}\n")
    write_published(file, "ddrs cifar10")
    model = "results/models/cifar10/cohen/fs/sigma_0.25.safetensors"
    run = ("--configfile", PRETRAINED, overlay, "--cores", 1, "--", model)
    snakemake(*run, folder=tmp_path, config=None, programs=warm)
    facts = read_facts(tmp_path / model)
    assert (facts["architecture"], facts["origin"]["format"], facts["sigma"]) == ("resnet18_ddrs", "ddrs", 0.25)
    assert "resnet18_ddrs behind normalize" in (tmp_path / "logs/import/cifar10/cohen/fs/sigma_0.25.log").read_text()
    assert "Nothing to be done" in dry(*run, folder=tmp_path, config=None).stdout
    write_published(file, "ddrs cifar10")
    assert planned(dry(*run, folder=tmp_path, config=None).stdout) == {"import_checkpoint": 1}
