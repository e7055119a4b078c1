"""The workflow's own promises: lint, schema, start-up, errors before work."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, TINY, dry, snakemake

from ddrs.experiment.load import json_schema


def test_lint_finds_nothing_but_the_missing_container(tmp_path: Path) -> None:
    text = snakemake("--lint", folder=tmp_path, check=False).stderr
    findings = set(re.findall(r"^ +\* (.+?):?$", text, re.M))
    assert findings == {"Specify a conda environment or container for each rule."}


def test_every_rule_has_log_and_benchmark() -> None:
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        text = path.read_text()
        counts = [len(re.findall(pattern, text, re.M)) for pattern in (r"^ *shell:", r"^ *log:", r"^ *benchmark:")]
        assert counts[0] <= counts[1] == counts[2], path.name  # a rule that shares another's shell may have a log of its own
        assert not re.search(r"^ *run:", text, re.M)


def test_snakefile_is_small() -> None:
    assert len((ROOT / "Snakefile").read_text().splitlines()) <= 60


def test_rule_files_hold_rules_and_no_functions() -> None:
    for path in (ROOT / "workflow/rules").glob("*.smk"):
        assert not re.search(r"^ *def |lambda (w|wildcards)\b", path.read_text(), re.M), path.name


def test_schema_file_is_the_model() -> None:
    assert (ROOT / "workflow/schemas/config.schema.json").read_text() == json_schema()


def test_dry_run_loads_no_torch(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    loaded = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.M))
    assert "ddrs.experiment.config" in loaded
    assert not {"torch", "torchvision", "matplotlib.pyplot"} & loaded


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("certify: {mnist5k: {alhpa: 0.01}}", "certify.mnist5k: unknown key 'alhpa' (did you mean 'alpha'?); allowed are"),
        ("certify: {mnist5k: {alpha: 1.5}}", "certify.mnist5k.alpha: must be a number between 0 and 1"),
        ("certify: {mnist5k: {n: 9, alpha: 0.001}}", "n = 9 is too small to certify anything at alpha = 0.001; at least 10 is needed"),
        ("datasets: {mnist5k: {sigmas: [0.25, -0.5]}}", "datasets.mnist5k.sigmas.1: Input should be greater than 0 (got -0.5)"),
        ("datasets: {mnist5k: {sigmas: [0.25, half]}}", "datasets.mnist5k.sigmas.1: Input should be a valid number"),
        (
            "datasets: {mnist5k: {architecture: resnet81}}",
            "unknown architecture 'resnet81' (did you mean 'resnet18'?); known are small_cnn, resnet18",
        ),
        ("tables: {table1: [mnist6k]}", "unknown dataset 'mnist6k' (did you mean 'mnist5k'?)"),
        ("train: {mnist5k: {macer9: {epochs: 1}}}", "unknown method 'macer9'"),
        ("certify: {mnist5k: {k: [10, 2000]}}", "certify.mnist5k.k: 2000 is beyond search.mnist5k.k_max"),
    ],
)
def test_bad_config_is_one_line(tmp_path: Path, overlay: str, message: str) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(overlay + "\n")
    done = dry("--configfile", TINY, bad, "--", "paper", folder=tmp_path, config=None, check=False)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("ddrs: error:")]
    assert len(lines) == 1 and message in lines[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists() and not (tmp_path / "data").exists()


def test_a_bad_config_ends_a_run_before_any_work(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("certify: {mnist5k: {k: [10, 2000]}}\n")
    done = snakemake("--configfile", TINY, bad, "--cores", 1, "--", "paper", folder=tmp_path, config=None, check=False)
    assert done.returncode != 0 and "ddrs: error: config: certify.mnist5k.k: 2000 is beyond" in done.stderr
    assert not (tmp_path / "results").exists() and not (tmp_path / "data").exists()
