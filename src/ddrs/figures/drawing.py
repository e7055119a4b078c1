"""Matplotlib without a display, and figures as files whose bytes repeat."""

import io
import textwrap
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ddrs.files import write_together
from ddrs.rows import Dashes

matplotlib.use("Agg")


__all__ = ["plt", "save"]


def save(figure: Figure, pdf: Path, png: Path, statement: str = "") -> None:
    """Write a figure in both forms, without what differs between two runs, and close it. statement: what stands above in small print."""
    if statement:
        lines = textwrap.fill(statement, int(17 * figure.get_figwidth()))  # characters that an inch holds at this size
        figure.suptitle(lines, fontsize=7, color="#444444")
    try:
        drawn = {pdf: io.BytesIO(), png: io.BytesIO()}
        for path, form, facts in ((pdf, "pdf", {"CreationDate": None}), (png, "png", {"Software": None})):
            figure.savefig(drawn[path], format=form, dpi=160, metadata=facts)
        write_together({path: content.getvalue() for path, content in drawn.items()})
    finally:
        plt.close(figure)


Style = tuple[str, Dashes]  # colour and dashes
