"""A verb that fails leaves the former result as it was, all of its files, whichever of them could not be written."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ddrs.files import temporary_of, write_together
from ddrs.results import tables
from ddrs.results.comparison import write_comparison
from ddrs.results.tables import write_table
from tests.unit.results.test_tables import row

pytestmark = pytest.mark.usefixtures("invented_radii")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def former(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    write_together({folder / name: f"old {name}" for name in ("t.csv", "t.md", "t.tex")})
    return folder


@pytest.mark.parametrize("full", ["t.csv", "t.md", "t.tex"])
def test_files_that_are_one_result_are_all_new_or_all_old(full: str, former: Path):
    new: dict[Path, str | bytes] = {former / "t.csv": "σ\n", former / "t.md": b"\xff", former / "t.tex": "x"}
    before = contents(former)
    temporary_of(former / full).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        write_together(new)
    assert error.value.filename == str(former / full) and contents(former) == before
    write_together(new)
    assert contents(former) == {"t.csv": "σ\n".encode(), "t.md": b"\xff", "t.tex": b"x"}


def write_both(cells: list[Path], csv: Path, md: Path, tex: Path) -> None:
    write_comparison(cells, csv, md)


@pytest.mark.parametrize(("write", "full"), [(write_table, "t.tex"), (write_table, "t.md"), (write_both, "t.md")])
def test_a_full_disk_leaves_every_file_of_the_former_table(write: Callable, full: str, former: Path, tmp_path: Path):
    before = contents(former)
    temporary_of(former / full).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        write(row(tmp_path, "mnist5k", "cohen", [0.0, 0.5], 6), former / "t.csv", former / "t.md", former / "t.tex")
    assert contents(former) == before


def test_a_table_that_fails_while_its_last_form_is_made_leaves_the_former(former: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before, render = contents(former), tables.render

    def fails_at_tex(table: pd.DataFrame, form: str, formats: list[str]) -> str:
        if form == "tex":
            raise ZeroDivisionError
        return render(table, form, formats)

    monkeypatch.setattr(tables, "render", fails_at_tex)
    with pytest.raises(ZeroDivisionError):
        write_table(row(tmp_path, "mnist5k", "cohen", [0.0, 0.5], 6), former / "t.csv", former / "t.md", former / "t.tex")
    assert contents(former) == before
