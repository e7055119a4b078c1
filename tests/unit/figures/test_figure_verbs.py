"""`ddrs figure`, `examples` and `illustrate`, and `sigma --strategy grid`: what they write, and what goes wrong in one line."""

from pathlib import Path

import pytest

from ddrs.files import temporary_of
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

LINES = [(0, 1, 1, 0.3), (5, 1, 1, 0.2), (10, 1, 2, 0.1)]
OUT = ["--pdf", "out/f.pdf", "--png", "out/f.png"]
EXAMPLES = ["examples", "own.tsv", "--fixed", "fixed.tsv", "--data", "data/manifest.json", "--quantiles", "0,1", *OUT]


@pytest.fixture
def here(small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_log(tmp_path / "fixed.tsv", LINES, dataset="mnist5k")
    write_log(tmp_path / "own.tsv", LINES, dataset="mnist5k", method="cohen-ds", K=9, sigma=0.3)
    write_log(tmp_path / "gds.tsv", LINES, dataset="mnist5k", method="cohen-gds", K=50)
    (tmp_path / "data").symlink_to(small_mnist.parent)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        EXAMPLES,
        ["figure", "own.tsv", "--kind", "steps", *OUT],
        ["figure", "fixed.tsv", "own.tsv", "gds.tsv", "--kind", "searches", "--evaluations", "200", *OUT],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_a_verb_writes_both_forms_and_a_full_disk_leaves_the_old_ones(words: list[str], here: Path, ddrs_cli):
    assert ddrs_cli(*words) == (0, "", "")
    old = {name: (here / "out" / name).read_bytes() for name in ("f.pdf", "f.png")}
    assert old["f.pdf"].startswith(b"%PDF") and old["f.png"].startswith(b"\x89PNG")
    temporary_of(here / "out" / "f.png").symlink_to("/dev/full")
    code, _, err = ddrs_cli(*words)
    assert code == 2 and err.count("\n") == 1 and "f.png: the disk is full" in err
    assert (here / "out" / "f.png").read_bytes() == old["f.png"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([*EXAMPLES, "--quantiles", "0"], ["examples: 1 logs, 1 --data, 1 --fixed and 2 --quantiles; give as many of each"]),
        ([*EXAMPLES[:-5], "0,1.5", *OUT], ["--quantiles '0,1.5': must be finite, >= 0, <= 1 and increasing"]),
        ([*EXAMPLES[:-5], "1,0", *OUT], ["--quantiles '1,0'", "increasing"]),
        ([*EXAMPLES[:-5], "low", *OUT], ["--quantiles 'low': must be numbers"]),
        (["examples", "fixed.tsv", *EXAMPLES[2:]], ["one model is needed, as -ds and fixed"]),
        (["examples", "absent.tsv", *EXAMPLES[2:]], ["absent.tsv: no such file"]),
        (["figure", "own.tsv", "--kind", "lines", *OUT], ["--kind", "'lines' is not one of 'rows', 'searches', 'steps'"]),
        (["figure", "gds.tsv", "--kind", "searches", *OUT], ["gds.tsv: a grid of 50 points needs --evaluations"]),
        (["illustrate", "radius", *OUT], ["subject 'radius': unknown; known are memory, sigma"]),
        (["sigma", "--strategy", "gird", "--k-max", "2", "--model", "m", "--data", "d", "--out", "o"], ["unknown strategy 'gird'", "ascent, grid"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_what_goes_wrong_is_one_line_and_writes_nothing(words: list[str], parts: list[str], here: Path, ddrs_cli):
    code, out, err = ddrs_cli(*words)
    assert code == 2 and out == "" and err.count("\n") == 1 and err.startswith("ddrs: error: ")
    assert [part for part in parts if part not in err] == [], err
    assert not list((here / "out").glob("*"))
