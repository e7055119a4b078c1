"""What a reader should see without running anything: tables and figures of a finished run, copied into git."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ddrs.errors import DdrsError
from ddrs.files import atomic, require, write_text
from ddrs.provenance import file_digest


def publish(files: Sequence[Path], config: Path, out_dir: Path) -> None:
    """Copy Markdown tables and PNG figures into a folder, with an index that shows them, gives each figure its caption, and says the config's
    digest and the date. A figure's caption is captions/NAME.md beside it. DdrsError if a file or caption is missing."""
    for file in files:
        if file.suffix not in (".md", ".png"):
            raise DdrsError(f"{file}: only .md tables and .png figures are published")
        require(file, "result")
        if file.suffix == ".png":
            require(_caption(file), "caption")
    for file in files:
        with atomic(out_dir / file.name) as temporary:
            shutil.copyfile(file, temporary)
    lines = ["# Results", "", f"Published {datetime.now(UTC):%Y-%m-%d} with `{config.name}` (SHA-256 `{file_digest(config)[:16]}`).", ""]
    for file in files:
        if file.suffix == ".md":
            lines += [file.read_text(encoding="utf-8").rstrip(), ""]
        else:
            lines += [f"![{file.stem}]({file.name})", "", _caption(file).read_text(encoding="utf-8").rstrip(), ""]
    write_text(out_dir / "README.md", "\n".join(lines))


def _caption(figure: Path) -> Path:
    return figure.parent / "captions" / f"{figure.stem}.md"
