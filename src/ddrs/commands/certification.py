"""Verbs that certify, and that rewrite logs."""

from pathlib import Path
from typing import Annotated

import typer

from ddrs.certification.settings import ImageCertificateSettings
from ddrs.commands.flags import Architecture, Data, Images, Model, Out, Seed, SplitFlag, app, say, with_settings
from ddrs.files import output_file
from ddrs.models.devices import Runtime
from ddrs.sections import BATCH_MAX, COUNT_MAX


@app.command()
@with_settings
def certify(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option("--out", callback=output_file, help="certification log to write (tab-separated)")],
    settings: ImageCertificateSettings,
    runtime: Runtime,
    sigma: Annotated[float | None, typer.Option("--sigma", help="one sigma for all images (FS)")] = None,
    sigmas: Annotated[Path | None, typer.Option("--sigmas", help="sigma per image, from `ddrs sigma` (read; DS)")] = None,
    k: Annotated[int | None, typer.Option("--k", min=0, max=COUNT_MAX, help="which step of the --sigmas trajectory")] = None,
    knob: Annotated[str | None, typer.Option("--knob", help="NAME=NUMBER in place of --k: what the --sigmas search was made at, as r=0.01")] = None,
    architecture: Architecture = None,
    split: SplitFlag = "test",
    images: Images = None,
    shard: Annotated[str, typer.Option("--shard", help="I/N: every N-th image from the I-th on; `ddrs merge` puts the N logs together")] = "1/1",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, max=BATCH_MAX, help="samples per pass; default: the fastest of a probe")
    ] = None,
    times: Annotated[Path | None, typer.Option("--times", callback=output_file, help="file to write with seconds per image")] = None,
    seed: Seed = 0,
) -> None:
    """Certify a split's images by Monte Carlo (Cohen et al. 2019). The log is resumed after a kill, without redoing finished images."""
    from ddrs.certification.run import certify
    from ddrs.certification.shards import Shard

    part = Shard.parse(shard)
    certify(model, data, out, settings, sigma, sigmas, k, split, images, part, batch_size, times, seed, runtime, say, architecture, knob)


@app.command()
def merge(
    shards: Annotated[list[Path], typer.Argument(help="the logs of all shards of one run (read)")],
    out: Out,
) -> None:
    """Put the logs of the shards of one certification together, byte for byte as one run would have written it."""
    from ddrs.certification.shards import merge_shards

    say(f"{out}: {merge_shards(shards, out)} images of {len(shards)} shards")


@app.command()
def export(
    log: Annotated[Path, typer.Argument(help="certification log (read)")],
    out: Out,
    times: Annotated[Path | None, typer.Option("--times", help="timing file of the same run (read)")] = None,
) -> None:
    """Write a log in the field's six-column form (idx label predict radius correct time), for other people's scripts."""
    from ddrs.certification.field_format import export_field_format

    export_field_format(log, times, out)
