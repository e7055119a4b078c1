"""`make` in a folder whose name a shell or make could read as something else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
mkdir -p "$3/bin"
for tool in pip ddrs; do
    printf '#!/bin/sh\\necho "%s $*" >> calls\\n' "$tool" > "$3/bin/$tool"
    chmod +x "$3/bin/$tool"
done
"""


@pytest.mark.parametrize("name", ["plain", "a b'c$d", 'a"b', "$(HOME)", "a#b;c", "a`b"])
def test_make_sets_up_and_runs_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, folder)
    python = folder / "python-stub"
    python.write_text(PYTHON)
    python.chmod(0o755)
    plain = {"PATH": os.defpath, "HOME": str(tmp_path)}  # no ddrs but the one that the set-up makes
    made = subprocess.run(["make", "lock-status", "PYTHON=./python-stub"], cwd=folder, env=plain, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert (folder / "calls").read_text().splitlines() == [
        "pip install --quiet --constraint constraints.txt --editable .[workflow,dev]",
        "ddrs lock-status",
    ]
