"""The code that runs is the code beside the Snakefile, which is what gets recorded; else the workflow refuses in one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, TINY

TARGET = "data/mnist5k/manifest.json"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A second checkout of this code, with an edit of its own, in a folder whose name a shell would split."""
    folder = tmp_path / "a second one"
    for part in ("workflow", "src", "profiles/default"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Snakefile", "config.yaml", "dvc.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def run(folder: Path, *words: object, paths: str = str(ROOT / "src")) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": os.defpath, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-m", *map(str, words)], cwd=folder, capture_output=True, text=True, env=environment, check=False)


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if "ddrs: error: " in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_checkout_is_not_run_with_the_code_of_another(checkout: Path, tmp_path: Path) -> None:
    line = said(run(checkout, "snakemake", "-n", "paper"))
    assert f"imports ddrs from {ROOT / 'src/ddrs'}" in line and "PYTHONPATH=src before" in line
    line = said(run(tmp_path, "snakemake", "-n", "--snakefile", checkout / "Snakefile", "models"))
    assert f"PYTHONPATH='{checkout}/src' before" in line


@pytest.mark.parametrize("verb", [("sync", "--no-pull"), ("lock-status",), ("use", str(TINY))])
def test_nor_do_the_verbs_that_write_what_is_recorded_there(checkout: Path, verb: tuple[str, ...]) -> None:
    before = {path: path.read_bytes() for path in checkout.glob("*.*")}
    assert "another checkout's code" in said(run(checkout, "ddrs", *verb))
    assert {path: path.read_bytes() for path in checkout.glob("*.*")} == before


def test_with_its_own_code_it_runs_it_in_the_jobs_too(checkout: Path, tmp_path: Path) -> None:
    """Also by a relative PYTHONPATH with another working folder, and without this environment on the PATH."""
    with open(checkout / "src/ddrs/__init__.py", "a") as file:
        file.write('\nprint("this is", __file__)\n')
    for place in (checkout, tmp_path / "elsewhere"):
        place.mkdir(exist_ok=True)
        words = ("--directory", place, "--configfile", TINY, "--cores", 1, TARGET)
        done = run(checkout, "snakemake", *words, paths="src")
        assert done.returncode == 0, done.stderr
        assert f"this is {checkout}/src/ddrs" in "".join(log.read_text() for log in (place / "logs").rglob("*.log"))


def test_without_code_beside_the_snakefile_the_installed_package_runs(checkout: Path) -> None:
    shutil.rmtree(checkout / "src")
    done = run(checkout, "snakemake", "-n", "paper")
    assert done.returncode == 0, done.stderr
