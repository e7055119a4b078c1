"""Sigma and K chosen on validation images: by hand, with ties, and without a look at the test logs."""

import json
from pathlib import Path

import pytest

from ddrs.certification.records import Log, read_log, read_logs
from ddrs.errors import DdrsError
from ddrs.results import row_cells
from ddrs.results.cells import read_cell
from ddrs.results.row_cells import write_cells
from ddrs.results.selection import choose, selected
from ddrs.statistics.bounds import lower_confidence_bound, upper_confidence_bound
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

RADII = [0.0, 0.5, 1.0]
DS = {"method": "cohen-ds", "memory": "kept"}
Radii = list[float | None]  # per image: the radius of a correct prediction, or None for a wrong one


def log(folder: Path, split: str, sigma: float, k: int | str, radii: Radii, **more: object) -> Path:
    rows = [(i, 1, 2 if radius is None else 1, radius or 0.0) for i, radius in enumerate(radii)]
    return write_log(folder / split / f"sigma_{sigma:.2f}.K_{k}.tsv", rows, split=split, sigma0=sigma, K=k, **{**DS, **more})


@pytest.fixture
def validation(tmp_path: Path) -> list[Path]:
    """Four images. At 0 the first is best (4/4), at 0.5 the second (3/4), at 1.0 and in ACR the third."""
    return [
        log(tmp_path, "validation", 0.25, 5, [0.3, 0.3, 0.3, 0.3]),
        log(tmp_path, "validation", 0.25, 20, [0.6, 0.6, 0.6, None]),
        log(tmp_path, "validation", 0.5, 5, [1.5, 1.5, None, None]),
        log(tmp_path, "validation", 0.5, 20, [0.9, 0.9, None, None]),
    ]


@pytest.fixture
def measured(tmp_path: Path) -> list[Path]:
    """Five other images, on which other configurations are best: at every radius 0.50 with K = 20."""
    return [
        log(tmp_path, "test", 0.25, 5, [0.2, 0.2, 0.2, None, None]),
        log(tmp_path, "test", 0.25, 20, [0.55, 0.55, None, None, None]),
        log(tmp_path, "test", 0.5, 5, [1.0, None, None, None, None]),
        log(tmp_path, "test", 0.5, 20, [2.0, 2.0, 2.0, 2.0, 2.0]),
    ]


def written(measured: list[Path], validation: list[Path], out: Path) -> dict[str, dict]:
    write_cells(measured, "table1_selected", "cohen-ds", RADII, out, 0, validation)
    return {path.stem: read_cell(path) for path in out.iterdir()}


def test_by_hand(validation: list[Path]):
    choice = choose([read_log(path) for path in validation], RADII)
    assert choice.per_radius == [(0.25, 5), (0.25, 20), (0.5, 5)] and choice.accuracy.tolist() == [1.0, 0.75, 0.5]
    assert choice.for_acr == (0.5, 5) and choice.acr == 0.75


def test_cells_say_what_the_choice_is_worth_on_the_test_images(validation: list[Path], measured: list[Path], tmp_path: Path):
    found = written(measured, validation, tmp_path / "cells")
    assert [(found[c]["sigma0"], found[c]["K"], found[c]["value"]) for c in ("0.00", "0.50", "1.00", "acr")] == [
        (0.25, 5, 60.0),
        (0.25, 20, 40.0),
        (0.5, 5, 20.0),
        (0.5, 5, 0.2),
    ]
    exact = [100 * lower_confidence_bound(2, 5, 0.025), 100 * upper_confidence_bound(2, 5, 0.025)]
    assert found["0.50"]["interval"] == pytest.approx(exact, abs=1e-6)
    assert found["acr"]["interval"][0] == 0 and 0.4 <= found["acr"]["interval"][1] <= 0.6, "a bootstrap of one image in five with radius 1"
    for cell in found.values():
        assert (cell["choice"], cell["images"], cell["split"]) == ("validation", 5, "test")
        assert "4 validation images at n = 1,000" in cell["selection"] and "ties" in cell["selection"]
        assert len(cell["digests"]) == len(cell["validation_digests"]) == 4
        assert "optimistic" not in json.dumps(cell) and "acr_oracle (not a classifier)" not in cell
    assert "Clopper-Pearson" in found["0.50"]["interval_is"] and "bootstrap" in found["acr"]["interval_is"]
    assert found["acr"]["acr on validation"] == 0.75


def test_no_test_log_is_read_before_the_choice_is_made(validation: list[Path], measured: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The order of what happens: validation logs are read, the choice is made, and only then is a test log opened."""
    happened: list[str] = []

    def reading(paths: list[Path]) -> list[Log]:
        happened.extend(path.parent.name for path in paths)
        return read_logs(paths)

    def choosing(logs: list[Log], radii: list[float]) -> object:
        happened.append("choice")
        assert {log.constant("split") for log in logs} == {"validation"}
        return choose(logs, radii)

    monkeypatch.setattr(row_cells, "read_logs", reading)
    monkeypatch.setattr(row_cells, "choose", choosing)
    written(measured, validation, tmp_path / "cells")
    assert happened == ["validation"] * 4 + ["choice"] + ["test"] * 4


def test_other_test_logs_change_no_choice(validation: list[Path], measured: list[Path], tmp_path: Path):
    first = written(measured, validation, tmp_path / "a")
    others = [log(tmp_path, "test", *place, [float(i + 1)] * 5) for i, place in enumerate([(0.5, 20), (0.5, 5), (0.25, 20), (0.25, 5)])]
    second = written(others, validation, tmp_path / "b")
    assert [(c["sigma0"], c["K"]) for c in first.values()] == [(second[name]["sigma0"], second[name]["K"]) for name in first]
    assert [c["value"] for c in first.values()] != [c["value"] for c in second.values()]


@pytest.mark.parametrize(
    ("logs", "winner"),
    [
        ({(0.25, 5): [0.5, None], (0.5, 5): [0.9, None]}, (0.5, 5)),  # the larger ACR
        ({(0.5, 5): [0.9, None], (0.25, 20): [None, 0.9]}, (0.25, 20)),  # the smaller sigma
        ({(0.25, 20): [0.9, None], (0.25, 5): [None, 0.9]}, (0.25, 5)),  # the smaller K
    ],
    ids=["acr", "sigma", "K"],
)
def test_ties(tmp_path: Path, logs: dict[tuple[float, int], Radii], winner: tuple[float, int]):
    """At 0.25 each of two has one of two images; at 3.0 none has any."""
    read = [read_log(log(tmp_path, "validation", sigma, k, radii)) for (sigma, k), radii in logs.items()]
    for ordered in (read, read[::-1]):
        assert choose(ordered, [0.25, 3.0]).per_radius == [winner, winner]


def test_a_fixed_sigma_row_chooses_sigma_alone(tmp_path: Path):
    paths = {
        split: [write_log(tmp_path / split / f"{sigma}", [(i, 1, 1, sigma) for i in range(3)], split=split, sigma0=sigma) for sigma in (0.25, 0.5)]
        for split in ("validation", "test")
    }
    write_cells(paths["test"], "table1_selected", "cohen", [0.25], tmp_path / "cells", 0, paths["validation"])
    cell = read_cell(tmp_path / "cells" / "0.25.json")
    assert (cell["sigma0"], cell["K"], cell["value"]) == (0.5, None, 100.0)


def test_only_validation_images_choose_and_only_others_measure(validation: list[Path], measured: list[Path], tmp_path: Path):
    with pytest.raises(DdrsError, match="is of split test; sigma and K are chosen on split validation only"):
        choose([read_log(path) for path in measured], RADII)
    held_out = [read_log(path) for path in validation]
    with pytest.raises(DdrsError, match="is of the validation images, which chose"):
        selected(held_out, choose(held_out, RADII), RADII)
    with pytest.raises(DdrsError, match="no logs were given"):
        choose([], RADII)
    twice = [read_log(path) for path in (validation[0], log(tmp_path / "more", "validation", 0.25, 5, [0.1] * 4))]
    with pytest.raises(DdrsError, match=r"has sigma 0\.25 and K 5, as another of the logs has"):
        choose(twice, RADII)


def test_what_does_not_fit_together_is_refused(validation: list[Path], measured: list[Path], tmp_path: Path):
    out = tmp_path / "cells"
    with pytest.raises(DdrsError, match=r"no log beside it has sigma 0\.5 and K 5, which the validation images chose"):
        written([*measured[:2], measured[3]], validation, out)
    with pytest.raises(DdrsError, match=r"cells of table1_selected: validation logs are needed"):
        write_cells(measured, "table1_selected", "cohen-ds", RADII, out, 0)
    with pytest.raises(DdrsError, match=r"cells of table1: validation logs are needed"):
        write_cells(measured, "table1", "cohen-ds", RADII, out, 0, validation)
    for wrong, message in (
        ({"method": "cohen-ds2"}, "is of row cohen-ds2, not cohen-ds"),
        ({"noise": "lattice"}, "has noise"),
        ({"dataset": "mnist5k"}, "has dataset"),
        ({"bound": "joint"}, "has bound"),
    ):
        others = [log(tmp_path / "other", "validation", *place, [0.1] * 4, **wrong) for place in ((0.25, 5), (0.5, 5))]
        with pytest.raises(DdrsError, match=message):
            written(measured, others, out)
    assert not out.exists()


def test_validation_may_have_another_n(tmp_path: Path, measured: list[Path]):
    held_out = [log(tmp_path, "validation", *place, [0.4] * 3, n=500, n_max=500, n_top=400) for place in ((0.25, 5), (0.5, 20))]
    assert "3 validation images at n = 500" in written(measured, held_out, tmp_path / "cells")["0.50"]["selection"]
