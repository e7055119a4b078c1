"""torchvision, also beside a CPU-only torch.

torchvision's wheels are CUDA builds: under a CPU-only torch their operator library does not load, and the import dies on
`torchvision::nms`. Declaring the operators' schemas first cures it; ddrs calls none of them.
"""

import sys
from importlib import import_module
from types import ModuleType

import torch

_library: torch.library.Library | None = None  # kept: its schemas go when it is collected


def _declare_operators() -> None:
    global _library
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _library is not None:
            raise
    for loaded in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
        del sys.modules[loaded]
    _declare_operators()
    return import_module(name)


def torchvision_models() -> ModuleType:
    """torchvision.models."""
    return _import("torchvision.models")


def torchvision_datasets() -> ModuleType:
    """torchvision.datasets."""
    return _import("torchvision.datasets")
