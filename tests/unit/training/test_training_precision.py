"""Training in lower precision: what is computed in it, what is not, that it resumes to equal bytes, and what only a GPU shows."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from ddrs.errors import DdrsError
from ddrs.models.architectures import build_model
from ddrs.models.checkpoints import load_model
from ddrs.models.devices import Runtime
from ddrs.models.running import evaluating, exact_kernels
from ddrs.noise.laws import get_noise
from ddrs.sigma import objective
from ddrs.training import state as training_state
from ddrs.training.losses import macer, smoothadv
from ddrs.training.precision import Mixed, in_precision
from ddrs.training.run import finetune, train
from ddrs.training.settings import RegimeSettings, TrainSettings

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
HALF = [("bfloat16", torch.bfloat16), ("float16", torch.float16)]
STEP = RegimeSettings(step_size=0.01, samples=2)


class KilledError(Exception):
    pass


def dies_in(epoch: int):
    def say(line: str) -> None:
        if line.startswith(f"epoch {epoch}/"):
            raise KilledError

    return say


def run_of(data: Path, folder: Path, precision: str, say=lambda line: None, device: str = "cpu", **more) -> Path:
    given = {"epochs": 3, "batch_size": 50, "learning_rate": 0.05, "schedule": "constant", "precision": precision, **more}
    runtime = Runtime(scratch=folder / "scratch", device=device)
    train(data, folder / "m.safetensors", None, "cohen", "small_cnn", 0.25, TrainSettings(**given), 0, runtime, say)
    return folder / "m.safetensors"


@pytest.fixture
def watched() -> Iterator[tuple[nn.Module, list[torch.dtype]]]:
    """A small_cnn and the types of what its convolutions give."""
    torch.manual_seed(0)
    model, seen = build_model("small_cnn", (1, 28, 28), 10), []
    hooks = [one.register_forward_hook(lambda *given: seen.append(given[2].dtype)) for one in model.modules() if isinstance(one, nn.Conv2d)]
    yield model, seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_float32_runs_the_model_itself(precision: str) -> None:
    model = nn.Linear(2, 2)
    assert in_precision(model, precision) is model


@pytest.mark.parametrize(("precision", "dtype"), HALF)
def test_loss_attack_and_ascent_run_in_it_and_end_in_float32(precision: str, dtype: torch.dtype, watched) -> None:
    model, seen = watched
    mixed = in_precision(model, precision)
    x, y, sigma = torch.rand(6, 1, 28, 28), torch.arange(6), torch.full((6,), 0.5)
    noise = 0.5 * torch.randn(6, 2, 1, 28, 28)
    attacked = smoothadv.attack(mixed, x, y, noise, smoothadv.Settings(epsilon=0.5))
    with evaluating(mixed):
        moved = objective.step(mixed, x, sigma, noise, get_noise("gaussian"), STEP)
    loss, scores = macer.loss(mixed, x, y, noise, sigma, macer.Settings(k=2))
    loss.backward()
    assert len(seen) == 3 * (2 + 1 + 1) and set(seen) == {dtype}
    assert {one.dtype for one in (attacked, moved, loss, scores)} == {torch.float32}
    assert not torch.equal(attacked, x) and torch.all(moved != sigma)
    assert all(p.dtype == torch.float32 and p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_modes_are_those_of_the_model() -> None:
    model = build_model("small_cnn", (1, 28, 28), 10).eval()
    mixed = Mixed(model, torch.bfloat16)
    assert not mixed.training
    mixed.train()
    with evaluating(mixed):
        assert not any(one.training for one in mixed.modules())
    assert model.training and all(one.training for one in mixed.modules())


def test_in_float16_a_small_gradient_gets_back_to_the_images() -> None:
    """At a confident label the gradient of -log softmax is below float16's smallest number."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Linear(64, 3)
    nn.init.normal_(network.weight, std=0.02, generator=generator)
    network.bias.data = torch.tensor([16.0, 0.0, 0.0])
    x = torch.rand(4, 64, generator=generator)

    def gradient(model: nn.Module) -> torch.Tensor:
        at = x.clone().requires_grad_()
        return torch.autograd.grad(nn.functional.cross_entropy(model.eval()(at), torch.zeros(4, dtype=torch.long)), at)[0]

    expected, found = gradient(network), gradient(Mixed(network, torch.float16))
    assert expected.abs().max() < 6e-8
    assert torch.all(nn.functional.cosine_similarity(expected, found) > 0.99)
    assert torch.allclose(found.norm(dim=1), expected.norm(dim=1), rtol=0.2)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_run_learns_and_is_another_than_in_float32(precision: str, small_mnist: Path, tmp_path: Path) -> None:
    said: list[str] = []
    found = load_model(run_of(small_mnist, tmp_path / "a", precision, said.append, epochs=6, batch_size=20))
    whole = load_model(run_of(small_mnist, tmp_path / "b", "float32", epochs=6, batch_size=20))
    accuracy = [float(line.split("noisy accuracy ")[1].split()[0]) for line in said]
    assert accuracy[-1] > 70 > accuracy[0]
    assert all(value.dtype == whole.state_dict()[name].dtype for name, value in found.state_dict().items())
    assert not torch.equal(found[0].weight, whole[0].weight)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_killed_run_resumes_to_equal_bytes(precision: str, small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float16 the scale of the gradients is part of the state: here it begins so high that the first steps overflow and are left out."""
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**20))
    whole = run_of(small_mnist, tmp_path / "whole", precision).read_bytes()
    with pytest.raises(KilledError):
        run_of(small_mnist, tmp_path / "killed", precision, dies_in(2))
    (state,) = (tmp_path / "killed" / "scratch").iterdir()
    scaler = torch.load(state, weights_only=True)["scaler"]
    assert scaler == {} if precision == "bfloat16" else 1 < scaler["scale"] < 2.0**20
    said: list[str] = []
    assert run_of(small_mnist, tmp_path / "killed", precision, said.append).read_bytes() == whole
    assert said[0].startswith("resuming after epoch 1 of 3 from")


def test_ds2_runs_in_it(small_mnist: Path, tmp_path: Path) -> None:
    model = run_of(small_mnist, tmp_path, "bfloat16", epochs=1)
    sigmas = []
    for precision in ("bfloat16", "float32"):
        settings = TrainSettings(epochs=1, batch_size=50, precision=precision)
        out = tmp_path / f"{precision}.safetensors"
        finetune(small_mnist, model, None, out, settings, STEP, 0, Runtime(scratch=tmp_path / "scratch"), lambda line: None)
        sigmas.append(load_model(out)[0].weight)
    assert not torch.equal(*sigmas)


def test_tf32_needs_a_gpu_and_says_so_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(DdrsError, match=r"^precision 'tf32': needs a CUDA device$"):
        run_of(tmp_path / "absent.json", tmp_path, "tf32")
    with pytest.raises(DdrsError, match="precision: Input should be 'float32', 'tf32', 'bfloat16' or 'float16'"):
        TrainSettings.checked(epochs=1, precision="bf16")


def test_weights_lie_in_channels_last_on_a_cpu_too() -> None:
    """Another memory format changes the bytes of every model that is trained on one."""
    run = training_state.start_run(build_model("small_cnn", (3, 28, 28), 10), 4, 0.25, TrainSettings(epochs=1), 0, torch.device("cpu"), "fs")
    kernels = [p for p in run.model.parameters() if p.ndim == 4]
    assert kernels and all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)
    assert not all(p.is_contiguous() for p in kernels)


@GPU
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float16"])
def test_a_run_on_a_gpu_learns_and_resumes_to_equal_bytes(precision: str, small_mnist: Path, tmp_path: Path) -> None:
    said: list[str] = []
    whole = run_of(small_mnist, tmp_path / "whole", precision, said.append, "cuda", epochs=8)
    assert float(said[-1].split("noisy accuracy ")[1].split()[0]) > 70
    with pytest.raises(KilledError):
        run_of(small_mnist, tmp_path / "killed", precision, dies_in(3), "cuda", epochs=8)
    assert run_of(small_mnist, tmp_path / "killed", precision, device="cuda", epochs=8).read_bytes() == whole.read_bytes()


@GPU
def test_a_gpu_has_channels_last_weights_and_exact_kernels() -> None:
    device = torch.device("cuda")
    run = training_state.start_run(build_model("small_cnn", (3, 28, 28), 10), 4, 0.25, TrainSettings(epochs=1), 0, device, "fs")
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in run.model.parameters() if p.ndim == 4)
    for precision, allowed in (("float32", False), ("tf32", True), ("bfloat16", False)):
        with exact_kernels(device, precision):
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == allowed
            assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
