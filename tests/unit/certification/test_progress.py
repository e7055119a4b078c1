"""What `ddrs certify` shows of itself: lines in a file, a bar on a terminal."""

import os
import pty
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ddrs.certification.progress import CertificationProgress
from ddrs.certification.settings import ImageCertificateSettings
from tests.unit.helpers import certify_files

SEQUENTIAL = ImageCertificateSettings(n0=20, n=1000, alpha=0.01, protocol="sequential", radii=[0.0, 0.1])
LINE = r"(\d+)/(\d+) images, (\d+) of (\d+) certified, (\d+)% of the samples saved, \d+ s left"


@contextmanager
def terminal() -> Iterator[int]:
    """Let standard error be a terminal of 160 columns; gives the end from which what is shown can be read."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", file)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "160")
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        yield master
    os.close(master)


def shown(master: int) -> str:
    """What the terminal got, so far."""
    os.set_blocking(master, False)
    parts = []
    while True:
        try:
            parts.append(os.read(master, 65536))
        except BlockingIOError:
            return b"".join(parts).decode()


def test_a_terminal_shows_a_bar(trained: Path, small_mnist: Path, tmp_path: Path):
    said: list[str] = []
    with terminal() as master:
        certify_files(trained, small_mnist, tmp_path, said.append, SEQUENTIAL, images=10, batch_size=50)
        text = shown(master)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "━" in plain and "10/10" in plain and plain.count("\r") > 1, "it is drawn more than once, in place"
    (*_, last) = re.findall(r"certified (\d+)/(\d+) +samples saved +(\d+)%", plain)
    assert last[1] == "10" and 0 < int(last[2]) < 100
    assert re.search(r"\d:\d\d:\d\d", plain), "the time that is left"
    assert said == [], "no lines beside the bar"


def test_a_file_gets_plain_lines(trained: Path, small_mnist: Path, tmp_path: Path, ddrs_cli):
    """About ten of them, the last for the last image, and nothing on standard error."""
    words = ["--n0", 20, "--n", 1000, "--alpha", 0.01, "--protocol", "sequential", "--radii", 0, "--radii", 0.1, "--images", 30, "--sigma", 0.25]
    code, out, err = ddrs_cli(
        "certify", "--model", trained, "--data", small_mnist, "--out", tmp_path / "l.tsv", "--scratch", tmp_path / "scratch", *words
    )
    assert (code, err) == (0, "") and "\x1b" not in out and "\r" not in out
    found = [re.fullmatch(LINE, line) for line in out.splitlines()]
    assert all(found) and 8 <= len(found) <= 12
    last = found[-1]
    assert last is not None and last.groups()[:2] == ("30", "30")
    table = [line.split("\t") for line in (tmp_path / "l.tsv").read_text().splitlines()]
    radius, n = ([line[table[0].index(name)] for line in table[1:]] for name in ("radius", "n"))
    assert last[5] == f"{100 * (1 - sum(map(int, n)) / 30_000):.0f}" and int(last[4]) == 30
    assert int(last[3]) >= sum(float(one) > 0 for one in radius) > 0


def test_what_was_done_before_is_counted_but_not_as_saved():
    said: list[str] = []
    with CertificationProgress(20, 15, 1000, said.append) as progress:
        for n in (1000, 500, 0, 1000, 1000):
            progress.image(n > 0, n)
    assert [line.split(",")[0] for line in said] == ["16/20 images", "18/20 images", "20/20 images"]
    assert "4 of 5 certified, 30% of the samples saved, 0 s left" in said[-1]


def test_a_bar_is_taken_down_when_the_run_fails():
    with terminal() as master:
        progress = CertificationProgress(10, 0, 100, lambda line: None)
        with pytest.raises(RuntimeError), progress:
            progress.image(True, 100)
            raise RuntimeError
        assert progress.bar is not None and not progress.bar.live.is_started
        assert shown(master).rstrip().endswith("\x1b[?25h"), "the cursor is shown again"
