"""Verbs that make models."""

from pathlib import Path
from typing import Annotated

import typer

from ddrs.commands.flags import Architecture, Data, Model, Out, Seed, app, say, with_settings
from ddrs.files import output_file
from ddrs.models.architectures import ARCHITECTURES
from ddrs.models.devices import Runtime
from ddrs.models.formats import FORMATS
from ddrs.training.losses import METHODS
from ddrs.training.settings import RegimeSettings, TrainSettings


@app.command()
@with_settings
def train(
    data: Data,
    out: Out,
    method: Annotated[str, typer.Option("--method", help=f"training loss: {', '.join(METHODS)}")],
    architecture: Annotated[str, typer.Option("--architecture", help=f"network: {', '.join(ARCHITECTURES)}, or package.module:factory")],
    sigma: Annotated[float, typer.Option("--sigma", help="noise scale, in units of the [0,1] pixel scale")],
    settings: TrainSettings,
    runtime: Runtime,
    branch_out: Annotated[Path | None, typer.Option("--branch-out", callback=output_file, help="state to write at --branch-epoch, for DS2")] = None,
    seed: Seed = 0,
) -> None:
    """Train a model with one fixed sigma (FS). Writes a safetensors checkpoint; a killed run resumes at its last finished epoch."""
    from ddrs.training.run import train

    train(data, out, branch_out, method, architecture, sigma, settings, seed, runtime, say)


@app.command()
@with_settings
def finetune(
    data: Data,
    model: Model,
    out: Out,
    settings: TrainSettings,
    step: RegimeSettings,
    runtime: Runtime,
    branch: Annotated[Path | None, typer.Option("--branch", help="state to continue from, instead of the finished model (read)")] = None,
    architecture: Architecture = None,
    seed: Seed = 0,
) -> None:
    """Train a fixed-sigma model on with a sigma per example (DS2, Algorithm 2). Writes a checkpoint; resumes like `train`."""
    from ddrs.training.run import finetune

    finetune(data, model, branch, out, settings, step, seed, runtime, say, architecture)


@app.command()
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="checkpoint as its authors publish it (read)")],
    out: Out,
    format: Annotated[str, typer.Option("--format", help=f"whose it is: {', '.join(FORMATS)}")],
    dataset: Annotated[str, typer.Option("--dataset", help="what the model was trained on: cifar10 or imagenet")],
    method: Annotated[str, typer.Option("--method", help=f"training loss: {', '.join(METHODS)}")],
    sigma: Annotated[float, typer.Option("--sigma", help="noise scale that it was trained with, in units of the [0,1] pixel scale")],
    preprocessing: Annotated[str | None, typer.Option("--preprocessing", help="none, center or normalize, where the format leaves it open")] = None,
    sidecar: Annotated[Path | None, typer.Option("--sidecar", callback=output_file, help="JSON to write with commit, versions and time")] = None,
) -> None:
    """Write a fixed-sigma model that others published as a safetensors checkpoint, with its preprocessing; runs no code of the file."""
    from ddrs.training.importing import import_checkpoint

    import_checkpoint(file, out, format, dataset, method, sigma, preprocessing, sidecar, say)
