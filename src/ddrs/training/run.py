"""Training from files to files: `ddrs train` and `ddrs finetune`."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from ddrs.data.splits import Split, load_split
from ddrs.errors import DdrsError
from ddrs.files import DamagedError, sealed, unsealed, write_bytes
from ddrs.models import architectures, checkpoints, own, running
from ddrs.models.devices import Runtime, machine, prepare
from ddrs.noise.laws import check_sigma, get_noise
from ddrs.noise.streams import stream_key
from ddrs.provenance.code import code_digest
from ddrs.provenance.digests import digest, file_digest
from ddrs.provenance.sidecar import write_sidecar
from ddrs.rows import FIXED
from ddrs.sigma.settings import StepSettings
from ddrs.training import loop
from ddrs.training import state as training_state
from ddrs.training.batches import training_images
from ddrs.training.losses import METHODS
from ddrs.training.precision import check_precision
from ddrs.training.regimes import REGIMES
from ddrs.training.settings import RegimeSettings, TrainSettings

Say = Callable[[str], None]


def train(
    data: Path,
    out: Path,
    branch_out: Path | None,
    method: str,
    architecture: str,
    sigma: float,
    settings: TrainSettings,
    seed: int,
    runtime: Runtime,
    say: Say,
) -> None:
    """Fixed-sigma training."""
    device = prepare(runtime)
    check_precision(settings.precision, device)
    check_sigma(sigma)
    split = load_split(data, "train")
    noise = METHODS.module(method).NOISE
    settings.loss_settings(method)
    torch.manual_seed(stream_key(seed, "train", "init") % 2**63)
    model = architectures.build_model(architecture, split.shape, split.classes)
    run = training_state.start_run(model, len(split.labels), sigma, settings, seed, device, FIXED.trained)
    facts = {
        "architecture": architecture,
        "shape": list(split.shape),
        "classes": split.classes,
        "dataset": split.dataset,
        "method": method,
        "regime": FIXED.trained,
        "sigma": sigma,
        "noise": noise,
        "seed": seed,
        "settings": settings.model_dump(),
        "data": split.digest,
    }
    _train(run, split, StepSettings.checked(), facts, out, branch_out, settings.branch_epoch or settings.epochs, runtime, say, {"data": str(data)})


def finetune(
    data: Path,
    model: Path,
    branch: Path | None,
    out: Path,
    settings: TrainSettings,
    step: RegimeSettings,
    seed: int,
    runtime: Runtime,
    say: Say,
    architecture: str | None = None,
) -> None:
    """Training with a sigma per example, from a finished fixed-sigma model or from the state where its run branches.

    step: the regime, DS2 by default, and its settings. architecture: as of `load_model`.
    """
    device = prepare(runtime)
    check_precision(settings.precision, device)
    split = load_split(data, "train")
    start = checkpoints.read_facts(model)
    checkpoints.check_named(model, start, architecture)
    checkpoints.check_fits(model, start, split)
    settings.loss_settings(start["method"])
    moves = step.of_regime()
    if not step.sigma_min <= start["sigma"] <= step.sigma_max:
        raise DdrsError(f"{model}: was trained with sigma {start['sigma']}, outside [{step.sigma_min}, {step.sigma_max}]")
    net = checkpoints.load_model(model, architecture=architecture)
    run = training_state.start_run(net, len(split.labels), start["sigma"], settings, seed, device, step.regime)
    if branch is not None:
        training_state.load_state(branch, run)
        if run.epoch >= settings.epochs:
            raise DdrsError(f"{branch}: was saved after epoch {run.epoch}, nothing is left of {settings.epochs}; set branch_epoch lower")
    facts = {
        **start,
        "regime": step.regime,
        "seed": seed,
        "settings": settings.model_dump(),
        "step": moves.model_dump(),
        "start": file_digest(branch or model),
        "data": split.digest,
    }
    _train(run, split, moves, facts, out, None, 0, runtime, say, {"data": str(data), "model": str(model)})


def _train(
    run: training_state.TrainingRun,
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
    checkpoints.check_storable(run.model, facts)
    device = running.device_of(run.model)
    settings = TrainSettings(**facts["settings"])
    verb = "train" if facts["regime"] == FIXED.trained else "finetune"
    code = code_digest(verb, METHODS[facts["method"]], f"{REGIMES[facts['regime']]}:sigmas", without="ddrs.rows")
    partial = runtime.scratch / f"train-{digest([facts, code, own.code(facts['architecture']), machine(runtime, device)])}.pt"
    partial_branch = partial.with_suffix(".branch.pt")  # kept here until the end: a workflow engine deletes the outputs of a killed job
    branch = _resume(run, settings.epochs, partial, partial_branch, branch_epoch, say)

    def keep(current: training_state.TrainingRun) -> None:
        nonlocal branch
        if current.epoch == branch_epoch and not current.batches:
            branch = training_state.packed(current)  # kept, as another process at the same work may be done first and remove the file
            write_bytes(partial_branch, branch)
        training_state.save_state(partial, current)

    labels = torch.tensor(split.labels, device=device)
    with training_images(split, device) as images:
        loop.train(run, images, labels, facts["method"], facts["regime"], settings, step, get_noise(facts["noise"]), keep, say)
    checkpoints.save_model(out, run.model, {**facts, "device": device.type, "mean_sigma": round(float(run.sigmas.double().mean()), 6)})
    if branch_out is not None:
        assert branch is not None
        write_bytes(branch_out, branch)
    for file in (partial, partial_branch):
        file.unlink(missing_ok=True)
    write_sidecar(runtime.sidecar, facts, inputs, started, str(device))


def _resume(run: training_state.TrainingRun, epochs: int, partial: Path, partial_branch: Path, branch_epoch: int, say: Say) -> bytes | None:
    """Go on from what a killed process left, if it is whole. Returns the branch's file, where it left one.

    Another process at the same work may remove both files at any time.
    """
    try:
        state, content = training_state.read_state(partial), unsealed(partial_branch)
    except DamagedError as error:
        say(f"{error}; beginning anew")
        return None
    branch = None if content is None else sealed(content)
    if state is None or (branch is None and 0 < branch_epoch <= state["epoch"]):
        return None  # a run past its branch could not end without that
    training_state.go_on(partial, run, state)
    within = f", {run.batches:,} batches into the next," if run.batches else ""
    say(f"resuming after epoch {run.epoch} of {epochs}{within} from {partial}")
    return branch
