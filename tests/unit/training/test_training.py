"""Training: the per-example sigmas of DS2, branching, methods, and what goes wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddrs.errors import DdrsError
from ddrs.models.checkpoints import read_facts
from ddrs.noise.laws import get_noise
from ddrs.training import loop
from ddrs.training import state as training_state
from ddrs.training.losses import cohen, macer, yang
from ddrs.training.settings import RegimeSettings, TrainSettings
from tests.unit.training.training_runs import SETTINGS, STEP, quiet, train_ds2, train_fs

GAUSSIAN = get_noise("gaussian")


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
    save_state = training_state.save_state
    monkeypatch.setattr(training_state, "save_state", lambda path, run: (sigmas.append(run.sigmas.clone()), save_state(path, run)))
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
    monkeypatch.setattr(training_state, "save_state", lambda path, run: sigmas.append(run.sigmas.clone()))
    step = RegimeSettings(step_size=5.0, samples=1, sigma_min=0.2, sigma_max=0.3)
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


def recorded_run(regime: str, method: str, loss: dict, sigmas: torch.Tensor, step: RegimeSettings = STEP, epochs: int = 1):
    """Train Constant on 12 images, each of one value, (i + 1) / 100; noise that is all ones shows each image's sigma."""

    class Ones:
        name, norm, radius = "ones", "l2", None
        objective = staticmethod(GAUSSIAN.objective)

        def draw(self, out, generator):
            out.fill_(1.0)

    images = ((torch.arange(12) + 1) / 100).view(12, 1, 1, 1).expand(12, 1, 2, 2).contiguous()
    labels = torch.arange(12) % 2
    settings = TrainSettings(epochs=epochs, batch_size=5, loss=loss)
    model = Constant()
    run = training_state.start_run(model, 12, 0.5, settings, 0, torch.device("cpu"), regime)
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
    run, images = recorded_run(regime, "macer", {"k": k}, start, RegimeSettings(step_size=0.01, samples=8))
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
    step = RegimeSettings(step_size=0.01, samples=3)
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
    step = RegimeSettings(step_size=1e-30)
    out = train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", fs_run / "fs.branch.pt", step=step)
    from ddrs.models.checkpoints import load_model

    fixed, branched = load_model(fs_run / "fs.safetensors").state_dict(), load_model(out).state_dict()
    assert all(torch.equal(fixed[name], branched[name]) for name in fixed)


def test_finetuning_a_trained_model_starts_from_its_weights_at_epoch_0(small_mnist: Path, fs_run: Path, tmp_path: Path):
    from ddrs.models.checkpoints import load_model

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
    out = train_ds2(small_mnist, tmp_path, model, None, settings.model_copy(update={"epochs": 1}), step=RegimeSettings(step_size=0.01, samples=8))
    facts = read_facts(out)
    assert (facts["method"], facts["regime"], facts["noise"], facts["step"]["samples"]) == ("macer", "ds2", "gaussian", 8)
    assert facts["mean_sigma"] != 0.25


def test_yang_trains_with_uniform_noise(small_mnist: Path, tmp_path: Path, monkeypatch):
    """One draw per image, evenly spread over [-1, 1]; the model records which noise it is for."""
    seen: list[torch.Tensor] = []
    uniform = type(get_noise("uniform"))
    draw = uniform.draw
    monkeypatch.setattr(uniform, "draw", lambda self, out, generator: (draw(self, out, generator), seen.append(out.clone()))[0])
    model = train_fs(small_mnist, tmp_path, TrainSettings(epochs=1, batch_size=100), method="yang", sigma=0.5)
    noise = torch.cat([one.flatten() for one in seen])
    assert noise.abs().max() <= 1 and noise.abs().mean() == pytest.approx(0.5, abs=0.01) and len(noise) == 200 * 784
    assert (read_facts(model)["noise"], read_facts(model)["sigma"]) == ("uniform", 0.5)
    assert (yang.loss, yang.noise_samples(yang.Settings())) == (cohen.loss, 1)


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
        ({"method": "cohn"}, r"method 'cohn': unknown \(did you mean 'cohen'\?\); known are cohen, .*macer, smoothadv, yang"),
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
        train_ds2(small_mnist, tmp_path, fs_run / "fs.safetensors", fs_run / "fs.branch.pt", step=RegimeSettings(sigma_max=0.1))
