"""The steps that need torch, from files to files: load and check everything, then work, then publish the output whole."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ddrs import models
from ddrs.certification.engine import certify_each
from ddrs.certification.records import COLUMNS, format_line, read_complete_lines
from ddrs.config import SampleSettings, SearchSettings, StepSettings, TrainSettings
from ddrs.data import Split, as_float, load_split
from ddrs.errors import DdrsError
from ddrs.files import atomic, publish, require
from ddrs.noise import NoiseStream, get_noise, stream_key
from ddrs.options import Runtime
from ddrs.provenance import digest, file_digest, write_sidecar
from ddrs.registry import load as load_registered
from ddrs.sigma import ascent
from ddrs.training import METHODS, loop

Say = Callable[[str], None]


def train(
    data: Path,
    out: Path,
    branch_out: Path | None,
    method: str,
    architecture: str,
    sigma: float,
    settings: TrainSettings,
    noise: str,
    seed: int,
    runtime: Runtime,
    say: Say,
) -> None:
    """Fixed-sigma training."""
    device = _prepare(runtime)
    check_sigma(sigma)
    split = load_split(data, "train")
    load_registered("method", METHODS, method)
    settings.loss_settings(method)
    torch.manual_seed(stream_key(seed, "train", "init") % 2**63)
    model = models.build_model(architecture, split.shape, split.classes)
    run = loop.start_run(model, len(split.labels), sigma, settings, seed, device)
    facts = {
        "architecture": architecture,
        "shape": list(split.shape),
        "classes": split.classes,
        "dataset": split.dataset,
        "method": method,
        "regime": "fs",
        "sigma": sigma,
        "noise": noise,
        "seed": seed,
        "settings": settings.model_dump(),
        "data": split.digest,
    }
    _train(run, split, StepSettings(), facts, out, branch_out, settings.branch_epoch or settings.epochs, runtime, say, {"data": str(data)})


def finetune(
    data: Path,
    model: Path,
    branch: Path | None,
    out: Path,
    settings: TrainSettings,
    step: StepSettings,
    noise: str,
    seed: int,
    runtime: Runtime,
    say: Say,
) -> None:
    """DS2 training, from a finished fixed-sigma model or from the state where its run branches."""
    device = _prepare(runtime)
    split = load_split(data, "train")
    start = models.read_facts(model)
    _fits(model, start, split)
    settings.loss_settings(start["method"])
    run = loop.start_run(models.load_model(model), len(split.labels), start["sigma"], settings, seed, device)
    if branch is not None:
        loop.load_state(branch, run)
        if run.epoch >= settings.epochs:
            raise DdrsError(f"{branch}: was saved after epoch {run.epoch}, nothing is left of {settings.epochs}; set branch_epoch lower")
    facts = {
        **start,
        "regime": "ds2",
        "noise": noise,
        "seed": seed,
        "settings": settings.model_dump(),
        "step": step.model_dump(),
        "start": file_digest(branch or model),
        "data": split.digest,
    }
    _train(run, split, step, facts, out, None, 0, runtime, say, {"data": str(data), "model": str(model)})


def _train(
    run: loop.Run,
    split: Split,
    step: StepSettings,
    facts: dict,
    out: Path,
    branch_out: Path | None,
    branch_epoch: int,
    runtime: Runtime,
    say: Say,
    inputs: dict[str, str],
) -> None:
    started = time.time()
    device = models.device_of(run.model)
    settings = TrainSettings(**facts["settings"])
    partial = runtime.scratch / f"train-{digest(facts)}.pt"
    if partial.exists():
        loop.load_state(partial, run)
        say(f"resuming after epoch {run.epoch} of {settings.epochs} from {partial}")

    def after_epoch(current: loop.Run) -> None:
        if branch_out is not None and current.epoch == branch_epoch:
            loop.save_state(branch_out, current)
        loop.save_state(partial, current)

    images = torch.tensor(as_float(split.images), device=device)
    labels = torch.tensor(split.labels, device=device)
    loop.train(run, images, labels, facts["method"], facts["regime"], settings, step, get_noise(facts["noise"]), after_epoch, say)
    models.save_model(out, run.model, {**facts, "mean_sigma": round(float(run.sigmas.double().mean()), 6)})
    partial.unlink(missing_ok=True)
    write_sidecar(runtime.sidecar, facts, inputs, started, str(device))


def search(
    model: Path, data: Path, out: Path, settings: SearchSettings, split: str, images: int | None, noise: str, seed: int, runtime: Runtime, say: Say
) -> None:
    """Algorithm 1 on a split; one row per image and K."""
    started = time.time()
    device = _prepare(runtime)
    law = get_noise(noise)
    part = load_split(data, split)
    facts = models.read_facts(model)
    _fits(model, facts, part)
    net = models.load_model(model).to(device)
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

        found = ascent.search(net, x, sigma0, streams, law, settings, progress)
        paths.append(found.sigma.numpy())
        at_min, at_max = at_min + found.at_min, at_max + found.at_max
        before = ascent.mean_class(net, x, torch.full((len(x),), sigma0, device=device), streams)
        changed += int((before != ascent.mean_class(net, x, found.sigma[-1].to(device), streams)).sum())
    trajectory = np.concatenate(paths, axis=1)  # (k_max + 1, images)
    say(f"{changed} of {len(indices)} images change class between sigma_0 = {sigma0} and sigma* at K = {settings.k_max}")
    say(f"{at_min} touched sigma_min = {settings.sigma_min}, {at_max} touched sigma_max = {settings.sigma_max}")
    say(f"sigma* at K = {settings.k_max}: {trajectory[-1].min():.4f} to {trajectory[-1].max():.4f}, mean {trajectory[-1].mean():.4f}")
    made = {
        "settings": settings.model_dump(exclude={"batch_size"}),
        "noise": noise,
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


def certify(
    model: Path,
    data: Path,
    out: Path,
    settings: SampleSettings,
    sigma: float | None,
    sigmas: Path | None,
    k: int | None,
    split: str,
    images: int | None,
    batch_size: int | None,
    times: Path | None,
    seed: int,
    runtime: Runtime,
    say: Say,
) -> None:
    """Certify a split, at one sigma or at the K-th step of a stored trajectory."""
    started = time.time()
    device = _prepare(runtime)
    if (sigma is None) == (sigmas is None) or (sigmas is None) != (k is None):
        raise DdrsError("certify: give either --sigma, or --sigmas with --k")
    part = load_split(data, split)
    facts = models.read_facts(model)
    _fits(model, facts, part)
    net = models.load_model(model).to(device)
    indices = part.subset(images)
    if sigma is not None:
        check_sigma(sigma)
        scale, sigma0, row = {int(i): sigma for i in indices}, sigma, "fs"
    else:
        assert sigmas is not None and k is not None
        scale, sigma0 = read_sigmas(sigmas, k, indices)
        row = "ds2" if facts["regime"] == "ds2" else "ds"
    inputs = {"model": file_digest(model), "data": part.digest, "sigmas": file_digest(sigmas) if sigmas else f"{sigma:.9g}"}
    made = {**settings.model_dump(), "seed": seed, "split": split, "K": k, "inputs": inputs}
    constant = {
        **settings.model_dump(),
        "dataset": part.dataset,
        "split": split,
        "method": facts["method"] if row == "fs" else f"{facts['method']}-{row}",
        "sigma0": f"{sigma0:.9g}",
        "K": "" if k is None else k,
        "seed": seed,
        "digest": digest(made),
    }
    header = "\t".join(COLUMNS)
    partial = runtime.scratch / f"certify-{constant['digest']}.tsv"
    partial.parent.mkdir(parents=True, exist_ok=True)
    if not partial.exists():
        partial.write_text(header + "\n", encoding="utf-8")
    done = {int(line.split("\t", 1)[0]): line for line in read_complete_lines(partial)}
    if done:
        say(f"resuming: {len(done)} images are in {partial}")
    left = [int(i) for i in indices if int(i) not in done]
    x = torch.tensor(as_float(part.images[left]))
    each = certify_each(
        net,
        x,
        np.array([scale[i] for i in left], np.float32),
        settings.n0,
        settings.n,
        settings.alpha,
        noise=get_noise(settings.noise),
        seed=seed,
        split=split,
        example_ids=left,
        batch_size=batch_size,
    )
    last = time.perf_counter()
    with open(partial, "a", encoding="utf-8") as file:
        for number, (i, found) in enumerate(zip(left, each, strict=True), start=len(indices) - len(left) + 1):
            label = int(part.labels[i])
            fields = {
                **constant,
                "idx": i,
                "label": label,
                "predict": int(found.prediction),
                "radius": found.radius,
                "correct": int(found.prediction == label),
                "sigma": scale[i],
                "n_top": int(found.n_top),
                "p_lower": found.p_lower,
            }
            done[i] = format_line(fields)
            file.write(done[i] + "\n")
            file.flush()
            seconds, last = time.perf_counter() - last, time.perf_counter()
            _append_time(times, i, seconds)
            if number % max(1, len(indices) // 10) == 0 or number == len(indices):
                say(f"{number}/{len(indices)} images, {(len(indices) - number) * seconds:.0f} s left")
    whole = "\n".join([header, *(done[int(i)] for i in indices)]) + "\n"
    partial.write_text(whole, encoding="utf-8")
    publish(partial, out)
    write_sidecar(runtime.sidecar, made, {"model": str(model), "data": str(data), "sigmas": str(sigmas)}, started, str(device))


def read_sigmas(path: Path, k: int, indices: np.ndarray) -> tuple[dict[int, float], float]:
    """sigma* of each image after k steps, and sigma_0. DdrsError if the file is damaged or lacks the step or an image."""
    require(path, "sigma file")
    try:
        table = pq.read_table(path, filters=[("K", "=", k)])
        facts = json.loads((table.schema.metadata or {})[b"ddrs"])
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise DdrsError(f"{path}: not a readable sigma file ({' '.join(str(error).split())[:200]})") from None
    found = dict(zip(table["idx"].to_pylist(), table["sigma_star"].to_pylist(), strict=True))
    if not found:
        raise DdrsError(f"{path}: has no step K = {k}; it holds 0 to {facts['settings']['k_max']}")
    missing = [int(i) for i in indices if int(i) not in found]
    if missing:
        raise DdrsError(f"{path}: has no sigma for idx {missing[0]} ({len(missing)} of {len(indices)} images are missing)")
    return found, float(facts["sigma0"])


def check_sigma(sigma: float) -> None:
    """DdrsError unless sigma is a finite number > 0."""
    if not (np.isfinite(sigma) and sigma > 0):
        raise DdrsError(f"sigma = {sigma}: must be a finite number > 0")


def _prepare(runtime: Runtime) -> torch.device:
    torch.set_num_threads(runtime.threads)
    return models.resolve_device(runtime.device)


def _fits(path: Path, facts: dict, split: Split) -> None:
    for what, has, wants in (("classes", facts["classes"], split.classes), ("image shape", tuple(facts["shape"]), split.shape)):
        if has != wants:
            raise DdrsError(f"{path}: a model for {what} {has}, but {split.dataset} has {wants}")


def _append_time(path: Path | None, idx: int, seconds: float) -> None:
    if path is None:
        return
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.write(("idx\tseconds\n" if new else "") + f"{idx}\t{seconds:.6f}\n")
