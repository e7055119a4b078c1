"""Results that are of other images than those that lie in data/ now, and files that are dated after now. No torch."""

import json
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ddrs.data.requests import check_images
from ddrs.data.splits import split_digests
from ddrs.errors import DdrsError
from ddrs.experiment.datasets import DatasetSettings
from ddrs.models.own import check_factory, check_module, code, is_own

SKEW = 5.0  # seconds; a step that stands on such a file and is a moment's work is made again at worst


def check_results(manifest: Path, dataset: str, results: Path = Path("results")) -> None:
    """DdrsError if a model, search, certificate, shard or cell of a dataset is of other images than its manifest has.

    Nothing if there is no manifest. Snakemake does not see it: data is pinned, and a dataset that was deleted and fetched again triggers nothing.
    """
    if not manifest.is_file():
        return
    digests: dict[str, str] = {}
    for path, split, recorded in _made(dataset, results):
        digests = digests or split_digests(manifest)
        if recorded and recorded != digests.get(split):
            raise DdrsError(
                f"{path}: was made of other {split} images than those of {manifest}, which were fetched since; give the dataset another name, or "
                f"delete scratch/shards/{dataset} and {results}/, or of it {results}/*/{dataset}, {results}/cells/*/{dataset} and the tables, "
                "figures and pages that show it"
            )


def check_dates(paths: Iterable[Path]) -> None:
    """DdrsError for a file that is dated more than SKEW seconds after now: Snakemake would take what is made of it for older, and delete it."""
    for path in paths:
        try:
            ahead = path.stat().st_mtime - time.time()
        except OSError:
            continue  # not there, or away meanwhile
        if ahead > SKEW:
            raise DdrsError(f"{path}: is dated {ahead:,.0f} seconds after now; set the clock right, or `touch {shlex.quote(str(path))}`")


def _made(dataset: str, results: Path) -> Iterator[tuple[Path, str, str | None]]:
    """Each result that records what it is made of: its path, the split, and that split's digest; None where it says nothing that can be read."""
    for path in sorted(results.glob(f"models/{dataset}/**/*.safetensors")):
        yield path, "train", _quietly(_of_model, path)
    for path in sorted(Path("scratch/shards").glob(f"{dataset}/*/**/*.tsv")):  # finished, and waiting for the others
        yield path, path.relative_to("scratch/shards").parts[1], _quietly(_of_log, path)
    for path in sorted(results.glob(f"cells/*/{dataset}/*/acr.json")):
        yield path, "test", _quietly(_of_cell, path)
    for place, suffix, read in (("sigmas", "parquet", _of_search), ("certificates", "tsv", _of_log), ("memory", "tsv", _of_log)):
        for path in sorted(results.glob(f"{place}/{dataset}/*/**/*.{suffix}")):
            yield path, path.relative_to(results / place / dataset).parts[0], _quietly(read, path)


def _quietly(read: Callable[[Path], str | None], path: Path) -> str | None:
    """None for a file that is damaged or of another form: whoever reads it says so."""
    try:
        return read(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None


def _of_model(path: Path) -> str | None:
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["ddrs"]).get("data")


def _of_search(path: Path) -> str | None:
    import pyarrow.parquet as pq

    return json.loads(pq.read_schema(path).metadata[b"ddrs"])["data"]


def _of_cell(path: Path) -> str | None:
    return json.loads(path.read_bytes()).get("data")


def _of_log(path: Path) -> str | None:
    with open(path, encoding="utf-8") as file:
        names, values = (file.readline().rstrip("\n").split("\t") for _ in range(2))
    return dict(zip(names, values, strict=True))["data"]


def check_counts(manifest: Path, name: str, images: Mapping[str, int]) -> None:
    """DdrsError if a dataset that was fetched has fewer images than asked; nothing if it is not there yet."""
    if not manifest.is_file():
        return
    try:
        check_images(name, json.loads(manifest.read_text(encoding="utf-8"))["splits"], images)
    except (OSError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        raise DdrsError(f"{manifest}: not a dataset manifest; delete its folder, so that the dataset is fetched again") from None


def check_modules(datasets: Mapping[str, DatasetSettings]) -> None:
    """DdrsError if the module of a model of the user's own is not in the current folder, nor where Python looks, is no Python code, or lacks
    the factory."""
    for name, dataset_settings in datasets.items():
        for place, architecture in (("architecture", dataset_settings.architecture), ("uniform.architecture", dataset_settings.uniform.architecture)):
            if architecture is not None and is_own(architecture):
                try:
                    check_module(architecture.partition(":")[0])
                    code(architecture)
                    check_factory(architecture)
                except DdrsError as error:
                    raise DdrsError(f"config: datasets.{name}.{place}: {error}") from None
