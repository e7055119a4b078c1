"""A dry run in this process says what one in a process of its own says."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from running import PROGRAMS, TINY, dry, snakemake

LOG = "results/certificates/mnist5k/test/cohen/fs/sigma_0.25.tsv"


def said(text: str) -> list[list[str]]:
    """Without when and by which command it was said, and in any order of lines and of what a line lists: files are sets."""
    lines = [line for line in text.splitlines() if not re.match(r"\[|  (Command|Date|Workflow ID): ", line)]
    return sorted(sorted(re.split("[, ]+", line)) for line in lines)


@pytest.mark.parametrize(
    ("words", "overlay", "code"),
    [
        (["--printshellcmds", "--", LOG], "", 0),
        (["--quiet", "rules", "--", "results/table2.csv"], "", 0),
        (["--", "results/nonsense.csv"], "", 1),
        (["--", LOG], "certify: {mnist5k: {alhpa: 0.01}}", 1),
        (["--", LOG], "a: [", 1),
    ],
    ids=["commands", "counts", "no rule", "wrong key", "no YAML"],
)
def test_both_forms_say_the_same(words: list[str], overlay: str, code: int, tmp_path: Path) -> None:
    """As often as it is asked, and this process and the folder are as before."""
    path = tmp_path / "overlay.yaml"
    path.write_text(overlay or "{}")
    words = ["--configfile", str(TINY), str(path), *words]
    before = os.getcwd(), dict(os.environ)
    there = snakemake("-n", *words, folder=tmp_path, config=None, check=False)
    for _ in range(2):
        here = dry(*words, folder=tmp_path, config=None, check=False)
        assert here.returncode == there.returncode == code
        assert (said(here.stdout), said(here.stderr)) == (said(there.stdout), said(there.stderr))
    assert (os.getcwd(), dict(os.environ)) == before and list((tmp_path / ".snakemake").glob("runs/*.json")) == []


def test_warm_jobs_make_what_the_real_script_makes(tiny: Path, warm: Path, tmp_path: Path) -> None:
    """Byte for byte, and say the same: a search, certifications, their memory and its cells. (Of training test_failures.py sees it.)"""
    for part in ("data", "results/models"):
        shutil.copytree(tiny / part, tmp_path / part)
    snakemake("--cores", 1, "results/cells/table4/mnist5k/yang-ds/acr.json", folder=tmp_path)
    made = [path.relative_to(tmp_path) for path in (tmp_path / "results").rglob("*") if path.is_file() and path.suffix != ".safetensors"]
    assert {path.suffix for path in made} >= {".parquet", ".tsv", ".json"} and len(made) >= 1 + 2 + 2 + 3
    for path in made:
        assert (tmp_path / path).read_bytes() == (tiny / path).read_bytes(), path
    log = "logs/remember/mnist5k/test/yang/ds/sigma_0.50.log"
    assert (tmp_path / log).read_bytes() == (tiny / log).read_bytes()


def test_a_warm_job_ends_as_the_real_script_does(warm: Path, tmp_path: Path) -> None:
    for words in (["nonsense"], ["certify", "--help"], ["table"]):
        done = [subprocess.run([folder / "ddrs", *words], cwd=tmp_path, capture_output=True, text=True) for folder in (warm, PROGRAMS)]
        assert done[0].returncode == done[1].returncode
        assert (done[0].stdout, done[0].stderr) == (done[1].stdout, done[1].stderr)
