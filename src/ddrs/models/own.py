"""A model of the user's own: `package.module:factory` in place of an architecture's name.

The factory is called as factory(shape, classes), shape being (C, H, W), and returns a module that maps images (batch, C, H, W) in [0, 1] to
scores (batch, classes). Its module is looked for in the current folder first, then where Python finds modules. A checkpoint records the
name, but whoever loads it must name the factory too: no file alone chooses what code is run.
"""

from __future__ import annotations

import ast
import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from ddrs.errors import DdrsError
from ddrs.provenance.code import file_code_digest

if TYPE_CHECKING:
    from torch import nn


FACTORY = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"


def is_own(architecture: str) -> bool:
    """Whether it names a factory, and not one of the known architectures."""
    return ":" in architecture


def build(architecture: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The newly initialised module that the factory returns.

    Errors: DdrsError if the module or the factory is not there, if it fails, or if what it returns does not map a batch to scores.
    """
    from torch import nn

    module, _, name = architecture.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's own code raises
        raise DdrsError(f"architecture {architecture!r}: module {module} can not be imported: {_said(error)}") from None
    factory = getattr(found, name, None)
    if not callable(factory):
        raise DdrsError(f"architecture {architecture!r}: {getattr(found, '__file__', module)} has no function {name}(shape, classes)")
    try:
        model = factory(shape, classes)
    except (Exception, SystemExit) as error:
        raise DdrsError(f"architecture {architecture!r}: {name}({shape}, {classes}) failed: {_said(error)}") from None
    if not isinstance(model, nn.Module):
        raise DdrsError(f"architecture {architecture!r}: {name} returned {type(model).__name__}, not a torch.nn.Module")
    _check_scores(architecture, model, shape, classes)
    return model


def code(architecture: str) -> str:
    """A digest of the file that holds the factory, without comments and docstrings; empty for a known architecture or a file that is not found.

    Nothing is imported or run; of what the file imports nothing is seen.
    """
    file = _file(architecture.partition(":")[0]) if is_own(architecture) else None
    if file is None:
        return ""
    try:
        return file_code_digest(file)
    except (SyntaxError, ValueError) as error:
        raise DdrsError(f"architecture {architecture!r}: {file}: {_said(error)}") from None


def check_factory(architecture: str) -> None:
    """DdrsError if the module's file never binds the factory's name. Nothing is run, so a file that binds names by other means passes."""
    module, _, name = architecture.partition(":")
    file = _file(module)
    if file is None:
        return
    bound: set[str | None] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name)
        elif isinstance(node, ast.Name):
            bound.add(node.id)
    if not bound & {name, "*", "__getattr__", "globals", "setattr"}:
        raise DdrsError(f"architecture {architecture!r}: {file} has no function {name}(shape, classes)")


def _file(module: str) -> Path | None:
    """Where Python would find the module, without importing the packages that it is in, as importlib.util.find_spec would."""
    places: list[str] | None = [os.getcwd(), *sys.path]
    origin, walked = None, ""
    for part in module.split("."):
        walked = f"{walked}.{part}" if walked else part
        try:
            spec = PathFinder.find_spec(walked, places)
        except KeyError:  # inside a folder without __init__.py, which only Python's own import can look into
            return None
        if spec is None:
            return None
        origin, places = spec.origin, list(spec.submodule_search_locations or [])
    return Path(origin) if origin and origin.endswith(".py") else None


def _check_scores(architecture: str, model: nn.Module, shape: tuple[int, int, int], classes: int) -> None:
    import torch

    from ddrs.models.rowwise import ROWS, check_rows_alone
    from ddrs.models.running import as_it_was

    with as_it_was(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            scores = model(torch.zeros(2, *shape))
        except Exception as error:
            raise DdrsError(f"architecture {architecture!r}: its model fails on images (2, {', '.join(map(str, shape))}): {_said(error)}") from None
    if not isinstance(scores, torch.Tensor) or tuple(scores.shape) != (2, classes):
        got = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise DdrsError(f"architecture {architecture!r}: its model maps images (2, {', '.join(map(str, shape))}) to {got}; (2, {classes}) is needed")
    with as_it_was(model):
        try:
            check_rows_alone(model, torch.rand(ROWS, *shape, generator=torch.Generator().manual_seed(0)))
        except Exception as error:
            said = str(error) if isinstance(error, DdrsError) else _said(error)
            raise DdrsError(f"architecture {architecture!r}: {said}") from None


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def check_module(module: str) -> None:
    """DdrsError unless a module is where Python would look for it, the current folder first.

    Nothing is imported, so packages which only an import hook finds, as some editable installs have, are not looked into.
    """
    places, walked = [os.getcwd(), *sys.path], ""
    for part in module.split("."):
        try:
            spec = PathFinder.find_spec(f"{walked}{part}", places)
        except KeyError:  # a folder without __init__.py can not be looked into before the package that it is in is imported
            raise DdrsError(f"package {walked}{part} needs an __init__.py") from None
        if spec is None:
            if not walked and any(finder.find_spec(part, None) for finder in sys.meta_path):
                return
            raise DdrsError(f"there is no module {walked}{part}, neither in {os.getcwd()} nor where Python looks for it")
        places, walked = list(spec.submodule_search_locations or []), f"{walked}{part}."
