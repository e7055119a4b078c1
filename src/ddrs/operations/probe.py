"""Timing the work of a verb on a device, on newly built models and random images: what `ddrs plan` multiplies."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ddrs.certification.engine import certify_each
from ddrs.certification.inference import best_batch_size, running
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.models.architectures import build_model
from ddrs.models.layout import laid_out
from ddrs.models.running import evaluating
from ddrs.models.tangents import tangents_of
from ddrs.noise.laws import certifiable_noise, get_noise
from ddrs.noise.streams import BLOCK, NoiseStream
from ddrs.rows import FIXED
from ddrs.sigma import objective
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.strategies import STRATEGIES
from ddrs.training import loop, state
from ddrs.training.settings import RegimeSettings, TrainSettings

FORWARD, IMAGE_GRADIENT, UPDATE = 1, 2, 3  # the cost of a pass, in forward passes: alone, back to the image, back to weights and activations
OF_OBJECTIVE = (
    "ascent",
    "grid",
)  # strategies on the objective of Algorithm 1, in one pass for a step of a whole batch; others count theirs themselves
COUNTED = 8  # images whose class is looked for together: what a call of many costs once is then shared
COPIES = 8192  # noisy copies of images that a probe of another strategy holds at most, as its samples are many and it passes them in parts
REPEATS = 3  # measurements of which the fastest counts, after one to warm up
PROBE_SIGMA = 0.5
CPU_PROBE = 2e10  # FLOPs of one measured step on a CPU: about a second; a batch above it is probed in part, as it gains nothing there


@dataclass(frozen=True)
class Network:
    """What a forward pass costs depends on. shape: (C, H, W) of one image."""

    architecture: str
    shape: tuple[int, int, int]
    classes: int

    def build(self, device: torch.device) -> nn.Module:
        """A newly initialised one."""
        return build_model(self.architecture, self.shape, self.classes).to(device)


class Probe(Protocol):
    """Something to be timed; equal probes are timed once."""

    def seconds(self, device: torch.device) -> float:
        """Seconds per unit of work."""
        ...


@dataclass(frozen=True)
class Certification:
    """Times one sample of a certificate: noise, forward pass and vote."""

    network: Network
    noise: str
    precision: str

    def seconds(self, device: torch.device) -> float:
        """Per sample, of a real `certify_each` at the batch size that `ddrs certify` would choose."""
        model, shape = self.network.build(device), self.network.shape
        with running(model, shape, self.precision) as scores:
            size, threads = best_batch_size(scores[0], torch.Size(shape).numel(), device), len(scores)
        images = torch.randint(256, ((REPEATS + 1) * threads, *shape)) / 255
        # n0 and n fill a batch each, so an image takes two; those that threads end together are not timed one by one
        settings = ImageCertificateSettings.checked(n0=size, n=size, precision=self.precision)
        sigmas, laws = np.full(len(images), PROBE_SIGMA, np.float32), [certifiable_noise(self.noise)] * len(images)
        ids = range(len(images))
        each = certify_each(model, images, sigmas, settings, noises=laws, seed=0, split="", example_ids=ids, batch_size=size)
        ends = [time.perf_counter() for _ in each]
        return (ends[-1] - ends[threads - 1]) / (REPEATS * threads * 2 * size)


@dataclass(frozen=True)
class Search:
    """Times the search of one image's sigma, all steps."""

    network: Network
    noise: str
    settings: SearchSettings

    def seconds(self, device: torch.device) -> float:
        """Per image, from the time of a step of a batch, of the noise of a step and of finding a class.

        At most: of a new model no probability is clamped, so that each image is passed twice in a step.
        """
        model, shape, law, samples = self.network.build(device), self.network.shape, get_noise(self.noise), self.settings.samples
        size = self.batch_size(device)
        images, sigma = torch.rand(size, *shape, device=device), torch.full((size,), PROBE_SIGMA, device=device)
        stream, few = NoiseStream(law.at(1.0), shape, 0, "search", "", "probe"), min(size, COUNTED)
        eps = stream.draw(size * samples, device).unflatten(0, (size, samples))
        with evaluating(model):
            forwards, gradients = STRATEGIES.module(self.settings.strategy).evaluations(self.settings.of_strategy())
            passes = 0.0  # seconds of those of one image
            if forwards:
                laid = laid_out(model, shape, device.type == "cpu")  # as strategies without a gradient run it
                with torch.no_grad():
                    passes += forwards / (size * samples) * _timed(lambda: objective.objective(laid, images, sigma, eps, law, None))
            if gradients:
                net = tangents_of(model, shape) or model
                passes += gradients / (size * samples) * _timed(lambda: objective.step(net, images, sigma, eps, law, self.settings))
            find = _timed(lambda: objective.mean_class(model, images[:few], sigma[:few], [stream] * few)) / few
        draw = _timed(lambda: stream.draw(BLOCK, device)) / BLOCK
        return passes + (forwards + gradients) * draw + mean_classes(self.settings) * find

    def batch_size(self, device: torch.device) -> int:
        """How many images are timed at once."""
        size, samples = self.settings.batch_size, self.settings.samples
        if self.settings.strategy not in OF_OBJECTIVE:
            size = min(size, max(1, COPIES // samples))
        return _affordable(size, IMAGE_GRADIENT * samples, self.network, device)


def mean_classes(settings: SearchSettings) -> int:
    """How often `ddrs sigma` looks for an image's class with BLOCK samples: at both ends, and first of all where the objective is of a fixed one."""
    return 3 if settings.objective_class == "fixed" and settings.strategy in OF_OBJECTIVE else 2


@dataclass(frozen=True)
class Training:
    """Times one training image in one epoch. passes: with weight updates and with image gradients. step: where its regime is another than FS."""

    network: Network
    method: str
    noise: str
    passes: tuple[int, int]
    batch_size: int
    augment: str
    optimizer: str
    step: RegimeSettings | None
    settings: TrainSettings = field(compare=False)  # what else differs (an attack's radius, a learning rate) changes no time
    precision: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", self.settings.precision)  # of the settings, but of two probes a difference

    def seconds(self, device: torch.device) -> float:
        """Per image, of the real training loop on random images."""
        updates, gradients = self.passes
        size = _affordable(self.batch_size, UPDATE * updates + IMAGE_GRADIENT * gradients, self.network, device)
        # a learning rate so small that random labels do no harm
        made = {"epochs": REPEATS + 1, "batch_size": size, "branch_epoch": None, "learning_rate": 1e-6}
        settings, step = self.settings.model_copy(update=made), self.step or RegimeSettings.checked(regime=FIXED.trained)
        images = torch.rand(2 * size, *self.network.shape, device=device)
        labels = torch.randint(self.network.classes, (2 * size,), device=device)
        run = state.start_run(self.network.build(device), len(images), PROBE_SIGMA, settings, 0, device, step.regime)
        ends: list[float] = []
        noise, moves = get_noise(self.noise), step.of_regime()

        def keep(run: state.TrainingRun) -> None:
            if not run.batches:
                ends.append(time.perf_counter())

        loop.train(run, images, labels, self.method, step.regime, settings, moves, noise, keep, lambda line: None)
        return _fastest(ends) / len(images)


def _fastest(ends: Sequence[float]) -> float:
    return min(after - before for before, after in pairwise(ends))


def _timed(call: Callable[[], torch.Tensor]) -> float:
    """Seconds of the fastest of a few calls, after one to warm up."""
    ends = [time.perf_counter()]
    for _ in range(REPEATS + 1):
        call().flatten()[-1].item()  # waits for the device
        ends.append(time.perf_counter())
    return _fastest(ends[1:])


def _affordable(batch_size: int, forwards: int, network: Network, device: torch.device) -> int:
    """The batch size, on a CPU at most what a probe can afford; at least 2, as BatchNorm needs."""
    limit = CPU_PROBE / (forwards * flops_per_forward(network)) if device.type == "cpu" else batch_size
    return max(2, min(batch_size, int(limit)))


@lru_cache
def flops_per_forward(network: Network) -> int:
    """FLOPs of a forward pass of one image: 2 per multiply-add of convolutions and matrix products."""
    model = network.build(torch.device("cpu")).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *network.shape))
    return counter.get_total_flops()
