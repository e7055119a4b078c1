"""What a sync leaves to the next run, whether it was whole or not: with DVC, Snakemake and the real check of records, on the smallest workflow."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import ROOT

from ddrs.operations import sync

SNAKEFILE = f"""
import sys
from ddrs.errors import DdrsError
configfile: "config.yaml"
rule paper:
    input: expand("results/made/{{K}}.txt", K=config["k"])
rule make:
    output: "results/made/{{K}}.txt"
    params: n=config["n"]
    shell: "echo {{wildcards.K}} {{params.n}} > {{output}}"
include: "{ROOT}/workflow/rules/records.smk"
"""
DVC = """
stages:
  paper:
    cmd: snakemake --cores all paper
    deps: [Snakefile]
    params: [config.yaml: [k, n]]
    outs: [results/made: {persist: true}]
"""
GIT = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def run(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment in the current folder."""
    environment = {**os.environ, **GIT, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, env=environment, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture
def experiment(tmp_path: Path, warm: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A repository as the current folder; the function runs a config there and commits it as a branch of this name: n and the K."""
    folder = tmp_path / "first"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "executable", str(warm / "python"))  # beside which programs are looked for
    Path("Snakefile").write_text(SNAKEFILE)
    Path("dvc.yaml").write_text(DVC)
    Path(".gitignore").write_text("/results/\n/.snakemake/\n")
    shutil.copytree(ROOT / "profiles/default", folder / "profiles/default")
    run("git", "init", "--quiet")
    Path(".dvc").mkdir()
    Path(".dvc/config").write_text("[core]\n    analytics = false\n[cache]\n    type = copy\n")
    Path(".dvc/.gitignore").write_text("/cache\n/tmp\n/config.local\n")

    def commit(name: str, n: int, k: list[int]) -> None:
        Path("config.yaml").write_text(f"n: {n}\nk: {k}\n")
        run("dvc", "repro")
        run("git", "switch", "--quiet", "--create", name)
        run("git", "add", "--all")
        run("git", "commit", "--quiet", "--message", name)

    return commit


def made() -> dict[str, str]:
    return {path.name: path.read_text() for path in Path("results/made").iterdir()}


def test_after_a_killed_sync_nothing_is_stored_as_another_configs(experiment: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment("a", 1, [5])
    experiment("b", 2, [5])
    run("git", "switch", "--quiet", "a")
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(sync, "_snakemake", lambda *words: (_ for _ in ()).throw(KeyboardInterrupt))
        sync.sync(False, print)
    assert made() == {"5.txt": "5 1\n"}
    run("git", "switch", "--quiet", "b")
    assert sync.lock_status() == "dvc.lock fits code and config"
    lock = Path("dvc.lock").read_bytes()
    refused = run("dvc", "repro", check=False)
    assert refused.returncode != 0 and "Snakemake has no record of what made results/made/5.txt" in refused.stdout + refused.stderr
    assert Path("dvc.lock").read_bytes() == lock
    sync.sync(False, print)
    assert made() == {"5.txt": "5 2\n"} and "didn't change, skipping" in run("dvc", "repro").stdout
    assert Path("dvc.lock").read_bytes() == lock


def test_a_sync_that_replaces_nothing_leaves_the_records(experiment: Callable) -> None:
    experiment("a", 1, [5])
    Path("results/made/mine.txt").write_text("mine\n")
    with pytest.raises(sync.DdrsError, match=r"mine\.txt"):
        sync.sync(False, print)
    assert made() == {"5.txt": "5 1\n", "mine.txt": "mine\n"}
    assert list(sync.unrecorded("results")) == ["results/made/mine.txt"]


def test_what_the_config_no_longer_makes_is_no_hindrance_and_never_taken_on_trust(experiment: Callable, tmp_path: Path) -> None:
    """Nor is a file of the user's own."""
    experiment("a", 1, [5, 20])
    experiment("b", 1, [5])
    run("git", "clone", "--quiet", tmp_path / "first", tmp_path / "second")
    os.chdir(tmp_path / "second")
    run("dvc", "cache", "dir", "--local", tmp_path / "first/.dvc/cache")
    sync.sync(False, print)
    assert made() == {"5.txt": "5 1\n", "20.txt": "20 1\n"}
    Path("results/notes.txt").write_text("mine\n")
    Path("results/made/20.txt").write_text("not what the cache has\n")
    done = run("snakemake", "-n", "paper")
    assert "Nothing to be done" in done.stdout + done.stderr and "warning" not in done.stdout + done.stderr
    run("dvc", "repro")
    Path("config.yaml").write_text("n: 3\nk: [5, 20]\n")
    run("dvc", "repro")
    assert made() == {"5.txt": "5 3\n", "20.txt": "20 3\n"} and Path("results/notes.txt").exists()
