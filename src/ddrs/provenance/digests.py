"""Digests of values and files, which repeat and so are kept in the results."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ddrs.errors import DdrsError
from ddrs.files import cache_folder, require, write_text

PACKAGE = Path(__file__).parents[1]
REMEMBERED_FROM = 2**30  # bytes, from which on reading a file once more costs more than looking it up


def require_own_checkout(verb: str, folder: Path) -> None:
    """DdrsError if a folder holds a checkout of ddrs whose code is not what runs: what is recorded there is its own code."""
    code = folder / "src/ddrs"
    if code.is_dir() and not code.samefile(PACKAGE):
        raise DdrsError(
            f"{verb}: {code.resolve()} is another checkout's code than runs, {PACKAGE}; put PYTHONPATH={shlex.quote(str(code.parent))} before the "
            f"command, or install that checkout in an environment of its own"
        )


def digest(value: object) -> str:
    """The first 16 hex digits of the SHA-256 of a JSON value, the same for equal values in every process."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex.

    Of a file of REMEMBERED_FROM bytes or more it is kept in the cache folder, and holds while path, inode, size and both times of the
    file stand: whoever writes to it changes its ctime, which no program sets at will. What a disk does to it by itself stays unseen.
    """
    path = Path(path)
    if path.stat().st_size < REMEMBERED_FROM:
        return _sha256(path)
    before = _identity(path)
    note = cache_folder() / f"sha256-{digest(before)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # not read yet, or a damaged note
        return str(json.loads(note.read_text(encoding="utf-8"))["sha256"])
    found = _sha256(path)
    if _identity(path) == before:
        with suppress(OSError):  # a cache that cannot be written is done without
            write_text(note, json.dumps({**before, "sha256": found}) + "\n")
    return found


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> dict[str, str | int]:
    status = path.stat()
    times = {"mtime": status.st_mtime_ns, "ctime": status.st_ctime_ns}
    return {"path": str(path.resolve()), "inode": status.st_ino, "size": status.st_size, **times}


def require_distinct(paths: Sequence[Path], what: str) -> None:
    """DdrsError if a file is there twice, also under two names: what is counted twice looks like more than there is."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(file_digest(require(path, what)), path)
        if other is not path:
            raise DdrsError(f"{what} {path}: is the same as {'one given before' if other == path else other}; give each once")
