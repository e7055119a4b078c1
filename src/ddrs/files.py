"""Files that are either whole or absent: every output is written beside its place and renamed onto it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Give a temporary path beside `path`; rename it onto `path` if the block ends well, else remove it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())  # or a power loss could leave the new name on an empty file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path`, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def cache_folder() -> Path:
    """Where what can be computed again is kept between runs: $DDRS_CACHE, else $XDG_CACHE_HOME/ddrs, else ~/.cache/ddrs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("DDRS_CACHE") or Path(base) / "ddrs")


def require(path: Path, what: str) -> Path:
    """The path itself, or a DdrsError that names what is missing."""
    if not Path(path).is_file():
        raise DdrsError(f"{what} {path}: no such file")
    return Path(path)
