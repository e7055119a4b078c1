"""Certification from files to a log: `ddrs certify`."""

import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from ddrs.certification.certificates import CERTIFICATES
from ddrs.certification.checks import ABSTAIN
from ddrs.certification.engine import certify_each, image_deviation
from ddrs.certification.inference import best_batch_size, running
from ddrs.certification.progress import CertificationProgress
from ddrs.certification.records import LOG_COLUMNS, SHARD, STATISTICS, format_line, plain_number, resume_lines, run_digest
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.shards import Shard
from ddrs.certification.task import Outcome
from ddrs.data.splits import as_float
from ddrs.errors import DdrsError
from ddrs.files import cache_folder, naming, write_text
from ddrs.models import own
from ddrs.models.checkpoints import load_with_data
from ddrs.models.devices import Runtime, prepare
from ddrs.noise.laws import CERTIFIABLE, check_sigma
from ddrs.noise.norms import ON_GRID, noise_of_model
from ddrs.provenance.code import code_digest
from ddrs.provenance.digests import digest, file_digest
from ddrs.provenance.sidecar import write_sidecar
from ddrs.rows import FIXED, STEPS, kind_of, label_of, logged, read_logged, spelled
from ddrs.sections import SplitName
from ddrs.sigma.stored import read_sigmas
from ddrs.statistics.boundaries import FIRST, RATIO, STEP


def certify(
    model: Path,
    data: Path,
    out: Path,
    settings: ImageCertificateSettings,
    sigma: float | None,
    sigmas: Path | None,
    k: int | None,
    split: SplitName,
    images: int | None,
    shard: Shard,
    batch_size: int | None,
    times: Path | None,
    seed: int,
    runtime: Runtime,
    say: Callable[[str], None],
    architecture: str | None = None,
    knob: str | None = None,
) -> None:
    """Certify a split or a shard of it, at one sigma or at the K-th step of a stored trajectory.

    knob: in place of k, NAME=NUMBER of a search that was made at that number alone. architecture: as of `load_model`.
    """
    started = time.time()
    device = prepare(runtime)
    if (sigma is None) == (sigmas is None) or (k, knob).count(None) != (2 if sigmas is None else 1):
        raise DdrsError("certify: give either --sigma, or --sigmas with --k (or --knob)")
    name, number = (None, "") if sigmas is None else (STEPS, str(k)) if knob is None else parse_knob(knob)
    settings = settings.at_knob(name, float(number) if number else None)
    net, facts, part = load_with_data(model, data, split, device, architecture)
    noise = CERTIFIABLE[_noise_name(settings.noise, facts["noise"], model)]
    examples = part.subset(images)
    indices = shard.of(examples)
    if sigma is not None:
        check_sigma(sigma)
        scale, sigma0, strategy = {int(i): sigma for i in indices}, sigma, None
    else:
        assert sigmas is not None and name is not None
        at = (name, float(number)) if knob is not None else int(number)
        made_from = {"model": file_digest(model), "data": part.digest, "split": split}
        scale, sigma0, strategy = read_sigmas(sigmas, at, indices, made_from)
    kind = kind_of(facts["regime"], strategy, settings.certificate)
    if kind is not None and kind.knob != name:
        raise DdrsError(f"certify: the second number of row {kind.name} is {kind.knob}, not {name}")
    logged_number = "" if name is None else logged(name, number)
    values = int(np.prod(part.images.shape[1:]))
    inputs = {"model": file_digest(model), "data": part.digest, "sigmas": file_digest(sigmas) if sigmas else f"{sigma:.9g}"}
    made = {**settings.model_dump(), "noise": noise.name, "seed": seed, "split": split, "K": plain_number(logged_number), "inputs": inputs}
    statistics = {
        **settings.model_dump(),
        "n_max": settings.n,
        "spending": settings.spending if settings.protocol == "sequential" else "",
        "looks": f"{FIRST}*{RATIO:g}^j, steps >= {STEP}" if settings.protocol == "sequential" else "",
        "noise": noise.name,
    }
    constant = {
        **{name: statistics[name] for name in STATISTICS},
        "dataset": part.dataset,
        "split": split,
        "data": part.digest,
        "method": _label(facts["method"], facts["regime"], strategy, settings.certificate),
        "sigma0": f"{sigma0:.9g}",
        "K": logged_number,
        "seed": seed,
        "digest": run_digest(settings.model_dump(), noise.name, seed, split, logged_number, inputs),
        "d": values,
        "device": device.type,
        "deviation": image_deviation(noise, float(np.float32(max(scale.values()))), device, values),
        "examples": len(examples),
        "split_images": len(part.labels),
    }
    part_of = "" if shard.count == 1 else f".{shard.number}-of-{shard.count}"
    other = [
        device.type,
        len(examples),
        code_digest("certify", f"{CERTIFICATES[settings.certificate]}:steps", without="ddrs.rows"),
        own.code(facts["architecture"]),
    ]  # what lines hold or depend on beside `made`
    partial = runtime.scratch / f"certify-{digest([constant['digest'], *other])}{part_of}.tsv"
    done = resume_lines(partial, str(constant["digest"]), say)
    if done:
        say(f"resuming: {len(done)} images are in {partial}")
    elif times is not None:
        times.unlink(missing_ok=True)
    left = [int(i) for i in indices if int(i) not in done]
    if left:
        x = torch.tensor(as_float(part.images[left]))
        if batch_size is None:
            batch_size = _probed(net, facts, settings.precision, device, runtime.threads)
        each = certify_each(
            net,
            x,
            np.array([scale[i] for i in left], np.float32),
            settings,
            noises=[noise] * len(left),
            seed=seed,
            split=split,
            example_ids=left,
            batch_size=batch_size,
        )
        last = time.perf_counter()
        progress = CertificationProgress(len(indices), len(indices) - len(left), settings.n, say)
        with progress, naming(partial), open(partial, "a", encoding="utf-8") as file:
            for place, found in each:
                i = left[place]
                label = int(part.labels[i])
                measured = {"idx": i, "label": label, "correct": int(found.prediction == label), "sigma": scale[i]}
                done[i] = format_line({**constant, **measured, **of_example(found, settings)})
                file.write(done[i] + "\n")
                file.flush()
                seconds, last = time.perf_counter() - last, time.perf_counter()
                _append_time(times, i, seconds)
                progress.image(found.prediction != ABSTAIN, found.n)
    lines = ["\t".join(LOG_COLUMNS), *(done[int(i)] for i in indices)]
    if shard.count > 1:
        lines = [f"{line}\t{one}" for line, one in zip(lines, [SHARD, *[f"{shard} of {len(examples)}"] * len(indices)], strict=True)]
    write_text(out, "\n".join(lines) + "\n")
    partial.unlink(missing_ok=True)  # another process at the same work may have been first
    write_sidecar(runtime.sidecar, made, {"model": str(model), "data": str(data), "sigmas": str(sigmas)}, started, str(device))


def parse_knob(text: str) -> tuple[str, str]:
    """Name and number of r=0.01, the number as logs spell it. DdrsError for any other text, and for K, which has a flag of its own."""
    name, number = read_logged(text)
    if name == STEPS:
        raise DdrsError(f"--knob {text!r}: must be NAME=NUMBER, as r=0.01; K is said with --k")
    return name, spelled(number)


def _label(method: str, trained: str, strategy: str | None, certificate: str) -> str:
    """The label of a log: that of its row, or of what no table has, as a fixed sigma or a grid on a model of per-example training, its parts."""
    kind = kind_of(trained, strategy, certificate)
    if kind is not None:
        return label_of(method, kind)
    of_fixed = kind_of(FIXED.trained, strategy)
    searched = "fixed" if strategy is None else of_fixed.name if of_fixed else strategy
    parts = [method, *([trained] if trained != FIXED.trained else []), searched, *([certificate] if certificate != FIXED.certificate else [])]
    return "-".join(parts)


def _noise_name(asked: str, trained: str, model: Path) -> str:
    found = noise_of_model(asked, trained)
    if found not in (trained, ON_GRID[trained]):
        raise DdrsError(f"noise {asked!r}: {model} was trained with {trained} noise; certify it with {trained} or lattice")
    return found


def of_example(found: Outcome, settings: ImageCertificateSettings) -> dict[str, object]:
    joint, claimed = settings.bound == "joint", np.isfinite(found.z)
    return {
        "predict": found.prediction,
        "radius": found.radius,
        "off_grid": found.off_grid,
        "n": found.n,
        "n_top": found.n_top,
        "n_second": found.n_second if joint else "",
        "p_lower": found.p_lower,
        "p_upper": found.p_upper if joint else "",
        "z": found.z if claimed else "",
    }


def _probed(net: torch.nn.Module, facts: dict, precision: str, device: torch.device, threads: int) -> int:
    """The fastest batch size, probed once per architecture and device and then kept: kernels of another shape may round differently."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    key = [facts["architecture"], facts["shape"], facts["classes"], precision, card, threads, torch.__version__]
    path = cache_folder() / f"batch-{digest(key)}.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["batch_size"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not probed yet, or damaged: a probe costs less than a question
    with running(net, tuple(facts["shape"]), precision) as scores:
        size = best_batch_size(scores[0], int(np.prod(facts["shape"])), device)
    with suppress(OSError):  # a cache that cannot be written is done without
        write_text(path, json.dumps({"batch_size": size}) + "\n")
    return size


def _append_time(path: Path | None, idx: int, seconds: float) -> None:
    if path is None:
        return
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming(path), open(path, "a", encoding="utf-8") as file:
        file.write(("idx\tseconds\n" if new else "") + f"{idx}\t{seconds:.6f}\n")
