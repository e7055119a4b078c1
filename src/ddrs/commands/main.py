"""The command line: one verb per step, files in and files out. A rule of the Snakefile is one of these verbs.

A verb's module is imported when the verb is called, and what the verb calls inside its body: so `ddrs --help` and a dry run load no torch,
and `ddrs table` loads no settings of training.
"""

import errno
import os
import signal
import sys
import warnings
from functools import cache
from importlib import import_module
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from ddrs.commands import flags
from ddrs.errors import DdrsError, DdrsWarning, one_line

VERBS = {  # in the order of `ddrs --help`: the module of this folder that holds it, and its line there
    "fetch": ("data", "Get a dataset, check it, drop duplicates across splits, write uint8 arrays and a manifest."),
    "train": (
        "training",
        "Train a model with one fixed sigma (FS). Writes a safetensors checkpoint; a killed run resumes at its last finished epoch.",
    ),
    "finetune": ("training", "Train a fixed-sigma model on with a sigma per example (DS2, Algorithm 2). Writes a checkpoint; resumes like `train`."),
    "import-checkpoint": (
        "training",
        "Write a fixed-sigma model that others published as a safetensors checkpoint, with its preprocessing; runs no code of the file.",
    ),
    "sigma": ("search", "Search the sigma of each image by a strategy: Algorithm 1, a grid, QCRS or another; writes the whole trajectory."),
    "certify": (
        "certification",
        "Certify a split's images by Monte Carlo (Cohen et al. 2019). The log is resumed after a kill, without redoing finished images.",
    ),
    "merge": ("certification", "Put the logs of the shards of one certification together, byte for byte as one run would have written it."),
    "remember": (
        "memory",
        "Pass logs through the memory (Algorithm 3), each on its own, in ascending idx. Writes logs of the same names into --out-dir.",
    ),
    "envelope": (
        "results",
        "Print certified accuracy per radius and ACR, a line per log and one for their envelope; reads anyone's six-column logs too.",
    ),
    "cell": ("results", "Write every cell of one table row as JSON: value, interval, the sigma and K that gave it, the paper's number."),
    "table": ("results", "Assemble a table from its cells."),
    "compare": ("results", "Set every cell of a table beside the paper's number, with the interval of the difference and a verdict."),
    "claims": ("results", "Check the paper's headline sentences against its own tables and against ours."),
    "per-class": ("results", "Write certified accuracy per class, each row at the sigma and K that other images chose for its ACR."),
    "page": ("results", "Write a Markdown table, or a figure with its caption, as a page that a browser, and Snakemake's report, show."),
    "distribution": (
        "figures",
        "Draw the distribution of p_lower: a panel per training sigma, a curve per row, K chosen on validation images or on half of the test images.",
    ),
    "figure": ("figures", "Draw certified accuracy against radius: of a table's rows (Figures 3, 4, 5), of sigma searches (8), for growing K (7)."),
    "examples": (
        "figures",
        "Draw test images with noise at the fixed sigma and at their own (Figures 6, 9); one --data, --fixed and --quantiles for each log.",
    ),
    "illustrate": ("figures", "Draw why sigma should vary, or the memory's three cases, from a run of the code in two dimensions (Figures 1, 2)."),
    "export": ("certification", "Write a log in the field's six-column form (idx label predict radius correct time), for other people's scripts."),
    "publish": ("experiment", "Copy finished tables and figures to where readers of the repository see them, with the config's digest and the date."),
    "use": (
        "experiment",
        "Merge overlays into config.yaml, so that DVC sees them too, and list its results in dvc.yaml. Jobs get the flags that `snakemake "
        "--configfile OVERLAYS` gives them.",
    ),
    "sync": (
        "experiment",
        "Bring the results of dvc.lock here, prove them by content, and tell Snakemake, so that nothing runs that has run elsewhere.",
    ),
    "lock-status": ("experiment", "Say in one line whether dvc.lock is of this code and config. Needs no data, no results and no remote."),
    "code": ("experiment", "Say by which definitions the result of a verb is made, and their digest, which reruns it when it changes."),
    "plan": ("experiment", "Print what a target would cost, without running it: jobs, images, samples, FLOPs and estimated time of every step."),
}


@cache
def loaded(verb: str) -> TyperCommand:
    """The parser of a verb, of the function of that name in its module."""
    import_module(f"ddrs.commands.{VERBS[verb][0]}")
    return cast(TyperCommand, typer.main.get_group(flags.app).commands[verb])


class Verb(TyperCommand):
    """A verb known by its name and its line; calling it, or asking for its flags, loads it."""

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **named: Any) -> Any:
        return loaded(self.name or "").make_context(info_name, args, *more, **named)


app = TyperGroup(
    help=(__doc__ or "").split("\n")[0],
    commands={verb: Verb(verb, short_help=line) for verb, (_, line) in VERBS.items()},
)


def main() -> None:
    """Run a verb; what a user did wrong, or a full disk, ends in one line and exit code 2."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that temporary files are removed
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch loads: several one-thread jobs share the cores
    warnings.formatwarning = _warned
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        verb = f" (see `{context.command_path} --help`)" if context else ""
        message = " ".join(getattr(error, "format_message", error.__str__)().split())  # which lists choices on lines of their own
        sys.exit(_failed(message + verb))
    except typer.Abort:
        sys.exit(130)
    except DdrsError as error:
        sys.exit(_failed(str(error)))
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or " ".join(map(str, error.args)))
        sys.exit(_failed(f"{error.filename or 'while writing'}: {what}"))


_STANDARD = warnings.formatwarning


def _warned(message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None) -> str:
    """A warning of ours in one line, without the line of code that it comes from; others as Python writes them."""
    return f"ddrs: {message}\n" if issubclass(category, DdrsWarning) else _STANDARD(message, category, filename, lineno, line)


def _failed(message: str) -> int:
    print(f"ddrs: error: {one_line(message)}", file=sys.stderr)
    return 2
