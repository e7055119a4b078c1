"""A cell as a file: read, and checked against itself and the cells beside it."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from ddrs.certification.records import STATISTICS
from ddrs.errors import DdrsError
from ddrs.files import require
from ddrs.provenance.digests import digest, require_distinct
from ddrs.results.verdicts import judged_cell
from ddrs.rows import ALTERNATE, table_of_print

WITHOUT = "without the variance of training"
INTERVALS = {  # by where sigma and K were chosen: of an accuracy, of the ACR
    "test": (
        "95 % bootstrap over images, the choice of sigma and K redone in each replicate, at least the Clopper-Pearson interval; optimistic",
        "95 % bootstrap over images, the choice of sigma and K redone in each replicate; optimistic",
    ),
    **dict.fromkeys(("validation", ALTERNATE), ("95 % Clopper-Pearson", "95 % bootstrap over images of the one chosen configuration")),
}
CELL_FACTS = ("dataset", "split", "data", *STATISTICS, "seed")
OF_ROW = ("table", "label", *CELL_FACTS, "kind", "made", "images", "choice", "selection", "memory")  # what all cells of a row share, and ...
OF_ROW += ("digests", "validation_digests", "digests_before_memory")  # ... by what their logs are known
OF_CELL = ("column", "unit", "value", "interval", "interval_is", "sigma0", "K", "paper", "difference", "verdict", "paper_source")
ROUNDING = 2e-6  # two of the numbers that are rounded to six decimals


def read_cell(path: Path) -> dict:
    """A cell, or a DdrsError that names the file: of what is no cell, was changed after it was written, or contradicts itself."""
    require(path, "cell")
    try:
        cell = json.loads(path.read_bytes())
        recorded = cell.pop("digest")
        changed, flaw = recorded != digest(cell), _flaw(cell)
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError, RecursionError):
        raise DdrsError(f"cell {path}: not a cell file") from None
    if changed:
        raise DdrsError(f"cell {path}: was changed after it was written (its digest does not match); make it again")
    if flaw:
        raise DdrsError(f"cell {path}: {flaw}; make it again")
    return {**cell, "digest": recorded}


def _flaw(cell: dict) -> str | None:
    """What in a cell contradicts itself, or None. Errors (of lookups, types and numbers) where fields are missing or of another kind."""
    missing = [name for name in (*OF_ROW, *OF_CELL) if name not in cell]
    if missing:
        return f"lacks {missing[0]!r}"
    column, value, (low, high), images = cell["column"], cell["value"], cell["interval"], cell["images"]
    accuracy = column != "acr"
    if accuracy and not (column == f"{float(column):.2f}" and 0 <= float(column) < np.inf):
        return f"has column {column!r}, which must be acr or a radius >= 0 with two decimals"
    if type(images) is not int or images < 1 or any(type(one) not in (int, float) for one in (value, low, high)):
        raise TypeError
    most = 100 if accuracy else np.inf
    if not (0 <= low <= high <= most and 0 <= value <= most and value < np.inf):
        return f"has value {value} and interval [{low}, {high}], which must be within [0, {most:g}]"
    best = not accuracy and cell["choice"] == "test"  # of which the replicates' choice may make each end too high
    if value > high + ROUNDING or (value < low - ROUNDING and not best):
        return f"has value {value}, outside its own interval [{low}, {high}]"
    if accuracy and abs(value * images / 100 - round(value * images / 100)) > ROUNDING * images / 100:
        return f"has value {value} %, which is no share of {images} images"
    if any(cell[name] != found for name, found in judged_cell(cell).items()):
        return "has another print, difference or verdict than follows from its value"
    return None


def read_cells(paths: Sequence[Path]) -> list[dict]:
    """Cells that may stand together.

    DdrsError if there are none, if those of one table and dataset differ in images or protocol, or if those of one row are not of the same
    logs, or contradict each other.
    """
    if not paths:
        raise DdrsError("no cells were given")
    require_distinct(paths, "cell")
    cells = [read_cell(path) for path in paths]
    first: dict[tuple[str, ...], tuple[dict, Path]] = {}
    for cell, path in zip(cells, paths, strict=True):
        place = (table_of_print(cell["table"]), cell["dataset"])
        half = ALTERNATE if cell["choice"] == ALTERNATE else ""  # whose cells are of half the images
        row = ("row", cell["table"], cell["dataset"], cell["label"])
        for key, names in ((place, ("split", "kind", *STATISTICS)), ((*place, half), ("images",)), (row, OF_ROW)):
            other, where = first.setdefault(key, (cell, path))
            for name in names:
                if cell[name] != other[name]:
                    raise DdrsError(f"cell {path}: has {name} {cell[name]}, but {where} has {other[name]}")
    rows: dict[tuple[str, ...], list[tuple[dict, Path]]] = {}
    for cell, path in zip(cells, paths, strict=True):
        if cell["choice"] == "test":  # elsewhere one configuration is chosen for each column, on other images
            rows.setdefault((cell["table"], cell["dataset"], cell["label"]), []).append((cell, path))
    for row in rows.values():
        _check_row(row)
    return cells


def _check_row(row: Sequence[tuple[dict, Path]]) -> None:
    """DdrsError if cells can't be the best of the same logs: what is certified at a radius is so at a smaller one, and counts in the ACR."""
    columns = sorted(((cell, path) for cell, path in row if cell["column"] != "acr"), key=lambda one: float(one[0]["column"]))
    for (cell, path), (farther, where) in pairwise(columns):
        if farther["value"] > cell["value"] + ROUNDING:
            raise DdrsError(f"cell {where}: has {farther['value']} %, more than {path} has at a smaller radius")
    for acr, where in ((cell, path) for cell, path in row if cell["column"] == "acr"):
        for cell, path in columns:
            if float(cell["column"]) * cell["value"] / 100 > acr["value"] + ROUNDING * (1 + float(cell["column"])):
                raise DdrsError(f"cell {where}: has an ACR of {acr['value']}, less than the {cell['value']} % of {path} alone make of it")
