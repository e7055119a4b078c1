"""The sigma search from files to files: `ddrs sigma`."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ddrs.config import SearchSettings
from ddrs.data import as_float
from ddrs.files import atomic
from ddrs.models import load_with_data
from ddrs.noise import NoiseStream, get_noise
from ddrs.options import Runtime, prepare
from ddrs.provenance import digest, file_digest, write_sidecar
from ddrs.registry import load
from ddrs.sigma import STRATEGIES
from ddrs.sigma.ascent import mean_class


def search(
    model: Path,
    data: Path,
    out: Path,
    settings: SearchSettings,
    split: str,
    images: int | None,
    seed: int,
    runtime: Runtime,
    say: Callable[[str], None],
) -> None:
    """One strategy's search on a split; one row per image and K."""
    started = time.time()
    strategy = load("strategy", STRATEGIES, settings.strategy)
    device = prepare(runtime)
    net, facts, part = load_with_data(model, data, split, device)
    law = get_noise(facts["noise"])
    indices = part.subset(images)
    sigma0 = float(facts["sigma"])
    paths, at_min, at_max, changed = [], 0, 0, 0
    for start in range(0, len(indices), settings.batch_size):
        chunk = indices[start : start + settings.batch_size]
        x = torch.tensor(as_float(part.images[chunk]), device=device)
        streams = [NoiseStream(law, part.shape, seed, "search", split, int(i)) for i in chunk]

        def progress(k: int, first: int = start, size: int = len(chunk)) -> None:
            if k % 100 == 0 or k == settings.k_max:
                say(f"images {first + 1} to {first + size} of {len(indices)}: step {k}/{settings.k_max}")

        found = strategy.search(net, x, sigma0, streams, law, settings, progress)
        paths.append(found.sigma.numpy())
        at_min, at_max = at_min + found.at_min, at_max + found.at_max
        before = mean_class(net, x, torch.full((len(x),), sigma0, device=device), streams)
        changed += int((before != mean_class(net, x, found.sigma[-1].to(device), streams)).sum())
    trajectory = np.concatenate(paths, axis=1)  # (k_max + 1, images)
    say(f"{changed} of {len(indices)} images change class between sigma_0 = {sigma0} and sigma* at K = {settings.k_max}")
    say(f"{at_min} touched sigma_min = {settings.sigma_min}, {at_max} touched sigma_max = {settings.sigma_max}")
    say(f"sigma* at K = {settings.k_max}: {trajectory[-1].min():.4f} to {trajectory[-1].max():.4f}, mean {trajectory[-1].mean():.4f}")
    made = {
        "settings": settings.model_dump(),
        "row": strategy.ROW,
        "noise": law.name,
        "seed": seed,
        "split": split,
        "dataset": part.dataset,
        "sigma0": sigma0,
        "model": file_digest(model),
        "data": part.digest,
    }
    table = pa.table(
        {
            "idx": np.repeat(indices.astype(np.int32), settings.k_max + 1),
            "K": np.tile(np.arange(settings.k_max + 1, dtype=np.int32), len(indices)),
            "sigma_star": np.ascontiguousarray(trajectory.T).ravel(),
        }
    )
    report = {"digest": digest(made), **made, "changed_class": changed, "at_min": at_min, "at_max": at_max}
    with atomic(out) as temporary:
        pq.write_table(table.replace_schema_metadata({"ddrs": json.dumps(report, sort_keys=True)}), temporary)
    write_sidecar(runtime.sidecar, made, {"model": str(model), "data": str(data)}, started, str(device))
