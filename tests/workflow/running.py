"""One real run of the whole DAG on tests/configs/tiny.yaml, shared by the tests of this folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "configs" / "tiny.yaml"


def snakemake(*words: object, folder: Path, config: Path | None = TINY, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run snakemake on the project's Snakefile, with another folder as its working directory."""
    overlay = ["--configfile", str(config)] if config else []
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--nocolor", *overlay]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, env=environment, check=False)
    if check and done.returncode:
        raise AssertionError(f"snakemake {' '.join(map(str, words))} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished run."""
    folder = tmp_path_factory.mktemp("tiny")
    snakemake("--cores", 2, "paper", folder=folder)
    return folder
