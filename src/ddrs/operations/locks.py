"""Which runs of the workflow live in a folder, so that the lock of one that was killed stops no other. No torch.

Snakemake's lock says which files a run reads and writes, but not whose it is. So every run enters itself in .snakemake/runs when it reads the
Snakefile, which is before it locks, and leaves with its process.
"""

import atexit
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

LOCKS, RUNS = Path(".snakemake/locks"), Path(".snakemake/runs")


def enter(say: Callable[[str], None]) -> None:
    """Enter this process as a run in the current folder; remove Snakemake's locks before if all runs that could hold them are dead.

    A run on another host counts as alive, as does a lock of which no run is known: then Snakemake refuses by itself.
    """
    RUNS.mkdir(parents=True, exist_ok=True)
    with FileLock(RUNS / "enter"):  # no run comes in between the look and the removal
        runs = list(RUNS.glob("*.json"))
        dead = [run for run in runs if not _alive(run)]
        locks = [path for path in LOCKS.glob("*") if path.is_file()]
        if locks and dead and len(dead) == len(runs):
            for lock in locks:
                lock.unlink()
            say("ddrs: the run that locked this folder is dead; unlocked it")
        if not locks or len(dead) == len(runs):
            for run in dead:  # while a lock stands that might be its own, a dead run is still known
                run.unlink()
        entry = RUNS / f"{socket.gethostname()}.{os.getpid()}.json"
        entry.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}), encoding="utf-8")
    atexit.register(_leave, entry.absolute(), os.getpid())


def _leave(entry: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        entry.unlink(missing_ok=True)


def _alive(run: Path) -> bool:
    """Whether the process of an entry lives, in doubt yes; a torn entry is of a run that was killed before it could lock."""
    try:
        entry = json.loads(run.read_bytes())
        host, pid, started = entry["host"], int(entry["pid"]), entry["started"]
    except (ValueError, KeyError, TypeError):
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, as another user's
    return started is None or _started(pid) in (None, started)


def _started(pid: int) -> str | None:
    """Which boot and tick a process started at, by which it differs from a later one of the same number; None where the system doesn't say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text(encoding='utf-8').rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return None
