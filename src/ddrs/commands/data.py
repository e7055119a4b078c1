"""Verbs of datasets."""

from pathlib import Path
from typing import Annotated

import typer

from ddrs.commands.flags import app, say
from ddrs.data.sources import SOURCES
from ddrs.files import output_file
from ddrs.sections import COUNT_MAX


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help=f"dataset: {', '.join(SOURCES)}; or any name, with --kind")],
    out: Annotated[Path, typer.Option("--out", callback=output_file, help="manifest to write; the arrays are written beside it")],
    kind: Annotated[str | None, typer.Option("--kind", help=f"what it is: {', '.join(SOURCES)}; default: its name")] = None,
    source: Annotated[Path | None, typer.Option("--source", help="folder with the dataset's own files, used instead of the network (read)")] = None,
    validation: Annotated[
        int | None,
        typer.Option("--validation", min=0, max=COUNT_MAX, help="training images to hold out, without a validation split; default: 5000"),
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--classes", help="imagefolder: sub-folder of a class; repeat for each, in the order of labels")
    ] = None,
    shape: Annotated[str | None, typer.Option("--shape", help="imagefolder: C,H,W that images are scaled and cropped to, as 3,64,64")] = None,
    images: Annotated[
        list[str] | None, typer.Option("--images", help="SPLIT=COUNT: how many images a split must have at least, as test=100; repeat for each")
    ] = None,
) -> None:
    """Get a dataset, check it, drop duplicates across splits, write uint8 arrays and a manifest."""
    from ddrs.data.fetch import fetch
    from ddrs.data.requests import parse_images, parse_shape

    size, least = parse_shape(shape) if shape else None, parse_images(images or [])
    for split, facts in fetch(name, out, source, validation, say, kind, classes or [], size, least)["splits"].items():
        say(f"{name} {split}: {facts['count']} images, {facts['dropped_duplicates']} dropped as duplicates of another split's")
