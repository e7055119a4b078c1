"""Names that stand for a module: a folder's registry, loaded on demand so that reading a config loads no torch."""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from ddrs.errors import DdrsError


def load(kind: str, registry: Mapping[str, str], name: str) -> ModuleType:
    """The module registered under `name`, or a DdrsError that lists the names."""
    if name not in registry:
        raise DdrsError(f"{kind} {name!r}: unknown; known are {', '.join(registry)}")
    return import_module(registry[name])
