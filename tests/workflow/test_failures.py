"""What goes wrong on real machines, through the real workflow: nothing that was finished is lost, and nothing is silently stale."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from running import ROOT, TINY, dry, snakemake

MODEL = "results/models/mnist5k/cohen/fs/sigma_0.25.safetensors"
LOG = "results/certificates/mnist5k/test/cohen/fs/sigma_0.25.tsv"
SAID = "logs/certify/mnist5k/test/cohen/fs/sigma_0.25.log"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay under which a certification lasts for seconds."""
    path = tmp_path_factory.mktemp("config") / "long.yaml"
    path.write_text("certify: {mnist5k: {n: 6000}}\n")
    return path


@pytest.fixture(scope="module")
def trained(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset and one model."""
    folder = tmp_path_factory.mktemp("trained")
    snakemake("--cores", 1, MODEL, folder=folder, programs=warm)
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to, symlinks=True)


def start(folder: Path, *words: object, limit: int | None = None) -> subprocess.Popen[str]:
    """Snakemake in a process group of its own; limit: of every file that it and its jobs write, in KiB."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder, "--nocolor", "--cores", 1, *words]
    if limit is not None:
        command = ["bash", "-c", f'ulimit -f {limit}; exec "$@"', "limited", *command]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    pipe = subprocess.PIPE
    return subprocess.Popen([*map(str, command)], stdout=pipe, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True)


def until(true: Callable[[], object], running: subprocess.Popen[str]) -> None:
    while not true():
        if running.poll() is not None:
            raise AssertionError(f"ended too early:\n{running.communicate()[0][-3000:]}")
        time.sleep(0.02)


def lines_done(folder: Path) -> int:
    """Images in the partial log of a certification at work."""
    return sum(len(path.read_text().splitlines()) - 1 for path in (folder / "scratch").glob("certify-*.tsv"))


@pytest.fixture(scope="module")
def two_runs(trained: Path, long: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder of a certification beside which a second run of the same was started, and what both runs said."""
    folder = copy_of(trained, tmp_path_factory.mktemp("two") / "runs")
    words = ("--configfile", TINY, long, "--", LOG)
    one = start(folder, *words)
    until(lambda: lines_done(folder), one)
    os.killpg(one.pid, signal.SIGSTOP)  # so that it is still at work when the second comes, on a machine of any speed
    two = start(folder, *words)
    said = two.communicate()[0]
    assert two.returncode != 0, said
    os.killpg(one.pid, signal.SIGCONT)
    first = one.communicate()[0]
    assert one.returncode == 0, first
    return folder, first, said


def test_a_second_run_in_the_same_folder_ends_at_once_and_disturbs_nothing(two_runs: tuple[Path, str, str]) -> None:
    folder, first, second = two_runs
    assert "cannot be locked" in second and "--unlock" in second and "Traceback" not in second
    assert "1 of 1 steps (100%) done" in first and len((folder / LOG).read_text().splitlines()) == 5
    assert "resuming" not in (folder / SAID).read_text() and not list((folder / "scratch").iterdir())


@pytest.mark.parametrize("fate", ["worker killed", "worker terminated", "machine lost"])
def test_a_killed_job_resumes_to_the_same_bytes(
    fate: str, trained: Path, long: Path, two_runs: tuple[Path, str, str], warm: Path, tmp_path: Path
) -> None:
    """By the kernel's memory killer, by a preempting scheduler, or all at once; after the last, Snakemake's lock is still there, and is nobody's."""
    folder = copy_of(trained, tmp_path / "folder")
    words = ("--configfile", TINY, long, "--", LOG)
    running = start(folder, *words)
    until(lambda: lines_done(folder), running)
    if fate == "machine lost":
        os.killpg(running.pid, signal.SIGKILL)
    else:
        processes = psutil.Process(running.pid).children(recursive=True)
        (worker,) = [one for one in processes if any(Path(word).name == "ddrs" for word in one.cmdline()[:2])]
        worker.send_signal(signal.SIGKILL if fate == "worker killed" else signal.SIGTERM)
    said = running.communicate()[0]
    assert running.returncode != 0 and not (folder / LOG).exists() and (folder / MODEL).exists()
    assert bool([*(folder / ".snakemake/locks").glob("*")]) == (fate == "machine lost")
    again = snakemake("--cores", 1, *words, folder=folder, config=None, programs=warm)
    if fate == "machine lost":
        assert "the run that locked this folder is dead; unlocked it" in again.stderr
    else:
        assert "Error in rule certify" in said
    assert (folder / SAID).read_text().startswith("resuming: ")
    assert (folder / LOG).read_bytes() == (two_runs[0] / LOG).read_bytes()


def test_two_processes_on_the_same_certification_both_end_well(trained: Path, two_runs: tuple[Path, str, str], tmp_path: Path) -> None:
    """Beside Snakemake nothing locks: both work, from the same partial log, and both write the same bytes."""
    line = next(line for line in two_runs[1].splitlines() if "ddrs certify" in line)
    words = line.partition("ddrs certify")[2].partition(" > ")[0].split()
    folder = copy_of(trained, tmp_path / "folder")

    def certify() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ddrs", "certify", *words]
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    one = certify()
    until(lambda: lines_done(folder), one)
    one.send_signal(signal.SIGSTOP)
    two = certify()
    assert two.stdout is not None and two.stdout.readline().startswith("resuming: ")
    one.send_signal(signal.SIGCONT)
    for process in (one, two):
        said = process.communicate()[0]
        assert process.returncode == 0, said
    assert (folder / LOG).read_bytes() == (two_runs[0] / LOG).read_bytes() and not list((folder / "scratch").iterdir())


def test_a_disk_that_fills_up_ends_in_one_line_and_keeps_what_was_there(trained: Path, tmp_path: Path) -> None:
    """Here files of more than 256 KiB: the checkpoint breaks off in the middle, as it would when the last block is taken."""
    folder = tmp_path / "folder"
    copy_of(trained / "data", folder / "data")
    limited = start(folder, "--configfile", TINY, "--", MODEL, limit=256)
    said = limited.communicate()[0]
    assert limited.returncode != 0
    errors = [line for line in (folder / "logs/train/mnist5k/cohen/fs/sigma_0.25.log").read_text().splitlines() if "epoch" not in line]
    assert len(errors) == 1 and errors[0].startswith("ddrs: error: scratch/train-") and "File too large" in errors[0] and errors[0] in said
    assert not [path for part in ("results", "scratch") for path in (folder / part).rglob("*") if path.is_file()]
    snakemake("--cores", 1, MODEL, folder=folder)
    assert (folder / MODEL).read_bytes() == (trained / MODEL).read_bytes()


def test_lost_records_are_said_and_never_stored_as_another_configs(
    trained: Path, long: Path, warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without .snakemake Snakemake itself calls results up to date under any config; `dvc repro` would store them as that config's."""
    folder = copy_of(trained, tmp_path / "folder")
    snakemake("--cores", 1, LOG, folder=folder, programs=warm)
    before = (folder / LOG).read_bytes()
    shutil.rmtree(folder / ".snakemake")
    changed = ("--configfile", TINY, long, "--", LOG)
    done = dry(*changed, folder=folder, config=None)
    assert "Nothing to be done" in done.stdout + done.stderr
    assert f"ddrs: warning: Snakemake has no record of what made {LOG}" in done.stdout + done.stderr
    with monkeypatch.context() as stage:
        stage.setenv("DVC_STAGE", "certificates")
        refused = snakemake("--cores", 1, LOG, folder=folder, check=False, programs=warm)
        assert refused.returncode != 0 and f"ddrs: error: Snakemake has no record of what made {LOG}" in refused.stderr
    snakemake("--touch", "--forceall", "--cores", 1, LOG, folder=folder, programs=warm)
    done = dry(*changed, folder=folder, config=None)
    assert "params have changed since last execution" in done.stdout and "ddrs: warning" not in done.stdout + done.stderr
    monkeypatch.setenv("DVC_STAGE", "certificates")
    done = snakemake("--cores", 1, LOG, folder=folder, programs=warm)
    assert "Nothing to be done" in done.stdout + done.stderr and (folder / LOG).read_bytes() == before
