"""Which files an experiment has, and what each is made of. The rules of the workflow ask here; nothing is known of Snakemake. No torch.

Files come in the order in which a verb is told them, which tables and figures follow.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ddrs.errors import DdrsError
from ddrs.experiment.config import Config
from ddrs.experiment.panels import ILLUSTRATED
from ddrs.experiment.recipes import shown_figures
from ddrs.rows import ALTERNATE, FIXED, KINDS, SELECTED, STEPS, TABLES, Kind, Row, Run, methods_of, table_of_print
from ddrs.sections import SplitName
from ddrs.sigma.settings import SearchSettings
from ddrs.training.losses import METHODS

Wildcards = Any  # the parts of a job's files as attributes, all of them text: Snakemake's wildcards, or whatever else has them

MANIFEST = "data/{dataset}/manifest.json"
MODEL = "results/models/{dataset}/{method}/{regime}/sigma_{sigma}.safetensors"
BRANCH = "results/models/{dataset}/{method}/{regime}/sigma_{sigma}.branch.pt"
SIGMAS = "results/sigmas/{dataset}/{split}/{method}/{search}.parquet"
CERTIFICATE = "results/certificates/{dataset}/{split}/{method}/{run}.tsv"
SHARD = "scratch/shards/{dataset}/{split}/{method}/{run}/{shard}-of-{shards}.tsv"
MEMORY = "results/memory/{dataset}/{split}/{method}/{run}.tsv"
CELL = "results/cells/{table}/{dataset}/{label}/{column}.json"

ASCENT, GRID = KINDS["ds"], KINDS["gds"]  # what Figures 6, 8 and 9 set beside the fixed sigma
OF_RUNS = "6789"  # the figures that show runs of their own, as config's `figures` says
SIGMA = r"sigma_\d+\.\d\d"


def one_of(names: Iterable[str]) -> str:
    """A pattern of some names, or of none."""
    return "|".join(names) or "(?!)"


def _runs_of(kind: Kind) -> str:
    """A pattern of a kind's runs."""
    return rf"{kind.name}/{SIGMA}" + ("" if kind.knob is None else rf"\.{kind.knob}_{kind.numbers}")


def _together(kind: Kind) -> bool:
    """Whether all K of a row at a sigma pass through the memory in one job: not where each second number is a search of its own."""
    return kind.memory and kind.trajectory


class FigureRun(NamedTuple):
    """What a figure shows of a model: one log."""

    dataset: str
    method: str
    run: Run


class Pass(NamedTuple):
    """What one job passes through the memory.

    rule: its name. place: of the job's log, with {split}, {method} and what names the runs open: {row} and {sigma}, or {run}. runs: as paths.
    pattern: which runs are meant, where {run} is open.
    """

    rule: str
    dataset: str
    place: str
    runs: list[str]
    pattern: str

    def logs(self, place: str) -> list[str]:
        """The runs' logs before or after the pass (CERTIFICATE or MEMORY)."""
        return [place.format(dataset=self.dataset, split="{split}", method="{method}", run=run) for run in self.runs]


@dataclass(frozen=True)
class Cells:
    """The cells that one job makes: those of a row of a table. Columns are radii, which may differ by dataset and method: hence a rule for each."""

    graph: "Graph"
    table: str
    dataset: str
    method: str

    @property
    def rule(self) -> str:
        """The rule's name, with the method where the table has several."""
        of_method = f"_{self.method}" if len(methods_of(self.table)) > 1 else ""
        return f"cells_{self.table}_{self.dataset}{of_method}"

    @property
    def labels(self) -> str:
        """A pattern of the rows' labels."""
        return one_of(row.label for row in TABLES[table_of_print(self.table)] if row.method == self.method)

    @property
    def radii(self) -> list[str]:
        """The columns but for ACR."""
        return self.graph.radii(self.dataset, self.method)

    @property
    def selected(self) -> bool:
        """Whether sigma and K of the table are chosen on other images than are reported."""
        return self.table.endswith(SELECTED)

    @property
    def files(self) -> list[str]:
        """The cells, with {label} open."""
        return self.graph.cells_of(self.table, self.dataset, "{label}", self.method)

    def logs(self, w: Wildcards) -> list[str]:
        """The logs of the row."""
        return self.graph.logs(self.dataset, Row.parse(w.label))

    def validation(self, w: Wildcards) -> list[str]:
        """Of a selected table, the validation logs that choose sigma and K."""
        return self.graph.validation(self.dataset, Row.parse(w.label)) if self.selected else []

    def before(self, w: Wildcards) -> list[str]:
        """Of a selected table, the logs from before the memory on which sigma and K are chosen."""
        return self.graph.before_memory(self.dataset, Row.parse(w.label)) if self.selected else []


class Graph:
    """The files of a checked config. Errors: DdrsError where a target is asked for that the config has nothing for."""

    def __init__(self, settings: Config) -> None:
        self.settings = settings

    # Places

    def model(self, dataset: str, method: str, run: Run) -> str:
        """The model that a run stands on."""
        return MODEL.format(dataset=dataset, method=method, regime=run.kind.trained, sigma=run.sigma)

    def sigmas(self, dataset: str, split: SplitName, method: str, run: Run) -> str:
        """The search whose sigmas a run is certified with."""
        return SIGMAS.format(dataset=dataset, split=split, method=method, search=run.search)

    def log(self, dataset: str, method: str, run: Run, split: SplitName = "test", *, before_memory: bool = False) -> str:
        """The log of a run that tables and figures read: after the memory pass, where its kind has one."""
        place = MEMORY if run.kind.memory and not before_memory else CERTIFICATE
        return place.format(dataset=dataset, split=split, method=method, run=run)

    def cells_of(self, table: str, dataset: str, label: str, method: str) -> list[str]:
        """The cells of one row."""
        columns = [*self.radii(dataset, method), "acr"]
        return [CELL.format(table=table, dataset=dataset, label=label, column=column) for column in columns]

    # Rows of tables

    def radii(self, dataset: str, method: str) -> list[str]:
        """The radii of a method's tables on a dataset, as they stand in paths."""
        return [f"{radius:.2f}" for radius in self.settings.on(dataset, method).radii]

    def rows(self, table: str) -> list[tuple[str, Row]]:
        """The rows that a table shows, by dataset."""
        name = table_of_print(table)
        return [(dataset, row) for dataset in self.settings.tables.get(name, []) for row in TABLES[name]]

    def runs(self, dataset: str, row: Row) -> list[Run]:
        """What is certified of a row: every sigma, and for each second number of its configurations every sigma."""
        sigmas = self.settings.sigma_texts(dataset, row.method)
        return [Run.at(row.kind, sigma, number) for number in self.settings.numbers(dataset, row.kind) or [None] for sigma in sigmas]

    def models_of(self, dataset: str, row: Row) -> list[str]:
        """The models behind a row, one per sigma."""
        return [self.model(dataset, row.method, Run(row.kind, sigma)) for sigma in self.settings.sigma_texts(dataset, row.method)]

    def logs(self, dataset: str, row: Row, split: SplitName = "test") -> list[str]:
        """The logs behind a row."""
        return [self.log(dataset, row.method, run, split) for run in self.runs(dataset, row)]

    def validation(self, dataset: str, row: Row) -> list[str]:
        """The validation logs of a row, which choose its sigma and K; none where every second test image does."""
        return [] if self.alternates(dataset) else self.logs(dataset, row, "validation")

    def before_memory(self, dataset: str, row: Row) -> list[str]:
        """The logs of a row from before the memory, on which every second test image chooses; none where others choose, or without memory."""
        if not (row.kind.memory and self.alternates(dataset)):
            return []
        return [self.log(dataset, row.method, run, before_memory=True) for run in self.runs(dataset, row)]

    def alternates(self, dataset: str) -> bool:
        """Whether every second test image chooses sigma and K, as there are no validation images."""
        return self.settings.datasets[dataset].chooses_on == ALTERNATE

    def cells(self, table: str) -> list[str]:
        """Every cell of a table, row by row."""
        return [cell for dataset, row in self.rows(table) for cell in self.cells_of(table, dataset, row.label, row.method)]

    def of_rows(self, files: Callable[[str, Row], list[str]], tables: Iterable[str]) -> list[str]:
        """The files of every row of some tables, each once."""
        return list(dict.fromkeys(file for table in tables for row in self.rows(table) for file in files(*row)))

    # Figures

    def panels(self, number: str) -> list[Any]:
        """What config's `figures` has of a figure."""
        return getattr(self.settings.figures, f"figure{number}")

    def images(self, dataset: str, split: SplitName) -> int:
        """How many images of a split are certified. DdrsError if none."""
        images: Any = self.settings.datasets[dataset].images
        if split not in images:
            raise DdrsError(f"datasets.{dataset}.images has no {split}: none of its {split} images are certified")
        return images[split]

    def grids(self, dataset: str, method: str) -> dict[int, SearchSettings]:
        """The grid searches of Figure 8 on a model, by their number of points."""
        shown = [panel for panel in self.panels("8") if (panel.dataset, panel.method) == (dataset, method)]
        return shown[0].grids(self.settings.search_on(dataset, method)) if shown else {}

    # Searches

    def searched(self, search: str) -> Run:
        """A run of a search, of fs/sigma_0.25 or gds/sigma_0.25.K_40; where one search holds every K, the run's is open."""
        folder, _, sigma = search.partition("/sigma_")
        shared = [kind for kind in KINDS.values() if kind.trajectory and kind.search == folder]
        return Run(shared[0], sigma) if shared else Run.parse(search)

    def searching(self, dataset: str, method: str, run: Run) -> SearchSettings:
        """The settings of a run's search. DdrsError where each second number is a search of its own and the config has none of this one.

        Such searches are the grids of Figure 8, and what `search.DATASET.strategies` says of a strategy.
        """
        found: dict[Any, SearchSettings] = self.grids(dataset, method) if run.kind is GRID else {}
        if run.value in found:
            return found[run.value]
        settings = self.settings.search_of(dataset, method, run.kind, run.value).at_sigma(run.sigma)
        own, stated = run.kind.setting is not None, run.kind.strategy in self.settings.search[dataset].strategies
        if own and not (stated and run.value in self.settings.numbers(dataset, run.kind)):
            where = "figures.figure8" if run.kind is GRID else f"search.{dataset}.strategies"
            number = f"{run.number} {'points' if run.kind is GRID else 'steps'}" if run.kind.knob == STEPS else f"{run.kind.knob} = {run.number}"
            raise DdrsError(f"{where} has no {run.kind.strategy} of {number} for {method} on {dataset}")
        return settings

    # Runs of figures

    def runs_of_figure(self, number: str) -> list[FigureRun]:
        """What Figures 6 to 9 need certified, in the figure's order."""
        return [FigureRun(panel.dataset, panel.method, run) for panel in self.panels(number) for run in self._runs_of_panel(number, panel)]

    def _runs_of_panel(self, number: str, panel: Any) -> list[Run]:
        if number == "8":
            sigmas = self.settings.sigma_texts(panel.dataset, panel.method)
            points = self.grids(panel.dataset, panel.method)
            pairs = [(FIXED, None), (ASCENT, panel.k), *((GRID, k) for k in points)]
            return [Run.at(kind, sigma, k) for kind, k in pairs for sigma in sigmas]
        sigma = f"{panel.sigma:.2f}"
        if number == "7":
            kind = KINDS[panel.row]
            start = Run(FIXED, sigma)  # K = 0: the same model at the same sigma, where it is of a fixed sigma
            return [start if k == 0 and kind.trained == FIXED.trained else Run.at(kind, sigma, k) for k in panel.k]
        return [Run(FIXED, sigma), Run.at(ASCENT, sigma, panel.k)]

    def of_figures(self, files: Callable[[str, str, Run], str]) -> list[str]:
        """The files of every run that Figures 6 to 9 show, each once."""
        return list(dict.fromkeys(files(*run) for number in OF_RUNS for run in self.runs_of_figure(number)))

    # Targets

    def shown_tables(self) -> list[str]:
        """The tables that the config has datasets for."""
        return [table for table, datasets in self.settings.tables.items() if datasets]

    def tables(self) -> list[str]:
        """All tables in both forms, their comparison with the print, the claims, what goes beyond ACR, and the pages of the report."""
        shown = self.shown_tables()
        pictures = ["results/{}.pdf", "results/{}.png", "results/pages/{}.html"]
        files = [
            *(f"results/{table}{form}.{ending}" for table in shown for form in ("", SELECTED) for ending in ("csv", "md", "tex")),
            *(f"results/per_class_{table}.{ending}" for table in shown for ending in ("csv", "md")),
            *(f"results/{table}_comparison.{ending}" for table in shown for ending in ("csv", "md")),
            *(place.format(f"p_lower_{table}") for place in pictures for table in shown),
            *(["results/claims.csv", "results/claims.md"] if shown else []),
        ]
        return files + [f"results/pages/{Path(file).stem}.html" for file in files if file.endswith(".md")]

    def figures(self) -> list[str]:
        """All figures that the config has something for, and their pages of the report."""
        places = ["results/figure{}.pdf", "results/figure{}.png", "results/pages/figure{}.html"]
        return [place.format(number) for place in places for number in shown_figures(self.settings)]

    def models(self) -> list[str]:
        """Every model that tables and figures need."""
        return [*self.of_rows(self.models_of, self.settings.tables), *self.of_figures(self.model)]

    def certificates(self) -> list[str]:
        """Every log that tables and figures read."""
        of_tables = [*self.of_rows(self.logs, self.settings.tables), *self.of_rows(self.validation, self.settings.tables)]
        return [*of_tables, *self.of_figures(self.log)]

    def published_files(self) -> list[Path]:
        """All the files that the config imports."""
        chosen = [(name, method, checkpoint) for name, methods in self.settings.checkpoints.items() for method, checkpoint in methods.items()]
        return [Path(checkpoint.path(sigma)) for name, method, checkpoint in chosen for sigma in self.settings.sigma_texts(name, method)]

    # Patterns: which names a rule makes

    def patterns(self) -> dict[str, str]:
        """What each part of a path may be, as regular expressions."""
        searching = [kind for kind in KINDS.values() if kind.strategy is not None]
        shared = dict.fromkeys(kind.search for kind in searching if kind.trajectory)
        alone = [_runs_of(kind) for kind in searching if not kind.trajectory]
        return {
            "dataset": one_of(self.settings.datasets),
            "method": one_of(METHODS),
            "split": "validation|test",
            "regime": one_of(dict.fromkeys(kind.trained for kind in KINDS.values())),
            "row": one_of(kind.name for kind in KINDS.values() if _together(kind)),
            "sigma": r"\d+\.\d\d",
            "run": one_of(_runs_of(kind) for kind in KINDS.values()),
            "search": one_of([*([rf"({one_of(shared)})/{SIGMA}"] if shared else []), *alone]),
            "shard": r"\d+",
            "shards": r"\d+",
            "table": one_of(TABLES),
            "selected": f"({SELECTED})?",
            "number": r"\d+",
        }

    @property
    def starting(self) -> str:
        """The regimes that start from nothing."""
        return FIXED.trained

    @property
    def tuned(self) -> str:
        """The regimes that go on from a model of a fixed sigma."""
        return one_of(dict.fromkeys(kind.trained for kind in KINDS.values() if kind.trained != FIXED.trained))

    @property
    def imported(self) -> str:
        """The datasets of imported models: which these are is said of dataset and method together, so a lookahead, as the dataset stands in front."""
        return f"(?=({self._imported()})/)({one_of(self.settings.datasets)})"

    @property
    def trained(self) -> str:
        """The datasets of all other models."""
        return f"(?!({self._imported()})/)({one_of(self.settings.datasets)})"

    def _imported(self) -> str:
        return one_of(f"{name}/{method}" for name, methods in self.settings.checkpoints.items() for method in methods)

    @property
    def whole(self) -> str:
        """The datasets whose certificates are one job each."""
        return one_of(name for name, certify in self.settings.certify.items() if certify.shards == 1)

    @property
    def sharded(self) -> str:
        """The datasets whose certificates are split into several."""
        return one_of(name for name, certify in self.settings.certify.items() if certify.shards > 1)

    @property
    def tabled(self) -> str:
        """The names of tables' texts, without ending."""
        return f"({one_of(TABLES)})({SELECTED}|_comparison)?|per_class_({one_of(TABLES)})|claims"

    @property
    def illustrated(self) -> str:
        """The numbers of the figures of an idea."""
        return one_of(ILLUSTRATED)

    @property
    def pictured(self) -> str:
        """The names of pictures, without ending."""
        return rf"figure\d+|p_lower_({one_of(TABLES)})"

    # Jobs that are a rule per dataset, as how many files they have is the config's

    def certified(self) -> list[str]:
        """The datasets that are searched and certified."""
        return [name for name in self.settings.datasets if name in self.settings.certify and name in self.settings.search]

    def passes(self) -> list[Pass]:
        """What passes through the memory: for tables all K of a row at a sigma; of the runs that only a figure shows, each its own, so that a target
        needs no other's."""
        return [one for dataset in self.certified() for one in self._passes(dataset)]

    def _passes(self, dataset: str) -> list[Pass]:
        ks, kinds = self.settings.certify[dataset].k, [kind for kind in KINDS.values() if kind.memory]
        of_tables = one_of(map(str, ks))
        others = one_of(
            rf"{kind.name}/{SIGMA}\.{kind.knob}_(?!({of_tables})\.){kind.numbers}" if _together(kind) else _runs_of(kind) for kind in kinds
        )
        row, place = "{row}/sigma_{sigma}", f"{dataset}/{{split}}/{{method}}"
        return [
            Pass(f"remember_{dataset}", dataset, f"{place}/{row}", [f"{row}.{ASCENT.knob}_{k}" for k in ks], others),
            Pass(f"remember_run_{dataset}", dataset, f"{place}/{{run}}", ["{run}"], others),
        ]

    def cell_jobs(self) -> list[Cells]:
        """Every table in both forms, with each dataset and method."""
        forms = [f"{table}{form}" for table in TABLES for form in ("", SELECTED)]
        return [Cells(self, form, dataset, method) for form in forms for dataset in self.certified() for method in methods_of(form)]
