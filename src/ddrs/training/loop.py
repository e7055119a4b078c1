"""The one training loop: the loss is the method, and how the sigma of an example moves is the regime; both are plug-ins."""

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ddrs.config import StepSettings, TrainSettings
from ddrs.errors import DdrsError
from ddrs.files import require, sealed, unsealed, write_bytes
from ddrs.models import exact_kernels
from ddrs.noise import Noise, torch_generator
from ddrs.training.images import Images, Resident
from ddrs.training.losses import METHODS
from ddrs.training.precision import in_precision
from ddrs.training.regimes import REGIMES

KEEP_SECONDS = 600.0  # between two states of a run that are kept within an epoch, which on ImageNet takes hours


@dataclass
class Run:
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


def start_run(model: nn.Module, images: int, sigma0: float, settings: TrainSettings, seed: int, device: torch.device, regime: str) -> Run:
    """A run at epoch 0, every example's sigma at sigma0.

    A run of each regime draws from streams of its own; a restored one goes on with those it had. On a GPU weights lie in channels_last order,
    which convolutions are fastest in.
    """
    model.to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
    return Run(model, optimizer, _schedule(optimizer, settings), generators, scaler, torch.full((images,), sigma0))


def _schedule(optimizer: torch.optim.Optimizer, settings: TrainSettings) -> torch.optim.lr_scheduler.LRScheduler:
    schedules = torch.optim.lr_scheduler
    if settings.schedule == "step":
        return schedules.StepLR(optimizer, settings.milestones[0], settings.gamma)
    if settings.schedule == "multistep":
        return schedules.MultiStepLR(optimizer, settings.milestones, settings.gamma)
    if settings.schedule == "cosine":
        return schedules.CosineAnnealingLR(optimizer, settings.epochs)
    return schedules.ConstantLR(optimizer, factor=1.0)


def train(
    run: Run,
    images: Images | torch.Tensor,
    labels: torch.Tensor,
    method: str,
    regime: str,
    settings: TrainSettings,
    step: StepSettings,
    noise: Noise,
    keep: Callable[[Run], None],
    report: Callable[[str], None],
) -> None:
    """Train until settings.epochs, from wherever the run stands.

    images: float32 (N, C, H, W) in [0, 1], on the run's device, or what hands out such batches; labels: int64 (N,), on the run's device. Before
    each batch the regime says the sigma of its examples, from those that they had in the last epoch; the loss then uses them. step: the settings of
    the regime. keep is called with the run after each epoch, and within one after KEEP_SECONDS; report with a line of text.

    On a CPU equal calls end in equal bytes, resumed or not, for each number of threads. On a GPU convolutions and matrix products repeat too:
    kernels are chosen without benchmarks and deterministic; but what torch has no other kernel for (the gradient of overlapping
    max-pooling, as in ResNet-50's stem) may round differently in a second run.
    """
    loss_module, regime_module = METHODS.module(method), REGIMES.module(regime)
    loss_settings = settings.loss_settings(method)
    source = Resident(images) if isinstance(images, torch.Tensor) else images
    model = in_precision(run.model, settings.precision)
    count = len(labels)
    started, first, kept = time.perf_counter(), run.epoch, time.monotonic()
    model.train()
    with exact_kernels(labels.device, settings.precision):
        while run.epoch < settings.epochs:
            if run.order is None:
                run.order = torch.randperm(count, generator=run.generators["order"])
            own = loss_settings.at_epoch(run.epoch)
            order = run.order.split(settings.batch_size)
            todo = order[run.batches :]
            for batch, pixels in zip(todo, source.batches(todo), strict=True):
                x, y = augment(pixels, settings.augment, run.generators["augment"]), labels[batch.to(labels.device)]
                sigma = run.sigmas[batch].to(labels.device)
                sigma = regime_module.sigmas(model, x, y, sigma, step, noise, run.generators["search"], run.epoch)
                run.sigmas[batch] = sigma.cpu()
                eps = torch.empty(len(x), loss_module.noise_samples(own), *x.shape[1:], device=x.device)
                noise.fill(eps, run.generators["noise"])
                loss, scores = loss_module.loss(model, x, y, eps * sigma.view(-1, *[1] * (eps.ndim - 1)), sigma, own)
                value, repeats = loss.item(), len(scores) // len(y)
                if not math.isfinite(value):
                    raise DdrsError(f"training diverged in epoch {run.epoch + 1}: the loss is {value}; lower learning_rate")
                run.totals[0] += value * len(x)
                run.totals[1] += int((scores.argmax(1) == y.repeat_interleave(repeats)).sum()) / repeats
                run.optimizer.zero_grad(set_to_none=True)
                run.scaler.scale(loss).backward()
                run.scaler.step(run.optimizer)
                run.scaler.update()
                run.batches += 1
                if time.monotonic() - kept >= KEEP_SECONDS and run.batches < len(order):
                    keep(run)
                    report(f"epoch {run.epoch + 1}/{settings.epochs}: {run.batches:,} of {len(order):,} batches")
                    kept = time.monotonic()
            run.schedule.step()
            run.epoch += 1
            left = (time.perf_counter() - started) / (run.epoch - first) * (settings.epochs - run.epoch)
            low, high, mean = run.sigmas.min(), run.sigmas.max(), run.sigmas.mean()
            report(
                f"epoch {run.epoch}/{settings.epochs}: loss {run.totals[0] / count:.4f}, noisy accuracy {100 * run.totals[1] / count:.1f} %, "
                f"sigma {low:.4f} to {high:.4f} (mean {mean:.4f}), {left:.0f} s left"
            )
            run.order, run.batches, run.totals = None, 0, [0.0, 0.0]
            keep(run)
            kept = time.monotonic()
    if not all(bool(torch.isfinite(value).all()) for value in run.model.state_dict().values()):
        raise DdrsError("training diverged: the model has weights that are not finite; lower learning_rate")
    run.model.eval()


def augment(x: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """Random crops of the image padded by 4 (crop-flip) and horizontal flips (flip, crop-flip), each image on its own."""
    if kind == "none":
        return x
    size, (height, width) = len(x), x.shape[-2:]
    if kind == "crop-flip":
        corner = torch.randint(0, 9, (2, size), generator=generator).to(x.device)
        rows = corner[0][:, None] + torch.arange(height, device=x.device)
        columns = corner[1][:, None] + torch.arange(width, device=x.device)
        padded = F.pad(x, (4, 4, 4, 4)).permute(0, 2, 3, 1)
        x = padded[torch.arange(size, device=x.device)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    flip = (torch.rand(size, generator=generator) < 0.5).to(x.device)
    return torch.where(flip.view(-1, 1, 1, 1), x.flip(-1), x)


def packed(run: Run) -> bytes:
    """A run's state as the content of a file, sealed; the bytes repeat."""
    buffer = io.BytesIO()
    torch.save(run.state(), buffer)
    return sealed(buffer.getvalue())


def save_state(path: Path, run: Run) -> None:
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


def load_state(path: Path, run: Run) -> None:
    """Continue a saved run. DamagedError if the file's bytes are not those that were written; DdrsError if it is missing or of another run."""
    state = read_state(require(path, "training state"))
    assert state is not None
    go_on(path, run, state)


def go_on(path: Path, run: Run, state: dict) -> None:
    """Continue the saved run that `path` holds. DdrsError if it is of another."""
    try:
        if len(state["sigmas"]) != len(run.sigmas):
            raise DdrsError(f"{path}: a run on {len(state['sigmas'])} training images, not {len(run.sigmas)}")
        kept, own = (len(generators["noise"]) for generators in (state["generators"], run.state()["generators"]))
        if kept != own:
            raise DdrsError(f"{path}: was saved on another kind of device, between which random streams do not move; go on there, or train anew")
        run.restore(state)
    except DdrsError:
        raise
    except Exception as error:  # another model's keys, shapes or optimizer raise many kinds
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DdrsError:
    return DdrsError(f"{path}: not a readable training state of this run ({' '.join(str(error).split())[:200]})")
