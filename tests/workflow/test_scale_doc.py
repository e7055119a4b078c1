"""docs/scale.md prints what `ddrs plan` says of the paper's experiment."""

from collections.abc import Callable
from pathlib import Path

import pytest
from running import ROOT

PAGE = ROOT / "docs" / "scale.md"
COMMAND = ("plan", "paper", "--configfile", "configs/paper.yaml", "--on", "h200", "--on", "a100")


@pytest.mark.usefixtures("plan_here")
def test_the_gpu_hours_are_those_of_the_command(
    ddrs_cli: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without data and without a GPU."""
    page = PAGE.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    code, out, err = ddrs_cli(*(ROOT / word if word.startswith("configs/") else word for word in COMMAND), "--snakefile", ROOT / "Snakefile")
    assert (code, err) == (0, "")
    assert f"ddrs {' '.join(COMMAND)}\n" in page
    assert "\n".join(line.rstrip() for line in out.splitlines()) in page
