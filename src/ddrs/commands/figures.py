"""Verbs that draw."""

from pathlib import Path
from typing import Annotated

import typer

from ddrs.commands.flags import Before, CaptionFile, Logs, Pdf, Png, Recipes, Seed, Title, Validation, app, parse_increasing
from ddrs.errors import DdrsError
from ddrs.rows import Curves
from ddrs.sections import COUNT_MAX


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
    recipes: Recipes = None,
) -> None:
    """Draw the distribution of p_lower: a panel per training sigma, a curve per row, K chosen on validation images or on half of the test images."""
    from ddrs.figures.distribution import p_lower_figure
    from ddrs.results.captions import Caption

    p_lower_figure(logs, validation or [], pdf, png, even or [], before or [], Caption(caption, title, recipes or []))


@app.command()
def figure(
    logs: Logs,
    pdf: Pdf,
    png: Png,
    kind: Annotated[
        Curves, typer.Option("--kind", help="rows, with a panel per sigma; searches, with a curve per K; steps, a panel per model")
    ] = "rows",
    evaluations: Annotated[
        int | None, typer.Option("--evaluations", min=1, max=COUNT_MAX, help="searches: budget per image; for grids n = it / K")
    ] = None,
    caption: CaptionFile = None,
    title: Title = "",
    recipes: Recipes = None,
) -> None:
    """Draw certified accuracy against radius: of a table's rows (Figures 3, 4, 5), of sigma searches (8), for growing K (7)."""
    from ddrs.figures.certified_accuracy import certified_accuracy_figure
    from ddrs.results.captions import Caption

    certified_accuracy_figure(logs, pdf, png, kind, evaluations, Caption(caption, title, recipes or []))


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
    recipes: Recipes = None,
) -> None:
    """Draw test images with noise at the fixed sigma and at their own (Figures 6, 9); one --data, --fixed and --quantiles for each log."""
    from ddrs.figures.examples import Panel, examples_figure
    from ddrs.results.captions import Caption

    if not len(logs) == len(data) == len(fixed) == len(quantiles):
        raise DdrsError(
            f"examples: {len(logs)} logs, {len(data)} --data, {len(fixed)} --fixed and {len(quantiles)} --quantiles; give as many of each"
        )
    panels = [Panel(*parts[:3], parse_increasing("--quantiles", parts[3], 1)) for parts in zip(logs, data, fixed, quantiles, strict=True)]
    examples_figure(panels, pdf, png, seed, Caption(caption, title, recipes or []))


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
    from ddrs.figures.illustrations import illustrate
    from ddrs.results.captions import Caption

    illustrate(subject, pdf, png, seed, Caption(caption, title))
