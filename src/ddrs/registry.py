"""Names that stand for files of a folder: a plug-in is one module in it, found by its name and imported on demand."""

import pkgutil
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType

from ddrs.errors import DdrsError, nearest


class Folder(Mapping[str, str]):
    """The modules of a package by the names of their files, each with its dotted name. Those that begin with _ are shared parts, and no plug-ins.

    kind: what one is, as errors call it. Looking names up imports nothing, so that reading a config loads no torch; and it reads the folder (or
    zip) each time, so that a file that is put there is found.
    """

    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package

    def module(self, name: str) -> ModuleType:
        """The plug-in of that name, or a DdrsError that lists the names."""
        if name not in self:
            raise DdrsError(f"{self.kind} {name!r}: unknown{nearest(name, self)}; known are {', '.join(self)}")
        return import_module(self[name])

    def __getitem__(self, name: str) -> str:
        if name not in self._names():
            raise KeyError(name)
        return f"{self.package}.{name}"

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def _names(self) -> list[str]:
        found = pkgutil.iter_modules(sys.modules[self.package].__path__)
        return sorted({one.name for one in found if not one.name.startswith("_")})
