"""The one training loop: the loss is the method, and how the sigma of an example moves is the regime; both are plug-ins."""

import math
import time
from collections.abc import Callable

import torch

from ddrs.errors import DdrsError
from ddrs.models.running import exact_kernels
from ddrs.noise.laws import Noise
from ddrs.sigma.settings import StepSettings
from ddrs.training.augmentation import augment
from ddrs.training.batches import BatchSource, Resident
from ddrs.training.losses import METHODS
from ddrs.training.precision import in_precision
from ddrs.training.regimes import REGIMES
from ddrs.training.settings import TrainSettings
from ddrs.training.state import TrainingRun

KEEP_SECONDS = 600.0  # between two states of a run that are kept within an epoch, which on ImageNet takes hours


def train(
    run: TrainingRun,
    images: BatchSource | torch.Tensor,
    labels: torch.Tensor,
    method: str,
    regime: str,
    settings: TrainSettings,
    step: StepSettings,
    noise: Noise,
    keep: Callable[[TrainingRun], None],
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
            loss_values = loss_settings.at_epoch(run.epoch)
            order = run.order.split(settings.batch_size)
            todo = order[run.batches :]
            for batch, pixels in zip(todo, source.batches(todo), strict=True):
                x, y = augment(pixels, settings.augment, run.generators["augment"]), labels[batch.to(labels.device)]
                sigma = run.sigmas[batch].to(labels.device)
                sigma = regime_module.sigmas(model, x, y, sigma, step, noise, run.generators["search"], run.epoch)
                run.sigmas[batch] = sigma.cpu()
                eps = torch.empty(len(x), loss_module.noise_samples(loss_values), *x.shape[1:], device=x.device)
                noise.draw(eps, run.generators["noise"])
                loss, scores = loss_module.loss(model, x, y, eps * sigma.view(-1, *[1] * (eps.ndim - 1)), sigma, loss_values)
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
