"""The distribution of p_lower and certified accuracy per class, from logs that can be counted by hand."""

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.special import ndtri

from ddrs.certification.records import read_log
from ddrs.errors import DdrsError
from ddrs.figures.distribution import p_lower_figure, p_lower_of
from ddrs.results.per_class import write_per_class
from ddrs.results.row_cells import write_cells
from tests.unit.helpers import reseal, write_log, write_plain

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

Rows = list[tuple[int, int, int, float]]
MIXED: Rows = [(0, 1, 1, 0.5), (1, 1, 1, 0.5), (2, 2, 1, 0.5), (3, 2, -1, 0.0)]  # right, right, wrong, abstained


def ds(path: Path, rows: Rows, **more: object) -> Path:
    return write_log(path, rows, **{"method": "cohen-ds", "memory": "kept", "K": 5, **more})


@pytest.fixture(autouse=True)
def no_open_figures():
    plt.close("all")


def test_what_is_not_certified_of_its_own_counts_zero(tmp_path: Path):
    assert p_lower_of(read_log(write_log(tmp_path / "a", MIXED))).tolist() == [0.8, 0.8, 0.0, 0.0]
    for memory, kept in (("kept", 0.8), ("shrunk", 0.8), ("repeated", 0.8), ("adopted", 0.0)):
        assert p_lower_of(read_log(ds(tmp_path / "b", MIXED, memory=memory))).tolist() == [kept, kept, 0.0, 0.0]
    with pytest.raises(DdrsError, match="has no column 'p_lower'"):
        p_lower_of(read_log(write_plain(tmp_path / "c", [(0, 1, 1, 1.0, 1, 0)])))


@pytest.fixture
def drawn(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Two sigmas; at 0.25 the DS row has two K, of which validation images prefer 20 and test images 5."""
    logs = [
        write_log(tmp_path / "t1", MIXED, sigma0=0.25),
        write_log(tmp_path / "t2", MIXED, sigma0=0.5, p_lower=0.9),
        ds(tmp_path / "t3", [(i, label, label, 3.0) for i, label, _, _ in MIXED], sigma0=0.25, p_lower=0.99),
        ds(tmp_path / "t4", MIXED, sigma0=0.25, K=20, p_lower=0.7),
    ]
    held_out = [
        write_log(tmp_path / "v1", MIXED, sigma0=0.25, split="validation"),
        write_log(tmp_path / "v2", MIXED, sigma0=0.5, split="validation"),
        ds(tmp_path / "v3", MIXED, sigma0=0.25, split="validation"),
        ds(tmp_path / "v4", [(i, label, label, 3.0) for i, label, _, _ in MIXED], sigma0=0.25, K=20, split="validation"),
    ]
    return logs, held_out


def test_panels_and_curves(drawn: tuple[list[Path], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plt, "close", lambda figure: None)
    p_lower_figure(*drawn, tmp_path / "a.pdf", tmp_path / "a.png")
    figure = plt.gcf()
    monkeypatch.undo()
    assert [axis.get_title() for axis in figure.axes] == [r"$\sigma = 0.25$", r"$\sigma = 0.50$"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cohen", "cohen-ds", "largest possible"]
    fixed, own, cap = figure.axes[0].lines
    np.testing.assert_allclose(fixed.get_xdata(), [0, ndtri(0.8), ndtri(0.8)], atol=1e-9)
    assert list(fixed.get_ydata()) == [50, 75, 100], "two of four are wrong or abstained"
    np.testing.assert_allclose(own.get_xdata(), [0, ndtri(0.7), ndtri(0.7)], atol=1e-9)
    assert cap.get_xdata()[0] == pytest.approx(ndtri(0.001 ** (1 / 1000)))
    plt.close(figure)


def test_the_picture_repeats_and_is_closed(drawn: tuple[list[Path], list[Path]], tmp_path: Path):
    for name in ("a", "b"):
        p_lower_figure(*drawn, tmp_path / f"{name}.pdf", tmp_path / f"{name}.png")
    for form, start in (("pdf", b"%PDF"), ("png", b"\x89PNG")):
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()
        assert (tmp_path / f"a.{form}").read_bytes().startswith(start)
    logs, held_out = drawn
    for given, message in (
        ((logs, [held_out[0]]), "no validation log of its dataset, row and sigma"),
        ((logs[:3], held_out), "no log beside it has K 20"),
        (([], held_out), "no logs were given"),
        ((logs, logs), "is of split test"),
    ):
        with pytest.raises(DdrsError, match=message):
            p_lower_figure(*given, tmp_path / "c.pdf", tmp_path / "c.png")
        assert not plt.get_fignums()
    assert not (tmp_path / "c.pdf").exists()


@pytest.fixture
def table(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Logs and selected cells of two rows; ten images of class 1 and two of class 7."""
    rows = [(i, 1, 1, 0.3 if i < 4 else 0.6) for i in range(10)] + [(10, 7, 7, 1.0), (11, 7, 1, 1.0)]
    logs, cells = [], []
    for label, row in (("cohen", {}), ("cohen-ds", {"memory": "kept", "K": 5})):
        paths = {
            split: [
                write_log(tmp_path / split / f"{label}.0.25", rows, method=label, split=split, sigma0=0.25, **row),
                write_log(tmp_path / split / f"{label}.0.50", [(i, c, 3, 0.1) for i, c, _, _ in rows], method=label, split=split, sigma0=0.5, **row),
            ]
            for split in ("test", "validation")
        }
        logs += paths["test"]
        write_cells(paths["test"], "table1_selected", label, [0.25, 0.5], tmp_path / label, 0, paths["validation"])
        cells += sorted((tmp_path / label).iterdir())
    return logs, cells


def per_class(table: tuple[list[Path], list[Path]], folder: Path, *radii: str) -> list[list[str]]:
    write_per_class(*table, radii, folder / "p.csv", folder / "p.md")
    with open(folder / "p.csv", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_per_class_by_hand(table: tuple[list[Path], list[Path]], tmp_path: Path):
    assert per_class(table, tmp_path) == [
        ["dataset", "method", "sigma", "K", "class", "images", "0.25", "0.50", "acr"],
        ["cifar10", "cohen", "0.25", "", "1", "10", "100.00", "60.00", "0.4800"],
        ["cifar10", "cohen", "0.25", "", "7", "2", "50.00", "50.00", "0.5000"],
        ["cifar10", "cohen-ds", "0.25", "5", "1", "10", "100.00", "60.00", "0.4800"],
        ["cifar10", "cohen-ds", "0.25", "5", "7", "2", "50.00", "50.00", "0.5000"],
    ]
    text = (tmp_path / "p.md").read_text()
    assert "2 to 10 of cifar10" in text and "as much as 50.0 %" in text and "validation images chose" in text


def test_columns_can_be_chosen_but_not_invented(table: tuple[list[Path], list[Path]], tmp_path: Path):
    assert per_class(table, tmp_path, "0.5")[0][-2:] == ["0.50", "acr"]
    with pytest.raises(DdrsError, match=r"^--radii: table1_selected has no column 0\.6; its columns are 0\.25, 0\.50$"):
        per_class(table, tmp_path, "0.25", "0.6")


def test_per_class_wants_the_logs_behind_selected_cells(table: tuple[list[Path], list[Path]], tmp_path: Path):
    logs, cells = table
    with pytest.raises(DdrsError, match=r"no log of cifar10 cohen at sigma 0\.25 and K 0 was given"):
        per_class((logs[1:], cells), tmp_path)
    write_cells(logs[:2], "table1", "cohen", [0.5], tmp_path / "plain", 0)
    with pytest.raises(DdrsError, match="needs the cells of a table whose sigma and K were chosen on validation images"):
        per_class((logs, sorted((tmp_path / "plain").iterdir())), tmp_path)
    logs[0].write_text(logs[0].read_text().replace("0.300000", "0.310000"))
    reseal(logs[0])
    with pytest.raises(DdrsError, match=r"cohen\.0\.25: is not the log that the cell of cifar10 cohen was made of"):
        per_class((logs, cells), tmp_path)
