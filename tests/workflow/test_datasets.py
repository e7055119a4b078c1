"""Datasets in the DAG: what was fetched otherwise than the config says stops before any work, and splits that are not certified are no targets."""

import json
from pathlib import Path

import pytest
from running import ROOT, dry, snakemake

PAPER = ROOT / "configs" / "paper.yaml"


def write_manifest(folder: Path, text: str) -> Path:
    path = folder / "data" / "cifar10" / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def facts(hold_out: int, test: int = 10_000, **more: object) -> str:
    splits = {"validation": {"count": hold_out, "dropped_duplicates": 0}, "test": {"count": test, "dropped_duplicates": 0}}
    return json.dumps({"dataset": "cifar10", "kind": "cifar10", "hold_out": hold_out, "splits": splits, **more})


def test_fewer_images_than_the_config_says_are_one_line_before_any_work(tmp_path: Path) -> None:
    path = write_manifest(tmp_path, text := facts(0, test=9_999))
    done = snakemake("--cores", 1, "--", "paper", folder=tmp_path, config=PAPER, check=False)
    line = "ddrs: error: dataset 'cifar10': 10000 test images are asked for, and there are 9999; set images.test to 9999 or fewer"
    assert done.returncode and line in done.stderr.splitlines()
    assert path.read_text() == text and not (tmp_path / "results").exists() and not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (facts(5000), "was fetched with hold_out 5000, but the config says 0; give the dataset another name, or delete the folder data/cifar10"),
        (facts(0, kind="mnist"), 'was fetched with kind "mnist", but the config says "cifar10"; give the dataset another'),
        (
            facts(0, dataset="cifar10-held-out"),
            'was fetched with dataset "cifar10-held-out", but the config says "cifar10"; give the dataset another',
        ),
        ("{", "not a dataset manifest; delete its folder"),
    ],
)
def test_another_dataset_under_the_same_name_is_one_line_before_any_work(text: str, message: str, tmp_path: Path) -> None:
    path = write_manifest(tmp_path, text)
    done = dry("--", "paper", folder=tmp_path, config=PAPER, check=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("ddrs: error:")]
    assert done.returncode and len(lines) == 1 and f"ddrs: error: data/cifar10/manifest.json: {message}" in lines[0]
    assert "Traceback" not in done.stderr
    assert path.read_text() == text and not (tmp_path / "results").exists() and not (tmp_path / "logs").exists()


def test_the_dataset_that_the_config_says_is_not_fetched_again(tmp_path: Path) -> None:
    write_manifest(tmp_path, facts(0))
    target = "results/models/cifar10/cohen/fs/sigma_0.12.safetensors"
    text = dry("--printshellcmds", "--", target, folder=tmp_path, config=PAPER).stdout
    assert "ddrs train --data data/cifar10/manifest.json" in text and "ddrs fetch" not in text


def test_a_split_without_images_is_no_target(tmp_path: Path) -> None:
    target = "results/certificates/cifar10/validation/cohen/fs/sigma_0.12.tsv"
    done = dry("--", target, folder=tmp_path, config=PAPER, check=False)
    assert done.returncode and "datasets.cifar10.images has no validation" in done.stdout + done.stderr
