"""What a killed process left beside its output goes with the next write to that folder; what a living or unknown one writes stays."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ddrs import files
from ddrs.files import temporary_of, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from ddrs.files import atomic
with atomic(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def of_killed(path: Path) -> Path:
    """The temporary that a process leaves when it is killed while it writes `path`."""
    before = set(path.parent.iterdir())
    assert subprocess.run([sys.executable, "-c", KILLED, path]).returncode == -signal.SIGKILL
    (left,) = set(path.parent.iterdir()) - before
    return left


@pytest.mark.parametrize("name", ["file", "other", "an.y na\nme"])
def test_what_a_killed_process_left_is_removed_by_the_next_write_to_the_folder(name: str, tmp_path: Path):
    left = of_killed(tmp_path / name)
    assert left.name.startswith(f".{name}.") and left.read_text() == "half"
    write_text(tmp_path / "file", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_others_write_or_own_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    dead = re.search(r"\.(\d+)\.tmp$", of_killed(tmp_path / "file").name)
    assert dead is not None
    own = files._machine()
    stay = [
        f".file.{own}.{os.getppid()}.tmp",  # at work
        f".file.{own}.1.tmp",  # of another user, perhaps
        f".file.{own}.{10**30}.tmp",
        f".file.{own}.{dead[1]}.tmp~",
        f"file.{own}.{dead[1]}.tmp",
        f".file.{'0' * 8}.{dead[1]}.tmp",  # of another machine, where that process may live
        f".file.{dead[1]}.tmp",
    ]
    for name in stay:
        (tmp_path / name).write_text("")
    write_text(tmp_path / "file", "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"file", *stay}


def test_machines_and_containers_with_a_file_system_in_common_write_to_places_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def place(host: str, container: str) -> Path:
        monkeypatch.setattr("socket.gethostname", lambda: host)
        monkeypatch.setattr(os, "readlink", lambda path: container)
        files._machine.cache_clear()
        return temporary_of(tmp_path / "file")

    try:
        assert len({place(host, container) for host in ("a", "b") for container in ("pid:[1]", "pid:[2]")}) == 4
        assert place("a", "pid:[1]") == place("a", "pid:[1]")
    finally:
        files._machine.cache_clear()


def test_a_temporary_that_cannot_be_removed_stops_no_write(tmp_path: Path):
    left = of_killed(tmp_path / "file")
    left.unlink()
    left.mkdir()
    write_text(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"
