"""Which code a step's result is made by: the definitions that it reaches, found in the text of the package. Nothing is imported.

A step is a verb of the command line, and what it is made by is what the verb's function names, what that names, and so on: functions, classes
with all their methods, constants, what modules do when they are imported, and the package's data files. Of the verb's function its body and
defaults count; its options do not, as a job's flags say what they say.

What cannot be seen in a text: a name that is made while the code runs, as by `getattr(module, name)`. So modules are loaded by name through
`ddrs.registry` alone. Neither are the versions of other packages: those stand in the sidecar.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path

from ddrs.errors import DdrsError
from ddrs.files import cache_folder, write_text
from ddrs.provenance.digests import digest
from ddrs.provenance.reading import COMMANDS, Module, last

PACKAGE = Path(__file__).parents[1]  # src/ddrs
# What moves bytes and words and makes none, or says on what a step runs, which is no part of an experiment: a change of it reruns nothing.
CARRIES = frozenset(
    f"ddrs.{name}"
    for name in (
        "errors",
        "files",
        "registry",
        "provenance.code",
        "provenance.reading",
        "provenance.sidecar",
        "models.cards",
        "models.devices",
        "certification.progress",
        "operations.locks",
    )
)
WHOLE = "*"  # all that a module defines
IMPORTED = ""  # what a module does when it is imported

Place = tuple[str, str]  # module and definition


@cache
def _module(name: str, is_package: bool, text: bytes) -> Module:
    try:
        return Module(name, is_package, text)
    except (SyntaxError, ValueError) as error:
        raise DdrsError(f"{name}: is no Python module: {error}") from None


class Code:
    """The text of a package, here or of another commit. files: the content of each by its path below the package's folder."""

    def __init__(self, files: Mapping[str, bytes], package: str = "ddrs"):
        self.files, self.package = files, package
        modules = {".".join([package, *path.removesuffix(".py").split("/")]): path for path in files if path.endswith(".py")}
        self.modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
        self._parsed: dict[str, Module] = {}
        self._known_uses: dict[Place, list[Place]] = {}
        self._known_texts: dict[Place, str] = {}

    def module(self, name: str) -> Module:
        """DdrsError if it can not be parsed."""
        if name not in self._parsed:
            path = self.modules[name]
            self._parsed[name] = _module(name, path.endswith("__init__.py"), self.files[path])
        return self._parsed[name]

    @cached_property
    def verbs(self) -> dict[str, Place]:
        """Where the function of each verb is."""
        modules = [self.module(name) for name in self.modules if COMMANDS.fullmatch(name)]
        return {verb: (module.name, function) for module in modules for verb, function in module.verbs.items()}

    def entry(self, entry: str) -> Place:
        """Of a verb, as certify, a module, as ddrs.sigma.strategies.grid, or a definition, as ddrs.rows:GDS. DdrsError if there is none."""
        if entry.startswith(f"{self.package}."):
            module, _, name = entry.partition(":")
            if module in self.modules and (not name or name in self.module(module).definitions):
                return module, name or WHOLE
        elif place := self.verbs.get(entry.replace("_", "-")):
            return place
        raise DdrsError(f"code: {entry!r}: no such verb, module or definition")

    def resolved(self, path: str) -> Place | None:
        """The definition that a dotted path stands for, through re-exports; all of a module where it is named as such, or the name is not seen."""
        parts = path.split(".")
        if parts[0] != self.package or parts[0] not in self.modules:
            return None
        count = next(count for count in range(len(parts), 0, -1) if ".".join(parts[:count]) in self.modules)
        module, names = self.module(".".join(parts[:count])), parts[count:]
        if names and names[0] in module.definitions:
            return module.name, names[0]
        if names and names[0] in module.imports.names:
            further = ".".join([module.imports.names[names[0]], *names[1:]])
            if further != path:
                return self.resolved(further)
        return module.name, WHOLE

    def members(self, place: Place) -> list[str]:
        """The modules of a registry, a mapping of names to modules or a `Folder`; of any other definition none."""
        module = self.module(place[0])
        for node in module.definitions.get(place[1], []):
            value = getattr(node, "value", None)
            if isinstance(value, ast.Dict):
                named = [one.value for one in value.values if isinstance(one, ast.Constant) and one.value in self.modules]
                return [str(name) for name in named] if len(named) == len(value.values) else []
            if isinstance(value, ast.Call) and last(value) == "Folder":
                said = [one.value for one in value.args if isinstance(one, ast.Constant) and one.value in self.modules]
                folder = f"{said[0] if said else module.name}."
                return [name for name in self.modules if name.startswith(folder) and not name.removeprefix(folder).startswith("_")]
        return []

    def reached(self, *entries: str, without: str = "") -> list[Place]:
        """What entries are made by. Of a registry that they reach, those modules count that entries name, or are of; if there is none, all of them.

        without: a module that does not count, as what carries does not.
        """
        left = [self.entry(one) for one in entries]
        named = {one.partition(":")[0] for one in entries}
        found: set[Place] = set()
        while left:
            place = left.pop()
            if place in found or place[0] in CARRIES or place[0] == without:
                continue
            found.add(place)
            members = self.members(place)
            if members:
                left += [] if named & set(members) else [self.entry(one) for one in members]
            else:
                left += self._uses(place)
        return sorted(found)

    def _uses(self, place: Place) -> list[Place]:
        if place not in self._known_uses:
            self._known_uses[place] = self._found_uses(place)
        return self._known_uses[place]

    def _found_uses(self, place: Place) -> list[Place]:
        module, name = self.module(place[0]), place[1]
        imported = [] if COMMANDS.fullmatch(module.name) else [(module.name, IMPORTED)]
        if name == WHOLE:
            passed_on = filter(None, map(self.resolved, module.imports.names.values()))  # what others may find here, too
            return [*imported, *((module.name, one) for one in module.definitions), *(one for one in passed_on if one[1] != WHOLE)]
        run = [one for reading in module.readings(name) for one in reading.inner.run]
        if name == IMPORTED:
            run += [module.name.rpartition(".")[0], *module.imports.run]
            imported = [(module.name, one) for one in module.registered]
        imported += [(one, IMPORTED) for one in run if one in self.modules]
        imported += [(one.removesuffix(".*"), WHOLE) for one in run if one.endswith(".*") and one.removesuffix(".*") in self.modules]
        named = [(module.name, root) if path is None else self.resolved(path) for root, path in module.named(name)]
        return [*imported, *(one for one in named if one is not None)]

    def texts(self, *entries: str, without: str = "") -> dict[str, str]:
        """The digest of each definition that entries are made by, as module:name. Of a registry it is not the text that counts but its modules."""
        found = {}
        for place in self.reached(*entries, without=without):
            if place[1] != WHOLE and not self.members(place) and (text := self._text(place)):
                found[":".join(place)] = text
        return found

    def _text(self, place: Place) -> str:
        """A digest of a definition, of what its names stand for, and of the package's files that it names; empty if there is nothing."""
        if place not in self._known_texts:
            module = self.module(place[0])
            readings = module.readings(place[1])
            strings = {one.rpartition("/")[2] for reading in readings for one in reading.strings}
            data = {path: hashlib.sha256(content).hexdigest() for path, content in self.files.items() if path.rpartition("/")[2] in strings}
            targets = sorted({(chain, ":".join(self.resolved(path) or [path])) for chain, path in module.named(place[1]) if path})
            self._known_texts[place] = digest([[reading.words for reading in readings], targets, data]) if readings else ""
        return self._known_texts[place]


@cache
def package() -> Code:
    """The code that runs, as it was when it was first asked for."""
    paths = [path for path in PACKAGE.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return Code({path.relative_to(PACKAGE).as_posix(): path.read_bytes() for path in sorted(paths)})


@cache
def code_digest(*entries: str, without: str = "") -> str:
    """A digest of all that entries are made by: verbs, modules (`ddrs.sigma.strategies.grid`) and definitions (`ddrs.results.row_cells:write_cells`).

    Snakemake does not see the code that a command runs; a rule that carries this digest in its params reruns when that changes, but not for a
    changed comment, docstring or word of an error. A job that loads a module by its name gives what it takes of that as entries beside its verb
    (`ddrs.sigma.strategies.grid:search`), and then does not depend on the other modules of the same registry. without: a module that does not
    count. Reading the package takes a third of a second, so the answer is kept, by all the package's bytes.
    """
    kept = cache_folder() / f"code-{digest([_bytes_digest(), sys.version, entries, without])}"
    with suppress(OSError):
        known = kept.read_text(encoding="ascii")
        if re.fullmatch("[0-9a-f]{16}", known):
            return known
    found = digest(package().texts(*entries, without=without))
    with suppress(OSError):
        write_text(kept, found)
    return found


@cache
def _bytes_digest() -> str:
    """Of all files of the package."""
    return digest({path: hashlib.sha256(content).hexdigest() for path, content in package().files.items()})


def file_code_digest(path: Path) -> str:
    """A digest of one Python file of any place: of its text without comments and docstrings. SyntaxError if it is none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return digest(ast.dump(tree))
