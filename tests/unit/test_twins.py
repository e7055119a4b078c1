"""Two processes at the same work: both end well, with equal bytes, and leave nothing behind, whichever is done first."""

import threading
from pathlib import Path

import pytest

from ddrs.data import resumable
from ddrs.data.sources import imagefolder
from ddrs.models.devices import Runtime
from ddrs.sigma.run import search
from ddrs.sigma.settings import SearchSettings
from tests.unit.data.test_imagefolder import fetched, files, write_folder
from tests.unit.training.training_runs import SETTINGS, KilledError, killed_after, train_ds2, train_fs

SEARCH = SearchSettings(step_size=0.05, k_max=100, sigma_max=0.3, batch_size=4)


def twin_at(text: str, work):
    """A `say` that lets a second process do the whole work in between, as soon as the first reports that."""
    met: list[str] = []

    def say(line: str) -> None:
        if line.startswith(text) and not met:
            met.append(line)
            work()

    return say, met


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_of_two_trainings_the_later_ends_with_the_same_bytes(epoch: int, small_mnist: Path, fs_run: Path, tmp_path: Path):
    say, met = twin_at(f"epoch {epoch}/", lambda: train_fs(small_mnist, tmp_path))
    out = train_fs(small_mnist, tmp_path, say=say)
    assert met
    assert out.read_bytes() == (fs_run / "fs.safetensors").read_bytes()
    assert (tmp_path / "fs.branch.pt").read_bytes() == (fs_run / "fs.branch.pt").read_bytes()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_training_that_resumes_outlives_its_twin(small_mnist: Path, fs_run: Path, tmp_path: Path):
    with pytest.raises(KilledError):
        train_fs(small_mnist, tmp_path, say=killed_after(2))  # beyond the branch epoch
    say, met = twin_at("resuming after epoch 2", lambda: train_fs(small_mnist, tmp_path))
    out = train_fs(small_mnist, tmp_path, say=say)
    assert met and out.read_bytes() == (fs_run / "fs.safetensors").read_bytes()
    assert (tmp_path / "fs.branch.pt").read_bytes() == (fs_run / "fs.branch.pt").read_bytes()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_run_past_its_branch_without_that_begins_anew(small_mnist: Path, fs_run: Path, tmp_path: Path):
    """As after a twin that was killed between the two files that it removes."""
    with pytest.raises(KilledError):
        train_fs(small_mnist, tmp_path, say=killed_after(2))
    (branch,) = (tmp_path / "scratch").glob("*.branch.pt")
    branch.unlink()
    said: list[str] = []
    assert train_fs(small_mnist, tmp_path, say=said.append).read_bytes() == (fs_run / "fs.safetensors").read_bytes()
    assert said[0].startswith(f"epoch 1/{SETTINGS.epochs}")
    assert (tmp_path / "fs.branch.pt").read_bytes() == (fs_run / "fs.branch.pt").read_bytes()


def test_of_two_finetunings_the_later_ends_with_the_same_bytes(small_mnist: Path, fs_run: Path, ds2_run: Path, tmp_path: Path):
    inputs = (fs_run / "fs.safetensors", fs_run / "fs.branch.pt")
    say, met = twin_at("epoch 2/", lambda: train_ds2(small_mnist, tmp_path, *inputs))
    assert train_ds2(small_mnist, tmp_path, *inputs, say=say).read_bytes() == (ds2_run / "ds2.safetensors").read_bytes()
    assert met and list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("first", [1, 5, 9])
def test_of_two_searches_the_later_ends_with_the_same_bytes(first: int, trained: Path, small_mnist: Path, tmp_path: Path):
    def run(folder: Path, say=lambda line: None) -> bytes:
        out = folder / "sigmas.parquet"
        search(trained, small_mnist, out, SEARCH, "test", 10, 0, Runtime(scratch=folder / "scratch"), say)
        return out.read_bytes()

    say, met = twin_at(f"images {first} to", lambda: run(tmp_path))
    assert run(tmp_path, say) == run(tmp_path / "alone")
    assert met and list((tmp_path / "scratch").iterdir()) == []


def test_of_two_preparations_in_pieces_the_later_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, out = write_folder(tmp_path / "pets"), tmp_path / "out" / "manifest.json"
    fetched(source, tmp_path / "whole" / "manifest.json")
    started, said = threading.Event(), []

    def waits(line: str) -> None:
        said.append(line)
        started.set()

    def meanwhile(path: Path, shape: tuple[int, int, int]):
        if not later.is_alive() and not started.is_set():
            later.start()
            assert started.wait(60)
        return read(path, shape)

    read, later = imagefolder.read_image, threading.Thread(target=lambda: fetched(source, out, say=waits))
    monkeypatch.setattr(imagefolder, "read_image", meanwhile)
    monkeypatch.setattr(resumable, "_cores", lambda: 1)
    fetched(source, out)
    later.join(60)
    assert said[0] == f"{out}: another process is writing it; waiting for its end" and len(said) > 1
    assert files(out.parent) == files(tmp_path / "whole")
