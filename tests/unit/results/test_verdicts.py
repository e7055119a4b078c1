"""Verdicts: the interval of a difference against an oracle, and every reason for which nothing is compared."""

import csv
from pathlib import Path

import pytest
from scipy.stats import norm
from statsmodels.stats.proportion import confint_proportions_2indep

from ddrs.errors import DdrsError
from ddrs.results.cells import read_cell
from ddrs.results.comparison import write_comparison
from ddrs.results.published.flaws import flaw_of_print, largest_acr, largest_radius
from ddrs.results.published.printed import PRINTED_IMAGES, printed_row
from ddrs.results.row_cells import write_cells
from ddrs.results.verdicts import judged_cell
from ddrs.rows import TABLES
from ddrs.statistics.intervals import Estimate, difference, mean, share, verdict
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

PAPER = {"split": "test", "protocol": "fixed", "bound": "binary", "n0": 100, "n_max": 100_000, "alpha": 0.001, "precision": "float32"}


def cell(value: float, images: int = 10_000, **more: object) -> dict:
    """smoothadv-ds2 at 0.5 on CIFAR-10, where the paper prints 52.8."""
    place = {"table": "table2", "kind": "cifar10", "label": "smoothadv-ds2", "column": "0.50"}
    return {**place, **PAPER, "value": value, "images": images, **more}


@pytest.mark.parametrize(("hits", "images", "theirs", "of"), [(50, 100, 4010, 10_000), (0, 100, 0, 500), (100, 100, 333, 500), (7, 9, 90, 500)])
def test_the_interval_of_two_shares_is_newcombes(hits: int, images: int, theirs: int, of: int):
    found = difference([share(100 * hits / images, images)], [share(100 * theirs / of, of)])
    low, high = confint_proportions_2indep(hits, images, theirs, of, method="newcomb", compare="diff")
    assert (found.low, found.high) == pytest.approx((100 * low, 100 * high), abs=1e-9)
    assert found.value == pytest.approx(100 * hits / images - 100 * theirs / of)


def test_the_interval_of_two_means_is_the_normal_one():
    found = difference([mean(0.8, 0.6, 400)], [mean(0.7, 0.6, 10_000)])
    half = norm.ppf(0.975) * 0.6 * (1 / 400 + 1 / 10_000) ** 0.5
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1 - half, 0.1 + half))


@pytest.mark.parametrize(("low", "high", "said"), [(-1, 1, "within"), (0, 1, "within"), (-1, 0, "within"), (0.1, 1, "above"), (-1, -0.1, "below")])
def test_words(low: float, high: float, said: str):
    assert verdict(Estimate(0.0, low, high)) == said


@pytest.mark.parametrize(
    ("value", "images", "said"),
    [
        (52.8, 10_000, "within"),
        (54.0, 10_000, "within"),
        (54.3, 10_000, "above"),
        (51.3, 10_000, "below"),
        (54.3, 500, "within"),
        (60.0, 500, "above"),
    ],
)
def test_within_depends_on_the_number_of_images(value: float, images: int, said: str):
    """By hand: at 10,000 and 10,000 images near a half, 1.96 * sqrt(2 * .25 / 10,000) is 1.39 points; at 500 and 10,000 it is 4.5."""
    found = judged_cell(cell(value, images))
    assert found["verdict"] == said and found["paper"] == 52.8
    low, high = found["difference"]
    assert low < value - 52.8 < high


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"kind": "mnist5k"}, "no print"),
        ({"column": "2.75"}, "no print"),
        ({"label": "cohen"}, "no print"),
        ({"n_max": 2500}, "not comparable: n_max = 2500, where the print has 100000"),
        ({"split": "validation"}, "not comparable: split = validation, where the print has test"),
        ({"n0": 10}, "not comparable: n0 = 10, where the print has 100"),
        ({"precision": "bfloat16"}, "not comparable: precision = bfloat16, where the print has float32"),
        ({"alpha": 1e-7}, "not comparable: alpha = 1e-07, where the print has 0.001"),
        ({"protocol": "sequential"}, "not comparable: protocol = sequential, where the print has fixed"),
        ({"bound": "joint"}, "not comparable: bound = joint, where the print has binary"),
        (
            {"table": "table4", "label": "yang", "column": "1.00"},
            "not comparable: the print's radius was rounded up; at n = 100,000 and alpha = 0.001 no radius exceeds 0.99986",
        ),
        ({"column": "acr", "deviation": 0.5}, "inconsistent if sigma at most doubles: ACR 0.812, where the columns of its row allow at most 0.808"),
    ],
)
def test_why_nothing_is_compared(more: dict, said: str):
    found = judged_cell(cell(50.0, **more))
    assert (found["verdict"], found["difference"]) == (said, None)


def test_a_selected_cell_is_judged_by_the_same_print():
    assert judged_cell(cell(52.0, table="table2_selected")) == judged_cell(cell(52.0))


def test_an_acr_is_judged_with_our_spread_for_both():
    """smoothadv: .681 on 10,000 images. Ours of 500 images: 1.96 * .6 * sqrt(1/500 + 1/10,000) = .0539."""
    place = {"label": "smoothadv", "column": "acr", "deviation": 0.6}
    assert judged_cell(cell(0.734, 500, **place))["verdict"] == "within"
    assert judged_cell(cell(0.736, 500, **place))["verdict"] == "above"
    assert judged_cell(cell(0.626, 500, **place))["verdict"] == "below"


def test_the_bound_on_an_acr_by_hand():
    """Cohen on CIFAR-10: steps of .25 up to 1.75, the last one cut where n = 100,000 ends at sigma .5; each share half a unit up."""
    end = 0.5 * norm.ppf(0.001 ** (1 / 100_000))
    shares = [79.9, 58.3, 40.1, 29.2, 20.2, 13.1, 7.3]
    by_hand = sum((one + 0.05) / 100 * 0.25 for one in shares) + 0.0335 * (end - 1.75)
    assert largest_radius("table1", "cifar10", "cohen", 4.0) == pytest.approx(end)
    assert largest_acr("table1", "cifar10", "cohen", 4.0) == pytest.approx(by_hand)
    assert largest_radius("table1", "cifar10", "cohen-ds", 2.0) == pytest.approx(2 * end)
    assert largest_radius("table4", "imagenet", "yang", 4.0) == pytest.approx(2 * 0.001**1e-5 - 1)


def test_which_acrs_of_the_print_their_own_rows_exclude():
    """The five of data-dependent rows, and by a hair MACER's own: .7015 rounds to its print, its columns allow .7011."""
    places = [(table, dataset, row.label) for table, rows in TABLES.items() for row in rows for dataset in PRINTED_IMAGES]
    assert [(place[1], place[2]) for place in places if printed_row(*place) and flaw_of_print(*place, "acr")] == [
        ("cifar10", "cohen-ds"),
        ("cifar10", "cohen-ds2"),
        ("cifar10", "smoothadv-ds"),
        ("cifar10", "smoothadv-ds2"),
        ("cifar10", "macer"),
        ("cifar10", "macer-ds"),
    ]
    assert [(place[1:], column) for place in places for column in printed_row(*place) if column != "acr" and flaw_of_print(*place, column)] == [
        (("cifar10", "yang"), "1.00")
    ]


@pytest.fixture
def cells(tmp_path: Path) -> list[Path]:
    """Two rows of Table 1, 200 images at the print's n, in both forms: 40 % at 0.75 with a fixed sigma, 60 % with a data-dependent one."""
    paths = []
    for label, right, extra in (("cohen", 80, {}), ("cohen-ds", 120, {"memory": "kept", "K": 100})):
        own = {"method": label, "n": 100_000, "n_max": 100_000, **extra}
        rows = [(i, 1, 1 if i < right else 2, 0.75) for i in range(200)]
        log, held_out = (write_log(tmp_path / split / f"{label}.tsv", rows, split=split, **own) for split in ("test", "validation"))
        for table, validation in (("table1", []), ("table1_selected", [held_out])):
            out = tmp_path / table / label
            write_cells([log], table, label, [0.5, 2.75], out, 0, validation)
            paths += sorted(out.iterdir())
    return paths


def test_the_comparison_has_a_line_for_every_cell(cells: list[Path], tmp_path: Path):
    write_comparison(cells, tmp_path / "c.csv", tmp_path / "c.md")
    with open(tmp_path / "c.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(cells) == 12
    for path, one in zip(cells, lines, strict=True):
        found = read_cell(path)
        assert (one["method"], one["column"], one["choice"]) == (found["label"], found["column"], found["choice"])
        assert one["verdict"] == found["verdict"] and float(one["ours"]) == pytest.approx(found["value"], abs=0.005)
    verdicts = {(one["method"], one["column"], one["choice"]): one for one in lines}
    ours = verdicts["cohen", "0.50", "test"]
    assert (ours["ours"], ours["paper"], ours["images"], ours["sigma"], ours["K"], ours["verdict"]) == ("40.00", "40.1", "200", "0.25", "", "within")
    assert float(ours["difference_low"]) < -0.1 < float(ours["difference_high"])
    assert verdicts["cohen-ds", "0.50", "validation"]["verdict"] == "above" and verdicts["cohen-ds", "0.50", "validation"]["K"] == "100"
    assert verdicts["cohen-ds", "2.75", "test"]["verdict"] == "no print" and verdicts["cohen-ds", "2.75", "test"]["difference_low"] == ""
    assert verdicts["cohen-ds", "acr", "test"]["verdict"].startswith("print inconsistent: ACR 0.784")


def test_the_comparison_states_what_its_verdicts_assume(cells: list[Path], tmp_path: Path):
    write_comparison(cells, tmp_path / "c.csv", tmp_path / "c.md")
    text = (tmp_path / "c.md").read_text()
    for words in (
        "**Table 1: ours",
        "variance of training is not included",
        "binomial",
        "Newcombe",
        "assumed that its images spread as ours do",
        "Clopper-Pearson",
    ):
        assert words in text
    assert "cifar10, choice test: 1 within, 2 no print, 1 below, 1 above, 1 print inconsistent" in text
    assert "nan" not in text.lower().replace("newcombe", "") and text.count("\n| cifar10 |") == 12


def test_cells_of_two_tables_have_no_comparison(cells: list[Path], tmp_path: Path):
    log = write_log(tmp_path / "log.tsv", [(i, 1, 1, 0.75) for i in range(200)], method="macer", n=100_000, n_max=100_000)
    write_cells([log], "table3", "macer", [0.5], tmp_path / "table3", 0)
    with pytest.raises(DdrsError, match="different tables: table1, table3"):
        write_comparison([*cells, tmp_path / "table3" / "acr.json"], tmp_path / "c.csv", tmp_path / "c.md")
    with pytest.raises(DdrsError, match="no cells were given"):
        write_comparison([], tmp_path / "c.csv", tmp_path / "c.md")
