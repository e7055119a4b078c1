"""A killed sigma search goes on after its last finished batch, and ends with the bytes that it would have had."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddrs.models.devices import Runtime
from ddrs.sections import flags
from ddrs.sigma.run import search
from ddrs.sigma.settings import SearchSettings

SETTINGS = SearchSettings(step_size=0.05, k_max=100, sigma_max=0.3, batch_size=4)  # says a line after each batch's 100 steps, and touches a bound


class KilledError(Exception):
    pass


def run(trained: Path, data: Path, folder: Path, say=lambda line: None, settings: SearchSettings = SETTINGS, images: int = 10, seed: int = 0) -> Path:
    out = folder / "sigmas.parquet"
    search(trained, data, out, settings, "test", images, seed, Runtime(scratch=folder / "scratch"), say)
    return out


def killed(trained: Path, data: Path, folder: Path, first: int = 9, **more) -> list[Path]:
    """Stop a search by an exception at the end of the batch that begins with image `first`; gives the files of the batches before."""

    def say(line: str) -> None:
        if line.startswith(f"images {first} to"):
            raise KilledError

    with pytest.raises(KilledError):
        run(trained, data, folder, say, **more)
    assert not (folder / "sigmas.parquet").exists()
    return sorted((folder / "scratch").glob("sigma-*.npz"))


def every(part: Path) -> str:
    """How a search names its files together, of which one is given."""
    return f"{str(part).rpartition('.npz')[0].rpartition('.')[0]}.*.npz"


@pytest.fixture(scope="module")
def whole(trained: Path, small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return run(trained, small_mnist, tmp_path_factory.mktemp("whole")).read_bytes()


@pytest.mark.parametrize(("first", "batches"), [(1, 0), (5, 1), (9, 2)])
def test_a_killed_search_resumes_to_equal_bytes(first: int, batches: int, whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path):
    parts = killed(trained, small_mnist, tmp_path, first)
    assert [path.name.partition(".")[2] for path in parts] == ["0.npz", "4.npz"][:batches]
    said: list[str] = []
    assert run(trained, small_mnist, tmp_path, said.append).read_bytes() == whole
    searched = [line for line in said if line.endswith("step 100/100")]
    assert len(searched) == 3 - batches
    assert said[0] == f"resuming: {4 * batches} images are in {every(parts[0])}" if batches else "resuming" not in said[0]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_search_killed_after_its_last_batch_searches_nothing(
    whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as broken:
        broken.setattr("ddrs.sigma.run.pq.write_table", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(trained, small_mnist, tmp_path)
    monkeypatch.setattr("ddrs.sigma.strategies.ascent.search", lambda *arguments: 1 / 0)
    assert run(trained, small_mnist, tmp_path).read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"text", slice(-30), slice(200)])
def test_a_damaged_batch_is_searched_again(content: bytes | slice, whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path):
    first, second = killed(trained, small_mnist, tmp_path)
    first.write_bytes(content if isinstance(content, bytes) else first.read_bytes()[content])
    said: list[str] = []
    assert run(trained, small_mnist, tmp_path, said.append).read_bytes() == whole
    assert said[0] == f"{first}: is damaged: its bytes are not those that were written; searching its images again"
    assert said[1] == f"resuming: 4 images are in {every(second)}"


def test_a_flipped_bit_is_searched_again(whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path):
    first, _ = killed(trained, small_mnist, tmp_path)
    data = bytearray(first.read_bytes())
    data[len(data) // 4] ^= 1
    first.write_bytes(bytes(data))
    assert run(trained, small_mnist, tmp_path).read_bytes() == whole


@pytest.mark.parametrize("changes", [{"seed": 1}, {"images": 15}, {"settings": SETTINGS.model_copy(update={"step_size": 0.06})}])
def test_a_search_of_something_else_does_not_go_on(changes: dict, trained: Path, small_mnist: Path, tmp_path: Path):
    killed(trained, small_mnist, tmp_path)
    said: list[str] = []
    found = run(trained, small_mnist, tmp_path, said.append, **changes).read_bytes()
    assert not any(line.startswith("resuming") for line in said)
    assert found == run(trained, small_mnist, tmp_path / "alone", **changes).read_bytes()


def test_a_search_of_other_code_does_not_go_on(whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    killed(trained, small_mnist, tmp_path)
    monkeypatch.setattr("ddrs.sigma.run.code_digest", lambda *names, without="": "other")
    said: list[str] = []
    assert run(trained, small_mnist, tmp_path, said.append).read_bytes() == whole
    assert not any(line.startswith("resuming") for line in said)


def test_a_search_with_a_changed_model_of_the_user_s_own_does_not_go_on(
    whole: bytes, trained: Path, small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    killed(trained, small_mnist, tmp_path)
    monkeypatch.setattr("ddrs.models.own.code", lambda architecture: "changed")
    said: list[str] = []
    assert run(trained, small_mnist, tmp_path, said.append).read_bytes() == whole
    assert not any(line.startswith("resuming") for line in said)


def test_a_search_killed_by_sigkill_resumes_to_equal_bytes(trained: Path, small_mnist: Path, tmp_path: Path):
    settings = SearchSettings(step_size=0.005, k_max=150, batch_size=2)
    words = [sys.executable, "-m", "ddrs", "sigma", "--model", trained, "--data", small_mnist, "--out", tmp_path / "sigmas.parquet"]
    words += [*flags(settings).split(), "--images", "30", "--scratch", tmp_path / "scratch"]
    with subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "scratch").glob("sigma-*.npz"))) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "sigmas.parquet").exists()
    said: list[str] = []
    found = run(trained, small_mnist, tmp_path, said.append, settings, images=30)
    assert 6 <= int(said[0].removeprefix("resuming: ").split()[0]) < 30
    assert found.read_bytes() == run(trained, small_mnist, tmp_path / "whole", settings=settings, images=30).read_bytes()
