"""Figures: written the same twice, from our own logs only."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ddrs.errors import DdrsError
from ddrs.figures.certified_accuracy import certified_accuracy_figure
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

LOCUSLAB = sorted((Path(__file__).parents[2] / "data" / "locuslab").glob("*.tsv"))


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


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Draw and keep the figure open; gives it."""

    def draw(paths: list[Path], **more: object):
        monkeypatch.setattr(plt, "close", lambda figure: None)
        certified_accuracy_figure(paths, tmp_path / "a.pdf", tmp_path / "a.png", **more)
        figure = plt.gcf()
        monkeypatch.undo()
        return figure

    yield draw
    plt.close("all")


def legend(figure) -> list[str]:
    (only,) = figure.legends
    return [text.get_text() for text in only.get_texts()]


def value(axis, curve: int, radius: float) -> float:
    line = axis.lines[curve]
    return float(np.interp(radius, line.get_xdata(), line.get_ydata()))


def test_searches_have_a_curve_per_k_and_grids_are_named_by_n(tmp_path: Path, drawn):
    """Figure 8: 200 evaluations are 100 steps, or a grid of 200 points with n = 1, or of 20 with n = 10."""
    logs = [write_log(tmp_path / f"fs{sigma}", rows(0.4 * sigma, 8), sigma0=sigma) for sigma in (0.25, 0.5)]
    logs += [write_log(tmp_path / f"ds{sigma}", rows(0.5 * sigma, 9), sigma0=sigma, method="cohen-ds", K=100) for sigma in (0.25, 0.5)]
    for k, right in ((200, 3), (20, 5)):
        logs += [write_log(tmp_path / f"gds{sigma}{k}", rows(sigma, right), sigma0=sigma, method="cohen-gds", K=k) for sigma in (0.25, 0.5)]
    figure = drawn(logs, kind="searches", evaluations=200)
    assert legend(figure) == ["cohen", "cohen-ds, K = 100", "cohen-gds, n = 1", "cohen-gds, n = 10"]
    assert [axis.get_title() for axis in figure.axes] == [r"$\sigma = 0.25$", r"$\sigma = 0.50$", "envelope"]
    assert [len(axis.lines) for axis in figure.axes] == [4, 4, 4]
    assert [value(figure.axes[0], i, 0.05) for i in range(4)] == [80.0, 90.0, 30.0, 50.0]
    assert [value(figure.axes[0], i, 0.2) for i in range(4)] == [0.0, 0.0, 30.0, 50.0]
    assert [value(figure.axes[2], i, 0.4) for i in range(4)] == [0.0, 0.0, 30.0, 50.0]
    looks = {(line.get_color(), str(line.get_linestyle()), str(line._dash_pattern)) for line in figure.axes[0].lines}
    assert len(looks) == 4 and len({dashes for _, _, dashes in looks}) == 4, "told apart without colour too"


def test_steps_have_a_panel_per_model_and_a_curve_per_k(tmp_path: Path, drawn):
    """Figure 7: panels in the order given, K ascending, K = 0 among them; a panel of another norm has its own axis."""
    logs = [write_log(tmp_path / f"a{k}", rows(0.1 + k / 1000, 9 - k // 300), sigma0=0.5, method="cohen-ds2", K=k) for k in (900, 0, 300)]
    logs += [write_log(tmp_path / f"b{k}", rows(0.2, 7), sigma0=0.25, method="yang-ds", K=k, noise="uniform") for k in (0, 300)]
    figure = drawn(logs, kind="steps")
    assert legend(figure) == ["K = 0", "K = 300", "K = 900"]
    assert [axis.get_title() for axis in figure.axes] == ["cifar10, cohen-ds2\n$\\sigma_0 = 0.50$", "cifar10, yang-ds\n$\\lambda_0 = 0.25$"]
    assert [axis.get_xlabel() for axis in figure.axes] == [r"$\ell_2$ radius", r"$\ell_1$ radius"]
    assert [len(axis.lines) for axis in figure.axes] == [3, 2]
    assert [value(figure.axes[0], i, 0.05) for i in range(3)] == [90.0, 80.0, 60.0]
    assert [value(figure.axes[0], i, 0.3) for i in range(3)] == [0.0, 80.0, 60.0]
    colours = [[line.get_color() for line in axis.lines] for axis in figure.axes]
    assert colours[1] == colours[0][:2], "a K looks the same in every panel"


def test_a_fixed_sigma_is_step_0_of_the_ds_row_beside_it(tmp_path: Path, drawn):
    fixed = [write_log(tmp_path / f"fs{sigma}", rows(0.1, 9), sigma0=sigma) for sigma in (0.25, 0.5)]
    logs = [write_log(tmp_path / f"ds{sigma}", rows(0.3, 6), sigma0=sigma, method="cohen-ds", K=300, memory="kept") for sigma in (0.25, 0.5)]
    figure = drawn([fixed[0], logs[1], fixed[1], logs[0]], kind="steps")
    assert legend(figure) == ["K = 0", "K = 300"] and [len(axis.lines) for axis in figure.axes] == [2, 2]
    assert [axis.get_title() for axis in figure.axes] == [f"cifar10, cohen-ds\n$\\sigma_0 = {sigma}$" for sigma in ("0.25", "0.50")]
    assert [value(axis, i, 0.05) for axis in figure.axes for i in (0, 1)] == [90.0, 60.0] * 2


@pytest.mark.parametrize("kind", ["steps", "searches"])
def test_other_kinds_are_written_the_same_twice_and_closed(kind: str, tmp_path: Path):
    logs = [write_log(tmp_path / f"{k}", rows(0.5, 8), method="cohen-ds", K=k) for k in (0, 10)]
    for name in ("a", "b"):
        certified_accuracy_figure(logs, tmp_path / f"{name}.pdf", tmp_path / f"{name}.png", kind)
    for form in ("pdf", "png"):
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()
    assert not plt.get_fignums()


def test_what_does_not_fit_a_kind_is_one_line(tmp_path: Path):
    fixed, grid = write_log(tmp_path / "fs", rows(0.5, 8)), write_log(tmp_path / "gds", rows(0.5, 8), method="cohen-gds", K=30)
    ds = [write_log(tmp_path / f"{k}", rows(0.5, 8)[: 10 - k], method="cohen-ds", K=k) for k in (0, 1)]
    other = write_log(tmp_path / "other", rows(0.5, 8), method="cohen-ds", K=5, sigma0=3.0)
    for paths, kind, evaluations, message in (
        ([fixed], "steps", None, r"has no K, and no log of cohen-ds at sigma \S+ stands beside it"),
        ([fixed, other], "steps", None, r"has no K, and no log of cohen-ds at sigma \S+ stands beside it"),
        ([grid], "searches", None, "a grid of 30 points needs --evaluations"),
        ([grid], "searches", 200, "a grid of 30 points needs --evaluations, a multiple of it"),
        ([fixed], "lines", None, "kind 'lines': must be rows, searches or steps"),
        (ds, "steps", None, "other images"),
    ):
        with pytest.raises(DdrsError, match=message) as error:
            certified_accuracy_figure(paths, tmp_path / "a.pdf", tmp_path / "a.png", kind, evaluations)
        assert "\n" not in str(error.value) and not (tmp_path / "a.pdf").exists()
        assert not plt.get_fignums()
