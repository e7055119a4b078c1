"""What tables and figures say of their certificates, and the pages that show tables."""

from pathlib import Path

import pytest

from ddrs.certification.records import read_log
from ddrs.errors import DdrsError
from ddrs.pages import write_page
from ddrs.statements import memory_counts, of_logs, of_memory
from tests.unit.helpers import one_line, write_log

ROWS = [(0, 1, 1, 0.5), (1, 1, 1, 0.4), (2, 1, 2, 0.1)]


def test_a_figures_statement_has_images_protocol_and_the_memorys_counts(tmp_path: Path):
    """Once per dataset, and a count per row, also where the memory changed nothing."""
    logs = [
        write_log(tmp_path / "1", ROWS, noise="lattice"),
        write_log(tmp_path / "2", ROWS, noise="lattice", method="cohen-ds", K=100, memory="shrunk"),
        write_log(tmp_path / "3", ROWS, noise="lattice", method="cohen-ds", K=900, memory="adopted"),
        write_log(tmp_path / "4", ROWS, noise="lattice", method="cohen-ds2", K=900, memory="kept"),
        write_log(tmp_path / "5", ROWS[:2], dataset="mnist5k", n_max=2500),
    ]
    assert of_logs([read_log(path) for path in logs]) == (
        "cifar10: 3 test images, protocol fixed, n0 = 100, n = 1,000, alpha = 0.001 per image, noise on the pixel grid. "
        "Memory passes of how many entries (adopted another class, shrank): cohen-ds 2 of 3 (3,\N{NO-BREAK SPACE}3); "
        "cohen-ds2 1 of 3 (0,\N{NO-BREAK SPACE}0). "
        "mnist5k: 2 test images, protocol fixed, n0 = 100, n = 2,500, alpha = 0.001 per image."
    )


def test_the_memorys_counts_of_a_row(tmp_path: Path):
    passed = read_log(write_log(tmp_path / "1", ROWS, method="cohen-ds", K=100, memory="shrunk"))
    counts = memory_counts([passed])
    assert counts == {"passes": 1, "entries": 3, "kept": 0, "adopted": 0, "shrunk": 3, "repeated": 0}
    assert of_memory("cohen-ds", counts) == "Memory pass of cohen-ds: 1 pass of 3 entries, 0 adopted another class, 3 shrank."
    assert memory_counts([read_log(write_log(tmp_path / "2", ROWS))]) is None


def test_logs_of_others_make_no_statement(tmp_path: Path):
    path = tmp_path / "log.tsv"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t0.1\n")
    with pytest.raises(DdrsError, match="has no column 'dataset'; figures need logs written by ddrs certify") as error:
        of_logs([read_log(path)])
    one_line(error)


def test_a_page_shows_the_table_and_needs_no_other_file(tmp_path: Path):
    md = tmp_path / "table9.md"
    md.write_text("**Table 9.** A <b>caption</b> of `x_y`.\n\n| a | b |\n| --- | --- |\n| 1 | 2.5 |\n")
    write_page(md, tmp_path / "pages" / "table9.html")
    text = (tmp_path / "pages" / "table9.html").read_text()
    assert "<title>table9</title>" in text and "<strong>Table 9.</strong>" in text and "<code>x_y</code>" in text
    assert text.count("<td>") == 2 and "<td>2.5</td>" in text and text.count("<th>") == 2
    assert "&lt;b&gt;caption" in text, "what looks like HTML is shown, not run"
    assert "http" not in text and "<script" not in text


def test_a_page_of_nothing_is_one_line(tmp_path: Path, ddrs_cli):
    code, _, err = ddrs_cli("page", tmp_path / "none.md", "--html", tmp_path / "none.html")
    assert code == 2 and err.count("\n") == 1 and "none.md: no such file" in err
    assert list(tmp_path.iterdir()) == []
