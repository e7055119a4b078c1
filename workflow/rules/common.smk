import shlex
from itertools import product

from ddrs import config as ddrs_config
from ddrs.errors import DdrsError
from ddrs.provenance import code_digest
from ddrs.training import METHODS

try:
    settings = ddrs_config.load(config)
except DdrsError as error:
    sys.exit(f"ddrs: error: {error}")

FIGURES = {"3": "table1", "4": "table2", "5": "table3"}  # a figure shows the rows of a table
CERTIFICATES = "results/certificates/{dataset}/{split}/{method}"
REGIME = {"fs": "fs", "ds": "fs", "ds2": "ds2"}  # which training a row of certificates stands on
MEMORY = "results/memory/{dataset}/{split}/{method}"
MODEL = ["architectures.py", "models.py", "noise.py", "data.py", "vision.py"]
CODE = {  # the modules whose code makes a step's result; a change of any of them reruns the step, a new method none
    "train": ["training/run.py", "training/loop.py", "sigma/ascent.py", *MODEL],
    "finetune": ["training/run.py", "training/loop.py", "sigma/ascent.py", *MODEL],
    "sigma": ["sigma/run.py", "sigma/ascent.py", *MODEL],
    "certify": [
        "certification/run.py",
        "certification/engine.py",
        "certification/bounds.py",
        "certification/records.py",
        "sigma/files.py",
        *MODEL,
    ],
    "remember": ["memory.py", "certification/records.py", "data.py"],
    "cells": ["cells.py", "envelope.py", "published/__init__.py", "published/tables.csv", "certification/bounds.py", "certification/records.py"],
    "table": ["tables.py", "cells.py", "envelope.py"],
    "figure": ["figures.py", "cells.py", "envelope.py", "certification/records.py"],
}


wildcard_constraints:
    dataset="|".join(settings.datasets),
    method="|".join(METHODS),
    split="validation|test",
    regime="fs|ds2",
    row="ds|ds2",
    sigma=r"\d+\.\d\d",
    K=r"\d+",
    table="|".join(ddrs_config.TABLES),
    number="|".join(FIGURES),


def runtime(wildcards, threads):
    """How a job runs, which is no part of the experiment. A result of another device stands until it is deleted or forced."""
    return f"--threads {threads} --device {settings.device}"


def gpu(wildcards):
    return 0 if settings.device == "cpu" else 1


def code(step):
    return code_digest(*CODE[step])


def method_code(wildcards):
    """Of training, where each method is a file of its own; but cohen.py's plain cross-entropy also serves yang."""
    return code_digest(*CODE["train"], "training/cohen.py", f"training/{wildcards.method}.py")


def train_flags(wildcards):
    run = settings.train[wildcards.dataset][wildcards.method].at_sigma(wildcards.sigma)
    return f"--architecture {settings.on(wildcards.dataset, wildcards.method).architecture} --seed {settings.seed} {ddrs_config.flags(run)}"


def finetune_flags(wildcards):
    own = settings.finetune[wildcards.dataset][wildcards.method]
    run = settings.finetune_settings(wildcards.dataset, wildcards.method).at_sigma(wildcards.sigma)
    return f"--seed {settings.seed} {ddrs_config.flags(run)} {ddrs_config.flags(own.step)}"


def finetune_branch(wildcards):
    """The branch state, where DS2 training continues a run instead of starting from its finished model."""
    start = settings.finetune[wildcards.dataset][wildcards.method].start
    return ["results/models/{dataset}/{method}/fs/sigma_{sigma}.branch.pt"] if start == "branch" else []


def branch_flag(wildcards, input):
    return f"--branch {input.branch}" if input.branch else ""


def source_flag(wildcards, threads):
    """Where a dataset comes from. It is pinned by checksums wherever that is: taking `threads` keeps this from triggering a rerun."""
    source = settings.datasets[wildcards.dataset].source
    return f"--source {shlex.quote(source)}" if source else ""


def search_flags(wildcards):
    return f"{_images(wildcards)} --seed {settings.seed} {ddrs_config.flags(settings.search[wildcards.dataset])}"


def certify_flags(wildcards):
    images = settings.datasets[wildcards.dataset].images[wildcards.split]
    return f"{_images(wildcards)} --seed {settings.seed} {ddrs_config.flags(settings.certify[wildcards.dataset].sampling(images))}"


def _images(wildcards):
    return f"--split {wildcards.split} --images {settings.datasets[wildcards.dataset].images[wildcards.split]}"


def labels(table):
    return ddrs_config.TABLES[table]


def radii(table, dataset):
    method = labels(table)[0]
    return [f"{radius:.2f}" for radius in settings.on(dataset, method).radii]


def row_place(dataset, label):
    """The method of a table's row, its row among certificates (fs, ds or ds2) and its sigmas."""
    method, _, row = label.partition("-")
    return dict(dataset=dataset, method=method, row=row or "fs", sigma=settings.sigma_texts(dataset, method))


def row_models(dataset, label):
    """The models behind one row of a table, one per sigma."""
    place = row_place(dataset, label)
    return expand("results/models/{dataset}/{method}/{regime}/sigma_{sigma}.safetensors", regime=REGIME[place["row"]], **place)


def row_logs(dataset, label):
    """The logs behind one row of a table: every sigma, and every K for DS; rows of a fixed sigma never pass the memory."""
    place = dict(split="test", **row_place(dataset, label))
    if place["row"] == "fs":
        return expand(f"{CERTIFICATES}/fs/sigma_{{sigma}}.tsv", **place)
    return expand(f"{MEMORY}/{{row}}/sigma_{{sigma}}.K_{{K}}.tsv", K=settings.certify[dataset].k, **place)


def rows(table):
    """The rows that a table shows: dataset and label."""
    return [(dataset, label) for dataset in settings.tables.get(table, []) for label in labels(table)]


def of_rows(files, tables):
    """The files of every row of some tables, each once."""
    return list(dict.fromkeys(file for table in tables for row in rows(table) for file in files(*row)))


def table_cells(table):
    """Every cell of a table, row by row."""
    return [f"results/cells/{table}/{dataset}/{label}/{column}.json" for dataset, label in rows(table) for column in [*radii(table, dataset), "acr"]]


def cells_of_table(wildcards):
    return table_cells(wildcards.table)


def logs_of_figure(wildcards):
    return of_rows(row_logs, [FIGURES[wildcards.number]])


def logs_of_row(dataset):
    """An input function: the logs of the row that a cell is in."""

    def logs(wildcards):
        return row_logs(dataset, wildcards.label)

    return logs


def data_dependent_model(wildcards):
    return f"results/models/{{dataset}}/{{method}}/{REGIME[wildcards.row]}/sigma_{{sigma}}.safetensors"


def data_dependent_sigmas(wildcards):
    return f"results/sigmas/{{dataset}}/{{split}}/{{method}}/{REGIME[wildcards.row]}/sigma_{{sigma}}.parquet"


def protocol(dataset):
    """How a dataset's test images are certified, for captions."""
    images = settings.datasets[dataset].images["test"]
    sampling = settings.certify[dataset].sampling(images)
    made = f"{images} test images, protocol fixed, n0 = {sampling.n0}, n = {sampling.n:,}, alpha = {sampling.alpha:g} per image"
    return f"{dataset}: {made}, search up to K = {settings.search[dataset].k_max} with n = {settings.search[dataset].samples}."


def caption(table):
    """What a caption must say of a table or of the figure that shows its rows."""
    if table not in settings.tables:
        return ""
    return " ".join([f"Method: {labels(table)[0]}.", *(protocol(dataset) for dataset in settings.tables[table])])


def table_caption(wildcards):
    return caption(wildcards.table)


def figure_caption(wildcards):
    return caption(FIGURES[wildcards.number])


certified_datasets = [name for name in settings.datasets if name in settings.certify and name in settings.search]


def shown_figures():
    return [number for number, table in FIGURES.items() if settings.tables.get(table)]
