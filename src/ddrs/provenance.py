"""What made a result: digests that repeat (kept in the results), and facts that do not (kept in a sidecar under logs/)."""

import ast
import hashlib
import json
import platform
import shlex
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

from ddrs.errors import DdrsError
from ddrs.files import cache_folder, require, write_text

PACKAGE = Path(__file__).parent
# What the function that a checkpoint holds depends on, beside its bytes: modules, for `code_digest`.
MODEL = (
    "architectures.py",
    "resnets.py",
    "own_model.py",
    "models.py",
    "preprocessing.py",
    "noise.py",
    "norms.py",
    "data.py",
    "vision.py",
    "rowwise.py",
)
REMEMBERED_FROM = 2**30  # bytes, from which on reading a file once more costs more than looking it up


def require_own_checkout(verb: str, folder: Path) -> None:
    """DdrsError if a folder holds a checkout of ddrs whose code is not what runs: what is recorded there is its own code."""
    own = folder / "src/ddrs"
    if own.is_dir() and not own.samefile(PACKAGE):
        raise DdrsError(
            f"{verb}: {own.resolve()} is another checkout's code than runs, {PACKAGE}; put PYTHONPATH={shlex.quote(str(own.parent))} before the "
            f"command, or install that checkout in an environment of its own"
        )


def digest(value: object) -> str:
    """The first 16 hex digits of the SHA-256 of a JSON value, the same for equal values in every process."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """The SHA-256 of a file, in hex.

    Of a file of REMEMBERED_FROM bytes or more it is kept in the cache folder, and holds while path, inode, size and both times of the
    file stand: whoever writes to it changes its ctime, which no program sets at will. What a disk does to it by itself stays unseen.
    """
    path = Path(path)
    if path.stat().st_size < REMEMBERED_FROM:
        return _sha256(path)
    before = _identity(path)
    note = cache_folder() / f"sha256-{digest(before)}.json"
    with suppress(OSError, ValueError, KeyError, TypeError):  # not read yet, or a damaged note
        return str(json.loads(note.read_text(encoding="utf-8"))["sha256"])
    found = _sha256(path)
    if _identity(path) == before:
        with suppress(OSError):  # a cache that cannot be written is done without
            write_text(note, json.dumps({**before, "sha256": found}) + "\n")
    return found


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(path: Path) -> dict[str, str | int]:
    status = path.stat()
    times = {"mtime": status.st_mtime_ns, "ctime": status.st_ctime_ns}
    return {"path": str(path.resolve()), "inode": status.st_ino, "size": status.st_size, **times}


def require_distinct(paths: Sequence[Path], what: str) -> None:
    """DdrsError if a file is there twice, also under two names: what is counted twice looks like more than there is."""
    seen: dict[str, Path] = {}
    for path in paths:
        other = seen.setdefault(file_digest(require(path, what)), path)
        if other is not path:
            raise DdrsError(f"{what} {path}: is the same as {'one given before' if other == path else other}; give each once")


@cache
def code_digest(*names: str) -> str:
    """A digest of modules or folders of the package, named as `certification` or `memory.py`: of their syntax trees, or a data file's bytes.

    Snakemake does not see the modules that a command imports; a rule that carries this digest in its params reruns when they
    change, but not for a changed comment, docstring or layout. Files are read, nothing is imported.
    """
    files: set[Path] = set()
    for name in names:
        path = PACKAGE / name
        if not path.exists():
            raise FileNotFoundError(f"code_digest: no such module or folder: {path}")
        files.update(path.rglob("*.py") if path.is_dir() else [path])
    content = {str(path.relative_to(PACKAGE)): _content(path) for path in sorted(files)}
    return digest(content)


def file_code_digest(path: Path) -> str:
    """A digest of one Python file of any place: of its syntax tree without docstrings, as `code_digest`. SyntaxError if it has none."""
    return digest(_content(path))


def _content(path: Path) -> str:
    return _tree(path.read_text(encoding="utf-8")) if path.suffix == ".py" else file_digest(path)


@cache
def _tree(code: str) -> str:
    """The syntax tree of Python code without docstrings. Kept, as most modules are of several steps."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def write_sidecar(path: Path | None, settings: dict, inputs: dict[str, str], started: float, device: str = "cpu") -> None:
    """Write git commit, package versions, processor, device and wall time of one step as JSON; nothing if `path` is None."""
    if path is None:
        return
    facts = {
        "settings": settings,
        "inputs": inputs,
        "git": _git_state(),
        "packages": {name: _version(name) for name in ("ddrs", "torch", "numpy", "scipy", "pandas", "pyarrow")},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "cpu": _processor(),
        "device": device,
        "seconds": round(time.time() - started, 3),
    }
    write_text(path, json.dumps(facts, indent=2, sort_keys=True) + "\n")


def _processor() -> dict[str, str]:
    """The CPU's name, and the instruction set that torch's kernels use on it: float32 sums, and so trained models, differ between those."""
    import torch

    names: list[str] = []
    with suppress(OSError):  # Linux alone has it
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return {"name": name, "instructions": torch.backends.cpu.get_cpu_capability()}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> str | None:
    """The commit of the package's checkout, with "+dirty" if tracked files differ from it; None outside a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(PACKAGE), *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
