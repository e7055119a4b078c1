"""What tables and figures say of their certificates, and the pages that show tables."""

from base64 import b64encode
from pathlib import Path

import pytest
from PIL import Image

from ddrs.certification.records import read_log
from ddrs.errors import DdrsError
from ddrs.results.captions import PROTOCOL_FACTS, Caption, cells_caption, logs_caption, memory_counts, memory_sentence, promise
from ddrs.results.pages import write_page
from tests.unit.helpers import one_line, write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

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
    assert logs_caption([read_log(path) for path in logs]) == (
        "cifar10: 3 test images, protocol fixed, n0 = 100, n = 1,000, alpha = 0.001 per image and log, noise on the pixel grid. "
        "Memory passes of how many entries (adopted another class, shrank): cohen-ds 2 of 3 (3,\N{NO-BREAK SPACE}3); "
        "cohen-ds2 1 of 3 (0,\N{NO-BREAK SPACE}0). "
        "mnist5k: 2 test images, protocol fixed, n0 = 100, n = 2,500, alpha = 0.001 per image and log."
    )


def test_equal_counts_of_two_datasets_are_said_of_each(tmp_path: Path):
    facts = {"method": "cohen-ds", "K": 100, "memory": "kept"}
    logs = [read_log(write_log(tmp_path / name, ROWS, dataset=name, **facts)) for name in ("cifar10", "mnist5k")]
    assert logs_caption(logs).count("cohen-ds 1 of 3 (0,\N{NO-BREAK SPACE}0)") == 2
    counts = {"label": "cohen-ds", "made": "", "memory": memory_counts(logs[:1])}
    cells = [{**counts, "images": 3, **{name: log.constant(name) for name in ("dataset", *PROTOCOL_FACTS)}} for log in logs]
    assert cells_caption(cells).count("Memory pass of cohen-ds: 1 pass of 3 entries") == 2


def test_what_differs_from_the_field_is_said(tmp_path: Path):
    logs = [write_log(tmp_path / "1", ROWS, bound="joint"), write_log(tmp_path / "2", ROWS, dataset="mnist5k", precision="bfloat16-compiled")]
    assert logs_caption([read_log(path) for path in logs]) == (
        "cifar10: 3 test images, protocol fixed with bound joint, n0 = 100, n = 1,000, alpha = 0.001 per image and log. "
        "mnist5k: 3 test images, protocol fixed, n0 = 100, n = 1,000, alpha = 0.001 per image and log, the classifier computed in bfloat16-compiled."
    )


def test_a_caption_has_title_text_certificates_making_and_the_memorys_promise(tmp_path: Path):
    fixed = read_log(write_log(tmp_path / "1", ROWS))
    passed = read_log(write_log(tmp_path / "2", ROWS, method="cohen-ds", K=100, memory="kept"))
    Caption(tmp_path / "a.md", "Figure 0", ["Made so.", "And so."]).write("What it shows.", [fixed])
    text = (tmp_path / "a.md").read_text()
    assert text == f"**Figure 0.** What it shows. {logs_caption([fixed])} Made so. And so.\n"
    Caption(tmp_path / "b.md").write("What it shows.", [fixed, passed])
    assert (tmp_path / "b.md").read_text() == f"What it shows. {logs_caption([fixed, passed])} {promise(['cohen-ds'])[0]}\n"
    before = sorted(tmp_path.iterdir())
    Caption().write("Nowhere.", [fixed])
    assert sorted(tmp_path.iterdir()) == before


def test_the_memorys_counts_of_a_row(tmp_path: Path):
    passed = read_log(write_log(tmp_path / "1", ROWS, method="cohen-ds", K=100, memory="shrunk"))
    counts = memory_counts([passed])
    assert counts == {"passes": 1, "entries": 3, "kept": 0, "adopted": 0, "shrunk": 3, "repeated": 0}
    assert memory_sentence("cohen-ds", counts) == "Memory pass of cohen-ds: 1 pass of 3 entries, 0 adopted another class, 3 shrank."
    assert memory_counts([read_log(write_log(tmp_path / "2", ROWS))]) is None


def test_logs_of_others_make_no_statement(tmp_path: Path):
    path = tmp_path / "log.tsv"
    path.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t0.5\t1\t0.1\n")
    with pytest.raises(DdrsError, match="has no column 'dataset'; figures need logs written by ddrs certify") as error:
        logs_caption([read_log(path)])
    one_line(error)


def test_a_page_shows_the_table_and_needs_no_other_file(tmp_path: Path):
    md = tmp_path / "table9.md"
    md.write_text("**Table 9.** A <b>caption</b> of `x_y`.\n\n| a | b |\n| --- | --- |\n| 1 | 2.5 |\n| so | -0.1 |\n")
    write_page(md, tmp_path / "pages" / "table9.html")
    text = (tmp_path / "pages" / "table9.html").read_text()
    assert "<title>table9</title>" in text and "<strong>Table 9.</strong>" in text and "<code>x_y</code>" in text
    assert text.count("<td") == 4 and text.count("<th>") == 2 and "<td>so</td>" in text
    assert [f'<td class="number">{number}</td>' in text for number in ("1", "2.5", "-0.1")] == [True] * 3
    assert "&lt;b&gt;caption" in text, "what looks like HTML is shown, not run"
    assert "http" not in text and "<script" not in text


def test_a_page_of_a_caption_shows_its_picture(tmp_path: Path, ddrs_cli):
    (tmp_path / "figure9.md").write_text("**Figure 9.** Sigma* and *more*.\n")
    Image.new("L", (2, 2)).save(tmp_path / "figure9.png")
    run = ("page", tmp_path / "figure9.md", "--html", tmp_path / "figure9.html", "--picture")
    assert ddrs_cli(*run, tmp_path / "figure9.png")[0] == 0
    text = (tmp_path / "figure9.html").read_text()
    assert f'<img alt="figure9" src="data:image/png;base64,{b64encode((tmp_path / "figure9.png").read_bytes()).decode()}">' in text
    assert text.index("<img") < text.index("<strong>Figure 9.</strong>")
    code, _, err = ddrs_cli(*run, tmp_path / "none.png")
    assert code == 2 and "none.png: no such file" in err


def test_published_figures_have_their_captions(tmp_path: Path, ddrs_cli):
    results, out = tmp_path / "results", tmp_path / "docs"
    (results / "captions").mkdir(parents=True)
    (results / "table9.md").write_text("**Table 9.**\n")
    Image.new("L", (2, 2)).save(results / "figure9.png")
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    run = ("publish", results / "table9.md", results / "figure9.png", "--config", tmp_path / "config.yaml", "--out-dir", out)
    code, _, err = ddrs_cli(*run)
    assert code == 2 and "captions/figure9.md: no such file" in err and not out.exists()
    (results / "captions" / "figure9.md").write_text("**Figure 9.** What it shows.\n")
    (results / "long.md").write_text("**A long one.** Its caption.\n\n" + "| 1 |\n" * 100)
    assert ddrs_cli(*run, results / "long.md")[0] == 0
    assert "**Table 9.**\n\n![figure9](figure9.png)\n\n**Figure 9.** What it shows.\n" in (out / "README.md").read_text()
    assert "\n[A long one.](long.md)\n" in (out / "README.md").read_text() and "| 1 |" not in (out / "README.md").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "figure9.png", "long.md", "table9.md"]


def test_a_page_of_nothing_is_one_line(tmp_path: Path, ddrs_cli):
    code, _, err = ddrs_cli("page", tmp_path / "none.md", "--html", tmp_path / "none.html")
    assert code == 2 and err.count("\n") == 1 and "none.md: no such file" in err
    assert list(tmp_path.iterdir()) == []
