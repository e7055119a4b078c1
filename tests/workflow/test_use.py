"""After `ddrs use` the jobs are those of `--configfile`, word for word."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, TINY, dry


def commands(*words: object, snakefile: Path, folder: Path) -> list[str]:
    """The shell commands of a dry run."""
    words = ("--printshellcmds", "--quiet", "host", "reason", "--snakefile", snakefile, *words, "--", "results/table3.csv")
    return sorted(re.findall(r"^(?:Shell command: )?\s*(ddrs .*)$", dry(*words, folder=folder, config=None).stdout, re.M))


@pytest.mark.parametrize("overlay", [TINY, ROOT / "configs/paper.yaml"], ids=lambda path: path.stem)
def test_jobs_are_those_of_configfile(overlay: Path, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    for part in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / part, used)
    shutil.copytree(ROOT / "workflow", used / "workflow")
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "start"]):
        subprocess.run(["git", *words], cwd=used, check=True)
    subprocess.run([sys.executable, "-m", "ddrs", "use", str(overlay)], cwd=used, check=True)
    expected = commands("--configfile", overlay, snakefile=ROOT / "Snakefile", folder=tmp_path)
    assert len(expected) > 25 and commands(snakefile=used / "Snakefile", folder=used) == expected
