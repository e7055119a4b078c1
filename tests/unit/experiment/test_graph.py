"""Which files an experiment has, and what each is made of."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddrs.errors import DdrsError
from ddrs.experiment.config import Config
from ddrs.experiment.graph import MEMORY, OF_RUNS, Cells, Graph
from ddrs.experiment.jobs import Jobs
from ddrs.experiment.load import load
from ddrs.experiment.panels import ILLUSTRATED
from ddrs.figures.illustrations import SUBJECTS
from ddrs.operations.overlays import merge, read, read_all
from ddrs.rows import FIGURES, FIXED, KINDS, TABLES, Kind, Row, Run

ROOT = Path(__file__).parents[3]


def config(*overlays: str, **changes: object) -> Config:
    """The shipped config, or with overlays; changes are put in unchecked."""
    return load(merge(read(ROOT / "config.yaml"), read_all([ROOT / "configs" / name for name in overlays]))).model_copy(update=changes)


@pytest.fixture
def graph() -> Graph:
    return Graph(config())


def without_validation() -> Graph:
    settings = config()
    return Graph(config(datasets={"mnist5k": settings.datasets["mnist5k"].model_copy(update={"images": {"test": 100}})}))


def test_a_row_of_a_fixed_sigma_is_a_log_per_sigma_as_certified(graph: Graph) -> None:
    place = "results/certificates/mnist5k/test/cohen/fs/sigma_{}.tsv"
    assert graph.logs("mnist5k", Row.parse("cohen")) == [place.format(sigma) for sigma in ("0.25", "0.50", "1.00")]


def test_a_row_of_searches_is_a_log_per_k_and_sigma_after_the_memory(graph: Graph) -> None:
    place = "results/memory/mnist5k/test/cohen/ds2/sigma_{}.K_{}.tsv"
    assert graph.logs("mnist5k", Row.parse("cohen-ds2")) == [place.format(sigma, k) for k in (300, 900, 1500) for sigma in ("0.25", "0.50", "1.00")]


def test_a_row_stands_on_the_models_of_its_kind(graph: Graph) -> None:
    def of(label: str) -> str:
        return graph.models_of("mnist5k", Row.parse(label))[0]

    assert of("macer") == of("macer-ds") == of("macer-gds") == "results/models/mnist5k/macer/fs/sigma_0.25.safetensors"
    assert of("macer-ds2") == "results/models/mnist5k/macer/ds2/sigma_0.25.safetensors"


def test_sigma_and_k_are_chosen_on_validation_images_or_on_every_second_test_image(graph: Graph) -> None:
    fixed, searched = Row.parse("cohen"), Row.parse("cohen-ds")
    assert all("/validation/" in log for log in graph.validation("mnist5k", searched)) and graph.before_memory("mnist5k", searched) == []
    even = without_validation()
    assert even.validation("mnist5k", searched) == even.validation("mnist5k", fixed) == even.before_memory("mnist5k", fixed) == []
    before = even.before_memory("mnist5k", searched)
    assert before == [log.replace("/memory/", "/certificates/") for log in even.logs("mnist5k", searched)]


def test_images_that_no_split_has_are_one_line() -> None:
    with pytest.raises(DdrsError, match=r"mnist5k\.images has no validation: none of its validation images are certified"):
        without_validation().images("mnist5k", "validation")


def test_figure_7_starts_at_the_model_where_it_is_of_a_fixed_sigma(graph: Graph) -> None:
    runs = [str(one.run) for one in graph.runs_of_figure("7")]
    assert runs[:2] == ["ds2/sigma_0.25.K_0", "ds2/sigma_0.25.K_300"]
    assert runs[4:6] == ["fs/sigma_0.50", "ds/sigma_0.50.K_300"]


def test_figure_8_sets_grids_beside_the_search_and_the_fixed_sigma(graph: Graph) -> None:
    runs = [one.run for one in graph.runs_of_figure("8")]
    assert [run.value for run in runs if run.sigma == "0.25"] == [None, 100, 200, 100, 50, 20]
    assert list(dict.fromkeys(run.kind.name for run in runs)) == ["fs", "ds", "gds"]


def test_a_figures_k_beyond_the_tables_is_a_target_and_passes_the_memory_alone(graph: Graph) -> None:
    shown = Run(KINDS["ds"], "0.25", "100")
    assert graph.log("mnist5k", "smoothadv", shown) in graph.certificates()
    rows, runs = graph.passes()
    assert rows.logs(MEMORY) == [f"results/memory/mnist5k/{{split}}/{{method}}/{{row}}/sigma_{{sigma}}.K_{k}.tsv" for k in (300, 900, 1500)]
    alone = [f"{shown}.tsv", "gds/sigma_0.25.K_300.tsv", "ds/sigma_0.25.K_3000.tsv"]
    assert all(re.fullmatch(rf"({runs.pattern})\.tsv", name) for name in alone)
    assert not any(
        re.fullmatch(rf"({runs.pattern})\.tsv", f"{name}.tsv") for name in ("ds/sigma_0.25.K_300", "ds2/sigma_0.25.K_900", "fs/sigma_0.25")
    )


@pytest.mark.parametrize(
    ("part", "names", "others"),
    [
        (
            "run",
            ["fs/sigma_0.25", "ds/sigma_1.00.K_900", "gds/sigma_0.50.K_20"],
            ["fs/sigma_0.25.K_900", "ds/sigma_0.25", "ds/sigma_0.2.K_9"],
        ),
        ("search", ["fs/sigma_0.25", "ds2/sigma_0.25", "gds/sigma_0.50.K_20"], ["ds/sigma_0.25", "ds2/sigma_0.25.K_900", "gds/sigma_0.25"]),
        ("row", ["ds", "ds2"], ["fs", "gds", "ds3"]),
        ("regime", ["fs", "ds2"], ["ds", "gds"]),
        ("table", list(TABLES), ["table", "table1_selected"]),
    ],
)
def test_patterns_are_those_of_the_kinds(graph: Graph, part: str, names: list[str], others: list[str]) -> None:
    pattern = graph.patterns()[part]
    assert [name for name in names + others if re.fullmatch(pattern, name)] == names


def test_every_run_of_the_experiment_is_of_the_pattern(graph: Graph) -> None:
    runs = [run for table in TABLES for _, row in graph.rows(table) for run in graph.runs("mnist5k", row)]
    runs += [one.run for number in "6789" for one in graph.runs_of_figure(number)]
    for run in runs:
        assert re.fullmatch(graph.patterns()["run"], str(run)) and Run.parse(str(run)) == run
        assert run.kind is FIXED or re.fullmatch(graph.patterns()["search"], run.search)


def test_a_search_is_that_of_its_model_or_a_grid_of_figure_8(graph: Graph) -> None:
    def settings(search: str):
        return graph.searching("mnist5k", "smoothadv", graph.searched(search))

    assert settings("fs/sigma_0.25") == settings("ds2/sigma_0.25") == graph.settings.search_on("mnist5k", "smoothadv")
    assert (settings("gds/sigma_0.25.K_50").strategy, settings("gds/sigma_0.25.K_50").samples) == ("grid", 4)
    with pytest.raises(DdrsError, match=r"figures.figure8 has no grid of 40 points for smoothadv on mnist5k"):
        settings("gds/sigma_0.25.K_40")


def test_a_kind_that_is_added_has_files_of_its_own(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Kind("other", ("FS", "Other"), strategy="other", knob="K", every_k=False, memory=True)
    monkeypatch.setitem(KINDS, kind.name, kind)
    run = Run.parse("other/sigma_0.25.K_9")
    assert graph.sigmas("mnist5k", "test", "cohen", run) == "results/sigmas/mnist5k/test/cohen/other/sigma_0.25.K_9.parquet"
    assert graph.log("mnist5k", "cohen", run).startswith("results/memory/")
    assert all(re.fullmatch(graph.patterns()[part], str(run)) for part in ("run", "search"))
    assert re.fullmatch(graph.passes()[1].pattern, str(run))
    with pytest.raises(DdrsError, match="unknown strategy 'other'"):
        graph.searching("mnist5k", "cohen", run)


def test_a_table_may_have_several_methods_and_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLES, "family", tuple(Row.parse(label) for label in ("cohen", "cohen-ds", "smoothadv")))
    graph = Graph(load(merge(read(ROOT / "config.yaml"), {"tables": {"family": ["mnist5k"]}})))
    assert [row.label for _, row in graph.rows("family_selected")] == ["cohen", "cohen-ds", "smoothadv"]
    own = {one.method: one for one in graph.cell_jobs() if one.table == "family"}
    assert [(one.rule, one.labels) for one in own.values()] == [
        ("cells_family_mnist5k_cohen", "cohen|cohen-ds"),
        ("cells_family_mnist5k_smoothadv", "smoothadv"),
    ]
    assert {one.radii[-1] for one in graph.cell_jobs() if one.table in ("table3", "table4")} == {"2.50", "2.00"}
    made = [file.replace("{label}", label) for one in own.values() for label in one.labels.split("|") for file in one.files]
    assert made == graph.cells("family")
    assert {"results/family_selected.md", "results/pages/family_comparison.html", "results/p_lower_family.pdf"} <= set(graph.tables())
    assert re.fullmatch(graph.tabled, "family_selected") and re.fullmatch(graph.pictured, "p_lower_family")


def test_only_selected_cells_read_what_chooses(graph: Graph) -> None:
    w = SimpleNamespace(label="cohen-ds")
    plain, selected = (Cells(graph, table, "mnist5k", "cohen") for table in ("table1", "table1_selected"))
    assert plain.rule == "cells_table1_mnist5k" and plain.logs(w) == selected.logs(w)
    assert plain.validation(w) == [] and selected.validation(w) == graph.validation("mnist5k", Row.parse("cohen-ds"))


def test_which_models_are_imported_is_said_of_dataset_and_method() -> None:
    graph = Graph(config("pretrained.yaml"))
    path = r"results/models/(?P<dataset>{})/(?P<method>\w+)/fs"
    assert re.fullmatch(path.format(graph.imported), "results/models/cifar10/cohen/fs")
    assert not re.fullmatch(path.format(graph.trained), "results/models/cifar10/cohen/fs")
    assert re.fullmatch(path.format(graph.trained), "results/models/cifar10/yang/fs")
    assert not re.fullmatch(Graph(config()).imported, "mnist5k"), "none is"


def test_an_illustration_is_one_file_and_its_number(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sorted(ILLUSTRATED.values()) == sorted(SUBJECTS) and not {*FIGURES, *OF_RUNS} & ILLUSTRATED.keys()
    monkeypatch.setitem(ILLUSTRATED, "10", "idea")
    assert {"results/figure10.pdf", "results/figure10.png", "results/pages/figure10.html"} <= set(graph.figures())
    assert all(re.fullmatch(pattern, "10") for pattern in (graph.illustrated, graph.patterns()["number"])) and not re.fullmatch(
        graph.illustrated, "3"
    )
    assert re.fullmatch(graph.pictured, "figure10") and Jobs(graph).subject(SimpleNamespace(number="10")) == "idea"


def test_targets_have_each_file_once_and_nothing_that_is_not_shown(graph: Graph) -> None:
    of_tables, of_figures = graph.of_rows(graph.models_of, TABLES), graph.of_figures(graph.model)
    assert len(of_tables) == len(set(of_tables)) == 3 * 4 + 3 * 3 and set(of_figures) <= set(of_tables)
    assert graph.models() == of_tables + of_figures
    empty = Graph(config(tables={table: [] for table in TABLES}))
    assert empty.tables() == [] and "results/figure3.pdf" not in empty.figures() and "results/figure1.pdf" in empty.figures()
