"""Why the shipped config searches with `objective_class: fixed`: ACR on validation images, never test images.

    python bench/objective_class.py > bench/objective_class.md

Needs the model of a finished run. Algorithm 1 with one sample per step picks the class again in each step, so each confident sample counts
as a certificate of whatever it votes for; Equation 3 keeps the class of sigma_0, and more samples per step average the votes.
"""

from pathlib import Path

import numpy as np
import torch

from ddrs.certification.engine import certify
from ddrs.data.splits import as_float, load_split
from ddrs.models.checkpoints import load_model
from ddrs.noise.laws import get_noise
from ddrs.noise.streams import NoiseStream
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.strategies.ascent import search

MODEL, SIGMA, IMAGES, STEPS = "results/models/mnist5k/cohen/fs/sigma_1.00.safetensors", 1.0, 100, (300, 900)


def main() -> None:
    torch.set_num_threads(1)
    split, model, noise = load_split(Path("data/mnist5k/manifest.json"), "validation"), load_model(MODEL), get_noise("gaussian")
    ids = [int(i) for i in split.subset(IMAGES)]
    x, labels = torch.tensor(as_float(split.images[ids])), split.labels[ids]

    def acr(sigma: float | torch.Tensor) -> float:
        found = certify(model, x, sigma, 100, 2500, split="validation", example_ids=ids)
        return float(np.mean(found.radius * (found.prediction == labels)))

    print(f"ACR of `{MODEL}` on {IMAGES} validation images, n = 2,500, alpha = 0.001 (`bench/objective_class.py`).\n")
    print("| samples per step | class | K | mean sigma* | ACR |\n| --- | --- | --- | --- | --- |")
    print(f"| | | 0 | {SIGMA:.3f} | {acr(SIGMA):.3f} |", flush=True)
    for samples, kind in ((1, "current"), (1, "fixed"), (8, "current")):
        streams = [NoiseStream(noise.at(1.0), split.shape, 0, "search", "validation", i) for i in ids]
        settings = SearchSettings(k_max=max(STEPS), samples=samples, objective_class=kind)
        trajectory = search(model, x, SIGMA, streams, noise, settings).sigma
        for k in STEPS:
            print(f"| {samples} | {kind} | {k} | {trajectory[k].mean():.3f} | {acr(trajectory[k]):.3f} |", flush=True)


if __name__ == "__main__":
    main()
