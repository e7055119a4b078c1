"""Results that lie where this config's would, but are of another config: as DVC or a hand puts them there. No torch.

Snakemake knows what made a file by its own records and the file's time, and DVC knows a file by its bytes: when DVC exchanges a file, Snakemake
goes on to believe its record. So what each result says of itself is held against what this config makes, link by link: a model by the
facts of its training, a search by its settings and the bytes of its model, a log by its columns and its digest, which covers the model and
the search, a log after the memory by the log before, a cell by the bytes of its logs. What a file says is believed; tables, figures and pages
say nothing, and are made again with the cells and logs behind them.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ddrs.certification.records import STATISTICS, memory_digest, run_digest
from ddrs.errors import DdrsError
from ddrs.experiment.checks import part_of
from ddrs.experiment.config import Config
from ddrs.experiment.graph import BRANCH, CELL, CERTIFICATE, MEMORY, MODEL, SIGMAS, Graph
from ddrs.experiment.jobs import Jobs
from ddrs.noise.norms import noise_of_model, norm_of
from ddrs.operations.sync import recorded
from ddrs.provenance.digests import file_digest
from ddrs.rows import FIXED, TABLES, Row, Run, kind_of, label_of
from ddrs.sections import Section
from ddrs.training.losses import METHODS
from ddrs.training.settings import TrainSettings

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, SafetensorError)


@dataclass(frozen=True)
class Misfit:
    """A result that is not what the config makes under its path."""

    path: Path
    what: str  # differs
    kind: str  # the folder below results/
    at: Mapping[str, str]  # the parts of the path, by their names in its rule
    sources: tuple[Path, ...]  # of what comes after certificates: the files that it was made from


def misfits(settings: Config) -> Iterator[Misfit]:
    """The results that are not what the config makes under their path.

    A damaged file is none of the config's results either. Paths that the config does not make are passed over.
    """
    graph = Graph(settings)
    patterns = [(_pattern(graph, place), differs) for place, differs in _PLACES.items()]
    for path in sorted(Path("results").rglob("*")):
        for pattern, differs in patterns:
            found = re.fullmatch(pattern, path.as_posix())
            if found and path.is_file() and _is_made(graph, found.groupdict()):
                at = found.groupdict()
                try:
                    what = differs(graph, path, at)
                except (*UNREADABLE, DdrsError) as error:
                    what = f"it is damaged or of another form ({' '.join(str(error).split())[:100]})"
                if what:
                    yield Misfit(path, what, path.parts[1], at, tuple(_sources(graph, path, at)))


def check_fitting(
    settings: Config, touch: bool, params: Callable[[str, Mapping[str, str]], str], warn: Callable[[str], None], mark: Callable[[str], None] | None
) -> None:
    """Have every result made again that is not of the config though Snakemake believes it to be, and say so.

    One that Snakemake makes again by itself, as its params or a file that it stands on differ, is left to it. touch: Snakemake is about to
    record all results as of this config; then the first that is not is a DdrsError. params: what Snakemake's record of a result has among its
    params if it is of this config, by its kind (models, sigmas or certificates) and the parts of its path. mark: called with the path of what
    is to be made again; None marks nothing, as in a dry run.
    """
    found = {misfit.path: misfit for misfit in misfits(settings)}
    if touch and found:
        path, misfit = next(iter(found.items()))
        raise DdrsError(f"{path}: is not of this config: {misfit.what}; check out the config that made it, or delete it and run again")
    believed = []
    for misfit in found.values():
        if misfit.kind in ("models", "sigmas", "certificates"):
            if repr(params(misfit.kind, misfit.at)) in recorded(str(misfit.path), "params"):
                believed.append(misfit)
        elif not any(source in found for source in misfit.sources) and not _of_other_logs(misfit):
            believed.append(misfit)
    if not believed:
        return
    more = f" and {len(believed) - 1} more results are" if len(believed) > 1 else " is"
    warn(
        f"ddrs: warning: {believed[0].path}: is not of this config: {believed[0].what}; it{more} made again where a target needs it. "
        "`ddrs sync --no-pull` brings instead what dvc.lock has of this config"
    )
    if mark is not None:
        for misfit in believed:
            mark(str(misfit.path))


def _of_other_logs(misfit: Misfit) -> bool:
    """Whether Snakemake's record of a cell names other logs than the config does: then Snakemake makes it again by itself."""
    logs = {Path(path).name for path in recorded(str(misfit.path), "input") if path.endswith(".tsv")}
    return misfit.kind == "cells" and logs != {source.name for source in misfit.sources}


def _pattern(graph: Graph, place: str) -> str:
    """The paths of a place that rules make, with a group for each part."""
    known = graph.patterns()
    return re.sub(r"\{(\w+)\}", lambda part: f"(?P<{part[1]}>{known.get(part[1], '[^/]+')})", place.replace(".", r"\."))


def _is_made(graph: Graph, at: Mapping[str, str]) -> bool:
    settings, dataset = graph.settings, at["dataset"]
    if "regime" in at:
        return at["sigma"] in settings.sigma_texts(dataset, at["method"]) and settings.makes(part_of(at["regime"]), dataset, at["method"])
    if dataset not in graph.certified() or at.get("split", "test") not in settings.datasets[dataset].images:
        return False
    try:
        row = Row.parse(at["label"]) if "label" in at else None
        if row and row not in TABLES[at["table"]]:
            return False
        method, runs = (row.method, graph.runs(dataset, row)) if row else (at["method"], [_run(graph, at)])
        for run in runs:
            if run.kind.strategy is not None:
                graph.searching(dataset, method, run)
    except DdrsError:
        return False
    return all(run.sigma in settings.sigma_texts(dataset, method) and settings.makes(part_of(run.kind.trained), dataset, method) for run in runs)


def _run(graph: Graph, at: Mapping[str, str]) -> Run:
    """What a search or a log is of."""
    return graph.searched(at["search"]) if "search" in at else Run.parse(at["run"])


def _differing(facts: Mapping, wanted: Mapping[str, object]) -> str:
    """What differs, as `n = 110, not 100`; numbers may be written as text."""
    return "; ".join(f"{name} = {facts[name]}, not {value}" for name, value in wanted.items() if not _same(facts[name], value))


def _same(facts: object, wanted: object) -> bool:
    if isinstance(facts, str) and isinstance(wanted, float):
        return float(facts) == wanted
    return str(facts) == str(wanted) if isinstance(facts, str) else facts == wanted


def _of_section(facts: Mapping, wanted: Section) -> str:
    """The same of settings, but for those that are not read."""
    return _differing(dict(type(wanted)(**facts)), {name: value for name, value in wanted if name not in wanted.unread()})


def _facts(path: Path) -> dict:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["ddrs"])


def _model(graph: Graph, path: Path, at: dict[str, str]) -> str:
    settings, dataset, method, regime, sigma = graph.settings, at["dataset"], at["method"], at["regime"], at["sigma"]
    facts = _facts(path)
    wanted = {"dataset": dataset, "method": method, "regime": regime, "sigma": float(sigma)}
    if regime == FIXED.trained and method in settings.checkpoints.get(dataset, {}):
        return _differing(facts, wanted)
    run: TrainSettings
    if regime == FIXED.trained:
        wanted["architecture"] = settings.on(dataset, method).architecture
        run = settings.train[dataset][method].at_sigma(sigma)
    else:
        run = settings.finetune_settings(dataset, method).at_sigma(sigma)
    found = _differing(facts, {**wanted, "seed": settings.seed}) or _of_section(facts["settings"], run)
    if found or regime == FIXED.trained:
        return found
    step = settings.regime_on(dataset, method, regime).at_sigma(sigma).of_regime()
    start = BRANCH if settings.finetune[dataset][method].start == "branch" else MODEL
    return _of_section(facts["step"], step) or _link(facts["start"], Path(start.format(**{**at, "regime": FIXED.trained})))


def _sources(graph: Graph, path: Path, at: Mapping[str, str]) -> Iterator[Path]:
    if "label" in at:
        yield from (log for logs in _logs_of_cell(graph, at).values() for log in logs)
    elif path.parts[1] == "memory":
        yield Path(CERTIFICATE.format(**at))


def _logs_of_cell(graph: Graph, at: Mapping[str, str]) -> dict[str, list[Path]]:
    """The logs of a cell, by the name under which it records their digests."""
    dataset, row = at["dataset"], Row.parse(at["label"])
    logs = {"digests": graph.logs(dataset, row)}
    if at["selected"]:
        logs |= {"validation_digests": graph.validation(dataset, row), "digests_before_memory": graph.before_memory(dataset, row)}
    return {name: [Path(log) for log in files] for name, files in logs.items()}


def _link(recorded: str, made_from: Path) -> str:
    """What a result says that it was made from, against what lies there; nothing if that is away."""
    return f"it was made from another {made_from}" if made_from.is_file() and file_digest(made_from) != recorded else ""


def _search(graph: Graph, path: Path, at: dict[str, Any]) -> str:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    facts = json.loads(file.schema_arrow.metadata[b"ddrs"])
    dataset, split, method, run = at["dataset"], at["split"], at["method"], _run(graph, at)
    images = {"images": file.metadata.num_rows // (facts["settings"]["k_max"] + 1)}
    wanted = {"dataset": dataset, "split": split, "seed": graph.settings.seed, "sigma0": float(run.sigma), "images": graph.images(dataset, split)}
    search = graph.searching(dataset, method, run).of_strategy()
    return (
        _differing({**facts, **images}, wanted)
        or _differing(facts["settings"], {"strategy": search.strategy})  # by which the others are known
        or _of_section(facts["settings"], search)
        or _link(facts["model"], Path(graph.model(dataset, method, run)))
    )


def _columns(graph: Graph, at: Mapping[str, Any], path: Path) -> tuple[dict[str, str], str]:
    """The first example of a log, and what differs in that which all logs of the config share."""
    with open(path, encoding="utf-8") as file:
        header, *lines = (line.rstrip("\n").split("\t") for line in file)
    first = dict(zip(header, lines[0], strict=True))
    run = _run(graph, at)
    sampling = Jobs(graph).sampling(at["dataset"], at["method"], at["split"], run)
    trained = METHODS.module(at["method"]).NOISE
    statistics = {
        **sampling.model_dump(),
        "n_max": sampling.n,
        "noise": noise_of_model(sampling.noise, trained),
        "sigma0": float(run.sigma),
        "K": run.logged,
        "seed": graph.settings.seed,
        "dataset": at["dataset"],
        "split": at["split"],
        "method": label_of(at["method"], kind_of(run.kind.trained, run.kind.strategy, run.kind.certificate) or run.kind),
        "images": graph.images(at["dataset"], at["split"]),
    }
    unread = {"looks"} | (set() if sampling.protocol == "sequential" else {"spending"})  # follow from the protocol
    names = (*STATISTICS, "sigma0", "K", "seed", "dataset", "split", "method", "images")
    return first, _differing({**first, "images": len(lines)}, {name: statistics[name] for name in names if name in statistics and name not in unread})


def _log(graph: Graph, path: Path, at: dict[str, Any]) -> str:
    first, found = _columns(graph, at, path)
    dataset, split, method, run = at["dataset"], at["split"], at["method"], _run(graph, at)
    model = Path(graph.model(dataset, method, run))
    sigmas = Path(graph.sigmas(dataset, split, method, run)) if run.kind.strategy else None
    if found or not model.is_file() or (sigmas and not sigmas.is_file()):
        return found
    inputs = {"model": file_digest(model), "data": first["data"], "sigmas": file_digest(sigmas) if sigmas else f"{float(run.sigma):.9g}"}
    sampling = Jobs(graph).sampling(dataset, method, split, run)
    wanted = run_digest(sampling.model_dump(), first["noise"], graph.settings.seed, split, run.logged, inputs)
    others = [model, *([sigmas] if sigmas else []), *([f"settings of {sampling.certificate}"] if run.kind.certificate != FIXED.certificate else [])]
    return "" if first["digest"] == wanted else f"it was certified with another {' or '.join(map(str, others))}"


def _remembered(graph: Graph, path: Path, at: dict[str, str]) -> str:
    first, found = _columns(graph, at, path)
    before = Path(CERTIFICATE.format(**at))
    if found or not before.is_file():
        return found
    wanted = memory_digest(before, norm_of(first["noise"], str(path)))
    return "" if first["digest"] == wanted else f"it was made from another {before}"


def _cell(graph: Graph, path: Path, at: dict[str, str]) -> str:
    cell = json.loads(path.read_bytes())
    row, logs = Row.parse(at["label"]), _logs_of_cell(graph, at)
    sampling = Jobs(graph).sampling(at["dataset"], row.method, "test", graph.runs(at["dataset"], row)[0])
    found = _differing(cell, {"n_max": sampling.n, "alpha": sampling.alpha, "seed": graph.settings.seed})
    if not found and any(set(cell[kind]) != {log.name for log in files} for kind, files in logs.items()):
        return "it is the best of another choice of sigma and K"
    links = (_link(cell[kind][log.name], log) for kind, files in logs.items() for log in files)
    return found or next(filter(None, links), "")


_PLACES = {MODEL: _model, SIGMAS: _search, CERTIFICATE: _log, MEMORY: _remembered, CELL.replace("{table}", "{table}{selected}"): _cell}
