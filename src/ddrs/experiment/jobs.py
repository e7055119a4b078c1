"""What each job of an experiment is told: its flags, the digest of its code, its resources. No torch, and nothing of Snakemake.

Methods that take `w` alone are functions for a rule's `params`, which Snakemake records: a change of what they return makes the result again.
Those that take more than w are not recorded, so no setting may stand in them that a result depends on.
"""

import shlex
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

from ddrs.certification.certificates import CERTIFICATES
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.experiment.graph import BRANCH, GRID, MANIFEST, SHARD, Cells, Graph, Wildcards
from ddrs.experiment.panels import ILLUSTRATED
from ddrs.experiment.recipes import recipe
from ddrs.models import own as models_own
from ddrs.provenance.code import code_digest
from ddrs.provenance.digests import digest
from ddrs.rows import DS2, FIGURES, FIXED, SELECTED, STEPS, Kind, Run, kinds_of, label_of, methods_of, title_of
from ddrs.sections import SplitName, flags
from ddrs.sigma.strategies import STRATEGIES
from ddrs.training.losses import METHODS
from ddrs.training.regimes import REGIMES

# What a row is called and how it is drawn is no part of models, searches and certificates; a certificate's label stands beside its digest.
WORDS = "ddrs.rows"
KEYS_OF_CAPTIONS = frozenset(("checkpoints", "datasets", "finetune", "search", "train"))  # what `_recipes` reads
KEYS_OF_TABLES = frozenset(("certify", "datasets", "tables"))
KEYS_OF_FIGURES = KEYS_OF_TABLES | {"figures", "search"}


def flagged(flag: str, name: str, lead: str = "") -> Callable[..., str]:
    """A function for params: the flag before each file of a named input, if there is any, after `lead`."""

    def text(w: Wildcards, input: Any) -> str:
        files = getattr(input, name, [])
        words = [f"{flag} {path}" for path in ([files] if isinstance(files, str) else files)]
        return lead + " ".join(words) if words else ""

    return text


def order(*inputs: Callable[[Wildcards], list[str]]) -> Callable[[Wildcards], str]:
    """A function for params: a digest of a rule's inputs as they are ordered, since Snakemake's records hold them sorted."""

    def ordered(w: Wildcards) -> str:
        return digest([one(w) for one in inputs])

    return ordered


class Jobs:
    """What the jobs of a graph are told."""

    # The keys of config.yaml that a rule's jobs depend on, through their inputs or params; dvc.yaml's params are held against it.
    reads: ClassVar[Mapping[str, frozenset[str]]] = {
        "fetch": frozenset(("datasets",)),
        "train": frozenset(("datasets", "seed", "train")),
        "import_checkpoint": frozenset(("checkpoints", "datasets")),
        "finetune": frozenset(("checkpoints", "datasets", "finetune", "seed", "train")),
        "sigma": frozenset(("checkpoints", "datasets", "figures", "search", "seed")),
        "certify": frozenset(("certify", "checkpoints", "datasets", "seed")),
        "certify_shard": frozenset(("certify", "checkpoints", "datasets", "seed")),
        "merge": frozenset(("certify", "checkpoints", "datasets", "seed")),
        "remember": frozenset(("certify", "datasets", "search")),
        "cells": KEYS_OF_TABLES | KEYS_OF_CAPTIONS | {"seed"},
        "table": KEYS_OF_TABLES,
        "comparison": KEYS_OF_TABLES,
        "claims": KEYS_OF_TABLES,
        "per_class": KEYS_OF_TABLES,
        "p_lower": KEYS_OF_TABLES | KEYS_OF_CAPTIONS,
        "page": frozenset(),
        "picture": frozenset(),
        "figure": KEYS_OF_FIGURES | KEYS_OF_CAPTIONS,
        "examples": KEYS_OF_FIGURES | KEYS_OF_CAPTIONS | {"seed"},
        "illustrate": frozenset(("seed",)),
    }

    def __init__(self, graph: Graph) -> None:
        self.graph, self.settings = graph, graph.settings

    # Code and resources

    def code(self, verb: str) -> str:
        """The digest of the code that makes a verb's results, where no part of it is loaded by a name that the job gives."""
        return code_digest(verb)

    def train_code(self, w: Wildcards) -> str:
        """Of training at a fixed sigma, where each method is a file of its own, as is a model of the user's."""
        return self._method_code("train", w)

    def finetune_code(self, w: Wildcards) -> str:
        """Of training with a sigma per example."""
        return self._method_code("finetune", w)

    def _method_code(self, verb: str, w: Wildcards) -> str:
        users = models_own.code(self.settings.on(w.dataset, w.method).architecture)  # empty for known architectures
        regime = REGIMES[w.regime]
        return code_digest(verb, METHODS[w.method], f"{regime}:sigmas", f"{regime}:Settings", without=WORDS) + users

    def import_code(self, w: Wildcards) -> str:
        """Of an import, which takes the method's noise alone."""
        return code_digest("import-checkpoint", f"{METHODS[w.method]}:NOISE")

    def search_code(self, w: Wildcards) -> str:
        """Of a search, where each strategy is a file of its own."""
        strategy = STRATEGIES[str(self.graph.searched(w.search).kind.strategy)]
        return code_digest("sigma", f"{strategy}:search", f"{strategy}:Settings", without=WORDS)

    def certify_code(self, w: Wildcards) -> str:
        """Of a certificate, where what is concluded is a file of its own; and the label that it writes."""
        kind = Run.parse(w.run).kind
        certificate = CERTIFICATES[kind.certificate]
        return f"{code_digest('certify', f'{certificate}:steps', f'{certificate}:Settings', without=WORDS)} {label_of(w.method, kind)}"

    def runtime(self, w: Wildcards, threads: int) -> str:
        """How a job runs, which is no part of the experiment. A result of another device stands until it is deleted or forced; models, searches and
        logs say theirs."""
        return f"--threads {threads} --device {self.settings.device}"

    def gpu(self, w: Wildcards) -> int:
        """How many GPUs a job takes."""
        return 0 if self.settings.device == "cpu" else 1

    # Flags

    def fetch(self, w: Wildcards, threads: int) -> str:
        """What a dataset is. It is pinned once it is fetched: taking `threads` keeps this from triggering a rerun."""
        return shlex.join(self.settings.datasets[w.dataset].fetch_flags())

    def train(self, w: Wildcards) -> str:
        run = self.settings.train[w.dataset][w.method].at_sigma(w.sigma)
        return f"--architecture {self.settings.on(w.dataset, w.method).architecture} --seed {self.settings.seed} {flags(run)}"

    def import_checkpoint(self, w: Wildcards) -> str:
        checkpoint = self.settings.checkpoints[w.dataset][w.method]
        stated = f" --preprocessing {checkpoint.preprocessing}" if checkpoint.preprocessing else ""
        return f"--format {checkpoint.format} --dataset {self.settings.datasets[w.dataset].kind} --method {w.method}{stated}"

    def finetune(self, w: Wildcards) -> str:
        run = self.settings.finetune_settings(w.dataset, w.method).at_sigma(w.sigma)
        regime = self.settings.regime_on(w.dataset, w.method, w.regime).at_sigma(w.sigma)
        return f"--seed {self.settings.seed} {flags(run)} {flags(regime)}{self._own_model(w)}"

    def branch_flag(self, w: Wildcards, input: Any) -> str:
        return f"--branch {input.branch}" if input.branch else ""

    def search(self, w: Wildcards) -> str:
        search = self.graph.searching(w.dataset, w.method, self.graph.searched(w.search))
        return f"{self._images(w)} --seed {self.settings.seed} {flags(search)}{self._own_model(w)}"

    def certify(self, w: Wildcards) -> str:
        sampling = self.sampling(w.dataset, w.method, w.split, Run.parse(w.run))
        return f"{self._images(w)} --seed {self.settings.seed} {flags(sampling)}{self._own_model(w)}"

    def sampling(self, dataset: str, method: str, split: SplitName, run: Run) -> ImageCertificateSettings:
        """How the certificates of a run on a split are drawn, and what is concluded."""
        radii, certify = self.settings.on(dataset, method).radii, self.settings.certify[dataset]
        return (
            certify.sampling(self.graph.images(dataset, split), radii, split, run.kind.certificate)
            .at_sigma(run.sigma)
            .at_knob(run.kind.knob, run.value)
        )

    def scale(self, w: Wildcards, input: Any) -> str:
        """The one sigma of a run, or the search and the second number of its configuration."""
        run = Run.parse(w.run)
        number = "" if run.number is None else f" {'--k' if run.kind.knob == STEPS else '--knob'} {run.logged}"
        return (f"--sigmas {input.sigmas}" if input.sigmas else f"--sigma {run.sigma}") + number

    def shard(self, w: Wildcards, threads: int) -> str:
        """Which part of a log a job makes, if not all. It stands in the file's name: taking `threads` keeps it out of the records."""
        return f" --shard {w.shard}/{w.shards}" if hasattr(w, "shard") else ""

    def _images(self, w: Wildcards) -> str:
        return f"--split {w.split} --images {self.graph.images(w.dataset, w.split)}"

    def _own_model(self, w: Wildcards) -> str:
        """The factory that the checkpoint may run: the config's, where it names one and the model is trained here."""
        architecture = self.settings.on(w.dataset, w.method).architecture
        imported = w.method in self.settings.checkpoints.get(w.dataset, {})
        return f" --architecture {architecture}" if models_own.is_own(architecture) and not imported else ""

    def choice(self, cells: Cells) -> str:
        """What chooses sigma and K of a table's cells, and the dataset of the print that they stand beside."""
        dataset_settings = self.settings.datasets[cells.dataset]
        return f"{f'--choose-on {dataset_settings.chooses_on} ' if cells.selected else ''}--kind {dataset_settings.kind}"

    def even(self, w: Wildcards) -> str:
        """The datasets of a table of which every second test image chooses."""
        return " ".join(f"--even {dataset}" for dataset in self.settings.tables[w.table] if self.graph.alternates(dataset))

    def number(self, w: Wildcards) -> str:
        """What a table is called after the word Table."""
        return title_of(w.table).removeprefix("Table ")

    def figure(self, w: Wildcards) -> str:
        """How a figure's curves are grouped; of Figure 8 also the budget, from which the samples of a grid follow."""
        if w.number == "8":
            panel = self.graph.panels("8")[0]
            return f"--kind searches --evaluations {panel.budget(self.settings.search_on(panel.dataset, panel.method))}"
        return "--kind steps" if w.number == "7" else "--kind rows"

    def examples(self, w: Wildcards) -> str:
        """Settings alone; the files are said by `flagged`, as what takes `input` is not in Snakemake's records."""
        quantiles = " ".join(f"--quantiles {','.join(map(str, panel.quantiles))}" for panel in self.graph.panels(w.number))
        return f"{quantiles} --seed {self.settings.seed}"

    def subject(self, w: Wildcards) -> str:
        """What a figure of an idea is of."""
        return ILLUSTRATED[w.number]

    # Captions: how models and sigmas are made

    def recipe_of_cells(self, cells: Cells) -> Callable[[Wildcards], str]:
        """A function for params, as it fails where the config makes nothing of the table."""
        return lambda w: shlex.quote(recipe(self.settings, cells.dataset, cells.method, kinds_of(cells.table, cells.method)))

    def recipe_of_table(self, w: Wildcards) -> str:
        datasets, methods = self.settings.tables[w.table], methods_of(w.table)
        return self._recipes({(dataset, method): list(kinds_of(w.table, method)) for dataset in datasets for method in methods})

    def recipe_of_figure(self, w: Wildcards) -> str:
        """Of Figures 6 to 9, DS2 training is said of each method that has it, shown or not; of its grids Figure 8 says all itself."""
        if w.number in FIGURES:
            return self.recipe_of_table(SimpleNamespace(table=FIGURES[w.number]))
        shown: dict[tuple[str, str], list[Kind]] = {}
        for dataset, method, run in self.graph.runs_of_figure(w.number):
            tuned = [DS2] if self.settings.makes("finetune", dataset, method) else []
            shown.setdefault((dataset, method), tuned).extend([run.kind] if run.kind is not GRID else [])
        return self._recipes(shown)

    def _recipes(self, shown: Mapping[tuple[str, str], Iterable[Kind]]) -> str:
        """Of each method on a dataset, for the kinds of rows shown."""
        said = (f"{method} on {dataset}: {recipe(self.settings, dataset, method, kinds)}." for (dataset, method), kinds in shown.items())
        return " ".join(f"--recipe {shlex.quote(text)}" for text in said)

    # Results that lie there

    def params_of_result(self, kind: str, at: Mapping[str, str]) -> str:
        """The flags with which a result is made, as they stand in its rule's params.

        kind: models, sigmas or certificates. at: the parts of its path, by their names in the rule.
        """
        w = SimpleNamespace(**at)
        if kind != "models":
            return {"sigmas": self.search, "certificates": self.certify}[kind](w)
        if w.regime != FIXED.trained:
            return self.finetune(w)
        return self.import_checkpoint(w) if w.method in self.settings.checkpoints.get(w.dataset, {}) else self.train(w)

    # Inputs

    def start(self, w: Wildcards) -> str:
        """The model that training with a sigma per example starts from."""
        return self.graph.model(w.dataset, w.method, Run(FIXED, w.sigma))

    def branch(self, w: Wildcards) -> list[str]:
        """The branch state, where such training continues a run instead of starting from its finished model."""
        goes_on = self.settings.finetune[w.dataset][w.method].start == "branch"
        return [BRANCH.format(dataset=w.dataset, method=w.method, regime=FIXED.trained, sigma=w.sigma)] if goes_on else []

    def published(self, w: Wildcards) -> str:
        """The file that is imported."""
        return self.settings.checkpoints[w.dataset][w.method].path(w.sigma)

    def model_of_search(self, w: Wildcards) -> str:
        """The model whose images are searched. DdrsError for a search that the config has no settings of."""
        run = self.graph.searched(w.search)
        self.graph.searching(w.dataset, w.method, run)
        return self.graph.model(w.dataset, w.method, run)

    def model_of_run(self, w: Wildcards) -> str:
        """The model that is certified."""
        return self.graph.model(w.dataset, w.method, Run.parse(w.run))

    def sigmas_of_run(self, w: Wildcards) -> list[str]:
        """The search whose sigmas a run is certified with, if its kind searches any."""
        run = Run.parse(w.run)
        return [] if run.kind.strategy is None else [self.graph.sigmas(w.dataset, w.split, w.method, run)]

    def shards(self, w: Wildcards) -> list[str]:
        """The parts of a log."""
        count = self.settings.certify[w.dataset].shards
        place = {"dataset": w.dataset, "split": w.split, "method": w.method, "run": w.run, "shards": count}
        return [SHARD.format(shard=shard, **place) for shard in range(1, count + 1)]

    def cells_of_table(self, w: Wildcards) -> list[str]:
        """The cells of one form of a table."""
        return self.graph.cells(w.table + w.selected)

    def selected_cells(self, w: Wildcards) -> list[str]:
        """The cells of its selected form."""
        return self.graph.cells(w.table + SELECTED)

    def both_cells(self, w: Wildcards) -> list[str]:
        """The cells of both forms."""
        return [*self.graph.cells(w.table), *self.selected_cells(w)]

    def all_cells(self, w: Wildcards) -> list[str]:
        """The cells of all tables."""
        return [cell for table in self.graph.shown_tables() for form in (table, table + SELECTED) for cell in self.graph.cells(form)]

    def logs_of_table(self, w: Wildcards) -> list[str]:
        """The logs behind all rows of a table."""
        return self.graph.of_rows(self.graph.logs, [w.table])

    def validation_of_table(self, w: Wildcards) -> list[str]:
        """The validation logs of its rows."""
        return self.graph.of_rows(self.graph.validation, [w.table])

    def before_of_table(self, w: Wildcards) -> list[str]:
        """The logs of its rows from before the memory, where every second test image chooses."""
        return self.graph.of_rows(self.graph.before_memory, [w.table])

    def logs_of_figure(self, w: Wildcards) -> list[str]:
        """The logs of a figure's curves, each once."""
        if w.number in FIGURES:
            return self.graph.of_rows(self.graph.logs, [FIGURES[w.number]])
        return list(dict.fromkeys(self.graph.log(*run) for run in self.graph.runs_of_figure(w.number)))

    def data_of_examples(self, w: Wildcards) -> list[str]:
        """The images of Figures 6 and 9, one manifest per panel."""
        return [MANIFEST.format(dataset=panel.dataset) for panel in self.graph.panels(w.number)]

    def searched_examples(self, w: Wildcards) -> list[str]:
        """The logs of Figures 6 and 9 with a sigma per image, one per panel."""
        return [self.graph.log(*one) for one in self.graph.runs_of_figure(w.number) if one.run.kind is not FIXED]

    def fixed_examples(self, w: Wildcards) -> list[str]:
        """Those with a fixed sigma."""
        return [self.graph.log(*one) for one in self.graph.runs_of_figure(w.number) if one.run.kind is FIXED]
