"""Data Dependent Randomized Smoothing (Alfarra et al., UAI 2022): certify with a sigma per input.

The public names are loaded on first use (PEP 562), so `import ddrs` costs nothing and loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddrs.certification.checks import ABSTAIN
    from ddrs.certification.engine import Certificate, certify
    from ddrs.data.splits import as_float, load_split
    from ddrs.errors import DdrsError
    from ddrs.memory.memory import Memory
    from ddrs.models.checkpoints import load_model
    from ddrs.sigma.search import optimize_sigma
    from ddrs.statistics.bounds import lower_confidence_bound

__version__ = "0.1.0"

_HOME = {
    "ABSTAIN": "ddrs.certification.checks",
    "Certificate": "ddrs.certification.engine",
    "DdrsError": "ddrs.errors",
    "Memory": "ddrs.memory.memory",
    "as_float": "ddrs.data.splits",
    "certify": "ddrs.certification.engine",
    "load_model": "ddrs.models.checkpoints",
    "load_split": "ddrs.data.splits",
    "lower_confidence_bound": "ddrs.statistics.bounds",
    "optimize_sigma": "ddrs.sigma.search",
}
__all__ = [
    "ABSTAIN",
    "Certificate",
    "DdrsError",
    "Memory",
    "as_float",
    "certify",
    "load_model",
    "load_split",
    "lower_confidence_bound",
    "optimize_sigma",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'ddrs' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
