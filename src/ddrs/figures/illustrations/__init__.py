"""Figures 1 and 2: the paper's ideas, drawn from a run of the code in two dimensions. A subject is one file here: `CAPTION` and `draw`."""

from pathlib import Path

from ddrs.registry import Folder
from ddrs.results.captions import NO_CAPTION, Caption

SUBJECTS = Folder("subject", __name__)
OF_BOTH = "All of it is computed by the code that certifies images, with a fixed seed; only the labels are written by hand. Radii are rounded down."


def illustrate(subject: str, pdf: Path, png: Path, seed: int = 0, caption: Caption = NO_CAPTION) -> None:
    """Train, search, certify and draw. On one CPU the bytes repeat. DdrsError for an unknown subject, or a seed whose run shows nothing."""
    module = SUBJECTS.module(subject)

    from ddrs.figures.drawing import save
    from ddrs.figures.illustrations._plane import make_plane

    save(module.draw(make_plane(seed)), pdf, png)
    caption.write(f"{module.CAPTION} {OF_BOTH}")
