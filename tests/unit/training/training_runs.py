"""Short training runs on files, and how they are killed."""

from pathlib import Path

from ddrs.models.devices import Runtime
from ddrs.training.run import finetune, train
from ddrs.training.settings import RegimeSettings, TrainSettings

SETTINGS = TrainSettings(epochs=3, batch_size=40, learning_rate=0.05, schedule="cosine", augment="crop-flip", branch_epoch=1)
STEP = RegimeSettings(step_size=0.01, samples=2)


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
