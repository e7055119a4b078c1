"""`ddrs use`: write an overlay into config.yaml, the one config that DVC sees."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ddrs.config import load
from ddrs.errors import DdrsError
from ddrs.files import require, write_text

SCHEMA = "# yaml-language-server: $schema="


class _Dumper(yaml.SafeDumper):
    """Writes what is shared twice, instead of as an anchor with a name that says nothing."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def use(overlays: Sequence[Path], config: Path) -> bool:
    """Merge overlays, later ones on top, into `config`: checked as a whole, and written atomically. False if it says all of that already.

    Jobs get the flags that they would get with `snakemake --configfile OVERLAYS`. DdrsError, and `config` as it was, if an overlay can not be
    read, the merged config is not valid, or `config` is not as it was last committed to git, which alone keeps what is replaced here.
    """
    _check_committed(require(config, "config"))
    base = read(config)
    merged = merge(base, read_all(overlays))
    load(merged)
    if merged == base:
        return False
    names = " ".join(map(str, overlays))
    schema = [line for line in config.read_text(encoding="utf-8").splitlines()[:1] if line.startswith(SCHEMA)]
    header = [*schema, f"# Written by `ddrs use {names}`, from the config of the commit before. Why each number is what it is, is said there."]
    body = yaml.dump(merged, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=150, allow_unicode=True)
    assert yaml.safe_load(body) == merged
    write_text(config, "\n".join(header) + "\n\n" + body)
    return True


def read_all(overlays: Sequence[Path]) -> dict:
    """Overlays as one, merged among themselves first, as Snakemake does it."""
    together: dict = {}
    for overlay in overlays:
        together = merge(together, read(overlay))
    return together


def read(path: Path) -> dict:
    """A config file (YAML, of which JSON is a part) as a dict."""
    try:
        found = yaml.safe_load(require(path, "config").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DdrsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise DdrsError(f"{path}: must have keys at its top level")
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
