"""The README's own words: its Python block runs, and each of its snakemake lines names targets that exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, dry

README = (ROOT / "README.md").read_text()


def test_python_blocks_run_on_a_trained_model(tiny: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    done = subprocess.run([sys.executable, "-c", "\n".join(blocks)], cwd=tiny, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"-?\d+ [\d.]+ -> [\d.]+ -?\d+ [\d.]+ -> -?\d+ [\d.]+\n-?\d+ [\d.]+ \d+\n", done.stdout), done.stdout


def commands(text: str) -> list[str]:
    """Every snakemake command of a page that takes cores and needs no file of the reader's, in a block or within a line."""
    lines = re.findall(r"^snakemake --cores [^\n#]+", text, re.M) + re.findall(r"`(snakemake --cores [^`]+)`", text)
    return [" ".join(line.split()) for line in lines if "mine.yaml" not in line and not re.search(r"[A-Z]{3}|\.\.\.", line)]


@pytest.mark.parametrize("page", ["README.md", "docs/cluster.md", "docs/remote-gpus.md"])
def test_snakemake_lines_name_real_targets(page: str, tmp_path: Path) -> None:
    lines = commands((ROOT / page).read_text())
    assert lines
    for line in lines:
        dry(*shlex.split(line)[1:], folder=tmp_path, config=None)


def test_envelope_line_reads_the_logs(tiny: Path) -> None:
    (line,) = re.findall(r"^ddrs envelope .+$", README, re.M)
    logs = sorted((tiny / "results/certificates/mnist5k/test/smoothadv/fs").glob("*.tsv"))
    words = [word for word in shlex.split(line)[1:] if not word.endswith("*.tsv")]
    done = subprocess.run([sys.executable, "-m", "ddrs", *words, *map(str, logs)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "log,0.25,0.5,0.75,acr" and done.stdout.splitlines()[-1].startswith("envelope,")
