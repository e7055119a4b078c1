"""A kind whose second number is not K, from the config to the tables: nothing but its entry in KINDS and its two files knows of it."""

import csv
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddrs.certification.certificates import CERTIFICATES
from ddrs.certification.records import read_log
from ddrs.commands.main import app
from ddrs.errors import DdrsError
from ddrs.experiment.graph import CERTIFICATE, Graph
from ddrs.experiment.jobs import Jobs
from ddrs.experiment.load import load
from ddrs.figures.certified_accuracy import certified_accuracy_figure
from ddrs.figures.distribution import p_lower_figure
from ddrs.operations.fitting import misfits
from ddrs.operations.overlays import merge, read
from ddrs.operations.plan import commands_of
from ddrs.results.comparison import write_comparison
from ddrs.results.per_class import write_per_class
from ddrs.results.row_cells import write_cells
from ddrs.results.tables import write_table
from ddrs.rows import KINDS, TABLES, Kind, Row, Run, spelled
from ddrs.sigma.strategies import STRATEGIES
from tests.unit.helpers import one_line, write_log

ROOT = Path(__file__).parents[2]
ELASTIC = Kind("elastic", ("FS", "SE"), strategy="elastic", knob="r", certificate="elastic", colour="#009E73", dashes=":")
SEARCH = """
from pydantic import Field
from ddrs.sigma.settings import SearchSettings

class Settings(SearchSettings):
    r: float = Field(gt=0, description="how fast sigma may change")
    neighbours: int = Field(2, description="of its own")

def evaluations(settings):
    return settings.samples, 0

def search(model, images, sigma0, streams, noise, settings, progress=lambda done: None):
    import torch
    from ddrs.sigma.objective import Trajectory
    start = torch.full((len(images),), sigma0)
    progress(1)
    return Trajectory.of([start, start * (1 + settings.r * torch.arange(len(images)))], settings)
"""
CERTIFICATE_TEXT = """
from pydantic import Field
from ddrs.certification.certificates import smoothing
from ddrs.sections import Section

PROMISE, STATELESS, steps = "It holds by itself.", True, smoothing.steps

class Settings(Section):
    r: float = Field(description="as of the search")
"""


@pytest.fixture(autouse=True)
def elastic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, text in ((STRATEGIES, SEARCH), (CERTIFICATES, CERTIFICATE_TEXT)):
        package, place = sys.modules[folder.package], tmp_path / "plugins" / folder.kind
        place.mkdir(parents=True)
        (place / "elastic.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(place)])
        monkeypatch.setattr(package, "elastic", None, raising=False)
        monkeypatch.setitem(sys.modules, f"{package.__name__}.elastic", package)
        del sys.modules[f"{package.__name__}.elastic"]
    monkeypatch.setitem(KINDS, "elastic", ELASTIC)
    monkeypatch.setitem(TABLES, "family", tuple(map(Row.parse, ("cohen", "cohen-ds", "cohen-elastic"))))


def config(r: Any = (0.005, 0.01), **parts: Any) -> Any:
    own = {} if r is None else {"r": list(r) if isinstance(r, tuple) else r}
    stated = {"tables": {"family": ["mnist5k"]}, "search": {"mnist5k": {"strategies": {"elastic": {"samples": 3, **own}}}}}
    return load(merge(merge(read(ROOT / "config.yaml"), stated), parts))


def w(**parts: str) -> SimpleNamespace:
    return SimpleNamespace(**{"dataset": "mnist5k", "method": "cohen", "split": "test", **parts})


def test_a_run_has_its_number_as_paths_spell_it() -> None:
    run = Run.parse("elastic/sigma_0.25.r_0.01")
    assert (run.number, run.value, run.logged, str(run)) == ("0.01", 0.01, "r=0.01", "elastic/sigma_0.25.r_0.01")
    assert Run.at(ELASTIC, "0.25", 0.01) == run and run.search == str(run)
    steps = Run.parse("ds/sigma_0.25.K_900")
    assert (steps.number, steps.value, steps.logged) == ("900", 900, "900") and isinstance(steps.value, int)
    assert [spelled(one) for one in (0.01, 1e-5, 2.0, 2, 1500, 0.1 + 0.2)] == ["0.01", "0.00001", "2", "2", "1500", "0.30000000000000004"]


@pytest.mark.parametrize("text", ["r_0.010", "r_.01", "r_1e-2", "r_00.1", "r_1.", "r_1.0", "r_-1", "K_1", "r_1.2.3"])
def test_a_number_is_spelled_in_one_way(text: str) -> None:
    graph = Graph(config())
    with pytest.raises(DdrsError, match="must be KIND/sigma_S"):
        Run.parse(f"elastic/sigma_0.25.{text}")
    assert not re.fullmatch(graph.patterns()["run"], f"elastic/sigma_0.25.{text}")
    for whole in ("ds/sigma_0.25.K_0900", "ds/sigma_0.25.K_9.5"):
        with pytest.raises(DdrsError, match="must be KIND/sigma_S"):
            Run.parse(whole)


def test_its_logs_are_those_of_each_number_that_the_strategy_is_stated_at() -> None:
    graph = Graph(config())
    logs = graph.logs("mnist5k", Row("cohen", ELASTIC))
    place = "results/certificates/mnist5k/test/cohen/elastic/sigma_{}.r_{}.tsv"
    assert logs == [place.format(sigma, r) for r in ("0.005", "0.01") for sigma in ("0.25", "0.50", "1.00")]
    assert set(logs) <= set(graph.certificates()) and graph.logs("mnist5k", Row("cohen", KINDS["ds"])) == Graph(
        load(read(ROOT / "config.yaml"))
    ).logs("mnist5k", Row("cohen", KINDS["ds"]))
    for part in ("run", "search"):
        assert re.fullmatch(graph.patterns()[part], "elastic/sigma_0.25.r_0.005")
    assert not any(re.fullmatch(one.pattern, "elastic/sigma_0.25.r_0.005") for one in graph.passes()), "it has no memory"
    assert graph.logs("mnist5k", Row("cohen", ELASTIC)) != Graph(config(0.005)).logs("mnist5k", Row("cohen", ELASTIC)) == logs[:3]
    with pytest.raises(DdrsError, match=r"^search\.mnist5k\.strategies has no elastic of r = 0\.02 for cohen on mnist5k$"):
        graph.searching("mnist5k", "cohen", Run.at(ELASTIC, "0.25", 0.02))


def test_with_a_memory_each_of_its_logs_is_a_pass_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = Kind("elastic", ("FS", "SE"), strategy="elastic", knob="r", certificate="elastic", memory=True)
    monkeypatch.setitem(KINDS, "elastic", kind)
    of_tables, alone = Graph(load(read(ROOT / "config.yaml"))).passes()
    assert re.fullmatch(alone.pattern, "elastic/sigma_0.25.r_0.005") and "elastic" not in Graph(load(read(ROOT / "config.yaml"))).patterns()["row"]
    runs = [run for run in ("ds/sigma_0.25.K_900", "ds/sigma_0.25.K_901") if re.fullmatch(rf"({alone.pattern})\.tsv", f"{run}.tsv")]
    assert runs == ["ds/sigma_0.25.K_901"]
    assert of_tables.runs == ["{row}/sigma_{sigma}.K_300", "{row}/sigma_{sigma}.K_900", "{row}/sigma_{sigma}.K_1500"]


def test_its_jobs_are_told_the_number_by_its_name() -> None:
    jobs, run = Jobs(Graph(config())), w(run="elastic/sigma_0.25.r_0.01", search="elastic/sigma_0.25.r_0.01")
    assert jobs.scale(run, SimpleNamespace(sigmas="s.parquet")) == "--sigmas s.parquet --knob r=0.01"
    assert jobs.sigmas_of_run(run) == ["results/sigmas/mnist5k/test/cohen/elastic/sigma_0.25.r_0.01.parquet"]
    search = jobs.search(run)
    assert "--samples 3 " in search and "--strategy elastic --k-max 1 " in search and search.endswith("--set r=0.01")
    assert jobs.certify(run).endswith("--certificate elastic --set r=0.01")
    lines = [
        f"sigma --model m --data d --out s {search}",
        f"certify --model m --data d --out l --sigmas s --knob r=0.01 {jobs.certify(run)}",
    ]
    of_search, of_log = commands_of("\n".join(f"Shell command: ddrs {line} > x 2>&1" for line in lines), app)
    assert of_search.flags["set"] == of_log.flags["set"] == ["r=0.01"] and (of_log.flags["knob"], of_log.flags["k"]) == ("r=0.01", None)
    said = "Search by elastic: r = 0.005 / 0.01, n = 3, neighbours = 2"
    assert said in shlex.split(jobs.recipe_of_table(SimpleNamespace(table="family")))[1]


@pytest.mark.parametrize(
    ("r", "parts", "message"),
    [
        (None, {}, r"tables\.family: row 'cohen-elastic' needs search\.mnist5k\.strategies\.elastic\.r, which is its r"),
        ({0.25: 0.1}, {}, r"search\.mnist5k\.strategies\.elastic\.r: must be a number or an increasing list of them, as each is the r of a search"),
        ((0.01, 0.005), {}, r"search\.mnist5k\.strategies\.elastic\.r: must be increasing"),
        ((), {}, r"strategies\.elastic\.r: \[\] must be a list of numbers, one or more"),
        (-0.01, {}, r"search\.mnist5k\.strategies: 'r=-0\.01': must be a whole number"),
        (0.0, {}, r"search\.mnist5k\.strategies: strategy of elastic: r: Input should be greater than 0"),
        (
            0.01,
            {"certify": {"mnist5k": {"certificates": {"elastic": {"r": 0.02}}}}},
            r"certificate: r of elastic is 0\.02, but sigma is searched at r = 0\.01",
        ),
        (
            0.01,
            {"search": {"mnist5k": {"strategies": {"elastic": {"neighbours": [1, 2]}}}}},
            r"search\.mnist5k\.strategies\.elastic\.neighbours: must be one number, as it is the second number of no row",
        ),
    ],
)
def test_a_config_that_says_no_such_number_is_refused(r: Any, parts: dict, message: str) -> None:
    with pytest.raises(DdrsError, match=message) as error:
        config(r, **parts)
    one_line(error)


def test_a_grid_may_be_of_several_k_as_well() -> None:
    TABLES["family"] += (Row("cohen", KINDS["gds"]),)
    graph = Graph(config(search={"mnist5k": {"strategies": {"grid": {"k_max": [20, 40]}}}}))
    assert [run.number for run in graph.runs("mnist5k", Row("cohen", KINDS["gds"]))] == ["20"] * 3 + ["40"] * 3
    assert graph.searching("mnist5k", "cohen", Run.parse("gds/sigma_0.25.K_40")).k_max == 40


def test_a_log_says_it_by_its_name(
    trained: Path, small_mnist: Path, tmp_path: Path, ddrs_cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("sigma", "certification"):
        monkeypatch.setattr(f"ddrs.{module}.run.code_digest", lambda *names, without="": "0")  # the code of a file that is elsewhere is not read
    files = ("--model", trained, "--data", small_mnist, "--images", 4)
    own = ("--sigmas", tmp_path / "s.parquet", "--n0", 10, "--n", 60, "--certificate", "elastic")
    code, _, said = ddrs_cli("sigma", *files, "--out", tmp_path / "s.parquet", "--strategy", "elastic", "--k-max", 1, "--set", "r=0.5")
    assert code == 0, said
    code, _, said = ddrs_cli("certify", *files, *own, "--out", tmp_path / "log.tsv", "--knob", "r=0.50")
    assert code == 0, said
    log = read_log(tmp_path / "log.tsv")
    assert (log.constant("K"), log.constant("method"), log.constant("sigma0")) == ("r=0.5", "cohen-elastic", 0.25)
    assert log.table["sigma"].tolist() == [0.25, 0.375, 0.5, 0.625]
    before = (tmp_path / "log.tsv").read_bytes()
    for more, message in (
        (("--knob", "r=0.4"), "was searched at r = 0.5, not 0.4"),
        (("--knob", "s=0.5"), "was searched at s = None, not 0.5"),
        (("--k", 1), "the second number of row elastic is r, not K"),
        (("--knob", "r=0.5", "--k", 1), "give either --sigma, or --sigmas with --k (or --knob)"),
        ((), "give either --sigma, or --sigmas with --k (or --knob)"),
        (("--knob", "r=0.5", "--set", "r=0.4"), "r of elastic is 0.4, but sigma is searched at r = 0.5"),
        (("--knob", "K=1"), "must be a whole number of at most 18 digits, or NAME=NUMBER"),
        (("--knob", "1"), "must be NAME=NUMBER, as r=0.01; K is said with --k"),
        (("--knob", "r=x"), "must be a whole number of at most 18 digits, or NAME=NUMBER"),
    ):
        code, _, said = ddrs_cli("certify", *files, *own, "--out", tmp_path / "log.tsv", *more)
        assert code == 2 and message in said and said.count("\n") == 1, said
    assert (tmp_path / "log.tsv").read_bytes() == before


def log(folder: Path, sigma: str, r: str | None, radius: float, split: str = "test", label: str = "cohen-elastic") -> Path:
    facts = {} if r is None else {"K": r}
    rows = [(i, i % 2, i % 2, radius + 0.01 * i) for i in range(4)]
    return write_log(folder / split / f"{label}-{sigma}-{r}.tsv", rows, method=label, split=split, sigma0=sigma, sigma=sigma, **facts)


@pytest.mark.usefixtures("invented_radii")
def test_cells_and_tables_say_which_number_was_chosen(tmp_path: Path) -> None:
    radii = {"r=0.005": 0.3, "r=0.01": 0.6, "r=0.1": 0.5}  # as text, 0.1 stands before 0.005
    logs = [log(tmp_path, "0.25", r, radius) for r, radius in radii.items()]
    held_out = [log(tmp_path, "0.25", r, 0.4, "validation") for r in reversed(radii)]
    for table, more in (("family", {}), ("family_selected", {"validation": held_out})):
        write_cells(logs, table, "cohen-elastic", [0.5], tmp_path / table, 0, **more)
    best, chosen = ([tmp_path / table / f"{column}.json" for column in ("0.50", "acr")] for table in ("family", "family_selected"))
    csv_, md, tex = (tmp_path / f"t.{form}" for form in ("csv", "md", "tex"))
    write_comparison([*best, *chosen], csv_, md)
    rows = list(csv.DictReader(csv_.read_text().splitlines()))
    assert [row["K"] for row in rows] == ["r=0.01", "r=0.01", "r=0.005", "r=0.005"], "of equals the smaller r"
    assert "`choice` says which images chose sigma and K (r for SE): " in md.read_text()
    write_table(best, csv_, md, tex)
    assert (
        "Each cell is the best over sigma (and K for DS, r for SE), chosen on" in md.read_text() and "SE rows: It holds by itself." in md.read_text()
    )
    write_table(chosen, csv_, md, tex)
    assert "sigma and r chosen on 4 validation images" in md.read_text() and "then the smaller sigma, then the smaller r" in md.read_text()
    write_per_class(logs, chosen, [], csv_, md)
    assert {row["K"] for row in csv.DictReader(csv_.read_text().splitlines())} == {"r=0.005"} and "one sigma and K (r for SE) that" in md.read_text()
    with pytest.raises(DdrsError, match=r"no log of cifar10 cohen-elastic at sigma 0\.25 and r 0\.005 was given"):
        write_per_class(logs[1:], chosen, [], csv_, md)
    with pytest.raises(DdrsError, match=r"no log beside it has sigma 0\.25 and r 0\.005, which the validation images chose"):
        write_cells(logs[1:], "family_selected", "cohen-elastic", [0.5], tmp_path / "x", 0, validation=held_out)
    with pytest.raises(DdrsError, match=r"has a second number K, where that of row cohen-elastic is r"):
        write_cells([log(tmp_path, "0.25", "5", 0.3)], "family", "cohen-elastic", [0.5], tmp_path / "x", 0)
    certified_accuracy_figure(logs, tmp_path / "a.pdf", tmp_path / "a.png", "searches")
    certified_accuracy_figure(logs, tmp_path / "a.pdf", tmp_path / "a.png")
    p_lower_figure(logs, held_out, tmp_path / "b.pdf", tmp_path / "b.png")
    with pytest.raises(DdrsError, match=r"is of r 0\.005, where the figure shows K"):
        certified_accuracy_figure(logs, tmp_path / "a.pdf", tmp_path / "a.png", "steps")


@pytest.mark.parametrize("text", ["r=", "r=-1", "=5", "5.5", "r=1e-2", "K=5", "r=0.1=2"])
def test_a_log_that_says_its_number_otherwise_is_malformed(text: str, tmp_path: Path) -> None:
    path = write_log(tmp_path / "log.tsv", [(0, 1, 1, 0.5)], method="cohen-elastic", K=text)
    with pytest.raises(DdrsError, match=r"line 2 is malformed: K = ") as error:
        read_log(path)
    one_line(error)


def test_a_log_that_lies_there_is_held_against_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config()
    sampling, run = settings.certify["mnist5k"], Run.at(ELASTIC, "0.25", 0.01)
    path = Path(CERTIFICATE.format(dataset="mnist5k", split="test", method="cohen", run=run))
    facts = {"n0": sampling.n0, "n_max": sampling.n, "noise": "lattice", "dataset": "mnist5k", "method": "cohen-elastic", "sigma0": "0.25"}
    for number, found in (("r=0.01", ""), ("r=0.005", "K = r=0.005, not r=0.01"), ("5", "K = 5, not r=0.01")):
        write_log(path, [(i, 1, 1, 0.1) for i in range(100)], **facts, K=number)
        assert [one.what for one in misfits(settings)] == ([found] if found else [])
