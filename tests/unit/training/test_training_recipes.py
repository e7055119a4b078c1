"""What the recipes of others need: Nesterov momentum, and an attack that grows over the first epochs."""

from pathlib import Path

import pytest
import torch

from ddrs.errors import DdrsError
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import read_facts
from ddrs.models.devices import Runtime
from ddrs.training import state
from ddrs.training.losses import METHODS, smoothadv
from ddrs.training.run import train
from ddrs.training.settings import TrainSettings


@pytest.mark.parametrize(("name", "nesterov"), [("sgd", False), ("nesterov", True)])
def test_momentum_is_the_one_that_is_asked_for(name: str, nesterov: bool) -> None:
    """Three steps on one weight, against the update rule of Sutskever et al. (2013) as torch states it, weight decay included."""
    settings = TrainSettings(epochs=1, optimizer=name, learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(2.0)
    run = state.start_run(model, 4, 0.25, settings, 0, torch.device("cpu"), "fs")
    weight, velocity = 2.0, 0.0
    for gradient in (1.0, -0.5, 0.25):
        model.weight.grad = torch.full((1, 1), gradient)
        run.optimizer.step()
        decayed = gradient + 0.01 * weight
        velocity = 0.9 * velocity + decayed
        weight -= 0.1 * (decayed + 0.9 * velocity if nesterov else velocity)
    assert model.weight.item() == pytest.approx(weight, rel=1e-6)


def test_nesterov_without_momentum_is_an_error() -> None:
    with pytest.raises(DdrsError, match=r"^optimizer: nesterov needs a momentum above 0$"):
        TrainSettings.checked(epochs=1, optimizer="nesterov", momentum=0.0)


@pytest.mark.parametrize(("warmup", "expected"), [(1, [0.5, 0.5, 0.5]), (2, [0.25, 0.5, 0.5]), (10, [0.05, 0.1, 0.15])])
def test_epsilon_grows_over_the_first_epochs(warmup: int, expected: list[float]) -> None:
    settings = TrainSettings(epochs=3, loss={"epsilon": 0.5, "warmup": warmup}).loss_settings("smoothadv")
    assert [settings.at_epoch(epoch).epsilon for epoch in range(3)] == pytest.approx(expected)
    assert settings.at_epoch(10**6).epsilon == 0.5 == settings.epsilon


@pytest.mark.parametrize("method", [name for name in METHODS if name != "smoothadv"])
def test_other_losses_are_the_same_in_every_epoch(method: str) -> None:
    settings = TrainSettings(epochs=1).loss_settings(method)
    assert settings.at_epoch(0) == settings.at_epoch(7) == settings


@pytest.mark.parametrize(("value", "message"), [(0, "greater than or equal to 1"), (1.5, "valid integer")])
def test_a_warmup_of_no_whole_epoch_is_an_error(value: float, message: str) -> None:
    with pytest.raises(DdrsError, match=f"^loss of smoothadv: warmup: Input should be .*{message}"):
        TrainSettings(epochs=1, loss={"epsilon": 0.5, "warmup": value}).loss_settings("smoothadv")


def test_a_resumed_run_goes_on_with_the_epsilon_of_its_epoch(small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    attack = smoothadv.attack
    monkeypatch.setattr(smoothadv, "attack", lambda *given: (used.append(given[-1].epsilon), attack(*given))[1])

    def run(name: str, say) -> bytes:
        settings = TrainSettings(epochs=4, batch_size=100, loss={"epsilon": 0.6, "warmup": 3, "attack_steps": 1})
        folder = tmp_path / name
        out, runtime = folder / "m.safetensors", Runtime(scratch=folder / "scratch")
        train(small_mnist, out, None, "smoothadv", "small_cnn", 0.25, settings, 0, runtime, say)
        assert read_facts(out)["settings"]["loss"] == {"epsilon": 0.6, "warmup": 3, "attack_steps": 1}
        return out.read_bytes()

    whole = run("whole", lambda line: None)
    assert used == pytest.approx([0.2, 0.2, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6])

    def dies(line: str) -> None:
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("killed", dies)
    used.clear()
    assert run("killed", lambda line: None) == whole
    assert used == pytest.approx([0.4, 0.4, 0.6, 0.6, 0.6, 0.6])


def test_an_optimizer_is_one_of_those_there_are() -> None:
    with pytest.raises(DdrsError, match="optimizer: Input should be 'sgd', 'nesterov' or 'adam'"):
        TrainSettings.checked(epochs=1, optimizer="lamb")
    run = state.start_run(build_model("small_cnn", (1, 28, 28), 10), 4, 0.25, TrainSettings(epochs=1), 0, torch.device("cpu"), "fs")
    assert isinstance(run.optimizer, torch.optim.SGD)
