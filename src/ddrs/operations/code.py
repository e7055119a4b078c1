"""`ddrs code`: what a step is made by, what of it differs from another commit, and the digests of all steps for DVC, in workflow/code.json.

DVC sees no definitions, only files: its stages name the steps that they run, as params of workflow/code.json, and so go stale when the code of
one of these steps changes. The list of steps is that of dvc.yaml, which also has `rules`: what the rule files import to lay out the graph.
"""

import ast
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from ddrs.errors import DdrsError
from ddrs.files import read_text, write_text
from ddrs.provenance import code
from ddrs.provenance.code import Code
from ddrs.provenance.digests import digest

STAGES, WRITTEN = Path("dvc.yaml"), Path("workflow/code.json")
ON_IMPORT = "(on import)"  # what a module does then, which has no name
RULES = "rules"  # the step that the rule files are
CHECKS = (
    "experiment.preflight",
    "operations.code",
    "operations.fitting",
    "operations.overlays",
    "operations.sync",
)  # which the rules call to refuse or to mark, and which lay out nothing


def report(entries: Sequence[str], against: str | None = None) -> str:
    """The digest of a step and its definitions, a line per module; or what differs in them from a git revision, a line per definition.

    entries: a verb, and modules or definitions that its job loads by name. DdrsError for an unknown one, or a revision that is none.
    """
    now = code.package().texts(*entries)
    lines = [f"{digest(now)} {' '.join(entries)}"]
    if against is None:
        modules: dict[str, list[str]] = {}
        for place in now:
            module, _, name = place.partition(":")
            modules.setdefault(module, []).append(name or ON_IMPORT)
        return "\n".join([*lines, *(f"{module}: {', '.join(names)}" for module, names in modules.items())])
    before = at_revision(against).texts(*entries)
    kinds = {
        "added": set(now) - set(before),
        "removed": set(before) - set(now),
        "changed": {one for one in set(now) & set(before) if now[one] != before[one]},
    }
    lines += [f"{kind}: {place}{ON_IMPORT if place.endswith(':') else ''}" for kind, places in kinds.items() for place in sorted(places)]
    return "\n".join(lines if len(lines) > 1 else [*lines, f"as in {against}"])


def at_revision(revision: str) -> Code:
    """The package's text in a revision of the checkout that runs."""

    def git(*words: str) -> bytes:
        return subprocess.run(["git", "-C", str(code.PACKAGE), *words], capture_output=True, check=True).stdout

    try:
        commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}").decode().strip()
        packed = git("archive", "--format=tar", commit)
    except (OSError, subprocess.CalledProcessError):
        raise DdrsError(f"code: {revision!r}: no revision of {code.PACKAGE} that git has") from None
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        return Code({one.name: file.read() for one in archive if (file := archive.extractfile(one)) is not None})


def write(path: Path) -> list[str]:
    """Write the digests of the steps that dvc.yaml names as JSON. The steps that differ from what was there."""
    found = digests()
    different = _different(path, found)
    write_text(path, json.dumps(found, indent=2) + "\n")
    return different


def digests(stages: Path = STAGES) -> dict[str, str]:
    """The digest of each step that the stages name, in the order of the alphabet. DdrsError if they name none, or one that is no verb."""
    steps = _steps(stages)
    if not steps:
        raise DdrsError(f"code: {stages} here names no steps in {WRITTEN}; run it at the top of the repository")
    return {step: code.code_digest(*(imported_by_rules(stages.parent) if step == RULES else [step])) for step in steps}


def outdated(stages: Path = STAGES) -> list[str]:
    """The steps whose digest in workflow/code.json is not that of the code that runs; none where dvc.yaml names no steps."""
    return _different(stages.parent / WRITTEN, digests(stages)) if _steps(stages) else []


def require_current(stages: Path = STAGES) -> None:
    """DdrsError if workflow/code.json is outdated: DVC would store results as of other code."""
    if steps := outdated(stages):
        raise DdrsError(
            f"{stages.parent / WRITTEN}: is of other code than is here ({', '.join(steps)}); `ddrs code --write {WRITTEN}` puts that right"
        )


def _different(path: Path, found: Mapping[str, str]) -> list[str]:
    try:
        before = json.loads(path.read_bytes())
        return [step for step in sorted({*found, *before}) if found.get(step) != before.get(step)]
    except (OSError, ValueError, TypeError, AttributeError):  # not there, or damaged
        return list(found)


def _steps(stages: Path) -> list[str]:
    if not stages.is_file():
        return []
    try:
        read = yaml.safe_load(read_text(stages, "stages"))
        params = [one for stage in read["stages"].values() for one in stage.get("params", []) if isinstance(one, dict)]
        return sorted({step for one in params for step in one.get(str(WRITTEN), [])})
    except (yaml.YAMLError, TypeError, KeyError, AttributeError):
        return []  # DVC itself says what is wrong


def imported_by_rules(folder: Path) -> list[str]:
    """What the Snakefile and the rule files import of ddrs, as entries. They are no Python: only their import lines are read."""
    paths = [folder / "Snakefile", *sorted((folder / "workflow/rules").glob("*.smk"))]
    found: set[str] = set()
    for path in paths:
        for line in re.findall(r"^[ \t]*((?:from ddrs[\w.]* import (?:\([^)]*\)|.+)|import ddrs.*))", read_text(path, "rules"), re.MULTILINE):
            (node,) = ast.parse(line).body
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else [f"{node.module}.{one.name}" for one in node.names]
            places = [code.package().resolved(name) for name in names]
            found |= {module if name == code.WHOLE else f"{module}:{name}" for module, name in filter(None, places)}
    return sorted(one for one in found if one.partition(":")[0] not in {f"ddrs.{name}" for name in CHECKS})
