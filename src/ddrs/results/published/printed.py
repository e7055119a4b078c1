"""The paper's numbers: tables.csv holds Tables 1 to 4 of Alfarra et al., "Data Dependent Randomized Smoothing", UAI 2022, as printed.

Certified accuracies are in percent, ACR in units of the [0,1] pixel scale. The test images behind them: all 10,000 of CIFAR-10 and 500
of ImageNet, as the steps between the printed values show.
"""

import csv
from functools import cache
from importlib.resources import files

from ddrs.rows import table_of_print

PRINTED_IMAGES = {"cifar10": 10_000, "imagenet": 500}  # test images behind the print
CITATION = "Alfarra, Bibi, Torr, Ghanem: Data Dependent Randomized Smoothing, UAI 2022"


def read_csv(name: str) -> list[dict[str, str]]:
    """The rows of one of this folder's files."""
    with (files("ddrs.results.published") / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def _rows() -> dict[tuple[str, str, str], dict[str, float]]:
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for line in read_csv("tables.csv"):
        column = "acr" if line["metric"] == "acr" else f"{float(line['radius']):.2f}"
        found.setdefault((f"table{line['table']}", line["dataset"], line["method"]), {})[column] = float(line["value"])
    return found


def printed_row(table: str, dataset: str, label: str) -> dict[str, float]:
    """The printed values of a row by column ("0.50" or "acr"), empty if the paper has no such row."""
    return dict(_rows().get((table_of_print(table), dataset, label), {}))


def published(table: str, dataset: str, label: str, column: str) -> float | None:
    """The printed value of a cell ("0.50" or "acr" is its column), or None if the paper has no such cell."""
    return printed_row(table, dataset, label).get(column)
