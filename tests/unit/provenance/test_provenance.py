"""Digests that repeat, and the facts of a run that do not."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddrs.provenance import digests, sidecar
from ddrs.provenance.code import Code, file_code_digest
from ddrs.provenance.digests import digest, file_digest
from ddrs.provenance.sidecar import write_sidecar

SOURCE = '''"""Module docstring."""

import math


class Shape:
    """Class docstring."""

    sides = 4

    def area(self, side: float = 1.0) -> float:
        """Function docstring."""
        return math.pow(side, 2)  # a comment


async def wait():
    """Only a docstring."""
'''


# digest


def test_a_digest_is_16_hex_digits_and_repeats_in_another_process():
    value = {"b": [1, 2.5, None, True], "a": {"z": "σ", "y": 1e-4}}
    found = digest(value)
    assert len(found) == 16 and int(found, 16) >= 0
    code = f"from ddrs.provenance.digests import digest; print(digest({value!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == found


def test_a_digest_does_not_depend_on_the_order_of_keys_or_the_kind_of_list():
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest((1, 2)) == digest([1, 2])


def test_different_values_have_different_digests():
    values = [None, 0, 1, "1", "", [], [1], [[1]], {}, {"a": 1}, {"a": 2}, {"b": 1}, {"a": [1]}, True, 0.1, [1, 2], [2, 1], "ab", ["a", "b"]]
    assert len({digest(value) for value in values}) == len(values)


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {1, 2}, Path("x")])
def test_what_json_cannot_hold_has_no_digest(value: object):
    with pytest.raises((ValueError, TypeError)):
        digest(value)


def test_a_file_digest_is_its_sha256(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> list[Path]:
    """The files that were really read, where any size is large enough to be remembered."""
    read, found = digests._sha256, []
    monkeypatch.setattr(digests, "REMEMBERED_FROM", 0)
    monkeypatch.setattr(digests, "_sha256", lambda path: found.append(path) or read(path))
    return found


def test_a_large_file_is_read_once(tmp_path: Path, readings: list[Path]):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert {file_digest(path) for _ in range(3)} == {hashlib.sha256(b"abc").hexdigest()}
    assert readings == [path]


def test_a_large_file_that_was_written_to_is_read_again_whatever_its_size_and_mtime_say(tmp_path: Path, readings: list[Path]):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    file_digest(path)
    before = path.stat()
    time.sleep(0.02)  # a clock tick of the file system
    path.write_bytes(b"abd")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert file_digest(path) == hashlib.sha256(b"abd").hexdigest()
    other = tmp_path / "other"
    other.write_bytes(b"abe")
    os.replace(other, path)
    assert file_digest(path) == hashlib.sha256(b"abe").hexdigest() and len(readings) == 3


def test_a_damaged_note_of_a_large_file_is_not_believed(tmp_path: Path, readings: list[Path], cache_folder: Path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    before = set(cache_folder.glob("sha256-*"))
    file_digest(path)
    (note,) = set(cache_folder.glob("sha256-*")) - before
    for damaged in ("", "{", "[]", "{}"):
        note.write_text(damaged)
        assert file_digest(path) == hashlib.sha256(b"abc").hexdigest()
    assert len(readings) == 5


def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path: Path, readings: list[Path], monkeypatch: pytest.MonkeyPatch):
    path, read = tmp_path / "file", digests._sha256
    path.write_bytes(b"abc")
    monkeypatch.setattr(digests, "_sha256", lambda file: (read(file), path.write_bytes(b"abcd"))[0])
    file_digest(path)
    monkeypatch.setattr(digests, "_sha256", read)
    assert file_digest(path) == hashlib.sha256(b"abcd").hexdigest()


def test_a_small_file_is_read_each_time(tmp_path: Path, readings: list[Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digests, "REMEMBERED_FROM", 4)
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == file_digest(tmp_path / "file") and len(readings) == 2


# the code of one file, as of a user's own model


def edited(old: str, new: str, path: Path) -> str:
    """The digest of SOURCE with an edit."""
    assert old in SOURCE
    path.write_text(SOURCE.replace(old, new))
    return file_code_digest(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("  # a comment", ""),
        ("import math\n", "# why\nimport math\n\n\n"),
        ('"""Module docstring."""\n', ""),
        ("Class docstring.", "Another text."),
        ('        """Function docstring."""\n', ""),
        ("Only a docstring.", "Changed."),
        ("math.pow(side, 2)", "math.pow(\n            side,\n            2,\n        )"),
        ("side: float = 1.0", "side: float=1.0"),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_digest(old: str, new: str, tmp_path: Path):
    assert edited(old, new, tmp_path / "mynet.py") == edited("", "", tmp_path / "mynet.py")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("math.pow(side, 2)", "math.pow(side, 3)"),
        ("sides = 4", "sides = 5"),
        ("= 1.0)", "= 2.0)"),
        ("def area", "def surface"),
        ("    sides = 4\n", ""),
        ("import math", "import cmath as math"),
        ("async def", "def"),
        ('"""Only a docstring."""', 'return """Only a docstring."""'),
        ("    sides = 4\n", '    sides = 4\n    "a string that is no docstring"\n'),
    ],
)
def test_code_changes_the_digest(old: str, new: str, tmp_path: Path):
    assert edited(old, new, tmp_path / "mynet.py") != edited("", "", tmp_path / "mynet.py")
    package = Code({"__init__.py": b"", "a.py": SOURCE.encode()}, "p")
    other = Code({"__init__.py": b"", "a.py": SOURCE.replace(old, new).encode()}, "p")
    assert other.texts("p.a") != package.texts("p.a")


# sidecar


def test_a_sidecar_holds_what_does_not_repeat(tmp_path: Path):
    import torch

    write_sidecar(tmp_path / "logs" / "s.json", {"n": 3}, {"model": "m"}, time.time() - 2, "cuda:0")
    facts = json.loads((tmp_path / "logs" / "s.json").read_text())
    assert facts["settings"] == {"n": 3} and facts["inputs"] == {"model": "m"} and facts["device"] == "cuda:0"
    assert 2 <= facts["seconds"] < 60
    assert facts["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0] and facts["packages"]["ddrs"]
    assert facts["python"].split(".")[:2] == [str(part) for part in sys.version_info[:2]]


def test_no_sidecar_is_written_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_sidecar(None, {}, {}, time.time())
    assert list(tmp_path.iterdir()) == []


def test_the_git_state_is_the_commit_and_whether_tracked_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", "-C", tmp_path, *identity, *words], capture_output=True, text=True, check=True).stdout.strip()

    monkeypatch.setattr(sidecar, "PACKAGE", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert sidecar._git_state() is None
    git("init")
    (tmp_path / "a.py").write_text("x = 1\n")
    git("add", "a.py")
    git("commit", "-m", "one", "--no-verify")
    commit = git("rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("")
    assert sidecar._git_state() == commit
    (tmp_path / "a.py").write_text("x = 2\n")
    assert sidecar._git_state() == f"{commit}+dirty"
