"""Matplotlib without a display, and figures as files whose bytes repeat."""

import io
from pathlib import Path

import matplotlib

from ddrs.files import write_bytes

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

__all__ = ["plt", "save"]


def save(figure: Figure, pdf: Path, png: Path) -> None:
    """Write a figure in both forms, without what differs between two runs, and close it."""
    try:
        for path, form, facts in ((pdf, "pdf", {"CreationDate": None}), (png, "png", {"Software": None})):
            drawn = io.BytesIO()
            figure.savefig(drawn, format=form, dpi=160, metadata=facts)
            write_bytes(path, drawn.getvalue())
    finally:
        plt.close(figure)
