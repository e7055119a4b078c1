"""Verbs that search a sigma per image."""

from pathlib import Path
from typing import Annotated

import typer

from ddrs.commands.flags import Architecture, Data, Images, Model, Seed, SplitFlag, app, say, with_settings
from ddrs.files import output_file
from ddrs.models.devices import Runtime
from ddrs.sigma.settings import SearchSettings


@app.command()
@with_settings
def sigma(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option("--out", callback=output_file, help="parquet to write: idx, K, sigma_star for every K up to --k-max")],
    settings: SearchSettings,
    runtime: Runtime,
    architecture: Architecture = None,
    split: SplitFlag = "test",
    images: Images = None,
    seed: Seed = 0,
) -> None:
    """Search the sigma of each image by a strategy: Algorithm 1, a grid, QCRS or another; writes the whole trajectory.

    A killed search is resumed after its last finished batch.
    """
    from ddrs.sigma.run import search

    search(model, data, out, settings, split, images, seed, runtime, say, architecture)
