"""What a reader should see without running anything: tables and figures of a finished run, copied into git."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ddrs.errors import DdrsError
from ddrs.files import atomic, read_text, require, write_text
from ddrs.provenance.digests import file_digest
from ddrs.results.pages import read_png

BYTES = (
    "Equal bytes are promised on equal processors, with equal package versions. Another instruction set sums float32 numbers in another "
    "order, and trains other models: of Table 2 of an earlier version of the embedded suite, two processors made ACRs of 1.384, 1.463 and 1.520, "
    "and of 1.381, 1.460 and 1.516; 18 of its 36 numbers differed."
)
LONG = 60  # lines, from which on a table is not shown in the index but linked


def publish(files: Sequence[Path], config: Path, out_dir: Path) -> None:
    """Copy Markdown tables and PNG figures into a folder, with an index that shows them and says the config's digest, the date
    and where bytes repeat.

    A long table is linked there by its bold title. A figure's caption is captions/NAME.md beside it. DdrsError if one can not be used.
    """
    for file in files:
        if file.suffix not in (".md", ".png"):
            raise DdrsError(f"{file}: only .md tables and .png figures are published")
        if file.suffix == ".png":
            read_png(file, "figure")
            read_text(_caption(file), "caption")
        else:
            read_text(file, "table")
    require(config, "config")
    for file in files:
        with atomic(out_dir / file.name) as temporary:
            shutil.copyfile(file, temporary)
    lines = ["# Results", "", f"Published {datetime.now(UTC):%Y-%m-%d} with `{config.name}` (SHA-256 `{file_digest(config)[:16]}`).", "", BYTES, ""]
    for file in files:
        if file.suffix == ".md":
            text = read_text(file, "table").rstrip()
            title = text.partition("**")[2].partition("**")[0]
            lines += [text if text.count("\n") < LONG else f"[{title}]({file.name})", ""]
        else:
            lines += [f"![{file.stem}]({file.name})", "", read_text(_caption(file), "caption").rstrip(), ""]
    write_text(out_dir / "README.md", "\n".join(lines))


def _caption(figure: Path) -> Path:
    return figure.parent / "captions" / f"{figure.stem}.md"
