"""Files are whole or absent, whatever happens while they are written."""

import errno
import os
from pathlib import Path

import pytest

from ddrs.errors import DdrsError
from ddrs.files import atomic, require, temporary_of, write_bytes, write_text


def on_a_full_disk(path: Path) -> None:
    """Let the temporary file of `path` be /dev/full, so that writing it fails as on a full disk."""
    temporary_of(path).symlink_to("/dev/full")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("old")
    return tmp_path / "file"


def test_the_old_file_stands_until_the_block_ends(old: Path):
    with atomic(old) as temporary:
        temporary.write_text("new")
        assert temporary.parent == old.parent, "a rename is atomic within one file system only"
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, DdrsError])
def test_an_exception_leaves_the_old_file_and_nothing_else(error: type[BaseException], old: Path):
    with pytest.raises(error), atomic(old) as temporary:
        temporary.write_text("half")
        raise error
    assert old.read_text() == "old" and list(old.parent.iterdir()) == [old]


def test_a_failing_rename_leaves_the_old_file_and_nothing_else(old: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*paths: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_text(old, "new")
    assert old.read_text() == "old" and list(old.parent.iterdir()) == [old]


@pytest.mark.parametrize("write", [lambda p: write_text(p, "x" * 10**6), lambda p: write_bytes(p, b"x")], ids=["text", "bytes"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(write, old: Path):
    on_a_full_disk(old)
    with pytest.raises(OSError, match="No space left"):
        write(old)
    assert old.read_text() == "old" and list(old.parent.iterdir()) == [old]


def test_folders_are_made(tmp_path: Path):
    write_bytes(tmp_path / "a" / "b" / "file", b"\x00\xff\r\n")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"\x00\xff\r\n"


def test_text_is_utf8_with_the_line_ends_given(tmp_path: Path):
    write_text(tmp_path / "file", "σ\n")
    assert (tmp_path / "file").read_bytes() == b"\xcf\x83\n"


def test_require_gives_the_path_of_a_file_and_names_what_is_missing(old: Path):
    assert require(old, "thing") == old
    for absent, said in ((old.with_name("absent"), "no such file"), (old.parent, "is a folder, not a file")):
        with pytest.raises(DdrsError) as error:
            require(absent, "thing")
        assert str(error.value) == f"thing {absent}: {said}"
