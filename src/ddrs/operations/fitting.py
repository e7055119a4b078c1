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

from safetensors import SafetensorError, safe_open

from ddrs.certification.records import STATISTICS, memory_digest, run_digest
from ddrs.certification.settings import ImageCertificateSettings
from ddrs.errors import DdrsError
from ddrs.experiment.checks import part_of
from ddrs.experiment.config import Config
from ddrs.noise.norms import ON_GRID, norm_of
from ddrs.operations.sync import recorded
from ddrs.provenance.digests import file_digest
from ddrs.rows import FIXED, KINDS, SELECTED, Row, Run
from ddrs.sections import Section
from ddrs.sigma.settings import SearchSettings
from ddrs.training.losses import METHODS
from ddrs.training.settings import TrainSettings

UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, SafetensorError)


@dataclass(frozen=True)
class Misfit:
    """A result that is not what the config makes under its path."""

    path: Path
    what: str  # differs
    kind: str  # the folder below results/
    at: Mapping[str, str]  # the parts of the path, by name
    sources: tuple[Path, ...]  # of what comes after certificates: the files that it was made from


def misfits(settings: Config, results: Path = Path("results")) -> Iterator[Misfit]:
    """The results that are not what the config makes under their path.

    A damaged file is none of the config's results either. Paths that the config does not make are passed over.
    """
    for path in sorted(results.rglob("*")):
        for pattern, differs in _PATTERNS:
            found = re.fullmatch(pattern, path.relative_to(results).as_posix())
            if found and path.is_file() and _is_made(settings, found):
                try:
                    what = differs(settings, results, path, found.groupdict())
                except (*UNREADABLE, DdrsError) as error:
                    what = f"it is damaged or of another form ({' '.join(str(error).split())[:100]})"
                if what:
                    at = found.groupdict()
                    kind = path.relative_to(results).parts[0]
                    yield Misfit(path, what, kind, at, tuple(_sources(settings, results, path, at, kind)))


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


def _is_made(settings: Config, found: re.Match) -> bool:
    at = found.groupdict()
    try:
        dataset, method = at["dataset"], at.get("method") or Row.parse(at["label"]).method
    except DdrsError:
        return False
    if dataset not in settings.datasets or method not in METHODS:
        return False
    if "label" not in at and at["sigma"] not in settings.sigma_texts(dataset, method):
        return False
    if "split" in at and at["split"] not in settings.datasets[dataset].images:
        return False
    return settings.makes(part_of(_trained(at)), dataset, method)


def _trained(at: Mapping[str, str]) -> str:
    """Whose models a result is, or stands on: in its path is that, a search's folder or a kind."""
    kind = Row.parse(at["label"]).kind if "label" in at else KINDS.get(at["row"])
    return kind.trained if kind else at["row"]


def _differing(facts: Mapping, wanted: Mapping[str, object]) -> str:
    """What differs, as `n = 110, not 100`; numbers may be written as text."""
    return "; ".join(f"{name} = {facts[name]}, not {value}" for name, value in wanted.items() if not _same(facts[name], value))


def _same(facts: object, wanted: object) -> bool:
    if isinstance(facts, str) and isinstance(wanted, float):
        return float(facts) == wanted
    return str(facts) == str(wanted) if isinstance(facts, str) else facts == wanted


def _of_section(facts: Mapping, wanted: Section) -> str:
    """The same of settings, but for those that are not read."""
    return _differing(type(wanted)(**facts).model_dump(), wanted.read())


def _facts(path: Path) -> dict:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["ddrs"])


def _model(settings: Config, results: Path, path: Path, at: dict[str, str]) -> str:
    dataset, method, sigma = at["dataset"], at["method"], at["sigma"]
    facts = _facts(path)
    wanted = {"dataset": dataset, "method": method, "regime": at["row"], "sigma": float(sigma)}
    if at["row"] == FIXED.trained and method in settings.checkpoints.get(dataset, {}):
        return _differing(facts, wanted)
    run: TrainSettings
    if at["row"] == FIXED.trained:
        wanted["architecture"] = settings.on(dataset, method).architecture
        run = settings.train[dataset][method].at_sigma(sigma)
    else:
        run = settings.finetune_settings(dataset, method).at_sigma(sigma)
    found = _differing(facts, {**wanted, "seed": settings.seed}) or _of_section(facts["settings"], run)
    if found or at["row"] == FIXED.trained:
        return found
    tuned = settings.finetune[dataset][method]
    start = results / f"models/{dataset}/{method}/{FIXED.trained}/sigma_{sigma}{'.branch.pt' if tuned.start == 'branch' else '.safetensors'}"
    return _of_section(facts["step"], tuned.step) or _link(facts["start"], start)


def _sources(settings: Config, results: Path, path: Path, at: Mapping[str, str], kind: str) -> Iterator[Path]:
    if kind == "memory":
        yield results / "certificates" / path.relative_to(results / "memory")
    elif kind == "cells":
        yield from (place / name for place in _places(results, at).values() for name in _log_names(settings, at))


def _places(results: Path, at: Mapping[str, str]) -> dict[str, Path]:
    """Where the logs of a cell lie, by the name under which it records their digests."""
    row = Row.parse(at["label"])
    after, of_test = results / ("memory" if row.kind.memory else "certificates"), f"{at['dataset']}/test/{row.method}/{row.kind.name}"
    places = {"digests": after / of_test, "digests_before_memory": results / "certificates" / of_test}
    if at["table"].endswith(SELECTED):
        places["validation_digests"] = after / of_test.replace("/test/", "/validation/")
    return places


def _log_names(settings: Config, at: Mapping[str, str]) -> set[str]:
    row = Row.parse(at["label"])
    ks = [None] if row.kind.knob is None else settings.certify[at["dataset"]].k
    return {f"{Run(row.kind, sigma, k).file}.tsv" for sigma in settings.sigma_texts(at["dataset"], row.method) for k in ks}


def _link(recorded: str, made_from: Path) -> str:
    """What a result says that it was made from, against what lies there; nothing if that is away."""
    return f"it was made from another {made_from}" if made_from.is_file() and file_digest(made_from) != recorded else ""


def _model_of(results: Path, at: Mapping[str, str]) -> Path:
    return results / f"models/{at['dataset']}/{at['method']}/{_trained(at)}/sigma_{at['sigma']}.safetensors"


def _search(settings: Config, results: Path, path: Path, at: dict[str, str]) -> str:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    facts = json.loads(file.schema_arrow.metadata[b"ddrs"])
    search = settings.search_on(at["dataset"], at["method"])
    if at["row"] in KINDS and not KINDS[at["row"]].every_k:
        panels = [one for one in settings.figures.figure8 if (one.dataset, one.method) == (at["dataset"], at["method"])]
        grids: dict[int, SearchSettings] = panels[0].grids(search) if panels else {}
        if int(at["k"]) not in grids:
            return ""
        search = grids[int(at["k"])]
    wanted = {"dataset": at["dataset"], "split": at["split"], "seed": settings.seed, "sigma0": float(at["sigma"]), "images": _images(settings, at)}
    images = {**facts, "images": file.metadata.num_rows // (facts["settings"]["k_max"] + 1)}
    return _differing(images, wanted) or _of_section(facts["settings"], search) or _link(facts["model"], _model_of(results, at))


def _images(settings: Config, at: Mapping[str, str]) -> int:
    return {str(split): count for split, count in settings.datasets[at["dataset"]].images.items()}[at["split"]]


def _sampling(settings: Config, at: Mapping[str, str]) -> ImageCertificateSettings:
    dataset_settings = settings.on(at["dataset"], at["method"])
    return settings.certify[at["dataset"]].sampling(_images(settings, at), dataset_settings.radii, at["split"])


def _columns(settings: Config, at: Mapping[str, str], path: Path) -> tuple[dict[str, str], str]:
    """The first example of a log, and what differs in that which all logs of the config share."""
    with open(path, encoding="utf-8") as file:
        names, *lines = (line.rstrip("\n").split("\t") for line in file)
    first = dict(zip(names, lines[0], strict=True))
    sampling = _sampling(settings, at)
    trained = METHODS.module(at["method"]).NOISE
    statistics = {
        **sampling.model_dump(),
        "n_max": sampling.n,
        "noise": ON_GRID[trained] if sampling.noise == "lattice" else sampling.noise or trained,
        "sigma0": float(at["sigma"]),
        "K": at["k"] or "",
        "seed": settings.seed,
        "dataset": at["dataset"],
        "split": at["split"],
        "images": _images(settings, at),
    }
    unread = {"looks"} | (set() if sampling.protocol == "sequential" else {"spending"})  # follow from the protocol
    names = [name for name in (*STATISTICS, "sigma0", "K", "seed", "dataset", "split", "images") if name in statistics and name not in unread]
    return first, _differing({**first, "images": len(lines)}, {name: statistics[name] for name in names})


def _log(settings: Config, results: Path, path: Path, at: dict[str, str]) -> str:
    first, found = _columns(settings, at, path)
    model = _model_of(results, at)
    k = int(at["k"]) if at["k"] else None
    run = Run(KINDS[at["row"]], at["sigma"], k)
    sigmas = results / f"sigmas/{at['dataset']}/{at['split']}/{at['method']}/{run.search}.parquet" if run.kind.strategy else None
    if found or not model.is_file() or (sigmas and not sigmas.is_file()):
        return found
    inputs = {"model": file_digest(model), "data": first["data"], "sigmas": file_digest(sigmas) if sigmas else f"{float(at['sigma']):.9g}"}
    wanted = run_digest(_sampling(settings, at).model_dump(), first["noise"], settings.seed, at["split"], k, inputs)
    return "" if first["digest"] == wanted else f"it was certified with another {model}" + (f" or {sigmas}" if sigmas else "")


def _remembered(settings: Config, results: Path, path: Path, at: dict[str, str]) -> str:
    first, found = _columns(settings, at, path)
    before = results / "certificates" / path.relative_to(results / "memory")
    if found or not before.is_file():
        return found
    wanted = memory_digest(before, norm_of(first["noise"], str(path)))
    return "" if first["digest"] == wanted else f"it was made from another {before}"


def _cell(settings: Config, results: Path, path: Path, at: dict[str, str]) -> str:
    cell = json.loads(path.read_bytes())
    sampling = _sampling(settings, {**at, "method": Row.parse(at["label"]).method, "split": "test"})
    found = _differing(cell, {"n_max": sampling.n, "alpha": sampling.alpha, "seed": settings.seed})
    if not found and set(cell["digests"]) != _log_names(settings, at):
        return "it is the best of another choice of sigma and K"
    links = (_link(recorded, place / name) for kind, place in _places(results, at).items() for name, recorded in cell[kind].items())
    return found or next(filter(None, links), "")


_TRAINED = "|".join(dict.fromkeys(kind.trained for kind in KINDS.values()))
_ROWS = "|".join(dict.fromkeys((*KINDS, *(kind.search for kind in KINDS.values()))))
_RUN = rf"(?P<dataset>[^/]+)/(?P<split>validation|test)/(?P<method>[^/]+)/(?P<row>{_ROWS})/sigma_(?P<sigma>\d+\.\d\d)(\.K_(?P<k>\d+))?"
_PATTERNS = [
    (rf"models/(?P<dataset>[^/]+)/(?P<method>[^/]+)/(?P<row>{_TRAINED})/sigma_(?P<sigma>\d+\.\d\d)\.safetensors", _model),
    (rf"sigmas/{_RUN}\.parquet", _search),
    (rf"certificates/{_RUN}\.tsv", _log),
    (rf"memory/{_RUN}\.tsv", _remembered),
    (r"cells/(?P<table>[^/]+)/(?P<dataset>[^/]+)/(?P<label>[^/]+)/[^/]+\.json", _cell),
]
