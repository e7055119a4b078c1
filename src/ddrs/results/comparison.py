"""Ours beside the print: every cell of a table and of its selected form, with the verdict of each."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ddrs.errors import DdrsError
from ddrs.files import write_together
from ddrs.provenance.digests import digest
from ddrs.results.captions import cells_caption, second_numbers
from ddrs.results.cells import INTERVALS, WITHOUT, read_cells
from ddrs.results.published.printed import CITATION
from ddrs.results.rendering import render
from ddrs.results.verdicts import DEFINITION
from ddrs.rows import ALTERNATE, table_of_print, title_of


def write_comparison(cells: Sequence[Path], csv: Path, md: Path) -> None:
    """Write a line for each cell, in the order given: value, interval, the print and the verdict. DdrsError for cells of two tables."""
    found = read_cells(cells)
    tables = sorted({table_of_print(cell["table"]) for cell in found})
    if len(tables) != 1:
        raise DdrsError(f"cells of different tables: {', '.join(tables)}")
    table = pd.DataFrame([line(cell) for cell in found])
    body = render(table, "md", ["%s"] * len(table.columns))
    page = f"{_caption(found)}\n\n{body}\n\nDigest of the cells: `{digest([cell['digest'] for cell in found])}`\n"
    write_together({csv: table.to_csv(index=False), md: page})


def line(cell: dict) -> dict:
    """A cell as a line of the comparison: accuracies in percent with two decimals, ACRs with four, an absent number None."""
    digits = 4 if cell["column"] == "acr" else 2
    low, high = cell["difference"] or (None, None)
    numbers = {"ours": cell["value"], "low": cell["interval"][0], "high": cell["interval"][1], "difference_low": low, "difference_high": high}
    return {
        "dataset": cell["dataset"],
        "method": cell["label"],
        "column": cell["column"],
        "choice": cell["choice"],
        "sigma": f"{float(cell['sigma0']):.2f}",
        "K": "" if cell["K"] is None else str(cell["K"]),
        **{name: None if value is None else f"{value:.{digits}f}" for name, value in numbers.items()},
        "images": cell["images"],
        "paper": cell["paper"],
        "verdict": cell["verdict"],
    }


def _caption(cells: Sequence[dict]) -> str:
    table = title_of(cells[0]["table"])
    said = Counter((cell["dataset"], cell["choice"], cell["verdict"].partition(":")[0]) for cell in cells)
    counts = ". ".join(
        f"{dataset}, choice {choice}: " + ", ".join(f"{count} {word}" for (of, by, word), count in said.items() if (of, by) == (dataset, choice))
        for dataset, choice in dict.fromkeys((cell["dataset"], cell["choice"]) for cell in cells)
    )
    chosen, numbers = INTERVALS["validation"], second_numbers(cell["label"] for cell in cells)
    return (
        f"**{table}: ours beside the print.** {cells_caption(cells)} {counts}. The print is {CITATION}. `choice` says which images chose "
        f"sigma and {numbers}: `test`, as in the paper, or `validation`, or `{ALTERNATE}`: every second test image, the others being reported. "
        f"low and high are the interval of ours alone, {WITHOUT}: for choice test {INTERVALS['test'][0]}; for other choices {chosen[0]}, of an "
        f"ACR {chosen[1]}. "
        f"{DEFINITION}"
    )
