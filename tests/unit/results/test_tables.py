"""Tables are put together from cells: rows in the order given, columns the union, empty where a dataset has no such cell."""

import csv
from pathlib import Path

import pytest

from ddrs.errors import DdrsError
from ddrs.results.row_cells import write_cells
from ddrs.results.tables import write_table
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

FACTS = {"cohen": {}, "cohen-ds": {"K": 100, "memory": "adopted"}, "cohen-ds2": {"K": 100, "memory": "shrunk"}}


def row(folder: Path, dataset: str, label: str, radii: list[float], right: int, table: str = "table1", noise: str = "gaussian") -> list[Path]:
    """The cells of one row: `right` of 8 images certified at 0.75."""
    rows = [(i, 1, 1 if i < right else -1, 0.75 if i < right else 0.0) for i in range(8)]
    out = folder / table / dataset / label
    log = write_log(folder / "logs" / dataset / f"{label}.tsv", rows, dataset=dataset, method=label, noise=noise, **FACTS[label])
    write_cells([log], table, label, radii, out, seed=0)
    return [*(out / f"{radius:.2f}.json" for radius in radii), out / "acr.json"]


@pytest.fixture
def cells(tmp_path: Path) -> list[Path]:
    return [
        *row(tmp_path, "mnist5k", "cohen", [0.0, 0.5], 6),
        *row(tmp_path, "mnist5k", "cohen-ds", [0.0, 0.5], 7),
        *row(tmp_path, "cifar10", "cohen", [0.5, 2.0, 10.0], 3),
        *row(tmp_path, "cifar10", "cohen-ds2", [0.5, 2.0, 10.0], 4),
    ]


def written(cells: list[Path], folder: Path) -> dict[str, str]:
    paths = {form: folder / f"table.{form}" for form in ("csv", "md", "tex")}
    write_table(cells, **paths)
    return {form: path.read_text() for form, path in paths.items()}


def test_csv_has_the_union_of_columns(cells: list[Path], tmp_path: Path):
    """In order of radius (10 after 2), accuracies in percent; a cell outside its dataset's grid is empty, not 0."""
    assert list(csv.reader(written(cells, tmp_path)["csv"].splitlines())) == [
        ["dataset", "method", "train", "certify", "0.00", "0.50", "2.00", "10.00", "acr"],
        ["mnist5k", "cohen", "FS", "FS", "75.00", "75.00", "", "", "0.5625"],
        ["mnist5k", "cohen-ds", "FS", "DS", "87.50", "87.50", "", "", "0.6562"],
        ["cifar10", "cohen", "FS", "FS", "", "37.50", "0.00", "0.00", "0.2812"],
        ["cifar10", "cohen-ds2", "DS", "DS", "", "50.00", "0.00", "0.00", "0.3750"],
    ]


def test_rows_follow_the_order_of_the_cells(cells: list[Path], tmp_path: Path):
    text = written([*cells[6:], *cells[:6][::-1]], tmp_path)["csv"]
    assert [line.split(",")[:2] for line in text.splitlines()[1:]] == [
        ["cifar10", "cohen"],
        ["cifar10", "cohen-ds2"],
        ["mnist5k", "cohen-ds"],
        ["mnist5k", "cohen"],
    ]


def test_markdown_and_latex_hold_the_same_numbers(cells: list[Path], tmp_path: Path):
    text = written(cells, tmp_path)
    assert "| mnist5k | cohen-ds | FS | DS | 87.5 | 87.5 |  |  | 0.656 |" in text["md"]
    assert r"mnist5k & cohen-ds & FS & DS & 87.5 & 87.5 &  &  & 0.656 \\" in text["tex"]
    assert r"\begin{tabular}{llllrrrrr}" in text["tex"] and text["tex"].rstrip().endswith(r"\end{table}")
    for form in ("md", "tex"):
        assert "nan" not in text[form].lower()


def test_the_caption_says_what_was_measured(cells: list[Path], tmp_path: Path):
    text = written(cells, tmp_path)["md"]
    for words in ("Table 1", "8 test images", "n0 = 100", "n = 1,000", "alpha = 0.001 per image and log", "optimistic", "ℓ2 radius"):
        assert words in text
    assert "lambda" not in text
    assert "Memory pass of cohen-ds: 1 pass of 8 entries, 8 adopted another class, 0 shrank" in text
    assert "Memory pass of cohen-ds2: 1 pass of 8 entries, 0 adopted another class, 8 shrank" in text
    assert "promises consistency with later queries, by construction; it promises nothing about correctness" in text


def test_a_fixed_sigma_table_speaks_of_no_memory(tmp_path: Path):
    assert "emory" not in written(row(tmp_path, "mnist5k", "cohen", [0.5], 6), tmp_path)["md"]


def test_uniform_noise_is_captioned_l1_and_latex_is_escaped(tmp_path: Path):
    text = written(row(tmp_path, "fashion_mnist", "cohen", [0.5], 6, noise="uniform"), tmp_path)
    assert (
        "ℓ1 radius" in text["md"] and "Its sigma is lambda, the half-width of the uniform noise." in text["md"] and r"$\ell_1$ radius" in text["tex"]
    )
    assert r"fashion\_mnist: certified accuracy (\%)" in text["tex"] and r"fashion\_mnist & cohen" in text["tex"]


def test_tables_repeat_and_change_with_their_cells(cells: list[Path], tmp_path: Path):
    first = written(cells, tmp_path)
    assert written(cells, tmp_path) == first
    other = row(tmp_path / "other", "mnist5k", "cohen", [0.0, 0.5], 5)
    digests = [text["md"].split("Digest of the cells: `")[1][:16] for text in (first, written([*other, *cells[3:]], tmp_path))]
    assert digests[0] != digests[1]


def test_a_missing_acr_is_empty(cells: list[Path], tmp_path: Path):
    assert written(cells[:2], tmp_path)["csv"].splitlines()[1] == "mnist5k,cohen,FS,FS,75.00,75.00,"


def test_bad_cells_are_refused(cells: list[Path], tmp_path: Path):
    with pytest.raises(DdrsError, match=r"mnist5k cohen 0\.00 was given twice"):
        written([*cells, cells[0]], tmp_path)
    with pytest.raises(DdrsError, match="different tables: table1, table2"):
        written([*cells, *row(tmp_path, "mnist5k", "cohen-ds2", [0.5], 3, table="table2")], tmp_path)
    cells[0].write_text(cells[0].read_text().replace("75.0", "95.0"))
    with pytest.raises(DdrsError, match="was changed"):
        written(cells, tmp_path)
    assert not (tmp_path / "table.csv").exists()


def test_an_unknown_row_is_refused(tmp_path: Path):
    """A label's last part must be ds or ds2, where it has one."""
    log = write_log(tmp_path / "log.tsv", [(0, 1, 1, 0.5)], method="cohen-ds3")
    with pytest.raises(DdrsError, match="cohen-ds3"):
        write_cells([log], "table1", "cohen-ds3", [0.5], tmp_path / "cells", seed=0)


def selected_row(folder: Path, label: str, right: int, **facts: object) -> list[Path]:
    """As `row`, with sigma and K chosen on six validation images at n = 500."""
    own = {"dataset": "mnist5k", "method": label, **FACTS[label], **facts}
    rows = [(i, 1, 1 if i < right else -1, 0.75 if i < right else 0.0) for i in range(8)]
    test = write_log(folder / "logs" / f"{label}.tsv", rows, **own)
    held_out = write_log(
        folder / "logs" / "validation" / f"{label}.tsv", rows[:6], **{**own, "split": "validation", "n": 500, "n_max": 500, "n_top": 400}
    )
    write_cells([test], "table1_selected", label, [0.5], folder / label, 0, [held_out])
    return [folder / label / "0.50.json", folder / label / "acr.json"]


def test_a_selected_table_says_who_chose(tmp_path: Path):
    text = written([*selected_row(tmp_path, "cohen", 6), *selected_row(tmp_path, "cohen-ds", 7)], tmp_path)
    assert text["csv"].splitlines()[1:] == ["mnist5k,cohen,FS,FS,75.00,0.5625", "mnist5k,cohen-ds,FS,DS,87.50,0.6562"]
    for words in (
        "Table 1 without a choice on test images",
        "sigma and K chosen on 6 validation images at n = 500; ties: the larger ACR",
        "8 test images",
    ):
        assert words in text["md"]
    assert "optimistic" not in text["md"] and "The test images chose nothing." in text["tex"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"alpha": 0.01}, r"0\.50\.json: has alpha 0\.01, but .*cohen/0\.50\.json has 0\.001"),
        ({"n_max": 2000}, "has n_max 2000"),
        ({"noise": "uniform"}, "has noise uniform"),
        ({"protocol": "two-stage"}, "has protocol two-stage"),
    ],
)
def test_rows_of_different_protocols_make_no_table(facts: dict, message: str, tmp_path: Path):
    cells = row(tmp_path, "mnist5k", "cohen", [0.5], 6)
    rows = [(i, 1, 1, 0.75) for i in range(8)]
    log = write_log(tmp_path / "other.tsv", rows, dataset="mnist5k", **{"method": "cohen-ds", **FACTS["cohen-ds"], **facts})
    write_cells([log], "table1", "cohen-ds", [0.5], tmp_path / "other", seed=0)
    with pytest.raises(DdrsError, match=message) as error:
        written([*cells, tmp_path / "other" / "0.50.json"], tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "table.csv").exists()


def test_datasets_of_two_norms_or_other_images_make_no_table(tmp_path: Path):
    """Two datasets may differ in alpha, as `alpha: {total: ...}` makes them; but a table's radii have one norm."""
    cells = row(tmp_path, "mnist5k", "cohen", [0.5], 6)
    with pytest.raises(DdrsError, match="cells of different norms, l1 and l2, in one table"):
        written([*cells, *row(tmp_path, "cifar10", "cohen", [0.5], 6, noise="uniform")], tmp_path)
    fewer = write_log(tmp_path / "fewer.tsv", [(0, 1, 1, 0.75)], dataset="mnist5k", method="cohen-ds", **FACTS["cohen-ds"])
    write_cells([fewer], "table1", "cohen-ds", [0.5], tmp_path / "fewer", seed=0)
    with pytest.raises(DdrsError, match=r"has images 1, but .* has 8"):
        written([*cells, tmp_path / "fewer" / "0.50.json"], tmp_path)
    with pytest.raises(DdrsError, match="no cells were given"):
        written([], tmp_path)
