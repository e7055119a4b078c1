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

FIGURES = {"3": "table1", "4": "table2", "5": "table3"}  # a figure shows the rows of a table; 6 to 9 what config's `figures` says
SUBJECTS = {"1": "sigma", "2": "memory"}  # a figure illustrates an idea, and needs nothing of the experiment
CERTIFICATES = "results/certificates/{dataset}/{split}/{method}"
REGIME = {"fs": "fs", "ds": "fs", "ds2": "ds2", "gds": "fs"}  # which training the certificates of a row stand on
MEMORY = "results/memory/{dataset}/{split}/{method}"
MODEL = ["architectures.py", "models.py", "noise.py", "norms.py", "data.py", "vision.py"]
CODE = {  # the modules whose code makes a step's result; a change of any of them reruns the step, a new method none
    "train": ["training/run.py", "training/loop.py", "sigma/ascent.py", *MODEL],
    "finetune": ["training/run.py", "training/loop.py", "sigma/ascent.py", *MODEL],
    "sigma": ["sigma/run.py", "sigma/ascent.py", *MODEL],
    "certify": ["certification", "sigma/files.py", *MODEL],
    "merge": ["certification/records.py"],
    "remember": ["memory.py", "norms.py", "certification/records.py", "data.py"],
    "cells": ["cells.py", "envelope.py", "published/__init__.py", "published/tables.csv", "certification/bounds.py", "certification/records.py"],
    "table": ["tables.py", "norms.py", "cells.py", "envelope.py"],
    "figure": ["figures.py", "pictures.py", "norms.py", "cells.py", "envelope.py", "certification/records.py"],
    "examples": [
        "examples.py",
        "pictures.py",
        "envelope.py",
        "certification/lattice.py",
        "certification/records.py",
        "noise.py",
        "norms.py",
        "data.py",
    ],
    "illustrate": ["illustrations", "pictures.py", "certification", "sigma/ascent.py", "memory.py", "models.py", "noise.py", "norms.py", "data.py"],
}


wildcard_constraints:
    dataset="|".join(settings.datasets),
    method="|".join(METHODS),
    split="validation|test",
    regime="fs|ds2",
    row="ds|ds2",
    sigma=r"\d+\.\d\d",
    K=r"\d+",
    run=r"fs/sigma_\d+\.\d\d|(ds|ds2|gds)/sigma_\d+\.\d\d\.K_\d+",
    search=r"(fs|ds2)/sigma_\d+\.\d\d|gds/sigma_\d+\.\d\d\.K_\d+",
    shard=r"\d+",
    shards=r"\d+",
    table="|".join(ddrs_config.TABLES),
    number=r"\d",


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
    row, sigma, k = parts_of_run(wildcards.search)
    own = settings.search[wildcards.dataset]
    if row == "gds":
        own = grids(wildcards.dataset, wildcards.method)[int(k)]
    return f"{_images(wildcards)} --seed {settings.seed} {ddrs_config.flags(own)}"


def search_code(wildcards):
    return code_digest(*CODE["sigma"], *(["sigma/grid.py"] if wildcards.search.startswith("gds/") else []))


def model_of_search(wildcards):
    row, sigma, k = parts_of_run(wildcards.search)
    if row == "gds" and int(k) not in grids(wildcards.dataset, wildcards.method):
        raise WorkflowError(f"figures.figure8 has no grid of {k} points for {wildcards.method} on {wildcards.dataset}")
    return f"results/models/{{dataset}}/{{method}}/{REGIME[row]}/sigma_{sigma}.safetensors"


def grids(dataset, method):
    """The grid searches of Figure 8 on a model, by their number of points."""
    shown = [panel for panel in panels("8") if (panel.dataset, panel.method) == (dataset, method)]
    return shown[0].grids(settings.search[dataset]) if shown else {}


def certify_flags(wildcards):
    own = sampling(wildcards.dataset, wildcards.method, wildcards.split)
    return f"{_images(wildcards)} --seed {settings.seed} {ddrs_config.flags(own)}"


def sampling(dataset, method, split):
    own = settings.on(dataset, method)
    return settings.certify[dataset].sampling(own.images[split], own.radii)


def scale_flags(wildcards, input):
    """The one sigma of an FS run, or the trajectory and K of a DS run."""
    row, sigma, k = parts_of_run(wildcards.run)
    return f"--sigmas {input.sigmas} --k {k}" if k else f"--sigma {sigma}"


def inputs_of_run(wildcards):
    row, sigma, k = parts_of_run(wildcards.run)
    regime = REGIME[row]
    inputs = {
        "data": ancient("data/{dataset}/manifest.json"),
        "model": f"results/models/{{dataset}}/{{method}}/{regime}/sigma_{sigma}.safetensors",
    }
    if k:
        search = wildcards.run if row == "gds" else f"{regime}/sigma_{sigma}"
        inputs["sigmas"] = f"results/sigmas/{{dataset}}/{{split}}/{{method}}/{search}.parquet"
    return inputs


def shards_of_run(wildcards):
    count = settings.certify[wildcards.dataset].shards
    place = "scratch/shards/{dataset}/{split}/{method}/{run}"
    return [f"{place}/{shard}-of-{count}.tsv" for shard in range(1, count + 1)]


def parts_of_run(run):
    """Row, sigma and K (empty for FS) of fs/sigma_0.25 or ds/sigma_0.25.K_900."""
    row, _, rest = run.partition("/")
    sigma, _, k = rest.removeprefix("sigma_").partition(".K_")
    return row, sigma, k


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


def panels(number):
    return getattr(settings.figures, f"figure{number}")


def runs_of_figure(number):
    """What Figures 6 to 9 need certified: dataset, method and run of each log, in the figure's order."""
    runs = []
    for panel in panels(number):
        if number == "8":
            ks = {"ds": [panel.k], "gds": panel.grids(settings.search[panel.dataset])}
            sigmas = settings.sigma_texts(panel.dataset, panel.method)
            found = [f"fs/sigma_{sigma}" for sigma in sigmas]
            found += [f"{row}/sigma_{sigma}.K_{k}" for row in ks for k in ks[row] for sigma in sigmas]
        elif number == "7":
            found = [f"{panel.row}/sigma_{panel.sigma:.2f}.K_{k}" for k in panel.k]
        else:
            found = [f"fs/sigma_{panel.sigma:.2f}", f"ds/sigma_{panel.sigma:.2f}.K_{panel.k}"]
        runs += [(panel.dataset, panel.method, run) for run in found]
    return runs


def run_log(dataset, method, run):
    """The log of a run that tables and figures read: as certified with a fixed sigma, else after the memory pass."""
    place = CERTIFICATES if run.startswith("fs/") else MEMORY
    return f"{place}/{run}.tsv".format(dataset=dataset, method=method, split="test")


def run_model(dataset, method, run):
    row, sigma, k = parts_of_run(run)
    return f"results/models/{dataset}/{method}/{REGIME[row]}/sigma_{sigma}.safetensors"


def of_figures(files):
    """The files of every run that Figures 6 to 9 show, each once."""
    return list(dict.fromkeys(files(*run) for number in "6789" for run in runs_of_figure(number)))


def figure_logs(number):
    return of_rows(row_logs, [FIGURES[number]]) if number in FIGURES else [run_log(*run) for run in runs_of_figure(number)]


def logs_of_figure(wildcards):
    return list(dict.fromkeys(figure_logs(wildcards.number)))


def figure_flags(wildcards):
    """How a figure's curves are grouped; of Figure 8 also the budget, from which the samples of a grid follow."""
    if wildcards.number == "8":
        panel = panels("8")[0]
        return f"--kind searches --evaluations {panel.budget(settings.search[panel.dataset])}"
    return "--kind steps" if wildcards.number == "7" else "--kind rows"


def example_logs(row):
    """An input function: the logs of Figure 6 or 9 that are of a row, in the order of its panels."""

    def logs(wildcards):
        return [run_log(*run) for run in runs_of_figure(wildcards.number) if run[2].startswith(f"{row}/")]

    return logs


def example_data(wildcards):
    return [ancient(f"data/{panel.dataset}/manifest.json") for panel in panels(wildcards.number)]


def example_flags(wildcards, input):
    data = " ".join(f"--data {path}" for path in input.data)
    fixed = " ".join(f"--fixed {path}" for path in input.fixed)
    quantiles = " ".join(f"--quantiles {','.join(map(str, panel.quantiles))}" for panel in panels(wildcards.number))
    return f"{data} {fixed} {quantiles} --seed {settings.seed}"


def logs_of_row(dataset):
    """An input function: the logs of the row that a cell is in."""

    def logs(wildcards):
        return row_logs(dataset, wildcards.label)

    return logs


def protocol(dataset, method):
    """How a dataset's test images are certified, for captions."""
    images = settings.datasets[dataset].images["test"]
    own = sampling(dataset, method, "test")
    made = f"{images} test images, protocol {own.protocol}, n0 = {own.n0}, n = {own.n:,}, alpha = {own.alpha:g} per image"
    noise = {"lattice": ", noise on the pixel grid", None: ""}.get(own.noise, f", noise {own.noise}")
    return f"{dataset}: {made}{noise}, search up to K = {settings.search[dataset].k_max} with n = {settings.search[dataset].samples}."


def caption(table):
    """What a caption must say of a table or of the figure that shows its rows."""
    if table not in settings.tables:
        return ""
    method = labels(table)[0]
    return " ".join([f"Method: {method}.", *(protocol(dataset, method) for dataset in settings.tables[table])])


def table_caption(wildcards):
    return caption(wildcards.table)


def figure_caption(wildcards):
    if wildcards.number in FIGURES:
        return caption(FIGURES[wildcards.number])
    shown = dict.fromkeys((panel.dataset, panel.method) for panel in panels(wildcards.number))
    return " ".join(f"{method} on {protocol(name, method)}" for name, method in shown)


def one_of(names):
    """A wildcard's constraint to some names, or to none."""
    return "|".join(names) or "(?!)"


whole_datasets = [name for name, own in settings.certify.items() if own.shards == 1]
sharded_datasets = [name for name, own in settings.certify.items() if own.shards > 1]
certified_datasets = [name for name in settings.datasets if name in settings.certify and name in settings.search]


def shown_figures():
    """The numbers of all figures that the config has something for."""
    of_tables = [number for number, table in FIGURES.items() if settings.tables.get(table)]
    return sorted([*SUBJECTS, *of_tables, *(number for number in "6789" if panels(number))])


def figure_files():
    return expand("results/figure{number}.{form}", number=shown_figures(), form=["pdf", "png"])


def subject(wildcards):
    return SUBJECTS[wildcards.number]


def memory_passes(dataset):
    """What one job passes through the memory: a suffix of its name, its place, its runs, and which other runs than a table's are meant.

    For tables all K of a row at a sigma; of the runs that only a figure shows, each its own, so that a target needs no other's.
    """
    ks = [str(k) for k in settings.certify[dataset].k]
    others = rf"(ds|ds2)/sigma_\d+\.\d\d\.K_(?!({'|'.join(ks)})\.)\d+|gds/sigma_\d+\.\d\d\.K_\d+"
    of_tables = [f"{{row}}/sigma_{{sigma}}.K_{k}" for k in ks]
    return [("", "{row}/sigma_{sigma}", of_tables, others), ("_run", "{run}", ["{run}"], others)]
