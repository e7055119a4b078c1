"""A dataset that is written in pieces goes on with pieces that are on disk as they were written, and with no others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ddrs.data import resumable
from ddrs.data.fetch import fetch
from ddrs.data.sources import imagefolder, imagenet
from tests.unit.data.test_imagefolder import fetched, files, write_folder
from tests.unit.data.test_imagenet import archives  # noqa: F401  (a fixture)


class KilledError(Exception):
    pass


def dies(*arguments: object) -> None:
    raise KilledError


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def cut(path: Path, place: int) -> None:
    path.write_bytes(path.read_bytes()[:place])


def gone(path: Path, place: int) -> None:
    path.unlink()


HEAD = 128  # bytes before the first image of an .npy file
IMAGE = 3 * 8 * 8


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The source of a dataset, and the manifest that a process killed at its very end would have written next; in pieces of two images."""
    source, out = write_folder(tmp_path / "pets"), tmp_path / "out" / "manifest.json"
    monkeypatch.setattr(resumable, "IMAGES_AT_ONCE", 2)
    fetched(source, tmp_path / "whole" / "manifest.json")
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(imagefolder, "manifest_of", dies)
        fetched(source, out)
    return source, out


@pytest.mark.parametrize("split", ["test", "train"])
@pytest.mark.parametrize(
    ("damage", "place", "whole"),
    [
        (flipped, HEAD, 0),
        (flipped, HEAD + 5 * IMAGE, 4),
        (flipped, HEAD + 9 * IMAGE - 1, 8),
        (cut, HEAD + 3 * IMAGE, 2),
        (cut, HEAD - 1, 0),
        (cut, 0, 0),
        (gone, 0, 0),
    ],
)
def test_images_are_written_again_from_the_first_damaged_piece_on(
    split: str, damage: Callable, place: int, whole: int, killed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, out = killed
    images = out.parent / "partial" / f"{split}.images.npy"
    count, read, calls = (images.stat().st_size - HEAD) // IMAGE, imagefolder.read_image, []
    damage(images, place)
    monkeypatch.setattr(imagefolder, "read_image", lambda *arguments: (calls.append(None), read(*arguments))[1])
    said: list[str] = []
    fetched(source, out, say=said.append)
    remedy = "is gone; writing it again" if damage is gone else f"was written; writing it again from image {whole} on"
    assert any(line.startswith(f"{images}: is ") and line.endswith(remedy.removeprefix("was ")) for line in said), said
    assert len(calls) == count - whole
    assert files(out.parent) == files(tmp_path / "whole")


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"[]", lambda data: data[:-9], lambda data: data.replace(b"[2, ", b"[1, ", 1)])
def test_a_damaged_record_begins_anew(damage: Callable, killed: tuple[Path, Path], tmp_path: Path):
    source, out = killed
    progress = out.parent / "partial" / "progress.json"
    progress.write_bytes(damage(progress.read_bytes()))
    said: list[str] = []
    fetched(source, out, say=said.append)
    assert f"{progress}: is damaged; beginning anew" in said
    assert files(out.parent) == files(tmp_path / "whole")


def test_nothing_is_said_of_a_first_or_a_whole_one(killed: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, out = killed
    monkeypatch.setattr(imagefolder, "read_image", dies)
    said: list[str] = []
    fetched(source, out, say=said.append)
    assert not any("damaged" in line or "gone" in line for line in said)
    assert files(out.parent) == files(tmp_path / "whole")


@pytest.mark.parametrize("damage", [flipped, cut, gone])
def test_a_damaged_list_of_an_archive_s_images_is_made_again(
    damage: Callable,
    archives: Callable,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    source, out = archives(), tmp_path / "out" / "manifest.json"
    fetch("imagenet", tmp_path / "whole" / "manifest.json", source, 5)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(imagenet, "write_splits", dies)
        fetch("imagenet", out, source, 5)
    damage(out.parent / "partial" / "train.npy", HEAD)  # the first image's label
    said: list[str] = []
    fetch("imagenet", out, source, 5, said.append)
    assert "listing the images" in said
    assert files(out.parent) == files(tmp_path / "whole")
