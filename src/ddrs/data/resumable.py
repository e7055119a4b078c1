"""Images that are too many for memory, written in pieces: what is finished stays when the process is killed, and the next one goes on behind it."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ddrs.data.requests import Say, image_digest
from ddrs.files import atomic, naming, write_text
from ddrs.provenance.digests import digest, file_digest

IMAGES_AT_ONCE = 1024  # images that are held in memory, written and recorded at once


@dataclass(frozen=True)
class SplitToWrite:
    """The images of a split that are to be written: `read` gives that of an entry as uint8 (C, H, W), on any thread. labels: int64 (N,)."""

    entries: Sequence[Any]
    labels: np.ndarray
    read: Callable[[Any], np.ndarray]


class Written:
    """How many images of each split are done, in which pieces, and which of them were dropped as duplicates; on disk, with digests of it all.

    Void if made from anything else, or damaged, which is said.
    """

    def __init__(self, path: Path, made_from: dict[str, Any], say: Say):
        self.path, self._state = path, {"made_from": made_from, "splits": {}, "files": {}}
        self.resumed = False
        if not path.exists():
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            whole = found.pop("digest") == digest(found)
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole:
            say(f"{path}: is damaged; beginning anew")
        elif found["made_from"] == made_from:
            self.resumed, self._state = True, found

    def dropped(self, split: str) -> list[int]:
        """The places of a split's images that were dropped."""
        return list(self._state["splits"].get(split, {}).get("dropped", []))

    def pieces(self, split: str) -> list[tuple[int, str]]:
        """Of each piece of a split that was written: how many images were done after it, and the SHA-256 of its bytes."""
        return [(done, sha256) for done, sha256 in self._state["splits"].get(split, {}).get("pieces", [])]

    def record(self, split: str, pieces: list[tuple[int, str]], dropped: list[int]) -> None:
        """Note on disk how far a split is."""
        self._state["splits"][split] = {"done": pieces[-1][0] if pieces else 0, "dropped": dropped, "pieces": pieces}
        self.save()

    def keep(self, path: Path) -> None:
        """Note the digest of a file beside this one, on which what follows rests."""
        self._state["files"][path.name] = file_digest(path)
        self.save()

    def keeps(self, path: Path) -> bool:
        """Whether such a file is there, as it was when it was noted."""
        return path.exists() and self._state["files"].get(path.name) == file_digest(path)

    def save(self) -> None:
        """Write the file."""
        write_text(self.path, json.dumps({**self._state, "digest": digest(self._state)}))


def write_splits(folder: Path, shape: tuple[int, int, int], parts: dict[str, SplitToWrite], progress: Written, say: Say) -> dict[str, dict]:
    """Write `{split}.images.npy` and `{split}.labels.npy` of each split, or finish what a killed call began. Returns what manifests say of them.

    Images that are also in a split before theirs are dropped and counted, so `parts` begins with test. Errors: those of `SplitToWrite.read`, which
    leave what is done.
    """
    seen: set[bytes] = set()
    facts: dict[str, dict] = {}
    for place, (split, part) in enumerate(parts.items(), 1):
        paths = {name: folder / f"{split}.{name}.npy" for name in ("images", "labels")}
        _write_images(paths["images"], split, shape, part, seen, progress, say)
        dropped = progress.dropped(split)
        save_array(paths["labels"], np.delete(part.labels, dropped))
        if place < len(parts):
            seen.update(map(image_digest, np.load(paths["images"], mmap_mode="r")))
        say(f"{split}: reading it back for its checksum")
        files = {name: {"file": path.name, "sha256": file_digest(path)} for name, path in paths.items()}
        facts[split] = {"count": len(part.entries) - len(dropped), "dropped_duplicates": len(dropped), **files}
    return facts


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file, atomically."""
    with atomic(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


def _write_images(path: Path, split: str, shape: tuple[int, int, int], part: SplitToWrite, seen: set[bytes], progress: Written, say: Say) -> None:
    """Append the images that are not done yet, but for those whose digest was `seen` in another split; the count in the header comes last.

    Written as a file, not through a memory map, on which a full disk is a signal that kills the process instead of an error.
    """
    size, start = int(np.prod(shape)), len(_header(0, shape))
    pieces = _whole_pieces(path, split, start, size, progress, say)
    done = pieces[-1][0] if pieces else 0
    dropped = [place for place in progress.dropped(split) if place < done]
    if not done:
        path.unlink(missing_ok=True)  # whoever has an earlier one mapped keeps it
    with naming(path), open(path, "r+b" if done else "wb") as file, ThreadPoolExecutor(_cores()) as threads:
        end = start + (done - len(dropped)) * size
        file.truncate(end)  # what a killed process wrote and did not record
        file.seek(end)
        while done < len(part.entries):
            piece, written = part.entries[done : done + IMAGES_AT_ONCE], hashlib.sha256()
            for place, image in enumerate(threads.map(part.read, piece), done):
                if image_digest(image) in seen:
                    dropped.append(place)
                else:
                    file.write(image.tobytes())
                    written.update(image.tobytes())
            file.flush()
            os.fsync(file.fileno())
            done += len(piece)
            pieces.append((done, written.hexdigest()))
            progress.record(split, pieces, dropped)
            say(f"{split}: {done:,} of {len(part.entries):,} images")
        file.seek(0)
        file.write(_header(done - len(dropped), shape))


def _whole_pieces(path: Path, split: str, start: int, size: int, progress: Written, say: Say) -> list[tuple[int, str]]:
    """The pieces up to the first that is not on disk as it was written, which is said."""
    pieces, dropped, before = progress.pieces(split), progress.dropped(split), 0
    if not pieces:
        return []
    try:
        with open(path, "rb") as file:
            file.seek(start)
            for place, (done, sha256) in enumerate(pieces):
                images = done - before - sum(before <= one < done for one in dropped)
                if hashlib.sha256(file.read(images * size)).hexdigest() != sha256:
                    say(f"{path}: is damaged: its bytes are not those that were written; writing it again from image {before:,} on")
                    return pieces[:place]
                before = done
    except FileNotFoundError:
        say(f"{path}: is gone; writing it again")
        return []
    return pieces


def _header(count: int, shape: tuple[int, int, int]) -> bytes:
    """The head of an .npy file, padded by NumPy so that it is as long for any count."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})
    return file.getvalue()


def _cores() -> int:
    """The cores that this process may use: bytes do not depend on how many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
