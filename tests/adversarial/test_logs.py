"""Edited certification logs: every verb that reads one refuses it in one line. A new kind of edit is one line of EDITS."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ddrs.certification.certificates import smoothing
from ddrs.certification.checks import problems
from ddrs.certification.field_format import export_field_format
from ddrs.certification.records import LOG_COLUMNS, format_line, read_log, resume_lines
from ddrs.certification.run import of_example
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.task import make_task
from ddrs.errors import DdrsError
from ddrs.memory.remember import remember
from ddrs.noise.laws import NOISES
from ddrs.noise.norms import FINE
from ddrs.results.envelope import envelope_report
from tests.unit.helpers import CONSTANT, certify_files, write_plain

Row = dict[str, str]
Edit = Callable[[list[Row]], object]
RUNS = {
    "fixed": {},
    "joint": {"bound": "joint", "noise": "lattice"},
    "two-stage": {"protocol": "two-stage"},
    "sequential": {"protocol": "sequential", "radii": [0.0, 0.1, 0.25], "noise": "lattice"},
}


def each(**values: object) -> Edit:
    """Set columns of every row; a function is given the row."""
    return lambda rows: [row.update({n: str(v(row) if callable(v) else v) for n, v in values.items()}) for row in rows]


def certified(**values: object) -> Edit:
    """The same of the rows that are certified."""
    return lambda rows: each(**values)([row for row in rows if row["predict"] != "-1"])


def _nearer(row: Row) -> str:
    """The radius, some way toward what a point on the grid would have."""
    return f"{float(row['radius']) + (float(row['off_grid']) / 2 if row['predict'] != '-1' else 0.0):.6f}"


EDITS: dict[str, Edit] = {
    "radius x 10": certified(radius=lambda row: f"{10 * float(row['radius']):.6f}"),
    "radius 9": certified(radius="9.000000"),
    "radius less": certified(radius="0.000000"),
    "wrong ones made right": each(predict=lambda row: row["label"], correct=1),
    "right, but not correct": each(correct=0),
    "p_lower 7": certified(p_lower="7.000000000000"),
    "p_lower .1": certified(p_lower="0.100000000000"),
    "sigma 0": each(sigma="0"),
    "another sigma": each(sigma="0.5"),
    "n_top of 2,500": each(n_top=1300, n=2500),
    "more votes": certified(n_top=lambda row: int(row["n"]) + 1),
    "every vote": each(n_top=lambda row: row["n"]),
    "fewer samples": each(n=lambda row: int(row["n"]) - 1, n_top=lambda row: min(int(row["n_top"]), int(row["n"]) - 1)),
    "alpha .05": each(alpha=0.05),
    "another protocol": each(protocol="best"),
    "another bound": each(bound=lambda row: "joint" if row["bound"] == "binary" else "binary"),
    "off the pixel grid or too far off any": each(off_grid="0.500000000000"),
    "less off the grid than it was": each(
        off_grid=lambda row: "0.500000000000" if row["noise"] == "lattice" else "0", radius=lambda row: _nearer(row)
    ),
    "idx outside the split": each(idx=lambda row: int(row["idx"]) + 1000),
    "an image of no class": each(label=-1, correct=0),
    "abstentions answered": lambda rows: each(predict=1, label=1, correct=1)([row for row in rows if row["predict"] == "-1"]),
    "no abstention": certified(predict=-1, radius="0.000000", correct=0),
}
UNSEEN_IN_COUNTS: dict[str, Edit] = {  # what only the check of a line, or the number of lines, tells
    "label := predict": lambda rows: each(label=lambda row: row["predict"], correct=1)([row for row in rows if row["predict"] != "-1"]),
    "label 99": lambda rows: rows[0].update(label="99", correct="0"),
    "another digest": each(digest="0" * 16),
    "another model's name": each(method="macer"),
    "another seed": each(seed=5),
    "a row removed": lambda rows: rows.pop(),
    "the best rows alone": lambda rows: rows.__delitem__(slice(2, None)),
    "fewer rows, and said so": lambda rows: (rows.pop(), each(examples=len(rows))(rows)),
    "a row twice": lambda rows: rows.append(rows[0]),
}


@pytest.fixture(scope="module")
def logs(trained: Path, small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("logs")
    made = {}
    for name, more in RUNS.items():
        settings = ImageCertificateSettings(**{"n0": 20, "n": 300, "alpha": 0.01, **more})  # type: ignore[arg-type]
        made[name] = certify_files(trained, small_mnist, folder, settings=settings, sigma=1.0, images=12, name=f"{name}.tsv")
    return made


def rows_of(log: Path) -> list[Row]:
    header, *lines = [line.split("\t") for line in log.read_text().splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("\n".join("\t".join(line) for line in [list(rows[0]), *(list(row.values()) for row in rows)]) + "\n")
    return path


def edited(log: Path, edit: Edit, path: Path) -> Path:
    rows = rows_of(log)
    edit(rows)
    return write(path, rows)


@pytest.mark.parametrize("run", RUNS)
def test_what_certify_writes_is_believed(run: str, logs: dict[str, Path], small_mnist: Path, tmp_path: Path):
    table = read_log(logs[run]).table
    assert {-1} < set(table["predict"]) and {0, 1} == set(table["correct"]) and problems(table) == [""] * 12
    remember(logs[run], small_mnist, tmp_path / "memory.tsv")
    assert len(read_log(tmp_path / "memory.tsv").table) == 12


HONEST = [
    *({"protocol": protocol, "bound": bound} for protocol in ("fixed", "two-stage") for bound in ("binary", "joint")),
    *({"protocol": "sequential", "spending": spending, "radii": [0.0, 0.1, 0.5, 0.75, 1.0]} for spending in ("sqrt", "log")),
]


@pytest.mark.parametrize("deviation", [0.0, 1e-13, 1e-7])
@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
@pytest.mark.parametrize("settings", HONEST, ids=lambda one: " ".join(str(value) for value in list(one.values())[:2]))
def test_no_outcome_of_a_protocol_is_refused(settings: dict, noise: str, deviation: float, tmp_path: Path):
    """Of simulated votes for three classes: from hopeless to certain, as a CPU's and as a GPU's sampler makes them, where a claim costs a step."""
    sampling = ImageCertificateSettings(**{"n0": 50, "n": 10_000, "alpha": 0.001, **settings})
    task, rng, lines = make_task(sampling, NOISES[noise], deviation), np.random.default_rng(0), []
    farthest = 0.5 / FINE[noise] * (28 if noise == "gaussian" else 784)  # of an image of CONSTANT's size, in sigma
    shares = [*rng.uniform(0.45, 1, 60), *np.linspace(0.49, 0.53, 40), *[0.999, 0.9999, 1.0] * 5]
    for idx, share in enumerate(shares):
        sigma = np.float32(rng.choice([0.12, 0.25, 1.0]))
        off_grid = float(rng.choice([0.0, 1e-7, 0.5, 1.0])) * farthest * float(sigma)
        steps = smoothing.steps(replace(task, off_grid=off_grid), sigma)
        request = next(steps)
        try:
            while True:
                request = steps.send([rng.multinomial(n, [share, 0.7 * (1 - share), 0.3 * (1 - share)]) for _, n in request])
        except StopIteration as finished:
            found = finished.value
        row = {"idx": idx, "label": 0, "correct": int(found.prediction == 0), "sigma": sigma, **of_example(found, sampling)}
        lines.append(format_line({**CONSTANT, **sampling.model_dump(), "n_max": 10_000, "noise": noise, "K": 5, "deviation": deviation, **row}))
    (tmp_path / "log.tsv").write_text("\n".join(["\t".join(LOG_COLUMNS), *lines]) + "\n")
    assert resume_lines(tmp_path / "log.tsv", CONSTANT["digest"], pytest.fail).keys() == set(range(len(shares)))


@pytest.mark.parametrize("name", {**EDITS, **UNSEEN_IN_COUNTS})
def test_an_edited_log_is_refused(name: str, logs: dict[str, Path], tmp_path: Path, ddrs_cli):
    path = edited(logs["fixed"], {**EDITS, **UNSEEN_IN_COUNTS}[name], tmp_path / "log.tsv")
    code, out, err = ddrs_cli("envelope", path, "--radii", "0,0.25")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "log.tsv" in err


@pytest.mark.parametrize("words", ["remember LOG --data DATA --out-dir OUT", "merge LOG --out OUT", "export LOG --out OUT"])
def test_every_verb_refuses_it(words: str, logs: dict[str, Path], small_mnist: Path, tmp_path: Path, ddrs_cli):
    path = edited(logs["fixed"], EDITS["radius x 10"], tmp_path / "log.tsv")
    places = {"LOG": path, "DATA": small_mnist, "OUT": tmp_path / "out"}
    code, _, err = ddrs_cli(*(places.get(word, word) for word in words.split()))
    assert code == 2 and err.count("\n") == 1 and "log.tsv: line" in err and not (tmp_path / "out").exists()


TOLD = [(name, run) for name in EDITS for run in RUNS if (name, run) != ("alpha .05", "sequential")]  # a claim at .01 is one at .05 too


@pytest.mark.parametrize(("name", "run"), TOLD)
def test_the_counts_tell_it_without_the_check(name: str, run: str, logs: dict[str, Path], tmp_path: Path):
    """As if the check of each line had been written anew."""
    rows = rows_of(logs[run])
    EDITS[name](rows)
    changed = [row | {"check": dict(zip(LOG_COLUMNS, format_line(row).split("\t"), strict=True))["check"]} for row in rows]
    with pytest.raises(DdrsError) as caught:
        read_log(write(tmp_path / "log.tsv", changed))
    assert "\n" not in str(caught.value) and "its check does not match" not in str(caught.value)


@pytest.mark.parametrize("values", [{"radius": "9.000000"}, {"predict": "-1", "radius": "0.000000", "correct": "0"}, {"memory": "forgotten"}])
def test_the_memory_makes_no_radius_larger(values: Row, logs: dict[str, Path], small_mnist: Path, tmp_path: Path):
    remember(logs["fixed"], small_mnist, tmp_path / "memory.tsv")
    rows = rows_of(tmp_path / "memory.tsv")
    certified(**values)(rows)
    columns = tuple(rows[0])
    lines = [format_line(row, columns) for row in rows]
    (tmp_path / "memory.tsv").write_text("\n".join(["\t".join(columns), *lines]) + "\n")
    with pytest.raises(DdrsError, match="contradicts itself"):
        read_log(tmp_path / "memory.tsv")


@pytest.mark.parametrize("new_check", [False, True])
def test_edited_lines_are_not_resumed(new_check: bool, logs: dict[str, Path], tmp_path: Path):
    rows = rows_of(logs["fixed"])
    certified(radius="9.000000")(rows)
    partial, said = write(tmp_path / "partial.tsv", rows), []
    if new_check:
        partial.write_text("\n".join(["\t".join(LOG_COLUMNS), *map(format_line, rows)]) + "\n")
    kept = resume_lines(partial, rows[0]["digest"], said.append)
    wanted = [int(row["idx"]) for row in rows if row["predict"] == "-1"]
    assert list(kept) == wanted and len(partial.read_text().splitlines()) == 1 + len(wanted)
    assert said == [f"{partial}: {12 - len(wanted)} lines were damaged or changed; their images are certified again"]


@pytest.mark.parametrize("names", [("check",), ("check", "digest", "p_lower", "n_top")])
def test_a_log_of_ours_without_its_checks_is_refused(names: tuple[str, ...], logs: dict[str, Path], tmp_path: Path):
    path = edited(logs["fixed"], lambda rows: [row.pop(name) for row in rows for name in names], tmp_path / "log.tsv")
    with pytest.raises(DdrsError, match="line 1 lacks the column"):
        read_log(path)


def test_a_report_says_which_logs_are_not_recomputable(logs: dict[str, Path], tmp_path: Path):
    """Logs of others have a radius and nothing that it could be computed from."""
    export_field_format(logs["fixed"], None, tmp_path / "plain.tsv")
    own, plain, best = (line.split(",")[0] for line in envelope_report([logs["fixed"], tmp_path / "plain.tsv"], [0.5], "csv").splitlines()[1:])
    assert (own, plain, best) == (str(logs["fixed"]), f"{tmp_path / 'plain.tsv'} (not recomputable)", "envelope (not recomputable)")
    assert "not recomputable" not in envelope_report([logs["fixed"]], [0.5], "csv")


def test_a_log_of_others_is_held_to_what_it_states(tmp_path: Path):
    """sigma * Phi^-1(alpha^(1/n)) is .615 here; without sigma, n and alpha nothing is known."""
    header = "idx label predict radius correct sigma n alpha"
    assert read_log(write_plain(tmp_path / "a", [(0, 1, 1, 0.61, 1, 0.25, 1000, 0.001)], header)).radius == [0.61]
    with pytest.raises(DdrsError, match=r"line 2: radius 0\.63 is above 0\.6"):
        read_log(write_plain(tmp_path / "b", [(0, 1, 1, 0.63, 1, 0.25, 1000, 0.001)], header))
