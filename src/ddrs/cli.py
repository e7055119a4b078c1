"""The command line: one verb per step, files in and files out. A rule of the Snakefile is one of these verbs.

torch, pandas and matplotlib are imported inside the verbs that need them, so that `ddrs --help` and a dry run load none of them.
"""

import errno
import os
import signal
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from ddrs.architectures import ARCHITECTURES
from ddrs.checkpoint_formats import FORMATS
from ddrs.config import RegimeSettings, SampleSettings, SearchSettings, TrainSettings
from ddrs.errors import DdrsError, DdrsWarning, one_line
from ddrs.files import output_file, output_folder
from ddrs.options import Runtime, with_settings
from ddrs.sections import BATCH_MAX, COUNT_MAX, SEED_MAX, THREADS_MAX
from ddrs.sources import KINDS
from ddrs.training.losses import METHODS

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=(__doc__ or "").split("\n")[0])

Data = Annotated[Path, typer.Option("--data", help="dataset manifest, from `ddrs fetch` (read)")]
Model = Annotated[Path, typer.Option("--model", help="checkpoint, from `ddrs train` or `ddrs finetune` (read)")]
Architecture = Annotated[
    str | None, typer.Option("--architecture", help="package.module:factory that the checkpoint may run, where its model is of your own")
]
Out = Annotated[Path, typer.Option("--out", callback=output_file, help="file to write")]
OutDir = Annotated[Path, typer.Option("--out-dir", callback=output_folder, help="folder to write into")]
Seed = Annotated[int, typer.Option("--seed", min=0, max=SEED_MAX, help="seed of everything random")]
SplitName = Annotated[str, typer.Option("--split", help="train, validation or test")]
Images = Annotated[int | None, typer.Option("--images", min=1, max=COUNT_MAX, help="how many images of the split, evenly spaced; default: all")]
Logs = Annotated[list[Path], typer.Argument(help="certification logs (read)")]
Validation = Annotated[
    list[Path] | None, typer.Option("--validation", help="log of validation images, which choose sigma and K instead; repeat for more (read)")
]
Before = Annotated[
    list[Path] | None, typer.Option("--before", help="log from before the memory, on which every second image chooses; repeat for more (read)")
]
Csv = Annotated[Path, typer.Option("--csv", callback=output_file, help="table to write")]
Md = Annotated[Path, typer.Option("--md", callback=output_file, help="the same as Markdown, with its caption")]
Pdf = Annotated[Path, typer.Option("--pdf", callback=output_file, help="figure to write")]
CaptionFile = Annotated[Path | None, typer.Option("--caption", callback=output_file, help="Markdown to write: the figure's caption")]
Title = Annotated[str, typer.Option("--title", help="what the caption calls the figure, as Figure 3")]
Made = Annotated[list[str] | None, typer.Option("--made", help="how models and sigmas shown were made, for the caption; repeat for more")]
Png = Annotated[Path, typer.Option("--png", callback=output_file, help="the same as PNG")]
Radii = Annotated[str, typer.Option("--radii", help="radii, separated by commas")]


def main() -> None:
    """Run a verb; what a user did wrong, or a full disk, ends in one line and exit code 2."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that temporary files are removed
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: several one-thread jobs share the cores
    warnings.formatwarning = _warned
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        verb = f" (see `{context.command_path} --help`)" if context else ""
        message = " ".join(getattr(error, "format_message", error.__str__)().split())  # which lists choices on lines of their own
        sys.exit(_failed(message + verb))
    except typer.Abort:
        sys.exit(130)
    except DdrsError as error:
        sys.exit(_failed(str(error)))
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or " ".join(map(str, error.args)))
        sys.exit(_failed(f"{error.filename or 'while writing'}: {what}"))


_STANDARD = warnings.formatwarning


def _warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning of ours in one line, without the line of code that it comes from; others as Python writes them."""
    return f"ddrs: {message}\n" if issubclass(category, DdrsWarning) else _STANDARD(message, category, filename, lineno, line)


def _failed(message: str) -> int:
    print(f"ddrs: error: {one_line(message)}", file=sys.stderr)
    return 2


def _say(line: str) -> None:
    print(line, flush=True)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help=f"dataset: {', '.join(KINDS)}; or any name, with --kind")],
    out: Annotated[Path, typer.Option("--out", callback=output_file, help="manifest to write; the arrays are written beside it")],
    kind: Annotated[str | None, typer.Option("--kind", help=f"what it is: {', '.join(KINDS)}; default: its name")] = None,
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
    from ddrs.fetch import fetch
    from ddrs.requests import parse_images, parse_shape

    size, least = parse_shape(shape) if shape else None, parse_images(images or [])
    for split, facts in fetch(name, out, source, validation, _say, kind, classes or [], size, least)["splits"].items():
        _say(f"{name} {split}: {facts['count']} images, {facts['dropped_duplicates']} dropped as duplicates of another split's")


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

    train(data, out, branch_out, method, architecture, sigma, settings, seed, runtime, _say)


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

    finetune(data, model, branch, out, settings, step, seed, runtime, _say, architecture)


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
    from ddrs.importing import import_checkpoint

    import_checkpoint(file, out, format, dataset, method, sigma, preprocessing, sidecar, _say)


@app.command()
@with_settings
def sigma(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option("--out", callback=output_file, help="parquet to write: idx, K, sigma_star for every K up to --k-max")],
    settings: SearchSettings,
    runtime: Runtime,
    architecture: Architecture = None,
    split: SplitName = "test",
    images: Images = None,
    seed: Seed = 0,
) -> None:
    """Search the sigma of each image, by Algorithm 1 from the model's training sigma or on a grid; writes the whole trajectory.

    A killed search is resumed after its last finished batch.
    """
    from ddrs.sigma.run import search

    search(model, data, out, settings, split, images, seed, runtime, _say, architecture)


@app.command()
@with_settings
def certify(
    model: Model,
    data: Data,
    out: Annotated[Path, typer.Option("--out", callback=output_file, help="certification log to write (tab-separated)")],
    settings: SampleSettings,
    runtime: Runtime,
    sigma: Annotated[float | None, typer.Option("--sigma", help="one sigma for all images (FS)")] = None,
    sigmas: Annotated[Path | None, typer.Option("--sigmas", help="sigma per image, from `ddrs sigma` (read; DS)")] = None,
    k: Annotated[int | None, typer.Option("--k", min=0, max=COUNT_MAX, help="which step of the --sigmas trajectory")] = None,
    architecture: Architecture = None,
    split: SplitName = "test",
    images: Images = None,
    shard: Annotated[str, typer.Option("--shard", help="I/N: every N-th image from the I-th on; `ddrs merge` puts the N logs together")] = "1/1",
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, max=BATCH_MAX, help="samples per pass; default: the fastest of a probe")
    ] = None,
    times: Annotated[Path | None, typer.Option("--times", callback=output_file, help="file to write with seconds per image")] = None,
    seed: Seed = 0,
) -> None:
    """Certify a split's images by Monte Carlo (Cohen et al. 2019). The log is resumed after a kill, without redoing finished images."""
    from ddrs.certification.run import Shard, certify

    certify(model, data, out, settings, sigma, sigmas, k, split, images, Shard.parse(shard), batch_size, times, seed, runtime, _say, architecture)


@app.command()
def merge(
    shards: Annotated[list[Path], typer.Argument(help="the logs of all shards of one run (read)")],
    out: Out,
) -> None:
    """Put the logs of the shards of one certification together, byte for byte as one run would have written it."""
    from ddrs.certification.records import merge_shards

    _say(f"{out}: {merge_shards(shards, out)} images of {len(shards)} shards")


@app.command()
def remember(
    logs: Logs,
    data: Data,
    out_dir: OutDir,
) -> None:
    """Pass logs through the memory (Algorithm 3), each on its own, in ascending idx. Writes logs of the same names into --out-dir."""
    from ddrs.memory import remember

    if len({log.name for log in logs}) != len(logs):
        raise DdrsError("remember: two logs have the same file name, and so the same place in --out-dir")
    for log in logs:
        counts = remember(log, data, out_dir / log.name)
        _say(f"{log.name}: {sum(counts.values())} entries: " + ", ".join(f"{count} {change}" for change, count in counts.items()))


@app.command()
def envelope(
    logs: Logs,
    radii: Radii,
    format: Annotated[str, typer.Option("--format", help="csv, md or tex")] = "csv",
) -> None:
    """Print certified accuracy per radius and ACR, a line per log and one for their envelope; reads anyone's six-column logs too."""
    from ddrs.envelope import envelope_report

    _say(envelope_report(logs, parse_radii(radii), format))


@app.command()
def cell(
    logs: Logs,
    table: Annotated[str, typer.Option("--table", help="table1, ..., or table1_selected, ... with --validation")],
    label: Annotated[str, typer.Option("--label", help="row: method or method-row, as smoothadv-ds2")],
    radii: Radii,
    out_dir: OutDir,
    validation: Validation = None,
    choose_on: Annotated[
        str, typer.Option("--choose-on", help="what chooses sigma and K: validation (logs), or even: every second image, the others are reported")
    ] = "validation",
    before: Before = None,
    kind: Annotated[str | None, typer.Option("--kind", help="what the dataset is, by which the paper's number is found; default: its name")] = None,
    made: Annotated[str, typer.Option("--made", help="how the row's models and sigmas were made, for captions")] = "",
    seed: Seed = 0,
) -> None:
    """Write every cell of one table row as JSON: value, interval, the sigma and K that gave it, the paper's number."""
    from ddrs.cells import write_cells

    write_cells(logs, table, label, parse_radii(radii), out_dir, seed, validation or [], choose_on, kind, before or [], made)


@app.command()
def table(
    cells: Annotated[list[Path], typer.Argument(help="cell files, from `ddrs cell`, in the order of the rows (read)")],
    csv: Csv,
    md: Md,
    tex: Annotated[Path, typer.Option("--tex", callback=output_file, help="the same as LaTeX (booktabs)")],
) -> None:
    """Assemble a table from its cells."""
    from ddrs.tables import write_table

    write_table(cells, csv, md, tex)


@app.command()
def compare(
    cells: Annotated[list[Path], typer.Argument(help="cells of a table and of its selected form, from `ddrs cell` (read)")],
    csv: Csv,
    md: Md,
) -> None:
    """Set every cell of a table beside the paper's number, with the interval of the difference and a verdict."""
    from ddrs.comparison import write_comparison

    write_comparison(cells, csv, md)


@app.command()
def claims(
    cells: Annotated[list[Path], typer.Argument(help="cells of all tables and of their selected forms, from `ddrs cell` (read)")],
    csv: Csv,
    md: Md,
) -> None:
    """Check the paper's headline sentences against its own tables and against ours."""
    from ddrs.claims import write_claims

    write_claims(cells, csv, md)


@app.command()
def per_class(
    logs: Logs,
    cell: Annotated[list[Path], typer.Option("--cell", help="cell of the selected table that the logs are behind; repeat for more (read)")],
    csv: Csv,
    md: Md,
    radii: Annotated[str, typer.Option("--radii", help="columns to show, separated by commas; default: all of the table")] = "",
) -> None:
    """Write certified accuracy per class, each row at the sigma and K that other images chose for its ACR."""
    from ddrs.per_class import write_per_class

    write_per_class(logs, cell, [f"{radius:g}" for radius in parse_radii(radii)] if radii else [], csv, md)


@app.command()
def page(
    md: Annotated[Path, typer.Argument(help="Markdown table, or a figure's caption (read)")],
    html: Annotated[Path, typer.Option("--html", callback=output_file, help="page to write; it needs no other file")],
    picture: Annotated[Path | None, typer.Option("--picture", help="PNG that the caption is of (read)")] = None,
) -> None:
    """Write a Markdown table, or a figure with its caption, as a page that a browser, and Snakemake's report, show."""
    from ddrs.pages import write_page

    write_page(md, html, picture)


@app.command()
def distribution(
    logs: Logs,
    pdf: Pdf,
    png: Png,
    validation: Validation = None,
    even: Annotated[
        list[str] | None, typer.Option("--even", help="dataset of which every second image chooses and the others are drawn; repeat for more")
    ] = None,
    before: Before = None,
    caption: CaptionFile = None,
    title: Title = "",
    made: Made = None,
) -> None:
    """Draw the distribution of p_lower: a panel per training sigma, a curve per row, K chosen on validation images or on half of the test images."""
    from ddrs.distribution import p_lower_figure
    from ddrs.statements import Caption

    p_lower_figure(logs, validation or [], pdf, png, even or [], before or [], Caption(caption, title, made or []))


@app.command()
def figure(
    logs: Logs,
    pdf: Pdf,
    png: Png,
    kind: Annotated[
        str, typer.Option("--kind", help="rows, with a panel per sigma; searches, with a curve per K; steps, a panel per model")
    ] = "rows",
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", min=1, max=COUNT_MAX, help="searches: budget per image; for grids n = it / K")
    ] = None,
    caption: CaptionFile = None,
    title: Title = "",
    made: Made = None,
) -> None:
    """Draw certified accuracy against radius: of a table's rows (Figures 3, 4, 5), of sigma searches (8), for growing K (7)."""
    from ddrs.figures import certified_accuracy_figure
    from ddrs.statements import Caption

    certified_accuracy_figure(logs, pdf, png, kind, evaluations, Caption(caption, title, made or []))


@app.command()
def examples(
    logs: Logs,
    data: Annotated[list[Path], typer.Option("--data", help="manifest of each log's dataset (read)")],
    fixed: Annotated[list[Path], typer.Option("--fixed", help="log of the same model at its fixed sigma, for each (read)")],
    quantiles: Annotated[list[str], typer.Option("--quantiles", help="for each log which images, as 0,0.5,1: quantiles of their sigma")],
    pdf: Pdf,
    png: Png,
    seed: Seed = 0,
    caption: CaptionFile = None,
    title: Title = "",
    made: Made = None,
) -> None:
    """Draw test images with noise at the fixed sigma and at their own (Figures 6, 9); one --data, --fixed and --quantiles for each log."""
    from ddrs.examples import Panel, examples_figure
    from ddrs.statements import Caption

    if not len(logs) == len(data) == len(fixed) == len(quantiles):
        raise DdrsError(
            f"examples: {len(logs)} logs, {len(data)} --data, {len(fixed)} --fixed and {len(quantiles)} --quantiles; give as many of each"
        )
    panels = [Panel(*parts[:3], parse_increasing("--quantiles", parts[3], 1)) for parts in zip(logs, data, fixed, quantiles, strict=True)]
    examples_figure(panels, pdf, png, seed, Caption(caption, title, made or []))


@app.command()
def illustrate(
    subject: Annotated[str, typer.Argument(help="sigma (Figure 1) or memory (Figure 2)")],
    pdf: Pdf,
    png: Png,
    seed: Seed = 0,
    caption: CaptionFile = None,
    title: Title = "",
) -> None:
    """Draw why sigma should vary, or the memory's three cases, from a run of the code in two dimensions (Figures 1, 2)."""
    from ddrs.illustrations import illustrate
    from ddrs.statements import Caption

    illustrate(subject, pdf, png, seed, Caption(caption, title))


@app.command()
def export(
    log: Annotated[Path, typer.Argument(help="certification log (read)")],
    out: Out,
    times: Annotated[Path | None, typer.Option("--times", help="timing file of the same run (read)")] = None,
) -> None:
    """Write a log in the field's six-column form (idx label predict radius correct time), for other people's scripts."""
    from ddrs.certification.records import export_field_format

    export_field_format(log, times, out)


@app.command()
def publish(
    files: Annotated[list[Path], typer.Argument(help="Markdown tables and PNG figures, whose captions are captions/NAME.md beside them (read)")],
    config: Annotated[Path, typer.Option("--config", help="the config that made them (read)")],
    out_dir: OutDir,
) -> None:
    """Copy finished tables and figures to where readers of the repository see them, with the config's digest and the date."""
    from ddrs.publish import publish

    publish(files, config, out_dir)


@app.command()
def use(
    overlays: Annotated[list[Path], typer.Argument(help="overlays, later ones on top (read)")],
    config: Annotated[Path, typer.Option("--config", help="the config to merge them into, committed to git")] = Path("config.yaml"),
) -> None:
    """Merge overlays into config.yaml, so that DVC sees them too, and list its results in dvc.yaml. Jobs get the flags that `snakemake
    --configfile OVERLAYS` gives them."""
    from ddrs.overlays import use

    written = use(overlays, config)
    _say(f"{', '.join(map(str, written))}: written" if written else f"{config}: says all of that already")


@app.command()
def sync(
    pull: Annotated[bool, typer.Option("--pull/--no-pull", help="also get what DVC's cache lacks from the default remote")] = True,
) -> None:
    """Bring the results of dvc.lock here, prove them by content, and tell Snakemake, so that nothing runs that has run elsewhere."""
    from ddrs.sync import sync

    sync(pull, _say)


@app.command()
def lock_status() -> None:
    """Say in one line whether dvc.lock is of this code and config. Needs no data, no results and no remote."""
    from ddrs.sync import lock_status

    _say(lock_status())


@app.command()
def plan(
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
    from ddrs.gpu_hours import gpu_hours
    from ddrs.plan import plan

    if on and device:
        raise DdrsError("plan: --on counts on cards that are not here, --device measures on one that is; give either")
    if on:
        return _say(gpu_hours(typer.main.get_group(app), targets or [], snakefile, configfile or [], on, utilisation, format))
    _say(plan(typer.main.get_group(app), targets or [], snakefile, configfile or [], device, threads, jobs, format))


def parse_radii(text: str) -> list[float]:
    """Radii of a comma-separated list: finite, >= 0, increasing."""
    return parse_increasing("--radii", text, float("inf"))


def parse_increasing(flag: str, text: str, end: float) -> list[float]:
    """Numbers of a comma-separated list: finite, from 0 to `end`, increasing."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise DdrsError(f"{flag} {text!r}: must be numbers separated by commas") from None
    if not all(0 <= value <= end and value < float("inf") for value in values) or any(a >= b for a, b in pairwise(values)):
        raise DdrsError(f"{flag} {text!r}: must be finite, >= 0{'' if end == float('inf') else f', <= {end:g}'} and increasing")
    return values


if __name__ == "__main__":
    main()
