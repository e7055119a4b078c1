"""The paper's tables, assembled from cell files: csv for machines, md and tex for readers."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ddrs.errors import DdrsError
from ddrs.files import write_together
from ddrs.noise.norms import norm_of
from ddrs.provenance.digests import digest
from ddrs.results.captions import ALPHA_SENTENCE, memory_sentence, other_knobs, promise, protocol_sentence, recipe_sentence
from ddrs.results.cells import read_cells
from ddrs.results.rendering import render
from ddrs.rows import ALTERNATE, SELECTED, Row, title_of


def write_table(cells: Sequence[Path], csv: Path, md: Path, tex: Path) -> None:
    """Write one table from its cells, rows in the order of the cells, columns the union of their radii."""
    found = read_cells(cells)
    norms = {norm_of(cell["noise"], f"cell {cell['dataset']} {cell['label']} {cell['column']}") for cell in found}
    if len(norms) != 1:
        raise DdrsError("cells of different norms, l1 and l2, in one table")
    if len({cell["table"] for cell in found}) != 1:
        raise DdrsError(f"cells of different tables: {', '.join(sorted({cell['table'] for cell in found}))}")
    columns = [*sorted({cell["column"] for cell in found} - {"acr"}, key=float), "acr"]
    rows: dict[tuple[str, str], dict] = {}
    for cell in found:
        label = cell["label"]
        train, certify = Row.parse(label).kind.shown
        entry = rows.setdefault((cell["dataset"], label), {"dataset": cell["dataset"], "method": label, "train": train, "certify": certify})
        if cell["column"] in entry:
            raise DdrsError(f"the cell {cell['dataset']} {label} {cell['column']} was given twice")
        entry[cell["column"]] = cell["value"]
    table = pd.DataFrame(list(rows.values()), columns=["dataset", "method", "train", "certify", *columns])
    title, caption = _title(found), _caption(found)
    readable, made = ["%.1f"] * (len(columns) - 1) + ["%.3f"], digest([cell["digest"] for cell in found])
    tex_caption = f"{title} {caption}".replace("%", r"\%").replace("_", r"\_").replace("ℓ1", r"$\ell_1$").replace("ℓ2", r"$\ell_2$")
    body = render(table, "tex", readable)
    write_together(
        {
            csv: render(table, "csv", ["%.2f"] * (len(columns) - 1) + ["%.4f"]) + "\n",
            md: f"**{title}** {caption}\n\n{render(table, 'md', readable)}\n\nDigest of the cells: `{made}`\n",
            tex: f"\\begin{{table}}\n\\caption{{{tex_caption}}}\n{body}\n\\end{{table}}\n",
        }
    )


def _title(cells: Sequence[dict]) -> str:
    table, methods = cells[0]["table"], list(dict.fromkeys(Row.parse(cell["label"]).method for cell in cells))
    title, their = title_of(table), "its" if len(methods) == 1 else "their"
    what = f"certified accuracy per radius and ACR of {', '.join(methods)} and {their} data-dependent forms."
    if not table.endswith(SELECTED):
        return f"{title}: best {what}"
    if any(cell["choice"] == ALTERNATE for cell in cells):
        return f"{title} with a choice on half of the test images, of the other half: {what}"
    return f"{title} without a choice on test images: {what}"


def _caption(cells: Sequence[dict]) -> str:
    parts = []
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        cells_of_dataset = [cell for cell in cells if cell["dataset"] == dataset]
        one = cells_of_dataset[0]
        norm = {"l1": "ℓ1", "l2": "ℓ2"}[norm_of(one["noise"], f"cell {one['label']} {one['column']}")]
        parts.append(f"{dataset}: certified accuracy (%) at {norm} radius on {protocol_sentence(one)}.")
        if one["protocol"] == "sequential":
            parts.append("Its ACR is a lower bound: protocol sequential decides the radii of the columns only.")
        if norm == "ℓ1":
            parts.append("Its sigma is lambda, the half-width of the uniform noise.")
        parts += dict.fromkeys(recipe_sentence(cell) for cell in cells_of_dataset if cell.get("made"))
        parts += dict.fromkeys(memory_sentence(cell["label"], cell["memory"]) for cell in cells_of_dataset if cell["memory"])
    parts += _choices(cells)
    parts += promise(cell["label"] for cell in cells)
    return " ".join(parts)


def _choices(cells: Sequence[dict]) -> list[str]:
    """How sigma and K were chosen."""
    if cells[0]["choice"] == "test":
        numbers = ", ".join(["K for DS", *other_knobs(cell["label"] for cell in cells)])
        return [f"Each cell is the best over sigma (and {numbers}), chosen on the same test images as in the paper: optimistic.", ALPHA_SENTENCE]
    ways = dict.fromkeys((cell["dataset"], cell["selection"]) for cell in cells)
    even = any(cell["choice"] == ALTERNATE for cell in cells)
    apart = "No image that chose is one of those that a cell is of." if even else "The test images chose nothing."
    return [
        *(f"{dataset}, for each cell: {way}." for dataset, way in ways),
        f"{apart} A cell's interval is Clopper-Pearson, that of an ACR a bootstrap over images.",
        ALPHA_SENTENCE,
    ]
