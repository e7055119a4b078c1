"""The paper's numbers: tables.csv holds Tables 1 to 4 of Alfarra et al., "Data Dependent Randomized Smoothing", UAI 2022, as printed.

Certified accuracies are in percent, ACR in units of the [0,1] pixel scale. The test images behind them: all 10,000 of CIFAR-10 and 500
of ImageNet, as the steps between the printed values show.
"""

import csv
from functools import cache
from importlib.resources import files

TABLES = {  # the rows of each table, in its order; the first is the method that the table is about
    "table1": ("cohen", "cohen-ds", "cohen-ds2"),
    "table2": ("smoothadv", "smoothadv-ds", "smoothadv-ds2"),
    "table3": ("macer", "macer-ds", "macer-ds2"),
    "table4": ("yang", "yang-ds"),
}
IMAGES = {"cifar10": 10_000, "imagenet": 500}  # test images behind the print
SOURCE = "Alfarra, Bibi, Torr, Ghanem: Data Dependent Randomized Smoothing, UAI 2022"


@cache
def _numbers() -> dict[tuple[str, str, str, str], float]:
    with (files("ddrs.published") / "tables.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ("acr" if row["metric"] == "acr" else f"{float(row['radius']):.2f}" for row in rows)
    return {(f"table{row['table']}", row["dataset"], row["method"], column): float(row["value"]) for row, column in zip(rows, columns, strict=True)}


def published(table: str, dataset: str, label: str, column: str) -> float | None:
    """The printed value of a cell ("0.50" or "acr" is its column), or None if the paper has no such cell."""
    return _numbers().get((table, dataset, label, column))
