"""DVC's bytes and Snakemake's graph brought to agree: `ddrs sync`. The one module that knows both; it runs them as commands.

DVC knows files by their content, Snakemake by their times and by its records in .snakemake. So what `dvc pull` brings looks made in any
order, and by nothing that Snakemake knows: it would run jobs again, or never notice a changed config. Once content is proven, every file
is touched in the order of the graph, which also writes the records.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from ddrs.errors import DdrsError
from ddrs.operations.code import WRITTEN, outdated
from ddrs.operations.locks import LOCKS, enter
from ddrs.provenance.digests import require_own_checkout

RECORDS = Path(".snakemake")
CACHE = "DVC's cache"
SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Stored:
    """An output of dvc.lock, or a file of one that is a folder: its path, and the MD5 by which DVC stores it.

    DdrsError for what is no MD5: it becomes a path, of which a damaged file is deleted.
    """

    path: str
    md5: str

    def __post_init__(self) -> None:
        if not (isinstance(self.md5, str) and re.fullmatch(r"[0-9a-f]{32}(\.dir)?", self.md5)):
            raise DdrsError(f"sync: {self.path}: DVC's record of it has md5 {str(self.md5)[:80]!r}, which is none")

    @property
    def place(self) -> Path:
        """Where it lies in DVC's cache, and in a remote."""
        return Path("files", "md5", self.md5[:2], self.md5[2:])


def sync(pull: bool, say: Callable[[str], None]) -> None:
    """Bring the outputs of dvc.lock here, prove them by content, and tell Snakemake that they are up to date.

    pull: also from the default remote; else DVC's cache must have them. Afterwards `dvc repro` and `snakemake paper` have nothing to do,
    and a changed config runs what it should. Datasets, which DVC does not keep, are fetched where they are missing.

    DdrsError: no DVC remote, one that can not be reached or lacks an object or holds a damaged one, files here that DVC has nowhere else, a
    dvc.lock of other code or config, another run in this folder. What was here stays, and Snakemake is told nothing.

    Files of another config that lie among the results stay, too; Snakemake makes them again as soon as a config needs them.
    """
    for tool in ("dvc", "snakemake"):
        if importlib.util.find_spec(tool) is None:
            raise DdrsError(f"sync: needs {tool}, which is not installed here; install ddrs[workflow]")
    lock = read_lock("sync")
    remote = _remote() if pull else ""
    enter(say)
    if any(LOCKS.glob("*")):
        raise DdrsError("sync: Snakemake is at work in this folder, here or on another host; wait for it, or if it is not say `snakemake --unlock`")
    differing = _differing("sync", lock)
    if differing:
        raise DdrsError(
            f"sync: dvc.lock was written by other code or config than is here ({'; '.join(differing)}), so its results prove nothing. Undo the "
            f"change or check out the commit that wrote the lock, sync, and change it then; or run `dvc repro` where there are no results yet"
        )
    if pull:
        say(f"fetching from {remote}")
    fetched = _run("dvc", "fetch") if pull else None
    count = _check_cache(lock, remote, fetched)
    _check_out()
    with tempfile.TemporaryDirectory() as empty:
        left = _status("sync", {"DVC_SITE_CACHE_DIR": empty})  # DVC remembers hashes by time and size; here every byte is read
    if left:
        raise DdrsError(f"sync: after the checkout `dvc status` still finds differences: {json.dumps(left)[:500]}")
    say(f"{count} objects of dvc.lock are in place; telling Snakemake")
    targets = list(lock["stages"])
    _snakemake("--touch", "--forceall", "--cores", "1", *targets)
    for path in unrecorded("results"):  # no result of this config
        mark_incomplete(path)
    missing = _missing_data(targets)
    if missing:
        say(f"fetching {', '.join(missing)}")
        try:  # in a run of its own: a run that fetches would train again whatever it finds behind the data
            _snakemake("--cores", "1", *missing)
        except DdrsError as error:
            command = f"snakemake --cores 1 {' '.join(missing)}"
            raise DdrsError(f"sync: results are in place, but not the data: {error}. Before another run say `{command}`") from None


def lock_status() -> str:
    """Whether dvc.lock is of this code and config, in one line that names what differs. Needs no data, results or remote."""
    lock = read_lock("lock-status")
    differing = _differing("lock-status", lock)
    return f"dvc.lock is stale: {'; '.join(differing)}" if differing else "dvc.lock fits code and config"


def read_lock(verb: str) -> dict:
    """dvc.lock of the current folder. DdrsError, which names the verb, if there is none or it can not be read."""
    if not Path("dvc.yaml").is_file():
        raise DdrsError(f"{verb}: no dvc.yaml here; run it at the top of the repository")
    require_own_checkout(verb, Path())
    if not Path("dvc.lock").is_file():
        raise DdrsError(f"{verb}: no dvc.lock here, so nothing is stored yet; `dvc repro` writes it")
    try:
        lock = yaml.safe_load(Path("dvc.lock").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise DdrsError(f"{verb}: dvc.lock: not valid YAML; an unfinished merge?") from None
    if not isinstance(lock, dict) or not isinstance(lock.get("stages"), dict):
        raise DdrsError(f"{verb}: dvc.lock: has no stages; `dvc repro` writes them")
    return lock


def _differing(verb: str, lock: Mapping) -> list[str]:
    """What of code, config and commands is not as in the lock, also where the code's digests were not written since it changed."""
    steps = outdated()
    unwritten = [f"{WRITTEN} has other code than is here of {_some(steps)}, until `ddrs code --write {WRITTEN}`"] if steps else []
    return stale(_status(verb), lock) + unwritten


def stale(status: Mapping, lock: Mapping) -> list[str]:
    """What a status says of code, config and commands, as `stage: what differs`: all but the state of outputs, which may be elsewhere."""
    outputs = {out["path"] for stage in lock["stages"].values() for out in stage.get("outs", [])}
    found = []
    for stage, changes in status.items():
        differing = []
        for change in changes:
            if isinstance(change, str):
                differing.append(change)
                continue
            for kind, of_kind in change.items():
                if kind == "changed deps":
                    for path, state in of_kind.items():
                        if isinstance(state, dict):
                            differing += [f"{path}: {key}" for key in state]
                        elif path not in outputs:
                            differing.append(path)
                elif kind == "changed outs":
                    differing += [path for path in of_kind if path not in outputs]
                else:
                    differing.append(kind)
        if differing:
            found.append(f"{stage}: {_some(differing)}")
    return found


def objects(lock: Mapping, cache: Path) -> Iterator[tuple[Stored, str]]:
    """All that dvc.lock stands for, with its state in the cache; a folder that is not whole there, as one object."""
    for stage in lock["stages"].values():
        for out in stage.get("outs", []):
            whole = Stored(str(out.get("path")), out.get("md5", ""))
            state = _state(whole, cache)
            yield whole, state
            if whole.md5.endswith(".dir") and state == "whole":
                try:
                    entries = [(f"{whole.path}/{entry['relpath']}", entry["md5"]) for entry in json.loads((cache / whole.place).read_bytes())]
                except (ValueError, KeyError, TypeError):
                    raise DdrsError(f"sync: {whole.path}: DVC's list of its files ({whole.place}) is not one") from None
                for inner in (Stored(*entry) for entry in entries):
                    yield inner, _state(inner, cache)


def unrecorded(folder: str) -> Iterator[str]:
    """The files below a folder of which Snakemake has no record, so that it would not notice a change of what made them."""
    known = set()
    for kind in ("metadata", "incomplete"):
        place = RECORDS / kind
        for record in place.rglob("*") if place.is_dir() else ():
            if record.is_file():  # the path in base64, which Snakemake cuts into folders @... where it is too long
                text = "".join(part.removeprefix("@") for part in record.relative_to(place).parts)
                known.add(urlsafe_b64decode(text).decode())
    files = (str(path) for path in sorted(Path(folder).rglob("*")) if path.is_file() and not path.name.startswith("."))
    yield from (path for path in files if path not in known)


def check_records(storing: bool, warn: Callable[[str], None], makes: Callable[[str], bool]) -> None:
    """Say so where Snakemake has results without records, as after a lost .snakemake: it would call them up to date under any config.

    storing: DVC will store what Snakemake leaves as the results of this config; then it is a DdrsError. makes: whether a rule makes a file; what
    none makes is the user's own.
    """
    file = next(filter(makes, unrecorded("results")), None)
    if file is None:
        return
    if storing and "/.dvc/tmp/exps/" in Path.cwd().as_posix():
        raise DdrsError(
            f"`dvc exp run` with --temp or --queue runs in a folder of its own, with DVC's results ({file}) but not with Snakemake's records of what "
            f"made them; use `dvc exp run` without either, beside another in a clone: `git clone`, `ddrs sync`, `dvc exp run`"
        )
    line = (
        f"Snakemake has no record of what made {file}, and would not make it again for another config or code. `ddrs sync` (with --no-pull: "
        f"from DVC's cache) proves results by dvc.lock; if you know them to be of this config, `snakemake --touch --forceall {file}` records it; "
        f"else delete it"
    )
    if storing:
        raise DdrsError(line)
    warn(f"ddrs: warning: {line}")


def _check_out() -> None:
    """Bring the files of dvc.lock here, without Snakemake's records: they are of what was here, and are back only if nothing has changed.

    So whoever interrupts a sync finds results without records, which `check_records` does not let pass.
    """
    records, aside = RECORDS / "metadata", RECORDS / "metadata.before-sync"
    shutil.rmtree(aside, ignore_errors=True)
    before = _stamps()
    if records.is_dir():
        records.rename(aside)
    done = _run("dvc", "checkout")
    if done.returncode:
        if aside.is_dir() and _stamps() == before:
            aside.rename(records)
        raise DdrsError(f"sync: {_dvc_reason(done)}")
    shutil.rmtree(aside, ignore_errors=True)


def _stamps() -> dict[Path, tuple[int, int]]:
    """What changes with a file below results/: its inode and time."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in Path("results").rglob("*") if path.is_file()}


def recorded(path: str, what: Literal["params", "input"]) -> list[str]:
    """The params, each as Python writes it, or the input files of the job that Snakemake says made a file; none without a record."""
    try:
        return list(map(str, json.loads(_record("metadata", path).read_bytes())[what]))
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _record(kind: str, path: str) -> Path:
    """Where Snakemake keeps what it knows of a file."""
    name = urlsafe_b64encode(path.encode()).decode()
    length = 254  # of a part; Snakemake cuts what is longer than a file name can be
    parts = [name[start : start + length] for start in range(0, len(name), length)]
    return Path(RECORDS, kind, *(f"@{part}" for part in parts[:-1]), parts[-1])


def mark_incomplete(path: str) -> None:
    """As Snakemake marks the outputs of a job that was killed: it makes them again as soon as a run needs them."""
    place = _record("incomplete", path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"external_jobid": None}), encoding="utf-8")


def _remote() -> str:
    name = _run("dvc", "config", "core.remote").stdout.strip()
    if not name:
        raise DdrsError(
            "sync: no DVC remote is set, so there is nowhere to get results from: `dvc remote add -d NAME URL` sets one; `ddrs sync --no-pull` "
            "goes by what DVC has stored here"
        )
    url = _run("dvc", "config", f"remote.{name}.url").stdout.strip()
    return f"remote {name} ({url})" if url else f"remote {name}"


def _check_cache(lock: Mapping, remote: str, fetched: subprocess.CompletedProcess[str] | None) -> int:
    """How many objects dvc.lock stands for. DdrsError if the cache does not hold all of them, whole.

    DVC itself stores damaged objects as they come, and only warns of missing ones.
    """
    cache = Path(_run("dvc", "cache", "dir").stdout.strip())
    states = dict(objects(lock, cache))
    damaged = [stored for stored, state in states.items() if state == "damaged"]
    for stored in damaged:
        (cache / stored.place).unlink(missing_ok=True)  # good for nothing, and DVC would not fetch it again
    if damaged:
        raise DdrsError(
            f"sync: {remote or CACHE} has damaged objects: {_places(damaged)}; `dvc push` from where they are whole, after deleting these"
        )
    if fetched is not None and fetched.returncode:
        raise DdrsError(f"sync: {remote}: {_dvc_reason(fetched)}")
    missing = [stored for stored, state in states.items() if state == "missing"]
    if len(missing) == len(states):
        raise DdrsError(f"sync: {remote or CACHE} has no object of dvc.lock; is it the right one, and at hand?")
    if missing:
        raise DdrsError(f"sync: {remote or CACHE} lacks objects of dvc.lock: {_places(missing)}; `dvc push` from where they are")
    return len(states)


def _state(stored: Stored, cache: Path) -> str:
    """Of an object in the cache: whole, damaged or missing."""
    try:
        with open(cache / stored.place, "rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
    except FileNotFoundError:
        return "missing"
    return "whole" if found == stored.md5.removesuffix(".dir") else "damaged"


def _missing_data(targets: list[str]) -> list[str]:
    """Manifests of datasets that the targets stand on and that are not here."""
    lines = [line.split("\t")[0] for line in _snakemake("--summary", *targets).stdout.splitlines()]
    return [path for path in lines if path.startswith("data/") and not Path(path).exists()]


def _status(verb: str, environment: Mapping[str, str] | None = None) -> dict:
    done = _run("dvc", "status", "--json", environment=environment)
    if done.returncode:
        raise DdrsError(f"{verb}: {_dvc_reason(done)}")
    return json.loads(done.stdout)


def _run(tool: str, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool of this Python's environment, whose commands its jobs also find first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    whole = {**os.environ, "PATH": path, **(environment or {})}
    return subprocess.run([sys.executable, "-m", tool, *words], capture_output=True, text=True, env=whole, check=False)


def _snakemake(*words: str) -> subprocess.CompletedProcess[str]:
    done = _run("snakemake", "--nocolor", *words)
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line.removeprefix("ddrs: error: ") for line in lines if line.startswith("ddrs: error: ")]
        raise DdrsError(errors[0] if errors else f"snakemake: {' '.join(lines[-3:])[:500]}")
    return done


def _dvc_reason(done: subprocess.CompletedProcess[str]) -> str:
    """Why dvc failed: its first error, and the files that it names below that."""
    lines = [line.strip().replace(f"{Path.cwd()}/", "") for line in done.stderr.splitlines() if line.strip()]
    first = next((i for i, line in enumerate(lines) if line.startswith("ERROR:")), 0)
    named = [line for line in lines[first + 1 :] if not line.startswith(("ERROR", "WARNING")) and "dvc.org" not in line]
    reason = lines[first].removeprefix("ERROR: ").replace(" Use `--force` to force.", "") if lines else f"dvc ended with {done.returncode}"
    return f"{reason} {_some(named)}".strip()


def _places(stored: list[Stored]) -> str:
    return _some([f"{one.path} ({one.place})" for one in stored])


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
