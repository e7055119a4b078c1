"""What made a result and does not repeat: the facts of a run, in a sidecar under logs/."""

import json
import platform
import subprocess
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from ddrs.files import write_text

PACKAGE = Path(__file__).parents[1]


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
