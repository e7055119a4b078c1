"""What a row is stands in one place: a kind or a table that is entered there is everywhere."""

import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from ddrs.certification.certificates import CERTIFICATES
from ddrs.certification.records import read_log
from ddrs.certification.run import _label
from ddrs.errors import DdrsError
from ddrs.experiment.load import load
from ddrs.experiment.recipes import about
from ddrs.figures.certified_accuracy import certified_accuracy_figure, row_styles
from ddrs.figures.distribution import p_lower_figure
from ddrs.operations.overlays import fitted, merge, read
from ddrs.results.captions import Caption, promise
from ddrs.results.claims import write_claims
from ddrs.results.comparison import write_comparison
from ddrs.results.per_class import write_per_class
from ddrs.results.published.printed import read_csv
from ddrs.results.row_cells import write_cells
from ddrs.results.tables import write_table
from ddrs.rows import FIGURES, FIXED, KINDS, TABLES, Kind, Row, Run, kind_of, label_of, logged, methods_of, title_of
from tests.unit.helpers import write_log

pytestmark = pytest.mark.usefixtures("invented_radii")

ROOT = Path(__file__).parents[2]
QCRS = Kind("qcrs", ("FS", "QCRS"), strategy="grid", knob="K", every_k=False, memory=True, colour="#56B4E9", dashes=(0, (2, 1)))
ELASTIC = Kind("semi-elastic", ("FS", "SE"), strategy="ascent", knob="r")


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of a table that the paper has not, of two methods, with kinds that nobody else knows."""
    for kind in (QCRS, ELASTIC):
        monkeypatch.setitem(KINDS, kind.name, kind)
    rows = (Row("cohen", FIXED), Row("cohen", KINDS["gds"]), Row("macer", FIXED), Row("macer", QCRS), Row("macer", ELASTIC))
    monkeypatch.setitem(TABLES, "family", rows)
    return [row.label for row in rows]


def log(folder: Path, label: str, split: str = "test", **more: object) -> Path:
    kind = Row.parse(label).kind
    facts = {**({} if kind.knob is None else {"K": logged(kind.knob, "5")}), **({"memory": "kept"} if kind.memory else {}), **more}
    return write_log(folder / split / f"{label}.tsv", [(i, i % 2, i % 2, 0.5 + i) for i in range(4)], method=label, split=split, **facts)


def test_labels_are_read_as_they_are_written():
    for kind in KINDS.values():
        row = Row("smoothadv", kind)
        assert Row.parse(row.label) == row and row.label == label_of("smoothadv", kind)
    assert Row.parse("cohen").kind is FIXED and Row.parse("cohen-ds2") == Row("cohen", KINDS["ds2"])


@pytest.mark.parametrize("label", ["", "-ds", "cohen-", "cohen-fs", "cohen-ds3", "cohen-ds2-gds", "cohen-ds2-fixed"])
def test_a_label_of_no_kind_is_refused(label: str):
    with pytest.raises(DdrsError, match=r"must be METHOD, METHOD-ds, METHOD-ds2, METHOD-gds"):
        Row.parse(label)


def test_runs_are_read_as_they_are_written_and_know_their_search():
    searches = {"fs/sigma_0.25": None, "ds/sigma_0.25.K_900": "fs/sigma_0.25", "ds2/sigma_1.00.K_1": "ds2/sigma_1.00"}
    for text, search in {**searches, "gds/sigma_0.50.K_20": "gds/sigma_0.50.K_20"}.items():
        run = Run.parse(text)
        assert str(run) == text and Run.at(run.kind, run.sigma, run.value) == run
        if search is not None:
            assert run.search == search
    with pytest.raises(ValueError, match="searches no sigma"):
        _ = Run.parse("fs/sigma_0.25").search


@pytest.mark.parametrize("text", ["ds/sigma_0.25", "fs/sigma_0.25.K_5", "ds/sigma_0.25.r_5", "ds3/sigma_0.25", "ds/sigma_0.2.K_5", "ds", ""])
def test_a_run_of_no_kind_or_against_its_kind_is_refused(text: str):
    with pytest.raises(DdrsError, match="must be KIND/sigma_S"):
        Run.parse(text)


def test_the_tables_have_the_rows_of_the_print():
    printed = dict.fromkeys((f"table{line['table']}", line["method"]) for line in read_csv("tables.csv"))
    tables = dict.fromkeys(table for table, _ in printed)
    assert list(printed) == [(table, row.label) for table in tables for row in TABLES[table]]
    assert set(FIGURES.values()) <= set(TABLES) and methods_of("table2_selected") == ["smoothadv"]
    assert (title_of("table2"), title_of("table2_selected"), title_of("tablets")) == ("Table 2", "Table 2", "Table tablets")


def test_kinds_are_told_apart_in_every_way_that_rows_are_shown():
    for ways in ([kind.shown for kind in KINDS.values()], [kind.colour for kind in KINDS.values()], [str(kind.dashes) for kind in KINDS.values()]):
        assert len(set(ways)) == len(KINDS)


def test_what_is_certified_with_a_model_and_a_search_is_a_row_or_has_a_label_of_none():
    searches = (None, "ascent", "grid")
    assert [_label("cohen", "fs", one, "smoothing") for one in searches] == ["cohen", "cohen-ds", "cohen-gds"]
    assert [_label("cohen", "ds2", one, "smoothing") for one in searches] == ["cohen-ds2-fixed", "cohen-ds2", "cohen-ds2-gds"]
    assert _label("cohen", "fs", None, "other") == "cohen-fixed-other"
    assert kind_of("fs", None) is FIXED and kind_of("fs", None, "another") is None


def test_the_memorys_promise_names_the_rows_as_tables_do(family: list[str]):
    def rows(*labels: str) -> str:
        return "".join(promise(labels)).partition(" certify the stateful classifier")[0]

    assert rows("cohen", "cohen-ds", "cohen-ds2") == rows("cohen-ds", "cohen-gds") == "DS rows"
    assert rows("cohen-gds") == "GDS rows" and rows("cohen-ds", "macer-qcrs") == "DS and QCRS rows"
    assert rows("cohen", "macer-semi-elastic") == ""


def test_another_certificate_says_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "proven_otherwise.py").write_text('PROMISE = "It holds by itself."\n')
    package = sys.modules[CERTIFICATES.package]
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.setitem(KINDS, "po", Kind("po", ("FS", "PO"), certificate="proven_otherwise"))
    assert promise(["cohen", "cohen-po"]) == ["PO rows: It holds by itself."] and promise(["cohen"]) == []
    assert len(promise(["cohen-ds", "macer-po", "yang-po"])) == 2
    logs = [read_log(log(tmp_path, label)) for label in ("cohen", "cohen-po")]
    Caption(tmp_path / "a.md").write("Curves.", logs)
    assert (tmp_path / "a.md").read_text().endswith(" PO rows: It holds by itself.\n")
    before = read_log(write_log(tmp_path / "before.tsv", [(0, 1, 1, 0.5)], method="cohen-ds", K=5))
    Caption(tmp_path / "b.md").write("Curves.", [before])
    assert "promises" not in (tmp_path / "b.md").read_text(), "it is from before the memory"


def test_a_new_kind_and_table_go_through_cells_tables_and_pages(family: list[str], tmp_path: Path):
    def cells(table: str, **more: Callable) -> list[Path]:
        made = []
        for label in family:
            out = tmp_path / table / label
            write_cells([log(tmp_path, label)], table, label, [0.0, 1.0], out, 0, **{name: one(label) for name, one in more.items()})
            made += [out / f"{column}.json" for column in ("0.00", "1.00", "acr")]
        return made

    best, chosen = cells("family"), cells("family_selected", validation=lambda label: [log(tmp_path, label, "validation")])
    csv_, md, tex = (tmp_path / f"t.{form}" for form in ("csv", "md", "tex"))
    write_table(best, csv_, md, tex)
    shown = [line[1:4] for line in csv.reader(csv_.read_text().splitlines())][1:]
    assert shown == [[label, *Row.parse(label).kind.shown] for label in family]
    assert ["cohen-gds", "FS", "GDS"] in shown and ["macer-semi-elastic", "FS", "SE"] in shown
    title = "Table family: best certified accuracy per radius and ACR of cohen, macer and their data-dependent forms."
    assert title in md.read_text() and title in tex.read_text() and "GDS and QCRS rows certify" in md.read_text()
    write_table(chosen, csv_, md, tex)
    assert "**Table family without a choice on test images: certified" in md.read_text()
    write_comparison([*best, *chosen], csv_, md)
    assert md.read_text().startswith("**Table family: ours beside the print.**") and ",no print" in csv_.read_text()
    write_per_class([log(tmp_path, label) for label in family], chosen, [], csv_, md)
    assert "per class, rows of Table family.**" in md.read_text() and "macer-semi-elastic" in csv_.read_text()
    write_claims([*best, *chosen], csv_, md)
    assert len(list(csv.DictReader(csv_.read_text().splitlines()))) == len(read_csv("claims.csv"))


@pytest.mark.parametrize(("label", "memory"), [("macer-qcrs", None), ("macer-semi-elastic", "kept"), ("cohen-gds", None), ("cohen", "kept")])
def test_a_kind_says_whether_its_logs_went_through_the_memory(label: str, memory: str | None, family: list[str], tmp_path: Path):
    facts = {"method": label, "K": "r=0.01" if label.endswith("elastic") else 5} | ({"memory": memory} if memory else {})
    path = write_log(tmp_path / "log.tsv", [(0, 1, 1, 0.5)], **facts)
    with pytest.raises(DdrsError, match=r"the memory; rows ds, ds2, gds, qcrs are of `ddrs remember`, others are not"):
        write_cells([path], "family", label, [0.0], tmp_path / "cells", 0)


def test_a_new_kind_has_its_curve(family: list[str], tmp_path: Path):
    assert row_styles(["macer", "macer-qcrs"])["macer-qcrs"] == (QCRS.colour, QCRS.dashes)
    assert row_styles(["cohen-gds"]) == {"cohen-gds": (KINDS["gds"].colour, KINDS["gds"].dashes)}
    several = row_styles(family)
    assert len(set(map(str, several.values()))) == len({(Row.parse(label).method, str(Row.parse(label).kind.dashes)) for label in family})
    assert several["cohen"][0] == several["cohen-gds"][0] != several["macer"][0] and several["cohen"][1] == several["macer"][1]
    logs, held_out = ([log(tmp_path, label, split) for label in family] for split in ("test", "validation"))
    certified_accuracy_figure(logs, tmp_path / "a.pdf", tmp_path / "a.png", caption=Caption(tmp_path / "a.md"))
    assert "GDS and QCRS rows certify" in (tmp_path / "a.md").read_text()
    p_lower_figure(logs, held_out, tmp_path / "b.pdf", tmp_path / "b.png")
    searches = [log(tmp_path, label) for label in ("cohen", "cohen-gds", "macer-qcrs")]
    certified_accuracy_figure(searches, tmp_path / "c.pdf", tmp_path / "c.png", "searches", evaluations=20)
    assert not plt.get_fignums()


def test_steps_of_a_new_kind_start_at_the_fixed_sigma(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A trajectory of a kind of its own, on models of a fixed sigma: its K = 0 is row FS, as of DS."""
    monkeypatch.setitem(KINDS, "insta-rs", Kind("insta-rs", ("FS", "Insta"), strategy="multistart", knob="K", memory=True))
    logs = [log(tmp_path, label) for label in ("cohen", "cohen-insta-rs")]
    certified_accuracy_figure(logs, tmp_path / "a.pdf", tmp_path / "a.png", "steps")
    with pytest.raises(DdrsError, match=r"no log of cohen-ds at sigma 0\.25 stands beside it"):
        certified_accuracy_figure(logs[:1], tmp_path / "a.pdf", tmp_path / "a.png", "steps")


@pytest.mark.parametrize("kind", [replace(ELASTIC, knob=None), replace(ELASTIC, strategy=None)])
def test_a_table_takes_no_second_number_without_a_search_nor_a_search_without_one(kind: Kind, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(KINDS, kind.name, kind)
    monkeypatch.setitem(TABLES, "family", (Row("cohen", kind),))
    load(read(ROOT / "config.yaml"))
    with pytest.raises(DdrsError, match=r"tables\.family: row 'cohen-semi-elastic': its kind must have both a strategy and a knob") as error:
        load(merge(read(ROOT / "config.yaml"), {"tables": {"family": ["mnist5k"]}}))
    assert "\n" not in str(error.value)


def test_a_table_is_of_one_norm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(TABLES, "family", tuple(map(Row.parse, ("cohen", "yang", "yang-ds"))))
    load(read(ROOT / "config.yaml"))
    with pytest.raises(DdrsError, match=r"tables\.family: .* noise of different norms, .*: cohen gaussian, yang uniform") as error:
        load(merge(read(ROOT / "config.yaml"), {"tables": {"family": ["mnist5k"]}}))
    assert "\n" not in str(error.value)


def test_a_config_may_show_a_new_table(family: list[str]):
    base = read(ROOT / "config.yaml")
    stated = {"search": {"mnist5k": {"strategies": {"grid": {"k_max": 20}}}}}
    TABLES["family"] = tuple(row for row in TABLES["family"] if row.kind is not ELASTIC)
    for given in ({}, {"grid": {"samples": 2}}):
        with pytest.raises(DdrsError, match=r"tables\.family: row 'cohen-gds' needs search\.mnist5k\.strategies\.grid\.k_max, which is its K"):
            load(merge(base, {"tables": {"family": ["mnist5k"]}, "search": {"mnist5k": {"strategies": given}}}))
    settings = load(merge(base, {"tables": {"family": ["mnist5k"]}, **stated}))
    assert [line.split(": ")[:2] for line in about(settings).splitlines() if line.startswith("- Table family")] == [
        ["- Table family", "cohen at sigma 0.25, 0.50, 1.00. Models"],
        ["- Table family", "macer at sigma 0.25, 0.50, 1.00. Models"],
    ]
    names = ("family.csv", "family_selected.tex", "family_comparison.md", "per_class_family.md", "captions/p_lower_family.md", "pages/family.html")
    stages = "".join(f"      - results/{name}: {{persist: true}}\n" for name in names)
    assert fitted(stages, settings) == stages
    assert fitted(stages, load(base)).count("# - results/") == len(names)
    without = {**base["finetune"]["mnist5k"]}
    del without["macer"]
    raw = {**merge(base, stated), "tables": {"family": ["mnist5k"]}, "finetune": {"mnist5k": without}, "figures": {}}
    load(raw)
    TABLES["family"] += (Row("macer", KINDS["ds2"]),)
    with pytest.raises(DdrsError, match=r"tables\.family: method 'macer' has no finetune\.mnist5k\.macer"):
        load(raw)
