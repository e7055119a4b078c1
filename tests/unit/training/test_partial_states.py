"""A partial state that is damaged, or of another machine, is said and begun anew: nothing is ever resumed to other bytes."""

from pathlib import Path

import pytest
import torch

from ddrs.files import DamagedError, sealed, unsealed, write_bytes
from ddrs.models.devices import Runtime
from ddrs.sigma.run import search
from ddrs.sigma.settings import SearchSettings
from ddrs.training.run import train
from tests.unit.training.training_runs import SETTINGS, KilledError, killed_after, train_ds2, train_fs

DAMAGES = {
    "empty": lambda data: b"",
    "text": lambda data: b"text",
    "torn": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "first bit": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "a weight's bit": lambda data: data[: len(data) // 3] + bytes([data[len(data) // 3] ^ 1]) + data[len(data) // 3 + 1 :],
    "last bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "more behind": lambda data: data + b"\0",
}
every_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@every_damage
def test_a_seal_breaks_with_any_damage(damage, tmp_path: Path):
    data = bytes(range(256)) * 4
    write_bytes(tmp_path / "file", sealed(data))
    assert unsealed(tmp_path / "file") == data
    (tmp_path / "file").write_bytes(damage(sealed(data)))
    with pytest.raises(DamagedError, match=r"file: is damaged: its bytes are not those that were written$"):
        unsealed(tmp_path / "file")
    assert unsealed(tmp_path / "none") is None


@pytest.fixture(scope="module")
def killed_training(small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The two files, by name, of a training that was killed beyond its branch."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(KilledError):
        train_fs(small_mnist, folder, say=killed_after(2))
    return {path.name: path.read_bytes() for path in (folder / "scratch").iterdir()}


@pytest.mark.parametrize("branch", [False, True], ids=["run", "branch"])
@every_damage
def test_a_damaged_training_begins_anew(branch: bool, damage, small_mnist: Path, fs_run: Path, killed_training: dict[str, bytes], tmp_path: Path):
    for name, data in killed_training.items():
        write_bytes(tmp_path / "scratch" / name, damage(data) if name.endswith(".branch.pt") == branch else data)
    (name,) = [name for name in killed_training if name.endswith(".branch.pt") == branch]
    said: list[str] = []
    out = train_fs(small_mnist, tmp_path, say=said.append)
    assert said[0] == f"{tmp_path / 'scratch' / name}: is damaged: its bytes are not those that were written; beginning anew"
    assert said[1].startswith("epoch 1/3")
    assert out.read_bytes() == (fs_run / "fs.safetensors").read_bytes()
    assert (tmp_path / "fs.branch.pt").read_bytes() == (fs_run / "fs.branch.pt").read_bytes()


@every_damage
def test_a_damaged_branch_of_another_step_is_refused(damage, small_mnist: Path, fs_run: Path, tmp_path: Path):
    branch = tmp_path / "fs.branch.pt"
    branch.write_bytes(damage((fs_run / "fs.branch.pt").read_bytes()))
    with pytest.raises(DamagedError, match=r"fs\.branch\.pt: is damaged"):
        train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", branch)


def goes_on(runtime: Runtime, data: Path) -> bool:
    """Whether a run of SETTINGS under that runtime resumes."""

    class SaidError(Exception):
        pass

    def say(line: str) -> None:
        said.append(line)
        raise SaidError

    said: list[str] = []
    with pytest.raises(SaidError):
        train(data, runtime.scratch / "out", runtime.scratch / "b", "cohen", "small_cnn", 0.25, SETTINGS, 0, runtime, say)
    return said[0].startswith("resuming")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_training_does_not_go_on_with_other_threads_instructions_or_torch(
    small_mnist: Path, killed_training: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
):
    for name, data in killed_training.items():
        write_bytes(tmp_path / name, data)
    own = Runtime(scratch=tmp_path)
    assert goes_on(own, small_mnist)
    assert not goes_on(Runtime(scratch=tmp_path, threads=2), small_mnist)
    for place, value in (("torch.backends.cpu.get_cpu_capability", lambda: "another"), ("torch.__version__", "0.0")):
        with monkeypatch.context() as other:
            other.setattr(place, value)
            assert not goes_on(own, small_mnist)
    assert goes_on(own, small_mnist)


def test_a_search_does_not_go_on_with_other_threads(trained: Path, small_mnist: Path, tmp_path: Path, one_thread: None):
    settings = SearchSettings(step_size=0.05, k_max=100, sigma_max=0.3, batch_size=4)

    def run(threads: int, say) -> None:
        search(trained, small_mnist, tmp_path / "s.parquet", settings, "test", 10, 0, Runtime(scratch=tmp_path / "scratch", threads=threads), say)

    def stop(line: str) -> None:
        if line.startswith("images 9 to"):
            raise KilledError

    with pytest.raises(KilledError):
        run(1, stop)
    said: list[str] = []
    run(2, said.append)
    assert "resuming" not in said[0]
    run(1, said.append)
    assert any(line.startswith("resuming: 8 images") for line in said)
