"""What a run would cost, without running it: `ddrs plan`.

Snakemake's dry run names the commands of all jobs; the flags of a command, read by the verb's own parser, say what it computes (`work_of`);
short probes of the device say how long that takes. A job that would resume counts in full.
"""

import csv
import importlib.util
import io
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from typer.core import TyperGroup

from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.shards import Shard
from ddrs.data.requests import HOLD_OUT, parse_shape
from ddrs.data.sources import source_of
from ddrs.data.splits import load_split
from ddrs.errors import DdrsError
from ddrs.files import require
from ddrs.models.checkpoints import check_named, read_facts
from ddrs.models.devices import Runtime, prepare
from ddrs.models.formats import IMAGE_FORMATS, published
from ddrs.noise.norms import noise_of_model
from ddrs.noise.streams import BLOCK
from ddrs.operations.probe import FORWARD, IMAGE_GRADIENT, UPDATE, Certification, Network, Probe, Search, Training, flops_per_forward, mean_classes
from ddrs.sections import Section
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.strategies import STRATEGIES
from ddrs.training.losses import METHODS
from ddrs.training.regimes import REGIMES
from ddrs.training.settings import RegimeSettings, TrainSettings

COLUMNS = ("step", "jobs", "images", "samples", "at_most", "flops", "seconds")
NOTHING = "Nothing to be done: every file that the targets need is there and up to date."
S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Command:
    """One job: a verb and its flags, read as the verb reads them."""

    verb: str
    flags: Mapping[str, Any]


@dataclass(frozen=True)
class Work:
    """What one job computes.

    images: that it goes over. samples: noisy images that the network sees, in all passes. is_upper_bound: maybe it needs fewer. forwards:
    the samples weighted by cost, in forward passes of `network`. probe_units: of what `probe` times. All zero for a step without a network.
    """

    verb: str
    images: int = 0
    samples: int = 0
    forwards: int = 0
    is_upper_bound: bool = False
    network: Network | None = None
    probe: Probe | None = None
    probe_units: int = 0


class KnownFiles:
    """What is known of the files that commands read: from the command that will write them, else from the file that exists."""

    def __init__(self, commands: Sequence[Command]):
        self.maker = {command.flags["out"]: command for command in commands if command.verb in ("fetch", "train", "import-checkpoint", "finetune")}

    def split(self, manifest: Path, split: str) -> tuple[tuple[int, int, int], int, int]:
        """Shape, classes and number of images. A dataset not fetched yet may lose some to duplicates."""
        if manifest not in self.maker:
            part = load_split(manifest, split)
            return part.shape, part.classes, len(part.labels)
        flags = self.maker[manifest].flags
        kind, held = flags["kind"] or flags["name"], HOLD_OUT if flags["validation"] is None else flags["validation"]
        source = source_of(kind)
        shape, classes = source.shape or parse_shape(str(flags["shape"])), source.classes or len(flags["classes"])
        sizes = source.count(flags["source"], tuple(flags["classes"])) if source.count else dict(source.sizes)
        if "validation" not in sizes:
            sizes = {**sizes, "train": sizes["train"] - held, "validation": held}
        return shape, classes, sizes[split]

    def model(self, checkpoint: Path, architecture: str | None) -> tuple[Network, str, str, int]:
        """Network, method, the noise that it was trained with, and the epoch of its branch state. architecture: as of `load_model`."""
        if checkpoint not in self.maker:
            facts = read_facts(checkpoint)
            check_named(checkpoint, facts, architecture)
            channels, height, width = facts["shape"]
            settings = facts.get("settings", {})
            branch = settings.get("branch_epoch") or settings.get("epochs", 0)
            return Network(facts["architecture"], (channels, height, width), facts["classes"]), facts["method"], facts["noise"], branch
        command = self.maker[checkpoint]
        if command.verb == "finetune":
            return self.model(command.flags["model"], command.flags["architecture"])
        method = command.flags["method"]
        noise = METHODS.module(method).NOISE
        if command.verb == "import-checkpoint":
            form, images = published(command.flags["format"], command.flags["dataset"]), IMAGE_FORMATS[command.flags["dataset"]]
            return Network(form.architecture, images.shape, images.classes), method, noise, 0
        shape, classes, _ = self.split(command.flags["data"], "train")
        settings = section(TrainSettings, command.flags)
        return Network(command.flags["architecture"], shape, classes), method, noise, settings.branch_epoch or settings.epochs


def section(kind: type[S], flags: Mapping[str, Any]) -> S:
    """A section of the settings from a verb's flags."""
    values = {name: flags[name] for name in kind.model_fields}
    for name in {"loss", "set"} & values.keys():
        values[name] = dict(pair.split("=", 1) for pair in values[name])
    return kind.checked(**values)


def work_of(command: Command, files: KnownFiles) -> Work:
    """What a command computes. DdrsError for a file that neither exists nor is made by an earlier command."""
    flags = command.flags
    if command.verb in ("train", "finetune"):
        return _training(command, files)
    if command.verb not in ("sigma", "certify"):
        return Work(command.verb)
    network, _, noise, _ = files.model(flags["model"], flags["architecture"])
    images = flags["images"] or files.split(flags["data"], flags["split"])[2]
    if command.verb == "sigma":
        search = section(SearchSettings, flags)
        forwards, gradients = STRATEGIES.module(search.strategy).evaluations(search.of_strategy())
        forwards += mean_classes(search) * BLOCK
        cost = FORWARD * forwards + IMAGE_GRADIENT * gradients
        return Work("sigma", images, images * (forwards + gradients), images * cost, False, network, Search(network, noise, search), images)
    settings = section(ImageCertificateSettings, flags)
    images = len(Shard.parse(flags["shard"]).of(np.arange(images)))
    samples = images * (settings.n0 + settings.n)
    probe = Certification(network, noise_of_model(settings.noise, noise), settings.precision)
    return Work("certify", images, samples, FORWARD * samples, settings.protocol != "fixed", network, probe, samples)


def _training(command: Command, files: KnownFiles) -> Work:
    flags, settings = command.flags, section(TrainSettings, command.flags)
    images = files.split(flags["data"], "train")[2]
    tuned = command.verb == "finetune"
    network, method, noise, branch = files.model(flags["model"] if tuned else flags["out"], flags["architecture"])
    step = section(RegimeSettings, flags) if tuned else None
    loss = settings.loss_settings(method)
    updates = METHODS.module(method).noise_samples(loss)
    gradients = loss.image_gradients() + (REGIMES.module(step.regime).image_gradients(step.of_regime()) if step else 0)
    seen = images * (settings.epochs - (branch if flags.get("branch") else 0))
    probe = Training(network, method, noise, (updates, gradients), settings.batch_size, settings.augment, settings.optimizer, step, settings)
    cost = UPDATE * updates + IMAGE_GRADIENT * gradients
    return Work(command.verb, images, seen * (updates + gradients), seen * cost, False, network, probe, seen)


def dry_run(targets: Sequence[str], snakefile: Path | None, configfiles: Sequence[Path]) -> str:
    """What Snakemake, in the current folder, says it would do. DdrsError with its reason if it can not."""
    if importlib.util.find_spec("snakemake") is None:
        raise DdrsError("plan: needs snakemake, which is not installed here; install ddrs[workflow]")
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", "--nocolor", "--printshellcmds", "--quiet", "host", "reason"]
    if snakefile is not None:
        command += ["--snakefile", str(require(snakefile, "Snakefile"))]
    if configfiles:
        command += ["--configfile", *(str(require(path, "config file")) for path in configfiles)]
    done = subprocess.run([*command, "--", *targets], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DdrsError(_reason(done.stdout, done.stderr))
    return done.stdout + done.stderr


def _reason(*streams: str) -> str:
    """Why Snakemake failed, in one line: ddrs' own error, or what Snakemake's last exception says."""
    lines = [[line.strip() for line in stream.splitlines() if line.strip()] for stream in streams]
    for line in [line for stream in lines for line in stream]:
        if line.startswith("ddrs: error: "):
            return line.removeprefix("ddrs: error: ")
    for stream in lines:
        starts = [i for i, line in enumerate(stream) if re.match(r"\w*(Error|Exception)\b.*:", line)]
        if starts:
            return f"snakemake: {' '.join(stream[starts[-1] :])}"[:500]
    return f"snakemake: {' '.join([*lines[0], *lines[1]][-2:])}"[:500]


def commands_of(text: str, verbs: TyperGroup) -> list[Command]:
    """The ddrs commands that a dry run printed; jobs of any other program are left out."""
    found = []
    for line in re.findall(r"^(?:Shell command: )?\s*ddrs ([a-z].*)$", text, re.MULTILINE):
        words = shlex.split(line)
        verb, *flags = words[: words.index(">")] if ">" in words else words
        if verb not in verbs.commands:
            raise DdrsError(f"plan: the Snakefile calls `ddrs {verb}`, which this version of ddrs has not")
        found.append(Command(verb, verbs.commands[verb].make_context(verb, flags).params))
    return found


def planned(verbs: TyperGroup, targets: Sequence[str], snakefile: Path | None, configfiles: Sequence[Path]) -> list[Command]:
    """The ddrs commands that Snakemake would run, in the current folder; none if all is there and up to date."""
    text = dry_run(targets, snakefile, configfiles)
    commands = commands_of(text, verbs)
    if not commands and "Nothing to be done" not in text:
        raise DdrsError("plan: the dry run named no ddrs command; is it ddrs' Snakefile?")
    return commands


def plan(
    verbs: TyperGroup,
    targets: Sequence[str],
    snakefile: Path | None,
    configfiles: Sequence[Path],
    device: str | None,
    threads: int,
    jobs: int,
    form: str,
) -> str:
    """The plan as text: a line per step with jobs, images, samples, FLOPs and estimated time, and the total.

    verbs: the parser of the command line. device: where the time is measured; None: the one that the config names. jobs: how many run side
    by side, which divides the time. form: table or csv (in seconds). Nothing is run or written, but for Snakemake's own .snakemake folder.
    """
    if form not in ("table", "csv"):
        raise DdrsError(f"format {form!r}: must be table or csv")
    commands = planned(verbs, targets, snakefile, configfiles)
    if not commands:
        return NOTHING
    files = KnownFiles(commands)
    work = [work_of(command, files) for command in commands]
    if device is None:
        device = next((command.flags["device"] for command in commands if "device" in command.flags), "cpu")
    place = prepare(Runtime.checked(threads=threads, device=device))
    rates = {probe: probe.seconds(place) for probe in dict.fromkeys(one.probe for one in work if one.probe)}
    rows = estimate(work, rates, _startup(), jobs, list(verbs.commands))
    if form == "csv":
        return _csv(rows)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else f"this CPU, {threads} thread{'s' * (threads > 1)} per job"
    return "\n".join([*_table(rows), *_assumptions(name, jobs, any(row["at_most"] for row in rows))])


def seconds_of(work: Work, rates: Mapping[Probe, float]) -> float:
    """How long a job computes, at the seconds per unit that its probe found."""
    return work.probe_units * rates[work.probe] if work.probe else 0.0


def flops_of(work: Work) -> int:
    """Floating-point operations of a job's passes."""
    return work.forwards * flops_per_forward(work.network) if work.network else 0


def estimate(work: Sequence[Work], rates: Mapping[Probe, float], startup: float, jobs: int, order: Sequence[str]) -> list[dict[str, Any]]:
    """A row of COLUMNS per verb, in the given order, and their total. startup: seconds before a job computes."""
    groups = {verb: [one for one in work if one.verb == verb] for verb in order}
    groups = {verb: of_verb for verb, of_verb in groups.items() if of_verb} | {"total": list(work)}
    return [
        {
            "step": verb,
            "jobs": len(of_verb),
            "images": None if verb == "total" else sum(one.images for one in of_verb),  # one step's images are also another's
            "samples": sum(one.samples for one in of_verb),
            "at_most": any(one.is_upper_bound for one in of_verb),
            "flops": sum(flops_of(one) for one in of_verb),
            "seconds": sum(seconds_of(one, rates) + startup for one in of_verb) / jobs,
        }
        for verb, of_verb in groups.items()
    ]


def _startup() -> float:
    """Seconds until a new Python has loaded what certification needs."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import ddrs.certification.run"], check=True)
    return time.perf_counter() - started


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        shown = {**row, "at_most": int(row["at_most"]), "seconds": f"{row['seconds']:.3f}"}
        writer.writerow([shown[column] for column in COLUMNS])
    return text.getvalue().rstrip("\n")


def _table(rows: Sequence[dict[str, Any]]) -> list[str]:
    cells = [["step", "jobs", "images", "samples", "FLOPs", "time"]]
    for row in rows:
        bound = "at most " if row["at_most"] else ""
        images = f"{row['images']:,}" if row["images"] else "-"
        counts = [f"{bound}{row['samples']:,}", f"{bound}{row['flops']:.3g}"] if row["samples"] else ["-", "-"]
        cells.append([row["step"], f"{row['jobs']:,}", images, *counts, bound + duration(row["seconds"])])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return ["  ".join([line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]) for line in cells]


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4 s, 3 min 06 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{max(whole, 1)} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"


def _assumptions(device: str, jobs: int, at_most: bool) -> list[str]:
    """What the numbers stand on."""
    bound = " At most: the protocol stops as soon as it can." if at_most else ""
    return [
        f"samples: noisy images that the network sees. FLOPs: 2 per multiply-add; a pass back to the image counts {IMAGE_GRADIENT} forward passes, "
        f"one back to the weights {UPDATE}.{bound}",
        f"time: measured now on {device}, {jobs} job{'s' * (jobs > 1)} side by side at no loss; every job also starts Python and torch, "
        "which is all that is counted of steps without samples.",
    ]
