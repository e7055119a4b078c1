"""Training runs that several files of tests start from."""

from pathlib import Path

import pytest

from tests.unit.training.training_runs import train_ds2, train_fs


@pytest.fixture(scope="session")
def fs_run(small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted FS run of SETTINGS: fs.safetensors and fs.branch.pt."""
    folder = tmp_path_factory.mktemp("fs")
    train_fs(small_mnist, folder)
    return folder


@pytest.fixture(scope="session")
def ds2_run(small_mnist: Path, fs_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted DS2 run that continues the branch of fs_run."""
    folder = tmp_path_factory.mktemp("ds2")
    train_ds2(small_mnist, folder, fs_run / "fs.safetensors", fs_run / "fs.branch.pt")
    return folder
