"""Certified accuracy, ACR and their envelope, on the field's own logs and on small ones that can be counted by hand."""

from pathlib import Path

import numpy as np
import pytest

from ddrs.certification.records import Log, read_log
from ddrs.commands.flags import parse_radii
from ddrs.errors import DdrsError
from ddrs.results.envelope import average_certified_radius, certified_accuracy, envelope, envelope_report
from tests.unit.helpers import write_log, write_plain

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

LOCUSLAB = sorted((Path(__file__).parents[2] / "data" / "locuslab").glob("*.tsv"))
RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
PRINTED = [  # rounded to two decimals, as Cohen et al. print them
    [0.59, 0.00, 0.00, 0.00, 0.00, 0.00],
    [0.60, 0.43, 0.27, 0.00, 0.00, 0.00],
    [0.55, 0.41, 0.32, 0.23, 0.15, 0.09],
    [0.39, 0.34, 0.28, 0.22, 0.17, 0.14],
]


@pytest.fixture
def two(tmp_path: Path) -> list[Log]:
    """Four images at two sigmas; by hand: accuracies at 0.25 are 3/4 and 1/4, at 0.5 1/4 and 1/4, at 1 0 and 1/4; ACRs .3125 and .3."""
    narrow = [(0, 1, 1, 0.25), (1, 1, 1, 0.5), (2, 2, 2, 0.5), (3, 3, 1, 0.75)]
    wide = [(0, 1, 1, 1.0), (1, 1, -1, 0.0), (2, 2, 2, 0.2), (3, 3, 2, 1.5)]
    return [read_log(write_log(tmp_path / name, rows, sigma0=s)) for name, rows, s in (("narrow", narrow, 0.25), ("wide", wide, 0.5))]


def test_certified_accuracy_of_the_fields_logs():
    for path, printed in zip(LOCUSLAB, PRINTED, strict=True):
        assert np.round(certified_accuracy(read_log(path), RADII) + 1e-9, 2).tolist() == printed


def test_command_prints_the_fields_logs(ddrs_cli):
    """`ddrs envelope`: a line per log, then the best per radius and the best ACR."""
    code, out, _ = ddrs_cli("envelope", *LOCUSLAB, "--radii", ",".join(map(str, RADII)))
    assert code == 0
    header, *rows = [line.split(",") for line in out.splitlines()]
    assert header == ["log", "0.25", "0.5", "0.75", "1", "1.25", "1.5", "acr"]
    assert [row[0] for row in rows] == [f"{name} (not recomputable)" for name in (*LOCUSLAB, "envelope")]
    values = np.array([[float(value) for value in row[1:]] for row in rows])
    assert np.round(values[:4, :-1] + 1e-9, 2).tolist() == PRINTED
    assert (values[4] == values[:4].max(0)).all()
    assert np.round(values[4, :-1] + 1e-9, 2).tolist() == np.max(PRINTED, axis=0).tolist()


def test_by_hand(two: list[Log]):
    """A wrong prediction counts as wrong at any radius, a radius counts at its own value, an abstention counts as wrong at 0 too."""
    assert certified_accuracy(two[0], [0, 0.25, 0.5, 1.0]).tolist() == [0.75, 0.75, 0.5, 0.0]
    assert certified_accuracy(two[1], [0, 0.25, 0.5, 1.0]).tolist() == [0.5, 0.25, 0.25, 0.25]
    assert [average_certified_radius(log) for log in two] == [1.25 / 4, 1.2 / 4]


def test_an_abstention_stays_in_the_denominator(tmp_path: Path):
    rows = [(0, 1, 1, 0.5), (1, 1, -1, 0.0), (2, 1, -1, 0.0), (3, 1, -1, 0.0)]
    log = read_log(write_log(tmp_path / "log", rows))
    assert certified_accuracy(log, [0.0, 0.5]).tolist() == [0.25, 0.25]
    assert average_certified_radius(log) == 0.125


def test_envelope_by_hand(two: list[Log]):
    """Per radius the first best log; the ACR of one configuration; the oracle chooses per image."""
    best = envelope(two, [0.25, 0.5, 1.0])
    assert best.accuracy.tolist() == [0.75, 0.5, 0.25] and best.chosen.tolist() == [0, 0, 1]
    assert (best.acr, best.acr_chosen) == (1.25 / 4, 0)
    assert best.acr_oracle == (1.0 + 0.5 + 0.5 + 0.0) / 4
    swapped = envelope(two[::-1], [0.25, 0.5, 1.0])
    assert swapped.chosen.tolist() == [1, 1, 0] and swapped.acr_chosen == 1 and swapped.acr == best.acr
    assert envelope([two[1], two[1]], [0.25]).chosen.tolist() == [0], "of equals, the first"


def test_envelope_of_the_fields_logs():
    logs = [read_log(path) for path in LOCUSLAB]
    best, acrs = envelope(logs, RADII), [average_certified_radius(log) for log in logs]
    assert best.acr == max(acrs) == acrs[best.acr_chosen]
    assert best.acr_oracle > best.acr * 1.05
    assert (best.accuracy == np.max([certified_accuracy(log, RADII) for log in logs], axis=0)).all()
    assert best.chosen.tolist() == [1, 1, 2, 2, 3, 3]


def test_bootstrap_of_one_log_is_the_binomials():
    """Where nothing is chosen, the percentile interval is that of a proportion and of a mean."""
    log = read_log(LOCUSLAB[1])
    best = envelope([log], [0.5], replicates=4000)
    share, scores = best.accuracy[0], log.radius * log.correct
    half = 1.96 * np.sqrt(share * (1 - share) / 500)
    np.testing.assert_allclose(best.accuracy_interval, [[share - half, share + half]], atol=0.006)
    half = 1.96 * scores.std() / np.sqrt(500)
    np.testing.assert_allclose(best.acr_interval, [best.acr - half, best.acr + half], atol=0.006)


def test_bootstrap_redoes_the_choice(tmp_path: Path):
    """Two logs that are right on opposite halves: in a replicate one of them is above half, so the ACR's interval starts there."""
    halves = [[(i, 1, 1 if i % 2 == parity else 2, 1.0) for i in range(100)] for parity in (0, 1)]
    logs = [read_log(write_log(tmp_path / str(i), rows)) for i, rows in enumerate(halves)]
    both, alone = envelope(logs, [0.5]), envelope(logs[:1], [0.5])
    assert alone.accuracy_interval[0, 0] == pytest.approx(0.4, abs=0.02)
    assert both.accuracy_interval[0, 0] == pytest.approx(0.398, abs=0.001), "not above the exact interval of 50 of 100"
    assert both.accuracy_interval[0, 1] == pytest.approx(0.6, abs=0.03)
    assert both.acr_interval[0] >= 0.5 > alone.acr_interval[0]


def test_bootstrap_contains_the_value_and_repeats():
    logs = [read_log(path) for path in LOCUSLAB]
    best, again, other = (envelope(logs, RADII, seed=seed) for seed in (0, 0, 1))
    assert (best.accuracy_interval[:, 0] < best.accuracy).all() and (best.accuracy < best.accuracy_interval[:, 1]).all()
    assert best.acr_interval[0] < best.acr < best.acr_interval[1]
    assert (best.accuracy_interval == again.accuracy_interval).all() and (best.acr_interval == again.acr_interval).all()
    assert (best.acr_interval != other.acr_interval).all()


@pytest.mark.parametrize(
    ("rows", "constant", "message"),
    [
        ([(0, 1, 1, 0.5), (2, 1, 1, 0.5)], {}, "other images"),
        ([(1, 1, 1, 0.5), (0, 1, 1, 0.5)], {}, "other images"),
        ([(0, 1, 1, 0.5), (1, 2, 1, 0.5)], {}, "other images"),
        ([(0, 1, 1, 0.5)], {}, "other images"),
        (None, {"alpha": 0.01}, "alpha 0.01, but .* has 0.001"),
        (None, {"noise": "uniform"}, "noise uniform"),
        (None, {"dataset": "mnist5k"}, "dataset mnist5k"),
        (None, {"split": "validation"}, "split validation"),
    ],
)
def test_incomparable_logs_are_refused(tmp_path: Path, rows: list | None, constant: dict, message: str):
    first = [(0, 1, 1, 0.5), (1, 1, 1, 0.25)]
    logs = [read_log(write_log(tmp_path / "a", first)), read_log(write_log(tmp_path / "b", rows or first, **constant))]
    with pytest.raises(DdrsError, match=message) as caught:
        envelope(logs, [0.25])
    assert str(tmp_path / "b") in str(caught.value)


def test_plain_and_own_logs_of_the_same_images_go_together(tmp_path: Path):
    ours = read_log(write_log(tmp_path / "ours", [(0, 1, 1, 0.5)]))
    plain = read_log(write_plain(tmp_path / "plain", [(0, 1, 1, 1.0, 1, "0:00:01")]))
    assert envelope([ours, plain], [0.75]).chosen.tolist() == [1]
    with pytest.raises(DdrsError, match="no logs"):
        envelope([], [0.75])


def test_report_as_csv_md_and_tex(two: list[Log]):
    paths = [Path(log.name) for log in two]
    csv, md, tex = (envelope_report(paths, [0.25, 1.0], form) for form in ("csv", "md", "tex"))
    assert csv.splitlines() == [
        "log,0.25,1,acr",
        f"{paths[0]},0.7500,0.0000,0.3125",
        f"{paths[1]},0.2500,0.2500,0.3000",
        "envelope,0.7500,0.2500,0.3125",
    ]
    assert md.splitlines()[0] == "| log | 0.25 | 1 | acr |" and md.splitlines()[1] == "| --- | --- | --- | --- |"
    assert md.splitlines()[-1] == "| envelope | 0.7500 | 0.2500 | 0.3125 |" and len(md.splitlines()) == 5
    assert r"\begin{tabular}{lrrr}" in tex and r"envelope & 0.7500 & 0.2500 & 0.3125 \\" in tex and r"\toprule" in tex
    with pytest.raises(DdrsError, match=r"'html'.*csv, md or tex"):
        envelope_report(paths, [0.25], "html")


def test_tex_escapes_names(tmp_path: Path):
    text = envelope_report([write_log(tmp_path / "a_b&c%d", [(0, 1, 1, 0.5)])], [0.25], "tex")
    assert r"a\_b\&c\%d" in text


@pytest.mark.parametrize("text", ["", "a", "0.5,", "0.5,0.25", "0.5,0.5", "-1", "nan", "inf", "0.25;0.5"])
def test_radii_must_be_increasing_numbers(text: str):
    assert parse_radii("0,0.25, 1e0") == [0.0, 0.25, 1.0]
    with pytest.raises(DdrsError, match="--radii"):
        parse_radii(text)
