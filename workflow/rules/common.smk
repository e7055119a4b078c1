import os
import shlex
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import SimpleNamespace

# What is recorded (in DVC's lock, in the params) is the code beside the Snakefile, so that must be the code that runs, here and in the jobs.
# Without any beside it, as in a folder that holds the workflow alone, the installed package is meant.
source = Path(workflow.basedir, "src")
if (source / "ddrs").is_dir():
    spec = find_spec("ddrs")
    imported_from = Path(spec.origin).parent if spec and spec.origin else None
    if imported_from is None or not imported_from.samefile(source / "ddrs"):
        said = "src" if Path.cwd().samefile(workflow.basedir) else shlex.quote(str(source))
        sys.exit(
            f"ddrs: error: the code beside {workflow.basedir}/Snakefile is not what would run: {sys.executable} imports ddrs from "
            f"{imported_from or 'nowhere'}; put PYTHONPATH={said} before the command, or install this checkout in an environment of its own"
        )
    os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, (str(source.resolve()), os.environ.get("PYTHONPATH")))))
os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}")

from ddrs import config as ddrs_config
from ddrs.data import check_fetched
from ddrs.dataset_config import check_counts, check_modules
from ddrs import own_model
from ddrs.errors import DdrsError
from ddrs.figure_config import FIGURES
from ddrs.fitting import check_fitting
from ddrs.locks import enter as enter_run
from ddrs.made import about, made, shown_figures
from ddrs.overlays import require_fitting
from ddrs.provenance import MODEL, code_digest, digest
from ddrs.published import EVEN, SELECTED, TABLES, table_of_print
from ddrs.stale import check_dates, check_results
from ddrs.sync import mark_incomplete
from ddrs.training.losses import METHODS

if workflow.is_main_process:
    enter_run(logger.warning)
try:
    settings = ddrs_config.load(config)
    check_modules(settings.datasets)
    if "DVC_STAGE" in os.environ and workflow.is_main_process:
        require_fitting(Path("dvc.yaml"), settings)
except DdrsError as error:
    sys.exit(f"ddrs: error: {error}")

config["about"] = about(settings)  # for the first page of the report
SUBJECTS = {"1": "sigma", "2": "memory"}  # a figure illustrates an idea, and needs nothing of the experiment
CERTIFICATES = "results/certificates/{dataset}/{split}/{method}"
REGIME = {"fs": "fs", "ds": "fs", "ds2": "ds2", "gds": "fs"}  # which training the certificates of a row stand on
MEMORY = "results/memory/{dataset}/{split}/{method}"
TRAINING = [f"training/{name}.py" for name in ("run", "loop", "images", "precision", "losses/__init__")]
REGIMES = [f"training/regimes/{name}.py" for name in ("fs", "ds2")]
LOGS = [f"certification/{name}.py" for name in ("records", "checks", "bounds", "sequential")] + ["norms.py"]  # what reads a log
PRINT = ["published/__init__.py", "published/checks.py", "published/tables.csv"]
SHARED = {"yang": ["training/losses/cohen.py"]}  # what a method's file imports of another's
CODE = {  # the modules whose code makes a step's result; a change of any of them reruns the step, a new method none
    "train": [*TRAINING, *REGIMES, "sigma/objective.py", *MODEL],
    "import_checkpoint": ["importing.py", "checkpoint_formats.py", *MODEL],
    "finetune": [*TRAINING, *REGIMES, "sigma/objective.py", *MODEL],
    "sigma": ["sigma/run.py", "sigma/files.py", "sigma/objective.py", "rows.py", *MODEL],
    "certify": ["certification", "sigma/files.py", "rows.py", *MODEL],
    "merge": [*LOGS],
    "remember": ["memory.py", *LOGS, "data.py"],
    "cells": [
        "cells.py",
        "selection.py",
        "statements.py",
        "verdicts.py",
        "envelope.py",
        *PRINT,
        *LOGS,
    ],
    "table": ["tables.py", "statements.py", "norms.py", "cells.py", "envelope.py", "published/__init__.py"],
    "comparison": ["comparison.py", "norms.py", "statements.py", "verdicts.py", "cells.py", "envelope.py", "published/__init__.py"],
    "claims": ["claims.py", "norms.py", "statements.py", "published/claims.csv", "verdicts.py", "cells.py", "envelope.py", *PRINT],
    "per_class": [
        "per_class.py",
        "statements.py",
        "selection.py",
        "cells.py",
        "envelope.py",
        "published/__init__.py",
        *LOGS,
    ],
    "page": ["pages.py"],
    "picture": ["pages.py"],
    "p_lower": [
        "distribution.py",
        "selection.py",
        "published/__init__.py",
        "figures.py",
        "pictures.py",
        "statements.py",
        "cells.py",
        "envelope.py",
        *LOGS,
    ],
    "figure": ["figures.py", "pictures.py", "statements.py", "cells.py", "envelope.py", *LOGS],
    "examples": [
        "examples.py",
        "pictures.py",
        "statements.py",
        "envelope.py",
        "certification/lattice.py",
        *LOGS,
        "noise.py",
        "data.py",
    ],
    "illustrate": [
        "illustrations",
        "pictures.py",
        "statements.py",
        "certification",
        "sigma/search.py",
        "sigma/objective.py",
        "sigma/strategies/ascent.py",
        "memory.py",
        "models.py",
        "own_model.py",
        "preprocessing.py",
        "rowwise.py",
        "noise.py",
        "norms.py",
        "data.py",
    ],
}

# Which models are imported is said of dataset and method together: as a lookahead in the constraint of the dataset, which stands in front.
imported = "|".join(f"{name}/{method}" for name, methods in settings.checkpoints.items() for method in methods) or "(?!)"
imported_datasets = f"(?=({imported})/)({'|'.join(settings.datasets)})"
trained_datasets = f"(?!({imported})/)({'|'.join(settings.datasets)})"


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
    table="|".join(TABLES),
    selected=f"({SELECTED})?",
    number=r"\d",


def runtime(wildcards, threads):
    """How a job runs, which is no part of the experiment. A result of another device stands until it is deleted or forced; models, searches and logs say theirs."""
    return f"--threads {threads} --device {settings.device}"


def gpu(wildcards):
    return 0 if settings.device == "cpu" else 1


def code(step):
    return code_digest(*CODE[step])


def method_code(wildcards):
    """Of training, where each method is a file of its own, as is a model of the user's."""
    own = own_model.code(settings.on(wildcards.dataset, wildcards.method).architecture)  # of the user's; empty for known architectures
    return code_digest(*CODE["train"], *SHARED.get(wildcards.method, []), f"training/losses/{wildcards.method}.py") + own


def train_flags(wildcards):
    run = settings.train[wildcards.dataset][wildcards.method].at_sigma(wildcards.sigma)
    return f"--architecture {settings.on(wildcards.dataset, wildcards.method).architecture} --seed {settings.seed} {ddrs_config.flags(run)}"


def own_flag(wildcards):
    """The factory that the checkpoint may run: the config's, where it names one and the model is trained here."""
    architecture = settings.on(wildcards.dataset, wildcards.method).architecture
    imported = wildcards.method in settings.checkpoints.get(wildcards.dataset, {})
    return f" --architecture {architecture}" if own_model.is_own(architecture) and not imported else ""


def published_file(wildcards):
    return settings.checkpoints[wildcards.dataset][wildcards.method].path(wildcards.sigma)


def published_files():
    """All the files that the config imports."""
    chosen = [(name, method, own) for name, methods in settings.checkpoints.items() for method, own in methods.items()]
    return [Path(own.path(sigma)) for name, method, own in chosen for sigma in settings.sigma_texts(name, method)]


def import_flags(wildcards):
    own = settings.checkpoints[wildcards.dataset][wildcards.method]
    stated = f" --preprocessing {own.preprocessing}" if own.preprocessing else ""
    kind = settings.datasets[wildcards.dataset].kind
    return f"--format {own.format} --dataset {kind} --method {wildcards.method}{stated}"


def finetune_flags(wildcards):
    own = settings.finetune[wildcards.dataset][wildcards.method]
    run = settings.finetune_settings(wildcards.dataset, wildcards.method).at_sigma(wildcards.sigma)
    return f"--seed {settings.seed} {ddrs_config.flags(run)} {ddrs_config.flags(own.step)}{own_flag(wildcards)}"


def finetune_branch(wildcards):
    """The branch state, where DS2 training continues a run instead of starting from its finished model."""
    start = settings.finetune[wildcards.dataset][wildcards.method].start
    return ["results/models/{dataset}/{method}/fs/sigma_{sigma}.branch.pt"] if start == "branch" else []


def branch_flag(wildcards, input):
    return f"--branch {input.branch}" if input.branch else ""


def fetch_flags(wildcards, threads):
    """What a dataset is. It is pinned once it is fetched: taking `threads` keeps this from triggering a rerun."""
    return shlex.join(settings.datasets[wildcards.dataset].fetch_flags())


def search_flags(wildcards):
    row, sigma, k = parts_of_run(wildcards.search)
    own = settings.search_on(wildcards.dataset, wildcards.method)
    if row == "gds":
        own = grids(wildcards.dataset, wildcards.method)[int(k)]
    return f"{_images(wildcards)} --seed {settings.seed} {ddrs_config.flags(own)}{own_flag(wildcards)}"


def search_code(wildcards):
    """Of the search, where each strategy is a file of its own."""
    return code_digest(*CODE["sigma"], f"sigma/strategies/{'grid' if wildcards.search.startswith('gds/') else 'ascent'}.py")


def model_of_search(wildcards):
    row, sigma, k = parts_of_run(wildcards.search)
    if row == "gds" and int(k) not in grids(wildcards.dataset, wildcards.method):
        raise WorkflowError(f"figures.figure8 has no grid of {k} points for {wildcards.method} on {wildcards.dataset}")
    return f"results/models/{{dataset}}/{{method}}/{REGIME[row]}/sigma_{sigma}.safetensors"


def grids(dataset, method):
    """The grid searches of Figure 8 on a model, by their number of points."""
    shown = [panel for panel in panels("8") if (panel.dataset, panel.method) == (dataset, method)]
    return shown[0].grids(settings.search_on(dataset, method)) if shown else {}


def certify_flags(wildcards):
    own = sampling(wildcards.dataset, wildcards.method, wildcards.split)
    return f"{_images(wildcards)} --seed {settings.seed} {ddrs_config.flags(own)}{own_flag(wildcards)}"


def sampling(dataset, method, split):
    own = settings.on(dataset, method)
    return settings.certify[dataset].sampling(images_of(dataset, split), own.radii, split)


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


def params_of_result(kind, at):
    """The flags with which a result is made, as they stand in its rule's params. at: the parts of its path."""
    run = f"{at['row']}/sigma_{at['sigma']}" + (f".K_{at['k']}" if at.get("k") else "")
    flags = {"sigmas": search_flags, "certificates": certify_flags, "models": {"fs": train_flags, "ds2": finetune_flags}.get(at["row"])}[kind]
    if kind == "models" and at["row"] == "fs" and at["method"] in settings.checkpoints.get(at["dataset"], {}):
        flags = import_flags
    return flags(SimpleNamespace(**at, run=run, search=run))


def shards_of_run(wildcards):
    count = settings.certify[wildcards.dataset].shards
    place = "scratch/shards/{dataset}/{split}/{method}/{run}"
    return [f"{place}/{shard}-of-{count}.tsv" for shard in range(1, count + 1)]


def parts_of_run(run):
    """Row, sigma and K (empty for FS) of fs/sigma_0.25 or ds/sigma_0.25.K_900."""
    row, _, rest = run.partition("/")
    sigma, _, k = rest.removeprefix("sigma_").partition(".K_")
    return row, sigma, k


def images_of(dataset, split):
    images = settings.datasets[dataset].images
    if split not in images:
        raise WorkflowError(f"datasets.{dataset}.images has no {split}: none of its {split} images are certified")
    return images[split]


def _images(wildcards):
    return f"--split {wildcards.split} --images {images_of(wildcards.dataset, wildcards.split)}"


def labels(table):
    return TABLES[table_of_print(table)]


def one_of(names):
    """A wildcard's constraint to some names, or to none."""
    return "|".join(names) or "(?!)"


whole_datasets = [name for name, own in settings.certify.items() if own.shards == 1]
sharded_datasets = [name for name, own in settings.certify.items() if own.shards > 1]
certified_datasets = [name for name in settings.datasets if name in settings.certify and name in settings.search]
