"""Samples per second of ddrs, of the field's common loop and of the Adversarial Robustness Toolbox, on the same model and image.

    pip install adversarial-robustness-toolbox
    python bench/throughput.py [--device cuda] > bench/throughput.md

All run in one process and take turns, so that a busy machine slows all of them; a rate is the best of the rounds, a ratio is of these. GEMM
peak is the best float32 product of two square matrices in the same process, of the precision's type on a GPU. The models are untrained:
the time of a forward pass does not depend on the weights.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from math import ceil

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ddrs
from ddrs.models.architectures import build_model

SIGMA, CLASSES = 0.5, 10
CASES = {"small_cnn": ((1, 28, 28), {"cpu": 50_000, "cuda": 100_000}), "resnet18": ((3, 32, 32), {"cpu": 600, "cuda": 100_000})}


def common_loop(model: nn.Module, x: torch.Tensor, n: int, batch_size: int = 1000) -> np.ndarray:
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


def toolbox(model: nn.Module, x: torch.Tensor, n: int) -> Callable[[], object]:
    """ART's randomized smoothing of the same model; its `certify` draws sample_size + n samples."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    kind = "gpu" if x.is_cuda else "cpu"
    smoothed = PyTorchRandomizedSmoothing(
        model, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape), nb_classes=CLASSES, sample_size=100, scale=SIGMA, alpha=0.001, device_type=kind
    )
    image = x[None].cpu().numpy()
    return lambda: smoothed.certify(image, n=n - 100, batch_size=1000)


def gemm_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of a few products of square matrices."""
    size = 2048 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=dtype)
    return max(2 * size**3 / seconds(lambda: a @ a, device) for _ in range(10))


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, its work on the device included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    device = torch.device(given.device)
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    precisions = ["float32"] if device.type == "cpu" else ["float32", "tf32", "bfloat16", "bfloat16-compiled"]
    place = f"{given.threads} CPU threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    print(f"{place}, torch {torch.__version__}, best of {given.rounds} rounds (`bench/throughput.py`).\n")
    print("| model | certifier | samples/s | ratio to the common loop | of GEMM peak |\n| --- | --- | --- | --- | --- |")
    for name, (shape, samples) in CASES.items():
        model = build_model(name, shape, CLASSES).eval().to(device)
        compare(name, model, torch.randint(0, 256, shape).float().div(255).to(device), samples[device.type], precisions, given.rounds)


def compare(name: str, model: nn.Module, x: torch.Tensor, n: int, precisions: list[str], rounds: int) -> None:
    """Print a line of the table for each certifier, all of n samples of one image."""
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        model(x[None])
    tools: dict[str, tuple[Callable[[], object], torch.dtype]] = {
        "common loop": (lambda: common_loop(model, x, n), torch.float32),
        "adversarial-robustness-toolbox": (toolbox(model, x, n), torch.float32),
    }
    for precision in precisions:
        size = probed(model, tuple(x.shape), precision, x.device)
        for noise in ("gaussian", "lattice"):
            run = partial(ddrs.certify, model, x, SIGMA, 100, n - 100, noise=noise, precision=precision, batch_size=size)
            tools[f"ddrs, {noise}, {precision}"] = (run, torch.bfloat16 if "bfloat16" in precision else torch.float32)
    peaks = {dtype: gemm_peak(x.device, dtype) for dtype in {dtype for _, dtype in tools.values()}}
    best = dict.fromkeys(tools, 0.0)
    for _ in range(rounds):
        for tool, (run, _) in tools.items():
            best[tool] = max(best[tool], n / seconds(run, x.device))
    for tool, (_, dtype) in tools.items():
        share = best[tool] * flops.get_total_flops() / peaks[dtype]
        print(f"| {name} | {tool} | {best[tool]:,.0f} | {best[tool] / best['common loop']:.2f} | {share:.0%} |", flush=True)


def probed(model: nn.Module, shape: tuple[int, ...], precision: str, device: torch.device) -> int:
    """The batch size that `ddrs certify` would choose, once per architecture and device."""
    from ddrs.certification.inference import best_batch_size, running

    with running(model, shape, precision) as scores:
        return best_batch_size(scores[0], int(np.prod(shape)), device)


if __name__ == "__main__":
    main()
