"""Verbs that turn logs into numbers: cells, tables, pages. They load no torch."""

from pathlib import Path
from typing import Annotated

import typer

from ddrs.commands.flags import Before, Csv, Logs, Md, OutDir, Radii, Seed, Validation, app, parse_radii, say
from ddrs.files import output_file
from ddrs.rows import Chooser


@app.command()
def envelope(
    logs: Logs,
    radii: Radii,
    format: Annotated[str, typer.Option("--format", help="csv, md or tex")] = "csv",
) -> None:
    """Print certified accuracy per radius and ACR, a line per log and one for their envelope; reads anyone's six-column logs too."""
    from ddrs.results.envelope import envelope_report

    say(envelope_report(logs, parse_radii(radii), format))


@app.command()
def cell(
    logs: Logs,
    table: Annotated[str, typer.Option("--table", help="table1, ..., or table1_selected, ... with --validation")],
    label: Annotated[str, typer.Option("--label", help="row: method or method-row, as smoothadv-ds2")],
    radii: Radii,
    out_dir: OutDir,
    validation: Validation = None,
    choose_on: Annotated[
        Chooser, typer.Option("--choose-on", help="what chooses sigma and K: validation (logs), or even: every second image, the others are reported")
    ] = "validation",
    before: Before = None,
    kind: Annotated[str | None, typer.Option("--kind", help="what the dataset is, by which the paper's number is found; default: its name")] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="how the row's models and sigmas were made, for captions")] = "",
    seed: Seed = 0,
) -> None:
    """Write every cell of one table row as JSON: value, interval, the sigma and K that gave it, the paper's number."""
    from ddrs.results.row_cells import write_cells

    write_cells(logs, table, label, parse_radii(radii), out_dir, seed, validation or [], choose_on, kind, before or [], recipe)


@app.command()
def table(
    cells: Annotated[list[Path], typer.Argument(help="cell files, from `ddrs cell`, in the order of the rows (read)")],
    csv: Csv,
    md: Md,
    tex: Annotated[Path, typer.Option("--tex", callback=output_file, help="the same as LaTeX (booktabs)")],
) -> None:
    """Assemble a table from its cells."""
    from ddrs.results.tables import write_table

    write_table(cells, csv, md, tex)


@app.command()
def compare(
    cells: Annotated[list[Path], typer.Argument(help="cells of a table and of its selected form, from `ddrs cell` (read)")],
    csv: Csv,
    md: Md,
) -> None:
    """Set every cell of a table beside the paper's number, with the interval of the difference and a verdict."""
    from ddrs.results.comparison import write_comparison

    write_comparison(cells, csv, md)


@app.command()
def claims(
    cells: Annotated[list[Path], typer.Argument(help="cells of all tables and of their selected forms, from `ddrs cell` (read)")],
    csv: Csv,
    md: Md,
) -> None:
    """Check the paper's headline sentences against its own tables and against ours."""
    from ddrs.results.claims import write_claims

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
    from ddrs.results.per_class import write_per_class

    write_per_class(logs, cell, [f"{radius:g}" for radius in parse_radii(radii)] if radii else [], csv, md)


@app.command()
def page(
    md: Annotated[Path, typer.Argument(help="Markdown table, or a figure's caption (read)")],
    html: Annotated[Path, typer.Option("--html", callback=output_file, help="page to write; it needs no other file")],
    picture: Annotated[Path | None, typer.Option("--picture", help="PNG that the caption is of (read)")] = None,
) -> None:
    """Write a Markdown table, or a figure with its caption, as a page that a browser, and Snakemake's report, show."""
    from ddrs.results.pages import write_page

    write_page(md, html, picture)
