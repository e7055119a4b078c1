"""A training run between two batches: started, saved, restored."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ddrs.errors import DdrsError
from ddrs.files import require, sealed, unsealed, write_bytes
from ddrs.noise.streams import torch_generator
from ddrs.training.settings import TrainSettings


@dataclass
class TrainingRun:
    """A training run between two batches: all that its future depends on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generators: dict[str, torch.Generator]
    scaler: torch.amp.GradScaler  # of float16; does nothing in other precisions
    sigmas: torch.Tensor  # float32 (training images,), on the CPU
    epoch: int = 0  # epochs that are done
    order: torch.Tensor | None = None  # of the images in the epoch under way; None between two epochs
    batches: int = 0  # of that epoch that are done
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0])  # over these: the sum of the losses, and how many were predicted right

    def state(self) -> dict:
        """Everything as tensors and plain values, so that it loads with weights_only=True."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {k: v for k, v in self.schedule.state_dict().items() if not callable(v)},
            "generators": {name: generator.get_state() for name, generator in self.generators.items()},
            "scaler": self.scaler.state_dict(),
            "sigmas": self.sigmas,
            "epoch": self.epoch,
            "order": self.order,
            "batches": self.batches,
            "totals": self.totals,
        }

    def restore(self, state: dict) -> None:
        """The inverse of `state`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        for name, generator in self.generators.items():
            generator.set_state(state["generators"][name])
        self.scaler.load_state_dict(state["scaler"])
        self.sigmas = state["sigmas"]
        self.epoch, self.order, self.batches, self.totals = state["epoch"], state["order"], state["batches"], state["totals"]


def start_run(model: nn.Module, images: int, sigma0: float, settings: TrainSettings, seed: int, device: torch.device, regime: str) -> TrainingRun:
    """A run at epoch 0, every example's sigma at sigma0.

    A run of each regime draws from streams of its own; a restored one goes on with those it had. Weights lie in channels_last order, which
    convolutions are fastest in.
    """
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer: torch.optim.Optimizer
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), rate, weight_decay=decay)
    else:
        nesterov = settings.optimizer == "nesterov"
        optimizer = torch.optim.SGD(model.parameters(), rate, settings.momentum, weight_decay=decay, nesterov=nesterov)
    generators = {
        "order": torch_generator(seed, "train", regime, "order"),
        "augment": torch_generator(seed, "train", regime, "augment"),
        "noise": torch_generator(seed, "train", regime, "noise", device=device),
        "search": torch_generator(seed, "search", "train", regime, device=device),
    }
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
    return TrainingRun(model, optimizer, _schedule(optimizer, settings), generators, scaler, torch.full((images,), sigma0))


def _schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings) -> torch.optim.lr_scheduler.LRScheduler:
    schedules = torch.optim.lr_scheduler
    if settings.schedule == "step":
        return schedules.StepLR(optimizer, settings.milestones[0], settings.gamma)
    if settings.schedule == "multistep":
        return schedules.MultiStepLR(optimizer, settings.milestones, settings.gamma)
    if settings.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, settings.epochs)
    return schedules.ConstantLR(optimizer, factor=1.0)


def packed(run: TrainingRun) -> bytes:
    """A run's state as the content of a file, sealed; the bytes repeat."""
    buffer = io.BytesIO()
    torch.save(run.state(), buffer)
    return sealed(buffer.getvalue())


def save_state(path: Path, run: TrainingRun) -> None:
    """Write a run's state, atomically."""
    write_bytes(path, packed(run))


def read_state(path: Path) -> dict | None:
    """What `save_state` wrote; None if there is no file. DamagedError if its bytes are others, DdrsError if it is none of ours."""
    content = unsealed(path)
    if content is None:
        return None
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for what is no state
        raise _unreadable(path, error) from None


def load_state(path: Path, run: TrainingRun) -> None:
    """Continue a saved run. DamagedError if the file's bytes are not those that were written; DdrsError if it is missing or of another run."""
    state = read_state(require(path, "training state"))
    assert state is not None
    go_on(path, run, state)


def go_on(path: Path, run: TrainingRun, state: dict) -> None:
    """Continue the saved run that `path` holds. DdrsError if it is of another."""
    try:
        if len(state["sigmas"]) != len(run.sigmas):
            raise DdrsError(f"{path}: a run on {len(state['sigmas'])} training images, not {len(run.sigmas)}")
        kept, streams = (len(generators["noise"]) for generators in (state["generators"], run.state()["generators"]))
        if kept != streams:
            raise DdrsError(f"{path}: was saved on another kind of device, between which random streams do not move; go on there, or train anew")
        run.restore(state)
    except DdrsError:
        raise
    except Exception as error:  # another model's keys, shapes or optimizer raise many kinds
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DdrsError:
    return DdrsError(f"{path}: not a readable training state of this run ({' '.join(str(error).split())[:200]})")
