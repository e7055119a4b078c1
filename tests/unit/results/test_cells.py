"""Cells: one number each, with what gave it, the print beside it, and a digest that shows tampering."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from ddrs.certification.records import read_log
from ddrs.errors import DdrsError
from ddrs.results.cells import read_cell
from ddrs.results.envelope import envelope
from ddrs.results.published.printed import published
from ddrs.results.row_cells import write_cells
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

RADII = [0.0, 0.5, 2.75]


def rows(radius: float, share: float, images: int = 200) -> list[tuple[int, int, int, float]]:
    """Images of which a share is certified at that radius and the others are wrong."""
    return [(i, 1, 1 if i < share * images else 2, radius) for i in range(images)]


@pytest.fixture
def logs(tmp_path: Path) -> list[Path]:
    """A row of Table 2: smoothadv-ds2 at two sigmas and two K, after the memory."""
    facts = {"method": "smoothadv-ds2", "memory": "kept"}
    return [
        write_log(tmp_path / "logs" / "sigma_0.25.K_100.tsv", rows(0.25, 0.9), sigma0=0.25, K=100, **facts),
        write_log(tmp_path / "logs" / "sigma_0.50.K_100.tsv", rows(0.75, 0.5), sigma0=0.5, K=100, **facts),
        write_log(tmp_path / "logs" / "sigma_0.50.K_900.tsv", rows(0.6, 0.7), sigma0=0.5, K=900, **{**facts, "memory": "shrunk"}),
    ]


def cells(logs: list[Path], out: Path, label: str = "smoothadv-ds2", table: str = "table2") -> dict[str, dict]:
    write_cells(logs, table, label, RADII, out, seed=0)
    return {path.stem: read_cell(path) for path in out.iterdir()}


def test_a_cell_says_what_gave_its_number(logs: list[Path], tmp_path: Path):
    found = cells(logs, tmp_path / "cells")
    assert sorted(found) == ["0.00", "0.50", "2.75", "acr"]
    assert [(cell["value"], cell["sigma0"], cell["K"]) for cell in (found["0.00"], found["0.50"], found["acr"])] == [
        (90.0, 0.25, 100),
        (70.0, 0.5, 900),
        (0.42, 0.5, 900),
    ]
    assert found["2.75"]["value"] == 0.0 and found["acr"]["acr_oracle (not a classifier)"] == pytest.approx((100 * 0.75 + 40 * 0.6 + 40 * 0.25) / 200)
    shared = {"table": "table2", "label": "smoothadv-ds2", "dataset": "cifar10", "split": "test", "n0": 100, "n_max": 1000, "alpha": 0.001}
    shared |= {"protocol": "fixed", "bound": "binary", "precision": "float32"}
    for column, cell in found.items():
        assert cell["column"] == column and shared.items() <= cell.items()
        assert [cell["noise"], cell["seed"], cell["images"]] == ["gaussian", 0, 200]
        assert cell["digests"] == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in logs}
        assert cell["memory"] == {"passes": 3, "entries": 200, "kept": 400, "adopted": 0, "shrunk": 200, "repeated": 0}
        assert "optimistic" in cell["selection"] and "optimistic" in cell["interval_is"]


def test_intervals_are_those_of_the_envelope(logs: list[Path], tmp_path: Path):
    found, best = cells(logs, tmp_path / "cells"), envelope([read_log(path) for path in logs], RADII, seed=0)
    np.testing.assert_allclose(found["0.50"]["interval"], 100 * best.accuracy_interval[1], atol=1e-6)
    np.testing.assert_allclose(found["acr"]["interval"], best.acr_interval, atol=1e-6)
    assert found["0.50"]["interval"][0] < 70 < found["0.50"]["interval"][1]


def test_the_print_stands_beside_ours(logs: list[Path], tmp_path: Path):
    """Table 2 prints 76.2, 52.8 and .812 for CIFAR-10 and smoothadv-ds2, and has no radius 2.75; these logs have n = 1,000."""
    found = cells(logs, tmp_path / "cells")
    assert [found[column]["paper"] for column in ("0.00", "0.50", "2.75", "acr")] == [76.2, 52.8, None, 0.812]
    assert found["0.50"]["verdict"] == "not comparable: n_max = 1000, where the print has 100000" and found["0.50"]["difference"] is None
    assert found["2.75"]["verdict"] == "no print" and found["acr"]["verdict"].startswith("inconsistent if sigma at most doubles")
    assert "UAI 2022" in found["0.50"]["paper_source"] and found["2.75"]["paper_source"] is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (("table1", "cifar10", "cohen", "acr"), 0.591),
        (("table1", "cifar10", "cohen-ds", "0.25"), 64.5),
        (("table2", "cifar10", "smoothadv-ds2", "0.50"), 52.8),
        (("table2", "imagenet", "smoothadv", "4.00"), 0.0),
        (("table2", "cifar10", "cohen", "0.50"), None),
        (("table1", "mnist5k", "cohen", "0.50"), None),
        (("table1", "cifar10", "cohen", "4.00"), None),
    ],
)
def test_published(key: tuple[str, str, str, str], value: float | None):
    assert published(*key) == value


def test_a_fixed_sigma_row_has_neither_k_nor_memory(tmp_path: Path):
    log = write_log(tmp_path / "log.tsv", rows(0.6, 0.5))
    cell = cells([log], tmp_path / "cells", "cohen", "table1")["0.50"]
    assert cell["K"] is None and cell["memory"] is None and cell["paper"] == 40.1


def test_cells_repeat_their_bytes(logs: list[Path], tmp_path: Path):
    for name in ("a", "b"):
        cells(logs, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("change", [{"value": 99.0}, {"paper": 10.0}, {"K": 101}, {"more": 1}, {"digest": "0" * 16}, {"verdict": None}])
def test_tampering_is_detected(logs: list[Path], tmp_path: Path, change: dict):
    cells(logs, tmp_path / "cells")
    path = tmp_path / "cells" / "0.50.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DdrsError, match=r"0\.50\.json: was changed"):
        read_cell(path)


def test_layout_of_the_json_is_not_tampering(logs: list[Path], tmp_path: Path):
    cell = cells(logs, tmp_path / "cells")["0.50"]
    path = tmp_path / "cells" / "0.50.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert read_cell(path) == cell


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", '{"value": 1}'])
def test_what_is_no_cell_is_refused(tmp_path: Path, text: str):
    (tmp_path / "cell.json").write_text(text)
    with pytest.raises(DdrsError, match=r"cell\.json: not a cell file"):
        read_cell(tmp_path / "cell.json")
    with pytest.raises(DdrsError, match="no such file"):
        read_cell(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("constant", "message"),
    [
        ({"method": "smoothadv-ds"}, "is of row smoothadv-ds, not smoothadv-ds2"),
        ({"n_max": 950}, "has n_max 950"),
        ({"protocol": "two-stage"}, "has protocol two-stage"),
        ({"bound": "joint"}, "has bound joint"),
        ({"precision": "bfloat16"}, "has precision bfloat16"),
        ({"n0": 10}, "has n0 10"),
        ({"seed": 1}, "has seed 1"),
        ({"alpha": 0.01}, "has alpha 0.01"),
        ({"noise": "uniform"}, "has noise uniform"),
        ({"split": "validation"}, "has split validation"),
    ],
)
def test_logs_of_different_rows_or_protocols_are_refused(logs: list[Path], tmp_path: Path, constant: dict, message: str):
    other = write_log(tmp_path / "other.tsv", rows(0.6, 0.5), **{"method": "smoothadv-ds2", "K": 100, "memory": "kept", **constant})
    with pytest.raises(DdrsError, match=message):
        write_cells([*logs, other], "table2", "smoothadv-ds2", RADII, tmp_path / "cells", seed=0)
    assert not (tmp_path / "cells").exists()


def test_a_row_is_of_the_memory_or_not_at_all(tmp_path: Path):
    """A data-dependent row without its memory pass would look sound, and a fixed one with it would not be the paper's."""
    for method, memory in (("smoothadv-ds2", {}), ("smoothadv", {"memory": "kept"})):
        log = write_log(tmp_path / "log.tsv", rows(0.6, 0.5), method=method, **memory)
        with pytest.raises(DdrsError, match="the memory"):
            write_cells([log], "table2", method, RADII, tmp_path / "cells", seed=0)


def test_an_interval_never_collapses(tmp_path: Path):
    """0 of 200 and 200 of 200: every replicate gives the same share, but the exact interval is wider."""
    found = cells([write_log(tmp_path / "log.tsv", rows(1.0, 1.0), method="smoothadv-ds2", memory="kept")], tmp_path / "cells")
    assert found["2.75"]["interval"][0] == 0 and found["2.75"]["interval"][1] == pytest.approx(100 * (1 - 0.025 ** (1 / 200)))


@pytest.mark.parametrize("radii", [[0.125, 0.5], [0.251, 0.254]])
def test_a_radius_that_its_file_name_cannot_say_is_refused(logs: list[Path], tmp_path: Path, radii: list[float]):
    """A cell named 0.12 must not hold the accuracy at 0.125, nor two radii share a file."""
    with pytest.raises(DdrsError, match="radi"):
        write_cells(logs, "table2", "smoothadv-ds2", radii, tmp_path / "cells", seed=0)
