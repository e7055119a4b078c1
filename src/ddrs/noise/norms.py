"""The norm of each noise's certificate, by the noise's name, and what goes with it: for the steps that load no torch, and for `laws`."""

from typing import Literal

from ddrs.errors import DdrsError

Norm = Literal["l1", "l2"]
Law = Literal["gaussian", "uniform"]  # the continuous one behind a noise
NORMS: dict[str, Norm] = {"gaussian": "l2", "lattice": "l2", "uniform": "l1", "uniform-lattice": "l1"}
FINE: dict[Law, int] = {"gaussian": 2**12, "uniform": 2**18}  # steps of the fine grid in a sigma (lambda)
ON_GRID = {"gaussian": "lattice", "uniform": "uniform-lattice"}  # the noise on the pixel grid, by the noise that a model is trained with


def noise_of_model(asked: str, trained: str) -> str:
    """The noise of a certificate as a config asks for it: "lattice", of whatever law a model was trained with, or a law by its name."""
    return ON_GRID[trained] if asked == "lattice" else asked


def norm_of(noise: object, where: str) -> Norm:
    """The norm of a noise's certificates, or a DdrsError that says where an unknown one was met."""
    if noise not in NORMS:
        raise DdrsError(f"{where}: noise {noise!r}: no norm is known for it; known are {', '.join(NORMS)}")
    return NORMS[str(noise)]
