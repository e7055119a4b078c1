"""The verbs of tables on the command line: what they write, and that what goes wrong is one line and overwrites nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from ddrs.results.row_cells import write_cells
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

RADII = [0.0, 0.5]


def logs(folder: Path, label: str, split: str, **more: object) -> list[Path]:
    own = {"method": label, "split": split, **({"memory": "kept", "K": 5} if "-" in label else {}), **more}
    rows = [[(i, i % 2, i % 2 if i < right else 3, radius) for i in range(6)] for right, radius in ((5, 0.4), (3, 0.7))]
    return [write_log(folder / split / f"{label}.{sigma}.tsv", one, sigma0=sigma, **own) for sigma, one in zip((0.25, 0.5), rows, strict=True)]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The logs of two rows of Table 1, and their cells in both forms."""
    monkeypatch.chdir(tmp_path)
    for label in ("cohen", "cohen-ds"):
        test, held_out = (logs(Path(), label, split) for split in ("test", "validation"))
        write_cells(test, "table1", label, RADII, Path("cells") / label, 0)
        write_cells(test, "table1_selected", label, RADII, Path("selected") / label, 0, held_out)
    return tmp_path


def flagged(flag: str, files: list[str]) -> list[str]:
    return [word for file in files for word in (flag, file)]


TEST, HELD_OUT = (
    [f"{split}/{label}.{sigma}.tsv" for label in ("cohen", "cohen-ds") for sigma in ("0.25", "0.5")] for split in ("test", "validation")
)
CELLS, SELECTED = (
    [f"{form}/{label}/{column}.json" for label in ("cohen", "cohen-ds") for column in ("0.00", "0.50", "acr")] for form in ("cells", "selected")
)
TO_TABLE, TO_FIGURE = ["--csv", "out/t.csv", "--md", "out/t.md"], ["--pdf", "out/f.pdf", "--png", "out/f.png"]
COMMANDS = {
    "cell": [
        *("cell", *TEST[:2], "--table", "table1_selected", "--label", "cohen", "--radii", "0,0.5", "--out-dir", "out"),
        *flagged("--validation", HELD_OUT[:2]),
    ],
    "table": ["table", *SELECTED, *TO_TABLE, "--tex", "out/t.tex"],
    "compare": ["compare", *CELLS, *SELECTED, *TO_TABLE],
    "claims": ["claims", *CELLS, *SELECTED, *TO_TABLE],
    "per-class": ["per-class", *TEST, *flagged("--cell", SELECTED), *TO_TABLE],
    "distribution": ["distribution", *TEST, *flagged("--validation", HELD_OUT), *TO_FIGURE],
}
READS = [("cell", "validation/cohen.0.25.tsv"), ("table", SELECTED[0]), ("compare", CELLS[1]), ("claims", SELECTED[2])]
READS += [("per-class", TEST[0]), ("per-class", SELECTED[2]), ("distribution", TEST[3]), ("distribution", HELD_OUT[0])]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refused(result: tuple[int, str, str]) -> str:
    code, _, err = result
    assert code == 2 and err.startswith("ddrs: error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("verb", COMMANDS)
def test_each_runs_on_good_files_twice_to_the_same_bytes(verb: str, here: Path, ddrs_cli):
    found = []
    for _ in range(2):
        assert ddrs_cli(*COMMANDS[verb])[::2] == (0, "")
        found.append(contents(here / "out"))
    assert found[0] == found[1] and len(found[0]) == {"cell": 3, "table": 3}.get(verb, 2)


@pytest.mark.parametrize(("verb", "name"), READS, ids=[f"{verb} {name}" for verb, name in READS])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_a_file_that_cannot_be_used_is_named_and_nothing_is_overwritten(verb: str, name: str, damage: str, here: Path, ddrs_cli):
    assert ddrs_cli(*COMMANDS[verb])[0] == 0
    old = contents(here / "out")
    data = Path(name).read_bytes()
    Path(name).unlink()
    if damage != "missing":
        Path(name).write_bytes(b"" if damage == "empty" else data[: data.rstrip(b"\n").rfind(b"\t") if name.endswith("tsv") else len(data) // 2])
    assert name in refused(ddrs_cli(*COMMANDS[verb]))
    assert contents(here / "out") == old


@pytest.mark.parametrize(
    ("verb", "more", "part"),
    [
        ("per-class", ["--radii", "0.5,0.75"], "--radii: table1_selected has no column 0.75; its columns are 0.00, 0.50"),
        ("per-class", ["--radii", "x"], "--radii 'x': must be numbers"),
        ("cell", ["--table", "table1"], "cells of table1: validation logs are needed for a table that ends in _selected, and for no other"),
        ("cell", ["--validation", TEST[0]], "is of other images than"),
        ("table", ["selected/cohen/0.50.json"], "0.50.json: is the same as one given before"),
    ],
)
def test_what_does_not_fit_is_one_line(verb: str, more: list[str], part: str, here: Path, ddrs_cli):
    if more[-1] == TEST[0]:  # other images than the validation split's
        write_log(Path(TEST[0]), [(0, 1, 1, 0.5)], sigma0=1.0)
    assert part in refused(ddrs_cli(*COMMANDS[verb], *more))
    assert not (here / "out").exists()


@pytest.mark.parametrize(
    ("constant", "rows", "part"),
    [
        ({"alpha": 0.01}, 6, "has alpha 0.01, but "),
        ({"noise": "uniform"}, 6, "has noise uniform, but "),
        ({}, 5, "is of other images than "),
    ],
)
@pytest.mark.parametrize("verb", ["envelope", "cell", "distribution"])
def test_logs_that_cannot_stand_together_are_one_line(verb: str, constant: dict, rows: int, part: str, here: Path, ddrs_cli):
    write_log(Path(TEST[1]), [(i, i % 2, i % 2, 0.5) for i in range(rows)], sigma0=0.5, **constant)
    words = ["envelope", *TEST[:2], "--radii", "0"] if verb == "envelope" else COMMANDS[verb]
    assert part in refused(ddrs_cli(*words)) and not (here / "out").exists()


@pytest.mark.parametrize("verb", COMMANDS)
def test_an_empty_set_of_files_is_one_line(verb: str, here: Path, ddrs_cli):
    words = [word for word in COMMANDS[verb] if "/" not in word or word.startswith("out/")]
    words = [word for word in words if word not in ("--validation", "--cell")]
    code, _, err = ddrs_cli(*words)
    assert code == 2 and err.count("\n") == 1 and ("Missing argument" in err or "Missing option" in err), err


def test_no_verb_of_tables_loads_torch(here: Path):
    code = "import sys, ddrs.certification.checks\nfrom ddrs.commands.main import app\n"
    code += "ddrs.certification.checks.problems = lambda table: [''] * len(table)\n"  # `invented_radii`, in a process of its own
    code += "".join(f"app({words!r}, standalone_mode=False)\n" for words in COMMANDS.values())
    code += "print(sorted({'torch', 'torchvision', 'snakemake', 'dvc'} & set(sys.modules)), 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[] True\n", "")
