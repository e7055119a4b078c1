"""A dry run in this process says what one in a process of its own says."""

import os
import re
from pathlib import Path

import pytest
from running import TINY, dry, snakemake

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
