"""Figures: written the same twice, from our own logs only."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ddrs.errors import DdrsError
from ddrs.figures import certified_accuracy_figure
from tests.unit.helpers import write_log

LOCUSLAB = sorted((Path(__file__).parents[1] / "data" / "locuslab").glob("*.tsv"))


def rows(radius: float, right: int) -> list[tuple[int, int, int, float]]:
    return [(i, 1, 1 if i < right else 2, radius) for i in range(10)]


@pytest.fixture(autouse=True)
def no_open_figures():
    plt.close("all")


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    """Two datasets; the first has two sigmas, two K and all three rows."""
    return [
        write_log(tmp_path / "1", rows(0.5, 8), sigma0=0.25),
        write_log(tmp_path / "2", rows(1.0, 5), sigma0=0.5),
        write_log(tmp_path / "3", rows(0.5, 9), sigma0=0.25, method="cohen-ds", K=100),
        write_log(tmp_path / "4", rows(1.0, 4), sigma0=0.25, method="cohen-ds", K=900),
        write_log(tmp_path / "5", rows(1.5, 6), sigma0=0.5, method="cohen-ds2", K=100),
        write_log(tmp_path / "6", rows(2.0, 3), sigma0=1.0, dataset="mnist5k", noise="uniform"),
    ]


def test_is_written_the_same_twice(logs: list[Path], tmp_path: Path):
    for name in ("a", "b"):
        certified_accuracy_figure(logs, tmp_path / f"{name}.pdf", tmp_path / f"{name}.png")
    pdf, png = ((tmp_path / f"a.{form}").read_bytes() for form in ("pdf", "png"))
    assert pdf.startswith(b"%PDF") and png.startswith(b"\x89PNG")
    assert (pdf, png) == tuple((tmp_path / f"b.{form}").read_bytes() for form in ("pdf", "png"))
    assert b"CreationDate" not in pdf
    assert not plt.get_fignums(), "figures are closed"
    certified_accuracy_figure(logs[:2], tmp_path / "a.pdf", tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() != png, "and the picture depends on the logs"


def test_panels_and_curves(logs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A panel per sigma and one for the envelope, a line per dataset; a curve is the best over K (and sigma) in percent."""
    monkeypatch.setattr(plt, "close", lambda figure: None)
    certified_accuracy_figure(logs, tmp_path / "a.pdf", tmp_path / "a.png")
    figure = plt.gcf()
    monkeypatch.undo()
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == [r"$\sigma = 0.25$", r"$\sigma = 0.50$", "envelope", r"$\sigma = 1.00$", "envelope"]
    assert [len(axis.lines) for axis in shown] == [2, 2, 3, 1, 1]
    assert [axis.get_xlabel() for axis in shown] == [r"$\ell_2$ radius"] * 3 + [r"$\ell_1$ radius"] * 2

    def at(axis: int, curve: int, radius: float) -> float:
        line = shown[axis].lines[curve]
        return float(np.interp(radius, line.get_xdata(), line.get_ydata()))

    assert [at(0, 0, 0.25), at(0, 0, 0.75)] == [80.0, 0.0]
    assert [at(0, 1, 0.25), at(0, 1, 0.75), at(0, 1, 1.25)] == [90.0, 40.0, 0.0]
    assert [at(2, 0, 0.25), at(2, 0, 0.75), at(2, 2, 1.25)] == [80.0, 50.0, 60.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["cohen", "cohen-ds", "cohen-ds2"]
    plt.close(figure)


def test_foreign_and_incomparable_logs_are_refused(logs: list[Path], tmp_path: Path):
    for wrong, message in (
        ([LOCUSLAB[0]], "has no column 'method'"),
        ([*logs, LOCUSLAB[0]], "has no column 'method'"),
        ([logs[0], write_log(tmp_path / "7", rows(0.5, 8)[:9])], "other images"),
        ([logs[0], write_log(tmp_path / "8", rows(0.5, 8), noise="uniform")], "noise uniform"),
    ):
        with pytest.raises(DdrsError, match=message):
            certified_accuracy_figure(wrong, tmp_path / "a.pdf", tmp_path / "a.png")
        assert not plt.get_fignums(), "a refused figure is closed too"
    assert not (tmp_path / "a.pdf").exists()


def test_an_unknown_row_is_refused(tmp_path: Path):
    with pytest.raises(DdrsError, match="cohen-ds3"):
        certified_accuracy_figure([write_log(tmp_path / "9", rows(0.5, 8), method="cohen-ds3")], tmp_path / "a.pdf", tmp_path / "a.png")
