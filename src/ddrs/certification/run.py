"""Certification from files to a log: `ddrs certify`."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ddrs import models
from ddrs.certification.engine import certify_each
from ddrs.certification.records import COLUMNS, format_line, resume_lines
from ddrs.config import SampleSettings
from ddrs.data import as_float, load_split
from ddrs.errors import DdrsError
from ddrs.files import naming, write_text
from ddrs.noise import check_sigma, get_noise
from ddrs.options import Runtime, prepare
from ddrs.provenance import code_digest, digest, file_digest, write_sidecar
from ddrs.sigma.files import read_sigmas


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
    say: Callable[[str], None],
) -> None:
    """Certify a split, at one sigma or at the K-th step of a stored trajectory."""
    started = time.time()
    device = prepare(runtime)
    if (sigma is None) == (sigmas is None) or (sigmas is None) != (k is None):
        raise DdrsError("certify: give either --sigma, or --sigmas with --k")
    part = load_split(data, split)
    facts = models.read_facts(model)
    models.check_fits(model, facts, part)
    noise = get_noise(facts["noise"])
    net = models.load_model(model).to(device)
    indices = part.subset(images)
    if sigma is not None:
        check_sigma(sigma)
        # a fixed sigma on a model of per-example training is no row of the paper
        scale, sigma0, row = {int(i): sigma for i in indices}, sigma, "fs" if facts["regime"] == "fs" else "ds2-fixed"
    else:
        assert sigmas is not None and k is not None
        scale, sigma0 = read_sigmas(sigmas, k, indices, {"model": file_digest(model), "data": part.digest, "split": split})
        row = "ds2" if facts["regime"] == "ds2" else "ds"
    inputs = {"model": file_digest(model), "data": part.digest, "sigmas": file_digest(sigmas) if sigmas else f"{sigma:.9g}"}
    made = {**settings.model_dump(), "noise": noise.name, "seed": seed, "split": split, "K": k, "inputs": inputs}
    constant = {
        **settings.model_dump(),
        "noise": noise.name,
        "dataset": part.dataset,
        "split": split,
        "method": facts["method"] if row == "fs" else f"{facts['method']}-{row}",
        "sigma0": f"{sigma0:.9g}",
        "K": "" if k is None else k,
        "seed": seed,
        "digest": digest(made),
    }
    header = "\t".join(COLUMNS)
    code = code_digest("certification", "sigma/files.py", "architectures.py", "models.py", "noise.py", "data.py")
    partial = runtime.scratch / f"certify-{digest([constant['digest'], code])}.tsv"
    done = resume_lines(partial, str(constant["digest"]))
    if done:
        say(f"resuming: {len(done)} images are in {partial}")
    elif times is not None:
        times.unlink(missing_ok=True)
    left = [int(i) for i in indices if int(i) not in done]
    x = torch.tensor(as_float(part.images[left]))
    each = certify_each(
        net,
        x,
        np.array([scale[i] for i in left], np.float32),
        settings.n0,
        settings.n,
        settings.alpha,
        noise=noise,
        seed=seed,
        split=split,
        example_ids=left,
        batch_size=batch_size,
    )
    begun = last = time.perf_counter()
    with naming(partial), open(partial, "a", encoding="utf-8") as file:
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
                remaining = (last - begun) / (number - len(indices) + len(left)) * (len(indices) - number)
                say(f"{number}/{len(indices)} images, {remaining:.0f} s left")
    write_text(out, "\n".join([header, *(done[int(i)] for i in indices)]) + "\n")
    partial.unlink()
    write_sidecar(runtime.sidecar, made, {"model": str(model), "data": str(data), "sigmas": str(sigmas)}, started, str(device))


def _append_time(path: Path | None, idx: int, seconds: float) -> None:
    if path is None:
        return
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), open(path, "a", encoding="utf-8") as file:
        file.write(("idx\tseconds\n" if new else "") + f"{idx}\t{seconds:.6f}\n")
