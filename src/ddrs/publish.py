"""What a reader should see without running anything: tables and figures of a finished run, copied into git."""

import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from ddrs.errors import DdrsError
from ddrs.files import atomic, require, write_text
from ddrs.provenance import file_digest


def publish(files: Sequence[Path], config: Path, out_dir: Path) -> None:
    """Copy Markdown tables and PNG figures into a folder, with an index that gives the config's digest and the date."""
    for file in files:
        if file.suffix not in (".md", ".png"):
            raise DdrsError(f"{file}: only .md tables and .png figures are published")
        require(file, "result")
    for file in files:
        with atomic(out_dir / file.name) as temporary:
            shutil.copyfile(file, temporary)
    lines = ["# Results", "", f"Published {datetime.now(UTC):%Y-%m-%d} with `{config.name}` (SHA-256 `{file_digest(config)[:16]}`).", ""]
    for file in files:
        if file.suffix == ".md":
            lines += [file.read_text(encoding="utf-8").rstrip(), ""]
        else:
            lines += [f"![{file.stem}]({file.name})", ""]
    write_text(out_dir / "README.md", "\n".join(lines))
