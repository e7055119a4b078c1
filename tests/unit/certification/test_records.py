"""Certification logs: what is written reads back, and what is malformed is refused with its line."""

from pathlib import Path

import numpy as np
import pytest

from ddrs.certification.field_format import FIELD, export_field_format
from ddrs.certification.records import LOG_COLUMNS, format_line, format_sigma, read_log, resume_lines, round_down
from ddrs.errors import DdrsError
from tests.unit.helpers import CONSTANT, write_log, write_plain

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

LOCUSLAB = sorted((Path(__file__).parents[2] / "data" / "locuslab").glob("*.tsv"))
ROWS = [(3, 7, 7, 0.2500004), (5, 1, 2, 0.125), (9, 4, -1, 0.0)]


# ---- printing


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.9999999, 6, "0.999999"),
        (0.2500009999, 6, "0.250000"),
        (0.1, 6, "0.100000"),
        (0.3, 1, "0.3"),
        (0.0, 6, "0.000000"),
        (1e-9, 6, "0.000000"),
        (3.8114565634, 6, "3.811456"),
        (123456.7890125, 6, "123456.789012"),
        (1 - 2**-53, 12, "0.999999999999"),
        (np.float64(0.7), 12, "0.700000000000"),
    ],
)
def test_round_down(value: float, digits: int, text: str):
    """Never up; a number that has that many decimals keeps them, though its float lies below (0.3) or above (0.1) them."""
    assert round_down(value, digits) == text


def test_format_sigma_keeps_the_float32():
    for sigma in np.random.default_rng(0).uniform(1e-3, 3, 1000).astype(np.float32):
        assert np.float32(format_sigma(float(sigma))) == sigma
    assert format_sigma(0.25) == "0.25" and format_sigma(0.1) == "0.100000001"


def test_format_line_rounds_down_radius_and_bound():
    fields = {**CONSTANT, "idx": 3, "label": 7, "predict": 7, "correct": 1, "radius": 0.1234567, "p_lower": 0.98765432109876, "sigma": 0.1}
    line = dict(zip(LOG_COLUMNS, format_line(fields).split("\t"), strict=True))
    assert [line["radius"], line["p_lower"], line["sigma"]] == ["0.123456", "0.987654321098", "0.100000001"]
    assert [line["idx"], line["K"], line["alpha"], line["noise"], line["digest"]] == ["3", "", "0.001", "gaussian", "f" * 16]
    assert format_line({**fields, "time": 1.5}, FIELD) == "3\t7\t7\t0.123456\t1\t1.5"


# ---- reading


def test_reads_our_logs(tmp_path: Path):
    log = read_log(write_log(tmp_path / "a.tsv", ROWS, method="cohen-ds", K=100, sigma=0.1))
    assert log.table["idx"].tolist() == [3, 5, 9] and log.table["predict"].tolist() == [7, 2, -1]
    assert log.radius.tolist() == [0.25, 0.125, 0.0] and log.correct.tolist() == [True, False, False]
    assert [log.constant(name) for name in ("n0", "alpha", "noise", "method", "K", "seed")] == [100, 0.001, "gaussian", "cohen-ds", "100", 0]
    assert log.constant("time") is None and log.name == str(tmp_path / "a.tsv")
    assert np.float32(log.table["sigma"].iloc[0]) == np.float32(0.1)


@pytest.mark.parametrize("digest", ["0123456789012345", "12345678901234e5", "1234567890123e45"])
def test_a_digest_that_looks_like_a_number_is_text(tmp_path: Path, digest: str):
    assert read_log(write_log(tmp_path / "a.tsv", ROWS, digest=digest)).constant("digest") == digest


def test_reads_other_projects_logs():
    """Both forms of time are there: 0:00:01.5 and seconds."""
    logs = [read_log(path) for path in LOCUSLAB]
    assert [len(log.table) for log in logs] == [500] * 4
    times = [str(log.table["time"].iloc[0]) for log in logs]
    assert times[0] == "0:00:13.736080" and times[1:] == ["15.4", "16.6", "15.3"]
    first = logs[0]
    assert first.radius[:3].tolist() == [0.0, 0.0734, 0.405] and first.correct[:3].tolist() == [False, True, True]
    assert first.table["idx"].tolist() == list(range(0, 10_000, 20)) and first.constant("sigma") is None


@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_reads_any_line_end_and_no_last_one(tmp_path: Path, end: str):
    (tmp_path / "log").write_bytes(end.join(["\t".join(FIELD), "0\t1\t1\t0.5\t1\t0:00:01.5", "1\t1\t-1\t0.0\t0\t2"]).encode())
    assert read_log(tmp_path / "log").radius.tolist() == [0.5, 0.0]


GOOD = (0, 1, 1, 0.5, 1, "0:00:01")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ((1, 1, 1, 0.5, 1), "5 fields where the header has 6"),
        ((1, 1, 1, 0.5, 1, 2, 3), "7 fields"),
        (("",), "1 fields"),
        (("one", 1, 1, 0.5, 1, 2), "idx = 'one'"),
        ((1.5, 1, 1, 0.5, 1, 2), "idx = '1.5'"),
        (("--1", 1, 1, 0.5, 1, 2), "idx = '--1'"),
        (("", 1, 1, 0.5, 1, 2), "idx = ''"),
        ((1, "cat", 1, 0.5, 1, 2), "label = 'cat'"),
        ((1, 1, "", 0.5, 1, 2), "predict = ''"),
        ((1, 1, 1, "wide", 1, 2), "radius = 'wide'"),
        ((1, 1, 1, "", 1, 2), "radius = ''"),
        ((1, 1, 1, "1_0", 1, 2), "radius = '1_0'"),
        ((1, 1, 1, "nan", 1, 2), "radius = 'nan'"),
        ((1, 1, 1, "inf", 1, 2), "radius = 'inf'"),
        ((1, 1, 1, -0.5, 1, 2), "radius = '-0.5'"),
        ((1, 1, 1, 0.5, 2, 2), "correct = '2'"),
        ((1, 1, 1, 0.5, "True", 2), "correct = 'True'"),
        ((1, 1, 2, 0.5, 1, 2), "correct = 1, but predict = 2 and label = 1"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, row: tuple, what: str):
    path = write_plain(tmp_path / "log.tsv", [GOOD, row])
    with pytest.raises(DdrsError, match=r"log\.tsv: line 3 is malformed") as caught:
        read_log(path)
    assert what in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("sigma", "-1"), ("sigma", "x"), ("p_lower", "nan")])
def test_a_malformed_value_of_ours_is_named(tmp_path: Path, name: str, value: str):
    path = write_log(tmp_path / "log.tsv", ROWS)
    lines = path.read_text().splitlines()
    fields = lines[2].split("\t")
    fields[LOG_COLUMNS.index(name)] = value
    path.write_text("\n".join([*lines[:2], "\t".join(fields), lines[3]]) + "\n")
    with pytest.raises(DdrsError, match=f"line 3 is malformed: {name} = '{value}'"):
        read_log(path)


@pytest.mark.parametrize("name", ["idx", "label", "predict", "radius", "correct"])
def test_a_missing_column_is_named(tmp_path: Path, name: str):
    header = "idx label predict radius correct time".replace(name, "other")
    with pytest.raises(DdrsError, match=f"line 1 lacks the column '{name}'"):
        read_log(write_plain(tmp_path / "log.tsv", [GOOD], header))


def test_repeated_examples_are_refused(tmp_path: Path):
    with pytest.raises(DdrsError, match="idx 7 occurs"):
        read_log(write_plain(tmp_path / "log.tsv", [(7, 1, 1, 0.5, 1, 0), GOOD, (7, 1, 1, 0.25, 1, 0)]))


@pytest.mark.parametrize(("text", "message"), [("", "lacks the column 'idx'"), ("\t".join(FIELD) + "\n", "holds no examples")])
def test_empty_files_are_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "log.tsv").write_text(text)
    with pytest.raises(DdrsError, match=message):
        read_log(tmp_path / "log.tsv")


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(DdrsError, match=r"nowhere\.tsv: no such file"):
        read_log(tmp_path / "nowhere.tsv")


@pytest.mark.parametrize(
    ("name", "one", "other"), [("alpha", 0.001, 0.01), ("K", 100, 200), ("K", "", 200), ("digest", "a" * 16, "b" * 16), ("n_max", 1000, 950)]
)
def test_lines_of_two_runs_are_refused(tmp_path: Path, name: str, one: object, other: object):
    """A log whose lines were made with different settings is two logs; a setting that some lines lack differs too."""
    first, second = write_log(tmp_path / "a", ROWS[:2], **{name: one}), write_log(tmp_path / "b", ROWS[2:], **{name: other})
    (tmp_path / "both").write_text(first.read_text() + second.read_text().split("\n", 1)[1])
    with pytest.raises(DdrsError, match=f"column '{name}' has 2 different values"):
        read_log(tmp_path / "both")


def test_a_quote_swallows_no_lines(tmp_path: Path):
    """Every line is an example, whatever stands in the columns that nothing is computed from."""
    rows = [(0, 1, 1, 0.5, 1, '"1'), (1, 1, 1, 0.5, 1, "2"), (2, 1, 1, 0.25, 1, '3"')]
    assert read_log(write_plain(tmp_path / "log.tsv", rows)).radius.tolist() == [0.5, 0.5, 0.25]


# ---- partial logs


@pytest.mark.parametrize("damage", ["", "5", "5\t1\n", "garbage\n", "x\t" * len(LOG_COLUMNS) + "\n", "\x00\xff\n"])
def test_only_whole_lines_of_the_same_run_are_resumed(tmp_path: Path, damage: str):
    """Also a last line that lacks only its line end: its last field may be torn. The file is left with what counts."""
    path = write_log(tmp_path / "partial.tsv", ROWS)
    whole = path.read_text()
    digest = str(read_log(path).constant("digest"))
    path.write_text(whole + damage)
    said: list[str] = []
    kept = resume_lines(path, digest, said.append)
    assert list(kept) == [3, 5, 9] and list(kept.values()) == whole.splitlines()[1:]
    assert path.read_text() == whole
    assert said == ([f"{path}: 1 lines were damaged or changed; their images are certified again"] if damage.endswith("\n") else [])
    path.write_text(whole.rstrip("\n"))
    assert list(resume_lines(path, digest, said.append)) == [3, 5]


def test_a_partial_log_of_another_run_is_refused_and_left_alone(tmp_path: Path):
    path = write_log(tmp_path / "partial.tsv", ROWS)
    path.write_text(path.read_text() + "torn")
    before = path.read_bytes()
    with pytest.raises(DdrsError, match=r"partial\.tsv: a partial log of another configuration \(f{16}, not another\)") as caught:
        resume_lines(path, "another", print)
    assert "\n" not in str(caught.value) and path.read_bytes() == before


def test_a_new_partial_log_has_its_header(tmp_path: Path):
    assert resume_lines(tmp_path / "new" / "partial.tsv", "any", print) == {}
    assert (tmp_path / "new" / "partial.tsv").read_text() == "\t".join(LOG_COLUMNS) + "\n"


# ---- export


def test_export_joins_the_times(tmp_path: Path):
    """The last time of an example counts: the one before was that of a line torn by a kill."""
    log = write_log(tmp_path / "log.tsv", ROWS)
    (tmp_path / "times.tsv").write_text("idx\tseconds\n9\t1.250000\n3\t0.500000\n9\t2.000000\n")
    export_field_format(log, tmp_path / "times.tsv", tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_text().splitlines() == [
        "idx\tlabel\tpredict\tradius\tcorrect\ttime",
        "3\t7\t7\t0.250000\t1\t0.5",
        "5\t1\t2\t0.125000\t0\t0",
        "9\t4\t-1\t0.000000\t0\t2.0",
    ]


def test_an_exported_log_reads_the_same(tmp_path: Path):
    log = write_log(tmp_path / "log.tsv", ROWS)
    export_field_format(log, None, tmp_path / "out.tsv")
    before, after = read_log(log), read_log(tmp_path / "out.tsv")
    assert after.table.columns.tolist() == list(FIELD) and after.table["time"].tolist() == ["0", "0", "0"]
    for name in FIELD[:-1]:
        assert after.table[name].tolist() == before.table[name].tolist()
