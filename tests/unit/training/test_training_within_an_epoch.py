"""A run that is killed within an epoch goes on with the batch where its state was kept."""

from pathlib import Path

import pytest
import torch

from ddrs.models.devices import Runtime
from ddrs.training import loop, state
from ddrs.training.run import finetune, train
from ddrs.training.settings import RegimeSettings, TrainSettings

SETTINGS = TrainSettings(epochs=3, batch_size=40, learning_rate=0.05, augment="crop-flip", branch_epoch=1, optimizer="nesterov")
STEP = RegimeSettings(step_size=0.01, samples=2)


class KilledError(Exception):
    pass


def dies_at(text: str):
    """A `say` that ends the run when it reports that text: within an epoch right after the state was kept."""

    def say(line: str) -> None:
        if line == text:
            raise KilledError

    return say


def train_fs(data: Path, folder: Path, say) -> Path:
    out, runtime = folder / "fs.safetensors", Runtime(scratch=folder / "scratch")
    train(data, out, folder / "fs.branch.pt", "cohen", "small_cnn", 0.25, SETTINGS, 0, runtime, say)
    return out


@pytest.fixture(scope="module")
def whole(small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of an uninterrupted run, and what it said."""
    folder, said = tmp_path_factory.mktemp("whole"), []
    train_fs(small_mnist, folder, said.append)
    return folder, said


def without_time(lines: list[str]) -> list[str]:
    return [line.rsplit(", ", 1)[0] for line in lines if "loss" in line]


def test_within_an_epoch_nothing_is_kept_before_its_time(whole: tuple[Path, list[str]]) -> None:
    assert loop.KEEP_SECONDS >= 60, "a state is a file of hundreds of megabytes"
    assert [line.split(":")[0] for line in whole[1]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]


@pytest.mark.parametrize(("epoch", "batches"), [(1, 2), (2, 1), (3, 4)])
def test_a_fixed_sigma_run_ends_in_equal_bytes(epoch: int, batches: int, small_mnist: Path, whole, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(loop, "KEEP_SECONDS", 0.0)
    with pytest.raises(KilledError):
        train_fs(small_mnist, tmp_path, dies_at(f"epoch {epoch}/3: {batches} of 5 batches"))
    said: list[str] = []
    out = train_fs(small_mnist, tmp_path, said.append)
    assert said[0].startswith(f"resuming after epoch {epoch - 1} of 3, {batches} batches into the next, from ")
    assert said[1] == f"epoch {epoch}/3: {batches + 1} of 5 batches" or batches == 4
    assert out.read_bytes() == (whole[0] / "fs.safetensors").read_bytes()
    assert (tmp_path / "fs.branch.pt").read_bytes() == (whole[0] / "fs.branch.pt").read_bytes()
    assert without_time(said) == without_time(whole[1])[epoch - 1 :], "the epoch's loss and accuracy are of all its batches"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_ds2_run_ends_in_equal_bytes_and_sigmas(small_mnist: Path, whole, tmp_path: Path, monkeypatch) -> None:
    sigmas: list[torch.Tensor] = []
    save_state = state.save_state
    monkeypatch.setattr(state, "save_state", lambda path, run: (sigmas.append(run.sigmas.clone()), save_state(path, run)))
    model, branch = whole[0] / "fs.safetensors", whole[0] / "fs.branch.pt"

    def tuned(name: str, say) -> bytes:
        folder = tmp_path / name
        finetune(small_mnist, model, branch, folder / "m.safetensors", SETTINGS, STEP, 0, Runtime(scratch=folder / "scratch"), say)
        return (folder / "m.safetensors").read_bytes()

    expected, last = tuned("whole", lambda line: None), sigmas[-1]
    monkeypatch.setattr(loop, "KEEP_SECONDS", 0.0)
    with pytest.raises(KilledError):
        tuned("killed", dies_at("epoch 2/3: 3 of 5 batches"))
    assert not torch.equal(sigmas[-1], last)
    assert tuned("killed", lambda line: None) == expected
    assert torch.equal(sigmas[-1], last)
