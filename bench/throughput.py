"""What share of a machine's forward passes become certified samples: ddrs beside the best plain loop, the field's loop and a public toolbox.

    pip install adversarial-robustness-toolbox
    python bench/throughput.py [--device cuda] > bench/throughput.md

Four models, one image each, on one thread and on all. Candidates run in one process and take turns, so that a busy machine slows all of them; a
rate is the median of the rounds, a ratio the median of each round's. The measure is the *forward pass alone*: of the model as ddrs lays it out,
in as many threads, on images that are neither drawn nor counted. The *best plain loop* is the fastest of batches of 64 to 1,024 in both memory
formats, with the model as it is or with BatchNorm folded: what a careful user writes in ten lines. The models are untrained: the time
of a pass does not depend on the weights.

Then, but with --no-scaling, what work costs: seconds per sample against n, values and classes, beside the forward pass.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import ceil

import numpy as np
import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

import ddrs
from ddrs.certification.inference import running, usual_batch_size
from ddrs.models.architectures import build_model
from ddrs.noise import kernels

SIGMA, CLASSES = 0.5, 10


def plain_cnn() -> nn.Module:
    """Convolutions of 16, 32 and 32 channels without BatchNorm."""
    convolutions: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 32)):
        convolutions += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(32 * 9, CLASSES))


def normed_cnn() -> nn.Module:
    """Convolutions of 24, 48 and 96 channels with BatchNorm."""
    convolutions: list[nn.Module] = []
    for before, after in ((3, 24), (24, 48), (48, 96)):
        convolutions += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(96 * 16, CLASSES))


class SmallViT(nn.Module):
    """A vision transformer of four layers of width 128 on patches of 4 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(3, 128, 4, 4), nn.Parameter(0.02 * torch.randn(1, 64, 128))
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True, norm_first=True)
        self.layers, self.head = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False), nn.Linear(128, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.patches(x).flatten(2).transpose(1, 2) + self.places).mean(1))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {  # and samples of a round for each CPU thread
    "conv 16-32-32, no BatchNorm, 28x28": (plain_cnn, (1, 28, 28), 20_000),
    "conv 24-48-96, BatchNorm, 32x32x3": (normed_cnn, (3, 32, 32), 20_000),
    "ResNet-18, 32x32x3": (lambda: build_model("resnet18", (3, 32, 32), CLASSES), (3, 32, 32), 1000),
    "vision transformer, 32x32x3": (SmallViT, (3, 32, 32), 4000),
}


def field_loop(model: nn.Module, x: torch.Tensor, n: int, batch_size: int = 1000) -> np.ndarray:
    """The loop of locuslab/smoothing (core.py), from which most certifiers of the field descend, line by line."""
    counts = np.zeros(CLASSES, dtype=int)
    with torch.no_grad():
        for _ in range(ceil(n / batch_size)):
            this_batch_size = min(batch_size, n)
            n -= this_batch_size
            batch = x.repeat((this_batch_size, 1, 1, 1))
            noise = torch.randn_like(batch) * SIGMA
            predictions = model(batch + noise).argmax(1)
            for index in predictions.cpu().numpy():
                counts[index] += 1
    return counts


@torch.inference_mode()
def plain_loop(model: nn.Module, x: torch.Tensor, n: int, batch_size: int, layout: torch.memory_format) -> torch.Tensor:
    """A loop that a careful user writes."""
    counts = torch.zeros(CLASSES, dtype=torch.int64, device=x.device)
    noise = torch.empty(batch_size, *x.shape, device=x.device).to(memory_format=layout)
    for start in range(0, n, batch_size):
        predictions = model(noise.normal_().mul_(SIGMA).add_(x)).argmax(1)[: n - start]
        counts += torch.bincount(predictions, minlength=CLASSES)
    return counts


def best_plain_loop(model: nn.Module, x: torch.Tensor, n: int) -> tuple[str, Callable[[int], object]]:
    """The fastest of the plain loops, on some n samples each, short ones twice; its words and itself, as a function of n."""
    found: dict[str, tuple[float, Callable[[int], object]]] = {}
    folded = any(isinstance(one, nn.BatchNorm2d) for one in model.modules())
    for words, layout in (("NCHW", torch.contiguous_format), ("channels_last", torch.channels_last)):
        for net, how in [(model, words), *([(fuse(model), f"{words}, folded")] if folded else [])]:
            laid_out: nn.Module = copy.deepcopy(net).to(memory_format=layout)  # type: ignore[call-overload]
            for size in (64, 128, 256, 512, 1024):
                run = partial(plain_loop, laid_out, x, batch_size=size, layout=layout)
                count = size * max(1, n // size)
                run(size)
                took = seconds(lambda: run(count), x.device)  # noqa: B023
                if took < 1:
                    took = min(took, seconds(lambda: run(count), x.device))  # noqa: B023
                found[f"batch {size}, {how}"] = took / count, run
    best = min(found, key=lambda name: found[name][0])
    return best, found[best][1]


def toolbox(model: nn.Module, x: torch.Tensor) -> Callable[[int], object]:
    """ART's randomized smoothing of the same model; its `certify` draws sample_size + n samples."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    kind = "gpu" if x.is_cuda else "cpu"
    smoothed = PyTorchRandomizedSmoothing(
        model, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape), nb_classes=CLASSES, sample_size=100, scale=SIGMA, alpha=0.001, device_type=kind
    )
    image = x[None].cpu().numpy()
    return lambda n: smoothed.certify(image, n=n - 100, batch_size=1000)


def forward_passes(model: nn.Module, x: torch.Tensor, n: int) -> None:
    """Passes of the model as ddrs runs it, on images that lie there, in as many threads as there are copies."""
    with running(model, tuple(x.shape), "float32") as scores:
        size = usual_batch_size(scores[0], x.numel(), x.device)
        images = [torch.rand(size, x.numel(), device=x.device) for _ in scores]
        passes = [range(i, ceil(n / size), len(scores)) for i in range(len(scores))]

        def work(i: int) -> None:
            for _ in passes[i]:
                scores[i](images[i])

        with ThreadPoolExecutor(len(scores)) as pool:
            list(pool.map(work, range(len(scores))))


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, its work on the device included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(name: str, threads: int, rounds: int, device: torch.device, samples: int | None, with_toolbox: bool) -> None:
    """Print a line for each candidate, all of one image."""
    build, shape, usual = MODELS[name]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, x = build().eval().to(device), torch.randint(0, 256, shape).float().div(255).to(device)
    n = samples or usual * threads
    best, loop = best_plain_loop(model, x, max(512, n // 8))
    candidates: dict[str, tuple[Callable[[int], object], int]] = {
        "forward pass alone": (partial(forward_passes, model, x), n),
        f"best plain loop ({best})": (loop, n),
        "field's loop (batch 1,000, NCHW)": (partial(field_loop, model, x), n),
        **({"adversarial-robustness-toolbox": (toolbox(model, x), n)} if with_toolbox else {}),
        "**ddrs**": (lambda count: ddrs.certify(model, x, SIGMA, 100, count - 100), n),
        "ddrs, gaussian": (lambda count: ddrs.certify(model, x, SIGMA, 100, count - 100, noise="gaussian"), n),
        "best plain loop, n = 2,000": (loop, 2000),
        "ddrs, n = 2,000": (lambda count: ddrs.certify(model, x, SIGMA, 100, count - 100), 2000),
    }
    rates: dict[str, list[float]] = {one: [] for one in candidates}
    for _ in range(rounds):
        for one, (run, count) in candidates.items():
            rates[one].append(count / seconds(lambda: run(count), device))  # noqa: B023
    for one, found in rates.items():
        rivals = ["forward pass alone", f"best plain loop ({best})" if "2,000" not in one else "best plain loop, n = 2,000"]
        ratios = [statistics.median(mine / theirs for mine, theirs in zip(found, rates[rival], strict=True)) for rival in rivals]
        print(f"| {name} | {threads} | {one} | {statistics.median(found):,.0f} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)


def scaling(device: torch.device) -> None:
    """What a sample costs on one thread: a linear model of d values, so that noise and counting show."""
    torch.set_num_threads(1)
    print("\n| n | values | classes | us per sample | forward pass alone |\n| --- | --- | --- | --- | --- |")
    for n, d, classes in [
        *((n, 784, 10) for n in (10**3, 10**4, 10**5, 10**6)),
        *((max(500, min(10**5, 10**8 // d)), d, 10) for d in (10**2, 10**4, 10**5, 10**6)),
        *((10**5, 784, classes) for classes in (2, 100, 1000)),
    ]:
        model, x = nn.Linear(d, classes).eval().to(device), torch.randint(0, 256, (d,)).float().div(255).to(device)
        ours, forward = (
            statistics.median(seconds(lambda: run(n), device) for _ in range(3)) / n  # noqa: B023
            for run in (lambda count: ddrs.certify(model, x, SIGMA, 100, count - 100), partial(forward_passes, model, x))  # noqa: B023
        )
        print(f"| {n:,} | {d:,} | {classes:,} | {1e6 * ours:.2f} | {1e6 * forward:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, torch.get_num_threads()])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--samples", type=int)
    parser.add_argument("--no-scaling", action="store_true")
    given = parser.parse_args()
    device = torch.device(given.device)
    kernels.chosen(kernels.AFTER)  # as in a process that has drawn for some seconds
    try:
        import art
    except ImportError:
        art = None
    place = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"{place}, torch {torch.__version__}, medians of {given.rounds} rounds (`bench/throughput.py`).\n")
    print("| model | threads | what runs | samples/s | of the forward pass | of the best plain loop |\n| --- | --- | --- | --- | --- | --- |")
    for name in given.models:
        for threads in given.threads:
            compare(name, threads, given.rounds, device, given.samples, art is not None)
    if not given.no_scaling:
        scaling(device)


if __name__ == "__main__":
    main()
