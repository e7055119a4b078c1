"""Images that are too many for memory, written in pieces: what is finished stays when the process is killed, and the next one goes on behind it."""

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from ddrs.errors import DdrsError
from ddrs.files import atomic, naming, write_text
from ddrs.provenance import file_digest
from ddrs.sources import Say, image_digest

PIECE = 1024  # images that are held in memory, written and recorded at once


@dataclass(frozen=True)
class Part:
    """The images of a split that are to be written: `read` gives that of an entry as uint8 (C, H, W), on any thread. labels: int64 (N,)."""

    entries: Sequence[Any]
    labels: np.ndarray
    read: Callable[[Any], np.ndarray]


class Progress:
    """How many images of each split are done, and which of them were dropped as duplicates; on disk, and void if made from anything else."""

    def __init__(self, path: Path, made_from: dict[str, Any]):
        self.path, self._state = path, {"made_from": made_from, "splits": {}}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self.resumed = found["made_from"] == made_from
        except (OSError, ValueError, KeyError, TypeError):
            self.resumed = False
        if self.resumed:
            self._state = found

    def done(self, split: str) -> int:
        """How many images of a split were written or dropped."""
        return self._state["splits"].get(split, {}).get("done", 0)

    def dropped(self, split: str) -> list[int]:
        """The places of a split's images that were dropped."""
        return list(self._state["splits"].get(split, {}).get("dropped", []))

    def record(self, split: str, done: int, dropped: list[int]) -> None:
        """Note on disk how far a split is."""
        self._state["splits"][split] = {"done": done, "dropped": dropped}
        self.save()

    def save(self) -> None:
        """Write the file."""
        write_text(self.path, json.dumps(self._state))


def write_splits(folder: Path, shape: tuple[int, int, int], parts: dict[str, Part], progress: Progress, say: Say) -> dict[str, dict]:
    """Write `{split}.images.npy` and `{split}.labels.npy` of each split, or finish what a killed call began. Returns what manifests say of them.

    Images that are also in a split before theirs are dropped and counted, so `parts` begins with test. Errors: those of `Part.read`, which
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


def _write_images(path: Path, split: str, shape: tuple[int, int, int], part: Part, seen: set[bytes], progress: Progress, say: Say) -> None:
    """Append the images that are not done yet, but for those whose digest was `seen` in another split; the count in the header comes last.

    Written as a file, not through a memory map, on which a full disk is a signal that kills the process instead of an error.
    """
    done, dropped = progress.done(split), progress.dropped(split)
    size, start = int(np.prod(shape)), len(_header(0, shape))
    if not done:
        path.unlink(missing_ok=True)  # whoever has an earlier one mapped keeps it
    with naming(path), open(path, "r+b" if done else "wb") as file, ThreadPoolExecutor(_cores()) as threads:
        end = start + (done - len(dropped)) * size
        if done and os.fstat(file.fileno()).st_size < end:
            raise DdrsError(f"{path}: is shorter than {progress.path} says; delete both to begin again")
        file.truncate(end)  # what a killed process wrote and did not record
        file.seek(end)
        while done < len(part.entries):
            piece = part.entries[done : done + PIECE]
            for place, image in enumerate(threads.map(part.read, piece), done):
                if image_digest(image) in seen:
                    dropped.append(place)
                else:
                    file.write(image.tobytes())
            file.flush()
            os.fsync(file.fileno())
            done += len(piece)
            progress.record(split, done, dropped)
            say(f"{split}: {done:,} of {len(part.entries):,} images")
        file.seek(0)
        file.write(_header(done - len(dropped), shape))


def _header(count: int, shape: tuple[int, int, int]) -> bytes:
    """The head of an .npy file, padded by NumPy so that it is as long for any count."""
    file = BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)})
    return file.getvalue()


def _cores() -> int:
    """The cores that this process may use: bytes do not depend on how many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
