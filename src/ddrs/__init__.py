"""Data Dependent Randomized Smoothing (Alfarra et al., UAI 2022): certify with a sigma per input.

The public names are loaded on first use (PEP 562), so `import ddrs` costs nothing and loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddrs.certification.bounds import lower_confidence_bound as lower_confidence_bound
    from ddrs.certification.engine import Certificate as Certificate
    from ddrs.certification.engine import certify as certify
    from ddrs.certification.records import ABSTAIN as ABSTAIN
    from ddrs.data import as_float as as_float
    from ddrs.data import load_split as load_split
    from ddrs.errors import DdrsError as DdrsError
    from ddrs.memory import Memory as Memory
    from ddrs.models import load_model as load_model
    from ddrs.sigma.search import optimize_sigma as optimize_sigma

__version__ = "0.1.0"

_HOME = {
    "ABSTAIN": "ddrs.certification.records",
    "Certificate": "ddrs.certification.engine",
    "DdrsError": "ddrs.errors",
    "Memory": "ddrs.memory",
    "as_float": "ddrs.data",
    "certify": "ddrs.certification.engine",
    "load_model": "ddrs.models",
    "load_split": "ddrs.data",
    "lower_confidence_bound": "ddrs.certification.bounds",
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
