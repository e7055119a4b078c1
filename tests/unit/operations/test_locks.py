"""The lock of a killed run stops no other run; that of a live one does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ddrs.operations.locks import LOCKS, RUNS, _started

LOCK = LOCKS / "0.input.lock"


@pytest.fixture(autouse=True)
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    LOCKS.mkdir(parents=True)
    LOCK.write_text("results/table2.csv\n")
    RUNS.mkdir()


def entry(pid: int, host: str = "", started: str | None = None) -> None:
    (RUNS / f"{pid}.json").write_text(json.dumps({"host": host or socket.gethostname(), "pid": pid, "started": started}))


def dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def enter_elsewhere() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", "from ddrs.operations.locks import enter; enter(print)"], capture_output=True, text=True, check=True)


def test_the_lock_of_a_dead_run_is_removed_and_that_is_said() -> None:
    entry(dead_pid())
    assert enter_elsewhere().stdout == "ddrs: the run that locked this folder is dead; unlocked it\n"
    assert not LOCK.exists() and not list(RUNS.glob("*.json"))


def test_a_later_process_of_the_same_number_is_not_the_run() -> None:
    entry(os.getpid(), started="another boot 1")
    enter_elsewhere()
    assert not LOCK.exists()


@pytest.mark.parametrize("who", ["alive", "elsewhere", "unknown"])
def test_a_lock_that_a_live_run_may_hold_is_respected(who: str) -> None:
    if who == "alive":
        entry(os.getpid(), started=_started(os.getpid()))
    if who == "elsewhere":
        entry(dead_pid(), host="another-host")
    known = list(RUNS.glob("*.json"))
    assert enter_elsewhere().stdout == ""
    assert LOCK.exists() and list(RUNS.glob("*.json")) == known


def test_a_dead_run_beside_a_live_one_is_known_as_long_as_the_lock_stands() -> None:
    entry(dead_pid())
    entry(os.getpid(), started=_started(os.getpid()))
    enter_elsewhere()
    assert LOCK.exists() and len(list(RUNS.glob("*.json"))) == 2


def test_a_killed_run_leaves_its_entry_and_the_next_unlocks() -> None:
    LOCK.unlink()
    killed = "import os, signal; from ddrs.operations.locks import enter; enter(print); os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -9
    LOCK.write_text("results/table2.csv\n")
    assert "unlocked" in enter_elsewhere().stdout and not LOCK.exists()
