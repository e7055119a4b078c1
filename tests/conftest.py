"""Shared fixtures: small models whose behaviour is known exactly, and the embedded dataset, fetched once per session."""

import os
import sys
from collections.abc import Callable, Iterator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from ddrs.data.fetch import fetch, write_pools
from ddrs.data.requests import FetchRequest, Pool
from ddrs.data.splits import load_split

torch.set_num_threads(1)
settings.register_profile("no-deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no-deadline")


LONGEST = ["tiny", "test_remote", "test_failures", "test_your_own"]


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False  # pytest-xdist would begin with the groups of many tests, and end with one of few and long ones


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Among several processes (`make test`) a file's tests stay together, as do all that read the one real run: each fixture is made once.

    The longest groups come first. pytest-xdist 3.8 reads the groups of pytest up to 9.1, and overlooks those of 9.2: hence the version in
    constraints.txt.
    """
    groups = {item: "tiny" if "tiny" in getattr(item, "fixturenames", ()) else item.path.stem for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: LONGEST.index(groups[item]) if groups[item] in LONGEST else len(LONGEST))


class HalfSpace(torch.nn.Module):
    """Class 1 where w.x > b, else class 0, with saturated scores. Smoothed with N(0, sigma^2): p = Phi((w.x - b) / (|w| sigma))."""

    def __init__(self, w: list[float], b: float = 0.0, sharpness: float = 1e4):
        super().__init__()
        self.register_buffer("w", torch.tensor(w))
        self.b, self.sharpness = b, sharpness

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        margin = self.sharpness * (x.flatten(1) @ self.w - self.b)
        return torch.stack([-margin, margin], 1)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where boundaries and probed batch sizes are cached, in this process and in its children: never in the home folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDRS_CACHE", str(folder))
        yield folder


@pytest.fixture
def half_space() -> HalfSpace:
    """Class 1 right of the second coordinate axis, in two dimensions."""
    return HalfSpace([1.0, 0.0])


@pytest.fixture(scope="session")
def mnist5k(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of the embedded dataset."""
    manifest = tmp_path_factory.mktemp("data") / "mnist5k" / "manifest.json"
    fetch("mnist5k", manifest)
    return manifest


@pytest.fixture(scope="session")
def small_mnist(mnist5k: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 200 training, 20 validation and 30 test images of the embedded dataset."""
    manifest = tmp_path_factory.mktemp("data") / "small" / "manifest.json"
    pools = {}
    for name, count in (("train", 200), ("validation", 20), ("test", 30)):
        split = load_split(mnist5k, name)
        chosen = split.subset(count)
        pools[name] = Pool(np.asarray(split.images[chosen]), split.labels[chosen])
    write_pools(FetchRequest("mnist5k", "mnist5k", manifest), pools, dict.fromkeys(pools, 0))
    return manifest


@pytest.fixture(scope="session")
def trained(small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small_cnn trained for four epochs on small_mnist at sigma 0.25 (Cohen)."""
    from ddrs.models.devices import Runtime
    from ddrs.training.run import train
    from ddrs.training.settings import TrainSettings

    folder = tmp_path_factory.mktemp("model")
    settings = TrainSettings(epochs=4, batch_size=20, learning_rate=0.05, schedule="constant")
    runtime = Runtime(scratch=folder / "scratch")
    train(small_mnist, folder / "model.safetensors", None, "cohen", "small_cnn", 0.25, settings, 0, runtime, lambda line: None)
    return folder / "model.safetensors"


@pytest.fixture
def ddrs_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a verb in this process; gives the exit code, stdout and stderr."""
    from ddrs.commands.main import main

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ddrs", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def invented_radii(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs are read without computing their bounds again, for tests of arithmetic on radii that no counts give."""
    monkeypatch.setattr("ddrs.certification.checks.problems", lambda table: [""] * len(table))
