"""Verbs on a whole experiment: what it would cost, its config, its results elsewhere."""

from pathlib import Path
from typing import Annotated, cast

import typer
from typer.core import TyperGroup

from ddrs.commands.flags import OutDir, app, say
from ddrs.errors import DdrsError
from ddrs.files import output_file
from ddrs.sections import COUNT_MAX, THREADS_MAX


@app.command()
def publish(
    files: Annotated[list[Path], typer.Argument(help="Markdown tables and PNG figures, whose captions are captions/NAME.md beside them (read)")],
    config: Annotated[Path, typer.Option("--config", help="the config that made them (read)")],
    out_dir: OutDir,
) -> None:
    """Copy finished tables and figures to where readers of the repository see them, with the config's digest and the date."""
    from ddrs.operations.publish import publish

    publish(files, config, out_dir)


@app.command()
def use(
    overlays: Annotated[list[Path], typer.Argument(help="overlays, later ones on top (read)")],
    config: Annotated[Path, typer.Option("--config", help="the config to merge them into, committed to git")] = Path("config.yaml"),
) -> None:
    """Merge overlays into config.yaml, so that DVC sees them too, and list its results in dvc.yaml. Jobs get the flags that `snakemake
    --configfile OVERLAYS` gives them."""
    from ddrs.operations.overlays import use

    written = use(overlays, config)
    say(f"{', '.join(map(str, written))}: written" if written else f"{config}: says all of that already")


@app.command()
def sync(
    pull: Annotated[bool, typer.Option("--pull/--no-pull", help="also get what DVC's cache lacks from the default remote")] = True,
) -> None:
    """Bring the results of dvc.lock here, prove them by content, and tell Snakemake, so that nothing runs that has run elsewhere."""
    from ddrs.operations.sync import sync

    sync(pull, say)


@app.command()
def lock_status() -> None:
    """Say in one line whether dvc.lock is of this code and config. Needs no data, no results and no remote."""
    from ddrs.operations.sync import lock_status

    say(lock_status())


@app.command()
def code(
    entries: Annotated[
        list[str] | None, typer.Argument(help="verb, as certify, and modules that its job loads by name, as ddrs.sigma.strategies.grid")
    ] = None,
    against: Annotated[str | None, typer.Option("--against", help="git revision: say instead which definitions differ from it")] = None,
    write: Annotated[
        Path | None, typer.Option("--write", callback=output_file, help="file to write, workflow/code.json: the digests of the steps in dvc.yaml")
    ] = None,
) -> None:
    """Say by which definitions the result of a verb is made, and their digest, which reruns it when it changes."""
    from ddrs.operations import code

    if not entries and write is None:
        raise DdrsError("code: give a verb, or --write")
    if entries:
        say(code.report(entries, against))
    if write is not None:
        say(f"{write}: {', '.join(code.write(write)) or 'nothing'} changed")


@app.command()
def plan(
    ctx: typer.Context,
    targets: Annotated[list[str] | None, typer.Argument(help="files or rules of the Snakefile; default: its default target")] = None,
    snakefile: Annotated[Path | None, typer.Option("--snakefile", help="default: as Snakemake finds it in the current folder (read)")] = None,
    configfile: Annotated[list[Path] | None, typer.Option("--configfile", help="config over the Snakefile's own; repeat for more (read)")] = None,
    device: Annotated[str | None, typer.Option("--device", help="where time is measured: cpu, cuda or cuda:N; default: as in the config")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, max=THREADS_MAX, help="CPU threads per job")] = 1,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=COUNT_MAX, help="how many jobs run side by side")] = 1,
    on: Annotated[list[str] | None, typer.Option("--on", help="measure nothing: GPU-hours of each table row on h200, a100; repeat for more")] = None,
    utilisation: Annotated[float, typer.Option("--utilisation", help="--on: share of a card's peak FLOP/s that a job reaches")] = 0.35,
    format: Annotated[str, typer.Option("--format", help="table or csv")] = "table",
) -> None:
    """Print what a target would cost, without running it: jobs, images, samples, FLOPs and estimated time of every step."""
    from ddrs.operations.gpu_hours import gpu_hours
    from ddrs.operations.plan import plan

    verbs = cast(TyperGroup, ctx.find_root().command)  # by which the commands of a dry run are read
    if on and device:
        raise DdrsError("plan: --on counts on cards that are not here, --device measures on one that is; give either")
    if on:
        return say(gpu_hours(verbs, targets or [], snakefile, configfile or [], on, utilisation, format))
    say(plan(verbs, targets or [], snakefile, configfile or [], device, threads, jobs, format))
