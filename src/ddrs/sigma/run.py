"""The sigma search from files to files: `ddrs sigma`."""

import json
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ddrs.data.splits import as_float
from ddrs.files import DamagedError, atomic, sealed, unsealed, write_bytes
from ddrs.models import own
from ddrs.models.checkpoints import load_with_data
from ddrs.models.devices import Runtime, machine, prepare
from ddrs.noise.laws import get_noise
from ddrs.noise.streams import NoiseStream
from ddrs.provenance.code import code_digest
from ddrs.provenance.digests import digest, file_digest
from ddrs.provenance.sidecar import write_sidecar
from ddrs.rows import FIXED, kind_of
from ddrs.sections import SplitName
from ddrs.sigma.objective import mean_class
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.stored import check_sigmas, content_digest
from ddrs.sigma.strategies import STRATEGIES


class Found(NamedTuple):
    """What the search of one batch found: float32 (K+1, B), and how many of its images touched a bound or changed class."""

    sigma: np.ndarray
    at_min: int
    at_max: int
    changed: int


def search(
    model: Path,
    data: Path,
    out: Path,
    settings: SearchSettings,
    split: SplitName,
    images: int | None,
    seed: int,
    runtime: Runtime,
    say: Callable[[str], None],
    architecture: str | None = None,
) -> None:
    """One strategy's search on a split; one row per image and K. A killed search resumes after its last finished batch.

    architecture: as of `load_model`.
    """
    started = time.time()
    strategy, settings = STRATEGIES.module(settings.strategy), settings.of_strategy()
    device = prepare(runtime)
    net, facts, part = load_with_data(model, data, split, device, architecture)
    law = get_noise(facts["noise"])
    indices = part.subset(images)
    sigma0 = float(facts["sigma"])
    made = {
        "settings": settings.model_dump(),
        "row": kind.name if (kind := kind_of(FIXED.trained, settings.strategy)) else settings.strategy,
        "noise": law.name,
        "seed": seed,
        "split": split,
        "dataset": part.dataset,
        "sigma0": sigma0,
        "model": file_digest(model),
        "data": part.digest,
    }
    code = [code_digest("sigma", f"{STRATEGIES[settings.strategy]}:search", without="ddrs.rows"), own.code(facts["architecture"])]
    partial = runtime.scratch / f"sigma-{digest([made, len(indices), code, machine(runtime, device)])}"
    starts = range(0, len(indices), settings.batch_size)
    # files, and no folder of them: another process at the same work, which is done first, removes what it knows and nothing else
    files = {start: partial.with_suffix(f".{start}.npz") for start in starts}
    done = {start: batch for start in starts if (batch := _read(files[start], start, say)) is not None}
    if done:
        say(f"resuming: {sum(batch.sigma.shape[1] for batch in done.values())} images are in {partial}.*.npz")
    for start in starts:
        if start in done:
            continue
        chunk = indices[start : start + settings.batch_size]
        x = torch.tensor(as_float(part.images[chunk]), device=device)
        streams = [NoiseStream(law.at(1.0), part.shape, seed, "search", split, int(i)) for i in chunk]

        def progress(k: int, first: int = start, size: int = len(chunk)) -> None:
            if k % 100 == 0 or k == settings.k_max:
                say(f"images {first + 1} to {first + size} of {len(indices)}: step {k}/{settings.k_max}")

        found = strategy.search(net, x, sigma0, streams, law, settings, progress)
        before = mean_class(net, x, torch.full((len(x),), sigma0, device=device), streams)
        changed = int((before != mean_class(net, x, found.sigma[-1].to(device), streams)).sum())
        done[start] = Found(found.sigma.numpy(), found.at_min, found.at_max, changed)
        content = BytesIO()
        np.savez(content, start=start, **done[start]._asdict())
        write_bytes(files[start], sealed(content.getvalue()))
    paths, *counts = zip(*(done[start] for start in starts), strict=True)
    at_min, at_max, changed = (sum(of_batches) for of_batches in counts)
    trajectory = np.concatenate(paths, axis=1)  # (k_max + 1, images)
    say(f"{changed} of {len(indices)} images change class between sigma_0 = {sigma0} and sigma* at K = {settings.k_max}")
    say(f"{at_min} touched sigma_min = {settings.sigma_min}, {at_max} touched sigma_max = {settings.sigma_max}")
    say(f"sigma* at K = {settings.k_max}: {trajectory[-1].min():.4f} to {trajectory[-1].max():.4f}, mean {trajectory[-1].mean():.4f}")
    table = pa.table(
        {
            "idx": np.repeat(indices.astype(np.int32), settings.k_max + 1),
            "K": np.tile(np.arange(settings.k_max + 1, dtype=np.int32), len(indices)),
            "sigma_star": np.ascontiguousarray(trajectory.T).ravel(),
        }
    )
    report = {"digest": digest(made), **made, "device": device.type, "changed_class": changed, "at_min": at_min, "at_max": at_max}
    check_sigmas(out, table, report)
    report["content"] = content_digest(table, report)
    with atomic(out) as temporary:
        pq.write_table(table.replace_schema_metadata({"ddrs": json.dumps(report, sort_keys=True)}), temporary)
    for file in files.values():
        file.unlink(missing_ok=True)
    write_sidecar(runtime.sidecar, made, {"model": str(model), "data": str(data)}, started, str(device))


def _read(path: Path, start: int, say: Callable[[str], None]) -> Found | None:
    """The finished batch that begins at image `start`; None if there is none, or a damaged one or another's, which is then searched again."""
    try:
        content = unsealed(path)
    except DamagedError as error:
        say(f"{error}; searching its images again")
        return None
    if content is None:
        return None
    with np.load(BytesIO(content)) as file:
        if int(file["start"]) != start:
            say(f"{path}: is of the images from {int(file['start'])} on; searching its images again")
            return None
        return Found(file["sigma"], int(file["at_min"]), int(file["at_max"]), int(file["changed"]))
