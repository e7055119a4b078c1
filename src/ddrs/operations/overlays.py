"""`ddrs use`: write an overlay into config.yaml, the one config that DVC sees, and its results into dvc.yaml."""

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ddrs.errors import DdrsError
from ddrs.experiment.config import Config
from ddrs.experiment.load import load
from ddrs.files import read_text, require, write_text
from ddrs.provenance.digests import require_own_checkout
from ddrs.rows import FIGURES, table_of_print

SCHEMA = "# yaml-language-server: $schema="
OUTPUT = re.compile(r"^( +)(# )?- (results/\S+): \{persist: true\}$", re.MULTILINE)  # a line of dvc.yaml


class _Dumper(yaml.SafeDumper):
    """Writes what is shared twice, instead of as an anchor with a name that says nothing."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def use(overlays: Sequence[Path], config: Path) -> list[Path]:
    """Merge overlays, later ones on top, into `config`: checked as a whole, and written atomically. The files that changed.

    Jobs get the flags that they would get with `snakemake --configfile OVERLAYS`. A dvc.yaml beside it then lists what this config makes.
    DdrsError, and `config` as it was, if an overlay can not be read, the merged config is not valid, or `config` is not as it was last
    committed to git, which alone keeps what is replaced here.
    """
    require_own_checkout("use", config.parent)
    base = read(require(config, "config"))
    merged = merge(base, read_all(overlays))
    settings = load(merged)
    written = []
    if merged != base:
        _write(merged, config, overlays)
        written.append(config)
    stages = config.parent / "dvc.yaml"
    if stages.is_file() and (unfit := read_text(stages, "stages")) != (fit := fitted(unfit, settings)):
        write_text(stages, fit)
        written.append(stages)
    return written


def fitted(stages: str, settings: Config) -> str:
    """The text of dvc.yaml with those outputs that the config makes; the others are comments."""
    return OUTPUT.sub(lambda line: f"{line[1]}{'' if _makes(settings, line[3]) else '# '}- {line[3]}: {{persist: true}}", stages)


def require_fitting(stages: Path, settings: Config) -> None:
    """DdrsError if dvc.yaml, where there is one, lists what the config does not make, which DVC would store as of this config, or lacks a result."""
    if not stages.is_file():
        return
    for line in OUTPUT.finditer(read_text(stages, "stages")):
        if _makes(settings, line[3]) == bool(line[2]):
            state = "lacks {}, which config.yaml makes" if line[2] else "lists {}, which config.yaml does not make"
            raise DdrsError(f"{stages}: {state.format(line[3])}; `ddrs use config.yaml` puts that right")


def _makes(settings: Config, path: str) -> bool:
    """Whether the config has something for an output of dvc.yaml."""
    tables = [table for table, datasets in settings.tables.items() if datasets]
    name = Path(path).stem
    if name in ("cells", "claims"):
        return bool(tables)
    if figure := re.fullmatch(r"figure(\d)", name):
        number = figure[1]
        return FIGURES[number] in tables if number in FIGURES else bool(getattr(settings.figures, f"figure{number}", True))
    if not Path(path).suffix:  # a folder that more than tables need
        return True
    return table_of_print(name.removesuffix("_comparison").removeprefix("per_class_").removeprefix("p_lower_")) in tables


def _write(merged: dict, config: Path, overlays: Sequence[Path]) -> None:
    _check_committed(config)
    names = " ".join(map(str, overlays))
    schema = [line for line in config.read_text(encoding="utf-8").splitlines()[:1] if line.startswith(SCHEMA)]
    header = [*schema, f"# Written by `ddrs use {names}`, from the config of the commit before. Why each number is what it is, is said there."]
    body = yaml.dump(merged, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=150, allow_unicode=True)
    assert yaml.safe_load(body) == merged
    write_text(config, "\n".join(header) + "\n\n" + body)


def read_all(overlays: Sequence[Path]) -> dict:
    """Overlays as one, merged among themselves first, as Snakemake does it."""
    together: dict = {}
    for overlay in overlays:
        together = merge(together, read(overlay))
    return together


def read(path: Path) -> dict:
    """A config file (YAML, of which JSON is a part) as a dict."""
    try:
        found = yaml.safe_load(read_text(path, "config"))
    except yaml.YAMLError as error:
        raise DdrsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise DdrsError(f"{path}: must have keys at its top level")
    try:
        json.dumps(found, default=str, skipkeys=True)
    except (ValueError, RecursionError):
        raise DdrsError(f"{path}: has an alias inside of what it stands for") from None
    return found


def merge(base: Any, overlay: Mapping) -> Any:
    """As Snakemake merges config files: mappings merge, everything else replaces. Nothing is changed in place."""
    if not overlay:
        return base
    result = dict(base) if isinstance(base, Mapping) else {}
    for key, value in overlay.items():
        result[key] = merge(result.get(key, {}), value) if isinstance(value, Mapping) else value
    return result


def _check_committed(config: Path) -> None:
    git = ["git", "-C", str(config.resolve().parent)]
    try:
        known = subprocess.run([*git, "ls-files", "--error-unmatch", "--", config.name], capture_output=True, check=False)
        changed = subprocess.run([*git, "status", "--porcelain", "--", config.name], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise DdrsError("use: git is not installed, and without it what is replaced would be lost") from None
    if known.returncode or changed.returncode:
        raise DdrsError(f"{config}: is not in git, so what is replaced would be lost; commit it first")
    if changed.stdout:
        raise DdrsError(f"{config}: has changes that are not committed, which would be lost; commit them, or undo them with `git restore {config}`")
