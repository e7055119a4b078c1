"""What every plug-in must hold to, whoever writes it: a file in one of these folders is tested by being there."""

import inspect
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import ddrs.figures.illustrations._plane
from ddrs.certification.certificates import CERTIFICATES
from ddrs.certification.engine import certify_each
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.data.fetch import fetch
from ddrs.data.sources import SOURCES, source_of
from ddrs.errors import DdrsError
from ddrs.experiment.load import load
from ddrs.figures.illustrations import SUBJECTS, illustrate
from ddrs.files import require
from ddrs.noise.laws import get_noise
from ddrs.noise.streams import NoiseStream, torch_generator
from ddrs.registry import Folder
from ddrs.rows import KINDS, TABLES
from ddrs.sigma.settings import SearchSettings, StepSettings
from ddrs.sigma.strategies import STRATEGIES
from ddrs.training import loop, state
from ddrs.training.losses import METHODS, LossSettings
from ddrs.training.regimes import REGIMES
from ddrs.training.settings import RegimeSettings, TrainSettings
from tests.conftest import HalfSpace
from tests.unit.experiment.test_config import SHIPPED

FOLDERS = {folder.kind: folder for folder in (METHODS, REGIMES, STRATEGIES, CERTIFICATES, SOURCES, SUBJECTS)}
TORCH_FREE = (METHODS, REGIMES, STRATEGIES, CERTIFICATES, SOURCES)  # those that reading a config imports
NEEDED = {"smoothadv": {"epsilon": 0.5}}  # settings without a default, by loss
VOTES = 50  # samples of a search, enough that also one which compares certified radii has some above 0
GAUSSIAN = get_noise("gaussian")
HERE = [(kind, name) for kind, folder in FOLDERS.items() for name in folder]


# the folders


@pytest.mark.parametrize(("kind", "name"), HERE)
def test_a_plugin_says_what_it_is_for(kind: str, name: str) -> None:
    module = FOLDERS[kind].module(name)
    assert (module.__doc__ or "").strip()
    assert module.__name__ == FOLDERS[kind][name] == f"{FOLDERS[kind].package}.{name}"


def test_importing_what_a_config_names_loads_no_torch() -> None:
    names = [folder[name] for folder in TORCH_FREE for name in folder]
    code = f"import sys; from importlib import import_module; [import_module(one) for one in {names!r}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_file_that_is_put_in_the_folder_is_found_and_imported_on_demand(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = FOLDERS[kind]
    before = list(folder)
    put(sys.modules[folder.package], "made_up", "FOUND = True\n", tmp_path, monkeypatch)
    (tmp_path / "plugins" / "_shared.py").write_text("raise AssertionError\n")
    assert list(folder) == sorted([*before, "made_up"]) and len(folder) == len(before) + 1
    assert "made_up" in folder and "_shared" not in folder and f"{folder.package}.made_up" not in sys.modules
    assert folder.module("made_up").FOUND


@pytest.mark.parametrize("kind", FOLDERS)
def test_an_unknown_name_is_one_line_with_the_known_ones(kind: str) -> None:
    folder = FOLDERS[kind]
    with pytest.raises(DdrsError) as error:
        folder.module(f"{next(iter(folder))}x")
    first = next(iter(folder))
    assert str(error.value) == f"{kind} {first + 'x'!r}: unknown (did you mean {first!r}?); known are {', '.join(folder)}"


def test_a_folder_in_a_zip_is_read_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("__init__", "two", "one", "_shared"):
            file.writestr(f"zipped_plugins/{name}.py", "HERE = True\n")
    monkeypatch.syspath_prepend(str(tmp_path / "a.zip"))
    __import__("zipped_plugins")
    folder = Folder("thing", "zipped_plugins")
    assert list(folder) == ["one", "two"] and folder.module("two").HERE


def test_every_kind_of_row_stands_on_files_that_there_are() -> None:
    for kind in KINDS.values():
        assert kind.trained in REGIMES and kind.certificate in CERTIFICATES and (kind.strategy is None or kind.strategy in STRATEGIES)
    assert {row.method for rows in TABLES.values() for row in rows} <= set(METHODS)


# losses


def loss_settings(method: str) -> LossSettings:
    return TrainSettings(epochs=1, loss=NEEDED.get(method, {})).loss_settings(method)


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_is_a_number_with_gradients_and_repeats(method: str) -> None:
    module, settings = METHODS.module(method), loss_settings(method)
    assert module.NOISE in ("gaussian", "uniform") and issubclass(module.Settings, LossSettings)
    assert all(field.description for field in module.Settings.model_fields.values())
    if method in NEEDED:
        with pytest.raises(DdrsError, match=f"loss of {method}: {next(iter(NEEDED[method]))}: Field required"):
            TrainSettings(epochs=1).loss_settings(method)
    samples, y, sigma = module.noise_samples(settings), torch.tensor([0, 1, 2, 0]), torch.full((4,), 0.25)
    found = []
    for _ in range(2):
        model = seeded()
        x, noise = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.empty(4, samples, 1, 6, 6)
        get_noise(module.NOISE).draw(noise, torch_generator(0, "train", method))
        loss, scores = module.loss(model, x, y, noise * 0.25, sigma, settings.at_epoch(0))
        loss.backward()
        found.append([loss.detach(), scores, *(one.grad for one in model.parameters())])
        assert loss.shape == () and scores.shape[1] == 3 and len(scores) % 4 == 0 and not scores.requires_grad
        assert all(torch.isfinite(one).all() for one in found[-1])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert settings.image_gradients() >= 0 and samples >= 1


# regimes


@pytest.mark.parametrize("regime", REGIMES)
def test_a_regime_gives_each_example_a_sigma_within_bounds_and_repeats(regime: str) -> None:
    module = REGIMES.module(regime)
    assert issubclass(module.Settings, StepSettings) and all(field.description for field in module.Settings.model_fields.values())
    settings = RegimeSettings(regime=regime, step_size=0.5, samples=2, sigma_min=0.1, sigma_max=0.6).of_regime()
    assert module.image_gradients(settings) >= 0
    found = []
    for _ in range(2):
        model = seeded().train()
        sigma = torch.tensor([0.1, 0.25, 0.5, 0.6])
        generator = torch_generator(0, "search", "train", regime)
        for epoch in range(2):
            sigma = module.sigmas(model, images(), torch.tensor([0, 1, 2, 0]), sigma, settings, GAUSSIAN, generator, epoch)
        found.append(sigma)
        assert model.training and all(one.grad is None for one in model.parameters())
        assert sigma.shape == (4,) and sigma.dtype == torch.float32 and not sigma.requires_grad
        assert (sigma >= np.float32(0.1)).all() and (sigma <= np.float32(0.6)).all()
    assert torch.equal(*found)


def test_a_third_regime_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that searches every few epochs, with settings of its own."""
    text = """
from ddrs.sigma.settings import StepSettings
from pydantic import Field

class Settings(StepSettings):
    every: int = Field(ge=1, description="epochs between two searches")

def image_gradients(settings):
    return settings.samples

def sigmas(model, x, y, sigma, settings, noise, generator, epoch):
    return sigma * 2 if epoch % settings.every == 0 else sigma
"""
    package = sys.modules[REGIMES.package]
    put(package, "doubling", text, tmp_path, monkeypatch)
    settings = TrainSettings(epochs=5, batch_size=3, learning_rate=1e-3, schedule="constant")
    run = state.start_run(seeded(), 4, 0.25, settings, 0, torch.device("cpu"), "doubling")
    step = RegimeSettings(regime="doubling", set={"every": "2"})
    loop.train(
        run, images(), torch.tensor([0, 1, 2, 0]), "cohen", "doubling", settings, step.of_regime(), GAUSSIAN, lambda run: None, lambda line: None
    )
    assert run.sigmas.tolist() == [2.0] * 4  # in epochs 0, 2 and 4
    with pytest.raises(DdrsError, match=r"regime: unknown setting 'evry' of doubling \(did you mean 'every'\?\); allowed are every"):
        RegimeSettings(regime="doubling", set={"evry": 2}).of_regime()
    with pytest.raises(DdrsError, match="regime of doubling: every: Field required"):
        RegimeSettings(regime="doubling").of_regime()
    tuned = {**SHIPPED["finetune"]["mnist5k"]["cohen"], "regimes": {"doubling": {"every": {0.25: 2, 0.5: 4, 1.0: 4}, "samples": 3}}}
    raw = {**SHIPPED, "finetune": {"mnist5k": {**SHIPPED["finetune"]["mnist5k"], "cohen": tuned}}}
    config = load(raw)
    found = config.regime_on("mnist5k", "cohen", "doubling").at_sigma("0.50").of_regime()
    assert (found.every, found.samples) == (4, 3)  # type: ignore[attr-defined]
    tuned["regimes"] = {"doubling": {"evry": 1}}
    with pytest.raises(DdrsError, match=r"finetune\.mnist5k\.cohen\.regimes: regime: unknown setting 'evry' of doubling"):
        load(raw)


# strategies


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_search_is_a_trajectory_within_bounds_and_repeats(strategy: str) -> None:
    module = STRATEGIES.module(strategy)
    assert issubclass(module.Settings, SearchSettings) and all(field.description for field in module.Settings.model_fields.values())
    settings = SearchSettings(strategy=strategy, k_max=5, samples=VOTES, step_size=0.5, sigma_min=0.1, sigma_max=0.6).of_strategy()
    forwards, gradients = module.evaluations(settings)
    assert min(forwards, gradients) >= 0 < forwards + gradients
    found = []
    for _ in range(2):
        model, steps = seeded().train(), []
        streams = [NoiseStream(GAUSSIAN.at(1.0), (1, 6, 6), 0, "search", "", i) for i in range(4)]
        found.append(module.search(model, images(), 0.25, streams, GAUSSIAN, settings, steps.append).sigma)
        assert model.training and all(one.grad is None for one in model.parameters()) and steps[-1] == 5
    assert torch.equal(*found) and found[0].shape == (6, 4) and found[0].dtype == torch.float32
    assert (
        (found[0][0] == 0.25).all() and (found[0][-1] != 0.25).any() and (found[0] >= np.float32(0.1)).all() and (found[0] <= np.float32(0.6)).all()
    )


def test_a_strategy_has_settings_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
from ddrs.sigma.settings import SearchSettings
from pydantic import Field

class Settings(SearchSettings):
    low: float = Field(0.1, gt=0, description="where it begins")
"""
    put(sys.modules[STRATEGIES.package], "bisecting", text, tmp_path, monkeypatch)
    search = {**SHIPPED["search"]["mnist5k"], "strategies": {"bisecting": {"low": {0.25: 0.08, 0.5: 0.12, 1.0: 0.2}, "samples": 500}}}
    config = load({**SHIPPED, "search": {"mnist5k": search}})
    asked = config.search_on("mnist5k", "cohen", "bisecting").at_sigma("0.50")
    found = asked.of_strategy()
    assert (found.low, found.samples, found.strategy) == (0.12, 500, "bisecting")  # type: ignore[attr-defined]
    assert found.k_max == config.search_on("mnist5k", "cohen").k_max and "set" not in found.model_dump()
    with pytest.raises(DdrsError, match="strategy: unknown setting 'lo' of bisecting"):
        asked.model_copy(update={"set": {"lo": 1}}).of_strategy()
    with pytest.raises(DdrsError, match="strategy: unknown setting 'low' of ascent; allowed are none"):
        SearchSettings(k_max=1, set={"low": 1}).of_strategy()
    with pytest.raises(DdrsError, match=r"search\.mnist5k\.strategies: strategy of bisecting: low: Input should be greater than 0"):
        load({**SHIPPED, "search": {"mnist5k": {**search, "strategies": {"bisecting": {"low": -1}}}}})
    with pytest.raises(DdrsError, match=r"strategies.bisectin.*: unknown strategy 'bisectin' \(did you mean 'bisecting'"):
        load({**SHIPPED, "search": {"mnist5k": {**search, "strategies": {"bisectin": {}}}}})


# certificates


@pytest.mark.parametrize("certificate", CERTIFICATES)
@pytest.mark.parametrize("protocol", ["fixed", "two-stage", "sequential"])
def test_a_certificate_promises_in_one_line_and_repeats(certificate: str, protocol: str) -> None:
    module = CERTIFICATES.module(certificate)
    assert module.PROMISE.endswith(".") and "\n" not in module.PROMISE and isinstance(module.STATELESS, bool)
    assert inspect.isgeneratorfunction(module.steps)
    radii = [0.0, 0.25] if protocol == "sequential" else []
    settings = ImageCertificateSettings(n0=20, n=500, protocol=protocol, radii=radii, certificate=certificate)  # pyright: ignore[reportArgumentType]
    x = torch.tensor([[1.0, 0.0], [0.001, 0.0]])

    def certified() -> list[tuple]:
        keys = {"noises": [GAUSSIAN] * 2, "seed": 0, "split": "", "example_ids": [0, 1]}
        each = certify_each(HalfSpace([1.0, 0.0]), x, np.full(2, 0.5, np.float32), settings, **keys, batch_size=50)
        return [(place, found.prediction, found.radius, found.n, found.counts.tolist()) for place, found in sorted(each, key=lambda one: one[0])]

    found = certified()
    assert found == certified()
    assert found[0][1] == 1 and 0 < found[0][2] <= 1.0, "the true radius is 1"
    assert found[1][2] <= 0.001


# sources


@pytest.mark.parametrize("kind", SOURCES)
def test_a_source_says_what_it_holds(kind: str) -> None:
    source = source_of(kind)
    assert (source.pools is None) != (source.prepare is None)
    assert bool(source.sizes) != (source.count is not None) and (source.shape is None) == (source.classes is None) == (source.count is not None)
    assert not source.sizes or set(source.sizes) == {"train", "test", *(["validation"] if source.own_validation else [])}


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if kind != "mnist5k"])
def test_a_source_that_lacks_its_files_writes_nothing(kind: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    more = {} if source_of(kind).classes else {"classes": ("a", "b"), "shape": (3, 8, 8)}
    with pytest.raises(DdrsError) as error:
        fetch("made-up", tmp_path / "out" / "manifest.json", tmp_path / "empty", kind=kind, **more)  # type: ignore[arg-type]
    assert str(tmp_path / "empty") in str(error.value) and not (tmp_path / "out" / "manifest.json").exists()


def test_a_source_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
import numpy as np
from ddrs.data.requests import Pool, Source

def _pools(source, download):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 1, 4, 4), dtype=np.uint8)
    labels = np.arange(30, dtype=np.int64) % 2
    return {"train": Pool(pixels[:20], labels[:20]), "test": Pool(pixels[20:], labels[20:])}

SOURCE = Source(_pools, (1, 4, 4), 2, sizes={"train": 20, "test": 10})
"""
    put(sys.modules[SOURCES.package], "coins", text, tmp_path, monkeypatch)
    made = [fetch("coins", tmp_path / name / "manifest.json", validation=4) for name in ("a", "b")]
    assert made[0] == made[1] and made[0]["splits"]["train"]["count"] == 16
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == require(tmp_path / "b" / file.name, "file").read_bytes()


# subjects


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_has_a_caption_and_is_drawn(subject: str) -> None:
    module = SUBJECTS.module(subject)
    assert module.CAPTION.endswith(".") and list(inspect.signature(module.draw).parameters) == ["plane"]  # test_illustrations draws them all


def test_a_subject_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
from ddrs.figures.drawing import plt

CAPTION = "A dot."

def draw(plane):
    figure, axis = plt.subplots()
    axis.plot(0, 0, "o")
    return figure
"""
    put(sys.modules[SUBJECTS.package], "dot", text, tmp_path, monkeypatch)
    monkeypatch.setattr(ddrs.figures.illustrations._plane, "make_plane", lambda seed: None)
    for name in ("a", "b"):
        illustrate("dot", tmp_path / f"{name}.pdf", tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def seeded() -> nn.Module:
    """The same network of three classes each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))


def images() -> torch.Tensor:
    return torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def put(package: ModuleType, name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in that is in the folder for the time of a test."""
    (folder / "plugins").mkdir()
    (folder / "plugins" / f"{name}.py").write_text(text)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder / "plugins")])
    monkeypatch.setattr(package, name, None, raising=False)  # so that this and the module are gone afterwards
    monkeypatch.setitem(sys.modules, f"{package.__name__}.{name}", package)
    del sys.modules[f"{package.__name__}.{name}"]
