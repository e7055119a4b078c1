"""A killed training run resumes to the bytes that it would have had, and only from its own state."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddrs.errors import DdrsError
from ddrs.files import sealed, write_bytes
from ddrs.models.architectures import build_model
from ddrs.models.devices import Runtime
from ddrs.training import state as training_state
from ddrs.training.run import train
from ddrs.training.settings import TrainSettings
from tests.unit.training.training_runs import SETTINGS, KilledError, killed_after, train_ds2, train_fs


def save_sealed(state: dict, path: Path) -> None:
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(path, sealed(content.getvalue()))


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_killed_fs_run_resumes_to_equal_bytes(epoch: int, small_mnist: Path, fs_run: Path, tmp_path: Path):
    with pytest.raises(KilledError):
        train_fs(small_mnist, tmp_path, say=killed_after(epoch))
    assert not (tmp_path / "fs.safetensors").exists()
    said: list[str] = []
    out = train_fs(small_mnist, tmp_path, say=said.append)
    assert said[0].startswith(f"resuming after epoch {epoch} of 3")
    assert sum(line.startswith("epoch ") for line in said) == 3 - epoch
    assert out.read_bytes() == (fs_run / "fs.safetensors").read_bytes()
    assert (tmp_path / "fs.branch.pt").read_bytes() == (fs_run / "fs.branch.pt").read_bytes()
    assert list((tmp_path / "scratch").iterdir()) == [], "the partial file is removed at the end"


def test_a_killed_ds2_run_resumes_to_equal_bytes_and_sigmas(small_mnist: Path, fs_run: Path, ds2_run: Path, tmp_path: Path, monkeypatch):
    states: list[dict] = []
    save_state = training_state.save_state
    monkeypatch.setattr(training_state, "save_state", lambda path, run: (states.append({"sigmas": run.sigmas.clone()}), save_state(path, run)))
    inputs = (fs_run / "fs.safetensors", fs_run / "fs.branch.pt")
    train_ds2(small_mnist, tmp_path / "whole", *inputs)
    whole = states[-1]["sigmas"]
    with pytest.raises(KilledError):
        train_ds2(small_mnist, tmp_path / "killed", *inputs, say=killed_after(2))
    out = train_ds2(small_mnist, tmp_path / "killed", *inputs)
    assert out.read_bytes() == (ds2_run / "ds2.safetensors").read_bytes()
    assert torch.equal(states[-1]["sigmas"], whole) and whole.unique().numel() > 100


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam", "learning_rate": 0.002, "schedule": "constant"},
        {"schedule": "step", "milestones": [2], "gamma": 0.5},
        {"schedule": "multistep", "milestones": [2], "gamma": 0.3},
    ],
    ids=["adam", "step", "multistep"],
)
def test_every_optimizer_and_schedule_resumes_to_equal_bytes(changes: dict, small_mnist: Path, tmp_path: Path):
    settings = SETTINGS.model_copy(update={"batch_size": 100, **changes})
    whole = train_fs(small_mnist, tmp_path / "whole", settings)
    with pytest.raises(KilledError):
        train_fs(small_mnist, tmp_path / "killed", settings, killed_after(1))
    assert train_fs(small_mnist, tmp_path / "killed", settings).read_bytes() == whole.read_bytes()


def test_a_run_killed_by_sigkill_resumes_to_equal_bytes(small_mnist: Path, tmp_path: Path):
    settings = TrainSettings(epochs=25, batch_size=20, learning_rate=0.02, schedule="constant")
    words = [sys.executable, "-m", "ddrs", "train", "--data", small_mnist, "--out", tmp_path / "fs.safetensors", "--method", "cohen"]
    words += ["--architecture", "small_cnn", "--sigma", "0.25", "--scratch", tmp_path / "scratch"]
    words += ["--epochs", "25", "--batch-size", "20", "--learning-rate", "0.02", "--schedule", "constant"]
    with subprocess.Popen([str(word) for word in words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("epoch 3/"))
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "fs.safetensors").exists()
    said: list[str] = []
    out = train_fs(small_mnist, tmp_path, settings, said.append)  # the same settings, so the same partial file
    assert int(said[0].removeprefix("resuming after epoch ").split()[0]) >= 2
    assert out.read_bytes() == train_fs(small_mnist, tmp_path / "whole", settings).read_bytes()


def test_a_resumed_run_still_leaves_the_branch_state(small_mnist: Path, fs_run: Path, tmp_path: Path):
    """A workflow engine deletes the outputs of a job that failed; the partial file, which it does not know, is beyond the branch epoch."""
    with pytest.raises(KilledError):
        train_fs(small_mnist, tmp_path, say=killed_after(2))
    assert not (tmp_path / "fs.branch.pt").exists()
    train_fs(small_mnist, tmp_path)
    assert (tmp_path / "fs.branch.pt").read_bytes() == (fs_run / "fs.branch.pt").read_bytes()


def test_the_branch_state_is_kept_for_a_later_run_that_asks_for_it(small_mnist: Path, fs_run: Path, tmp_path: Path):
    """Killed beyond the branch epoch without --branch-out, then run again with it."""
    with pytest.raises(KilledError):
        train(small_mnist, tmp_path / "x", None, "cohen", "small_cnn", 0.25, SETTINGS, 0, Runtime(scratch=tmp_path / "scratch"), killed_after(2))
    train_fs(small_mnist, tmp_path)
    assert (tmp_path / "fs.branch.pt").read_bytes() == (fs_run / "fs.branch.pt").read_bytes()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_partial_file_of_other_code_is_not_used(small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(KilledError):
        train_fs(small_mnist, tmp_path, say=killed_after(1))
    monkeypatch.setattr("ddrs.training.run.code_digest", lambda *names, without="": "another")
    said: list[str] = []
    train_fs(small_mnist, tmp_path, say=said.append)
    assert not any("resuming" in line for line in said)


def test_a_partial_file_of_other_settings_is_not_used(small_mnist: Path, fs_run: Path, tmp_path: Path):
    other = SETTINGS.model_copy(update={"learning_rate": 0.06})
    with pytest.raises(KilledError):
        train_fs(small_mnist, tmp_path, other, killed_after(1))
    said: list[str] = []
    out = train_fs(small_mnist, tmp_path, say=said.append)
    assert not any("resuming" in line for line in said)
    assert out.read_bytes() == (fs_run / "fs.safetensors").read_bytes()


@pytest.mark.parametrize("damage", [b"", b"garbage", "truncated", "of another run"])
def test_a_corrupt_state_file_is_named(damage: bytes | str, small_mnist: Path, fs_run: Path, tmp_path: Path):
    branch = tmp_path / "branch.pt"
    data = (fs_run / "fs.branch.pt").read_bytes()
    branch.write_bytes(damage if isinstance(damage, bytes) else data[: len(data) // 2])
    if damage == "of another run":
        run = training_state.start_run(build_model("small_cnn", (1, 28, 28), 10), 7, 0.25, SETTINGS, 0, torch.device("cpu"), "fs")
        training_state.save_state(branch, run)
    with pytest.raises(DdrsError) as error:
        train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", branch)
    assert str(branch) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "ds2.safetensors").exists()


def test_a_state_of_another_kind_of_device_is_named(fs_run: Path, tmp_path: Path):
    state = torch.load(fs_run / "fs.branch.pt", weights_only=True)
    state["generators"]["noise"] = torch.zeros(16, dtype=torch.uint8)  # as long as those of a GPU
    save_sealed(state, tmp_path / "state.pt")
    run = training_state.start_run(build_model("small_cnn", (1, 28, 28), 10), 200, 0.25, SETTINGS, 0, torch.device("cpu"), "fs")
    with pytest.raises(DdrsError, match=r"state\.pt: was saved on another kind of device"):
        training_state.load_state(tmp_path / "state.pt", run)


def test_a_state_file_that_would_run_code_is_not_loaded(fs_run: Path, tmp_path: Path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    save_sealed({"sigmas": torch.zeros(200), "model": Harmful()}, tmp_path / "state.pt")
    run = training_state.start_run(build_model("small_cnn", (1, 28, 28), 10), 200, 0.25, SETTINGS, 0, torch.device("cpu"), "fs")
    with pytest.raises(DdrsError, match="not a readable training state"):
        training_state.load_state(tmp_path / "state.pt", run)
    assert not (tmp_path / "ran").exists()
