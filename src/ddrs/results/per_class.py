"""Certified accuracy of each class on its own: an average may hide a class that is never certified."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ddrs.certification.records import Log, read_logs
from ddrs.errors import DdrsError
from ddrs.files import write_together
from ddrs.provenance.digests import digest, file_digest
from ddrs.results.captions import cells_caption, second_numbers
from ddrs.results.cells import read_cells
from ddrs.results.envelope import average_certified_radius, certified_accuracy
from ddrs.results.rendering import render
from ddrs.results.selection import configuration, halves
from ddrs.rows import ALTERNATE, read_logged, spelled, title_of


def write_per_class(paths: Sequence[Path], cells: Sequence[Path], radii: Sequence[str], csv: Path, md: Path) -> None:
    """Write a line per row of a table and class: the certified accuracy at each radius, and the ACR, over the class's images.

    paths: the logs behind the table. cells: the cells of its selected form; each row is shown at the one sigma and K that other images chose
    for its ACR, and on the images that these cells are of. radii: columns to show, all of the table if none are given. Errors: DdrsError for
    a column that the table lacks, or a log that the cells are not made of.
    """
    found = read_cells(cells)
    if any(cell["choice"] == "test" for cell in found):
        raise DdrsError("per-class: needs the cells of a table whose sigma and K were chosen on validation images or on half of the test images")
    columns = _columns(found, radii)
    logs = read_logs(paths)
    lines = []
    for cell in found:
        if cell["column"] == "acr":
            shown = [column for column in columns if any(_is(other, cell, column) for other in found)]
            lines += _lines(_log_of(cell, logs), cell, shown)
    table = pd.DataFrame(lines, columns=["dataset", "method", "sigma", "K", "class", "images", *columns, "acr"])
    body = render(table, "md", ["%.1f"] * len(columns) + ["%.3f"])
    text = f"{_caption(found, table)}\n\n{body}\n\nDigest of the cells: `{digest([cell['digest'] for cell in found])}`\n"
    write_together({csv: render(table, "csv", ["%.2f"] * len(columns) + ["%.4f"]) + "\n", md: text})


def _is(other: dict, cell: dict, column: str) -> bool:
    return (other["dataset"], other["label"], other["column"]) == (cell["dataset"], cell["label"], column)


def _columns(cells: Sequence[dict], radii: Sequence[str]) -> list[str]:
    """The columns asked for, or all; DdrsError names one that no row of the table has."""
    known = sorted({cell["column"] for cell in cells} - {"acr"}, key=float)
    asked = [f"{float(radius):g}" for radius in radii]
    for radius in asked:
        if radius not in [f"{float(column):g}" for column in known]:
            raise DdrsError(f"--radii: {cells[0]['table']} has no column {radius}; its columns are {', '.join(known)}")
    return [column for column in known if not asked or f"{float(column):g}" in asked]


def _log_of(cell: dict, logs: Sequence[Log]) -> Log:
    """The log that an ACR's cell was made of, its images those that the cell is of; DdrsError if it is not among those given."""
    knob, number = read_logged(str(cell["K"] or ""))
    wanted = (float(cell["sigma0"]), number)
    for log in logs:
        if (log.constant("dataset"), log.constant("method"), configuration(log)) == (cell["dataset"], cell["label"], wanted):
            if file_digest(Path(log.name)) not in cell["digests"].values():
                raise DdrsError(f"{log.name}: is not the log that the cell of {cell['dataset']} {cell['label']} was made of")
            return halves([log])[1][0] if cell["choice"] == ALTERNATE else log
    raise DdrsError(f"no log of {cell['dataset']} {cell['label']} at sigma {wanted[0]:g} and {knob} {spelled(number)} was given")


def _lines(log: Log, cell: dict, columns: Sequence[str]) -> list[dict]:
    lines = []
    for label, part in log.table.groupby("label"):
        log_of_class = Log(log.name, part)
        accuracy = 100 * certified_accuracy(log_of_class, [float(column) for column in columns]) if columns else []
        lines.append(
            {
                "dataset": cell["dataset"],
                "method": cell["label"],
                "sigma": f"{float(cell['sigma0']):.2f}",
                "K": "" if cell["K"] is None else str(cell["K"]),
                "class": label,
                "images": len(part),
                **dict(zip(columns, accuracy, strict=True)),
                "acr": average_certified_radius(log_of_class),
            }
        )
    return lines


def _caption(cells: Sequence[dict], table: pd.DataFrame) -> str:
    counts = ", ".join(f"{least} to {most} of {name}" for name, least, most in table.groupby("dataset")["images"].agg(["min", "max"]).itertuples())
    return (
        f"**Certified accuracy per class, rows of {title_of(cells[0]['table'])}.** Percent of a class's images that are predicted correctly "
        f"with at least the radius; the ACR over the class. {cells_caption(cells)} "
        f"{_choices(cells)} Images per class: {counts}, so that one image is "
        f"as much as {100 / table['images'].min():.1f} %."
    )


def _choices(cells: Sequence[dict]) -> str:
    """What chose sigma and K, said once for all datasets or for each."""
    numbers = second_numbers(cell["label"] for cell in cells)
    ways = {
        "validation": f"is at the one sigma and {numbers} that the validation images chose for its ACR.",
        ALTERNATE: f"is at the one sigma and {numbers} that every second test image chose for its ACR, and of the other images.",
    }
    chosen = dict.fromkeys((cell["dataset"], cell["choice"]) for cell in cells)
    if len({choice for _, choice in chosen}) == 1:
        return f"Each row {ways[cells[0]['choice']]}"
    return " ".join(f"Each row of {dataset} {ways[choice]}" for dataset, choice in chosen)
