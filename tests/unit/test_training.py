"""Training: resumption, the per-example sigmas of DS2, branching, the losses, augmentation, and what goes wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddrs.config import StepSettings, TrainSettings
from ddrs.errors import DdrsError
from ddrs.models import build_model, read_facts
from ddrs.noise import get_noise
from ddrs.options import Runtime
from ddrs.training import cohen, loop, macer, smoothadv, yang
from ddrs.training.run import finetune, train

GAUSSIAN = get_noise("gaussian")
SETTINGS = TrainSettings(epochs=3, batch_size=40, learning_rate=0.05, schedule="cosine", augment="crop-flip", branch_epoch=1)
STEP = StepSettings(step_size=0.01, samples=2)


class KilledError(Exception):
    pass


def quiet(line: str) -> None:
    pass


def killed_after(epoch: int):
    """A `say` that ends the run with an exception after an epoch's state was saved: in the next epoch's report."""

    def say(line: str) -> None:
        if line.startswith(f"epoch {epoch + 1}/"):
            raise KilledError

    return say


def train_fs(data: Path, folder: Path, settings: TrainSettings = SETTINGS, say=quiet, method: str = "cohen", name: str = "fs", **more) -> Path:
    out = folder / f"{name}.safetensors"
    runtime = Runtime(scratch=folder / "scratch")
    arguments = {"architecture": "small_cnn", "sigma": 0.25, "seed": 0, **more}
    train(data, out, folder / f"{name}.branch.pt", method, settings=settings, runtime=runtime, say=say, **arguments)
    return out


def train_ds2(data: Path, folder: Path, model: Path, branch: Path | None, settings: TrainSettings = SETTINGS, say=quiet, step=STEP) -> Path:
    out = folder / "ds2.safetensors"
    finetune(data, model, branch, out, settings, step, 0, Runtime(scratch=folder / "scratch"), say)
    return out


@pytest.fixture(scope="module")
def fs_run(small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted FS run of SETTINGS: fs.safetensors and fs.branch.pt."""
    folder = tmp_path_factory.mktemp("fs")
    train_fs(small_mnist, folder)
    return folder


@pytest.fixture(scope="module")
def ds2_run(small_mnist: Path, fs_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted DS2 run that continues the branch of fs_run."""
    folder = tmp_path_factory.mktemp("ds2")
    train_ds2(small_mnist, folder, fs_run / "fs.safetensors", fs_run / "fs.branch.pt")
    return folder


# resumption


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
    save_state = loop.save_state
    monkeypatch.setattr(loop, "save_state", lambda path, run: (states.append({"sigmas": run.sigmas.clone()}), save_state(path, run)))
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
    words = [sys.executable, "-m", "ddrs.cli", "train", "--data", small_mnist, "--out", tmp_path / "fs.safetensors", "--method", "cohen"]
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
    monkeypatch.setattr("ddrs.training.run.code_digest", lambda *names: "another")
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
        run = loop.start_run(build_model("small_cnn", (1, 28, 28), 10), 7, 0.25, SETTINGS, 0, torch.device("cpu"), "fs")
        loop.save_state(branch, run)
    with pytest.raises(DdrsError) as error:
        train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", branch)
    assert str(branch) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "ds2.safetensors").exists()


def test_a_state_file_that_would_run_code_is_not_loaded(fs_run: Path, tmp_path: Path):
    class Harmful:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"sigmas": torch.zeros(200), "model": Harmful()}, tmp_path / "state.pt")
    run = loop.start_run(build_model("small_cnn", (1, 28, 28), 10), 200, 0.25, SETTINGS, 0, torch.device("cpu"), "fs")
    with pytest.raises(DdrsError, match="not a readable training state"):
        loop.load_state(tmp_path / "state.pt", run)
    assert not (tmp_path / "ran").exists()


# fs and ds2


def test_seeds_and_sigmas_make_other_models_and_repeats_do_not(small_mnist: Path, tmp_path: Path):
    settings = TrainSettings(epochs=1, batch_size=100)

    def bytes_of(name: str, **more: object) -> bytes:
        train_fs(small_mnist, tmp_path / name, settings, **more)
        return (tmp_path / name / "fs.safetensors").read_bytes()

    first = bytes_of("a")
    assert bytes_of("b") == first
    assert bytes_of("c", seed=1) != first
    assert bytes_of("d", sigma=0.26) != first


def test_fs_leaves_every_sigma_at_sigma0(fs_run: Path):
    state = torch.load(fs_run / "fs.branch.pt", weights_only=True)
    assert torch.equal(state["sigmas"], torch.full((200,), 0.25))
    facts = read_facts(fs_run / "fs.safetensors")
    assert (facts["mean_sigma"], facts["sigma"], facts["regime"], facts["noise"]) == (0.25, 0.25, "fs", "gaussian")


def test_ds2_moves_the_sigma_of_each_example_and_says_so(ds2_run: Path, small_mnist: Path, fs_run: Path, tmp_path: Path, monkeypatch):
    sigmas: list[torch.Tensor] = []
    save_state = loop.save_state
    monkeypatch.setattr(loop, "save_state", lambda path, run: (sigmas.append(run.sigmas.clone()), save_state(path, run)))
    train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", fs_run / "fs.branch.pt")
    assert len(sigmas) == 2
    assert sigmas[0].unique().numel() > 100 and torch.all(sigmas[0] != 0.25)
    assert torch.all(sigmas[1] != sigmas[0]), "the second epoch starts where the first left off, and moves on"
    assert (sigmas[1] - sigmas[0]).abs().median() < 3 * (sigmas[0] - 0.25).abs().median() + 1e-3
    facts = read_facts(ds2_run / "ds2.safetensors")
    assert facts["regime"] == "ds2" and facts["sigma"] == 0.25, "certification starts again at the training sigma_0"
    assert facts["mean_sigma"] == pytest.approx(float(sigmas[1].mean()), abs=1e-5)


def test_ds2_keeps_sigma_within_its_bounds(small_mnist: Path, fs_run: Path, tmp_path: Path, monkeypatch):
    sigmas: list[torch.Tensor] = []
    monkeypatch.setattr(loop, "save_state", lambda path, run: sigmas.append(run.sigmas.clone()))
    step = StepSettings(step_size=5.0, samples=1, sigma_min=0.2, sigma_max=0.3)
    train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", fs_run / "fs.branch.pt", step=step)
    assert sigmas[-1].min() >= np.float32(0.2) and sigmas[-1].max() <= np.float32(0.3)
    assert {round(float(value), 6) for value in (sigmas[-1].min(), sigmas[-1].max())} == {0.2, 0.3}


class Constant(nn.Module):
    """Scores that depend on its one weight; keeps every input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.1, 0.2]))
        self.seen: list[tuple[bool, torch.Tensor]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((self.training, x.detach().clone()))
        return self.weight.repeat(len(x), 1) + 0 * x.flatten(1).sum(1, keepdim=True)


def recorded_run(regime: str, method: str, loss: dict, sigmas: torch.Tensor, step: StepSettings = STEP, epochs: int = 1):
    """Train Constant on 12 images, each of one value, (i + 1) / 100; noise that is all ones shows each image's sigma."""

    class Ones:
        name, norm, radius = "ones", "l2", None
        objective = staticmethod(GAUSSIAN.objective)

        def fill(self, out, generator):
            out.fill_(1.0)

    images = ((torch.arange(12) + 1) / 100).view(12, 1, 1, 1).expand(12, 1, 2, 2).contiguous()
    labels = torch.arange(12) % 2
    settings = TrainSettings(epochs=epochs, batch_size=5, loss=loss)
    model = Constant()
    run = loop.start_run(model, 12, 0.5, settings, 0, torch.device("cpu"), regime)
    run.sigmas = sigmas.clone()
    loop.train(run, images, labels, method, regime, settings, step, Ones(), lambda run: None, quiet)
    return run, images


def test_the_loss_sees_each_image_with_its_own_sigma():
    """Sigmas are ten times the pixel values, so an image moved by its own sigma has eleven times its value."""
    sigmas = (torch.arange(12) + 1) / 10
    run, _ = recorded_run("fs", "cohen", {}, sigmas)
    seen = torch.cat([x for training, x in run.model.seen if training])
    assert len(seen) == 12
    values = seen[:, 0, 0, 0]
    assert torch.allclose(values.sort().values, 11 * (torch.arange(12) + 1) / 100)
    assert not torch.equal(values, values.sort().values), "the order of an epoch is random"
    assert torch.equal(run.sigmas, sigmas)


def test_repeated_noise_samples_keep_image_sigma_and_label_together(monkeypatch):
    sigmas, m, labels = (torch.arange(12) + 1) / 10, 3, []
    cross_entropy = F.cross_entropy

    def spy(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        labels.append(y.clone())
        return cross_entropy(scores, y)

    monkeypatch.setattr(F, "cross_entropy", spy)
    run, _ = recorded_run("fs", "smoothadv", {"epsilon": 1e-9, "attack_steps": 1, "noise_samples": m}, sigmas)
    seen = torch.cat([x for training, x in run.model.seen if training])[:, 0, 0, 0]
    assert len(seen) == 12 * m
    which = (seen * 100 / 11).round().long() - 1
    assert torch.allclose(seen, 11 * (which + 1) / 100, atol=1e-6), "every copy is its image plus its own sigma"
    assert torch.equal(which.view(-1, m), which.view(-1, m)[:, :1].expand(-1, m)), "the copies of an image are neighbours"
    assert torch.equal(torch.cat(labels), which % 2), "labels are aligned with the copies"


@pytest.mark.parametrize("regime", ["fs", "ds2"])
def test_macer_gets_the_sigma_that_its_noise_was_scaled_with(regime: str, monkeypatch):
    given: list[torch.Tensor] = []
    hinge = macer.hinge
    monkeypatch.setattr(macer, "hinge", lambda scores, y, sigma, settings: (given.append(sigma.clone()), hinge(scores, y, sigma, settings))[1])
    start, k = (torch.arange(12) + 1) / 10, 3
    run, images = recorded_run(regime, "macer", {"k": k}, start, StepSettings(step_size=0.01, samples=8))
    seen = torch.cat([x for training, x in run.model.seen if training])[:, 0, 0, 0].view(12, k)
    assert torch.equal(seen, seen[:, :1].expand(-1, k)), "the copies of an image are neighbours"
    sigma = torch.cat(given)
    which = ((seen[:, 0] - sigma) * 100).round().long() - 1
    assert torch.equal(which.sort().values, torch.arange(12)) and torch.allclose(seen[:, 0] - sigma, images[which, 0, 0, 0], atol=1e-6)
    assert torch.equal(sigma, run.sigmas[which]) and torch.equal(run.sigmas == start, torch.full((12,), regime == "fs"))
    searched = [x for training, x in run.model.seen if not training]
    assert sum(len(x) for x in searched) == (12 * 8 if regime == "ds2" else 0), "the sigma step has its own samples"


def test_ds2_steps_each_example_from_its_own_last_sigma():
    """With constant scores the objective is linear in sigma: every step moves every example by the same known amount."""
    start = (torch.arange(12) + 1) / 10
    step = StepSettings(step_size=0.01, samples=3)
    run, images = recorded_run("ds2", "cohen", {}, start, step)
    searched = torch.cat([x for training, x in run.model.seen if not training]).unflatten(0, (12, 3))
    order = ((searched[:, 0, 0, 0, 0] / 0.11).round() - 1).long()
    assert torch.equal(order.sort().values, torch.arange(12))
    expected = (images[order] + start[order].view(-1, 1, 1, 1))[:, None].expand(12, 3, 1, 2, 2)
    assert torch.allclose(searched, expected), "the search looks at the batch's images, all samples at the image's own sigma"
    moved = run.sigmas - start
    assert torch.all(moved > 0) and torch.allclose(moved, moved.mean().expand(12), atol=2e-4)
    trained = torch.cat([x for training, x in run.model.seen if training])
    assert torch.allclose(trained, images[order] + run.sigmas[order].view(-1, 1, 1, 1), atol=1e-6), "the loss uses the sigma after the step"


def test_a_branched_run_continues_from_the_branch_epoch(small_mnist: Path, fs_run: Path, tmp_path: Path):
    said: list[str] = []
    train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", fs_run / "fs.branch.pt", say=said.append)
    assert [line.split(":")[0] for line in said if line.startswith("epoch")] == ["epoch 2/3", "epoch 3/3"]


def test_a_branch_with_frozen_sigmas_is_the_fixed_sigma_run(small_mnist: Path, fs_run: Path, tmp_path: Path):
    """So the branch holds everything: optimiser, schedule and generators. (The search has a stream of its own.)"""
    step = StepSettings(step_size=1e-30)
    out = train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", fs_run / "fs.branch.pt", step=step)
    from ddrs.models import load_model

    fixed, branched = load_model(fs_run / "fs.safetensors").state_dict(), load_model(out).state_dict()
    assert all(torch.equal(fixed[name], branched[name]) for name in fixed)


def test_finetuning_a_trained_model_starts_from_its_weights_at_epoch_0(small_mnist: Path, fs_run: Path, tmp_path: Path):
    from ddrs.models import load_model

    settings = SETTINGS.model_copy(update={"epochs": 1, "learning_rate": 1e-30, "branch_epoch": None})
    said: list[str] = []
    out = train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", None, settings, said.append)
    assert said[0].startswith("epoch 1/1")
    before, after = load_model(fs_run / "fs.safetensors"), load_model(out)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_a_branch_at_the_last_epoch_leaves_nothing_to_train(small_mnist: Path, fs_run: Path, tmp_path: Path):
    settings = SETTINGS.model_copy(update={"epochs": 1})
    with pytest.raises(DdrsError, match=r"was saved after epoch 1, nothing is left of 1; set branch_epoch lower") as error:
        train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", fs_run / "fs.branch.pt", settings)
    assert "\n" not in str(error.value)


def test_the_model_learns(small_mnist: Path, tmp_path: Path):
    said: list[str] = []
    train_fs(small_mnist, tmp_path, TrainSettings(epochs=6, batch_size=20, learning_rate=0.05, schedule="constant"), said.append)
    accuracy = [float(line.split("noisy accuracy ")[1].split()[0]) for line in said if line.startswith("epoch")]
    assert len(accuracy) == 6 and accuracy[-1] > 75 > accuracy[0]


def test_smoothadv_reports_accuracy_over_all_noise_samples(small_mnist: Path, tmp_path: Path):
    settings = TrainSettings(epochs=1, batch_size=50, loss={"epsilon": 0.25, "attack_steps": 1, "noise_samples": 2})
    said: list[str] = []
    out = train_fs(small_mnist, tmp_path, settings, said.append, method="smoothadv")
    accuracy = float(said[0].split("noisy accuracy ")[1].split()[0])
    assert 0 < accuracy <= 100
    assert read_facts(out)["settings"]["loss"] == {"epsilon": 0.25, "attack_steps": 1, "noise_samples": 2}


def test_macer_learns_and_is_finetuned_with_a_sigma_per_example(small_mnist: Path, tmp_path: Path):
    settings = TrainSettings(epochs=8, batch_size=20, learning_rate=0.02, schedule="constant", loss={"k": 4, "lambda": 4})
    said: list[str] = []
    model = train_fs(small_mnist, tmp_path, settings, said.append, method="macer")
    accuracy = [float(line.split("noisy accuracy ")[1].split()[0]) for line in said]
    assert accuracy[-1] > 60 > accuracy[0]
    out = train_ds2(small_mnist, tmp_path, model, None, settings.model_copy(update={"epochs": 1}), step=StepSettings(step_size=0.01, samples=8))
    facts = read_facts(out)
    assert (facts["method"], facts["regime"], facts["noise"], facts["step"]["samples"]) == ("macer", "ds2", "gaussian", 8)
    assert facts["mean_sigma"] != 0.25


def test_yang_trains_with_uniform_noise(small_mnist: Path, tmp_path: Path, monkeypatch):
    """One draw per image, evenly spread over [-1, 1]; the model records which noise it is for."""
    seen: list[torch.Tensor] = []
    uniform = type(get_noise("uniform"))
    fill = uniform.fill
    monkeypatch.setattr(uniform, "fill", lambda self, out, generator: (fill(self, out, generator), seen.append(out.clone()))[0])
    model = train_fs(small_mnist, tmp_path, TrainSettings(epochs=1, batch_size=100), method="yang", sigma=0.5)
    noise = torch.cat([one.flatten() for one in seen])
    assert noise.abs().max() <= 1 and noise.abs().mean() == pytest.approx(0.5, abs=0.01) and len(noise) == 200 * 784
    assert (read_facts(model)["noise"], read_facts(model)["sigma"]) == ("uniform", 0.5)
    assert (yang.loss, yang.noise_samples(yang.Settings())) == (cohen.loss, 1)


# losses


@pytest.fixture
def noisy_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(6, 1, 28, 28, generator=generator)
    y = torch.randint(0, 10, (6,), generator=generator)
    return x, y, 0.25 * torch.randn(6, 2, 1, 28, 28, generator=generator)


def test_the_cohen_loss_is_the_cross_entropy_on_noisy_images(noisy_batch):
    x, y, noise = noisy_batch
    model = build_model("small_cnn", (1, 28, 28), 10).eval()
    loss, scores = cohen.loss(model, x, y, noise[:, :1], torch.full((6,), 0.25), cohen.Settings())
    expected = model(x + noise[:, 0])
    assert torch.equal(loss, F.cross_entropy(expected, y))
    assert torch.equal(scores, expected) and not scores.requires_grad
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert cohen.noise_samples(cohen.Settings()) == 1


def slow_attack(weight: torch.Tensor, x: torch.Tensor, y: int, noise: torch.Tensor, epsilon: float, steps: int) -> torch.Tensor:
    """SmoothAdv_PGD for one image (d,) and a linear model, with the gradient of -log mean softmax written out."""
    delta = torch.zeros_like(x)
    for _ in range(steps):
        gradient, mean = torch.zeros_like(x), 0.0
        for one in noise:
            p = torch.softmax(weight @ (x + delta + one), 0)
            mean = mean + p[y] / len(noise)
            gradient = gradient + p[y] * (weight[y] - p @ weight) / len(noise)
        gradient = -gradient / mean
        delta = delta + 2 * epsilon / steps * gradient / gradient.norm()
        delta = torch.minimum(torch.maximum(x + delta, torch.tensor(0.0)), torch.tensor(1.0)) - x
        if delta.norm() > epsilon:
            delta = delta * epsilon / delta.norm()
    return x + delta


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("m", [1, 3])
def test_the_attack_is_its_literal_restatement_for_a_linear_model(steps: int, m: int):
    generator = torch.Generator().manual_seed(steps)
    weight = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    x = torch.rand(5, 8, generator=generator, dtype=torch.float64)
    noise = 0.5 * torch.randn(5, m, 8, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    model = nn.Linear(8, 3, bias=False).double()
    model.weight.data = weight
    settings = smoothadv.Settings(epsilon=0.6, attack_steps=steps, noise_samples=m)
    found = smoothadv.attack(model, x, y, noise, settings)
    expected = torch.stack([slow_attack(weight, x[i], int(y[i]), noise[i], 0.6, steps) for i in range(5)])
    assert torch.allclose(found, expected, atol=1e-10)
    assert not torch.allclose(found, x, atol=1e-2)


def test_the_attack_stays_in_its_ball_and_in_the_pixel_range_and_raises_the_loss(noisy_batch):
    x, y, noise = noisy_batch
    torch.manual_seed(0)
    model = build_model("small_cnn", (1, 28, 28), 10).eval()
    for epsilon in (0.1, 1.0, 4.0):
        found = smoothadv.attack(model, x, y, noise, smoothadv.Settings(epsilon=epsilon, attack_steps=4, noise_samples=2))
        assert (found - x).flatten(1).norm(dim=1).max() <= epsilon * (1 + 1e-5)
        assert found.min() >= -1e-6 and found.max() <= 1 + 1e-6

        def loss_at(images: torch.Tensor) -> torch.Tensor:
            scores = model((images[:, None] + noise).flatten(0, 1)).softmax(1).unflatten(0, (6, 2)).mean(1)
            return -scores.gather(1, y[:, None])[:, 0].log()

        with torch.no_grad():
            assert torch.all(loss_at(found) > loss_at(x))
    assert (found - x).flatten(1).norm(dim=1).max() > 1.0, "a large ball is used"


def test_the_attack_leaves_statistics_modes_and_gradients_alone(noisy_batch):
    x, y, noise = noisy_batch
    model = build_model("small_cnn", (1, 28, 28), 10).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = smoothadv.attack(model, x, y, noise, smoothadv.Settings(epsilon=0.5, noise_samples=2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    assert not found.requires_grad and x.grad is None and not x.requires_grad


def test_a_flat_loss_moves_nothing_and_gives_no_nan(noisy_batch):
    x, y, noise = noisy_batch
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    nn.init.zeros_(model[1].weight)
    found = smoothadv.attack(model, x, y, noise, smoothadv.Settings(epsilon=0.5, noise_samples=2))
    assert torch.equal(found, x)


def test_the_smoothadv_loss_is_the_cross_entropy_on_attacked_images_under_the_same_noise(noisy_batch):
    x, y, noise = noisy_batch
    model = build_model("small_cnn", (1, 28, 28), 10).eval()
    settings = smoothadv.Settings(epsilon=0.5, attack_steps=2, noise_samples=2)
    loss, scores = smoothadv.loss(model, x, y, noise, torch.full((6,), 0.25), settings)
    attacked = smoothadv.attack(model, x, y, noise, settings)
    terms = [F.cross_entropy(model(attacked[i : i + 1] + noise[i, j]), y[i : i + 1]) for i in range(6) for j in range(2)]
    assert torch.allclose(loss, torch.stack(terms).mean(), atol=1e-6)
    assert scores.shape == (12, 10) and not scores.requires_grad
    assert smoothadv.noise_samples(settings) == 2


# augmentation


def test_no_augmentation_returns_the_images(noisy_batch):
    assert loop.augment(noisy_batch[0], "none", torch.Generator()) is noisy_batch[0]


@pytest.mark.parametrize("kind", ["flip", "crop-flip"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 24)], ids=str)
def test_augmentation_repeats_from_a_generator_and_varies(kind: str, shape: tuple[int, int, int]):
    x = torch.rand(64, *shape)
    first, second = (loop.augment(x, kind, torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == x.shape and first.dtype == x.dtype
    assert torch.equal(first, second)
    assert not torch.equal(first, loop.augment(x, kind, torch.Generator().manual_seed(2)))


def test_flips_mirror_about_half_of_the_images_left_to_right():
    x = torch.rand(400, 1, 4, 6)
    found = loop.augment(x, "flip", torch.Generator().manual_seed(0))
    same = (found == x).flatten(1).all(1)
    mirrored = (found == x.flip(-1)).flatten(1).all(1)
    assert torch.all(same ^ mirrored) and 150 < int(mirrored.sum()) < 250


def test_crops_are_windows_of_the_padded_image_all_offsets_occur():
    x = torch.rand(2000, 1, 5, 7) + 0.1
    found = loop.augment(x, "crop-flip", torch.Generator().manual_seed(0))
    padded = F.pad(x, (4, 4, 4, 4))
    offsets = set()
    for i in range(len(x)):
        matches = [
            (row, column)
            for row in range(9)
            for column in range(9)
            for window in [padded[i, :, row : row + 5, column : column + 7]]
            if torch.equal(found[i], window) or torch.equal(found[i], window.flip(-1))
        ]
        assert matches
        if len(matches) == 1:
            offsets.add(matches[0])
    assert offsets == {(row, column) for row in range(9) for column in range(9)}


# errors


def test_divergence_ends_the_run_in_one_line(small_mnist: Path, tmp_path: Path):
    settings = TrainSettings(epochs=2, batch_size=20, learning_rate=1e30)
    with pytest.raises(DdrsError, match=r"training diverged in epoch 1: the loss is (nan|inf); lower learning_rate") as error:
        train_fs(small_mnist, tmp_path, settings)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "fs.safetensors").exists()


def test_divergence_in_the_last_step_is_not_saved_as_a_model(small_mnist: Path, tmp_path: Path):
    settings = TrainSettings(epochs=1, batch_size=200, learning_rate=1e38, weight_decay=1e3)
    with pytest.raises(DdrsError, match="diverged"):
        train_fs(small_mnist, tmp_path, settings)
    assert not (tmp_path / "fs.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": "cohn"}, "method 'cohn': unknown; known are cohen, smoothadv"),
        ({"architecture": "vgg"}, "architecture 'vgg': unknown; known are small_cnn, resnet18"),
        ({"sigma": -0.25}, "sigma = -0.25: must be a finite number > 0"),
        ({"sigma": 0.0}, "sigma = 0.0: must be a finite number > 0"),
        ({"sigma": float("nan")}, "sigma = nan: must be a finite number > 0"),
        ({"method": "smoothadv"}, "loss of smoothadv: epsilon: Field required"),
        ({"settings": SETTINGS.model_copy(update={"loss": {"epsilon": 1.0}})}, "loss: unknown setting 'epsilon' of cohen; allowed are none"),
        (
            {"method": "smoothadv", "settings": SETTINGS.model_copy(update={"loss": {"epsilo": 1.0}})},
            r"loss: unknown setting 'epsilo' of smoothadv \(did you mean 'epsilon'\?\); allowed are epsilon, attack_steps, noise_samples",
        ),
        (
            {"method": "smoothadv", "settings": SETTINGS.model_copy(update={"loss": {"epsilon": -1.0}})},
            "loss of smoothadv: epsilon: Input should be greater than 0",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(more: dict, message: str, small_mnist: Path, tmp_path: Path):
    with pytest.raises(DdrsError, match=message) as error:
        train_fs(small_mnist, tmp_path, **more)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "fs.safetensors").exists()


def test_a_step_schedule_without_milestones_is_an_error_of_the_settings():
    with pytest.raises(DdrsError, match="milestones"):
        TrainSettings.checked(epochs=1, schedule="step", milestones=[])


def test_finetuning_starts_within_the_bounds_of_the_search(small_mnist: Path, fs_run: Path, tmp_path: Path):
    with pytest.raises(DdrsError, match=r"0\.25"):
        train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", fs_run / "fs.branch.pt", step=StepSettings(sigma_max=0.1))
