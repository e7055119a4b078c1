"""Without validation images: every second test image chooses sigma and K, and every number is of the others. And prints found by kind."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ddrs.certification.records import memory_digest, read_log
from ddrs.errors import DdrsError
from ddrs.figures.distribution import p_lower_figure
from ddrs.results.cells import read_cell
from ddrs.results.claims import write_claims
from ddrs.results.comparison import write_comparison
from ddrs.results.per_class import write_per_class
from ddrs.results.row_cells import write_cells
from ddrs.results.selection import choose, halves, selected
from ddrs.results.tables import write_table
from ddrs.rows import ALTERNATE
from ddrs.statistics.bounds import lower_confidence_bound, upper_confidence_bound
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")  # bounds are computed again in test_certify_log.py and tests/adversarial

RADII = [0.0, 0.5]
DS = {"method": "cohen-ds", "memory": "kept"}
IDX = [0, 100, 200, 300, 400, 500]  # every 100th, as of ImageNet: all even


def log(folder: Path, sigma: float, k: int, radii: list[float | None], **more: object) -> Path:
    """Per image the radius of a correct prediction, or None for a wrong one; class 7 for the last two images. `memory` None: from before it."""
    labels = [7 if i >= len(radii) - 2 else 1 for i in range(len(radii))]
    rows = [(idx, label, 3 if radius is None else label, radius or 0.0) for idx, label, radius in zip(IDX, labels, radii, strict=False)]
    facts = {name: value for name, value in {**DS, "K": k, **more}.items() if value is not None}
    return write_log(folder / f"sigma_{sigma:.2f}.K_{k}.tsv", rows, sigma0=sigma, **facts)


RUNS: list[tuple[float, int, list[float | None]]] = [
    (0.25, 5, [0.9, 0.2, 0.9, None, 0.9, 0.6]),
    (0.25, 20, [0.1, 2.0, 0.1, 2.0, None, 2.0]),
    (0.5, 5, [None, 3.0, None, 3.0, None, 3.0]),
]


def remembered(before: Path, sigma: float, k: int, radii: list[float | None]) -> Path:
    """A log as of the memory, which says that it was made of `before`."""
    return log(before.parents[1] / "logs", sigma, k, radii, digest=memory_digest(before, "l2"))


@pytest.fixture
def before(tmp_path: Path) -> list[Path]:
    """Even places prefer 0.25 with K = 5, odd places the others."""
    return [log(tmp_path / "before", *run, memory=None) for run in RUNS]


@pytest.fixture
def logs(before: list[Path]) -> list[Path]:
    """What the memory made of them, where it changed nothing."""
    return [remembered(path, *run) for path, run in zip(before, RUNS, strict=True)]


def cells(logs: list[Path], out: Path, table: str = "table1_selected", before: Sequence[Path] = (), **more: object) -> dict[str, dict]:
    given = {"choose_on": ALTERNATE} if table.endswith("_selected") else {}
    write_cells(logs, table, "cohen-ds", RADII, out, 0, **{**given, "before": before, **more})  # type: ignore[arg-type]
    return {path.stem: read_cell(path) for path in out.iterdir()}


def test_halves_are_by_place_among_the_certified_in_the_order_of_idx(tmp_path: Path):
    path = tmp_path / "log.tsv"
    write_log(path, [(idx, 1, 1, 0.5) for idx in (500, 0, 300, 100, 400)])
    (first,), (second,) = halves([read_log(path)])
    assert (first.table["idx"].tolist(), second.table["idx"].tolist()) == ([0, 300, 500], [100, 400])
    write_log(path, [(idx, 1, 1, 0.5) for idx in range(7)])
    (first,), (second,) = halves([read_log(path)])
    assert (first.table["idx"].tolist(), second.table["idx"].tolist()) == ([0, 2, 4, 6], [1, 3, 5])
    write_log(path, [(3, 1, 1, 0.5)])
    with pytest.raises(DdrsError, match="is of one image; two are needed"):
        halves([read_log(path)])


def test_the_numbers_are_of_the_images_that_did_not_choose(logs: list[Path], before: list[Path], tmp_path: Path):
    found = cells(logs, tmp_path / "cells", before=before)
    assert [(found[c]["sigma0"], found[c]["K"]) for c in ("0.00", "0.50")] == [(0.25, 5)] * 2
    assert [found[c]["value"] for c in ("0.00", "0.50")] == pytest.approx([200 / 3, 100 / 3], abs=1e-6)
    assert found["acr"]["value"] == pytest.approx(0.8 / 3, abs=1e-6) and found["acr"]["acr on those that chose"] == pytest.approx(0.9)
    assert found["acr"]["deviation"] == pytest.approx(np.std([0.2, 0.0, 0.6]), abs=1e-6)
    exact = [100 * lower_confidence_bound(1, 3, 0.025), 100 * upper_confidence_bound(1, 3, 0.025)]
    assert found["0.50"]["interval"] == pytest.approx(exact, abs=1e-6) and "Clopper-Pearson" in found["0.50"]["interval_is"]
    for cell in found.values():
        assert (cell["choice"], cell["images"], cell["split"]) == ("even", 3, "test")
        assert "every second test image in order of idx, from the first on (3), before the memory, and reported on the other 3" in cell["selection"]
        assert cell["validation_digests"] == {} and len(cell["digests"]) == len(cell["digests_before_memory"]) == 3


def test_what_the_reported_images_say_changes_no_choice(logs: list[Path], before: list[Path], tmp_path: Path):
    """Not through the memory either: what it makes of the images that choose, the reported ones among its entries, is not what they choose on."""
    first = cells(logs, tmp_path / "a", before=before)
    other = [log(tmp_path / "before", 0.5, 5, [None, 9.0, None, 9.0, None, 9.0], memory=None)]
    other += [log(tmp_path / "before", 0.25, 5, [0.9, None, 0.9, None, 0.9, None], memory=None)]
    remembered(other[0], 0.5, 5, [None, 9.0, None, 9.0, None, 9.0])
    remembered(other[1], 0.25, 5, [0.9, None, 0.05, None, 0.05, None])
    second = cells(logs, tmp_path / "b", before=before)
    assert {name: (cell["sigma0"], cell["K"]) for name, cell in first.items()} == {name: (c["sigma0"], c["K"]) for name, c in second.items()}
    assert {cell["value"] for cell in second.values()} == {0.0}


def test_a_row_of_a_fixed_sigma_chooses_on_its_own_logs(tmp_path: Path):
    logs = [log(tmp_path, sigma, k, radii, method="cohen", memory=None, K=None) for sigma, k, radii in (RUNS[0], RUNS[2])]
    write_cells(logs, "table1_selected", "cohen", RADII, tmp_path / "cells", 0, choose_on=ALTERNATE)
    cell = read_cell(tmp_path / "cells" / "0.50.json")
    assert (cell["sigma0"], cell["K"], cell["memory"], cell["digests_before_memory"]) == (0.25, None, None, {})
    assert "from the first on (3), and reported on the other 3" in cell["selection"]


def test_what_is_not_from_before_the_memory_is_named(logs: list[Path], before: list[Path], tmp_path: Path):
    other = log(tmp_path / "other", 0.25, 5, RUNS[0][2], memory=None, method="cohen-ds2")
    fewer = log(tmp_path / "fewer", 0.25, 5, RUNS[0][2][:4], memory=None)
    abstaining = log(tmp_path / "abstaining", 0.25, 5, [None] * 6, memory=None)
    for given, message in (
        (logs, r"sigma_0\.25\.K_5\.tsv: has been through the memory; --before takes the log that it was made of"),
        (before[1:], r"each log of its row needs the one that it was made of \(--before\); \d of \d are given"),
        ([*before[:2], before[0]], "each log of its row needs the one that it was made of"),
        ([other, *before[1:]], "has method cohen-ds2, but .* has cohen-ds|each log of its row needs the one"),
        ([fewer, *before[1:]], "is of other images than"),
        ([abstaining, *before[1:]], r"abstaining/sigma_0\.25\.K_5\.tsv: is not what the memory made .*logs/sigma_0\.25\.K_5\.tsv of"),
        ([], "--before is needed for a row with a memory whose even images choose|each log of its row needs the one"),
    ):
        with pytest.raises(DdrsError, match=message):
            cells(logs, tmp_path / "cells", before=given)
        with pytest.raises(DdrsError, match=message):
            p_lower_figure(logs, [], tmp_path / "a.pdf", tmp_path / "a.png", ["cifar10"], given)
    assert not (tmp_path / "cells").exists() and not (tmp_path / "a.pdf").exists()


@pytest.mark.parametrize(
    ("table", "more", "message"),
    [
        ("table1_selected", {"validation": True}, "validation logs are given, but every second test image is to choose; give one or the other"),
        ("table1", {"choose_on": ALTERNATE}, "--choose-on even is for a table that ends in _selected"),
        ("table1_selected", {"choose_on": "validation"}, "validation logs are needed for a table that ends in _selected"),
        ("table1_selected", {"choose_on": "odd"}, "--choose-on 'odd': must be validation or even"),
        ("table1", {"before": True}, "--before is needed for a row with a memory whose even images choose, and for no other"),
    ],
)
def test_two_ways_of_choosing_do_not_mix(table: str, more: dict, message: str, logs: list[Path], tmp_path: Path):
    if "validation" in more:
        more = {"validation": [log(tmp_path / "validation", 0.25, 5, [0.5, 0.5], split="validation")]}
    if "before" in more:
        more = {"before": [log(tmp_path / "before", *run, memory=None) for run in RUNS]}
    with pytest.raises(DdrsError, match=message):
        cells(logs, tmp_path / "cells", table, **more)
    assert not (tmp_path / "cells").exists()


def test_a_choice_that_no_log_has_is_refused(logs: list[Path]):
    first, second = halves([read_log(path) for path in logs])
    with pytest.raises(DdrsError, match=r"has sigma 0\.25 and K 5, which every second image chose"):
        selected(second[1:], choose(first, RADII, ALTERNATE), RADII)


def test_cells_of_both_forms_stand_together(logs: list[Path], before: list[Path], tmp_path: Path):
    """Six images behind the one, three behind the other."""
    paths = []
    for table in ("table1", "table1_selected"):
        cells(logs, tmp_path / table, table, before if table.endswith("_selected") else [])
        paths += sorted((tmp_path / table).iterdir())
    write_comparison(paths, tmp_path / "c.csv", tmp_path / "c.md")
    with open(tmp_path / "c.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {(line["choice"], line["images"]) for line in lines} == {("test", "6"), ("even", "3")}
    assert "or `even`: every second test image, the others being reported" in (tmp_path / "c.md").read_text()
    write_table(paths[3:], tmp_path / "t.csv", tmp_path / "t.md", tmp_path / "t.tex")
    text = (tmp_path / "t.md").read_text()
    chosen = "from the first on (3), before the memory, and reported on the other 3"
    for words in (
        "Table 1 with a choice on half of the test images, of the other half: certified",
        "on 3 test images",
        chosen,
        "No image that chose is one of those that a cell is of.",
    ):
        assert words in text
    write_claims(paths, tmp_path / "claims.csv", tmp_path / "claims.md")
    with open(tmp_path / "claims.csv", encoding="utf-8") as file:
        (line,) = [line for line in csv.DictReader(file) if line["id"] == "introduction-ds2-cifar10"]
    assert line["ours"] == "" and line["our_dataset"] == "cifar10"


def test_classes_are_counted_over_the_reported_images(logs: list[Path], before: list[Path], tmp_path: Path):
    cells(logs, tmp_path / "cells", before=before)
    write_per_class(logs, sorted((tmp_path / "cells").iterdir()), [], tmp_path / "p.csv", tmp_path / "p.md")
    with open(tmp_path / "p.csv", encoding="utf-8") as file:
        lines = [(line["class"], line["images"], line["0.50"]) for line in csv.DictReader(file)]
    assert lines == [("1", "2", "0.00"), ("7", "1", "100.00")]
    assert (
        "Each row is at the one sigma and K that every second test image chose for its ACR, and of the other images."
        in (tmp_path / "p.md").read_text()
    )


def test_p_lower_is_of_the_reported_images(logs: list[Path], before: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """At 0.25 even places choose K = 5, of whose odd places one of three is wrong; what the memory made of the even places does not count."""
    remembered(before[0], 0.25, 5, [0.9, 0.2, 0.0, None, 0.0, 0.6])
    plt.close("all")
    with monkeypatch.context() as patch:
        patch.setattr(plt, "close", lambda figure: None)
        p_lower_figure(logs[:2], [], tmp_path / "a.pdf", tmp_path / "a.png", ["cifar10"], before)
        own = plt.gcf().axes[0].lines[0]
    assert own.get_ydata()[0] == pytest.approx(100 / 3) and len(own.get_ydata()) == 3
    plt.close("all")
    held_out = [log(tmp_path / "validation", 0.25, 5, [0.5, 0.5], split="validation")]
    for validation, even, message in (
        (held_out, ["cifar10"], "is of the validation images of cifar10, but every second test image of it is to choose"),
        ([], ["imagenet"], "--even imagenet: no log is of this dataset"),
        ([], [], "no logs were given"),
    ):
        with pytest.raises(DdrsError, match=message):
            p_lower_figure(logs, validation, tmp_path / "b.pdf", tmp_path / "b.png", even)
    assert not (tmp_path / "b.pdf").exists()


@pytest.mark.parametrize(
    ("dataset", "kind", "paper", "verdict"),
    [
        ("cifar10-held-out", "cifar10", 47.8, "not comparable: n_max"),
        ("mine", "imagefolder", None, "no print"),
        ("cifar10", "imagefolder", None, "no print"),
        ("cifar10", None, 47.8, "not comparable: n_max"),
        ("cifar10-held-out", None, None, "no print"),
    ],
)
def test_the_print_is_found_by_kind(dataset: str, kind: str | None, paper: float | None, verdict: str, tmp_path: Path):
    """Table 1 prints 47.8 for cohen-ds at 0.5 on CIFAR-10."""
    found = cells([log(tmp_path, 0.25, 5, [0.5] * 4, dataset=dataset)], tmp_path / "cells", "table1", kind=kind)["0.50"]
    assert (found["dataset"], found["paper"]) == (dataset, paper) and found["verdict"].startswith(verdict)


def test_a_claim_meets_every_dataset_of_its_kind(tmp_path: Path):
    paths = []
    for name in ("cifar10", "cifar10-held-out"):
        for label, right in (("cohen", 400), ("cohen-ds", 480)):
            more = {"memory": "kept", "K": 5} if "-" in label else {}
            facts = {"dataset": name, "method": label, "n": 100_000, "n_max": 100_000, **more}
            rows = [(i, 1, 1 if i < right else 2, 0.75) for i in range(1000)]
            write_cells(
                [write_log(tmp_path / name / label, rows, **facts)], "table1", label, [0.5], tmp_path / name / f"{label}-cells", 0, kind="cifar10"
            )
            paths += sorted((tmp_path / name / f"{label}-cells").iterdir())
    write_claims(paths, tmp_path / "claims.csv", tmp_path / "claims.md")
    with open(tmp_path / "claims.csv", encoding="utf-8") as file:
        lines = [(line["our_dataset"], line["ours"], line["verdict"]) for line in csv.DictReader(file) if line["id"] == "cohen-ds-cifar10-0.50"]
    assert lines == [("cifar10", "8.00", "within"), ("cifar10-held-out", "8.00", "within")]
