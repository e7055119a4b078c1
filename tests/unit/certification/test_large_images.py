"""Images of many pixels, and names that would break the line in which an error names them."""

import struct
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ddrs.data.fetch import fetch
from ddrs.data.sources import imagefolder
from ddrs.errors import DdrsError

Cli = Callable[..., tuple[int, str, str]]


def at_once(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many of some images are decoded at the same time, on as many threads."""
    now, most, lock, fit = 0, 0, threading.Lock(), ImageOps.fit

    def slowly(*arguments: object) -> Image.Image:
        nonlocal now, most
        with lock:
            now, most = now + 1, max(most, now + 1)
        time.sleep(0.05)
        with lock:
            now -= 1
        return fit(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageOps, "fit", slowly)
    with ThreadPoolExecutor(len(paths)) as threads:
        list(threads.map(lambda path: imagefolder.read_image(path, (3, 8, 8)), paths))
    return most


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)
    with monkeypatch.context() as patch:
        assert at_once(paths, patch) > 1
    with monkeypatch.context() as patch:
        patch.setattr(imagefolder, "SIDE_BY_SIDE", 80)
        assert at_once(paths, patch) == 1


def test_an_image_beyond_the_limit_is_one_line_that_says_it(tmp_path: Path):
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    path = tmp_path / "huge.png"
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", imagefolder.LARGEST + 1, 1, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    with pytest.raises(DdrsError, match=r"huge\.png: has more than 178,956,970 pixels, the most that are read"):
        imagefolder.read_image(path, (3, 8, 8))


@pytest.mark.parametrize("name", ["pe\nts", "pets\r", "p\x1b[31mets", "p\u2028ets", "p\udcffets"])
def test_a_dataset_s_name_does_not_break_the_line(name: str, tmp_path: Path, ddrs_cli: Cli):
    with pytest.raises(DdrsError) as error:
        fetch(name, tmp_path / "manifest.json", tmp_path, kind="imagefolder", classes=("a", "b"), shape=(3, 8, 8))
    assert str(error.value).isprintable()
    code, _, err = ddrs_cli("fetch", name, "--out", str(tmp_path / "manifest.json"), "--source", str(tmp_path))
    assert code == 2 and err.endswith("\n") and err[:-1].isprintable()


def test_a_path_does_not_break_the_line(tmp_path: Path, ddrs_cli: Cli):
    """Nor one that the system's own error names."""
    code, _, err = ddrs_cli("remember", str(tmp_path / "lo\ng.tsv"), "--data", str(tmp_path / "manifest.json"), "--out-dir", str(tmp_path / "out"))
    assert code == 2 and "lo\\ng.tsv" in err and err[:-1].isprintable()


def test_text_that_prints_is_left_as_it_is():
    assert str(DdrsError("data/mnist: \u2113\u2081 of '\u00e9t\u00e9', 5 %\\n")) == "data/mnist: \u2113\u2081 of '\u00e9t\u00e9', 5 %\\n"
