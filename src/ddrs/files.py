"""Files that are either whole or absent: every output is written beside its place and renamed onto it."""

import hashlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path

from ddrs.errors import DdrsError


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an OSError inside the block name `path`, as errors of writing to an open file do not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it onto `path` if the block ends well, else remove it.

    Temporaries that killed processes of this machine left in that folder are removed first.
    """
    path = Path(path)
    temporary = temporary_of(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_orphans(path.parent)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # or a power loss could leave the new name on an empty file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def temporary_of(path: Path) -> Path:
    """Where this process writes what becomes `path`: no other process, of any machine that shares the file system, writes there."""
    return path.with_name(f".{path.name}.{_machine()}.{os.getpid()}.tmp")


@cache
def _machine() -> str:
    """Eight hex digits that two processes share only if each could find the other by its number: of one host, and one container on it."""
    try:
        container = os.readlink("/proc/self/ns/pid")
    except OSError:  # no Linux
        container = ""
    return hashlib.sha256(f"{socket.gethostname()} {container}".encode()).hexdigest()[:8]


def _remove_orphans(folder: Path) -> None:
    """Remove the temporaries of processes of this machine that are dead; those of other machines may be at work."""
    form = re.compile(rf"\..+\.{_machine()}\.(\d+)\.tmp", re.DOTALL)
    for name in _names(folder):
        if (found := form.fullmatch(name)) and not _alive(int(found[1])):
            with suppress(OSError):  # another process may be first, and no write fails for what a former one left
                (folder / name).unlink()


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # one may write to a folder and not list it
        return []


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # of another user; no number of ours
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """Write several files that are one result: all beside their places before the first is put there. Text as UTF-8."""
    with ExitStack() as stack:
        for path, content in contents.items():
            temporary = stack.enter_context(atomic(path))
            with naming(path):
                temporary.write_bytes(content.encode() if isinstance(content, str) else content)


class DamagedError(DdrsError):
    """A file of ours holds other bytes than were written."""


def sealed(data: bytes) -> bytes:
    """The data with its SHA-256 behind it, which the formats we use (zip, as of torch and NumPy) take for a comment."""
    return data + hashlib.sha256(data).digest()


def unsealed(path: Path) -> bytes | None:
    """The data of a file that holds `sealed` bytes; None if there is no file. DamagedError for one cut short, or with a bit that flipped."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    if sealed(content[:-32]) != content:
        raise DamagedError(f"{path}: is damaged: its bytes are not those that were written")
    return content[:-32]


def cache_folder() -> Path:
    """Where what can be computed again is kept between runs: $DDRS_CACHE, else $XDG_CACHE_HOME/ddrs, else ~/.cache/ddrs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DDRS_CACHE") or Path(base) / "ddrs")


def require(path: Path, what: str) -> Path:
    """The path itself, or a DdrsError that names what is missing."""
    if not Path(path).is_file():
        raise DdrsError(f"{what} {path}: {'is a folder, not a file' if Path(path).is_dir() else 'no such file'}")
    return Path(path)


def read_text(path: Path, what: str) -> str:
    """The text of a UTF-8 file, without a byte order mark. DdrsError if there is none or it is of another encoding, as binary data are."""
    try:
        return require(path, what).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DdrsError(f"{what} {path}: not a text file in UTF-8") from None


def output_file(path: Path | None) -> Path | None:
    """The path, if a file can be written there. DdrsError, before any work, for a folder, a device, or a place below a file."""
    if path is None:
        return None
    if path.exists() and not path.is_file():
        raise DdrsError(f"output {path}: {'is a folder' if path.is_dir() else 'is no regular file'}; give the name of a file to write")
    output_folder(path.parent)
    return path


def output_folder(path: Path) -> Path:
    """The path, if it is a folder to write into, or one can be made there. DdrsError if not, before any work."""
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir():
        raise DdrsError(f"output {path}: {there} is a file, not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DdrsError(f"output {path}: the folder {there} may not be written to")
    return path
