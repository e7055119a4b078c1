"""What is said before jobs go to a cluster that would refuse them. sinfo is a script here."""

import os
from pathlib import Path

import pytest

from ddrs.errors import DdrsError
from ddrs.operations.cluster import partition_given, require_default_partition


def sinfo(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / "sinfo"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_default_partition_is_the_one_with_a_star(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sinfo(tmp_path, monkeypatch, "echo gpu; echo 'cpu*'")
    require_default_partition()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo gpu; echo cpu", "SLURM: the cluster has no default partition; export SBATCH_PARTITION=NAME with one of: gpu, cpu"),
        ("echo 'controller:\n not responding' >&2; exit 1", "SLURM: `sinfo` failed: controller: not responding"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str) -> None:
    sinfo(tmp_path, monkeypatch, script)
    with pytest.raises(DdrsError) as error:
        require_default_partition()
    assert str(error.value) == message


def test_a_partition_is_given_by_resource_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latter also where `--default-resources` has replaced those of the profile."""
    for name in ("SBATCH_PARTITION", "SNAKEMAKE_SLURM_PARTITIONS"):
        monkeypatch.setenv(name, "")
    assert partition_given({"slurm_partition": "gpu"}) and not partition_given({"mem_mb": 1000})
    for name in ("SBATCH_PARTITION", "SNAKEMAKE_SLURM_PARTITIONS"):
        with monkeypatch.context() as one:
            one.setenv(name, "gpu")
            assert partition_given({"mem_mb": 1000})


def test_no_slurm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DdrsError, match="`sinfo` is not on the PATH; this profile is for the login node"):
        require_default_partition()
